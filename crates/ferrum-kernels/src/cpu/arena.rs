//! Memory for packed weights: many in one piece, and pieces in large pages.
//!
//! Reading a page of 4 KiB begins with looking up where it is, and ends what the processor fetches
//! ahead by itself. Large pages (2 MiB) are longer than many a weight, so weights share them.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use super::aligned::{AlignedVec, LINE};
use crate::{KernelError, Result};

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
            return Ok(Part { start: 0, len, piece: new_piece(bytes, what)? });
        }
        let (piece, start) = match self.shared.take() {
            Some((piece, taken)) if PIECE - taken >= bytes => (piece, taken),
            _ => (new_piece(PIECE, what)?, 0),
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
        unsafe { std::slice::from_raw_parts(self.piece.start().add(self.start).as_ptr(), self.len) }
    }
}

impl DerefMut for Part {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and borrowed mutably.
        unsafe {
            std::slice::from_raw_parts_mut(self.piece.start().add(self.start).as_ptr(), self.len)
        }
    }
}

/// Memory that starts on a large page, shared out to parts.
type Piece = AlignedVec<u8>;

/// A piece, in large pages where the system has them.
fn new_piece(bytes: usize, what: &'static str) -> Result<Arc<Piece>> {
    let piece = Piece::zeroed_at(PAGE, bytes, what)?;
    ask_for_large_pages(&piece);
    Ok(Arc::new(piece))
}

/// Asks Linux for large pages (its documentation, "Transparent Hugepage Support").
#[cfg(target_os = "linux")]
fn ask_for_large_pages(piece: &Piece) {
    // SAFETY: the memory is there, and keeps its content. Where the system has no such pages this is
    // an error, and nothing is lost.
    unsafe { libc::madvise(piece.start().as_ptr().cast(), piece.len(), libc::MADV_HUGEPAGE) };
}

/// Others decide by themselves.
#[cfg(not(target_os = "linux"))]
fn ask_for_large_pages(_piece: &Piece) {}

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
        assert_eq!(large.as_ptr().align_offset(PAGE), 0);
    }

    #[test]
    fn too_much_is_an_error() {
        for len in [usize::MAX, usize::MAX / 2, isize::MAX as usize - 100] {
            let error = Arena::default().take(len, "a test").err();
            assert!(matches!(error, Some(KernelError::OutOfMemory { .. })), "{len}");
        }
    }
}
