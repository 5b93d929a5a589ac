//! The settings of this crate, read from the environment once and passed in from there on.

use std::ffi::OsString;
use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::{HubError, Result};

/// The hub's address where none is configured.
const HUB_ENDPOINT: &str = "https://huggingface.co";
/// The most that is read of a token's file.
const MAX_TOKEN: u64 = 4096;

/// All settings.
#[derive(Clone)]
pub struct HubConfig {
    /// The folder of the catalogue's models, and of hub files downloaded by earlier versions.
    pub models_dir: PathBuf,
    /// The cache of the hub's files, which other tools share (`HF_HUB_CACHE`, `HF_HOME`).
    pub hub_cache: PathBuf,
    /// The network is not used (`HF_HUB_OFFLINE`).
    pub offline: bool,
    /// The hub's address, without a slash at the end (`HF_ENDPOINT`).
    pub hub_endpoint: String,
    /// The hub's access token (`HF_TOKEN`, or the file that `hf auth login` writes); sent to the hub
    /// only.
    pub hub_token: Option<String>,
    /// The address of a package index that speaks the Simple Repository API (`PIP_INDEX_URL`).
    pub package_index: Option<String>,
    /// Command lines by which `pip` may be called, tried in turn.
    pub pip_commands: Vec<Vec<String>>,
    /// The proxy (`HTTPS_PROXY`, `ALL_PROXY`, `NO_PROXY`).
    pub proxy: Option<ureq::Proxy>,
    /// How patient the network code is.
    pub network: NetworkLimits,
}

/// How patient the network code is.
#[derive(Debug, Clone, Copy)]
pub struct NetworkLimits {
    /// To find a host's address and, again, to connect to it.
    pub connect: Duration,
    /// From the request to the first byte of the answer.
    pub response: Duration,
    /// Without a single byte during a transfer.
    pub stall: Duration,
    /// For `pip` to say where a package is.
    pub pip: Duration,
    /// Failures in a row, without a new byte, after which a transfer is given up.
    pub attempts: u32,
    /// The pause after the first failure; doubled after each further one.
    pub backoff: Duration,
}

impl Default for NetworkLimits {
    fn default() -> Self {
        NetworkLimits {
            connect: Duration::from_secs(5),
            response: Duration::from_secs(20),
            stall: Duration::from_secs(30),
            pip: Duration::from_secs(90),
            attempts: 5,
            backoff: Duration::from_millis(500),
        }
    }
}

impl NetworkLimits {
    /// How long to wait after so many failures in a row.
    pub(crate) fn pause(&self, failures: u32) -> Duration {
        self.backoff.saturating_mul(2u32.saturating_pow(failures.saturating_sub(1)))
    }
}

impl HubConfig {
    /// The settings that this process's environment gives.
    pub fn from_process_env() -> Result<Self> {
        let mut config = Self::from_vars(|name| std::env::var_os(name))?;
        config.proxy = ureq::Proxy::try_from_env();
        Ok(config)
    }

    /// The settings that `var` gives for the names `FERRUM_HOME`, `XDG_DATA_HOME`, `XDG_CACHE_HOME`,
    /// `HOME`, `LOCALAPPDATA`, `USERPROFILE`, `PIP_INDEX_URL` and those of the hub's own tools
    /// (`HF_…`, `HUGGING…`, `TRANSFORMERS_OFFLINE`); no proxy. Reads the token's file if no variable
    /// gives the token.
    pub fn from_vars(var: impl Fn(&str) -> Option<OsString>) -> Result<Self> {
        let text = |name: &'static str| match var(name).filter(|v| !v.is_empty()) {
            None => Ok(None),
            Some(value) => value
                .into_string()
                .map(Some)
                .map_err(|_| HubError::Config { setting: name, why: "is not valid UTF-8".into() }),
        };
        let endpoint = text("HF_ENDPOINT")?.unwrap_or_else(|| HUB_ENDPOINT.into());
        let hub_home = hub_home(&var)?;
        let token = text("HF_TOKEN")?.or(text("HUGGING_FACE_HUB_TOKEN")?);
        let token_file = path(&var, "HF_TOKEN_PATH").unwrap_or_else(|| hub_home.join("token"));
        let hub_token = match token.as_deref().and_then(cleaned_token) {
            Some(token) => Some(token),
            None => read_token(&token_file),
        };
        let offline = text("HF_HUB_OFFLINE")?.or(text("TRANSFORMERS_OFFLINE")?);
        Ok(HubConfig {
            models_dir: home(&var)?.join("models"),
            hub_cache: path(&var, "HF_HUB_CACHE")
                .or_else(|| path(&var, "HUGGINGFACE_HUB_CACHE"))
                .unwrap_or_else(|| hub_home.join("hub")),
            offline: offline.is_some_and(|value| is_true(&value)),
            hub_endpoint: checked_address("HF_ENDPOINT", &endpoint)?,
            hub_token,
            package_index: text("PIP_INDEX_URL")?
                .map(|url| checked_address("PIP_INDEX_URL", &url))
                .transpose()?,
            pip_commands: default_pip_commands(),
            proxy: None,
            network: NetworkLimits::default(),
        })
    }

    /// Sets the package index from an option of the command line.
    pub fn set_package_index(&mut self, url: &str) -> Result<()> {
        self.package_index = Some(checked_address("--package-index", url)?);
        Ok(())
    }
}

