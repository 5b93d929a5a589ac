//! The settings of this crate, read from the environment once and passed in from there on.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::error::{HubError, Result};

/// The hub's address where none is configured.
const HUB_ENDPOINT: &str = "https://huggingface.co";

/// All settings.
#[derive(Clone)]
pub struct HubConfig {
    /// The folder of the model files.
    pub models_dir: PathBuf,
    /// The hub's address, without a slash at the end (`HF_ENDPOINT`).
    pub hub_endpoint: String,
    /// The hub's access token (`HF_TOKEN`); sent to the hub only.
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

impl HubConfig {
    /// The settings that this process's environment gives.
    pub fn from_process_env() -> Result<Self> {
        let mut config = Self::from_vars(|name| std::env::var_os(name))?;
        config.proxy = ureq::Proxy::try_from_env();
        Ok(config)
    }

    /// The settings that `var` gives for the names `FERRUM_HOME`, `XDG_DATA_HOME`, `HOME`,
    /// `LOCALAPPDATA`, `HF_ENDPOINT`, `HF_TOKEN` and `PIP_INDEX_URL`; no proxy.
    pub fn from_vars(var: impl Fn(&str) -> Option<OsString>) -> Result<Self> {
        let text = |name: &'static str| match var(name).filter(|v| !v.is_empty()) {
            None => Ok(None),
            Some(value) => value
                .into_string()
                .map(Some)
                .map_err(|_| HubError::Config { setting: name, why: "is not valid UTF-8".into() }),
        };
        let endpoint = text("HF_ENDPOINT")?.unwrap_or_else(|| HUB_ENDPOINT.into());
        Ok(HubConfig {
            models_dir: home(&var)?.join("models"),
            hub_endpoint: checked_address("HF_ENDPOINT", &endpoint)?,
            hub_token: text("HF_TOKEN")?,
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

/// `FERRUM_HOME`, or the platform's folder for a user's application data.
fn home(var: &impl Fn(&str) -> Option<OsString>) -> Result<PathBuf> {
    let path = |name| var(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    if let Some(home) = path("FERRUM_HOME") {
        return Ok(home);
    }
    // The XDG specification says that relative paths are to be ignored.
    if let Some(data) = path("XDG_DATA_HOME").filter(|p| p.is_absolute()) {
        return Ok(data.join("ferrum"));
    }
    if let Some(data) = path("LOCALAPPDATA").filter(|_| cfg!(windows)) {
        return Ok(data.join("ferrum"));
    }
    let data =
        if cfg!(target_os = "macos") { "Library/Application Support" } else { ".local/share" };
    path("HOME").map(|home| home.join(data).join("ferrum")).ok_or(HubError::Config {
        setting: "FERRUM_HOME",
        why: "is not set, and neither is HOME: there is no folder for models".into(),
    })
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
