//! The kernels of one card: compiled at first use, kept on disk, loaded once.

use std::collections::HashMap;
use std::ffi::CString;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use cudarc::driver::sys::CUfunction_attribute_enum as Attribute;
use cudarc::driver::{result, sys};

pub(super) use super::compile::Source;
use super::compile::{self, Architecture};
use super::device::{CudaConfig, Warn};
use super::driver::{self, Named};
use super::{NAME, cache};
use crate::{KernelError, Result};

/// Shared memory that a kernel has without asking for more, in bytes.
const SHARED_UNASKED: usize = 48 << 10;

/// Modules and functions of one context.
pub(super) struct Modules {
    architecture: Architecture,
    cache: Option<PathBuf>,
    /// Who is told where the cache cannot be written: once.
    warn: Mutex<Warn>,
    loaded: Mutex<Loaded>,
}

#[derive(Default)]
struct Loaded {
    modules: HashMap<Source, sys::CUmodule>,
    functions: HashMap<(Source, &'static str), Function>,
}

#[derive(Clone, Copy)]
struct Function {
    raw: sys::CUfunction,
    /// Dynamic shared memory that it may have.
    shared: usize,
}

impl Modules {
    pub(super) fn new(architecture: Architecture, config: &CudaConfig) -> Modules {
        let (cache, warn) = (config.kernel_cache.clone(), Mutex::new(config.warn.clone()));
        Modules { architecture, cache, warn, loaded: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Loaded> {
        // Nothing that is half done stays behind where a thread panics.
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps compiled kernels. Without a cache the next start is slower, that is all.
    fn keep(&self, folder: &Path, source: Source, image: &[u8]) {
        let Err(error) = cache::keep(folder, source, self.architecture, image) else { return };
        let mut warn = self.warn.lock().unwrap_or_else(PoisonError::into_inner);
        let folder = folder.display();
        std::mem::take(&mut *warn).tell(&format!(
            "compiled kernels cannot be kept in {folder}: {error}; they are compiled again at each \
             start"
        ));
    }

    /// The kernel `entry` of `source`, ready for so many bytes of shared memory. The card must be
    /// the thread's.
    pub(super) fn function(
        &self,
        source: Source,
        entry: &'static str,
        shared: usize,
    ) -> Result<sys::CUfunction> {
        let mut loaded = self.lock();
        let known = loaded.functions.get(&(source, entry)).copied();
        if let Some(function) = known.filter(|function| shared <= function.shared) {
            return Ok(function.raw);
        }
        let module = self.module(&mut loaded, source)?;
        let name = CString::new(entry).unwrap_or_default();
        // SAFETY: the module is loaded.
        let raw = unsafe { result::module::get_function(module, name) }.op(entry)?;
        if shared > SHARED_UNASKED {
            let attribute = Attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: the function was found just now; `Launch` has held the size against the card's.
            unsafe { result::function::set_function_attribute(raw, attribute, shared as i32) }
                .op(entry)?;
        }
        let function = Function { raw, shared: shared.max(SHARED_UNASKED) };
        loaded.functions.insert((source, entry), function);
        Ok(raw)
    }

    fn module(&self, loaded: &mut Loaded, source: Source) -> Result<sys::CUmodule> {
        if let Some(&module) = loaded.modules.get(&source) {
            return Ok(module);
        }
        let module = self.load(source)?;
        loaded.modules.insert(source, module);
        Ok(module)
    }

    /// From the cache, where there is one and the driver takes what it holds.
    fn load(&self, source: Source) -> Result<sys::CUmodule> {
        let folder = self.cache.as_deref();
        let kept = folder.and_then(|folder| cache::kept(folder, source, self.architecture));
        if let Some(module) = kept.and_then(|image| load_image(source, &image).ok()) {
            return Ok(module);
        }
        let compiled = source.compile(self.architecture)?;
        if let Some(folder) = folder {
            self.keep(folder, source, &compiled.image);
        }
        load_image(source, &compiled.image).map_err(|error| {
            let (major, minor) = compile::version().unwrap_or_default();
            let driver = driver::version();
            let what = format!(
                "{error}; compiled by NVRTC {major}.{minor} for a driver of CUDA {driver}: NVRTC \
                 must not be newer than the driver"
            );
            KernelError::Compile { backend: NAME, kernel: source.stem(), what }
        })
    }

    /// Unloads everything; the card must be the thread's.
    pub(super) fn unload(&self) {
        let mut loaded = self.lock();
        loaded.functions.clear();
        for (_, module) in loaded.modules.drain() {
            // SAFETY: loaded in `module`. An error has nobody to hear it.
            let _ = unsafe { result::module::unload(module) };
        }
    }
}

fn load_image(source: Source, image: &[u8]) -> Result<sys::CUmodule> {
    // SAFETY: an image as NVRTC made it: PTX that ends with zero, or machine code, which says how
    // long it is; the cache gives back nothing else.
    unsafe { result::module::load_data(image.as_ptr().cast()) }.op(source.stem())
}
