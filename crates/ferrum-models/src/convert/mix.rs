//! Which format each tensor gets: for every name of a mix what llama.cpp's quantiser chooses.
//!
//! Some matrices cost more quality than others when they lose precision: the output head, `attn_v`
//! and `ffn_down` of the first and the last layers. The mixes give these a better format. The choices
//! are facts about files of that name; `tests/data/mixes.json` holds what llama.cpp chose.

use ferrum_kernels::Format;

use super::Quant;
use crate::decoder::DecoderSpec;

/// What the choice depends on, beside the tensor.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mix {
    pub quant: Quant,
    pub layers: usize,
    /// Query heads that share a key.
    pub group: usize,
    /// Experts of a layer, or 1.
    pub experts: usize,
    /// The embedding is the output head too.
    pub tied: bool,
    /// Llama 2 and Qwen 2 of 70B: eight heads share a small `attn_v`.
    pub seventy: bool,
}

impl Mix {
    pub fn new(quant: Quant, architecture: &str, spec: &DecoderSpec, tied: bool) -> Self {
        let (layers, first) = (spec.layers.len(), &spec.layers[0]);
        let group = first.heads / first.kv_heads;
        let experts = first.mlp.experts().map_or(1, |experts| experts.count);
        let large = layers == 80 && matches!(architecture, "llama" | "qwen2");
        let seventy = large && (architecture == "qwen2" || group > 1);
        Mix { quant, layers, group, experts, tied, seventy }
    }

    /// The format of a tensor of this name and shape, innermost dimension first; `None` where it stays
    /// unquantised.
    pub fn format(&self, name: &str, dims: &[usize]) -> Option<Format> {
        if !is_quantized(name, dims) {
            return None;
        }
        let base = self.quant.format();
        if base.block_len() == 1 {
            return Some(base);
        }
        Some(fitting(self.wanted(name, dims[0], base), dims[0]))
    }

    fn wanted(&self, name: &str, cols: usize, base: Format) -> Format {
        if name == "output.weight" || (self.tied && name == "token_embd.weight") {
            return match base {
                _ if !cols.is_multiple_of(base.block_len()) => Format::Q8_0,
                Format::Q8_0 => Format::Q8_0,
                _ => Format::Q6_K,
            };
        }
        let Some((layer, part)) = layer_part(name) else { return base };
        match part {
            "attn_v.weight" | "attn_qkv.weight" => self.values(layer, base),
            "attn_k.weight" if self.experts == 8 => Format::Q8_0,
            "attn_output.weight" => self.attention_output(base),
            "ffn_down.weight" | "ffn_down_exps.weight" => self.down(layer, base),
            _ => base,
        }
    }

    fn values(&self, layer: usize, base: Format) -> Format {
        if self.experts == 8 {
            return Format::Q8_0;
        }
        let format = match self.quant {
            Quant::Q2_K if self.group >= 4 => Format::Q4_K,
            Quant::Q2_K => Format::Q3_K,
            Quant::Q3_K_M if layer < 2 => Format::Q5_K,
            Quant::Q3_K_M => Format::Q4_K,
            Quant::Q3_K_L => Format::Q5_K,
            Quant::IQ4_NL | Quant::IQ4_XS if self.group >= 4 => Format::Q5_K,
            Quant::Q4_K_M | Quant::Q5_K_M if self.more_bits(layer) => Format::Q6_K,
            Quant::Q4_K_S if layer < 4 => Format::Q5_K,
            _ => base,
        };
        match format {
            Format::Q3_K | Format::Q4_K if self.seventy => Format::Q5_K,
            format => format,
        }
    }

    fn down(&self, layer: usize, base: Format) -> Format {
        match self.quant {
            Quant::Q2_K => Format::Q3_K,
            Quant::Q3_K_M if layer < self.layers / 16 => Format::Q5_K,
            Quant::Q3_K_M => Format::Q4_K,
            Quant::Q3_K_L => Format::Q5_K,
            Quant::Q4_K_M | Quant::Q5_K_M if self.more_bits(layer) => Format::Q6_K,
            Quant::Q4_K_S | Quant::IQ4_NL | Quant::IQ4_XS if layer < self.layers / 8 => {
                Format::Q5_K
            }
            _ => base,
        }
    }

    fn attention_output(&self, base: Format) -> Format {
        if self.experts == 8 {
            return match base {
                Format::Q2_K | Format::Q3_K | Format::Q4_K | Format::IQ4_NL | Format::IQ4_XS
                    if self.quant != Quant::Q3_K_L =>
                {
                    Format::Q5_K
                }
                _ => base,
            };
        }
        match self.quant {
            Quant::Q2_K => Format::Q3_K,
            Quant::Q3_K_M => Format::Q4_K,
            Quant::Q3_K_L => Format::Q5_K,
            _ => base,
        }
    }

    /// The first and the last eighth of the layers, and every third between.
    fn more_bits(&self, layer: usize) -> bool {
        let eighth = self.layers / 8;
        layer < eighth || layer >= 7 * self.layers / 8 || (layer - eighth) % 3 == 2
    }
}

/// Matrices are, but for routers: which experts are chosen must not hang on a rounding.
pub(super) fn is_quantized(name: &str, dims: &[usize]) -> bool {
    let significant = dims.iter().rposition(|&d| d != 1).map_or(1, |last| last + 1);
    significant >= 2
        && name.ends_with("weight")
        && !name.contains("_norm.weight")
        && !name.contains("ffn_gate_inp.weight")
}

/// `blk.{layer}.{part}`
fn layer_part(name: &str) -> Option<(usize, &str)> {
    let (layer, part) = name.strip_prefix("blk.")?.split_once('.')?;
    Some((layer.parse().ok()?, part))
}

/// The format, or one of smaller blocks where rows are no multiple of its block.
fn fitting(format: Format, cols: usize) -> Format {
    if cols.is_multiple_of(format.block_len()) {
        return format;
    }
    let smaller = match format {
        Format::Q2_K | Format::Q3_K => Format::Q4_0,
        Format::IQ4_XS => Format::IQ4_NL,
        Format::Q4_K => Format::Q5_0,
        Format::Q5_K => Format::Q5_1,
        Format::Q6_K => Format::Q8_0,
        _ => Format::F16,
    };
    if cols.is_multiple_of(smaller.block_len()) { smaller } else { Format::F16 }
}
