//! One quantised layer: its parts checked, and its weights in rows of a format of ours.

use ferrum_kernels::Format;
use half::f16;

use super::super::error::HfError;
use super::super::shards::Shards;
use super::{Method, Quantization};
use crate::safetensors::Dtype;

/// Columns of a block in the formats of ours.
const BLOCK: usize = 32;

/// Where AWQ puts row `o % 8` in a word, in nibbles from the lowest.
const AWQ_PLACES: [u32; 8] = [0, 4, 1, 5, 2, 6, 3, 7];

/// Tensors of a layer, by their numbers in [`Shards::tensors`].
#[derive(Debug, Clone, Copy, Default)]
pub(in super::super) struct Parts {
    pub qweight: Option<usize>,
    pub qzeros: Option<usize>,
    pub scales: Option<usize>,
    pub g_idx: Option<usize>,
}

/// A layer whose parts fit each other.
#[derive(Debug, Clone)]
pub(in super::super) struct Layer {
    quantization: Quantization,
    qweight: usize,
    qzeros: usize,
    scales: usize,
    /// Where columns are in any order.
    g_idx: Option<usize>,
    /// Output features.
    pub rows: usize,
    /// Input features.
    pub cols: usize,
    groups: usize,
    /// What [`Layer::decode`] makes.
    pub format: Format,
}

impl Layer {
    /// Checks types and shapes; `name` is for messages.
    pub fn new(
        quantization: Quantization,
        parts: Parts,
        shards: &Shards,
        name: &str,
    ) -> Result<Self, HfError> {
        let refuse = |reason: &str| {
            Err(HfError::Quantized { name: name.to_string(), reason: reason.to_string() })
        };
        let Parts { qweight: Some(qweight), qzeros: Some(qzeros), scales: Some(scales), g_idx } =
            parts
        else {
            return refuse("qweight, qzeros and scales are not all there");
        };
        let raw = |index: usize| &shards.tensors[index].raw;
        let matrix = |index: usize| match raw(index).shape.as_slice() {
            [a, b] if *a > 0 && *b > 0 => Some((*a, *b)),
            _ => None,
        };
        let (Some(words), Some(zeros), Some((groups, rows))) =
            (matrix(qweight), matrix(qzeros), matrix(scales))
        else {
            return refuse("qweight, qzeros and scales are not all matrices");
        };
        let whole = [raw(qweight).dtype, raw(qzeros).dtype].iter().all(|d| *d == Dtype::I32);
        if !whole || raw(scales).dtype.format().is_none() {
            return refuse("the types are not those of whole numbers and scales");
        }
        let per_word = (32 / quantization.bits) as usize;
        let cols = match quantization.method {
            Method::Gptq { .. } => words.0.checked_mul(per_word),
            Method::Awq => Some(words.0),
        };
        let Some(cols) = cols else { return refuse("it is too large") };
        let fits = match quantization.method {
            Method::Gptq { .. } => words.1 == rows,
            Method::Awq => words.1.checked_mul(per_word) == Some(rows),
        };
        let group = quantization.group.unwrap_or(cols);
        if !fits || zeros != (groups, rows.div_ceil(per_word)) || cols.div_ceil(group) != groups {
            return refuse("the shapes of qweight, qzeros and scales do not fit each other");
        }
        let mut layer = Layer {
            quantization,
            qweight,
            qzeros,
            scales,
            g_idx: None,
            rows,
            cols,
            groups,
            format: Format::F16,
        };
        if let Some(index) = g_idx {
            if raw(index).shape != [cols] || raw(index).dtype != Dtype::I32 {
                return refuse("g_idx has not one whole number for each column");
            }
            let order: Vec<usize> =
                i32s(shards.data(&shards.tensors[index])).map(|g| g as usize).collect();
            if order.iter().any(|g| *g >= groups) {
                return refuse("g_idx names a group that there is not");
            }
            let plain = order.iter().enumerate().all(|(i, g)| *g == i / group);
            if !plain && !quantization.act_order {
                return refuse("g_idx puts columns in another order, though desc_act is false");
            }
            layer.g_idx = (!plain).then_some(index);
        }
        layer.format = layer.best_format(group);
        Ok(layer)
    }

