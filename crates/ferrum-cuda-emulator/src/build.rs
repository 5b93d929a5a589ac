//! Compiles the emulator once for each version of its sources, into a cache below Cargo's target
//! folder.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::Error;

/// The emulated driver's sources: name and text.
const HOST: &[(&str, &str)] = &[
    ("../device/emulator_abi.h", include_str!("../device/emulator_abi.h")),
    ("driver.h", include_str!("../emulator/driver.h")),
    ("image.h", include_str!("../emulator/image.h")),
    ("nccl.h", include_str!("../emulator/nccl.h")),
    ("scheduler.h", include_str!("../emulator/scheduler.h")),
    ("api_device.cpp", include_str!("../emulator/api_device.cpp")),
    ("api_memory.cpp", include_str!("../emulator/api_memory.cpp")),
    ("copies.cpp", include_str!("../emulator/copies.cpp")),
    ("cublaslt.cpp", include_str!("../emulator/cublaslt.cpp")),
    ("faults.cpp", include_str!("../emulator/faults.cpp")),
    ("graphs.cpp", include_str!("../emulator/graphs.cpp")),
    ("memory.cpp", include_str!("../emulator/memory.cpp")),
    ("modules.cpp", include_str!("../emulator/modules.cpp")),
    ("nccl.cpp", include_str!("../emulator/nccl.cpp")),
    ("races.cpp", include_str!("../emulator/races.cpp")),
    ("reduce.cpp", include_str!("../emulator/reduce.cpp")),
    ("scheduler.cpp", include_str!("../emulator/scheduler.cpp")),
    ("tensor.cpp", include_str!("../emulator/tensor.cpp")),
    ("streams.cpp", include_str!("../emulator/streams.cpp")),
    ("nvrtc.cpp", include_str!("../emulator/nvrtc.cpp")),
];

/// What kernels include.
const DEVICE: &[(&str, &str)] = &[
    ("emulator.h", include_str!("../device/emulator.h")),
    ("emulator_abi.h", include_str!("../device/emulator_abi.h")),
    ("emulator_math.h", include_str!("../device/emulator_math.h")),
    ("emulator_ptx.h", include_str!("../device/emulator_ptx.h")),
    ("emulator_types.h", include_str!("../device/emulator_types.h")),
    ("emulator_warp.h", include_str!("../device/emulator_warp.h")),
];

/// The libraries carry the names that cudarc asks the loader for first.
pub(crate) const DRIVER: &str = "libcuda.so";
pub(crate) const NVRTC: &str = "libnvrtc.so";
pub(crate) const NCCL: &str = "libnccl.so";
pub(crate) const CUBLASLT: &str = "libcublasLt.so";

/// Where everything lies once it is built.
pub(crate) struct Built {
    /// The folder of the two libraries.
    pub libraries: PathBuf,
    /// The headers for kernels.
    pub device: PathBuf,
    /// For compiled kernels.
    pub modules: PathBuf,
}

/// The emulator of these sources, built unless it stands already.
pub(crate) fn build() -> Result<Built, Error> {
    let cache = cache_folder();
    // A cache may move to another machine, so the processor's part is in the name.
    let vector = if vector_flags().is_empty() { "plain" } else { "avx2" };
    let libraries = cache.join(format!("driver-{vector}-{:016x}", hash(HOST)));
    once(&libraries, |work| {
        create(&work.join("device"))?;
        write_all(&work.join("emulator"), HOST)?;
        compile_all(work)
    })?;
    let device = cache.join(format!("device-{:016x}", hash(DEVICE)));
    once(&device, |work| write_all(work, DEVICE))?;
    let modules = cache.join("modules");
    create(&modules)?;
    Ok(Built { libraries, device, modules })
}

