//! The scales, zero points and words of a layer, read and checked.

use ferrum_kernels::Format;
use half::f16;

use super::super::shards::Shards;
use super::Words;
use super::layer::read_floats;
use super::packed::Packed;
use crate::safetensors::Dtype;

/// Where AWQ puts row `o % 8` in a word, in nibbles from the lowest.
pub(super) const AWQ_PLACES: [u8; 8] = [0, 4, 1, 5, 2, 6, 3, 7];

/// The parts of a layer, read.
pub(super) struct Tables<'a> {
    pub words: &'a [[u8; 4]],
    /// `[groups, rows]`, of a layer whose weights are given in half precision.
    pub scales: Vec<f32>,
    /// `[groups, rows]`, of a layer that is given in blocks.
    halves: Vec<[u8; 2]>,
    /// `[groups, rows]`
    pub zeros: Vec<u8>,
    /// Group of each column, where it is not that of its place.
    group_of: Option<Vec<usize>>,
}

impl<'a> Tables<'a> {
    /// Fails where scales or zero points are such that the layer's format would lose something.
    pub fn read(layer: &Packed, shards: &'a Shards) -> Result<Self, String> {
        let data = |index: usize| shards.data(&shards.tensors[index]);
        let zeros = zeros(layer, shards);
        let middle = 1 << (layer.scheme.bits - 1);
        if matches!(layer.format, Format::Q4_0 | Format::Q8_0) && zeros.iter().any(|z| *z != middle)
        {
            return Err("it is said to be symmetric, but has other zero points".into());
        }
        let (scales, halves) = match layer.format {
            Format::F16 => (floats(layer, shards), Vec::new()),
            _ => (Vec::new(), halves(layer, shards)?),
        };
        let group_of = layer.g_idx.map(|index| groups_of(shards, index));
        Ok(Tables { words: data(layer.qweight).as_chunks().0, scales, halves, zeros, group_of })
    }

    /// The group of a column; groups of those in order have this many.
    pub fn group(&self, column: usize, columns: usize) -> usize {
        self.group_of.as_ref().map_or(column / columns, |group_of| group_of[column])
    }

    /// Writes what a block begins with, its scale and in some formats its zero point, which are at `at`;
    /// gives the rest of the block.
    pub fn begin<'o>(&self, format: Format, at: usize, block: &'o mut [u8]) -> &'o mut [u8] {
        let (scale, rest) = block.split_at_mut(size_of::<f16>());
        scale.copy_from_slice(&self.halves[at]);
        let (zero, rest) = rest.split_at_mut(usize::from(format == Format::Q4_Z));
        zero.fill(self.zeros[at]);
        rest
    }
}

/// The scales `[groups, rows]`.
fn floats(layer: &Packed, shards: &Shards) -> Vec<f32> {
    let scales = read_floats(shards, layer.scales);
    if layer.words != Words::Compressed {
        return scales;
    }
    // One scale for all, or those of a row one after the other.
    let stored = |at: usize| match scales.as_slice() {
        [one] => *one,
        all => all[at % layer.rows * layer.groups + at / layer.rows],
    };
    (0..layer.groups * layer.rows).map(stored).collect()
}

/// The scales `[groups, rows]` in half precision.
fn halves(layer: &Packed, shards: &Shards) -> Result<Vec<[u8; 2]>, String> {
    let tensor = &shards.tensors[layer.scales];
    // Those of compressed-tensors have the type of the model that they were made of, of more range
    // or digits: they are rounded, as a weight in half precision would be.
    let rounded = layer.words == Words::Compressed;
    let half = |d: f32| {
        let half = f16::from_f32(d);
        (half.is_finite() && (rounded || half.to_f32() == d)).then(|| half.to_le_bytes())
    };
    let halves: Option<Vec<[u8; 2]>> = match (layer.words, tensor.raw.dtype) {
        (Words::Compressed, _) => floats(layer, shards).into_iter().map(half).collect(),
        (_, Dtype::F16) => {
            let stored: &[[u8; 2]] = shards.data(tensor).as_chunks().0;
            let finite = stored.iter().all(|half| f16::from_le_bytes(*half).is_finite());
            finite.then(|| stored.to_vec())
        }
        _ => floats(layer, shards).into_iter().map(half).collect(),
    };
    halves.ok_or_else(|| "its scales do not fit half precision".into())
}

/// The zero points `[groups, rows]`.
fn zeros(layer: &Packed, shards: &Shards) -> Vec<u8> {
    let (bits, per_word) = (layer.scheme.bits, (32 / layer.scheme.bits) as usize);
    let (rows, groups) = (layer.rows, layer.groups);
    let Some(index) = layer.qzeros else {
        return vec![1 << (bits - 1); groups * rows];
    };
    let stored: &[[u8; 4]] = shards.data(&shards.tensors[index]).as_chunks().0;
    let mut zeros = vec![0; groups * rows];
    // A word holds the zero points of some rows, and may be filled up at the end.
    let row_words = rows.div_ceil(per_word);
    for (group, zeros) in zeros.chunks_exact_mut(rows).enumerate() {
        for (i, zeros) in zeros.chunks_mut(per_word).enumerate() {
            let at = match layer.words {
                Words::Compressed => i * groups + group,
                _ => group * row_words + i,
            };
            let numbers = match bits {
                4 => spread(stored[at]).to_le_bytes(),
                _ => u64::from(u32::from_le_bytes(stored[at])).to_le_bytes(),
            };
            let mask = (0xff_u32 >> (8 - bits)) as u8;
            for (r, z) in zeros.iter_mut().enumerate() {
                *z = match layer.words {
                    Words::Awq => numbers[usize::from(AWQ_PLACES[r])],
                    Words::Gptq { zeros_less_one } => {
                        numbers[r].wrapping_add(u8::from(zeros_less_one)) & mask
                    }
                    Words::Compressed => numbers[r],
                };
            }
        }
    }
    zeros
}

/// The eight numbers of four bits in a word as bytes, the lowest first.
pub(super) fn spread(word: [u8; 4]) -> u64 {
    let mut x = u64::from(u32::from_le_bytes(word));
    x = (x | x << 16) & 0x0000_ffff_0000_ffff;
    x = (x | x << 8) & 0x00ff_00ff_00ff_00ff;
    (x | x << 4) & 0x0f0f_0f0f_0f0f_0f0f
}

/// The group of each column, as `g_idx` says.
pub(super) fn groups_of(shards: &Shards, index: usize) -> Vec<usize> {
    i32s(shards.data(&shards.tensors[index])).map(|group| group as usize).collect()
}

/// Whole numbers of 32 bits.
pub(super) fn i32s(bytes: &[u8]) -> impl Iterator<Item = u32> {
    bytes.as_chunks().0.iter().map(|b| u32::from_le_bytes(*b))
}
