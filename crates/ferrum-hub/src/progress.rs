//! How a download reports what it does.

/// Receives what a download does; the caller decides how to show it.
pub trait Progress {
    /// A line for the user: which source is tried, why one failed.
    fn note(&mut self, line: &str);

    /// A transfer of `total` bytes begins, of which `have` are already here. One that breaks off
    /// ends, and begins again where it is resumed.
    fn begin(&mut self, what: &str, total: u64, have: u64);

    /// `have` bytes of the transfer are here now.
    fn at(&mut self, have: u64);

    /// The transfer ended, well or not.
    fn end(&mut self);
}

/// Reports nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Quiet;

impl Progress for Quiet {
    fn note(&mut self, _line: &str) {}
    fn begin(&mut self, _what: &str, _total: u64, _have: u64) {}
    fn at(&mut self, _have: u64) {}
    fn end(&mut self) {}
}
