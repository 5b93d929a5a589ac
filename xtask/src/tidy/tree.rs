//! Rules for files of any kind.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::Finding;

/// No weights and no other bulk in the repository.
const MAX_FILE_BYTES: u64 = 400_000;

/// Files that git tracks, and new ones that it does not ignore, relative to `root`.
pub(super) fn tracked_files(root: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(root)
        .output()
        .context("git ls-files")?;
    ensure!(output.status.success(), "git ls-files failed");
    let names = String::from_utf8(output.stdout)?;
    let files = names.lines().map(PathBuf::from).filter(|f| root.join(f).is_file());
    Ok(files.collect())
}

/// Sizes, and paths of somebody's machine in files that people read.
pub(super) fn check(root: &Path, files: &[PathBuf]) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for file in files {
        let place = file.display().to_string();
        let bytes = std::fs::metadata(root.join(file))?.len();
        if bytes > MAX_FILE_BYTES {
            let what = format!("{bytes} bytes; at most {MAX_FILE_BYTES} are committed");
            findings.push(Finding { place: place.clone(), what });
        }
        let Ok(text) = std::fs::read_to_string(root.join(file)) else { continue };
        for (i, line) in text.lines().enumerate() {
            if has_machine_path(line) {
                let place = format!("{place}:{}", i + 1);
                findings.push(Finding { place, what: "a path of one machine".into() });
            }
        }
    }
    Ok(findings)
}

/// Whether a line names a home or work folder.
fn has_machine_path(line: &str) -> bool {
    ["root", "home", "work", "Users"].iter().any(|folder| {
        let needle = format!("/{folder}/");
        line.match_indices(&needle).any(|(at, _)| {
            // `a/work/b` is a relative path or an address, `~/work/` somebody's own choice.
            let before = line[..at].chars().next_back();
            before.is_none_or(|c| c.is_whitespace() || "\"'`(=:".contains(c))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::has_machine_path;

    #[test]
    fn finds_absolute_folders_only() {
        assert!(has_machine_path(&format!("see /{}/notes", "root")));
        assert!(has_machine_path(&format!("\"/{}/x\"", "work")));
        assert!(!has_machine_path("crates/work/file"));
        assert!(!has_machine_path("the root / of work"));
    }
}
