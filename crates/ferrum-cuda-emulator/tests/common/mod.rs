//! One emulated device for tests: what they need of the driver, with results that say what failed.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::ffi::{CString, c_void};
use std::ptr;
use std::sync::{Mutex, MutexGuard};

use cudarc::driver::sys::{self, CUresult};
use cudarc::driver::{DriverError, result};
use cudarc::nvrtc::sys as nvrtc;

const PTX: &str = include_str!("../../../ferrum-kernels/cuda/ptx.cuh");

pub type Result<T = ()> = std::result::Result<T, DriverError>;

/// A device with a stream. A context's error stays with all that use the device, so a test holds
/// the device alone.
pub struct Gpu {
    pub ordinal: usize,
    pub stream: sys::CUstream,
    device: sys::CUdevice,
    _alone: MutexGuard<'static, ()>,
}

static ALONE: [Mutex<()>; ferrum_cuda_emulator::DEVICES] =
    [const { Mutex::new(()) }; ferrum_cuda_emulator::DEVICES];

impl Gpu {
    pub fn open(ordinal: usize) -> Gpu {
        ferrum_cuda_emulator::load().unwrap();
        let alone = ALONE[ordinal].lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        result::init().unwrap();
        let device = result::device::get(ordinal as i32).unwrap();
        unsafe {
            result::ctx::set_current(result::primary_ctx::retain(device).unwrap()).unwrap();
        }
        let stream = result::stream::create(result::stream::StreamKind::NonBlocking).unwrap();
        Gpu { ordinal, stream, device, _alone: alone }
    }

    /// One device of each schedule after the other.
    pub fn each(mut test: impl FnMut(&Gpu)) {
        for ordinal in ferrum_cuda_emulator::ONE_OF_EACH_SCHEDULE {
            test(&Gpu::open(ordinal));
        }
    }

    pub fn sync(&self) -> Result {
        unsafe { result::stream::synchronize(self.stream) }
    }

    pub fn upload<T: Copy>(&self, data: &[T]) -> Buffer {
        let buffer = Buffer::new(size_of_val(data)).unwrap();
        unsafe { result::memcpy_htod_async(buffer.0, data, self.stream).unwrap() };
        buffer
    }

    pub fn download<T: Copy + Default>(&self, buffer: &Buffer, count: usize) -> Result<Vec<T>> {
        let mut data = vec![T::default(); count];
        unsafe { result::memcpy_dtoh_async(&mut data, buffer.0, self.stream)? };
        self.sync()?;
        Ok(data)
    }

    pub fn launch(&self, kernel: &Kernel, grid: u32, block: u32, arguments: &[u64]) -> Result {
        self.launch_with(kernel, grid, block, 0, arguments)
    }

    /// Every argument as eight bytes, of which the kernel takes as many as it needs.
    pub fn launch_with(
        &self,
        kernel: &Kernel,
        grid: u32,
        block: u32,
        shared: u32,
        arguments: &[u64],
    ) -> Result {
        let mut pointers: Vec<*mut c_void> =
            arguments.iter().map(|a| ptr::from_ref(a).cast_mut().cast()).collect();
        let (grid, block) = ((grid, 1, 1), (block, 1, 1));
        unsafe {
            result::launch_kernel(kernel.function, grid, block, shared, self.stream, &mut pointers)
        }
    }

    /// Compiles a source whose only kernel, or the one that is asked for, is `name`.
    pub fn kernel(&self, source: &str, name: &str) -> Kernel {
        let image = compile(source, self.ordinal).unwrap_or_else(|log| panic!("{log}"));
        unsafe {
            let module = result::module::load_data(image.as_ptr().cast()).unwrap();
            let function =
                result::module::get_function(module, CString::new(name).unwrap()).unwrap();
            Kernel { function, module }
        }
    }

    /// What the device's first error was. Panics if it has none.
    pub fn failure(&self) -> String {
        ferrum_cuda_emulator::failure(self.ordinal).expect("the device should have failed")
    }

    /// The error of the launch or of what waits for it, and what it says.
    pub fn fault(
        &self,
        kernel: &Kernel,
        grid: u32,
        block: u32,
        shared: u32,
        arguments: &[u64],
    ) -> (CUresult, String) {
        self.launch_with(kernel, grid, block, shared, arguments).unwrap();
        let error = self.sync().expect_err("the kernel should have failed");
        // As on a card, nothing works from now on.
        assert_eq!(self.sync().unwrap_err(), error);
        assert_eq!(Buffer::new(16).err(), Some(error));
        (error.0, self.failure())
    }
}

impl Drop for Gpu {
    fn drop(&mut self) {
        unsafe { result::primary_ctx::release(self.device).unwrap() };
    }
}

pub struct Kernel {
    pub function: sys::CUfunction,
    pub module: sys::CUmodule,
}

/// Device memory of the current context; freed with it.
pub struct Buffer(pub sys::CUdeviceptr);

impl Buffer {
    pub fn new(bytes: usize) -> Result<Buffer> {
        unsafe { result::malloc_sync(bytes).map(Buffer) }
    }

    pub fn free(self) -> Result {
        unsafe { result::free_sync(self.0) }
    }
}

/// The cubin for a device of a source that includes `ptx.cuh`, or the compiler's log.
pub fn compile(source: &str, ordinal: usize) -> std::result::Result<Vec<u8>, String> {
    let text = |t: &str| CString::new(t).unwrap();
    let (source, name, header, include) =
        (text(source), text("test.cu"), text(PTX), text("ptx.cuh"));
    let (headers, includes) = ([header.as_ptr()], [include.as_ptr()]);
    let fp8 = ferrum_cuda_emulator::WITH_FP8.contains(&ordinal);
    let architecture =
        text(if fp8 { "--gpu-architecture=sm_90" } else { "--gpu-architecture=sm_80" });
    let options = [architecture, text("--std=c++17")];
    let options: Vec<_> = options.iter().map(|o| o.as_ptr()).collect();
    unsafe {
        let mut program = ptr::null_mut();
        let created = nvrtc::nvrtcCreateProgram(
            &mut program,
            source.as_ptr(),
            name.as_ptr(),
            1,
            headers.as_ptr(),
            includes.as_ptr(),
        );
        assert_eq!(created, nvrtc::nvrtcResult::NVRTC_SUCCESS);
        let compiled = nvrtc::nvrtcCompileProgram(program, 2, options.as_ptr());
        let mut size = 0;
        nvrtc::nvrtcGetProgramLogSize(program, &mut size).result().unwrap();
        let mut log = vec![0_u8; size];
        nvrtc::nvrtcGetProgramLog(program, log.as_mut_ptr().cast()).result().unwrap();
        if compiled != nvrtc::nvrtcResult::NVRTC_SUCCESS {
            return Err(String::from_utf8_lossy(&log).into_owned());
        }
        nvrtc::nvrtcGetCUBINSize(program, &mut size).result().unwrap();
        let mut image = vec![0_u8; size];
        nvrtc::nvrtcGetCUBIN(program, image.as_mut_ptr().cast()).result().unwrap();
        nvrtc::nvrtcDestroyProgram(&mut program).result().unwrap();
        Ok(image)
    }
}
