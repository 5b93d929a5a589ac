//! Read-only memory maps of files: the one module of this crate with `unsafe` code.
//!
//! A map is only as steady as its file. If another process writes to the file, the bytes change
//! under the reader; if it truncates the file, touching the lost pages ends this process with
//! SIGBUS. Ferrum's own downloads never do either: they write under a temporary name and rename.
//! Bytes are checked before use as numbers only, never trusted to stay the same across two reads.
#![allow(unsafe_code, reason = "mapping a file, and giving its pages back")]

use std::fs::{self, File};
use std::io;
use std::ops::{Deref, Range};
use std::path::Path;

/// A whole file, mapped for reading.
#[derive(Debug)]
pub(crate) struct Map(memmap2::Mmap);

impl Map {
    /// Maps the file at `path`; `None` where it is not a regular file.
    pub fn open(path: &Path) -> io::Result<Option<Self>> {
        // Asked first: opening a named pipe would wait for a writer.
        if !fs::metadata(path)?.is_file() {
            return Ok(None);
        }
        let file = File::open(path)?;
        // SAFETY: the map is read-only and lives as long as `Map`. That nobody truncates or
        // rewrites the file meanwhile cannot be checked; see the module's documentation.
        let map = unsafe { memmap2::Mmap::map(&file) }?;
        Ok(Some(Map(map)))
    }

    /// Tells the system that the pages of `range` are not needed soon. Their contents stay
    /// readable: the next access takes them from the file again.
    #[cfg(unix)]
    pub fn release(&self, range: Range<usize>) {
        // Outwards: a page lost to a neighbour is read again, while a page left would stay. Linux
        // maps the 64 KB around a page that is asked for.
        const AROUND: usize = 64 * 1024;
        let start = range.start / AROUND * AROUND;
        let end = range.end.next_multiple_of(AROUND).min(self.len());
        if start >= end {
            return;
        }
        // SAFETY: MADV_DONTNEED discards private modifications of the pages. This map is
        // read-only, so there are none, and reading again gives the file's bytes.
        let advised = unsafe {
            self.0.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, start, end - start)
        };
        // Advice that the system refuses costs memory and nothing else.
        let _ = advised;
    }

    /// There is no such advice on this system.
    #[cfg(not(unix))]
    pub fn release(&self, _range: Range<usize>) {}
}

impl Deref for Map {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}
