//! Weight formats on disk: names, block sizes, and the plain dequantisation of each.
//!
//! The layouts are those of GGUF files (but for Q4_Z); a block holds [`Format::block_len`] consecutive values of
//! one row in [`Format::block_bytes`] bytes.

use std::fmt;
use std::ops::Range;

use half::f16;

use crate::{KernelError, Result};

mod float;
pub(crate) mod iq4;
pub(crate) mod k_quants;
mod legacy;
pub(crate) mod mxfp4;
mod quantize;
mod zero_point;

pub use quantize::{LARGEST, quantize_row};

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
    /// Not of GGUF: 4 bits with a scale and a zero point, of which GPTQ and AWQ make groups of
    /// columns. A block of 32 has both, so that groups of any multiple of 32 are stored.
    Q4_Z,
    /// Not of GGUF: [`crate::E4m3`], each row times a number beside it ([`WeightSource::scales`]). Not
    /// every backend has it: [`crate::Backend::keeps_e4m3`].
    F8_E4M3,
}

impl Format {
    /// Every format that all backends have, for tests and tables: all but [`Format::F8_E4M3`].
    pub const ALL: [Format; 17] = [
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
        Format::Q4_Z,
    ];

    /// Values in a block.
    pub const fn block_len(self) -> usize {
        match self {
            Format::F32 | Format::F16 | Format::BF16 | Format::F8_E4M3 => 1,
            Format::Q4_0
            | Format::Q4_1
            | Format::Q5_0
            | Format::Q5_1
            | Format::Q8_0
            | Format::IQ4_NL
            | Format::MXFP4
            | Format::Q4_Z => 32,
            Format::Q2_K
            | Format::Q3_K
            | Format::Q4_K
            | Format::Q5_K
            | Format::Q6_K
            | Format::IQ4_XS => 256,
        }
    }

    /// Bytes of a block.
    pub const fn block_bytes(self) -> usize {
        match self {
            Format::F32 => 4,
            Format::F16 | Format::BF16 => 2,
            Format::F8_E4M3 => 1,
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
            Format::Q4_Z => 19,
        }
    }

