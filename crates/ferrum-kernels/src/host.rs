//! Buffers in ordinary memory, shared by the reference and the CPU backend.

pub(crate) mod collectives;

use std::alloc::{Layout, alloc_zeroed};
use std::ptr::NonNull;

use crate::{Buffer, DType, KernelError, Result};

/// A typed buffer in ordinary memory.
#[derive(Debug)]
pub enum HostBuffer {
    /// Activations.
    F32(Vec<f32>),
    /// Indices.
    I32(Vec<i32>),
}

impl HostBuffer {
    /// `len` zeroes. Host backends compute in `f32`; half-precision activations are refused.
    pub fn new(backend: &'static str, dtype: DType, len: usize) -> Result<Self> {
        match dtype {
            DType::F32 => Ok(HostBuffer::F32(zeroed(len)?)),
            DType::I32 => Ok(HostBuffer::I32(zeroed(len)?)),
            DType::F16 | DType::BF16 => {
                Err(KernelError::Unsupported { backend, what: format!("activations in {dtype:?}") })
            }
        }
    }

    /// The first `len` values of an `F32` buffer.
    pub fn f32(&self, op: &'static str, len: usize) -> Result<&[f32]> {
        match self {
            HostBuffer::F32(v) => v.get(..len).ok_or_else(|| too_short(op, len, v.len())),
            other => Err(KernelError::DType { expected: DType::F32, got: other.dtype() }),
        }
    }

    /// The first `len` values of an `F32` buffer, to write.
    pub fn f32_mut(&mut self, op: &'static str, len: usize) -> Result<&mut [f32]> {
        let have = self.len();
        match self {
            HostBuffer::F32(v) => v.get_mut(..len).ok_or_else(|| too_short(op, len, have)),
            other => Err(KernelError::DType { expected: DType::F32, got: other.dtype() }),
        }
    }

    /// The first `len` values of an `I32` buffer.
    pub fn i32(&self, op: &'static str, len: usize) -> Result<&[i32]> {
        match self {
            HostBuffer::I32(v) => v.get(..len).ok_or_else(|| too_short(op, len, v.len())),
            other => Err(KernelError::DType { expected: DType::I32, got: other.dtype() }),
        }
    }

    /// The first `len` values of an `I32` buffer, to write.
    pub fn i32_mut(&mut self, op: &'static str, len: usize) -> Result<&mut [i32]> {
        let have = self.len();
        match self {
            HostBuffer::I32(v) => v.get_mut(..len).ok_or_else(|| too_short(op, len, have)),
            other => Err(KernelError::DType { expected: DType::I32, got: other.dtype() }),
        }
    }
}

impl Buffer for HostBuffer {
    fn dtype(&self) -> DType {
        match self {
            HostBuffer::F32(_) => DType::F32,
            HostBuffer::I32(_) => DType::I32,
        }
    }

    fn len(&self) -> usize {
        match self {
            HostBuffer::F32(v) => v.len(),
            HostBuffer::I32(v) => v.len(),
        }
    }
}

/// Plain numbers, for which all bits zero is a value.
///
/// # Safety
/// All zero bytes must be a valid value, and the type must not need dropping.
pub(crate) unsafe trait Plain: Copy + Send + Sync {}

macro_rules! plain {
    ($($number:ty),*) => {$(
        // SAFETY: a number, or one in a transparent struct.
        unsafe impl Plain for $number {}
    )*};
}

plain!(u8, i8, u16, i16, u32, i32, usize, f32, half::f16, half::bf16, crate::E4m3);

/// `len` zeroes (or an error, not an abort, where memory is short). Their pages are taken from the
/// system when they are first written, so room for the largest step costs nothing before it comes.
pub(crate) fn zeroed<T: Plain>(len: usize) -> Result<Vec<T>> {
    let bytes = len.saturating_mul(size_of::<T>());
    let out_of_memory = || KernelError::OutOfMemory { bytes, what: "a buffer" };
    let layout = Layout::array::<T>(len).map_err(|_| out_of_memory())?;
    if layout.size() == 0 {
        return Ok(Vec::new());
    }
    // SAFETY: the layout is not empty.
    let memory = NonNull::new(unsafe { alloc_zeroed(layout) }).ok_or_else(out_of_memory)?;
    // SAFETY: allocated just now, with the layout of `len` values, to which zero bytes are valid.
    Ok(unsafe { Vec::from_raw_parts(memory.as_ptr().cast(), len, len) })
}

/// Scratch of at least `len` values, of no particular content.
pub(crate) fn grow<T: Plain>(scratch: &mut Vec<T>, len: usize) -> Result<()> {
    if scratch.len() < len {
        *scratch = zeroed(len)?;
    }
    Ok(())
}

fn too_short(op: &'static str, need: usize, have: usize) -> KernelError {
    KernelError::shape(op, format!("a buffer of {have} elements where {need} are needed"))
}
