//! Words of whole numbers to the blocks of our formats.
//!
//! A block of four bits has columns `j` and `j + 16` in its byte `j`: of its four words of eight columns, the
//! third shifted by a nibble goes with the first, and the fourth with the second.

use std::ops::Range;

use super::Words;
use super::packed::{BLOCK, Packed};
use super::tables::{AWQ_PLACES, Tables, spread};

/// A word as the file has it.
type Word = [u8; 4];

/// Columns, or rows, whose numbers are brought from one order into the other at a time.
const EIGHT: usize = 8;

/// A column whose numbers are read in eights of rows.
#[derive(Clone, Copy)]
struct Column {
    /// The first word that has some, of row 0.
    word: usize,
    /// Bits before them in a word.
    shift: u32,
}

impl Packed {
    /// Writes some rows in a format of blocks; of AWQ whole eights of rows.
    pub(super) fn write_blocks(&self, tables: &Tables<'_>, rows: Range<usize>, out: &mut [u8]) {
        let four = self.scheme.bits == 4;
        match (self.words, &self.columns) {
            (Words::Awq, _) => {
                self.by_columns::<2>(tables, rows, out, AWQ_PLACES, |column, row| {
                    spread(tables.words[column.word + row / EIGHT])
                })
            }
            (_, Some(_)) => {
                let places = std::array::from_fn(|r| r as u8);
                match four {
                    true => self.by_columns::<2>(tables, rows, out, places, |column, row| {
                        self.eight_rows::<4>(tables, column, row)
                    }),
                    false => self.by_columns::<4>(tables, rows, out, places, |column, row| {
                        self.eight_rows::<8>(tables, column, row)
                    }),
                }
            }
            _ if four => self.by_rows(tables, rows, out, |words: [Word; 4], out| {
                let [a, b, c, d] = words.map(spread);
                let (first, second) = out.split_at_mut(EIGHT);
                first.copy_from_slice(&(a | c << 4).to_le_bytes());
                second.copy_from_slice(&(b | d << 4).to_le_bytes());
            }),
            _ => self.by_rows(tables, rows, out, |words: [Word; 8], out| {
                for (word, out) in words.into_iter().zip(out.chunks_exact_mut(4)) {
                    out.copy_from_slice(&word.map(|q| q ^ 0x80));
                }
            }),
        }
    }

    /// Of words that hold columns of a row, `N` for a block, in their order.
    fn by_rows<const N: usize>(
        &self,
        tables: &Tables<'_>,
        rows: Range<usize>,
        out: &mut [u8],
        write: impl Fn([Word; N], &mut [u8]),
    ) {
        let blocks = self.cols / BLOCK;
        let row_bytes = blocks * self.format.block_bytes();
        // Those of a row follow one another, or those of all rows do.
        let (along, down) = match self.words {
            Words::Compressed => (1, blocks * N),
            _ => (self.rows, 1),
        };
        for block in 0..blocks {
            let (first, group) = (block * N * along, block * BLOCK / self.group());
            for (row, out) in rows.clone().zip(out.chunks_exact_mut(row_bytes)) {
                let words = std::array::from_fn(|k| tables.words[first + k * along + row * down]);
                write(words, self.begin_block(tables, (block, group, row), out));
            }
        }
    }

