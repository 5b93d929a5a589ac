//! How weights lie in a card's memory: the planes of `cuda/formats.cuh` and `cuda/floats.cuh`.

use crate::Format;

/// Columns that kernels work on together.
pub(super) const GROUP: usize = 32;

/// Where a plane may begin, in bytes.
const ALIGNMENT: usize = 256;

/// The plane of scales.
pub(super) const SCALES: usize = 2;

/// Bytes of a block of the file in each plane: the lower bits of codes, the bits above them, scales,
/// factors of scales. Single numbers lie in the first plane, and numbers of rows in that of scales.
const fn block_planes(format: Format) -> [usize; 4] {
    match format {
        Format::F32 => [4, 0, 0, 0],
        Format::F16 | Format::BF16 => [2, 0, 0, 0],
        Format::F8_E4M3 => [1, 0, 0, 0],
        Format::Q4_0 | Format::IQ4_NL => [16, 0, 2, 0],
        Format::Q4_1 => [16, 0, 4, 0],
        Format::Q5_0 => [16, 4, 2, 0],
        Format::Q5_1 => [16, 4, 4, 0],
        Format::Q8_0 => [32, 0, 2, 0],
        Format::Q2_K => [64, 0, 16, 4],
        Format::Q3_K => [64, 32, 12, 2],
        Format::Q4_K => [128, 0, 16, 0],
        Format::Q5_K => [128, 32, 16, 0],
        Format::Q6_K => [128, 64, 16, 2],
        Format::IQ4_XS => [128, 0, 8, 0],
        Format::MXFP4 => [16, 0, 1, 0],
        Format::Q4_Z => [16, 0, 2, 1],
    }
}

/// Columns of a weight in memory: of single numbers, zeroes fill the last group.
pub(super) fn padded(format: Format, cols: usize) -> Option<usize> {
    match format.block_len() {
        1 => cols.checked_next_multiple_of(GROUP),
        block => cols.is_multiple_of(block).then_some(cols),
    }
}

/// Where the planes of `rows` rows begin, and where the last one ends; `None` where there cannot be
/// such a weight.
pub(super) fn planes(format: Format, rows: usize, cols: usize) -> Option<([usize; 4], usize)> {
    let blocks = (padded(format, cols)? / format.block_len()).checked_mul(rows)?;
    let of_rows = if format == Format::F8_E4M3 { rows.checked_mul(size_of::<f32>())? } else { 0 };
    let mut end = 0usize;
    let mut starts = [0; 4];
    for (plane, (start, bytes)) in starts.iter_mut().zip(block_planes(format)).enumerate() {
        *start = end;
        let bytes = blocks.checked_mul(bytes)?;
        let bytes = if plane == SCALES { bytes.checked_add(of_rows)? } else { bytes };
        let bytes = bytes.checked_next_multiple_of(ALIGNMENT)?;
        end = end.checked_add(bytes)?;
    }
    Some((starts, end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn planes_have_the_bytes_of_the_file() {
        for format in Format::ALL {
            assert_eq!(
                block_planes(format).iter().sum::<usize>(),
                format.block_bytes(),
                "{format}"
            );
            let (starts, end) = planes(format, 128, 512).unwrap();
            assert_eq!(end, 128 * format.row_bytes(512).unwrap(), "{format}");
            assert!(starts.iter().all(|start| start % ALIGNMENT == 0), "{format}");
        }
    }

    #[test]
    fn odd_shapes_are_padded_or_refused() {
        assert_eq!(planes(Format::F16, 3, 23), Some(([0, 256, 256, 256], 256)));
        assert_eq!(planes(Format::F8_E4M3, 70, 33), Some(([0, 4608, 4608, 5120], 5120)));
        assert_eq!(planes(Format::Q8_0, 1, 33), None);
        assert_eq!(planes(Format::F32, usize::MAX, 3), None);
        assert_eq!(planes(Format::F16, 1, usize::MAX), None);
    }
}
