//! The part of a tensor that a weight is made of, as bytes.

use std::borrow::Cow;
use std::ops::Range;

use ferrum_kernels::Format;

use crate::checkpoint::Tensor;

/// Some rows and columns of each of a tensor's matrices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Cut {
    /// Matrices in the tensor.
    pub experts: usize,
    /// Rows of each.
    pub rows: Range<usize>,
    /// Columns, in whole blocks.
    pub cols: Range<usize>,
    /// A row of zeros is added behind them.
    pub zeros: bool,
}

impl Cut {
    /// All of a tensor with so many matrices.
    pub fn whole(tensor: &Tensor<'_>, experts: usize) -> Cut {
        let rows = tensor.rows() / experts.max(1);
        Cut { experts, rows: 0..rows, cols: 0..tensor.cols(), zeros: false }
    }

    /// Rows of all matrices together.
    pub fn total_rows(&self) -> usize {
        self.experts * self.rows.len() + usize::from(self.zeros)
    }

    /// The rows that have to be read, of all of the tensor's.
    pub fn span(&self, tensor: &Tensor<'_>) -> Range<usize> {
        if self.experts == 1 { self.rows.clone() } else { 0..tensor.rows() }
    }

    /// The rows, of all of the tensor's, matrix by matrix.
    fn row_ranges(&self, tensor: &Tensor<'_>) -> impl Iterator<Item = Range<usize>> {
        let matrix = tensor.rows() / self.experts.max(1);
        let at = move |expert: usize, i: usize| expert * matrix + i;
        let Range { start, end } = self.rows;
        (0..self.experts).map(move |expert| at(expert, start)..at(expert, end))
    }

    /// Where the rows lie in the tensor's bytes, matrix by matrix, with all of their columns.
    pub fn ranges(&self, tensor: &Tensor<'_>) -> Vec<Range<usize>> {
        let row = bytes_of(tensor.format, tensor.cols());
        self.row_ranges(tensor).map(|rows| rows.start * row..rows.end * row).collect()
    }

    /// Of numbers of all of the tensor's rows, those of these.
    pub fn of_rows(&self, tensor: &Tensor<'_>, numbers: &[f32]) -> Vec<f32> {
        let mut own = Vec::with_capacity(self.total_rows());
        for rows in self.row_ranges(tensor) {
            own.extend_from_slice(numbers.get(rows).unwrap_or_default());
        }
        // What is added is zero times anything.
        own.extend(self.zeros.then_some(1.0));
        own
    }

    /// The bytes, of those of [`Cut::span`]: a copy unless they lie in one piece.
    pub fn bytes<'a>(&self, tensor: &Tensor<'_>, data: &'a [u8]) -> Cow<'a, [u8]> {
        let all_columns = self.cols == (0..tensor.cols());
        let one_piece = self.experts == 1 || self.experts * self.rows.len() == tensor.rows();
        if one_piece && all_columns && !self.zeros {
            return Cow::Borrowed(data);
        }
        let row = bytes_of(tensor.format, tensor.cols());
        let before = self.span(tensor).start * row;
        let cols = bytes_of(tensor.format, self.cols.start)..bytes_of(tensor.format, self.cols.end);
        let mut copy = Vec::with_capacity(self.total_rows() * cols.len());
        for Range { start, end } in self.ranges(tensor) {
            let rows = data.get(start - before..end - before).unwrap_or_default();
            rows.chunks_exact(row.max(1))
                .for_each(|row| copy.extend_from_slice(&row[cols.clone()]));
        }
        if self.zeros {
            // A block of zero bytes has a scale of zero, in every format.
            copy.resize(copy.len() + cols.len(), 0);
        }
        Cow::Owned(copy)
    }
}

/// Bytes of the blocks of so many values.
fn bytes_of(format: Format, values: usize) -> usize {
    values / format.block_len() * format.block_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferrum_kernels::weight::dequantize_row;

    #[test]
    fn rows_and_columns_of_each_matrix() {
        // Two matrices of 3 x 64 in blocks of 32: each block is filled with its number.
        let format = Format::Q8_0;
        let data: Vec<u8> = (0..12u8).flat_map(|block| [block; 34]).collect();
        let tensor = Tensor { format, dims: &[64, 3, 2], columns: None };
        let whole = Cut::whole(&tensor, 2);
        let read = |cut: &Cut| {
            let rows = cut.span(&tensor);
            cut.bytes(&tensor, &data[rows.start * 68..rows.end * 68])
        };
        let blocks = |cut: &Cut| -> Vec<u8> {
            let bytes = read(cut);
            assert_eq!(bytes.len(), cut.total_rows() * format.row_bytes(cut.cols.len()).unwrap());
            bytes.chunks(34).map(|block| block[5]).collect()
        };
        assert_eq!(blocks(&whole), (0..12).collect::<Vec<u8>>());
        assert_eq!(blocks(&Cut { rows: 1..3, ..whole.clone() }), [2, 3, 4, 5, 8, 9, 10, 11]);
        assert_eq!(blocks(&Cut { cols: 32..64, ..whole.clone() }), [1, 3, 5, 7, 9, 11]);
        let numbers = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0];
        let some = Cut { rows: 1..3, ..whole.clone() };
        assert_eq!(some.of_rows(&tensor, &numbers), [1.0, 2.0, 4.0, 5.0]);
        let one = Cut { experts: 1, rows: 2..4, ..whole };
        assert_eq!(one.of_rows(&tensor, &numbers), [2.0, 3.0]);
        assert!(matches!(read(&one), Cow::Borrowed(bytes) if bytes[0] == 4));
        assert_eq!(blocks(&Cut { zeros: true, ..one.clone() }), [4, 5, 6, 7, 0, 0]);
        assert_eq!(one.ranges(&tensor).first(), Some(&(4 * 34..8 * 34)));
    }

    #[test]
    fn zero_bytes_are_zeros_in_every_format() {
        for format in Format::ALL {
            let mut values = vec![1.0; format.block_len()];
            dequantize_row(format, &vec![0; format.block_bytes()], &mut values).unwrap();
            assert!(values.iter().all(|&value| value == 0.0), "{format}");
        }
    }
}
