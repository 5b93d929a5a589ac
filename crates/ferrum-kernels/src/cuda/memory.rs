//! Memory of a card that frees itself.

use std::sync::Arc;

use cudarc::driver::{result, sys};

use super::device::Device;
use super::driver::Named;
use crate::{KernelError, Result};

/// Memory of a card. Its content is not set.
pub(super) struct Memory {
    device: Arc<Device>,
    address: sys::CUdeviceptr,
    bytes: usize,
}

impl Memory {
    /// `bytes` bytes for `what`; at least one is taken, so that every address is somebody's.
    pub(super) fn new(device: &Arc<Device>, bytes: usize, what: &'static str) -> Result<Memory> {
        device.bind("alloc")?;
        // SAFETY: the memory is set before it is read: see `Backend::alloc` and the operations.
        let address = match unsafe { result::malloc_sync(bytes.max(1)) } {
            Err(error) if error.0 == sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY => {
                return Err(KernelError::OutOfMemory { bytes, what });
            }
            other => other.op("alloc")?,
        };
        Ok(Memory { device: device.clone(), address, bytes })
    }

    /// Sets it to zero, and waits until it is: nobody may use it yet.
    pub(super) fn clear(&self) -> Result<()> {
        // SAFETY: as long as the memory.
        unsafe { self.device.clear(self.address, self.bytes) }
    }

    /// Its size.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Its address on the card.
    pub(super) fn address(&self) -> sys::CUdeviceptr {
        self.address
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if self.device.bind("free").is_ok() {
            // SAFETY: allocated in `new`; the driver waits for the work that uses it. An error has
            // nobody to hear it, and comes back at the next call.
            let _ = unsafe { result::free_sync(self.address) };
        }
    }
}
