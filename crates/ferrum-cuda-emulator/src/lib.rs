//! A **test double**: an emulated CUDA driver, NVRTC, NCCL and cuBLASLt for test processes, so that CUDA host code
//! and kernels run, unchanged, on a machine without a GPU. It is no product code; see `README.md`
//! for what it emulates, what it catches, and what it cannot tell.
//!
//! ```no_run
//! ferrum_cuda_emulator::load().unwrap();
//! // From here on cudarc finds the emulated libraries instead of NVIDIA's.
//! ```

mod build;
mod library;

use std::path::PathBuf;
use std::sync::OnceLock;

/// In which order a device runs blocks, warps and lanes. Kernels whose results depend on it have a
/// race, most often a missing barrier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Schedule {
    /// Ascending.
    Forward,
    /// Descending.
    Reverse,
    /// Shuffled, by the same numbers in every launch.
    Random,
}

/// The number of emulated devices, of 8 GiB each and compute capability 8.0, but for [`WITH_FP8`].
pub const DEVICES: usize = 9;

/// One device of each schedule: forward, reverse, random.
pub const ONE_OF_EACH_SCHEDULE: [usize; 3] = [0, 2, 4];

/// Those of compute capability 9.0, in the same order.
pub const WITH_FP8: [usize; 3] = [6, 7, 8];

/// The schedule of a device: 0, 1 and 6 run forward, 2, 3 and 7 in reverse, 4, 5 and 8 at random.
///
/// # Panics
/// If there is no such device.
pub fn schedule(ordinal: usize) -> Schedule {
    match ordinal {
        0 | 1 | 6 => Schedule::Forward,
        2 | 3 | 7 => Schedule::Reverse,
        4 | 5 | 8 => Schedule::Random,
        _ => panic!("the emulator has no device {ordinal}"),
    }
}

/// Why the emulator could not be made available.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LoadError {
    /// The processor or operating system is another one.
    #[error("the CUDA emulator needs Linux on x86-64")]
    Platform,
    /// Building or loading it failed.
    #[error("the CUDA emulator: {0}")]
    Failed(String),
}

/// What can go wrong on the way.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("{path}: {error}")]
    File { path: PathBuf, error: std::io::Error },
    #[error("cannot run g++: {0}")]
    NoCompiler(std::io::Error),
    #[error("g++ failed:\n{0}")]
    Compile(String),
    #[error("cannot load a library: {0}")]
    Load(String),
}

/// Builds the emulator if need be and loads it, so that whoever asks the dynamic loader for
/// `libcuda.so`, `libnvrtc.so`, `libnccl.so` or `libcublasLt.so` gets it. Call it before anything looks for CUDA; more calls do
/// nothing. Processes and threads may do so at the same time.
///
/// # Errors
/// If the platform is not supported, or g++ is missing or fails.
pub fn load() -> Result<(), LoadError> {
    load_libraries(true)
}

/// The same without NCCL, for a process that has not called [`load`].
///
/// # Errors
/// As with [`load`].
pub fn load_without_nccl() -> Result<(), LoadError> {
    load_libraries(false)
}

fn load_libraries(nccl: bool) -> Result<(), LoadError> {
    static LOADED: OnceLock<Result<(), LoadError>> = OnceLock::new();
    LOADED
        .get_or_init(|| {
            if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
                return Err(LoadError::Platform);
            }
            let built = build::build().map_err(|e| LoadError::Failed(e.to_string()))?;
            library::load(&built, nccl).map_err(|e| LoadError::Failed(e.to_string()))
        })
        .clone()
}

/// Leaves a device as a kernel does that touches what is not its own: every call on it fails from now
/// on, until nobody holds it.
pub fn break_device(ordinal: usize) {
    library::break_device(ordinal);
}

/// What the first error was that a device's context still suffers from: the kernel, block and
/// thread, and what they did. `None` if it is well, or nothing is loaded.
pub fn failure(ordinal: usize) -> Option<String> {
    library::failure(ordinal)
}
