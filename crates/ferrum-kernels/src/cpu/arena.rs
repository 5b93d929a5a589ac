//! Memory for packed weights: many in one piece, and pieces in large pages.
//!
//! Reading a page of 4 KiB begins with looking up where it is, and ends what the processor fetches
//! ahead by itself. Large pages (2 MiB) are longer than many a weight, so weights share them.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::Arc;

use crate::{KernelError, Result};

/// Bytes of a cache line, which parts start on.
const LINE: usize = 64;

/// Bytes of a large page, which pieces start on.
const PAGE: usize = 2 << 20;

/// Bytes of a piece for several weights. Pages that nothing has been written to cost nothing.
const PIECE: usize = 32 << 20;

/// Weights from this size on have a piece of their own.
const LARGE: usize = PIECE / 4;

/// Hands out parts of pieces.
#[derive(Default)]
pub(crate) struct Arena {
    /// The piece of the weights that share one, and how much of it is taken.
    shared: Option<(Arc<Piece>, usize)>,
}

impl Arena {
    /// `len` zeroes on a cache line; `what` names their purpose in the error.
    pub(crate) fn take(&mut self, len: usize, what: &'static str) -> Result<Part> {
        let bytes = len.checked_next_multiple_of(LINE);
        let bytes = bytes.ok_or(KernelError::OutOfMemory { bytes: len, what })?;
        if bytes >= LARGE {
            return Ok(Part { start: 0, len, piece: Arc::new(Piece::new(bytes, what)?) });
        }
        let (piece, start) = match self.shared.take() {
            Some((piece, taken)) if PIECE - taken >= bytes => (piece, taken),
            _ => (Arc::new(Piece::new(PIECE, what)?), 0),
        };
        self.shared = Some((piece.clone(), start + bytes));
        Ok(Part { start, len, piece })
    }
}

/// Some bytes of a piece that are nobody else's. The piece is given back with its last part.
pub(crate) struct Part {
    piece: Arc<Piece>,
    start: usize,
    len: usize,
}

impl Deref for Part {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: within the piece, which stays as long as self; `take` gives no byte to two parts.
        unsafe { std::slice::from_raw_parts(self.piece.start.add(self.start).as_ptr(), self.len) }
    }
}

impl DerefMut for Part {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and borrowed mutably.
        unsafe {
            std::slice::from_raw_parts_mut(self.piece.start.add(self.start).as_ptr(), self.len)
        }
    }
}

/// Zeroed memory that starts on a large page.
struct Piece {
    start: NonNull<u8>,
    allocation: NonNull<u8>,
    layout: Layout,
}

// SAFETY: owns its memory; parts share it out without overlap.
unsafe impl Send for Piece {}
// SAFETY: likewise.
unsafe impl Sync for Piece {}

impl Piece {
    fn new(bytes: usize, what: &'static str) -> Result<Self> {
        let out_of_memory = || KernelError::OutOfMemory { bytes, what };
        // Aligned by hand: asked for such an alignment, the system's allocator writes the zeroes
        // itself, and all of it is resident at once.
        let padded = bytes.checked_add(PAGE).ok_or_else(out_of_memory)?;
        let layout =
            Layout::from_size_align(padded, align_of::<u128>()).map_err(|_| out_of_memory())?;
        // SAFETY: the layout is not empty.
        let allocation = NonNull::new(unsafe { alloc_zeroed(layout) }).ok_or_else(out_of_memory)?;
        let offset = allocation.addr().get().next_multiple_of(PAGE) - allocation.addr().get();
        // SAFETY: less than a page, and the allocation is a page longer than `bytes`.
        let start = unsafe { allocation.add(offset) };
        ask_for_large_pages(start, bytes);
        Ok(Piece { start, allocation, layout })
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout.
        unsafe { dealloc(self.allocation.as_ptr(), self.layout) }
    }
}

/// Asks Linux for large pages (its documentation, "Transparent Hugepage Support").
#[cfg(target_os = "linux")]
fn ask_for_large_pages(start: NonNull<u8>, bytes: usize) {
    // SAFETY: the memory is there, and keeps its content. Where the system has no such pages this is
    // an error, and nothing is lost.
    unsafe { libc::madvise(start.as_ptr().cast(), bytes, libc::MADV_HUGEPAGE) };
}

/// Others decide by themselves.
#[cfg(not(target_os = "linux"))]
fn ask_for_large_pages(_start: NonNull<u8>, _bytes: usize) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_zeroed_aligned_and_apart() {
        let mut arena = Arena::default();
        let sizes =
            [0, 1, 63, 64, LARGE - 1, LARGE, 3 * LARGE, LARGE - 64, LARGE - 64, LARGE - 64, 5];
        let mut parts: Vec<Part> = Vec::new();
        for (i, size) in sizes.into_iter().enumerate() {
            let mut part = arena.take(size, "a test").unwrap();
            assert_eq!((part.len(), part.as_ptr().align_offset(LINE)), (size, 0));
            assert!(part.iter().all(|&x| x == 0), "{size}");
            part.fill(i as u8 + 1);
            parts.push(part);
        }
        // The arena and some parts gone, the others keep theirs.
        drop(arena);
        parts.swap_remove(4);
        for part in &parts {
            assert!(part.iter().all(|x| Some(x) == part.first()), "{}", part.len());
        }
        let mut firsts: Vec<u8> = parts.iter().filter_map(|part| part.first().copied()).collect();
        firsts.sort_unstable();
        assert_eq!(firsts, [2, 3, 4, 6, 7, 8, 9, 10, 11]);
    }

    #[test]
    fn small_weights_share_a_piece_and_large_ones_do_not() {
        let mut arena = Arena::default();
        let mut take = |len| arena.take(len, "a test").unwrap().piece;
        let (first, large, second) = (take(1000), take(LARGE), take(1000));
        assert!(Arc::ptr_eq(&first, &second));
        assert!(!Arc::ptr_eq(&first, &large));
        assert_eq!(large.start.as_ptr().align_offset(PAGE), 0);
    }

    #[test]
    fn too_much_is_an_error() {
        for len in [usize::MAX, usize::MAX / 2, isize::MAX as usize - 100] {
            let error = Arena::default().take(len, "a test").err();
            assert!(matches!(error, Some(KernelError::OutOfMemory { .. })), "{len}");
        }
    }
}
