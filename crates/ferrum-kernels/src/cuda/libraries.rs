//! NVIDIA's libraries beside the driver, as far as they are found.

use std::ffi::c_int;

use cudarc::{cublaslt, nccl};

use super::compile;

/// A library, and what it is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Library {
    /// Its maker's name for it.
    pub name: &'static str,
    /// `None` where it is not found.
    pub version: Option<String>,
    /// What is done without it.
    pub without: &'static str,
}

/// Every library that this backend makes use of.
pub fn libraries() -> [Library; 3] {
    let nvrtc = compile::version().ok().map(|(major, minor)| format!("{major}.{minor}"));
    [
        Library { name: "NVRTC", version: nvrtc, without: "nothing runs on cards" },
        Library {
            name: "cuBLASLt",
            version: cublaslt(),
            without: "dense and fp8 prompts are slower",
        },
        Library { name: "NCCL", version: nccl(), without: "cards cannot share a model" },
    ]
}

fn cublaslt() -> Option<String> {
    // SAFETY: loads a library of the system and lets it go again.
    if !unsafe { cublaslt::sys::is_culib_present() } {
        return None;
    }
    // SAFETY: may be called at any time.
    let number = unsafe { cublaslt::sys::cublasLtGetVersion() };
    Some(format!("{}.{}.{}", number / 10_000, number / 100 % 100, number % 100))
}

fn nccl() -> Option<String> {
    // SAFETY: as above.
    if !unsafe { nccl::sys::is_culib_present() } {
        return None;
    }
    let mut number: c_int = 0;
    // SAFETY: there to be written.
    let result = unsafe { nccl::sys::ncclGetVersion(&mut number) };
    let known = result == nccl::sys::ncclResult_t::ncclSuccess;
    known.then(|| format!("{}.{}.{}", number / 10_000, number / 100 % 100, number % 100))
}
