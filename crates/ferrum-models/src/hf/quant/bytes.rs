//! A layer with a byte for each weight: whole numbers, or floats of eight bits, times a scale for a row,
//! for a block of rows and columns, or for all.
//!
//! Whole numbers with a scale for each row are Q8_0 as they are. Floats of eight bits have a wider range
//! within 32 columns than Q8_0: they are rounded to it, which keeps them at its speed, unless a device has
//! kernels for them ([`Bytes::kept`]). Perplexity of
//! SmolLM2 in fp8 (blocks of 128, 12 windows of 256): 28.05 with these weights in f32 or bf16, 28.19 in
//! Q8_0 with activations of eight bits.

use ferrum_kernels::{E4m3, Format};
use half::f16;

use super::super::shards::Shards;
use super::ByteKind;
use super::layer::{Parts, Rows, read_floats};
use crate::safetensors::Dtype;

/// Columns of a block of Q8_0.
const BLOCK: usize = 32;

/// A layer whose parts fit each other.
#[derive(Debug, Clone)]
pub(super) struct Bytes {
    kind: ByteKind,
    weights: usize,
    scales: usize,
    /// Rows and columns with one scale.
    block: [usize; 2],
    /// Output features.
    pub rows: usize,
    /// Input features.
    pub cols: usize,
    /// What [`Bytes::decode`] makes.
    pub format: Format,
}

impl Bytes {
    /// Checks types and shapes.
    pub fn new(
        kind: ByteKind,
        block: Option<[usize; 2]>,
        parts: Parts,
        shards: &Shards,
    ) -> Result<Self, String> {
        let Parts {
            qweight: Some(weights), qzeros: None, scales: Some(scales), g_idx: None, ..
        } = parts
        else {
            return Err("weights and scales, and these alone, are not there".into());
        };
        let raw = |index: usize| &shards.tensors[index].raw;
        let expected = match kind {
            ByteKind::Int => Dtype::I8,
            ByteKind::Float => Dtype::F8_E4M3,
        };
        let dtypes = (raw(weights).dtype, raw(scales).dtype);
        if dtypes.0 != expected || dtypes.1.format().is_none() {
            return Err(format!("weights of type {} with scales of type {}", dtypes.0, dtypes.1));
        }
        let &[rows, cols] = raw(weights).shape.as_slice() else {
            return Err("the weights are no matrix".into());
        };
        let stated = raw(scales).shape.as_slice();
        let block = match (block, stated) {
            (Some(block), _) => block,
            (None, shape) if shape.iter().product::<usize>() == 1 => [rows, cols],
            (None, _) => [1, cols],
        };
        let grid = [rows.div_ceil(block[0].max(1)), cols.div_ceil(block[1].max(1))];
        let one = grid == [1, 1] && stated.iter().product::<usize>() == 1;
        // A scale for each row may be a vector.
        if rows == 0 || cols == 0 || !(one || stated == grid || (grid[1] == 1 && stated == [rows]))
        {
            return Err("the shapes of weights and scales do not fit each other".into());
        }
        let blocks = cols.is_multiple_of(BLOCK)
            && (kind == ByteKind::Float || block[1] == cols || block[1].is_multiple_of(BLOCK));
        let format = if blocks { Format::Q8_0 } else { Format::F16 };
        Ok(Bytes { kind, weights, scales, block, rows, cols, format })
    }

    /// Writes some of the weights, from row `first` on: rows of `cols` values in [`Bytes::format`].
    pub fn decode(&self, shards: &Shards, first: usize, out: Rows<'_>) -> Result<(), String> {
        let scales = read_floats(shards, self.scales);
        let data = shards.data(&shards.tensors[self.weights]);
        let fits = |scale: &f32| scale.is_finite() && f16::from_f32(*scale).is_finite();
        if !scales.iter().all(fits) {
            return Err("its scales do not fit half precision".into());
        }
        let row_scales = self.cols.div_ceil(self.block[1]);
        let row_bytes = out.row_bytes();
        out.make(1, |start, out| {
            let mut made = Vec::with_capacity(row_bytes);
            for (row, out) in out.chunks_exact_mut(row_bytes).enumerate() {
                let row = first + start + row;
                let scales = &scales[row / self.block[0] * row_scales..][..row_scales];
                made.clear();
                self.row(&data[row * self.cols..][..self.cols], scales, &mut made)?;
                out.copy_from_slice(&made);
            }
            Ok(())
        })
    }

    /// Whether these are floats whose columns have no scales of their own.
    pub fn is_kept(&self) -> bool {
        self.kind == ByteKind::Float && self.block[1] >= self.cols
    }

    /// The floats as they are and a scale for each row, unless columns have their own.
    pub fn kept<'a>(&self, shards: &'a Shards) -> Option<(&'a [u8], Vec<f32>)> {
        if !self.is_kept() {
            return None;
        }
        let stored = read_floats(shards, self.scales);
        let of_row = |row: usize| stored.get(row / self.block[0]).copied();
        let scales = (0..self.rows).map(of_row).collect::<Option<Vec<f32>>>()?;
        Some((shards.data(&shards.tensors[self.weights]), scales))
    }

    /// Makes a row of its bytes, with a scale for each so many columns.
    fn row(&self, bytes: &[u8], scales: &[f32], out: &mut Vec<u8>) -> Result<(), String> {
        for (i, bytes) in bytes.chunks(BLOCK).enumerate() {
            let scale = |j: usize| scales[(i * BLOCK + j) / self.block[1]];
            match (self.kind, self.format) {
                (ByteKind::Int, Format::Q8_0) => {
                    out.extend(f16::from_f32(scale(0)).to_le_bytes());
                    out.extend(bytes);
                }
                (_, Format::Q8_0) => self.round(bytes, scale, out)?,
                _ => {
                    for (j, byte) in bytes.iter().enumerate() {
                        out.extend(f16::from_f32(self.value(*byte)? * scale(j)).to_le_bytes());
                    }
                }
            }
        }
        Ok(())
    }

    /// One block of Q8_0 nearest to what 32 bytes mean.
    fn round(
        &self,
        bytes: &[u8],
        scale: impl Fn(usize) -> f32,
        out: &mut Vec<u8>,
    ) -> Result<(), String> {
        let mut values = [0.0f32; BLOCK];
        for (j, (value, byte)) in values.iter_mut().zip(bytes).enumerate() {
            *value = self.value(*byte)? * scale(j);
        }
        let largest = values.iter().fold(0.0f32, |most, v| most.max(v.abs()));
        let d = f16::from_f32(largest / 127.0);
        if !d.is_finite() {
            return Err(format!("a weight of {largest} is beyond Q8_0"));
        }
        let inverse = if d.to_f32() > 0.0 { 1.0 / d.to_f32() } else { 0.0 };
        out.extend(d.to_le_bytes());
        // The scale may have been rounded down.
        out.extend(values.map(|v| (v * inverse).round().clamp(-127.0, 127.0) as i8 as u8));
        Ok(())
    }

    /// What a byte means.
    fn value(&self, byte: u8) -> Result<f32, String> {
        match self.kind {
            ByteKind::Int => Ok(f32::from(byte as i8)),
            ByteKind::Float => match E4m3::from_bits(byte).to_f32() {
                value if value.is_nan() => Err("it has a weight that is not a number".into()),
                value => Ok(value),
            },
        }
    }
}
