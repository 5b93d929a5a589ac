//! Weight formats on disk: names, block sizes, and the plain dequantisation of each.
//!
//! The layouts are those of GGUF files; a block holds [`Format::block_len`] consecutive values of
//! one row in [`Format::block_bytes`] bytes.

use std::fmt;

use crate::{KernelError, Result};

/// How the values of a weight are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(non_camel_case_types, missing_docs, reason = "the names are those of GGUF")]
pub enum Format {
    F32,
    F16,
    BF16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2_K,
    Q3_K,
    Q4_K,
    Q5_K,
    Q6_K,
    IQ4_NL,
    IQ4_XS,
    MXFP4,
}

impl Format {
    /// Every format, for tests and tables.
    pub const ALL: [Format; 16] = [
        Format::F32,
        Format::F16,
        Format::BF16,
        Format::Q4_0,
        Format::Q4_1,
        Format::Q5_0,
        Format::Q5_1,
        Format::Q8_0,
        Format::Q2_K,
        Format::Q3_K,
        Format::Q4_K,
        Format::Q5_K,
        Format::Q6_K,
        Format::IQ4_NL,
        Format::IQ4_XS,
        Format::MXFP4,
    ];

    /// Values in a block.
    pub fn block_len(self) -> usize {
        match self {
            Format::F32 | Format::F16 | Format::BF16 => 1,
            Format::Q4_0
            | Format::Q4_1
            | Format::Q5_0
            | Format::Q5_1
            | Format::Q8_0
            | Format::IQ4_NL
            | Format::MXFP4 => 32,
            Format::Q2_K
            | Format::Q3_K
            | Format::Q4_K
            | Format::Q5_K
            | Format::Q6_K
            | Format::IQ4_XS => 256,
        }
    }

    /// Bytes of a block.
    pub fn block_bytes(self) -> usize {
        match self {
            Format::F32 => 4,
            Format::F16 | Format::BF16 => 2,
            Format::Q4_0 | Format::IQ4_NL => 18,
            Format::Q4_1 => 20,
            Format::Q5_0 => 22,
            Format::Q5_1 => 24,
            Format::Q8_0 => 34,
            Format::Q2_K => 84,
            Format::Q3_K => 110,
            Format::Q4_K => 144,
            Format::Q5_K => 176,
            Format::Q6_K => 210,
            Format::IQ4_XS => 136,
            Format::MXFP4 => 17,
        }
    }

    /// Bytes of a row of `cols` values; `None` where `cols` is no multiple of the block or the
    /// size overflows.
    pub fn row_bytes(self, cols: usize) -> Option<usize> {
        if cols % self.block_len() != 0 {
            return None;
        }
        (cols / self.block_len()).checked_mul(self.block_bytes())
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// A weight matrix as it lies in a file: `rows` rows of `cols` values, row after row.
#[derive(Debug, Clone, Copy)]
pub struct WeightSource<'a> {
    /// How the values are stored.
    pub format: Format,
    /// Output features.
    pub rows: usize,
    /// Input features.
    pub cols: usize,
    /// `rows · format.row_bytes(cols)` bytes.
    pub data: &'a [u8],
}

impl<'a> WeightSource<'a> {
    /// A source whose size has been checked.
    pub fn new(format: Format, rows: usize, cols: usize, data: &'a [u8]) -> Result<Self> {
        let expected = format.row_bytes(cols).and_then(|b| b.checked_mul(rows));
        match expected {
            Some(bytes) if bytes == data.len() => Ok(WeightSource { format, rows, cols, data }),
            _ => Err(KernelError::WeightSize {
                format,
                rows,
                cols,
                expected: expected.unwrap_or(0),
                got: data.len(),
            }),
        }
    }

    /// The bytes of one row.
    pub fn row(&self, row: usize) -> &'a [u8] {
        let bytes = self.data.len() / self.rows.max(1);
        &self.data[row * bytes..][..bytes]
    }
}

/// Dequantises one row: `src` holds `dst.len() / block_len` blocks of `format`.
pub fn dequantize_row(format: Format, src: &[u8], dst: &mut [f32]) -> Result<()> {
    let _ = (format, src, dst);
    todo!("weight/: one file per family of formats")
}
