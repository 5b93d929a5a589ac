//! One card: its properties, its context, and the kernels that were compiled for it.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use cudarc::driver::result::stream;
use cudarc::driver::sys::CUdevice_attribute_enum as Attribute;
use cudarc::driver::{result, sys};

use super::NAME;
use super::blas::Blas;
use super::compile::Architecture;
use super::driver::{self, Named};
use super::modules::Modules;
use crate::{KernelError, Result};

/// Which card to take, and where its compiled kernels are kept.
#[derive(Debug, Clone, Default)]
pub struct CudaConfig {
    /// Number of the card.
    pub ordinal: usize,
    /// Folder for compiled kernels; `None` compiles them at each start.
    pub kernel_cache: Option<PathBuf>,
    /// Told of what is wrong and can be lived with.
    pub warn: Warn,
}

/// Who is told, in words, of what is wrong and can be lived with; by default nobody.
#[derive(Clone, Default)]
pub struct Warn(Option<Arc<Tell>>);

type Tell = dyn Fn(&str) + Send + Sync;

impl Warn {
    /// This one is told.
    pub fn to(tell: impl Fn(&str) + Send + Sync + 'static) -> Warn {
        Warn(Some(Arc::new(tell)))
    }

    pub(super) fn tell(&self, what: &str) {
        if let Some(tell) = &self.0 {
            tell(what);
        }
    }
}

impl fmt::Debug for Warn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Warn(somebody)" } else { "Warn(nobody)" })
    }
}

/// What a card is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Properties {
    /// Number of the card.
    pub ordinal: usize,
    /// Its maker's name for it.
    pub name: String,
    /// Compute capability: major and minor.
    pub capability: (u32, u32),
    /// Memory, in bytes.
    pub memory: usize,
    /// Streaming multiprocessors.
    pub multiprocessors: usize,
    /// Shared memory that a block can ask for, in bytes.
    pub shared_memory: usize,
    /// Kilohertz of its processors.
    pub clock: usize,
    /// Kilohertz of its memory, which moves data at both edges.
    pub memory_clock: usize,
    /// Bits of its memory's bus.
    pub bus_width: usize,
}

/// What a card can do at most, by its data sheet.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Peaks {
    /// Bytes of memory read a second.
    pub read: f64,
    /// Operations on `f32` numbers a second, a multiply-add counted as two.
    pub f32_ops: f64,
    /// Operations of tensor cores on 8-bit numbers a second, counted likewise. From 9.0 on it takes
    /// instructions that the kernels do not use to come near.
    pub int8_ops: f64,
}

impl Properties {
    /// What the card can do at most, from its clocks and the operations a clock of its multiprocessors
    /// (NVIDIA's white papers on GA100, GA102, AD102, GH100, GB100 and GB202, without sparsity).
    pub fn peaks(&self) -> Peaks {
        let (f32_ops, int8_ops) = match self.capability {
            (8, 0) => (128.0, 4096.0),
            (9, _) => (256.0, 8192.0),
            (10, _) => (256.0, 16384.0),
            _ => (256.0, 2048.0),
        };
        let clocks = self.multiprocessors as f64 * self.clock as f64 * 1e3;
        Peaks {
            read: 2.0 * self.memory_clock as f64 * 1e3 * self.bus_width as f64 / 8.0,
            f32_ops: f32_ops * clocks,
            int8_ops: int8_ops * clocks,
        }
    }

    /// Why the card cannot be used, if so.
    pub fn problem(&self) -> Option<String> {
        let (major, minor) = OLDEST;
        (self.capability < OLDEST).then(|| format!("compute capability {major}.{minor} is needed"))
    }

    /// What kernels are compiled for.
    pub fn architecture(&self) -> Architecture {
        Architecture(self.capability.0, self.capability.1)
    }
}

impl fmt::Display for Properties {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (major, minor) = self.capability;
        write!(f, "{} (compute capability {major}.{minor})", self.name)
    }
}

/// The cards of this machine; an error says why there is none.
pub fn devices() -> Result<Vec<Properties>> {
    (0..driver::count()?).map(|ordinal| properties(ordinal).map(|found| found.1)).collect()
}

