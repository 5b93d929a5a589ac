//! A layer of whole numbers in 32-bit words: GPTQ, AWQ and compressed-tensors.

use ferrum_kernels::Format;
use half::f16;

use super::super::shards::Shards;
use super::layer::{Parts, read_floats};
use super::{Method, Scheme};
use crate::safetensors::Dtype;

/// Columns of a block in the formats of ours.
const BLOCK: usize = 32;

/// Where AWQ puts row `o % 8` in a word, in nibbles from the lowest.
const AWQ_PLACES: [u32; 8] = [0, 4, 1, 5, 2, 6, 3, 7];

/// A layer whose parts fit each other.
#[derive(Debug, Clone)]
pub(super) struct Packed {
    scheme: Scheme,
    qweight: usize,
    /// Not there where the middle of the range is meant.
    qzeros: Option<usize>,
    scales: usize,
    /// Where columns are in any order.
    g_idx: Option<usize>,
    /// Output features.
    pub rows: usize,
    /// Input features.
    pub cols: usize,
    groups: usize,
    /// What [`Packed::decode`] makes.
    pub format: Format,
}

/// The sizes of a layer by its tensors.
struct Sizes {
    rows: usize,
    cols: usize,
    groups: usize,
}

impl Packed {
    /// Checks types and shapes.
    pub fn new(scheme: Scheme, parts: Parts, shards: &Shards) -> Result<Self, String> {
        let Parts { qweight: Some(qweight), qzeros, scales: Some(scales), g_idx, shape } = parts
        else {
            return Err("weights and scales are not all there".into());
        };
        if qzeros.is_none() && !(scheme.method == Method::Compressed && scheme.symmetric) {
            return Err("weights, zero points and scales are not all there".into());
        }
        let dtype = |index: usize| shards.tensors[index].raw.dtype;
        let whole = [Some(qweight), qzeros].into_iter().flatten().all(|i| dtype(i) == Dtype::I32);
        if !whole || dtype(scales).format().is_none() {
            return Err("the types are not those of whole numbers and scales".into());
        }
        let sizes = sizes(&scheme, [Some(qweight), qzeros, Some(scales), shape], shards);
        let Sizes { rows, cols, groups } =
            sizes.ok_or("the shapes of weights, zero points and scales do not fit each other")?;
        let format = Format::F16;
        let mut layer =
            Packed { scheme, qweight, qzeros, scales, g_idx: None, rows, cols, groups, format };
        if let Some(index) = g_idx {
            let plain = order(&layer, index, shards)?;
            layer.g_idx = (!plain).then_some(index);
        }
        layer.format = layer.best_format(scheme.group.unwrap_or(cols));
        Ok(layer)
    }

    /// The format that loses nothing and is computed with as it is, where there is one: half
    /// precision else, in which the weights were computed when the model was made.
    fn best_format(&self, group: usize) -> Format {
        let blocks = group.is_multiple_of(BLOCK) && self.cols.is_multiple_of(BLOCK);
        match (self.scheme.bits, self.scheme.symmetric) {
            _ if !blocks || self.g_idx.is_some() => Format::F16,
            (4, true) => Format::Q4_0,
            (4, false) => Format::Q4_Z,
            (8, true) => Format::Q8_0,
            _ => Format::F16,
        }
    }

    /// The weights: `rows` rows of `cols` values in [`Packed::format`].
    pub fn decode(&self, shards: &Shards) -> Result<Vec<u8>, String> {
        let tables = Tables::read(self, shards);
        let middle = 1 << (self.scheme.bits - 1);
        if matches!(self.format, Format::Q4_0 | Format::Q8_0)
            && tables.zeros.iter().any(|z| *z != middle)
        {
            return Err("it is said to be symmetric, but has other zero points".into());
        }
        if self.format == Format::F16 {
            return Ok(self.halves(&tables));
        }
        // Those of compressed-tensors have the type of the model that they were made of, of more range
        // or digits: they are rounded, as a weight in half precision would be.
        let rounded = self.scheme.method == Method::Compressed;
        let fits = |d: f32| match f16::from_f32(d) {
            half if rounded => half.is_finite(),
            half => half.to_f32() == d,
        };
        if !tables.scales.iter().all(|d| fits(*d)) {
            return Err("its scales do not fit half precision".into());
        }
        Ok(self.blocks(&tables))
    }

