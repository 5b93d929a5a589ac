//! One quantised layer: its parts checked, and its weights in rows of a format of ours.

use ferrum_kernels::Format;

use super::super::error::HfError;
use super::super::shards::Shards;
use super::bytes::Bytes;
use super::packed::Packed;
use super::{Method, Scheme};

/// Tensors of a layer, by their numbers in [`Shards::tensors`].
#[derive(Debug, Clone, Copy, Default)]
pub(in super::super) struct Parts {
    /// Weights.
    pub qweight: Option<usize>,
    /// Zero points.
    pub qzeros: Option<usize>,
    pub scales: Option<usize>,
    /// Group of each column.
    pub g_idx: Option<usize>,
    /// Rows and columns.
    pub shape: Option<usize>,
}

impl Parts {
    /// The part that a file calls so, of a tensor of bytes or of another.
    pub fn place(&mut self, part: &str, bytes: bool) -> Option<&mut Option<usize>> {
        Some(match part {
            "qweight" | "weight_packed" => &mut self.qweight,
            "weight" if bytes => &mut self.qweight,
            "qzeros" | "weight_zero_point" => &mut self.qzeros,
            "scales" | "weight_scale" | "weight_scale_inv" => &mut self.scales,
            "g_idx" | "weight_g_idx" => &mut self.g_idx,
            "weight_shape" => &mut self.shape,
            _ => return None,
        })
    }
}

/// A layer whose parts fit each other.
#[derive(Debug, Clone)]
pub(in super::super) struct Layer {
    /// Output features.
    pub rows: usize,
    /// Input features.
    pub cols: usize,
    /// What [`Layer::decode`] makes.
    pub format: Format,
    stored: Stored,
}

#[derive(Debug, Clone)]
enum Stored {
    Packed(Packed),
    Bytes(Bytes),
}

impl Layer {
    /// Checks types and shapes; `name` is for messages.
    pub fn new(scheme: Scheme, parts: Parts, shards: &Shards, name: &str) -> Result<Self, HfError> {
        let refuse = |reason| HfError::Quantized { name: name.to_string(), reason };
        Ok(match scheme.method {
            Method::Bytes { kind, block } => {
                if !scheme.symmetric {
                    return Err(refuse("zero points of bytes are not supported".into()));
                }
                let layer = Bytes::new(kind, block, parts, shards).map_err(refuse)?;
                let (rows, cols, format) = (layer.rows, layer.cols, layer.format);
                Layer { rows, cols, format, stored: Stored::Bytes(layer) }
            }
            _ => {
                let layer = Packed::new(scheme, parts, shards).map_err(refuse)?;
                let (rows, cols, format) = (layer.rows, layer.cols, layer.format);
                Layer { rows, cols, format, stored: Stored::Packed(layer) }
            }
        })
    }

    /// The weights: `rows` rows of `cols` values in [`Layer::format`].
    pub fn decode(&self, shards: &Shards, name: &str) -> Result<Vec<u8>, HfError> {
        let decoded = match &self.stored {
            Stored::Packed(layer) => layer.decode(shards),
            Stored::Bytes(layer) => layer.decode(shards),
        };
        decoded.map_err(|reason| HfError::Quantized { name: name.to_string(), reason })
    }
}

/// The values of a tensor of floats, in `f32`; none where it has another type.
pub(super) fn read_floats(shards: &Shards, index: usize) -> Vec<f32> {
    shards.floats(&shards.tensors[index]).unwrap_or_default()
}