    /// Column by column, in any order: `eight` gives the numbers of eight rows from some row on, each in
    /// the byte that `places` says. A block of a row has `PARTS` times eight bytes of numbers.
    fn by_columns<const PARTS: usize>(
        &self,
        tables: &Tables<'_>,
        rows: Range<usize>,
        out: &mut [u8],
        places: [u8; EIGHT],
        eight: impl Fn(Column, usize) -> u64,
    ) {
        let blocks = self.cols / BLOCK;
        let row_bytes = blocks * self.format.block_bytes();
        for block in 0..blocks {
            let column = |j: usize| match &self.columns {
                Some(columns) => columns[block * BLOCK + j] as usize,
                None => block * BLOCK + j,
            };
            let columns: [Column; BLOCK] = std::array::from_fn(|j| self.place(column(j)));
            let group = tables.group(column(0), self.group());
            let eights = out.chunks_mut(EIGHT * row_bytes);
            for (first, out) in rows.clone().step_by(EIGHT).zip(eights) {
                let byte = |j: usize| match PARTS {
                    2 => eight(columns[j], first) | eight(columns[j + BLOCK / 2], first) << 4,
                    _ => eight(columns[j], first) ^ 0x8080_8080_8080_8080,
                };
                let parts: [[u64; EIGHT]; PARTS] = std::array::from_fn(|part| {
                    transposed(std::array::from_fn(|j| byte(part * EIGHT + j)))
                });
                let rows = (first..).zip(places).zip(out.chunks_exact_mut(row_bytes));
                for ((row, place), out) in rows {
                    let out = self.begin_block(tables, (block, group, row), out);
                    for (out, part) in out.chunks_exact_mut(EIGHT).zip(&parts) {
                        out.copy_from_slice(&part[usize::from(place)].to_le_bytes());
                    }
                }
            }
        }
    }

    /// Where a column's numbers are.
    fn place(&self, column: usize) -> Column {
        let per_word = (32 / self.scheme.bits) as usize;
        let shift = self.scheme.bits * (column % per_word) as u32;
        match self.words {
            Words::Awq => Column { word: column * (self.rows / EIGHT), shift: 0 },
            Words::Compressed => Column { word: column / per_word, shift },
            Words::Gptq { .. } => Column { word: column / per_word * self.rows, shift },
        }
    }

    /// The numbers of a column, of `BITS` bits, in eight rows from this one on; any where there are no
    /// more rows.
    fn eight_rows<const BITS: u32>(&self, tables: &Tables<'_>, column: Column, row: usize) -> u64 {
        let mask = (0xff_u32 >> (8 - BITS)) as u8;
        let number = |word: Word| (u32::from_le_bytes(word) >> column.shift) as u8 & mask;
        let numbers = if self.words == Words::Compressed {
            let words_of_row = self.cols * BITS as usize / 32;
            std::array::from_fn(|r| {
                let word = tables.words.get((row + r) * words_of_row + column.word);
                word.map_or(0, |word| number(*word))
            })
        } else {
            let words = &tables.words[column.word + row..];
            match words.first_chunk::<EIGHT>() {
                Some(words) => words.map(number),
                None => std::array::from_fn(|r| words.get(r).map_or(0, |word| number(*word))),
            }
        };
        u64::from_le_bytes(numbers)
    }

    /// Writes what a block of a row begins with, and gives the place of its numbers; the row is at `out`.
    fn begin_block<'a>(
        &self,
        tables: &Tables<'_>,
        (block, group, row): (usize, usize, usize),
        out: &'a mut [u8],
    ) -> &'a mut [u8] {
        let bytes = self.format.block_bytes();
        tables.begin(self.format, group * self.rows + row, &mut out[block * bytes..][..bytes])
    }
}

/// Byte `j` of word `i` as byte `i` of word `j`, by exchanging ever larger squares beside the diagonal
/// (Warren, "Hacker's Delight", 7-3).
fn transposed(mut words: [u64; 8]) -> [u64; 8] {
    let squares =
        [(1, 0x00ff_00ff_00ff_00ff), (2, 0x0000_ffff_0000_ffff), (4, 0x0000_0000_ffff_ffff)];
    for (size, mask) in squares {
        for i in (0..8).filter(|i| i & size == 0) {
            let (a, b) = (words[i], words[i + size]);
            let other = (a >> (8 * size) ^ b) & mask;
            words[i + size] = b ^ other;
            words[i] = a ^ other << (8 * size);
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::transposed;

    #[test]
    fn bytes_change_places() {
        let word = |i: usize, to: &dyn Fn(usize, usize) -> usize| {
            u64::from_le_bytes(std::array::from_fn(|j| to(i, j) as u8))
        };
        let before = std::array::from_fn(|i| word(i, &|i, j| 10 * i + j));
        assert_eq!(transposed(before), std::array::from_fn(|i| word(i, &|i, j| 10 * j + i)));
    }
}