/// Fills a folder under a name of this process's own, then gives it its name, so that nobody ever
/// sees a part of it.
fn once(folder: &Path, fill: impl FnOnce(&Path) -> Result<(), Error>) -> Result<(), Error> {
    if folder.exists() {
        return Ok(());
    }
    let work = folder.with_extension(std::process::id().to_string());
    fill(&work)?;
    if let Err(error) = fs::rename(&work, folder) {
        // Another process was quicker, and its result is the same.
        let _ = fs::remove_dir_all(&work);
        if !folder.exists() {
            return Err(Error::File { path: folder.to_path_buf(), error });
        }
    }
    Ok(())
}

/// Below the nearest folder that Cargo marked as a cache, which is its target folder.
fn cache_folder() -> PathBuf {
    let executable = std::env::current_exe().unwrap_or_default();
    let target = executable.ancestors().find(|folder| folder.join("CACHEDIR.TAG").exists());
    target.map_or_else(std::env::temp_dir, Path::to_path_buf).join("ferrum-cuda-emulator")
}

/// FNV-1a over all names and texts.
fn hash(files: &[(&str, &str)]) -> u64 {
    let bytes = files.iter().flat_map(|(name, text)| name.bytes().chain(text.bytes()));
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

fn write_all(folder: &Path, files: &[(&str, &str)]) -> Result<(), Error> {
    create(folder)?;
    for (name, text) in files {
        let path = folder.join(name);
        fs::write(&path, text).map_err(|error| Error::File { path, error })?;
    }
    Ok(())
}

fn compile_all(work: &Path) -> Result<(), Error> {
    let (nvrtc, driver): (Vec<&str>, Vec<&str>) = HOST
        .iter()
        .map(|(name, _)| *name)
        .filter(|name| name.ends_with(".cpp"))
        .partition(|name| *name == "nvrtc.cpp");
    compile(work, &driver, DRIVER, &[])?;
    compile(work, &nvrtc, NVRTC, &[])?;
    // These live in the driver; here are only their names.
    [NCCL, CUBLASLT].into_iter().try_for_each(|library| {
        compile(work, &[], library, &["-L..", "-Wl,--no-as-needed", "-l:libcuda.so"])
    })
}

/// The same choice as the emulated NVRTC makes for kernels.
fn vector_flags() -> &'static [&'static str] {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("f16c")
    {
        return &["-mavx2", "-mfma", "-mf16c"];
    }
    &[]
}

/// One object for each source, side by side, then a library of them.
fn compile(work: &Path, sources: &[&str], library: &str, more: &[&str]) -> Result<(), Error> {
    let folder = work.join("emulator");
    let compilers: Vec<_> = sources
        .iter()
        .map(|source| {
            let mut compiler = compiler(&folder);
            compiler.args(["-std=c++17", "-O2", "-g1", "-w", "-fPIC", "-fvisibility=hidden"]);
            // Jumps out of signal handlers and foreign stacks are what these would refuse.
            compiler.args(["-U_FORTIFY_SOURCE", "-fcf-protection=none"]);
            compiler.args(vector_flags()).args(["-c", source]);
            compiler.spawn()
        })
        .collect();
    for compiler in compilers {
        finish(compiler.map_err(Error::NoCompiler)?)?;
    }
    let mut linker = compiler(&folder);
    linker.arg("-shared").arg(format!("-Wl,-soname,{library}"));
    linker.arg("-o").arg(work.join(library));
    linker.args(sources.iter().map(|source| source.replace(".cpp", ".o")));
    linker.args(more).args(["-ldl", "-lpthread"]);
    finish(linker.spawn().map_err(Error::NoCompiler)?)
}

fn compiler(folder: &Path) -> Command {
    let mut compiler = Command::new("g++");
    compiler.current_dir(folder).stderr(Stdio::piped());
    compiler
}

fn finish(compiler: Child) -> Result<(), Error> {
    let output = compiler.wait_with_output().map_err(Error::NoCompiler)?;
    if output.status.success() {
        return Ok(());
    }
    Err(Error::Compile(String::from_utf8_lossy(&output.stderr).into_owned()))
}

fn create(folder: &Path) -> Result<(), Error> {
    fs::create_dir_all(folder)
        .map_err(|error: io::Error| Error::File { path: folder.to_path_buf(), error })
}
