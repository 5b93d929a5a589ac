//! What an architecture file states about a model, and all that the decoder knows of it.

pub use ferrum_kernels::params::{Activation, RopeStyle};

/// A decoder-only transformer with gated MLPs and RMS norms before each sublayer.
#[derive(Debug, Clone, PartialEq)]
pub struct DecoderSpec {
    /// Tokens in the vocabulary.
    pub vocab: usize,
    /// Values in a hidden state.
    pub hidden: usize,
    /// Positions that the model was trained for.
    pub context: usize,
    /// Factor on the embedding.
    pub embed_scale: f32,
    /// Added to the mean square in every norm.
    pub norm_eps: f32,
    /// Position tables; a layer names one by its index.
    pub ropes: Vec<RopeSpec>,
    /// First to last.
    pub layers: Vec<LayerSpec>,
}

/// One layer: attention and MLP, each reading a norm of the residual stream and adding to it.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerSpec {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Values per head.
    pub head_dim: usize,
    /// Factor on the attention scores.
    pub attn_scale: f32,
    /// Positions that a token sees, itself among them; `None` means all before it.
    pub window: Option<usize>,
    /// Index in [`DecoderSpec::ropes`].
    pub rope: usize,
    /// Query, key and value projections have biases.
    pub qkv_bias: bool,
    /// Queries and keys are normalised per head before the rotation.
    pub qk_norm: bool,
    /// The outputs of attention and MLP are normalised before they join the residual stream.
    pub post_norms: bool,
    /// The MLP.
    pub mlp: MlpSpec,
}

/// A gated MLP, `down · (act(gate · x) ⊙ (up · x))`, or a mixture of several of one shape.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MlpSpec {
    /// Values between the two halves.
    pub width: usize,
    /// Applied to the gate.
    pub activation: Activation,
    /// One or several.
    pub kind: MlpKind,
}

/// Whether every token goes through the same MLP.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum MlpKind {
    /// There is one.
    Dense,
    /// A token goes through a few of many, and their results are added up.
    Experts(ExpertsSpec),
}

/// A mixture of experts: a linear router scores them for each token; the best work on it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ExpertsSpec {
    /// Experts.
    pub count: usize,
    /// Experts that work on a token: 1 to `count`.
    pub used: usize,
    /// The weights of those that work on a token add up to `scale`; if not, those of all would.
    pub normalize: bool,
    /// Factor on the weights.
    pub scale: f32,
}

impl MlpSpec {
    /// The mixture, where it is one.
    pub fn experts(&self) -> Option<&ExpertsSpec> {
        match &self.kind {
            MlpKind::Experts(experts) => Some(experts),
            MlpKind::Dense => None,
        }
    }
}

/// Frequencies of a rotary position embedding: pair `i` of `n = rotary_dim / 2` turns by
/// `position · scale · theta^(-i/n) / factors[i]`.
#[derive(Debug, Clone, PartialEq)]
pub struct RopeSpec {
    /// RoPE theta, the base of the frequencies.
    pub theta: f32,
    /// Values per head that are rotated.
    pub rotary_dim: usize,
    /// Linear scaling: the inverse of the file's factor.
    pub scale: f32,
    /// Name of a tensor with a divisor for each frequency (Llama 3.1's scaling).
    pub factors: Option<String>,
    /// Which values form a pair.
    pub style: RopeStyle,
}