    /// Bytes of a row of `cols` values; `None` where `cols` is no multiple of the block or the
    /// size overflows.
    pub fn row_bytes(self, cols: usize) -> Option<usize> {
        if !cols.is_multiple_of(self.block_len()) {
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

/// A weight matrix as it lies in a file: `rows` rows of `cols` values, row after row; or several
/// matrices of one shape, one after the other.
#[derive(Clone, Copy)]
pub struct WeightSource<'a> {
    /// How the values are stored.
    pub format: Format,
    /// Output features, of all matrices together.
    pub rows: usize,
    /// Input features.
    pub cols: usize,
    /// Matrices that share out the rows: the experts of a mixture, or 1.
    pub experts: usize,
    /// `rows · format.row_bytes(cols)` bytes.
    pub data: &'a [u8],
    /// Which value of an input each stored column is multiplied with, where columns are in another
    /// order than an input's values: a permutation of `0..cols`.
    pub columns: Option<&'a [u32]>,
    /// Of [`Format::F8_E4M3`], `[rows]`: what each row is multiplied with. None of other formats.
    pub scales: Option<&'a [f32]>,
    /// Hears of the ranges of `data` that will not be read again, while the rest is being packed:
    /// so a large matrix need not be in memory twice.
    pub consumed: Option<&'a (dyn Fn(Range<usize>) + Sync)>,
    /// Numbers of the weight, and of the inputs that it is multiplied with, may be rounded where that
    /// is faster, by at most 2⁻¹³ of the largest of 64 neighbours or 2⁻⁸ of themselves; of
    /// [`Format::F8_E4M3`] the inputs, by 2⁻⁴ of themselves or 2⁻¹⁷ of the largest of their row.
    pub rounded: bool,
}

impl<'a> WeightSource<'a> {
    /// A source whose size has been checked.
    pub fn new(format: Format, rows: usize, cols: usize, data: &'a [u8]) -> Result<Self> {
        check_size(format, rows, cols, data.len())?;
        let (experts, columns, scales, consumed, rounded) = (1, None, None, None, false);
        Ok(WeightSource { format, rows, cols, experts, data, columns, scales, consumed, rounded })
    }

    /// The same rows as `experts` matrices.
    pub fn stacked(self, experts: usize) -> Result<Self> {
        check_experts(self.rows, experts)?;
        Ok(WeightSource { experts, ..self })
    }

    /// The same, with its columns in another order, as [`WeightSource::columns`] says.
    pub fn ordered(self, columns: Option<&'a [u32]>) -> Result<Self> {
        check_columns(columns, self.cols, self.experts)?;
        Ok(WeightSource { columns, ..self })
    }

    /// The same, with a number for each row, as [`WeightSource::scales`] says.
    pub fn scaled(self, scales: Option<&'a [f32]>) -> Result<Self> {
        check_scales(self.format, scales, self.rows)?;
        Ok(WeightSource { scales, ..self })
    }

    /// The same, and `consumed` hears of what will not be read again.
    pub fn telling(self, consumed: &'a (dyn Fn(Range<usize>) + Sync)) -> Self {
        WeightSource { consumed: Some(consumed), ..self }
    }

    /// The same, and numbers may be rounded, as [`WeightSource::rounded`] says.
    pub fn rounded(self) -> Self {
        WeightSource { rounded: true, ..self }
    }

    /// Tells that `rows` will not be read again.
    pub(crate) fn consume(&self, rows: Range<usize>) {
        if let Some(consumed) = self.consumed {
            let bytes = self.data.len() / self.rows.max(1);
            consumed(rows.start * bytes..rows.end * bytes);
        }
    }

    /// The bytes of one row. Panics where `row` is not below `rows`.
    pub fn row(&self, row: usize) -> &'a [u8] {
        let bytes = self.data.len() / self.rows.max(1);
        &self.data[row * bytes..][..bytes]
    }
}

/// Dequantises one row: `src` holds `dst.len() / block_len` blocks of `format`.
///
/// The operations and their order in `f32` are those of the `gguf` Python package, so the values
/// are the same to the last bit. Lengths that do not fit are an error. What a row of
/// [`Format::F8_E4M3`] is multiplied with, the caller knows.
pub fn dequantize_row(format: Format, src: &[u8], dst: &mut [f32]) -> Result<()> {
    check_size(format, 1, dst.len(), src.len())?;
    match format {
        Format::F32 => blocks(src, dst, float::f32),
        Format::F16 => blocks(src, dst, float::f16),
        Format::BF16 => blocks(src, dst, float::bf16),
        Format::F8_E4M3 => blocks(src, dst, float::e4m3),
        Format::Q4_0 => blocks(src, dst, legacy::q4_0),
        Format::Q4_1 => blocks(src, dst, legacy::q4_1),
        Format::Q5_0 => blocks(src, dst, legacy::q5_0),
        Format::Q5_1 => blocks(src, dst, legacy::q5_1),
        Format::Q8_0 => blocks(src, dst, legacy::q8_0),
        Format::Q2_K => blocks(src, dst, k_quants::q2_k),
        Format::Q3_K => blocks(src, dst, k_quants::q3_k),
        Format::Q4_K => blocks(src, dst, k_quants::q4_k),
        Format::Q5_K => blocks(src, dst, k_quants::q5_k),
        Format::Q6_K => blocks(src, dst, k_quants::q6_k),
        Format::IQ4_NL => blocks(src, dst, iq4::iq4_nl),
        Format::IQ4_XS => blocks(src, dst, iq4::iq4_xs),
        Format::MXFP4 => blocks(src, dst, mxfp4::mxfp4),
        Format::Q4_Z => blocks(src, dst, zero_point::q4_z),
    }
    Ok(())
}

/// The rows can be shared out among so many matrices.
pub(crate) fn check_experts(rows: usize, experts: usize) -> Result<()> {
    if experts > 0 && rows.is_multiple_of(experts) {
        return Ok(());
    }
    Err(KernelError::shape("weight", format!("{rows} rows in {experts} equal matrices")))
}

/// The columns of one matrix may be in another order; each of them is there once.
pub(crate) fn check_columns(columns: Option<&[u32]>, cols: usize, experts: usize) -> Result<()> {
    let Some(columns) = columns else { return Ok(()) };
    if experts != 1 {
        return Err(KernelError::shape("weight", "a stack whose columns are in another order"));
    }
    let mut seen = vec![false; cols];
    let once = |&column: &u32| {
        let place = seen.get_mut(column as usize);
        place.is_some_and(|seen| !std::mem::replace(seen, true))
    };
    match columns.len() == cols && columns.iter().all(once) {
        true => Ok(()),
        false => {
            Err(KernelError::shape("weight", format!("an order that is none of {cols} columns")))
        }
    }
}

/// Each row has a finite number of its own, where the format asks for them.
pub(crate) fn check_scales(format: Format, scales: Option<&[f32]>, rows: usize) -> Result<()> {
    let wrong = |what| Err(KernelError::shape("weight", what));
    match (format, scales) {
        (Format::F8_E4M3, Some(scales)) if scales.len() != rows => {
            wrong(format!("{} scales of {rows} rows", scales.len()))
        }
        (Format::F8_E4M3, Some(scales)) if !scales.iter().all(|scale| scale.is_finite()) => {
            wrong("a scale that is no number".into())
        }
        (Format::F8_E4M3, None) => wrong(format!("{format} without scales of its rows")),
        (Format::F8_E4M3, Some(_)) | (_, None) => Ok(()),
        (_, Some(_)) => wrong(format!("{format} with scales of its rows")),
    }
}

/// Holds the number of bytes against the format and the shape.
fn check_size(format: Format, rows: usize, cols: usize, got: usize) -> Result<()> {
    let Some(expected) = format.row_bytes(cols).and_then(|b| b.checked_mul(rows)) else {
        let block = format.block_len();
        return Err(KernelError::shape(
            "weight",
            format!("{rows} rows of {cols} values cannot be stored in {format} blocks of {block}"),
        ));
    };
    if expected != got {
        return Err(KernelError::WeightSize { format, rows, cols, expected, got });
    }
    Ok(())
}

/// Applies the dequantisation of one block to all.
fn blocks<const BYTES: usize, const LEN: usize>(
    src: &[u8],
    dst: &mut [f32],
    dequantize: impl Fn(&[u8; BYTES], &mut [f32; LEN]),
) {
    for (block, out) in src.as_chunks().0.iter().zip(dst.as_chunks_mut().0) {
        dequantize(block, out);
    }
}

/// The half-precision number at `offset` of a block.
fn scale(block: &[u8], offset: usize) -> f32 {
    f16::from_le_bytes([block[offset], block[offset + 1]]).to_f32()
}
