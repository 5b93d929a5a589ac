//! Zeroed memory that starts on a cache line, or on more: KV caches, scratch, and what weights share.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use crate::host::Plain;
use crate::{KernelError, Result};

/// Bytes of a cache line.
pub(super) const LINE: usize = 64;

/// What the allocation itself asks for. With more, the system's allocator hands out memory that it
/// has to zero by itself, which makes all of a KV cache resident before the first token.
const ALLOCATION: usize = align_of::<u128>();

/// A slice of fixed length, zeroed at first, whose start is aligned to a cache line or more. Pages are
/// taken from the system when they are first written.
pub(crate) struct AlignedVec<T: Plain> {
    /// First value, aligned, behind `allocation`.
    start: NonNull<T>,
    len: usize,
    allocation: NonNull<u8>,
    layout: Layout,
}

// SAFETY: owns its memory like a Vec does.
unsafe impl<T: Plain> Send for AlignedVec<T> {}
// SAFETY: shared access only reads.
unsafe impl<T: Plain> Sync for AlignedVec<T> {}

impl<T: Plain> AlignedVec<T> {
    /// `len` zeroes; `what` names their purpose in the error.
    pub(crate) fn zeroed(len: usize, what: &'static str) -> Result<Self> {
        Self::zeroed_at(LINE, len, what)
    }

    /// The same with a start that is a multiple of `alignment`, a power of two and not below that of `T`.
    pub(crate) fn zeroed_at(alignment: usize, len: usize, what: &'static str) -> Result<Self> {
        let bytes = len.saturating_mul(size_of::<T>());
        let out_of_memory = || KernelError::OutOfMemory { bytes, what };
        let padded = bytes.checked_add(alignment).ok_or_else(out_of_memory)?;
        let layout = Layout::from_size_align(padded, ALLOCATION).map_err(|_| out_of_memory())?;
        // SAFETY: the layout is not empty.
        let allocation = NonNull::new(unsafe { alloc_zeroed(layout) }).ok_or_else(out_of_memory)?;
        let address = allocation.addr().get();
        let offset = address.next_multiple_of(alignment) - address;
        // SAFETY: the offset is less than the alignment, and the allocation longer than `bytes` by that.
        let start = unsafe { allocation.add(offset) };
        Ok(AlignedVec { start: start.cast(), len, allocation, layout })
    }

    /// Where the values are, for owners that share them out.
    pub(super) fn start(&self) -> NonNull<T> {
        self.start
    }
}

impl<T: Plain> Deref for AlignedVec<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: `len` values were allocated, zeroed (a valid value of T) and live as long as
        // self.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl<T: Plain> DerefMut for AlignedVec<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`, and borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl<T: Plain> Drop for AlignedVec<T> {
    fn drop(&mut self) {
        // SAFETY: allocated in `zeroed_at` with this layout; T needs no drop.
        unsafe { dealloc(self.allocation.as_ptr(), self.layout) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeroed_and_aligned() {
        for len in [0, 1, 1000, 3 << 20] {
            let mut v = AlignedVec::<u16>::zeroed(len, "a test").unwrap();
            assert_eq!(v.len(), len);
            assert_eq!(v.as_ptr().align_offset(LINE), 0);
            assert!(v.iter().all(|&x| x == 0));
            v.fill(7);
            assert!(v.iter().all(|&x| x == 7));
        }
    }

    #[test]
    fn too_much_is_an_error() {
        for len in [usize::MAX, usize::MAX / 8, isize::MAX as usize / 4] {
            assert!(matches!(
                AlignedVec::<f32>::zeroed(len, "a test"),
                Err(KernelError::OutOfMemory { .. })
            ));
        }
    }
}
