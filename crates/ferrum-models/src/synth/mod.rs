//! Synthetic models: GGUF files of random weights with the shape of a real architecture, for tests
//! and measurements.
//!
//! What such a model writes means nothing, but its logits, memory and speed are as real as a
//! trained model's, and other engines read the same file. A file is the same byte for byte on
//! every machine: the numbers come from integer generators and from float operations that IEEE
//! 754 rounds exactly (add, multiply, divide, square root), never from a maths library.

mod random;
mod vocab;

#[cfg(test)]
mod tests;

use std::io::Write;

use ferrum_kernels::Format;

use crate::gguf::{GgufWriter, TensorWriter, WriteError};
use random::Normals;

/// An architecture that can be synthesised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are those of `general.architecture`")]
pub enum SynthArch {
    Llama,
    Qwen2,
    Qwen3,
    Qwen3Moe,
    Gemma3,
}

impl SynthArch {
    /// The name in `general.architecture`.
    pub fn name(self) -> &'static str {
        match self {
            SynthArch::Llama => "llama",
            SynthArch::Qwen2 => "qwen2",
            SynthArch::Qwen3 => "qwen3",
            SynthArch::Qwen3Moe => "qwen3moe",
            SynthArch::Gemma3 => "gemma3",
        }
    }

    /// The pre-tokenizer of the architecture's best-known models, or for Gemma, which has a
    /// vocabulary of another kind, GPT-2's.
    fn pre_tokenizer(self) -> &'static str {
        match self {
            SynthArch::Llama => "smollm",
            SynthArch::Qwen2 | SynthArch::Qwen3 | SynthArch::Qwen3Moe => "qwen2",
            SynthArch::Gemma3 => "gpt-2",
        }
    }
}

/// The shape of a synthetic model.
#[derive(Debug, Clone, PartialEq)]
pub struct SynthSpec {
    /// Which architecture; it decides which norms and biases there are.
    pub arch: SynthArch,
    /// Decoder layers.
    pub layers: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width of the feed-forward part, or of each expert's.
    pub ffn: usize,
    /// Experts, and how many of them work on a token: needed by [`SynthArch::Qwen3Moe`], (0, 0)
    /// otherwise.
    pub experts: (usize, usize),
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; a divisor of `heads`.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Tokens; see [`SynthError::Vocab`] for the limits.
    pub vocab: usize,
    /// Positions that the file announces.
    pub context: usize,
    /// Whether the output head is the embedding.
    pub tied: bool,
    /// Sliding window in positions: needed by Gemma 3, of whose layers the sixth is global.
    pub window: Option<usize>,
    /// Base of RoPE's angles.
    pub rope_theta: f32,
    /// Whether the file has per-frequency divisors of RoPE's angles, as Llama 3.1 and later.
    pub rope_factors: bool,
    /// Another seed gives other weights.
    pub seed: u64,
}

