//! The contract between a model and a device.
//!
//! Rules that hold for every operation:
//! - activations are token-major: a `[T, width]` buffer holds token 0's values first;
//! - buffers may be longer than an operation needs (they are allocated once, for the largest
//!   step); the operation touches only the rows it is told to;
//! - every per-step value (positions, lengths, block tables) is read from device arrays, so that a
//!   recorded step can be replayed;
//! - a backend returns an error for what it cannot honour; it never ignores a parameter.

use std::time::Duration;

use crate::params::{
    Activate, AllGather, Attention, Broadcast, Embed, ExpertCombine, ExpertGatedLinear, Gate,
    GatedLinear, GatherRows, KvSpec, KvValues, KvWrite, LayerNorm, Linear, Logprobs,
    PackedAttention, RmsNorm, Rope, RouteTopk, Sample, ScatterAdd,
};
use crate::{DType, Format, KernelError, KvDType, Result, StepInput, WeightSource};

/// A device that can run a model.
///
/// The implementing value is the device: it owns no hidden global state, and everything made by it
/// (buffers, weights, KV caches) is used with it alone.
pub trait Backend: Send + Sized + 'static {
    /// The order in which work runs, with its workspace. One long-lived stream per runner.
    type Stream: Send;
    /// Typed device memory that frees itself.
    type Buffer: Buffer;
    /// A weight matrix in the layout that this backend computes with.
    type Weight: PackedWeight;
    /// Keys and values of one layer, in blocks of [`crate::KV_BLOCK_SIZE`] positions.
    type KvCache: KvStorage;
    /// Recorded operations, which keep all memory that they mention. `Infallible` where nothing can be
    /// recorded.
    type Recording: Send;
    /// A point in a stream's work, whose time is known once the work has come to it.
    type Mark: Send;
    /// A device's place among several that compute together.
    type Communicator: Communicator;

    /// Short name: `cpu`, `reference`, …
    fn name(&self) -> &'static str;

    /// Asks whether the backend can do what a model needs; the error names what is missing.
    /// Called at model load, so that nothing is found missing in the middle of an answer.
    fn check(&self, need: &Need) -> Result<()>;

    /// Whether the first use of an operation takes seconds, because its kernel is compiled.
    fn compiles_at_first_use(&self) -> bool {
        false
    }

    /// Whether weights of [`Format::F8_E4M3`] are best left as they are: the device multiplies such numbers
    /// with inputs that are rounded to them (asked of weights that may be [`WeightSource::rounded`]).
    fn keeps_e4m3(&self) -> bool {
        false
    }

    /// Creates the stream that operations run on.
    fn stream(&self) -> Result<Self::Stream>;

    /// Allocates `len` zeroed elements.
    fn alloc(&self, dtype: DType, len: usize) -> Result<Self::Buffer>;

    /// Tells the backend what the next step is, before its arrays are uploaded. A hint: a backend may
    /// prepare for it, such as by taking another number of threads, but every value that an
    /// operation computes with comes from the device arrays.
    fn step_begins(&self, _s: &mut Self::Stream, _step: &StepInput) {}

    /// Waits until everything that was queued has run; nothing where operations run at once.
    fn synchronize(&self, _s: &mut Self::Stream) -> Result<()> {
        Ok(())
    }

    /// Whether the device still does what it is told; an error says why not. Some errors stay: after a
    /// kernel's illegal address, say, every call on a card fails, in this process, whatever is asked.
    /// To be asked where an operation has failed.
    fn works(&self) -> Result<()> {
        Ok(())
    }

    /// Marks the point that the stream's work has been queued to. Refused while recording.
    fn mark(&self, s: &mut Self::Stream) -> Result<Self::Mark>;

    /// The time between two marks of one stream, on the device's clock; waits for the later one.
    fn elapsed(&self, from: &Self::Mark, to: &Self::Mark) -> Result<Duration>;

    /// From now on operations are recorded and do not run, until [`Backend::end_recording`]; `false`
    /// where the backend cannot do that. They must have run once with the same shapes: a recording
    /// refuses to allocate, to copy to or from the host, and to wait.
    fn begin_recording(&self, _s: &mut Self::Stream) -> Result<bool> {
        Ok(false)
    }

    /// What was recorded. To be called in any case, also where an operation has failed: then it is an
    /// error.
    fn end_recording(&self, _s: &mut Self::Stream) -> Result<Self::Recording> {
        Err(KernelError::Unsupported { backend: self.name(), what: "recordings".into() })
    }

    /// Runs recorded operations on the stream that recorded them. They read what the device arrays
    /// hold now; checks of indices are not repeated.
    fn replay(&self, _s: &mut Self::Stream, _recording: &Self::Recording) -> Result<()> {
        Err(KernelError::Unsupported { backend: self.name(), what: "recordings".into() })
    }

    /// Copies `src` into the first `src.len()` elements of an `F32` buffer.
    fn upload_f32(&self, s: &mut Self::Stream, src: &[f32], dst: &mut Self::Buffer) -> Result<()>;

    /// Copies `src` into the first `src.len()` elements of an `I32` buffer.
    fn upload_i32(&self, s: &mut Self::Stream, src: &[i32], dst: &mut Self::Buffer) -> Result<()>;

    /// Copies the first `dst.len()` elements of an `F32` buffer into `dst`, after all work queued.
    fn download_f32(&self, s: &mut Self::Stream, src: &Self::Buffer, dst: &mut [f32])
    -> Result<()>;

    /// Copies the first `dst.len()` elements of an `I32` buffer into `dst`, after all work queued.
    fn download_i32(&self, s: &mut Self::Stream, src: &Self::Buffer, dst: &mut [i32])
    -> Result<()>;

    /// Brings a weight (or a stack of them) into this backend's layout. The source bytes may be
    /// given back afterwards.
    fn pack(&self, s: &mut Self::Stream, source: &WeightSource<'_>) -> Result<Self::Weight>;

    /// Bytes that [`Backend::pack`] keeps resident for a weight that may not be rounded, without making
    /// it; for a stack, so many for each of its matrices.
    fn packed_bytes(&self, format: Format, rows: usize, cols: usize) -> usize;

    /// Allocates the KV cache of one layer.
    fn kv_cache(&self, spec: &KvSpec) -> Result<Self::KvCache>;

    /// `dst[t, :] (+)= scale · table[tokens[t], :]`
    fn embed(
        &self,
        s: &mut Self::Stream,
        dst: &mut Self::Buffer,
        p: &Embed<'_, Self>,
    ) -> Result<()>;

    /// For each output `o`: `o.dst[t, :] (+)= o.weight · input[t, :] + o.bias`.
    /// Outputs share one input, so a backend converts it once.
    fn linear(&self, s: &mut Self::Stream, p: Linear<'_, '_, Self>) -> Result<()>;

    /// `dst[t, :] = act(gate · input[t, :]) ⊙ (up · input[t, :])`
    fn gated_linear(
        &self,
        s: &mut Self::Stream,
        dst: &mut Self::Buffer,
        p: &GatedLinear<'_, Self>,
    ) -> Result<()>;

    /// `ids[t, :]` and `weights[t, :]`: the experts with the highest scores of token `t`, and the
    /// softmax of their scores (Shazeer et al. 2017, arXiv:1701.06538).
    fn route_topk(&self, s: &mut Self::Stream, p: RouteTopk<'_, Self>) -> Result<()>;

    /// `dst[t·k + j, :] = act(gate[e] · input[t, :]) ⊙ (up[e] · input[t, :])` with
    /// `e = ids[t, j]`: the first half of a mixture of gated MLPs.
    fn expert_gated_linear(
        &self,
        s: &mut Self::Stream,
        dst: &mut Self::Buffer,
        p: &ExpertGatedLinear<'_, Self>,
    ) -> Result<()>;

    /// `dst[t, :] (+)= Σ_j weights[t, j] · (weight[ids[t, j]] · input[t·k + j, :])`: its second half.
    fn expert_combine(
        &self,
        s: &mut Self::Stream,
        dst: &mut Self::Buffer,
        p: &ExpertCombine<'_, Self>,
    ) -> Result<()>;

    /// Root-mean-square normalisation (Zhang & Sennrich 2019, arXiv:1910.07467).
    fn rms_norm(
        &self,
        s: &mut Self::Stream,
        dst: &mut Self::Buffer,
        p: &RmsNorm<'_, Self>,
    ) -> Result<()>;

    /// Layer normalisation (Ba, Kiros & Hinton 2016, arXiv:1607.06450).
    fn layer_norm(
        &self,
        s: &mut Self::Stream,
        dst: &mut Self::Buffer,
        p: &LayerNorm<'_, Self>,
    ) -> Result<()>;

    /// `x[t, :] = act(x[t, :])`
    fn activate(&self, s: &mut Self::Stream, x: &mut Self::Buffer, p: &Activate) -> Result<()>;

    /// `x[t, :] = act(x[t, :]) ⊙ up[t, :]`
    fn gate(&self, s: &mut Self::Stream, x: &mut Self::Buffer, p: &Gate<'_, Self>) -> Result<()>;

    /// Rotary position embedding, in place (Su et al. 2021, arXiv:2104.09864), after the norms of heads.
    fn rope(&self, s: &mut Self::Stream, p: Rope<'_, '_, Self>) -> Result<()>;

    /// Writes this step's keys and values into their slots.
    fn kv_write(
        &self,
        s: &mut Self::Stream,
        kv: &mut Self::KvCache,
        p: &KvWrite<'_, Self>,
    ) -> Result<()>;

    /// Causal attention of a packed batch over the paged KV cache.
    fn attention(
        &self,
        s: &mut Self::Stream,
        dst: &mut Self::Buffer,
        p: &Attention<'_, Self>,
    ) -> Result<()>;

    /// Attention within the sequences of a packed batch, in both directions and without a cache
    /// (Vaswani et al. 2017, arXiv:1706.03762): that of encoders.
    fn packed_attention(
        &self,
        s: &mut Self::Stream,
        dst: &mut Self::Buffer,
        p: &PackedAttention<'_, Self>,
    ) -> Result<()>;

    /// `dst[r, :] = src[rows[r], :]`
    fn gather_rows(
        &self,
        s: &mut Self::Stream,
        dst: &mut Self::Buffer,
        p: &GatherRows<'_, Self>,
    ) -> Result<()>;

    /// `dst[rows[r], :] += src[r, :]`
    fn scatter_add(
        &self,
        s: &mut Self::Stream,
        dst: &mut Self::Buffer,
        p: &ScatterAdd<'_, Self>,
    ) -> Result<()>;

    /// `dst[r]`, `I32 [R]`: the token that is drawn from row `r` of the logits, or why there is none, as
    /// [`crate::draw::Drawn`] says. A row's token does not depend on the others.
    fn sample(
        &self,
        s: &mut Self::Stream,
        dst: &mut Self::Buffer,
        p: &Sample<'_, Self>,
    ) -> Result<()>;

    /// Log-probabilities of the tokens that came and of the likeliest ones, in the rows that want them.
    fn logprobs(&self, s: &mut Self::Stream, p: Logprobs<'_, Self>) -> Result<()>;

    /// Makes a world of these devices: a communicator for each, in their order, to be taken to the
    /// thread of its rank. Asked for at load; a backend that has no collectives refuses.
    ///
    /// All ranks of a world must run the same collectives in the same order. Once one has failed and
    /// its communicator is dropped, no other waits for it any longer: it gets [`KernelError::Peer`] or
    /// an error of the device, or what means nothing, so whoever runs the ranks must heed the errors
    /// of all. Such a world is of no use any more.
    fn communicators(ranks: &[&Self]) -> Result<Vec<Self::Communicator>>;

    /// `x[i] = Σ_r x_r[i]` over the ranks `r`, for the first `len` values: the same bits on all.
    fn all_reduce(
        &self,
        s: &mut Self::Stream,
        c: &mut Self::Communicator,
        x: &mut Self::Buffer,
        len: usize,
    ) -> Result<()>;

    /// `dst[r, :] = src_r[..len]` for each rank `r`: `dst` is `[ranks, len]`.
    fn all_gather(
        &self,
        s: &mut Self::Stream,
        c: &mut Self::Communicator,
        p: AllGather<'_, Self>,
    ) -> Result<()>;

    /// `x[..len]` of rank `root`, on all ranks.
    fn broadcast(
        &self,
        s: &mut Self::Stream,
        c: &mut Self::Communicator,
        p: Broadcast<'_, Self>,
    ) -> Result<()>;
}

/// A rank's place in a world of several. Dropping it ends the world.
pub trait Communicator: Send {
    /// Number of this rank, from 0.
    fn rank(&self) -> usize;
    /// Ranks of the world.
    fn ranks(&self) -> usize;
}

/// Typed memory of a device.
pub trait Buffer: Send {
    /// Element type.
    fn dtype(&self) -> DType;
    /// Number of elements.
    fn len(&self) -> usize;
    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A weight matrix `[rows, cols]` in a backend's own layout: `y = W·x`, `x` of `cols` values; or
/// several such matrices, for the operations that pick one for each token.
pub trait PackedWeight: Send {
    /// Format that it was packed from.
    fn format(&self) -> Format;
    /// Output features.
    fn rows(&self) -> usize;
    /// Input features.
    fn cols(&self) -> usize;
    /// Matrices in it: the experts of a mixture, or 1.
    fn experts(&self) -> usize;
    /// The order of its columns, as [`WeightSource::columns`] says, where inputs have to be brought
    /// into it.
    fn columns(&self) -> Option<&[u32]>;
    /// Memory that it keeps.
    fn resident_bytes(&self) -> usize;
}

/// The KV cache of one layer.
pub trait KvStorage: Send {
    /// Shape and element type.
    fn spec(&self) -> &KvSpec;
    /// Memory that it keeps.
    fn resident_bytes(&self) -> usize;
}

/// Something that a model asks of a backend at load.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Need {
    /// [`Backend::linear`] with weights of this format and number of input features.
    Linear {
        /// Format on disk.
        format: Format,
        /// Input features.
        cols: usize,
    },
    /// [`Backend::expert_gated_linear`] and [`Backend::expert_combine`] with weights of this format
    /// and number of input features.
    ExpertLinear {
        /// Format on disk.
        format: Format,
        /// Input features.
        cols: usize,
    },
    /// [`Backend::embed`] from a table of this format.
    Embed(Format),
    /// [`Backend::attention`] with heads of this shape and this KV element type.
    Attention {
        /// Values per head, for queries and keys.
        head_dim: usize,
        /// What values are.
        values: KvValues,
        /// Element type of the cache.
        kv: KvDType,
    },
    /// [`Backend::packed_attention`] with this head width.
    PackedAttention {
        /// Values per head, for queries, keys and values alike.
        head_dim: usize,
    },
}
