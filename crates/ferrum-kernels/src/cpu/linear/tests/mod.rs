//! The linears of every format and instruction set against plain sums in double precision.

mod contract;
mod products;
mod shorts;
mod tiles;
mod weights;

use super::super::{Cpu, CpuConfig, CpuStream, CpuWeight, Isa};
use super::activations::Block;
use super::planes::STEP;
use crate::host::HostBuffer;
use crate::params::{Linear, LinearOutput};
use crate::weight::dequantize_row;
use crate::{Backend, Format, WeightSource};
use half::f16;

/// A small generator of numbers that are the same on every run (Marsaglia 2003, xorshift).
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn bits(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn byte(&mut self) -> u8 {
        (self.bits() >> 56) as u8
    }

    /// From -1 to 1.
    fn unit(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    /// Activations, a few of them far larger than the rest.
    fn activations(&mut self, len: usize) -> Vec<f32> {
        (0..len)
            .map(|_| match self.byte() {
                0 => 100.0 * self.unit(),
                1 => 0.0,
                _ => self.unit(),
            })
            .collect()
    }
}

/// A weight in memory, as a file would have it.
struct Plain {
    format: Format,
    rows: usize,
    cols: usize,
    data: Vec<u8>,
}

/// Where a block has its half-precision scales.
fn halves(format: Format) -> &'static [usize] {
    match format {
        Format::Q4_1 | Format::Q5_1 | Format::Q4_K | Format::Q5_K => &[0, 2],
        Format::Q4_0
        | Format::Q5_0
        | Format::Q8_0
        | Format::IQ4_NL
        | Format::IQ4_XS
        | Format::Q4_Z => &[0],
        Format::Q2_K => &[80, 82],
        Format::Q3_K => &[108],
        Format::Q6_K => &[208],
        Format::F32 | Format::F16 | Format::BF16 | Format::MXFP4 | Format::F8_E4M3 => &[],
    }
}

impl Plain {
    /// Any quants, with scales of either sign.
    fn new(format: Format, rows: usize, cols: usize, seed: u64) -> Self {
        let mut random = Random::new(seed);
        let mut data = Vec::new();
        for _ in 0..rows * cols / format.block_len() {
            let start = data.len();
            match format {
                Format::F32 => data.extend(random.unit().to_le_bytes()),
                Format::F16 => data.extend(f16::from_f32(random.unit()).to_le_bytes()),
                Format::BF16 => {
                    data.extend(half::bf16::from_f32(random.unit()).to_le_bytes());
                }
                _ => data.extend((0..format.block_bytes()).map(|_| random.byte())),
            }
            for offset in halves(format) {
                let scale = f16::from_f32(0.01 * random.unit()).to_le_bytes();
                data[start + offset..][..2].copy_from_slice(&scale);
            }
            if format == Format::MXFP4 {
                data[start] = 115 + random.byte() % 16;
            }
            if format == Format::Q4_Z {
                data[start + 2] %= 17;
            }
        }
        Plain { format, rows, cols, data }
    }

    fn source(&self) -> WeightSource<'_> {
        WeightSource::new(self.format, self.rows, self.cols, &self.data).unwrap()
    }

    fn row(&self, row: usize) -> Vec<f32> {
        let mut out = vec![0.0; self.cols];
        dequantize_row(self.format, self.source().row(row), &mut out).unwrap();
        out
    }

    fn is_quantized(&self) -> bool {
        self.format.block_len() > 1
    }
}

/// A processor, its stream, and shorthands.
struct Bench {
    cpu: Cpu,
    stream: CpuStream,
}

impl Bench {
    fn new(isa: Isa, threads: usize) -> Self {
        let cpu = Cpu::new(CpuConfig { threads, isa: Some(isa), ..CpuConfig::default() }).unwrap();
        let stream = cpu.stream().unwrap();
        Bench { cpu, stream }
    }

    fn pack(&mut self, plain: &Plain) -> CpuWeight {
        self.cpu.pack(&mut self.stream, &plain.source()).unwrap()
    }

    /// One output, overwritten.
    fn linear(&mut self, weight: &CpuWeight, rows: usize, tokens: usize, x: &[f32]) -> Vec<f32> {
        let input = HostBuffer::F32(x.to_vec());
        let mut dst = HostBuffer::F32(vec![f32::NAN; tokens * rows]);
        let outputs = &mut [LinearOutput { weight, bias: None, dst: &mut dst, accumulate: false }];
        let p = Linear { input: &input, rows: tokens, outputs };
        self.cpu.linear(&mut self.stream, p).unwrap();
        values(dst)
    }
}

fn values(buffer: HostBuffer) -> Vec<f32> {
    match buffer {
        HostBuffer::F32(v) => v,
        HostBuffer::I32(_) => panic!("a buffer of floats"),
    }
}

/// What the kernels make of a token's activations: quantised and back.
fn rounded(x: &[f32]) -> Vec<f64> {
    let mut out = Vec::new();
    for x in x.as_chunks::<STEP>().0 {
        let mut block = Block::default();
        block.quantize(x);
        out.extend(block.q.map(|q| f64::from(q) * f64::from(block.scale)));
    }
    out
}

/// The product of a row with activations, and the sum of magnitudes that its rounding errors are
/// in proportion to.
fn product(row: &[f32], x: &[f64]) -> (f64, f64) {
    let largest = row.iter().fold(0.0_f64, |m, w| m.max(f64::from(w.abs())));
    let sum = row.iter().zip(x).map(|(w, x)| f64::from(*w) * x).sum();
    (sum, largest * x.iter().map(|x| x.abs()).sum::<f64>())
}
