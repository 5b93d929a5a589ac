//! Tensors of a file: as described in the header, and as checked against the file.

use std::ops::Range;

use ferrum_kernels::Format;

use super::error::ParseError;
use super::ggml_type;
use super::header::Header;

/// A tensor as the header describes it. Its type may be one that Ferrum cannot run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawTensor {
    /// Name, 1 to 64 bytes.
    pub name: String,
    /// 1 to 4 dimensions, innermost first, none zero; their product fits `u64`.
    pub dims: Vec<u64>,
    /// The type's id in ggml.
    pub type_id: u32,
    /// Offset of the data from [`Header::data_start`]. Not checked.
    pub offset: u64,
}

impl RawTensor {
    /// The format, where Ferrum supports it.
    pub fn format(&self) -> Option<Format> {
        ggml_type::format(self.type_id)
    }

    /// The type's name in ggml, or its number where it has no name.
    pub fn type_name(&self) -> String {
        ggml_type::name(self.type_id)
    }

    /// Number of values.
    pub fn elements(&self) -> u64 {
        self.dims.iter().product()
    }
}

/// A tensor of a supported format that lies wholly inside its file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Name, such as `blk.0.attn_q.weight`.
    pub name: String,
    /// How the values are stored.
    pub format: Format,
    /// 1 to 4 dimensions, innermost first as in the file, none zero.
    pub dims: Vec<usize>,
    /// Bytes of the data.
    pub bytes: usize,
    /// Which file of a split model holds the data.
    pub(super) file: usize,
    /// Offset of the data from the start of that file.
    pub(super) start: usize,
}

impl TensorInfo {
    /// Values of a row: the innermost dimension.
    pub fn cols(&self) -> usize {
        self.dims[0]
    }

    /// Number of rows: the product of all dimensions but the innermost.
    pub fn rows(&self) -> usize {
        self.dims[1..].iter().product()
    }

    /// Number of values.
    pub fn elements(&self) -> usize {
        self.dims.iter().product()
    }

    /// Where the data lies in its file, in bytes.
    pub fn range(&self) -> Range<usize> {
        self.start..self.start + self.bytes
    }
}

impl Header {
    /// Checks every tensor against a file of `file_len` bytes: supported type, whole blocks,
    /// alignment, inside the file, no overlap. The order is that of [`Header::tensors`].
    pub fn layout(&self, file_len: usize) -> Result<Vec<TensorInfo>, ParseError> {
        let tensors: Vec<TensorInfo> =
            self.tensors.iter().map(|t| self.place(t, file_len)).collect::<Result<_, _>>()?;
        let mut by_start: Vec<&TensorInfo> = tensors.iter().collect();
        by_start.sort_by_key(|t| t.start);
        for pair in by_start.windows(2) {
            if pair[0].range().end > pair[1].start {
                return Err(ParseError::Overlap {
                    first: pair[0].name.clone(),
                    second: pair[1].name.clone(),
                });
            }
        }
        Ok(tensors)
    }

    fn place(&self, raw: &RawTensor, file_len: usize) -> Result<TensorInfo, ParseError> {
        let name = || raw.name.clone();
        let overflow = || ParseError::Overflow { name: name(), dims: raw.dims.clone() };
        let format = raw
            .format()
            .ok_or_else(|| ParseError::TensorType { name: name(), type_name: raw.type_name() })?;

        let dims: Vec<usize> = raw
            .dims
            .iter()
            .map(|d| usize::try_from(*d).map_err(|_| overflow()))
            .collect::<Result<_, _>>()?;
        let (cols, block) = (dims[0], format.block_len());
        if !cols.is_multiple_of(block) {
            return Err(ParseError::Block { name: name(), format, cols, block });
        }
        let rows = dims[1..].iter().try_fold(1usize, |n, d| n.checked_mul(*d));
        // With a block below one byte per value the count could overflow where the bytes do not.
        let elements = rows.and_then(|r| r.checked_mul(cols));
        let row_bytes = format.row_bytes(cols);
        let bytes = rows.zip(row_bytes).and_then(|(r, b)| r.checked_mul(b));
        let (Some(bytes), Some(_)) = (bytes, elements) else { return Err(overflow()) };

        if !raw.offset.is_multiple_of(self.alignment) {
            return Err(ParseError::Unaligned {
                name: name(),
                offset: raw.offset,
                alignment: self.alignment,
            });
        }
        let start = self.data_start.checked_add(raw.offset);
        let end = start.and_then(|s| s.checked_add(bytes as u64));
        match (start, end) {
            (Some(start), Some(end)) if end <= file_len as u64 => {
                // Below `file_len`, so it fits.
                Ok(TensorInfo { name: name(), format, dims, bytes, file: 0, start: start as usize })
            }
            _ => Err(ParseError::Beyond {
                name: name(),
                bytes: bytes as u64,
                start: self.data_start.saturating_add(raw.offset),
                len: file_len as u64,
            }),
        }
    }
}
