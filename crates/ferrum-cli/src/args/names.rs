//! Names on the command line: those that the user gives, and those of files.

use std::path::Path;

/// A name of the user's own before `=`, where there is one, and what it names. A path may contain `=`.
pub fn named(word: &str) -> (Option<&str>, &str) {
    match word.split_once('=') {
        Some((name, rest))
            if !name.is_empty() && !name.contains(['/', '\\']) && !Path::new(word).exists() =>
        {
            (Some(name), rest)
        }
        _ => (None, word),
    }
}

/// What a folder is called, or a file without its extension.
pub fn stem(path: &Path) -> Option<String> {
    let stem = if path.is_dir() { path.file_name() } else { path.file_stem() };
    stem.map(|stem| stem.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_before_models() {
        assert_eq!(named("smollm2"), (None, "smollm2"));
        assert_eq!(named("fast=smollm2"), (Some("fast"), "smollm2"));
        assert_eq!(named("big=./a=b.gguf"), (Some("big"), "./a=b.gguf"));
        assert_eq!(named("./a=b.gguf"), (None, "./a=b.gguf"));
        assert_eq!(named("=x"), (None, "=x"));
    }

    #[test]
    fn names_of_files_and_folders() {
        let folder = tempfile::tempdir().unwrap();
        let model = folder.path().join("model-1.5");
        assert_eq!(stem(&model).as_deref(), Some("model-1"));
        std::fs::create_dir(&model).unwrap();
        assert_eq!(stem(&model).as_deref(), Some("model-1.5"));
    }
}
