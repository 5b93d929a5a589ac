//! A layer of whole numbers in 32-bit words: GPTQ, AWQ and compressed-tensors.

use std::ops::Range;

use ferrum_kernels::Format;
use half::f16;

use super::super::shards::Shards;
use super::layer::{Parts, Rows};
use super::tables::{AWQ_PLACES, Tables, groups_of, i32s, spread};
use super::{Scheme, Words};
use crate::safetensors::Dtype;

/// Columns of a block in the formats of ours.
pub(super) const BLOCK: usize = 32;

/// Rows that are unpacked at a time: their words are whole cache lines of GPTQ's, and half of AWQ's. A
/// multiple of eight.
const TILE: usize = 64;

/// Rows whose blocks are written at a time where columns stay in order: their words are a kilobyte of
/// GPTQ's, read in one go, and the lines of theirs that are being written stay in the cache.
const BLOCKS_TILE: usize = 256;

/// Between unpacked rows, which would share a few sets of the cache if they lay at powers of two.
const PADDING: usize = 64;

/// A layer whose parts fit each other.
#[derive(Debug, Clone)]
pub(super) struct Packed {
    pub words: Words,
    pub scheme: Scheme,
    pub qweight: usize,
    /// Not there where the middle of the range is meant.
    pub qzeros: Option<usize>,
    pub scales: usize,
    /// Where columns are in any order.
    pub g_idx: Option<usize>,
    /// The columns by their groups, where they are stored so.
    pub columns: Option<Vec<u32>>,
    /// Output features.
    pub rows: usize,
    /// Input features.
    pub cols: usize,
    pub groups: usize,
    /// What [`Packed::decode`] writes.
    pub format: Format,
}

/// The sizes of a layer by its tensors.
struct Sizes {
    rows: usize,
    cols: usize,
    groups: usize,
}

impl Packed {
    /// Checks types and shapes. `movable`: columns may come in another order.
    pub fn new(
        (words, scheme): (Words, Scheme),
        parts: Parts,
        movable: bool,
        shards: &Shards,
    ) -> Result<Self, String> {
        let Parts { qweight: Some(qweight), qzeros, scales: Some(scales), g_idx, shape } = parts
        else {
            return Err("weights and scales are not all there".into());
        };
        if qzeros.is_none() && !(words == Words::Compressed && scheme.symmetric) {
            return Err("weights, zero points and scales are not all there".into());
        }
        let dtype = |index: usize| shards.tensors[index].raw.dtype;
        let whole = [Some(qweight), qzeros].into_iter().flatten().all(|i| dtype(i) == Dtype::I32);
        if !whole || dtype(scales).format().is_none() {
            return Err("the types are not those of whole numbers and scales".into());
        }
        let tensors = [Some(qweight), qzeros, Some(scales), shape];
        let sizes = sizes((words, &scheme), tensors, shards);
        let Sizes { rows, cols, groups } =
            sizes.ok_or("the shapes of weights, zero points and scales do not fit each other")?;
        let (format, columns) = (Format::F16, None);
        let mut layer = Packed {
            words,
            scheme,
            qweight,
            qzeros,
            scales,
            g_idx: None,
            columns,
            rows,
            cols,
            groups,
            format,
        };
        let order = g_idx.map(|index| order(&layer, index, shards)).transpose()?.flatten();
        if let Some(group_of) = order {
            layer.g_idx = g_idx;
            layer.columns = if movable { by_group(&group_of) } else { None };
        }
        layer.format = layer.best_format();
        if layer.format == Format::F16 {
            layer.columns = None;
        }
        Ok(layer)
    }

    /// The format that loses nothing and is computed with as it is, where there is one: half
    /// precision else, in which the weights were computed when the model was made.
    fn best_format(&self) -> Format {
        let blocks = match self.g_idx {
            Some(_) => self.columns.is_some(),
            None => self.group().is_multiple_of(BLOCK),
        };
        match (self.scheme.bits, self.scheme.symmetric) {
            _ if !blocks || !self.cols.is_multiple_of(BLOCK) => Format::F16,
            (4, true) => Format::Q4_0,
            (4, false) => Format::Q4_Z,
            (8, true) => Format::Q8_0,
            _ => Format::F16,
        }
    }

    /// Columns that have a scale.
    pub(super) fn group(&self) -> usize {
        self.scheme.group.unwrap_or(self.cols)
    }

    /// Of how many rows a part of the weights begins at a multiple.
    pub fn row_step(&self) -> usize {
        match self.words {
            Words::Awq => 8,
            _ => 1,
        }
    }

    /// Writes some of the weights, from row `first` on: rows of `cols` values in [`Packed::format`].
    pub fn decode(&self, shards: &Shards, first: usize, out: Rows<'_>) -> Result<(), String> {
        let tables = Tables::read(self, shards)?;
        let (row_bytes, last) = (out.row_bytes(), first + out.count());
        let stride = self.cols.next_multiple_of(BLOCK) + PADDING;
        let halves = self.format == Format::F16;
        let tile = if halves || self.columns.is_some() { TILE } else { BLOCKS_TILE };
        out.make(tile, |start, out| {
            let mut codes = vec![0; if halves { TILE * stride } else { 0 }];
            let tiles = out.chunks_mut(tile * row_bytes);
            for (first, out) in (first + start..).step_by(tile).zip(tiles) {
                let rows = first..last.min(first + tile);
                if !halves {
                    self.write_blocks(&tables, rows, out);
                    continue;
                }
                self.unpack(&tables, rows.clone(), &mut codes, stride);
                let places = codes.chunks_exact(stride).zip(out.chunks_exact_mut(row_bytes));
                for (row, (codes, out)) in rows.zip(places) {
                    self.halves(&tables, row, codes, out);
                }
            }
            Ok(())
        })
    }