    /// The format that loses nothing and is computed with as it is, where there is one: half
    /// precision else, in which the weights were computed when the model was made.
    fn best_format(&self, group: usize) -> Format {
        let blocks = group.is_multiple_of(BLOCK) && self.cols.is_multiple_of(BLOCK);
        match (self.quantization.bits, self.quantization.symmetric) {
            _ if !blocks || self.g_idx.is_some() => Format::F16,
            (4, true) => Format::Q4_0,
            (4, false) => Format::Q4_Z,
            (8, true) => Format::Q8_0,
            _ => Format::F16,
        }
    }

    /// The weights: `rows` rows of `cols` values in [`Layer::format`].
    pub fn decode(&self, shards: &Shards, name: &str) -> Result<Vec<u8>, HfError> {
        let refuse = |reason: &str| {
            Err(HfError::Quantized { name: name.to_string(), reason: reason.to_string() })
        };
        let tables = Tables::read(self, shards);
        let middle = 1 << (self.quantization.bits - 1);
        if matches!(self.format, Format::Q4_0 | Format::Q8_0)
            && tables.zeros.iter().any(|z| *z != middle)
        {
            return refuse("it is said to be symmetric, but has other zero points");
        }
        if self.format == Format::F16 {
            return Ok(self.halves(&tables));
        }
        if tables.scales.iter().any(|d| f16::from_f32(*d).to_f32() != *d) {
            return refuse("its scales do not fit half precision");
        }
        Ok(self.blocks(&tables))
    }

    /// Numbers `q` of 32 columns from `first`, of one row.
    fn codes(&self, tables: &Tables<'_>, row: usize, first: usize) -> [u8; BLOCK] {
        let bits = self.quantization.bits;
        let (per_word, mask) = ((32 / bits) as usize, (1u32 << bits) - 1);
        std::array::from_fn(|i| {
            let column = first + i;
            let (at, shift) = match self.quantization.method {
                Method::Gptq { .. } => {
                    (column / per_word * self.rows + row, bits * (column % per_word) as u32)
                }
                Method::Awq => {
                    (column * (self.rows / per_word) + row / per_word, 4 * AWQ_PLACES[row % 8])
                }
            };
            ((tables.word(at) >> shift) & mask) as u8
        })
    }

    fn blocks(&self, tables: &Tables<'_>) -> Vec<u8> {
        let group = self.quantization.group.unwrap_or(self.cols);
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
        let group = self.quantization.group.unwrap_or(self.cols);
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
    fn read(layer: &Layer, shards: &'a Shards) -> Self {
        let data = |index: usize| shards.data(&shards.tensors[index]);
        let Quantization { method, bits, .. } = layer.quantization;
        let (per_word, mask) = ((32 / bits) as usize, (1u32 << bits) - 1);
        let mut scales = vec![0.0; layer.groups * layer.rows];
        // Shapes and types were checked.
        if let Some(format) = shards.tensors[layer.scales].raw.dtype.format() {
            let read =
                ferrum_kernels::weight::dequantize_row(format, data(layer.scales), &mut scales);
            debug_assert!(read.is_ok());
        }
        let stored: Vec<u32> = i32s(data(layer.qzeros)).collect();
        let row_words = layer.rows.div_ceil(per_word);
        let zeros = (0..layer.groups * layer.rows)
            .map(|at| {
                let (group, row) = (at / layer.rows, at % layer.rows);
                let word = stored[group * row_words + row / per_word];
                let z = match method {
                    Method::Awq => word >> (4 * AWQ_PLACES[row % 8]),
                    Method::Gptq { zeros_less_one } => {
                        let z = word >> (bits * (row % per_word) as u32);
                        z.wrapping_add(u32::from(zeros_less_one))
                    }
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