    /// Numbers `q` of 32 columns from `first`, which is a multiple of 32, of one row.
    fn codes(&self, tables: &Tables<'_>, row: usize, first: usize) -> [u8; BLOCK] {
        let bits = self.scheme.bits;
        let (per_word, mask) = ((32 / bits) as usize, (1u32 << bits) - 1);
        let mut codes = [0; BLOCK];
        match self.scheme.method {
            // A word holds some columns of a row.
            Method::Gptq { .. } => {
                for (i, codes) in codes.chunks_exact_mut(per_word).enumerate() {
                    let mut word = tables.word((first / per_word + i) * self.rows + row);
                    for q in codes {
                        *q = (word & mask) as u8;
                        word >>= bits;
                    }
                }
            }
            // Likewise, and rows lie one after the other.
            Method::Compressed => {
                let row_words = self.cols.div_ceil(per_word);
                for (i, codes) in codes.chunks_exact_mut(per_word).enumerate() {
                    let at = first / per_word + i;
                    let mut word =
                        if at < row_words { tables.word(row * row_words + at) } else { 0 };
                    for q in codes {
                        *q = (word & mask) as u8;
                        word >>= bits;
                    }
                }
            }
            // A word holds eight rows of a column.
            Method::Awq | Method::Bytes { .. } => {
                let (row_words, shift) = (self.rows / per_word, 4 * AWQ_PLACES[row % 8]);
                for (i, q) in codes.iter_mut().enumerate() {
                    let word = tables.word((first + i) * row_words + row / per_word);
                    *q = ((word >> shift) & mask) as u8;
                }
            }
        }
        codes
    }

    fn blocks(&self, tables: &Tables<'_>) -> Vec<u8> {
        let group = self.scheme.group.unwrap_or(self.cols);
        let mut out = Vec::with_capacity(self.rows * self.cols / BLOCK * self.format.block_bytes());
        for row in 0..self.rows {
            for first in (0..self.cols).step_by(BLOCK) {
                let at = first / group * self.rows + row;
                let codes = self.codes(tables, row, first);
                out.extend(f16::from_f32(tables.scales[at]).to_le_bytes());
                match self.format {
                    Format::Q8_0 => out.extend(codes.map(|q| q ^ 0x80)),
                    format => {
                        if format == Format::Q4_Z {
                            out.push(tables.zeros[at]);
                        }
                        let (low, high) = codes.split_at(BLOCK / 2);
                        out.extend(low.iter().zip(high).map(|(low, high)| low | high << 4));
                    }
                }
            }
        }
        out
    }

    fn halves(&self, tables: &Tables<'_>) -> Vec<u8> {
        let group = self.scheme.group.unwrap_or(self.cols);
        let mut out = Vec::with_capacity(self.rows * self.cols * 2);
        for row in 0..self.rows {
            for first in (0..self.cols).step_by(BLOCK) {
                let codes = self.codes(tables, row, first);
                for (column, q) in (first..self.cols).zip(codes) {
                    let of_column = tables.order.as_ref().map_or(column / group, |g| g[column]);
                    let at = of_column * self.rows + row;
                    let value = f32::from(i16::from(q) - i16::from(tables.zeros[at]));
                    out.extend(f16::from_f32(tables.scales[at] * value).to_le_bytes());
                }
            }
        }
        out
    }
}

/// What the shapes of weights, zero points, scales and of the shape itself say; `None` where they do
/// not fit each other.
fn sizes(scheme: &Scheme, tensors: [Option<usize>; 4], shards: &Shards) -> Option<Sizes> {
    let [qweight, qzeros, scales, shape] = tensors;
    let dims = |index: usize| shards.tensors[index].raw.shape.as_slice();
    let matrix = |index: usize| match dims(index) {
        [a, b] if *a > 0 && *b > 0 => Some((*a, *b)),
        _ => None,
    };
    let per_word = (32 / scheme.bits) as usize;
    let words = matrix(qweight?)?;
    let (rows, cols) = match scheme.method {
        Method::Gptq { .. } => (words.1, words.0.checked_mul(per_word)?),
        Method::Awq | Method::Bytes { .. } => (words.1.checked_mul(per_word)?, words.0),
        Method::Compressed => match shape {
            Some(index) => stated(shards, index)?,
            None => (words.0, words.1.checked_mul(per_word)?),
        },
    };
    let groups = cols.div_ceil(scheme.group.unwrap_or(cols));
    let zeros = qzeros.map(matrix);
    if scheme.method != Method::Compressed {
        let fits = zeros == Some(Some((groups, rows.div_ceil(per_word))))
            && matrix(scales?)? == (groups, rows);
        return fits.then_some(Sizes { rows, cols, groups });
    }
    let one = groups == 1 && dims(scales?).iter().product::<usize>() == 1;
    let fits = words == (rows, cols.div_ceil(per_word))
        && zeros.is_none_or(|zeros| zeros == Some((rows.div_ceil(per_word), groups)))
        && (one || matrix(scales?)? == (rows, groups));
    fits.then_some(Sizes { rows, cols, groups })
}

