//! The GGUF files of a repository, and which of them a selector means.

use std::collections::BTreeMap;

use crate::error::{HubError, Result};
use crate::reference::{Selector, is_gguf_name};

/// The quantisation that is taken where none is asked for and there is a choice.
const DEFAULT_QUANT: &str = "Q4_K_M";

/// The names that `selector` means among those of a repository (or of its folder in the store):
/// one file, or all parts of one split model.
pub(crate) fn select(repo: &str, names: &[&str], selector: &Selector) -> Result<Vec<String>> {
    let models = group_parts(names);
    let fail = |wanted: &str| HubError::NotInRepository {
        repo: repo.to_string(),
        wanted: wanted.to_string(),
        available: match models.len() {
            0 => "no GGUF file".to_string(),
            _ => models.keys().cloned().collect::<Vec<_>>().join(", "),
        },
    };
    let of_quant = |quant: &str| {
        let found: Vec<_> = models.iter().filter(|(stem, _)| has_quant(stem, quant)).collect();
        match found[..] {
            [(_, parts)] => Ok(parts.clone()),
            _ => Err(fail(quant)),
        }
    };
    let parts = match selector {
        Selector::Quant(quant) => of_quant(quant)?,
        Selector::Default if models.len() == 1 => models.values().flatten().cloned().collect(),
        Selector::Default => of_quant(DEFAULT_QUANT)?,
        Selector::File(file) => {
            models.values().find(|parts| parts.contains(file)).ok_or_else(|| fail(file))?.clone()
        }
    };
    match parts.first().and_then(|first| split_part(first)) {
        Some((_, _, count)) if parts.len() != count => Err(fail("all parts of the split model")),
        _ => Ok(parts),
    }
}

/// GGUF models by their name without `.gguf` and part number; projectors of vision models are no
/// models of their own.
fn group_parts(names: &[&str]) -> BTreeMap<String, Vec<String>> {
    let mut models: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for name in names.iter().filter(|n| is_gguf_name(n)) {
        let stem = match split_part(name) {
            Some((stem, _, _)) => stem,
            None => &name[..name.len() - ".gguf".len()],
        };
        if !base_name(stem).to_ascii_lowercase().starts_with("mmproj") {
            models.entry(stem.to_string()).or_default().push(name.to_string());
        }
    }
    models.values_mut().for_each(|parts| parts.sort());
    models
}

/// `stem-00001-of-00003.gguf`: the stem, the part and the count.
fn split_part(name: &str) -> Option<(&str, usize, usize)> {
    let rest = name.get(..name.len().checked_sub(".gguf".len())?)?;
    let (rest, count) = rest.rsplit_once("-of-")?;
    let (stem, part) = rest.rsplit_once('-')?;
    if part.len() != 5 || count.len() != 5 {
        return None;
    }
    Some((stem, part.parse().ok()?, count.parse().ok()?))
}

/// Whether a name ends in a quantisation: the whole word, so that `Q4_K` is not `Q4_K_M`.
fn has_quant(stem: &str, quant: &str) -> bool {
    let stem = base_name(stem).to_ascii_lowercase();
    let quant = quant.to_ascii_lowercase();
    match stem.strip_suffix(&quant) {
        Some(before) => before.is_empty() || before.ends_with(['-', '.', '_']),
        None => false,
    }
}

fn base_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: &[&str] = &[
        "README.md",
        "m-Q4_K.gguf",
        "m-Q4_K_M.gguf",
        "m.IQ4_XS.gguf",
        "mmproj-F16.gguf",
        "Q8_0/m-Q8_0-00001-of-00002.gguf",
        "Q8_0/m-Q8_0-00002-of-00002.gguf",
        "m-F16-00001-of-00002.gguf",
    ];

    fn pick(selector: Selector) -> Result<Vec<String>> {
        select("o/r", NAMES, &selector)
    }

    #[test]
    fn quantisations_are_whole_words() {
        let quant = |q: &str| pick(Selector::Quant(q.into()));
        assert_eq!(quant("q4_k").unwrap(), ["m-Q4_K.gguf"]);
        assert_eq!(quant("Q4_K_M").unwrap(), ["m-Q4_K_M.gguf"]);
        assert_eq!(quant("IQ4_XS").unwrap(), ["m.IQ4_XS.gguf"]);
        assert_eq!(quant("Q8_0").unwrap().len(), 2);
        assert_eq!(pick(Selector::Default).unwrap(), ["m-Q4_K_M.gguf"]);
        let error = quant("Q5_0").unwrap_err().to_string();
        assert!(error.contains("m.IQ4_XS") && !error.contains("mmproj"), "{error}");
        assert!(quant("K_M").is_ok(), "a suffix after a separator");
        assert!(quant("F16").is_err(), "a part is missing");
    }

    #[test]
    fn files_and_single_models() {
        let file = |f: &str| pick(Selector::File(f.into()));
        assert_eq!(file("m-Q4_K.gguf").unwrap(), ["m-Q4_K.gguf"]);
        assert_eq!(file("Q8_0/m-Q8_0-00002-of-00002.gguf").unwrap().len(), 2);
        assert!(file("README.md").is_err() && file("other.gguf").is_err());
        assert_eq!(select("o/r", &["a.gguf"], &Selector::Default).unwrap(), ["a.gguf"]);
        assert!(select("o/r", &["a.txt"], &Selector::Default).is_err());
    }
}
