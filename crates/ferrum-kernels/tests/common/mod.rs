//! Shared by the tests: reproducible random numbers, and weights of any format as bytes.

use ferrum_kernels::weight::dequantize_row;
use ferrum_kernels::{Format, WeightSource};
use half::{bf16, f16};

/// The splitmix64 generator (Steele, Lea & Flood 2014).
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Self {
        Rng(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// In `0..n`.
    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    /// In `0.0..1.0`.
    pub fn uniform(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1 << 24) as f32
    }

    /// Mean 0, standard deviation 1 (sum of twelve uniform numbers).
    pub fn normal(&mut self) -> f32 {
        (0..12).map(|_| self.uniform()).sum::<f32>() - 6.0
    }

    pub fn normals(&mut self, len: usize, scale: f32) -> Vec<f32> {
        (0..len).map(|_| scale * self.normal()).collect()
    }

    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }
}

/// What the quants of a weight look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pattern {
    /// Random bits, a quarter of the blocks with a negative scale.
    Random,
    /// Every byte but the half-precision scales is this: `0xff` makes quants and their scales as
    /// large as they can be, `0x80` the smallest 8-bit quant.
    Bytes(u8),
}

/// A weight as it lies in a file.
#[derive(Clone)]
pub struct WeightBytes {
    pub format: Format,
    pub rows: usize,
    pub cols: usize,
    pub data: Vec<u8>,
    /// Of each row, where the format has them.
    pub scales: Vec<f32>,
}

impl WeightBytes {
    /// Rows of numbers in single precision.
    pub fn floats(cols: usize, values: &[f32]) -> Self {
        let data = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let rows = values.len() / cols;
        WeightBytes { format: Format::F32, rows, cols, data, scales: Vec::new() }
    }

    /// A weight whose dequantised values have a standard deviation between 0.05 and 1 or so.
    pub fn new(rng: &mut Rng, format: Format, rows: usize, cols: usize, pattern: Pattern) -> Self {
        let mut data = vec![0; rows * format.row_bytes(cols).expect("whole blocks")];
        for block in data.chunks_exact_mut(format.block_bytes()) {
            match pattern {
                Pattern::Random => block.iter_mut().for_each(|b| *b = rng.next() as u8),
                Pattern::Bytes(b) => block.fill(b),
            }
            set_scales(rng, format, block, pattern);
        }
        let mut scales = Vec::new();
        if format == Format::F8_E4M3 {
            // Random codes have a standard deviation of 115.
            let mut scale = |sign: f32| sign * 0.05 * 20_f32.powf(rng.uniform()) / 115.0;
            scales = (0..rows).map(|row| scale(if row % 4 == 3 { -1.0 } else { 1.0 })).collect();
        }
        WeightBytes { format, rows, cols, data, scales }
    }

    /// As a backend is given it.
    pub fn source(&self) -> WeightSource<'_> {
        let source = WeightSource::new(self.format, self.rows, self.cols, &self.data);
        let scales = (!self.scales.is_empty()).then_some(self.scales.as_slice());
        source.and_then(|source| source.scaled(scales)).expect("whole rows")
    }

    /// The values `[rows, cols]`.
    pub fn values(&self) -> Vec<f32> {
        let mut values = vec![0.0; self.rows * self.cols];
        let bytes = self.data.len() / self.rows;
        for (src, dst) in self.data.chunks_exact(bytes).zip(values.chunks_exact_mut(self.cols)) {
            dequantize_row(self.format, src, dst).expect("whole rows");
        }
        for (row, scale) in values.chunks_exact_mut(self.cols).zip(&self.scales) {
            row.iter_mut().for_each(|value| *value *= scale);
        }
        values
    }
}

/// Gives a block of random bytes (or an unquantised value) a sane magnitude.
fn set_scales(rng: &mut Rng, format: Format, block: &mut [u8], pattern: Pattern) {
    let negative = pattern == Pattern::Random && rng.below(4) == 0;
    let std = 0.05 * 20_f32.powf(rng.uniform()) * if negative { -1.0 } else { 1.0 };
    let value = std * rng.normal();
    let mut put = |at: usize, x: f32| {
        block[at..at + 2].copy_from_slice(&f16::from_f32(x).to_le_bytes());
    };
    // The divisor is the standard deviation of what random bits stand for at a scale of 1; the
    // factor of the minimum is about the mean, so that values lie around zero.
    match format {
        Format::F32 => block.copy_from_slice(&value.to_le_bytes()),
        Format::F16 => put(0, value),
        Format::BF16 => block.copy_from_slice(&bf16::from_f32(value).to_le_bytes()),
        Format::Q4_0 => put(0, std / 4.6),
        Format::Q5_0 => put(0, std / 9.2),
        Format::Q8_0 => put(0, std / 74.0),
        Format::IQ4_NL => put(0, std / 69.0),
        Format::IQ4_XS => put(0, std / 1290.0),
        Format::Q3_K => put(108, std / 42.0),
        Format::Q6_K => put(208, std / 1370.0),
        // What is no number is one bit away from the largest.
        Format::F8_E4M3 => block[0] ^= u8::from(block[0] & 0x7f == 0x7f),
        Format::MXFP4 => block[0] = 120 + rng.below(6) as u8,
        Format::Q4_Z => {
            put(0, std / 4.6);
            block[2] = 6 + rng.below(4) as u8;
        }
        Format::Q4_1 => [0, 2].iter().zip([1.0, -7.5]).for_each(|(&at, x)| put(at, x * std / 4.6)),
        Format::Q5_1 => [0, 2].iter().zip([1.0, -15.5]).for_each(|(&at, x)| put(at, x * std / 9.2)),
        Format::Q2_K => {
            [80, 82].iter().zip([1.0, 1.5]).for_each(|(&at, x)| put(at, x * std / 13.0))
        }
        Format::Q4_K => [0, 2].iter().zip([1.0, 7.5]).for_each(|(&at, x)| put(at, x * std / 270.0)),
        Format::Q5_K => {
            [0, 2].iter().zip([1.0, 15.5]).for_each(|(&at, x)| put(at, x * std / 540.0))
        }
    }
}
