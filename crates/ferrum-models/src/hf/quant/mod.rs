//! Quantised linear layers: `quantization_config`, and what is kept of a layer.
//!
//! GPTQ, AWQ and compressed-tensors' integers keep whole numbers `q`, and for groups of columns a scale
//! `d` and a zero point `z`; a weight is `d · (q - z)`. GPTQ (Frantar et al. 2022, arXiv:2210.17323)
//! packs the columns of 32-bit words downwards, AWQ (Lin et al. 2023, arXiv:2306.00978) across and out of
//! order, compressed-tensors along the rows. Others keep a byte for each weight ([`bytes`]): a whole number,
//! or a float of eight bits.
//!
//! Only weights are as the files say: activations that a file wants rounded to eight bits are rounded
//! as those of every other model; or to floats of eight bits, where a backend keeps such weights.

mod blocks;
mod bytes;
mod compressed;
mod layer;
mod packed;
mod tables;

#[cfg(test)]
mod tests;

use serde_json::Value;

use super::error::HfError;
use super::json::Object;

pub(super) use layer::{Layer, Parts};

use compressed::Group;

/// What `quantization_config` says.
pub(super) enum Quantization {
    /// The same of all layers.
    All(Scheme),
    /// Of each layer what the group says that names it.
    Groups(Vec<Group>),
}

/// How a layer is quantised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Scheme {
    pub method: Method,
    /// 4 or 8.
    pub bits: u32,
    /// Columns with one scale; `None`: all of a row.
    pub group: Option<usize>,
    /// Zero points are the middle of the range.
    pub symmetric: bool,
    /// Groups are any columns, as `g_idx` says.
    pub act_order: bool,
}

/// The layouts that are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Method {
    /// Several whole numbers in a word.
    Words(Words),
    /// A byte for each weight, one scale for so many rows and columns; `None`: for each row, or
    /// for all of the matrix, as the scales' shape tells.
    Bytes { kind: ByteKind, block: Option<[usize; 2]> },
}

/// How words are filled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Words {
    /// GPTQ; zero points are stored less one, as the first programs did, or as they are.
    Gptq { zeros_less_one: bool },
    /// AWQ for matrices ("gemm").
    Awq,
    /// compressed-tensors.
    Compressed,
}

/// What a byte means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ByteKind {
    /// A whole number with a sign.
    Int,
    /// A float with four bits of exponent and three of mantissa, without infinities (E4M3FN;
    /// Micikevicius et al. 2022, arXiv:2209.05433).
    Float,
}

impl Quantization {
    /// Reads `quantization_config`; what is not known in it is refused by name.
    pub fn read(config: Object<'_>) -> Result<Self, HfError> {
        match config.text("quant_method")? {
            Some("gptq") => Scheme::gptq(config).map(Quantization::All),
            Some("awq") => Scheme::awq(config).map(Quantization::All),
            Some("fp8") => Scheme::fp8(config).map(Quantization::All),
            Some("compressed-tensors") => compressed::read(config).map(Quantization::Groups),
            Some(_) => Err(config.refuse("quant_method")),
            None => Err(HfError::Missing { key: "quantization_config.quant_method".into() }),
        }
    }

    /// How the layer is quantised that the files call `module`; `None` where nothing is said of it.
    pub fn of(&self, module: &str) -> Option<Scheme> {
        match self {
            Quantization::All(scheme) => Some(*scheme),
            Quantization::Groups(groups) => compressed::of(groups, module),
        }
    }
}

impl Scheme {
    fn gptq(config: Object<'_>) -> Result<Self, HfError> {
        let (bits, group) = bits_and_group(config)?;
        if !matches!(bits, 4 | 8) {
            return Err(config.refuse("bits"));
        }
        let zeros_less_one = match config.text("checkpoint_format")? {
            None | Some("gptq") => true,
            Some("gptq_v2") => false,
            Some(_) => return Err(config.refuse("checkpoint_format")),
        };
        if config.text("pack_dtype")?.is_some_and(|name| name != "int32") {
            return Err(config.refuse("pack_dtype"));
        }
        // Layers with settings of their own.
        let empty = |v: &Value| v.as_object().is_some_and(serde_json::Map::is_empty);
        if config.get("dynamic").is_some_and(|v| !empty(v)) {
            return Err(config.refuse("dynamic"));
        }
        if config.bool("is_marlin_format")? == Some(true) {
            return Err(config.refuse("is_marlin_format"));
        }
        Ok(Scheme {
            method: Method::Words(Words::Gptq { zeros_less_one }),
            bits,
            group,
            symmetric: config.bool("sym")?.unwrap_or(true),
            act_order: config.bool("desc_act")?.unwrap_or(false),
        })
    }

    fn awq(config: Object<'_>) -> Result<Self, HfError> {
        let (bits, group) = bits_and_group(config)?;
        if bits != 4 {
            return Err(config.refuse("bits"));
        }
        if config.text("version")?.is_some_and(|name| !name.eq_ignore_ascii_case("gemm")) {
            return Err(config.refuse("version"));
        }
        // Without zero points their tensor is there too, and says so.
        let method = Method::Words(Words::Awq);
        Ok(Scheme { method, bits, group, symmetric: false, act_order: false })
    }

    /// Floats of eight bits, as DeepSeek and Qwen publish them.
    fn fp8(config: Object<'_>) -> Result<Self, HfError> {
        if config.text("fmt")?.is_some_and(|name| name != "e4m3") {
            return Err(config.refuse("fmt"));
        }
        let key = "weight_block_size";
        let block = config.list(key)?.map(block_of).transpose();
        let block = block.map_err(|()| config.refuse(key))?;
        Ok(Scheme::bytes(ByteKind::Float, block))
    }

    fn bytes(kind: ByteKind, block: Option<[usize; 2]>) -> Self {
        let method = Method::Bytes { kind, block };
        Scheme { method, bits: 8, group: None, symmetric: true, act_order: false }
    }
}

/// Rows and columns with one scale.
fn block_of(list: &[Value]) -> Result<[usize; 2], ()> {
    let size = |v: &Value| v.as_u64().and_then(|n| usize::try_from(n).ok()).filter(|n| *n > 0);
    match list {
        [rows, cols] => Ok([size(rows).ok_or(())?, size(cols).ok_or(())?]),
        _ => Err(()),
    }
}

/// Bits of a weight, and columns with one scale, of GPTQ and AWQ.
fn bits_and_group(config: Object<'_>) -> Result<(u32, Option<usize>), HfError> {
    let bits = config.count("bits")?.unwrap_or(4);
    let group = match config.get("group_size").and_then(Value::as_i64) {
        Some(-1) => None,
        Some(size) if size > 0 => Some(size as usize),
        None if config.get("group_size").is_none() => Some(128),
        _ => return Err(config.refuse("group_size")),
    };
    Ok((bits, group))
}