/// Tokens and passwords stay out of debug output.
impl fmt::Debug for HubConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HubConfig")
            .field("models_dir", &self.models_dir)
            .field("hub_cache", &self.hub_cache)
            .field("offline", &self.offline)
            .field("hub_endpoint", &crate::http::shown(&self.hub_endpoint))
            .field("hub_token", &self.hub_token.as_ref().map(|_| "…"))
            .field("package_index", &self.package_index.as_deref().map(crate::http::shown))
            .field("network", &self.network)
            .finish_non_exhaustive()
    }
}

fn default_pip_commands() -> Vec<Vec<String>> {
    [&["python3", "-m", "pip"][..], &["python", "-m", "pip"], &["pip3"], &["pip"]]
        .iter()
        .map(|words| words.iter().map(|w| w.to_string()).collect())
        .collect()
}

/// The path that a variable gives; `~/` at its front is the user's home.
fn path(var: &impl Fn(&str) -> Option<OsString>, name: &str) -> Option<PathBuf> {
    let path = var(name).filter(|v| !v.is_empty()).map(PathBuf::from)?;
    match (path.strip_prefix("~"), user_home(var)) {
        (Ok(rest), Some(home)) => Some(home.join(rest)),
        _ => Some(path),
    }
}

fn user_home(var: &impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let of = |name| var(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    of("HOME").or_else(|| of("USERPROFILE").filter(|_| cfg!(windows)))
}

/// `FERRUM_HOME`, or the platform's folder for a user's application data.
fn home(var: &impl Fn(&str) -> Option<OsString>) -> Result<PathBuf> {
    if let Some(home) = path(var, "FERRUM_HOME") {
        return Ok(home);
    }
    // The XDG specification says that relative paths are to be ignored.
    if let Some(data) = path(var, "XDG_DATA_HOME").filter(|p| p.is_absolute()) {
        return Ok(data.join("ferrum"));
    }
    if let Some(data) = path(var, "LOCALAPPDATA").filter(|_| cfg!(windows)) {
        return Ok(data.join("ferrum"));
    }
    let data =
        if cfg!(target_os = "macos") { "Library/Application Support" } else { ".local/share" };
    user_home(var).map(|home| home.join(data).join("ferrum")).ok_or(HubError::Config {
        setting: "FERRUM_HOME",
        why: "is not set, and neither is HOME: there is no folder for models".into(),
    })
}

/// The folder of the hub's own tools, as `huggingface_hub` finds it. Where there is no user's home
/// it lies beside the models.
fn hub_home(var: &impl Fn(&str) -> Option<OsString>) -> Result<PathBuf> {
    if let Some(home) = path(var, "HF_HOME") {
        return Ok(home);
    }
    if let Some(cache) = path(var, "XDG_CACHE_HOME") {
        return Ok(cache.join("huggingface"));
    }
    match user_home(var) {
        Some(user) => Ok(user.join(".cache").join("huggingface")),
        None => Ok(home(var)?.join("huggingface")),
    }
}

/// What `huggingface_hub` takes for yes.
fn is_true(value: &str) -> bool {
    ["1", "ON", "YES", "TRUE"].contains(&value.to_ascii_uppercase().as_str())
}

/// The token in a file, if there is one that can be read: a model on the disk needs none.
fn read_token(path: &Path) -> Option<String> {
    let mut text = String::new();
    let file = std::fs::File::open(path).ok()?;
    file.take(MAX_TOKEN).read_to_string(&mut text).ok()?;
    cleaned_token(&text)
}

/// Without what cannot stand in a header; `None` where nothing is left.
fn cleaned_token(text: &str) -> Option<String> {
    let text = text.trim();
    let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic());
    plain.then(|| text.to_string())
}