fn properties(ordinal: usize) -> Result<(sys::CUdevice, Properties)> {
    let count = driver::count()?;
    let number = i32::try_from(ordinal).ok().filter(|_| ordinal < count);
    let Some(number) = number else {
        let what = format!("no device {ordinal}, this machine has {count}");
        return Err(KernelError::NoDevice { backend: NAME, what });
    };
    let device = result::device::get(number).op("open a device")?;
    let attribute = |which: Attribute| {
        // SAFETY: the device was opened just now.
        let value = unsafe { result::device::get_attribute(device, which) };
        value.op("read an attribute").map(|value| u32::try_from(value).unwrap_or(0))
    };
    let major = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
    let minor = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
    let shared = Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN;
    let found = Properties {
        ordinal,
        name: result::device::get_name(device).op("read a name")?,
        capability: (major, minor),
        // SAFETY: as above.
        memory: unsafe { result::device::total_mem(device) }.op("read the memory's size")?,
        multiprocessors: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)? as usize,
        shared_memory: attribute(shared)? as usize,
        clock: attribute(Attribute::CU_DEVICE_ATTRIBUTE_CLOCK_RATE)? as usize,
        memory_clock: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE)? as usize,
        bus_width: attribute(Attribute::CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH)? as usize,
    };
    Ok((device, found))
}

/// A card in use. Everything that was made on it keeps it alive.
pub(super) struct Device {
    pub(super) properties: Properties,
    pub(super) modules: Modules,
    /// cuBLASLt, once it has been asked for; `None` within if it is not there.
    blas: OnceLock<Option<Blas>>,
    device: sys::CUdevice,
    context: sys::CUcontext,
    /// For what is done to memory before it is anyone's. The stream that drivers use where none is
    /// named waits for no other, and none for it.
    own_stream: sys::CUstream,
}

// SAFETY: the driver's handles may be used from every thread that has made the context current,
// which each call does by `Device::bind`.
unsafe impl Send for Device {}
// SAFETY: as above.
unsafe impl Sync for Device {}

/// Oldest compute capability that the kernels are written for: the first with `cp.async` and
/// bfloat16.
const OLDEST: (u32, u32) = (8, 0);

impl Device {
    pub(super) fn open(config: &CudaConfig) -> Result<Arc<Device>> {
        let (device, properties) = properties(config.ordinal)?;
        if let Some(problem) = properties.problem() {
            let what = format!("{properties}: {problem}");
            return Err(KernelError::NoDevice { backend: NAME, what });
        }
        // SAFETY: the device was opened just now; `drop` releases the context.
        let context = unsafe { result::primary_ctx::retain(device) }.op("open a context")?;
        let modules = Modules::new(properties.architecture(), config);
        let own_stream = std::ptr::null_mut();
        let blas = OnceLock::new();
        let mut device = Device { properties, modules, blas, device, context, own_stream };
        device.bind("open a context")?;
        device.own_stream = stream::create(stream::StreamKind::NonBlocking).op("stream")?;
        Ok(Arc::new(device))
    }

    /// Makes the card the calling thread's.
    pub(super) fn bind(&self, op: &'static str) -> Result<()> {
        // SAFETY: the context lives as long as `self`.
        unsafe { result::ctx::set_current(self.context) }.op(op)
    }

    /// cuBLASLt, if it is installed.
    pub(super) fn blas(&self) -> Option<&Blas> {
        let open = || self.bind("open cuBLASLt").ok().and_then(|()| Blas::open());
        self.blas.get_or_init(open).as_ref()
    }

    /// An error where the context suffers from an earlier one.
    pub(super) fn works(&self) -> Result<()> {
        let op = "use a device after an error";
        self.bind(op)?;
        // SAFETY: the stream lives as long as `self`; nothing is on it but what `clear` waits for.
        unsafe { stream::synchronize(self.own_stream) }.op(op)
    }

    /// Sets memory to zero, and waits until it is.
    ///
    /// # Safety
    /// So many bytes from `address` on must be the caller's, and in use by nobody.
    pub(super) unsafe fn clear(&self, address: sys::CUdeviceptr, bytes: usize) -> Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        self.bind("alloc")?;
        // SAFETY: the caller's promise; the stream lives as long as `self`.
        unsafe {
            result::memset_d8_async(address, 0, bytes, self.own_stream).op("alloc")?;
            stream::synchronize(self.own_stream).op("alloc")
        }
    }

    /// Bytes of the card's memory that nobody uses.
    pub(super) fn free_memory(&self) -> Result<usize> {
        self.bind("free memory")?;
        Ok(result::mem_get_info().op("free memory")?.0)
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        if self.bind("close a device").is_ok() {
            self.modules.unload();
            self.blas.take();
            if !self.own_stream.is_null() {
                // SAFETY: created in `open`, and idle. An error has nobody to hear it.
                let _ = unsafe { stream::destroy(self.own_stream) };
            }
        }
        // SAFETY: retained in `open`. An error has nobody to hear it.
        let _ = unsafe { result::primary_ctx::release(self.device) };
    }
}