/// Why a model could not be synthesised.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages name the fields")]
pub enum SynthError {
    #[error("a synthetic vocabulary has {least} to {most} tokens, not {vocab}")]
    Vocab { vocab: usize, least: usize, most: usize },
    #[error("{what} of a synthetic model does not fit 32 bits: {value}")]
    TooLarge { what: &'static str, value: usize },
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// Names that [`SynthSpec::preset`] knows.
pub const PRESETS: [&str; 6] =
    ["llama-tiny", "llama3-tiny", "qwen2-tiny", "qwen3-tiny", "qwen3moe-tiny", "gemma3-tiny"];

/// Further ones, of real sizes: files of gigabytes, for measurements.
pub const LARGE_PRESETS: [&str; 3] = ["llama-1b", "llama-8b", "qwen3moe-3b"];

impl SynthSpec {
    /// A shape by name: one of [`PRESETS`] or [`LARGE_PRESETS`].
    pub fn preset(name: &str) -> Option<SynthSpec> {
        let base = SynthSpec {
            arch: SynthArch::Llama,
            layers: 4,
            hidden: 256,
            ffn: 768,
            experts: (0, 0),
            heads: 4,
            kv_heads: 2,
            head_dim: 64,
            vocab: 1024,
            context: 32768,
            tied: true,
            window: None,
            rope_theta: 500_000.0,
            rope_factors: false,
            seed: 0,
        };
        Some(match name {
            // A width that is no multiple of 256, and an output head of its own.
            "llama-tiny" => SynthSpec { ffn: 672, heads: 8, head_dim: 32, tied: false, ..base },
            "llama3-tiny" => SynthSpec { heads: 8, head_dim: 32, rope_factors: true, ..base },
            "qwen2-tiny" => SynthSpec { arch: SynthArch::Qwen2, ..base },
            // Heads that are together wider than the residual stream, as in Qwen3 0.6B and 4B.
            "qwen3-tiny" => SynthSpec {
                arch: SynthArch::Qwen3,
                heads: 8,
                kv_heads: 4,
                rope_theta: 1_000_000.0,
                ..base
            },
            // Experts of a width that fills no panel evenly, and more of them than a step of few tokens
            // uses.
            "qwen3moe-tiny" => SynthSpec {
                arch: SynthArch::Qwen3Moe,
                ffn: 224,
                experts: (16, 4),
                heads: 8,
                kv_heads: 4,
                rope_theta: 1_000_000.0,
                ..base
            },
            // Seven layers: five local, one global, one local.
            "gemma3-tiny" => SynthSpec {
                arch: SynthArch::Gemma3,
                layers: 7,
                ffn: 512,
                kv_heads: 1,
                window: Some(64),
                rope_theta: 1_000_000.0,
                ..base
            },
            _ => return base.large(name),
        })
    }

    /// One of [`LARGE_PRESETS`], with what it has in common with the others.
    fn large(self, name: &str) -> Option<SynthSpec> {
        Some(match name {
            // Llama 3.2 1B.
            "llama-1b" => SynthSpec {
                layers: 16,
                hidden: 2048,
                ffn: 8192,
                heads: 32,
                kv_heads: 8,
                vocab: 128_256,
                ..self
            },
            // Llama 3.1 8B.
            "llama-8b" => SynthSpec {
                layers: 32,
                hidden: 4096,
                ffn: 14336,
                heads: 32,
                kv_heads: 8,
                head_dim: 128,
                vocab: 128_256,
                tied: false,
                ..self
            },
            // The routing of Qwen3-30B-A3B at a tenth of its size.
            "qwen3moe-3b" => SynthSpec {
                arch: SynthArch::Qwen3Moe,
                layers: 24,
                hidden: 1024,
                ffn: 512,
                experts: (64, 8),
                heads: 16,
                kv_heads: 4,
                head_dim: 128,
                vocab: 151_936,
                rope_theta: 1_000_000.0,
                ..self
            },
            _ => return None,
        })
    }

    /// Writes the model to `out` and gives `out` back. Matrices are `f16`, vectors `f32`.
    pub fn write<W: Write>(&self, out: W) -> Result<W, SynthError> {
        let mut file = GgufWriter::new();
        self.metadata(&mut file)?;
        let tensors = self.tensors();
        for tensor in &tensors {
            match tensor.kind {
                Kind::Matrix { rows, cols } => {
                    file.tensor(&tensor.name, Format::F16, &[cols, rows])?;
                }
                Kind::Stack { experts, rows, cols } => {
                    file.tensor(&tensor.name, Format::F16, &[cols, rows, experts])?;
                }
                Kind::Router { experts, cols } => {
                    file.tensor(&tensor.name, Format::F32, &[cols, experts])?;
                }
                Kind::Vector { len, .. } | Kind::RopeFactors { len } => {
                    file.tensor(&tensor.name, Format::F32, &[len])?;
                }
            }
        }
        let mut out = file.start(out)?;
        for tensor in &tensors {
            tensor.write(&mut out, self.seed)?;
        }
        Ok(out.finish()?)
    }

    fn metadata(&self, file: &mut GgufWriter) -> Result<(), SynthError> {
        let arch = self.arch.name();
        file.set("general.architecture", arch)?;
        file.set("general.name", format!("synthetic {arch}"))?;
        // "Mostly f16", in llama.cpp's `enum llama_ftype`.
        file.set("general.file_type", 1u32)?;
        for (key, value) in [
            ("block_count", self.layers),
            ("context_length", self.context),
            ("embedding_length", self.hidden),
            ("feed_forward_length", self.ffn),
            ("attention.head_count", self.heads),
            ("attention.head_count_kv", self.kv_heads),
            ("attention.key_length", self.head_dim),
            ("attention.value_length", self.head_dim),
            ("rope.dimension_count", self.head_dim),
            ("vocab_size", self.vocab),
        ] {
            file.set(&format!("{arch}.{key}"), narrow(key, value)?)?;
        }
        if self.experts != (0, 0) {
            for (key, value) in [
                ("expert_count", self.experts.0),
                ("expert_used_count", self.experts.1),
                ("expert_feed_forward_length", self.ffn),
            ] {
                file.set(&format!("{arch}.{key}"), narrow(key, value)?)?;
            }
        }
        file.set(&format!("{arch}.rope.freq_base"), self.rope_theta)?;
        file.set(&format!("{arch}.attention.layer_norm_rms_epsilon"), 1e-6f32)?;
        if let Some(window) = self.window {
            let key = "attention.sliding_window";
            file.set(&format!("{arch}.{key}"), narrow(key, window)?)?;
        }
        vocab::metadata(file, self.arch.pre_tokenizer(), self.vocab)
    }

    /// All tensors, in the order of the file.
    fn tensors(&self) -> Vec<Tensor> {
        let mut tensors = vec![
            matrix("token_embd.weight", self.vocab, self.hidden),
            norm("output_norm.weight", self.hidden),
        ];
        if !self.tied {
            tensors.push(matrix("output.weight", self.vocab, self.hidden));
        }
        if self.rope_factors {
            let kind = Kind::RopeFactors { len: self.head_dim / 2 };
            tensors.push(Tensor { name: "rope_freqs.weight".into(), kind });
        }
        for layer in 0..self.layers {
            self.layer(layer, &mut tensors);
        }
        tensors
    }

    fn layer(&self, layer: usize, tensors: &mut Vec<Tensor>) {
        let name = |part: &str| format!("blk.{layer}.{part}");
        let (q, kv) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        tensors.push(norm(name("attn_norm.weight"), self.hidden));
        tensors.push(matrix(name("attn_q.weight"), q, self.hidden));
        tensors.push(matrix(name("attn_k.weight"), kv, self.hidden));
        tensors.push(matrix(name("attn_v.weight"), kv, self.hidden));
        tensors.push(matrix(name("attn_output.weight"), self.hidden, q));
        if self.arch == SynthArch::Qwen2 {
            tensors.push(bias(name("attn_q.bias"), q));
            tensors.push(bias(name("attn_k.bias"), kv));
            tensors.push(bias(name("attn_v.bias"), kv));
        }
        if matches!(self.arch, SynthArch::Qwen3 | SynthArch::Qwen3Moe | SynthArch::Gemma3) {
            tensors.push(norm(name("attn_q_norm.weight"), self.head_dim));
            tensors.push(norm(name("attn_k_norm.weight"), self.head_dim));
        }
        if self.arch == SynthArch::Gemma3 {
            tensors.push(norm(name("post_attention_norm.weight"), self.hidden));
            tensors.push(norm(name("post_ffw_norm.weight"), self.hidden));
        }
        tensors.push(norm(name("ffn_norm.weight"), self.hidden));
        if self.arch == SynthArch::Qwen3Moe {
            let (experts, hidden, ffn) = (self.experts.0, self.hidden, self.ffn);
            let router = Kind::Router { experts, cols: hidden };
            tensors.push(Tensor { name: name("ffn_gate_inp.weight"), kind: router });
            for (part, rows, cols) in
                [("gate", ffn, hidden), ("up", ffn, hidden), ("down", hidden, ffn)]
            {
                let kind = Kind::Stack { experts, rows, cols };
                tensors.push(Tensor { name: name(&format!("ffn_{part}_exps.weight")), kind });
            }
            return;
        }
        tensors.push(matrix(name("ffn_gate.weight"), self.ffn, self.hidden));
        tensors.push(matrix(name("ffn_up.weight"), self.ffn, self.hidden));
        tensors.push(matrix(name("ffn_down.weight"), self.hidden, self.ffn));
    }
}

/// A size as the metadata has it.
fn narrow(what: &'static str, value: usize) -> Result<u32, SynthError> {
    u32::try_from(value).map_err(|_| SynthError::TooLarge { what, value })
}

/// A tensor to be made.
struct Tensor {
    name: String,
    kind: Kind,
}

/// What a tensor is filled with.
#[derive(Clone, Copy)]
enum Kind {
    /// `[rows, cols]` of standard deviation 1/sqrt(cols): activations keep their scale through any
    /// number of layers.
    Matrix { rows: usize, cols: usize },
    /// A matrix for each expert, one after the other.
    Stack { experts: usize, rows: usize, cols: usize },
    /// `[experts, cols]` of standard deviation 1/sqrt(cols) in single precision, in which files keep
    /// routers: which experts are chosen must not hang on a rounding.
    Router { experts: usize, cols: usize },
    /// `mean` plus noise of standard deviation 0.1.
    Vector { len: usize, mean: f32 },
    /// Divisors of RoPE's angles: 1 for the fast half of the frequencies, then rising to 8, as
    /// Llama 3.1's do.
    RopeFactors { len: usize },
}

fn matrix(name: impl Into<String>, rows: usize, cols: usize) -> Tensor {
    Tensor { name: name.into(), kind: Kind::Matrix { rows, cols } }
}

fn norm(name: impl Into<String>, len: usize) -> Tensor {
    Tensor { name: name.into(), kind: Kind::Vector { len, mean: 1.0 } }
}

fn bias(name: impl Into<String>, len: usize) -> Tensor {
    Tensor { name: name.into(), kind: Kind::Vector { len, mean: 0.0 } }
}

impl Tensor {
    /// Makes the values and writes them, one row in memory at a time.
    fn write<W: Write>(&self, out: &mut TensorWriter<W>, seed: u64) -> Result<(), WriteError> {
        let mut normals = Normals::new(seed, &self.name);
        match self.kind {
            Kind::Matrix { rows, cols } => self.write_rows(out, normals, rows, cols),
            Kind::Stack { experts, rows, cols } => {
                self.write_rows(out, normals, experts * rows, cols)
            }
            Kind::Router { experts, cols } => {
                let scale = 1.0 / (cols as f32).sqrt();
                let values = (0..experts * cols).map(|_| normals.next() * scale);
                out.write(&self.name, &values.flat_map(f32::to_le_bytes).collect::<Vec<_>>())
            }
            Kind::Vector { len, mean } => {
                let values = (0..len).map(|_| mean + 0.1 * normals.next());
                out.write(&self.name, &values.flat_map(f32::to_le_bytes).collect::<Vec<_>>())
            }
            Kind::RopeFactors { len } => {
                let slow = (len / 2).max(1) as f32;
                let values = (0..len).map(|i| {
                    let past = (i + 1).saturating_sub(len - len / 2) as f32;
                    1.0 + 7.0 * past / slow
                });
                out.write(&self.name, &values.flat_map(f32::to_le_bytes).collect::<Vec<_>>())
            }
        }
    }

    /// Rows of standard deviation 1/sqrt(cols) in `f16`.
    fn write_rows<W: Write>(
        &self,
        out: &mut TensorWriter<W>,
        mut normals: Normals,
        rows: usize,
        cols: usize,
    ) -> Result<(), WriteError> {
        let scale = 1.0 / (cols as f32).sqrt();
        let mut row = Vec::with_capacity(2 * cols);
        for _ in 0..rows {
            row.clear();
            for _ in 0..cols {
                let value = half::f16::from_f32(normals.next() * scale);
                row.extend_from_slice(&value.to_le_bytes());
            }
            out.write(&self.name, &row)?;
        }
        Ok(())
    }
}
