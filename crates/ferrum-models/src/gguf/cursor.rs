//! Checked reading of little-endian values from untrusted bytes.

use super::error::ParseError;
use super::header::MAX_HEADER_BYTES;

/// A position in the header of a file.
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
    /// Whether `bytes` was cut at [`MAX_HEADER_BYTES`].
    cut: bool,
}

/// A number of fixed size, little endian.
pub(super) trait Number: Sized {
    /// Bytes of one number.
    const SIZE: usize;
    /// The number in `bytes`, which are `SIZE` long.
    fn from_le(bytes: &[u8]) -> Self;
}

macro_rules! number {
    ($($ty:ty),*) => {$(
        impl Number for $ty {
            const SIZE: usize = size_of::<$ty>();
            fn from_le(bytes: &[u8]) -> Self {
                let mut le = [0; size_of::<$ty>()];
                le.copy_from_slice(bytes);
                <$ty>::from_le_bytes(le)
            }
        }
    )*};
}

number!(u8, i8, u16, i16, u32, i32, u64, i64, f32, f64);

impl<'a> Cursor<'a> {
    /// A cursor at the start of `file`, of which at most [`MAX_HEADER_BYTES`] are looked at.
    pub fn new(file: &'a [u8]) -> Self {
        let cut = file.len() > MAX_HEADER_BYTES;
        Cursor { bytes: &file[..file.len().min(MAX_HEADER_BYTES)], at: 0, cut }
    }

    /// Offset of the next byte.
    pub fn at(&self) -> usize {
        self.at
    }

    fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// The next `len` bytes.
    pub fn take(&mut self, len: u64, what: &'static str) -> Result<&'a [u8], ParseError> {
        match usize::try_from(len) {
            Ok(n) if n <= self.left() => {
                let taken = &self.bytes[self.at..self.at + n];
                self.at += n;
                Ok(taken)
            }
            _ if self.cut => Err(ParseError::HeaderTooLong { what, at: self.at }),
            _ => Err(ParseError::Truncated { what, at: self.at, need: len, left: self.left() }),
        }
    }

    /// The next number.
    pub fn number<T: Number>(&mut self, what: &'static str) -> Result<T, ParseError> {
        Ok(T::from_le(self.take(T::SIZE as u64, what)?))
    }

    /// The next `count` numbers.
    pub fn numbers<T: Number>(
        &mut self,
        count: u64,
        what: &'static str,
    ) -> Result<Vec<T>, ParseError> {
        self.check_count(count, T::SIZE, what)?;
        let bytes = self.take(count * T::SIZE as u64, what)?;
        Ok(bytes.chunks_exact(T::SIZE).map(T::from_le).collect())
    }

    /// Fails unless `count` things of at least `min_size` bytes can still follow; returns the
    /// count as a safe capacity. The product cannot overflow after this.
    pub fn check_count(
        &self,
        count: u64,
        min_size: usize,
        what: &'static str,
    ) -> Result<usize, ParseError> {
        match usize::try_from(count) {
            Ok(n) if n <= self.left() / min_size => Ok(n),
            _ if self.cut => Err(ParseError::HeaderTooLong { what, at: self.at }),
            _ => Err(ParseError::Count { what, count, at: self.at, left: self.left() }),
        }
    }

    /// A string: its length as u64, then UTF-8.
    pub fn str(&mut self, what: &'static str) -> Result<&'a str, ParseError> {
        let len = self.number::<u64>(what)?;
        self.text(len, what)
    }

    /// A string of 1 to `max` bytes.
    pub fn name(&mut self, max: usize, what: &'static str) -> Result<String, ParseError> {
        let at = self.at;
        let len = self.number::<u64>(what)?;
        if len == 0 || len > max as u64 {
            return Err(ParseError::NameLength { what, len, at, max });
        }
        self.text(len, what).map(str::to_string)
    }

    fn text(&mut self, len: u64, what: &'static str) -> Result<&'a str, ParseError> {
        let at = self.at;
        let bytes = self.take(len, what)?;
        match std::str::from_utf8(bytes) {
            Ok(text) => Ok(text),
            Err(e) => Err(ParseError::Utf8 { what, at: at + e.valid_up_to() }),
        }
    }
}
