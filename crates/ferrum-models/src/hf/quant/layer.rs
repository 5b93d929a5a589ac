//! One quantised layer: its parts checked, and its weights in rows of a format of ours.

use std::thread;

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
    /// The tensor of the weights.
    weights: usize,
    stored: Stored,
}

#[derive(Debug, Clone)]
enum Stored {
    Packed(Packed),
    Bytes(Bytes),
}

impl Layer {
    /// Checks types and shapes; `name` is for messages. `movable`: columns may come in another order.
    pub fn new(
        scheme: Scheme,
        parts: Parts,
        movable: bool,
        shards: &Shards,
        name: &str,
    ) -> Result<Self, HfError> {
        let refuse = |reason| HfError::Quantized { name: name.to_string(), reason };
        let Some(weights) = parts.qweight else {
            return Err(refuse("weights and scales are not all there".into()));
        };
        Ok(match scheme.method {
            Method::Bytes { kind, block } => {
                if !scheme.symmetric {
                    return Err(refuse("zero points of bytes are not supported".into()));
                }
                let layer = Bytes::new(kind, block, parts, shards).map_err(refuse)?;
                let (rows, cols, format) = (layer.rows, layer.cols, layer.format);
                Layer { rows, cols, format, weights, stored: Stored::Bytes(layer) }
            }
            Method::Words(words) => {
                let layer = Packed::new((words, scheme), parts, movable, shards);
                let layer = layer.map_err(refuse)?;
                let (rows, cols, format) = (layer.rows, layer.cols, layer.format);
                Layer { rows, cols, format, weights, stored: Stored::Packed(layer) }
            }
        })
    }

    /// The order in which columns come: [`crate::checkpoint::Tensor::columns`].
    pub fn columns(&self) -> Option<&[u32]> {
        match &self.stored {
            Stored::Packed(layer) => layer.columns.as_deref(),
            Stored::Bytes(_) => None,
        }
    }

    /// Bytes of the weights.
    pub fn bytes(&self) -> usize {
        self.rows * self.format.row_bytes(self.cols).unwrap_or(0)
    }

    /// Whether the files have floats of eight bits, with a number for each row or for all.
    pub fn is_kept(&self) -> bool {
        matches!(&self.stored, Stored::Bytes(layer) if layer.is_kept())
    }

    /// The floats of eight bits that the files have and a number for each row, where they have no others.
    pub fn kept<'a>(&self, shards: &'a Shards) -> Option<(&'a [u8], Vec<f32>)> {
        match &self.stored {
            Stored::Bytes(layer) => layer.kept(shards),
            Stored::Packed(_) => None,
        }
    }

    /// Gives back the memory that holds the weights of the files.
    pub fn give_back(&self, shards: &Shards) {
        shards.release(&shards.tensors[self.weights], 0..usize::MAX);
    }

    /// Of how many rows those that [`Layer::decode`] begins with are a multiple.
    pub fn row_step(&self) -> usize {
        match &self.stored {
            Stored::Packed(layer) => layer.row_step(),
            Stored::Bytes(_) => 1,
        }
    }

    /// Writes weights on some threads, from row `first` on, which is a multiple of [`Layer::row_step`]: as
    /// many rows of `cols` values in [`Layer::format`] as fill `out`, and a multiple too.
    pub fn decode(
        &self,
        (shards, threads): (&Shards, usize),
        name: &str,
        first: usize,
        out: &mut [u8],
    ) -> Result<(), HfError> {
        let count = out.len() / (self.bytes() / self.rows).max(1);
        let out = Rows { bytes: out, count, threads };
        let decoded = match &self.stored {
            Stored::Packed(layer) => layer.decode(shards, first, out),
            Stored::Bytes(layer) => layer.decode(shards, first, out),
        };
        // They are in memory twice now, and will not be read again but for another part.
        self.give_back(shards);
        decoded.map_err(|reason| HfError::Quantized { name: name.to_string(), reason })
    }
}

/// The values of a tensor of floats, in `f32`; none where it has another type.
pub(super) fn read_floats(shards: &Shards, index: usize) -> Vec<f32> {
    shards.floats(&shards.tensors[index]).unwrap_or_default()
}

/// Bytes that are worth a thread of their own.
const SHARE: usize = 1 << 18;

/// Where the rows of a layer go, which threads share out.
pub(super) struct Rows<'a> {
    bytes: &'a mut [u8],
    count: usize,
    threads: usize,
}

impl Rows<'_> {
    /// How many there are.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Bytes of one.
    pub fn row_bytes(&self) -> usize {
        self.bytes.len() / self.count.max(1)
    }

    /// `f` makes the rows from the one that it is given, a multiple of `step`, on, as many as fill the
    /// bytes.
    pub fn make(
        self,
        step: usize,
        f: impl Fn(usize, &mut [u8]) -> Result<(), String> + Sync,
    ) -> Result<(), String> {
        let row_bytes = self.row_bytes();
        let threads = self.threads.min(self.bytes.len() / SHARE).max(1);
        let band = self.count.div_ceil(threads).next_multiple_of(step);
        if band >= self.count {
            return f(0, self.bytes);
        }
        thread::scope(|scope| {
            let bands = self.bytes.chunks_mut(band * row_bytes).enumerate();
            let f = &f;
            let workers: Vec<_> =
                bands.map(|(i, bytes)| scope.spawn(move || f(i * band, bytes))).collect();
            let results = workers.into_iter().map(|worker| match worker.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            });
            results.collect()
        })
    }
}
