//! The scales, zero points and words of a layer, read.

use super::super::shards::Shards;
use super::layer::read_floats;
use super::packed::Packed;
use super::{Scheme, Words};

/// Where AWQ puts row `o % 8` in a word, in nibbles from the lowest.
pub(super) const AWQ_PLACES: [u8; 8] = [0, 4, 1, 5, 2, 6, 3, 7];

/// The parts of a layer, read.
pub(super) struct Tables<'a> {
    pub words: &'a [[u8; 4]],
    /// `[groups, rows]`
    pub scales: Vec<f32>,
    /// Likewise.
    pub zeros: Vec<u8>,
    /// Group of each column, where it is not that of its place.
    pub group_of: Option<Vec<usize>>,
}

impl<'a> Tables<'a> {
    pub fn read(layer: &Packed, shards: &'a Shards) -> Self {
        let data = |index: usize| shards.data(&shards.tensors[index]);
        let (words, Scheme { bits, .. }) = (layer.words, layer.scheme);
        let (per_word, mask) = ((32 / bits) as usize, (1u32 << bits) - 1);
        let mut scales = read_floats(shards, layer.scales);
        if words == Words::Compressed {
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
                let z = match words {
                    _ if stored.is_empty() => 1 << (bits - 1),
                    Words::Awq => {
                        let place = u32::from(AWQ_PLACES[row % 8]);
                        stored[group * row_words + row / per_word] >> (4 * place)
                    }
                    Words::Gptq { zeros_less_one } => {
                        let z = stored[group * row_words + row / per_word] >> shift;
                        z.wrapping_add(u32::from(zeros_less_one))
                    }
                    Words::Compressed => stored[row / per_word * layer.groups + group] >> shift,
                };
                (z & mask) as u8
            })
            .collect();
        let group_of = layer.g_idx.map(|index| groups_of(shards, index));
        Tables { words: data(layer.qweight).as_chunks().0, scales, zeros, group_of }
    }
}

/// The group of each column, as `g_idx` says.
pub(super) fn groups_of(shards: &Shards, index: usize) -> Vec<usize> {
    i32s(shards.data(&shards.tensors[index])).map(|group| group as usize).collect()
}

/// Whole numbers of 32 bits.
pub(super) fn i32s(bytes: &[u8]) -> impl Iterator<Item = u32> {
    bytes.as_chunks().0.iter().map(|b| u32::from_le_bytes(*b))
}