/// Rows and columns as `weight_shape` states them.
fn stated(shards: &Shards, index: usize) -> Option<(usize, usize)> {
    let tensor = &shards.tensors[index];
    let number = |bytes: &[u8; 8]| usize::try_from(i64::from_le_bytes(*bytes)).ok();
    let numbers = match tensor.raw.dtype {
        Dtype::I64 => shards.data(tensor).as_chunks().0.iter().map(number).collect(),
        Dtype::I32 => i32s(shards.data(tensor)).map(|n| usize::try_from(n).ok()).collect(),
        _ => return None,
    };
    let numbers: Vec<Option<usize>> = numbers;
    match numbers[..] {
        [Some(rows), Some(cols)] if rows > 0 && cols > 0 => Some((rows, cols)),
        _ => None,
    }
}

/// Whether `g_idx` leaves the columns in order; why it cannot be used.
fn order(layer: &Packed, index: usize, shards: &Shards) -> Result<bool, &'static str> {
    let tensor = &shards.tensors[index];
    if tensor.raw.shape != [layer.cols] || tensor.raw.dtype != Dtype::I32 {
        return Err("g_idx has not one whole number for each column");
    }
    let group = layer.scheme.group.unwrap_or(layer.cols);
    let order: Vec<usize> = i32s(shards.data(tensor)).map(|g| g as usize).collect();
    if order.iter().any(|g| *g >= layer.groups) {
        return Err("g_idx names a group that there is not");
    }
    let plain = order.iter().enumerate().all(|(i, g)| *g == i / group);
    if !plain && !layer.scheme.act_order {
        return Err("g_idx puts columns in another order, though desc_act is false");
    }
    Ok(plain)
}

/// The parts of a layer, read.
struct Tables<'a> {
    words: &'a [u8],
    /// `[groups, rows]`
    scales: Vec<f32>,
    /// Likewise.
    zeros: Vec<u8>,
    /// Group of each column, where it is not that of its place.
    order: Option<Vec<usize>>,
}

impl<'a> Tables<'a> {
    fn read(layer: &Packed, shards: &'a Shards) -> Self {
        let data = |index: usize| shards.data(&shards.tensors[index]);
        let Scheme { method, bits, .. } = layer.scheme;
        let (per_word, mask) = ((32 / bits) as usize, (1u32 << bits) - 1);
        let mut scales = read_floats(shards, layer.scales);
        if method == Method::Compressed {
            // One scale for all, or those of a row one after the other.
            let stored = |at: usize| match scales.as_slice() {
                [one] => *one,
                all => all[at % layer.rows * layer.groups + at / layer.rows],
            };
            scales = (0..layer.groups * layer.rows).map(stored).collect();
        }
        let stored: Vec<u32> = layer.qzeros.map_or(Vec::new(), |index| i32s(data(index)).collect());
        let row_words = layer.rows.div_ceil(per_word);
        let zeros = (0..layer.groups * layer.rows)
            .map(|at| {
                let (group, row) = (at / layer.rows, at % layer.rows);
                let shift = bits * (row % per_word) as u32;
                let z = match method {
                    _ if stored.is_empty() => 1 << (bits - 1),
                    Method::Awq | Method::Bytes { .. } => {
                        stored[group * row_words + row / per_word] >> (4 * AWQ_PLACES[row % 8])
                    }
                    Method::Gptq { zeros_less_one } => {
                        let z = stored[group * row_words + row / per_word] >> shift;
                        z.wrapping_add(u32::from(zeros_less_one))
                    }
                    Method::Compressed => stored[row / per_word * layer.groups + group] >> shift,
                };
                (z & mask) as u8
            })
            .collect();
        let order = layer.g_idx.map(|index| i32s(data(index)).map(|g| g as usize).collect());
        Tables { words: data(layer.qweight), scales, zeros, order }
    }

    /// Word `at`; zero beyond the end, where a row's last block has columns that it lacks.
    fn word(&self, at: usize) -> u32 {
        match self.words.get(4 * at..).and_then(<[u8]>::first_chunk) {
            Some(bytes) => u32::from_le_bytes(*bytes),
            None => 0,
        }
    }
}

/// Whole numbers of 32 bits.
fn i32s(bytes: &[u8]) -> impl Iterator<Item = u32> {
    bytes.as_chunks().0.iter().map(|b| u32::from_le_bytes(*b))
}
