//! A launch: a kernel, its arguments in the order of its parameters, and its grid.

use std::ffi::c_void;
use std::sync::Arc;

use cudarc::driver::result;

use super::buffer::{Part, PartMut};
use super::driver::Named;
use super::memory::Memory;
use super::modules::Source;
use super::stream::CudaStream;
use crate::{KernelError, Result};

/// Blocks of a launch, threads of a block, and its dynamic shared memory.
#[derive(Debug, Clone, Copy)]
pub(super) struct Grid {
    /// Blocks in x, y and z.
    pub(super) blocks: [usize; 3],
    /// Threads of a block, in x.
    pub(super) threads: usize,
    /// Bytes of dynamic shared memory.
    pub(super) shared: usize,
}

/// A launch under construction. What is wrong with it is told by [`Launch::run`].
pub(super) struct Launch<'s> {
    stream: &'s mut CudaStream,
    op: &'static str,
    source: Source,
    entry: &'static str,
    /// Arguments, each in its own eight bytes (or several, for structs).
    words: Vec<u64>,
    /// Where each argument begins in `words`.
    starts: Vec<usize>,
    /// Memory that a recording must keep.
    mentioned: Vec<Arc<Memory>>,
    /// The first thing that is wrong.
    wrong: Option<KernelError>,
}

impl CudaStream {
    /// Begins a launch of the kernel `entry` in `source`, for the operation `op`.
    pub(super) fn launch(
        &mut self,
        op: &'static str,
        source: Source,
        entry: &'static str,
    ) -> Launch<'_> {
        Launch {
            stream: self,
            op,
            source,
            entry,
            words: Vec::with_capacity(16),
            starts: Vec::with_capacity(16),
            mentioned: Vec::new(),
            wrong: None,
        }
    }
}

impl Launch<'_> {
    fn push(mut self, words: &[u64]) -> Self {
        self.starts.push(self.words.len());
        self.words.extend_from_slice(words);
        self
    }

    /// A struct of pointers into one memory, each at its offset in bytes.
    pub(super) fn pointers(mut self, memory: &Arc<Memory>, offsets: &[usize]) -> Self {
        assert!(offsets.iter().all(|&offset| offset <= memory.bytes()), "within the memory");
        if self.stream.recording.is_some() {
            self.mentioned.push(memory.clone());
        }
        self.starts.push(self.words.len());
        self.words.extend(offsets.iter().map(|&offset| memory.address() + offset as u64));
        self
    }

    /// A pointer into memory, `offset` bytes behind its beginning.
    pub(super) fn memory(self, memory: &Arc<Memory>, offset: usize) -> Self {
        self.pointers(memory, &[offset])
    }

    /// A pointer to values that the kernel reads.
    pub(super) fn read(self, part: &Part<'_>) -> Self {
        self.memory(part.memory, 0)
    }

    /// A pointer to values that the kernel writes.
    pub(super) fn write(self, part: &PartMut<'_>) -> Self {
        self.memory(part.memory, 0)
    }

    /// A pointer into memory, or none.
    pub(super) fn memory_if(self, place: Option<(&Arc<Memory>, usize)>) -> Self {
        match place {
            Some((memory, offset)) => self.memory(memory, offset),
            None => self.push(&[0]),
        }
    }

    /// A size or number: `int`.
    pub(super) fn int(mut self, value: usize) -> Self {
        let value = self.number(value);
        self.push(&[u64::from(value)])
    }

    /// Two numbers side by side in a struct: `int` each.
    pub(super) fn ints(mut self, first: usize, second: usize) -> Self {
        let (first, second) = (self.number(first), self.number(second));
        self.push(&[u64::from(first) | u64::from(second) << 32])
    }

    fn number(&mut self, value: usize) -> u32 {
        let number = i32::try_from(value).unwrap_or_else(|_| {
            let what = format!("{value} is more than a kernel can count");
            self.wrong.get_or_insert(KernelError::shape(self.op, what));
            0
        });
        number.cast_unsigned()
    }

    /// What `fields` adds, as one struct whose fields fill eight bytes each.
    pub(super) fn structure(mut self, fields: impl FnOnce(Self) -> Self) -> Self {
        let arguments = self.starts.len();
        self = fields(self);
        self.starts.truncate(arguments + 1);
        self
    }

    /// A `float`.
    pub(super) fn float(self, value: f32) -> Self {
        self.push(&[u64::from(value.to_bits())])
    }

    /// A condition, as an `int` of 0 or 1.
    pub(super) fn flag(self, value: bool) -> Self {
        self.int(usize::from(value))
    }

    /// Runs the kernel, unless the grid is empty.
    ///
    /// # Safety
    /// The arguments must be those of the kernel's parameters, and what it reads and writes with
    /// them must lie within the memory they point to.
    pub(super) unsafe fn run(mut self, grid: Grid) -> Result<()> {
        if let Some(wrong) = self.wrong {
            return Err(wrong);
        }
        if grid.blocks.contains(&0) {
            return Ok(());
        }
        let (blocks, threads, shared) = self.limits(&grid)?;
        let device = self.stream.device.clone();
        device.bind(self.op)?;
        let function = device.modules.function(self.source, self.entry, grid.shared)?;
        let words = self.words.as_mut_ptr();
        // SAFETY: each start lies within the words.
        let argument = |&start: &usize| -> *mut c_void { unsafe { words.add(start) }.cast() };
        let mut arguments: Vec<*mut c_void> = self.starts.iter().map(argument).collect();
        // SAFETY: the function stays loaded while the device is open; the caller answers for the
        // arguments, which are copied by the call.
        unsafe {
            result::launch_kernel(
                function,
                (blocks[0], blocks[1], blocks[2]),
                (threads, 1, 1),
                shared,
                self.stream.raw,
                &mut arguments,
            )
        }
        .op(self.op)?;
        if let Some(recording) = &mut self.stream.recording {
            recording.append(&mut self.mentioned);
        }
        Ok(())
    }

    /// The grid as the driver takes it.
    fn limits(&self, grid: &Grid) -> Result<([u32; 3], u32, u32)> {
        let most = [i32::MAX as usize, 65_535, 65_535];
        let fits = grid.blocks.iter().zip(most).all(|(&blocks, most)| blocks <= most)
            && (1..=1024).contains(&grid.threads)
            && grid.shared <= self.stream.device.properties.shared_memory;
        if !fits {
            return Err(KernelError::shape(self.op, format!("{grid:?} is too large")));
        }
        Ok((grid.blocks.map(|blocks| blocks as u32), grid.threads as u32, grid.shared as u32))
    }
}
