//! Dependencies point one way: cli → server → engine → models → kernels.

use std::path::Path;

use anyhow::{Context, Result};

use super::Finding;

/// What each crate of ours may depend on.
const ALLOWED: &[(&str, &[&str])] = &[
    ("ferrum-kernels", &[]),
    ("ferrum-cuda-emulator", &[]),
    ("ferrum-hub", &[]),
    ("ferrum-models", &["ferrum-kernels"]),
    ("ferrum-engine", &["ferrum-models"]),
    ("ferrum-server", &["ferrum-engine", "ferrum-models"]),
    ("ferrum-cli", &["ferrum-server", "ferrum-engine", "ferrum-models", "ferrum-hub"]),
];

/// Reads the `[dependencies]` of each crate; tests may depend on anything.
pub(super) fn check(root: &Path) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for entry in std::fs::read_dir(root.join("crates"))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let place = format!("crates/{name}/Cargo.toml");
        let text = std::fs::read_to_string(root.join(&place)).with_context(|| place.clone())?;
        let Some((_, allowed)) = ALLOWED.iter().find(|(known, _)| *known == name) else {
            let what = "a crate without a place in xtask/src/tidy/layers.rs".into();
            findings.push(Finding { place, what });
            continue;
        };
        for dependency in own_dependencies(&text) {
            if !allowed.contains(&dependency.as_str()) {
                let what = format!("{name} must not depend on {dependency}");
                findings.push(Finding { place: place.clone(), what });
            }
        }
    }
    Ok(findings)
}

/// The `ferrum-*` keys of the `[dependencies]` table.
fn own_dependencies(manifest: &str) -> Vec<String> {
    let mut inside = false;
    let mut found = Vec::new();
    for line in manifest.lines() {
        if line.starts_with('[') {
            inside = line.trim() == "[dependencies]";
        } else if inside && line.starts_with("ferrum-") {
            let end = line.find(['.', ' ', '=']).unwrap_or(line.len());
            found.push(line[..end].to_string());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::own_dependencies;

    #[test]
    fn reads_only_the_dependencies_table() {
        let manifest = "[dependencies]\nferrum-models.workspace = true\nferrum-kernels = { path = \"x\" }\nserde = \"1\"\n\n[dev-dependencies]\nferrum-hub.workspace = true\n";
        assert_eq!(own_dependencies(manifest), ["ferrum-models", "ferrum-kernels"]);
    }
}