    /// Numbers `q` of some rows, the first a multiple of eight: `[TILE][stride]`.
    fn unpack(&self, tables: &Tables<'_>, rows: Range<usize>, codes: &mut [u8], stride: usize) {
        let (bits, per_word) = (self.scheme.bits, (32 / self.scheme.bits) as usize);
        match self.words {
            // A word holds some columns of a row.
            Words::Gptq { .. } => {
                for (i, words) in tables.words.chunks_exact(self.rows).enumerate() {
                    let places = codes[i * per_word..].chunks_mut(stride);
                    for (word, place) in words[rows.clone()].iter().zip(places) {
                        put(*word, bits, place);
                    }
                }
            }
            // Likewise, and rows lie one after the other.
            Words::Compressed => {
                let row_words = self.cols.div_ceil(per_word);
                for (row, codes) in rows.zip(codes.chunks_exact_mut(stride)) {
                    let words = &tables.words[row * row_words..][..row_words];
                    for (word, place) in words.iter().zip(codes.chunks_mut(per_word)) {
                        put(*word, bits, place);
                    }
                }
            }
            // A word holds eight rows of a column.
            Words::Awq => {
                let words = rows.start / per_word..rows.end / per_word;
                for (column, all) in tables.words.chunks_exact(self.rows / per_word).enumerate() {
                    let eights = codes.chunks_exact_mut(per_word * stride);
                    for (word, eight) in all[words.clone()].iter().zip(eights) {
                        let spread = spread(*word).to_le_bytes();
                        for (r, place) in AWQ_PLACES.into_iter().enumerate() {
                            eight[r * stride + column] = spread[usize::from(place)];
                        }
                    }
                }
            }
        }
    }

    /// Writes a row in half precision.
    fn halves(&self, tables: &Tables<'_>, row: usize, codes: &[u8], out: &mut [u8]) {
        let group = self.group();
        for (column, (q, out)) in codes.iter().zip(out.as_chunks_mut().0).enumerate() {
            let at = tables.group(column, group) * self.rows + row;
            let value = f32::from(i16::from(*q) - i16::from(tables.zeros[at]));
            *out = f16::from_f32(tables.scales[at] * value).to_le_bytes();
        }
    }
}

/// Writes the numbers in a word, the lowest first: eight of four bits, or four of eight.
fn put(word: [u8; 4], bits: u32, place: &mut [u8]) {
    match bits {
        4 => place[..8].copy_from_slice(&spread(word).to_le_bytes()),
        _ => place[..4].copy_from_slice(&word),
    }
}

/// What the shapes of weights, zero points, scales and of the shape itself say; `None` where they do
/// not fit each other.
fn sizes(
    (kind, scheme): (Words, &Scheme),
    tensors: [Option<usize>; 4],
    shards: &Shards,
) -> Option<Sizes> {
    let [qweight, qzeros, scales, shape] = tensors;
    let dims = |index: usize| shards.tensors[index].raw.shape.as_slice();
    let matrix = |index: usize| match dims(index) {
        [a, b] if *a > 0 && *b > 0 => Some((*a, *b)),
        _ => None,
    };
    let per_word = (32 / scheme.bits) as usize;
    let words = matrix(qweight?)?;
    let (rows, cols) = match kind {
        Words::Gptq { .. } => (words.1, words.0.checked_mul(per_word)?),
        Words::Awq => (words.1.checked_mul(per_word)?, words.0),
        Words::Compressed => match shape {
            Some(index) => stated(shards, index)?,
            None => (words.0, words.1.checked_mul(per_word)?),
        },
    };
    let groups = cols.div_ceil(scheme.group.unwrap_or(cols));
    let zeros = qzeros.map(matrix);
    if kind != Words::Compressed {
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

/// The group of each column, `None` where `g_idx` leaves the columns in order; why it cannot be used.
fn order(
    layer: &Packed,
    index: usize,
    shards: &Shards,
) -> Result<Option<Vec<usize>>, &'static str> {
    let tensor = &shards.tensors[index];
    if tensor.raw.shape != [layer.cols] || tensor.raw.dtype != Dtype::I32 {
        return Err("g_idx has not one whole number for each column");
    }
    let group = layer.scheme.group.unwrap_or(layer.cols);
    let order = groups_of(shards, index);
    if order.iter().any(|g| *g >= layer.groups) {
        return Err("g_idx names a group that there is not");
    }
    let plain = order.iter().enumerate().all(|(i, g)| *g == i / group);
    if !plain && !layer.scheme.act_order {
        return Err("g_idx puts columns in another order, though desc_act is false");
    }
    Ok((!plain).then_some(order))
}

/// The columns by their groups, and within a group in order; `None` where groups are then no whole
/// blocks.
fn by_group(group_of: &[usize]) -> Option<Vec<u32>> {
    let mut columns: Vec<u32> = (0..u32::try_from(group_of.len()).ok()?).collect();
    columns.sort_by_key(|column| group_of[*column as usize]);
    let group = |column: &u32| group_of[*column as usize];
    let whole =
        |block: &[u32]| block.len() == BLOCK && group(&block[0]) == group(&block[BLOCK - 1]);
    columns.chunks(BLOCK).all(whole).then_some(columns)
}
