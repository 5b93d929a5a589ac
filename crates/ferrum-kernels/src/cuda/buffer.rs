//! Typed buffers, and their parts that operations read and write.

use std::marker::PhantomData;
use std::sync::Arc;

use super::NAME;
use super::device::Device;
use super::memory::Memory;
use crate::checks::Operand;
use crate::{Buffer, DType, KernelError, Result};

/// A typed buffer on a card.
pub struct CudaBuffer {
    pub(super) memory: Arc<Memory>,
    dtype: DType,
    len: usize,
    /// What an `I32` buffer holds: uploads leave a copy here, for the checks of indices. `None` once
    /// an operation has written it.
    known: Option<Vec<i32>>,
}

/// Values that an operation reads.
pub(crate) struct Part<'a> {
    pub(super) memory: &'a Arc<Memory>,
    buffer: PhantomData<&'a CudaBuffer>,
}

/// Values that an operation writes.
pub(crate) struct PartMut<'a> {
    pub(super) memory: &'a Arc<Memory>,
    buffer: PhantomData<&'a mut CudaBuffer>,
}

impl CudaBuffer {
    /// A buffer of no set content.
    pub(super) fn new(device: &Arc<Device>, dtype: DType, len: usize) -> Result<CudaBuffer> {
        if !matches!(dtype, DType::F32 | DType::I32) {
            let what = format!("activations in {dtype:?}");
            return Err(KernelError::Unsupported { backend: NAME, what });
        }
        let bytes = len.checked_mul(dtype.size());
        let bytes =
            bytes.ok_or(KernelError::OutOfMemory { bytes: usize::MAX, what: "a buffer" })?;
        let memory = Arc::new(Memory::new(device, bytes, "a buffer")?);
        let known = (dtype == DType::I32).then(|| vec![0; len]);
        Ok(CudaBuffer { memory, dtype, len, known })
    }

    fn check(&self, op: &'static str, dtype: DType, len: usize) -> Result<()> {
        if self.dtype != dtype {
            return Err(KernelError::DType { expected: dtype, got: self.dtype });
        }
        if len > self.len {
            let what = format!("a buffer of {} elements where {len} are needed", self.len);
            return Err(KernelError::shape(op, what));
        }
        Ok(())
    }

    fn part(&self) -> Part<'_> {
        Part { memory: &self.memory, buffer: PhantomData }
    }

    fn part_mut(&mut self) -> PartMut<'_> {
        PartMut { memory: &self.memory, buffer: PhantomData }
    }

    /// Notes what was uploaded.
    pub(super) fn uploaded(&mut self, values: &[i32]) {
        match &mut self.known {
            Some(known) => known[..values.len()].copy_from_slice(values),
            // All of it is known again only where all of it was uploaded.
            None if values.len() == self.len => self.known = Some(values.to_vec()),
            None => {}
        }
    }
}

impl Buffer for CudaBuffer {
    fn dtype(&self) -> DType {
        self.dtype
    }

    fn len(&self) -> usize {
        self.len
    }
}

impl Operand for CudaBuffer {
    type Floats<'a> = Part<'a>;
    type FloatsMut<'a> = PartMut<'a>;
    type Ints<'a> = Part<'a>;
    type IntsMut<'a> = PartMut<'a>;

    fn floats(&self, op: &'static str, len: usize) -> Result<Part<'_>> {
        self.check(op, DType::F32, len)?;
        Ok(self.part())
    }

    fn floats_mut(&mut self, op: &'static str, len: usize) -> Result<PartMut<'_>> {
        self.check(op, DType::F32, len)?;
        Ok(self.part_mut())
    }

    fn ints(&self, op: &'static str, len: usize) -> Result<Part<'_>> {
        self.check(op, DType::I32, len)?;
        Ok(self.part())
    }

    fn ints_mut(&mut self, op: &'static str, len: usize) -> Result<PartMut<'_>> {
        self.check(op, DType::I32, len)?;
        self.known = None;
        Ok(self.part_mut())
    }

    fn known(&self, op: &'static str, len: usize) -> Result<Option<&[i32]>> {
        self.check(op, DType::I32, len)?;
        Ok(self.known.as_deref().map(|known| &known[..len]))
    }
}
