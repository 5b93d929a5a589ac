//! Which part of a decoder a rank computes, where several share it (Shoeybi et al. 2019,
//! arXiv:1909.08053).
//!
//! A rank has some heads of queries, with the heads of keys and values that they look at, and as
//! much of the width of every MLP and of every expert: rows of the projections into them, and
//! the columns of those out of them that meet what these rows give. What the latter give on all ranks is added
//! up. The vocabulary is shared out in the embedding and in the output head; norms and routers are on
//! every rank.

use std::ops::Range;

use ferrum_kernels::Format;

use super::{DecoderSpec, LayerSpec, QkNorm};
use crate::load::ModelError;

/// A rank's share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Share {
    /// Number of the rank.
    pub rank: usize,
    /// Ranks in all.
    pub ranks: usize,
}

impl Share {
    /// All of a model.
    pub const WHOLE: Share = Share { rank: 0, ranks: 1 };

    /// Whether there are other ranks.
    pub fn is_part(self) -> bool {
        self.ranks > 1
    }

    /// The rank's part of `len` rows, columns or tokens; parts differ by one at most.
    pub fn of(self, len: usize) -> Range<usize> {
        let start = |rank: usize| (rank as u128 * len as u128 / self.ranks as u128) as usize;
        start(self.rank)..start(self.rank + 1)
    }

    /// The model that the rank computes, or why it cannot be shared out.
    pub fn of_spec(self, spec: &DecoderSpec) -> Result<DecoderSpec, ModelError> {
        let layer = |(i, layer)| self.of_layer(layer, i);
        let layers = spec.layers.iter().enumerate().map(layer).collect::<Result<_, _>>()?;
        if self.is_part() && spec.vocab < self.ranks {
            return Err(self.refusal(format!("a vocabulary of {} tokens is too small", spec.vocab)));
        }
        let tokens = self.of(spec.vocab).len();
        // And a row of zeros, for tokens of other ranks.
        let vocab = if self.is_part() { tokens + 1 } else { tokens };
        Ok(DecoderSpec { vocab, layers, ..spec.clone() })
    }

    fn of_layer(self, layer: &LayerSpec, i: usize) -> Result<LayerSpec, ModelError> {
        if self.is_part() && layer.qk_norm == QkNorm::Row {
            let what = format!("layer {i} has norms over all heads together");
            return Err(self.refusal(what));
        }
        let part = |len: usize, what: &str| match len % self.ranks {
            0 => Ok(len / self.ranks),
            _ => Err(self.refusal(format!("the {len} {what} of layer {i} do not divide"))),
        };
        let mut own = layer.clone();
        own.heads = part(layer.heads, "query heads")?;
        own.kv_heads = part(layer.kv_heads, "key and value heads")?;
        own.mlp.width = part(layer.mlp.width, "values between the halves of the MLP")?;
        Ok(own)
    }

    /// An error unless rows of `cols` values can be cut into the shares of all ranks: blocks stay
    /// whole.
    pub fn check_cols(self, name: &str, format: Format, cols: usize) -> Result<(), ModelError> {
        let block = format.block_len();
        if cols.is_multiple_of(self.ranks.saturating_mul(block)) {
            return Ok(());
        }
        Err(self.refusal(format!(
            "the {cols} columns of tensor {name} ({format}) do not divide in whole blocks of {block}"
        )))
    }

    /// That a model cannot be shared out.
    pub fn refusal(self, what: String) -> ModelError {
        ModelError::Split { ranks: self.ranks, what }
    }
}