fn checked_address(setting: &'static str, url: &str) -> Result<String> {
    let url = url.trim().trim_end_matches('/');
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
    match rest {
        Some(rest) if !rest.is_empty() && !rest.starts_with('/') => Ok(url.to_string()),
        _ => Err(HubError::Config {
            setting,
            why: "is not an address that starts with https:// or http://".into(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(vars: &[(&str, &str)]) -> Result<HubConfig> {
        HubConfig::from_vars(|name| {
            vars.iter().find(|(n, _)| *n == name).map(|(_, value)| OsString::from(value))
        })
    }

    #[test]
    fn the_store_follows_the_environment() {
        let dir = |vars: &[(&str, &str)]| config(vars).unwrap().models_dir;
        let home = ("HOME", "/h/u");
        assert_eq!(dir(&[("FERRUM_HOME", "/f"), home]), PathBuf::from("/f/models"));
        assert_eq!(dir(&[("XDG_DATA_HOME", "/x"), home]), PathBuf::from("/x/ferrum/models"));
        assert!(dir(&[("XDG_DATA_HOME", "relative"), home]).starts_with("/h/u"));
        assert!(config(&[]).is_err());
    }

    #[test]
    fn the_hubs_cache_is_where_its_own_tools_have_it() {
        let cache = |vars: &[(&str, &str)]| config(vars).unwrap().hub_cache;
        let home = ("HOME", "/h/u");
        assert_eq!(cache(&[home]), PathBuf::from("/h/u/.cache/huggingface/hub"));
        assert_eq!(cache(&[home, ("XDG_CACHE_HOME", "/x")]), PathBuf::from("/x/huggingface/hub"));
        assert_eq!(cache(&[home, ("HF_HOME", "~/hf")]), PathBuf::from("/h/u/hf/hub"));
        let both = [home, ("HF_HOME", "/hf"), ("HUGGINGFACE_HUB_CACHE", "/old")];
        assert_eq!(cache(&both), PathBuf::from("/old"));
        assert_eq!(
            cache(&[both[0], both[1], both[2], ("HF_HUB_CACHE", "/c")]),
            PathBuf::from("/c")
        );
        assert_eq!(cache(&[("FERRUM_HOME", "/f")]), PathBuf::from("/f/huggingface/hub"));
        let offline = |value| config(&[home, ("HF_HUB_OFFLINE", value)]).unwrap().offline;
        assert!(offline("1") && offline("true") && offline("Yes"));
        assert!(!offline("0") && !offline("") && !offline("off"));
    }

    #[test]
    fn the_token_comes_from_the_environment_or_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("token");
        std::fs::write(&file, " hf_file\n").unwrap();
        let hub = ("HF_HOME", dir.path().to_str().unwrap());
        let home = ("HOME", "/h/u");
        let token = |vars: &[(&str, &str)]| config(vars).unwrap().hub_token;
        assert_eq!(token(&[home, hub]).as_deref(), Some("hf_file"));
        assert_eq!(token(&[home, hub, ("HF_TOKEN", "hf_var\n")]).as_deref(), Some("hf_var"));
        assert_eq!(token(&[home, hub, ("HF_TOKEN", "")]).as_deref(), Some("hf_file"));
        assert_eq!(token(&[home, hub, ("HF_TOKEN_PATH", "/no/such")]), None);
        std::fs::write(&file, "two\nlines").unwrap();
        assert_eq!(token(&[home, hub]), None);
    }

    #[test]
    fn addresses_are_checked_and_secrets_hidden() {
        let home = ("FERRUM_HOME", "/f");
        let c = config(&[home, ("HF_ENDPOINT", "https://mirror.example/"), ("HF_TOKEN", "hf_x")]);
        let c = c.unwrap();
        assert_eq!(c.hub_endpoint, "https://mirror.example");
        assert!(!format!("{c:?}").contains("hf_x"));
        let c = config(&[home, ("PIP_INDEX_URL", "https://u:secret@i.example/simple/")]).unwrap();
        assert!(!format!("{c:?}").contains("secret"));
        assert!(config(&[home, ("PIP_INDEX_URL", "ftp://x")]).is_err());
        assert!(config(&[home, ("HF_ENDPOINT", "https://")]).is_err());
    }
}
