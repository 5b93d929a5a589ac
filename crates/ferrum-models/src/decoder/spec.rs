//! What an architecture file states about a model, and all that the decoder knows of it.

pub use ferrum_kernels::params::{Activation, RopeStyle};

/// A decoder-only transformer with gated MLPs and RMS norms before or after each sublayer.
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
    /// What becomes of the output head's values.
    pub logits: LogitsSpec,
}

/// From the output head's values `x` to logits: `scale · x`, then `cap · tanh(x / cap)`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LogitsSpec {
    /// Factor.
    pub scale: f32,
    /// Bound of the values.
    pub softcap: Option<f32>,
}

impl LogitsSpec {
    /// Turns the head's values into logits.
    pub fn apply(&self, values: &mut [f32]) {
        if self.scale != 1.0 {
            values.iter_mut().for_each(|x| *x *= self.scale);
        }
        if let Some(cap) = self.softcap {
            values.iter_mut().for_each(|x| *x = cap * (*x / cap).tanh());
        }
    }
}

/// One layer: attention and MLP, each reading the residual stream and adding to it.
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
    /// Bound of the attention scores `s`, `cap · tanh(s / cap)`.
    pub softcap: Option<f32>,
    /// Positions that a token sees, itself among them; `None` means all before it.
    pub window: Option<usize>,
    /// Index in [`DecoderSpec::ropes`]; `None` where positions are not told apart.
    pub rope: Option<usize>,
    /// Query, key and value projections have biases.
    pub qkv_bias: bool,
    /// Query, key and value projections are one tensor, in this order.
    pub fused_qkv: bool,
    /// Norms of queries and keys before the rotation.
    pub qk_norm: QkNorm,
    /// Norms of attention and MLP.
    pub norms: Norms,
    /// The MLP.
    pub mlp: MlpSpec,
}

/// Norms of queries and keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QkNorm {
    /// There are none.
    None,
    /// Each head by itself, all with the same weights.
    Head,
    /// All heads of a token together.
    Row,
}

/// Where a sublayer has norms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Norms {
    /// It reads a norm of the residual stream.
    Before,
    /// Its output is normalised before it joins the residual stream.
    After,
    /// Both.
    Around,
}

impl Norms {
    /// Whether a sublayer reads a norm of the residual stream.
    pub fn before(self) -> bool {
        self != Norms::After
    }

    /// Whether its output is normalised.
    pub fn after(self) -> bool {
        self != Norms::Before
    }
}

/// A gated MLP, `down · (act(gate · x) ⊙ (up · x))`, or a mixture of several of one shape.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MlpSpec {
    /// Values between the two halves.
    pub width: usize,
    /// Applied to the gate.
    pub activation: Activation,
    /// Gate and up are one tensor, `ffn_up`, in this order.
    pub fused: bool,
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

/// Frequencies of a rotary position embedding: pair `i` of `n = rotary_dim / 2` turns by `position ·
/// theta^(-i/n)`, changed by the scaling.
#[derive(Debug, Clone, PartialEq)]
pub struct RopeSpec {
    /// RoPE theta, the base of the frequencies.
    pub theta: f32,
    /// Values per head that are rotated.
    pub rotary_dim: usize,
    /// How the frequencies are changed to reach further than the model was first trained for.
    pub scaling: RopeScaling,
    /// Factor on cosine and sine.
    pub magnitude: f32,
    /// Which values form a pair.
    pub style: RopeStyle,
}

/// Changes of the frequencies `f[i]`.
#[derive(Debug, Clone, PartialEq)]
pub enum RopeScaling {
    /// None.
    None,
    /// `f[i] / factor` (Chen et al. 2023, arXiv:2306.15595).
    Linear(f32),
    /// `f[i] / d[i]`, with the divisors in a tensor of this name (Llama 3.1).
    Divisors(String),
    /// Likewise, with divisors for contexts of up to `original` positions and for longer ones
    /// (LongRoPE, Ding et al. 2024, arXiv:2402.13753).
    LongRope {
        /// Tensor of divisors for short contexts.
        short: String,
        /// Tensor of divisors for long contexts.
        long: String,
        /// The longest short context.
        original: usize,
    },
    /// Fast frequencies stay, slow ones are divided by the factor (Peng et al. 2023,
    /// arXiv:2309.00071).
    Yarn(Yarn),
    /// Theta grows with the context (NTK-aware, dynamic). A sequence's keys are cached, so it is
    /// the longest context of the runner that counts and not that of the moment.
    Dynamic {
        /// Of the original context, so many times can be reached.
        factor: f32,
        /// Positions that the model was trained for without scaling.
        original: usize,
    },
}

/// Parameters of YaRN.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Yarn {
    /// Divisor of the slow frequencies.
    pub factor: f32,
    /// Positions that the model was trained for without scaling.
    pub original: usize,
    /// A frequency that turns so often over the original context stays as it is.
    pub beta_fast: f32,
    /// One that turns so seldom is divided by all of the factor.
    pub beta_slow: f32,
    /// The bounds between the two are whole pairs.
    pub truncate: bool,
}

impl RopeSpec {
    /// Names of all tensors with divisors, `rotary_dim / 2` of them each.
    pub fn divisors(&self) -> Vec<&str> {
        match &self.scaling {
            RopeScaling::Divisors(name) => vec![name],
            RopeScaling::LongRope { short, long, .. } => vec![short, long],
            _ => Vec::new(),
        }
    }

    /// The tensor of divisors for a context of `positions`, if there is any.
    pub fn divisors_for(&self, positions: usize) -> Option<&str> {
        match &self.scaling {
            RopeScaling::Divisors(name) => Some(name),
            RopeScaling::LongRope { short, original, .. } if positions <= *original => Some(short),
            RopeScaling::LongRope { long, .. } => Some(long),
            _ => None,
        }
    }
}
