//! The engines that Ferrum is measured beside: packages that a virtual environment gets.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::command::output;

/// An engine that runs the same file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Peer {
    /// Built for this processor.
    Llama,
    /// A binary package; it makes a graph of its own from a GGUF file of the llama, qwen2 or qwen3
    /// architecture.
    Openvino,
}

impl Peer {
    pub(super) const ALL: [Peer; 2] = [Peer::Llama, Peer::Openvino];

    /// On the command line and in tables.
    pub(super) fn name(self) -> &'static str {
        match self {
            Peer::Llama => "llama.cpp",
            Peer::Openvino => "openvino",
        }
    }

    /// Name and version of its package.
    pub(super) fn package(self) -> (&'static str, &'static str) {
        match self {
            Peer::Llama => ("llama-cpp-python", "0.3.36"),
            Peer::Openvino => ("openvino-genai", "2026.4.1.0"),
        }
    }

    /// What measures it, in `tools/bench`.
    pub(super) fn script(self) -> &'static str {
        match self {
            Peer::Llama => "llama.py",
            Peer::Openvino => "openvino_peer.py",
        }
    }

    /// What the heading of a run says of it.
    pub(super) fn describe(self) -> String {
        let (name, version) = self.package();
        let how = match self {
            Peer::Llama => {
                "built for this processor where this command does it, with flash attention"
            }
            Peer::Openvino => "from the same GGUF file",
        };
        format!("{} is {name} {version}, {how} and an f16 KV cache, as Ferrum's.", self.name())
    }

    /// Whether an interpreter has the package in this version.
    pub(super) fn check(self, python: &Path) -> Result<()> {
        let (name, wanted) = self.package();
        let probe = format!("from importlib.metadata import version; print(version('{name}'))");
        let found = output(Command::new(python).args(["-c", &probe]))
            .with_context(|| format!("{} has no {name}", python.display()))?;
        ensure!(found.trim() == wanted, "{name} {}, not {wanted}", found.trim());
        Ok(())
    }

    /// Brings the package into a virtual environment, if it is not there.
    pub(super) fn install(self, python: &Path) -> Result<()> {
        if self.check(python).is_ok() {
            return Ok(());
        }
        let (name, version) = self.package();
        let mut pip = Command::new(python);
        if self == Peer::Llama {
            println!("building {name} {version}; this takes some minutes");
            let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
            pip.env("CMAKE_ARGS", llama_options(&cpu)).env("FORCE_CMAKE", "1");
        }
        output(pip.args(["-m", "pip", "install", "--quiet", &format!("{name}=={version}")]))?;
        Ok(())
    }
}

/// How to build llama.cpp for a processor, as `/proc/cpuinfo` tells of it: for what it has, but without
/// AMX, whose kernels in the version that we compare with end with a fault on the first prompt.
fn llama_options(cpu: &str) -> String {
    if !cpu.contains("amx_tile") {
        return "-DGGML_NATIVE=ON".into();
    }
    // What every processor with AMX has.
    let sets = [
        "SSE42",
        "AVX",
        "AVX2",
        "FMA",
        "F16C",
        "BMI2",
        "AVX_VNNI",
        "AVX512",
        "AVX512_VBMI",
        "AVX512_VNNI",
        "AVX512_BF16",
    ];
    let sets = sets.map(|set| format!(" -DGGML_{set}=ON"));
    format!("-DGGML_NATIVE=OFF{}", sets.concat())
}
