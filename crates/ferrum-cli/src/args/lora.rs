//! Adapters on the command line.

use std::path::{Path, PathBuf};

use clap::Args;
use ferrum_models::LoraSource;

use super::names::{named, stem};

/// Adapters for a model that is used alone.
#[derive(Debug, Clone, Args)]
pub struct LoraArgs {
    /// LoRA adapter: a folder from PEFT, or a GGUF file; =SCALE changes its strength. Several are added
    /// up
    #[arg(long, value_name = "PATH[=SCALE]", help_heading = "Model options")]
    pub lora: Vec<String>,
}

impl LoraArgs {
    /// What the loader takes.
    pub fn sources(&self) -> Vec<LoraSource> {
        self.lora.iter().map(|word| source(word)).collect()
    }
}

/// `PATH[=SCALE]`. A path that is there is taken as it is, whatever it looks like.
pub fn source(word: &str) -> LoraSource {
    let whole = || LoraSource { path: PathBuf::from(word), scale: 1.0 };
    if Path::new(word).exists() {
        return whole();
    }
    let parts = word.rsplit_once('=').and_then(|(path, scale)| Some((path, scale.parse().ok()?)));
    parts.map_or_else(whole, |(path, scale)| LoraSource { path: PathBuf::from(path), scale })
}

/// `[NAME=]PATH[=SCALE]`: without a name, the adapter is called as its file is.
pub fn named_source(word: &str) -> (String, LoraSource) {
    let own = source(word);
    match named(word) {
        (Some(name), rest) if !own.path.exists() => (name.to_string(), source(rest)),
        _ => {
            let name = stem(&own.path);
            (name.unwrap_or_else(|| own.path.to_string_lossy().into_owned()), own)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_paths_and_scales() {
        let folder = tempfile::tempdir().unwrap();
        let odd = folder.path().join("a=0.5");
        std::fs::create_dir(&odd).unwrap();
        let text = |path: &Path| path.to_str().unwrap().to_string();
        let of = |word: &str| (source(word).path.to_str().unwrap().to_string(), source(word).scale);
        assert_eq!(of("a/b"), ("a/b".into(), 1.0));
        assert_eq!(of("a/b=0.5"), ("a/b".into(), 0.5));
        assert_eq!(of("a/b=-2"), ("a/b".into(), -2.0));
        assert_eq!(of("a=b"), ("a=b".into(), 1.0));
        assert_eq!(of(&text(&odd)), (text(&odd), 1.0), "it is there");
        assert_eq!(of(&format!("{}=2", text(&odd))), (text(&odd), 2.0));

        let named = |word: &str| {
            let (name, source) = named_source(word);
            (name, source.path.to_str().unwrap().to_string(), source.scale)
        };
        let path = text(folder.path());
        let own = folder.path().file_name().unwrap().to_str().unwrap().to_string();
        assert_eq!(named(&path), (own.clone(), path.clone(), 1.0));
        assert_eq!(named(&format!("{path}=3")), (own, path.clone(), 3.0));
        assert_eq!(named(&format!("x={path}")), ("x".into(), path.clone(), 1.0));
        assert_eq!(named(&format!("x={path}=0.25")), ("x".into(), path, 0.25));
        assert_eq!(named(&text(&odd)), ("a=0.5".into(), text(&odd), 1.0));
        // Neither is there: the error will name what was meant.
        assert_eq!(named("x=nowhere"), ("x".into(), "nowhere".into(), 1.0));
    }
}
