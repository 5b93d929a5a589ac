//! How a download reports what it does.

/// Receives what a download does; the caller decides how to show it.
pub trait Progress {
    /// A line for the user: which source is tried, why one failed.
    fn note(&mut self, line: &str);

    /// A transfer of `total` bytes begins, of which `have` are already here. One that breaks off
    /// ends, and begins again where it is resumed.
    fn begin(&mut self, what: &str, total: u64, have: u64);

    /// A transfer of several files is now at this one, `index` of `count` from 1.
    fn file(&mut self, _name: &str, _index: usize, _count: usize) {}

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

/// Files whose transfers are shown as one.
pub(crate) struct Together<'a> {
    pub inner: &'a mut dyn Progress,
    /// Bytes of the files before the one that is transferred.
    pub done: u64,
}

impl Progress for Together<'_> {
    fn note(&mut self, line: &str) {
        self.inner.note(line);
    }
    fn begin(&mut self, _what: &str, _total: u64, have: u64) {
        self.at(have);
    }
    fn at(&mut self, have: u64) {
        self.inner.at(self.done.saturating_add(have));
    }
    fn end(&mut self) {}
}
