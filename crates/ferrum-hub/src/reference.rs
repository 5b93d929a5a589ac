//! How a model is named: a path, an alias, or a repository of the hub.

use std::path::{Path, PathBuf};

use crate::catalogue::{self, Entry};
use crate::error::{HubError, Result};

/// A model, named but perhaps not here yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelRef {
    /// A file or folder of the user.
    Path(PathBuf),
    /// A model of the catalogue.
    Catalogue(&'static Entry),
    /// A model in a hub repository.
    Hub {
        /// `owner/repo`.
        repo: String,
        /// A branch, a tag or a commit; `main` where none is named.
        revision: Option<String>,
        /// Which of its files.
        selector: Selector,
    },
}

/// Which files of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selector {
    /// The folder of a model (`config.json` and safetensors) if the repository is one; otherwise the
    /// only GGUF file, or the one quantised as `Q4_K_M`.
    Default,
    /// The file quantised so, such as `Q4_K_M`.
    Quant(String),
    /// The file of this path in the repository.
    File(String),
}

impl ModelRef {
    /// Reads a name. In this order it is
    ///
    /// 1. an alias of the catalogue;
    /// 2. a path, if a file of that name exists, a folder with a `config.json`, or if it starts like a
    ///    path (`/`, `./`, `../`, `~/`);
    /// 3. `owner/repo`, `owner/repo:QUANT` or `owner/repo/…/file.gguf` on the hub, perhaps followed
    ///    by `@` and a revision (a branch, a tag or a commit);
    /// 4. a path, if it ends in `.gguf` (the file is then missing);
    /// 5. otherwise [`HubError::UnknownModel`].
    pub fn parse(text: &str) -> Result<Self> {
        if let Some(entry) = catalogue::find(text) {
            return Ok(ModelRef::Catalogue(entry));
        }
        let path = Path::new(text);
        let starts_like_path =
            path.is_absolute() || ["./", "../", "~/", ".\\"].iter().any(|p| text.starts_with(p));
        let exists = path.is_file() || path.join("config.json").is_file();
        if starts_like_path || exists {
            return Ok(ModelRef::Path(path.to_path_buf()));
        }
        if let Some(reference) = parse_repository(text)? {
            return Ok(reference);
        }
        if is_gguf_name(text) {
            return Ok(ModelRef::Path(path.to_path_buf()));
        }
        Err(HubError::UnknownModel { text: text.to_string(), known: catalogue::names() })
    }
}

impl std::fmt::Display for ModelRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ModelRef::Path(path) => write!(f, "{}", path.display()),
            ModelRef::Catalogue(entry) => f.write_str(entry.name()),
            ModelRef::Hub { repo, revision, selector } => {
                match selector {
                    Selector::Default => f.write_str(repo)?,
                    Selector::Quant(quant) => write!(f, "{repo}:{quant}")?,
                    Selector::File(file) => write!(f, "{repo}/{file}")?,
                }
                revision.iter().try_for_each(|revision| write!(f, "@{revision}"))
            }
        }
    }
}

fn parse_repository(text: &str) -> Result<Option<ModelRef>> {
    let (text, revision) = match text.split_once('@') {
        Some((name, revision)) => (name, Some(revision)),
        None => (text, None),
    };
    if revision.is_some_and(|revision| !is_revision(revision)) {
        return Ok(None);
    }
    let revision = revision.map(str::to_string);
    let mut parts = text.splitn(3, '/');
    let (Some(owner), Some(second), rest) = (parts.next(), parts.next(), parts.next()) else {
        return Ok(None);
    };
    let (name, quant) = match second.split_once(':') {
        Some((name, quant)) => (name, Some(quant)),
        None => (second, None),
    };
    if !is_hub_name(owner) || !is_hub_name(name) {
        return Ok(None);
    }
    let repo = format!("{owner}/{name}");
    let selector = match (quant, rest) {
        (None, None) if is_gguf_name(name) => return Ok(None),
        (None, None) => Selector::Default,
        (Some(quant), None) if is_hub_name(quant) => Selector::Quant(quant.to_string()),
        (None, Some(file)) if is_gguf_name(file) => {
            safe_relative_path(file)?;
            Selector::File(file.to_string())
        }
        _ => return Ok(None),
    };
    Ok(Some(ModelRef::Hub { repo, revision, selector }))
}

/// Whether a text can be a branch, a tag or a commit: also as a path, under which caches keep it.
fn is_revision(text: &str) -> bool {
    let plain = |part: &str| {
        !part.is_empty()
            && !part.starts_with('.')
            && !part.ends_with('.')
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.+".contains(&b))
    };
    text.len() <= 200 && text.split('/').all(plain)
}

