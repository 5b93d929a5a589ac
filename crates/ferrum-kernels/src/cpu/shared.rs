//! A slice that several threads write at places that do not overlap.

use std::marker::PhantomData;
use std::ops::Range;

/// A mutable slice shared by the threads of a region, each of which writes ranges of its own.
pub(crate) struct SharedSlice<'a, T> {
    start: *mut T,
    len: usize,
    slice: PhantomData<&'a mut [T]>,
}

// SAFETY: access goes through `range_mut`, whose caller promises that ranges in use at the same
// time are disjoint; then this is the same as handing out parts of a `&mut [T]`.
unsafe impl<T: Send> Sync for SharedSlice<'_, T> {}

impl<'a, T> SharedSlice<'a, T> {
    /// Where the value at `at` is. Who uses what is from there on promises what
    /// [`SharedSlice::range_mut`] asks for.
    pub(crate) fn pointer(&self, at: usize) -> *mut T {
        assert!(at <= self.len, "a place in the slice");
        self.start.wrapping_add(at)
    }

    /// Borrows `slice` for the time of a region.
    pub(crate) fn new(slice: &'a mut [T]) -> Self {
        SharedSlice { start: slice.as_mut_ptr(), len: slice.len(), slice: PhantomData }
    }

    /// The elements of `range`; panics where it lies outside of the slice.
    ///
    /// # Safety
    /// While the result is alive, no other thread may hold a range that overlaps it.
    #[allow(clippy::mut_from_ref, reason = "disjointness is the caller's promise")]
    pub(crate) unsafe fn range_mut(&self, range: Range<usize>) -> &mut [T] {
        assert!(range.start <= range.end && range.end <= self.len, "{range:?} of {}", self.len);
        // SAFETY: in bounds as just checked, and unaliased by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }
}