/// Whether a revision is a commit, as git names it: it always means the same files.
pub(crate) fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// Letters, digits, `-`, `_` and `.`, not starting with a dot: what the hub allows in names.
fn is_hub_name(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 96
        && !text.starts_with('.')
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
}

/// Whether the name ends in `.gguf`.
pub(crate) fn is_gguf_name(text: &str) -> bool {
    text.len() > 5 && text.to_ascii_lowercase().ends_with(".gguf")
}

/// A path that a server gave, held to be a plain relative path that stays inside its folder on
/// every platform.
pub fn safe_relative_path(name: &str) -> Result<PathBuf> {
    let refuse = |why| Err(HubError::BadFileName { name: name.escape_default().to_string(), why });
    if name.len() > 512 {
        return refuse("it is too long");
    }
    let mut path = PathBuf::new();
    for part in name.split('/') {
        if part.is_empty() || part.starts_with('.') {
            return refuse("it has an empty or hidden component, or points outside its folder");
        }
        if part.ends_with('.') || part.ends_with(' ') {
            return refuse("a component ends in a dot or a space");
        }
        if part.chars().any(|c| c.is_control() || "\\:*?\"<>|".contains(c)) {
            return refuse("it has a character that file names cannot have everywhere");
        }
        path.push(part);
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hub(repo: &str, selector: Selector) -> ModelRef {
        ModelRef::Hub { repo: repo.into(), revision: None, selector }
    }

    #[test]
    fn names_are_told_apart() {
        let parse = |text| ModelRef::parse(text).unwrap();
        assert!(matches!(parse("smollm2"), ModelRef::Catalogue(e) if e.name() == "smollm2"));
        assert!(matches!(parse("gemma3:270m"), ModelRef::Catalogue(e) if e.name() == "gemma3"));
        assert_eq!(parse("o/r"), hub("o/r", Selector::Default));
        assert_eq!(parse("o/r:Q4_K_M"), hub("o/r", Selector::Quant("Q4_K_M".into())));
        assert_eq!(parse("o/r/a.gguf"), hub("o/r", Selector::File("a.gguf".into())));
        assert_eq!(parse("o/r/d/a.gguf"), hub("o/r", Selector::File("d/a.gguf".into())));
        for path in ["missing.gguf", "dir/missing.gguf", "./x", "/no/such", "../m.bin", "~/m"] {
            assert_eq!(parse(path), ModelRef::Path(path.into()), "{path}");
        }
        let existing = "Cargo.toml";
        assert_eq!(parse(existing), ModelRef::Path(existing.into()));
    }

    #[test]
    fn revisions_follow_the_name() {
        let parse = |text| ModelRef::parse(text).unwrap();
        for (text, wanted, chosen) in [
            ("o/r@v1.0", "v1.0", Selector::Default),
            ("o/r@refs/pr/1", "refs/pr/1", Selector::Default),
            ("o/r:Q8_0@main", "main", Selector::Quant("Q8_0".into())),
            ("o/r/d/a.gguf@main", "main", Selector::File("d/a.gguf".into())),
        ] {
            let ModelRef::Hub { repo, revision, selector } = parse(text) else { panic!("{text}") };
            assert_eq!(repo, "o/r");
            assert_eq!((revision.as_deref(), selector), (Some(wanted), chosen));
            assert_eq!(parse(text).to_string(), text);
        }
        for text in ["o/r@", "o/r@a/../b", "o/r@/a", "o/r@a//b", "o/r@a b", "o/r@.git", "o/r@a@b"] {
            assert!(ModelRef::parse(text).is_err(), "{text}");
        }
        assert!(
            is_commit(&"0a".repeat(20)) && !is_commit(&"0A".repeat(20)) && !is_commit("c0ffee")
        );
    }

    #[test]
    fn prompts_are_not_names() {
        for text in ["Hello", "Why is the sky blue?", "Explain TCP/IP to me", "", "a/b/c", "x/y:"] {
            let got = ModelRef::parse(text);
            assert!(matches!(got, Err(HubError::UnknownModel { .. })), "{text}: {got:?}");
        }
    }

    #[test]
    fn names_that_leave_the_folder_are_refused() {
        for name in [
            "../a.gguf",
            "a/../../b.gguf",
            "/etc/passwd",
            "a//b.gguf",
            "",
            ".hidden.gguf",
            "a/./b",
            "c:\\x.gguf",
            "a\\..\\b.gguf",
            "a\0.gguf",
            "nul\n.gguf",
            "a/b.gguf ",
            "a/b.",
        ] {
            assert!(safe_relative_path(name).is_err(), "{name:?}");
        }
        assert_eq!(safe_relative_path("Q4/a-b_c.gguf").unwrap(), PathBuf::from("Q4/a-b_c.gguf"));
        assert!(ModelRef::parse("o/r/../../x.gguf").is_err());
    }
}
