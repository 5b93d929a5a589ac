//! Quantised linear layers: `quantization_config`, and what GPTQ and AWQ keep of a layer.
//!
//! Both keep whole numbers `q`, and for groups of columns a scale `d` and a zero point `z`; a weight
//! is `d · (q - z)`. GPTQ (Frantar et al. 2022, arXiv:2210.17323) packs the columns of 32-bit words
//! downwards, AWQ (Lin et al. 2023, arXiv:2306.00978) across and out of order.

mod layer;

#[cfg(test)]
mod tests;

use serde_json::Value;

use super::error::HfError;
use super::json::Object;

pub(super) use layer::{Layer, Parts};

/// How a checkpoint is quantised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Quantization {
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
    /// GPTQ; zero points are stored less one, as the first programs did, or as they are.
    Gptq { zeros_less_one: bool },
    /// AWQ for matrices ("gemm").
    Awq,
}

impl Quantization {
    /// Reads `quantization_config`; what is not known in it is refused by name.
    pub fn read(config: Object<'_>) -> Result<Self, HfError> {
        let bits = config.count("bits")?.unwrap_or(4);
        let group = match config.get("group_size").and_then(Value::as_i64) {
            Some(-1) => None,
            Some(size) if size > 0 => Some(size as usize),
            None if config.get("group_size").is_none() => Some(128),
            _ => return Err(config.refuse("group_size")),
        };
        match config.text("quant_method")? {
            Some("gptq") => Quantization::gptq(config, bits, group),
            Some("awq") => Quantization::awq(config, bits, group),
            Some(_) => Err(config.refuse("quant_method")),
            None => Err(HfError::Missing { key: "quantization_config.quant_method".into() }),
        }
    }

    fn gptq(config: Object<'_>, bits: u32, group: Option<usize>) -> Result<Self, HfError> {
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
        Ok(Quantization {
            method: Method::Gptq { zeros_less_one },
            bits,
            group,
            symmetric: config.bool("sym")?.unwrap_or(true),
            act_order: config.bool("desc_act")?.unwrap_or(false),
        })
    }

    fn awq(config: Object<'_>, bits: u32, group: Option<usize>) -> Result<Self, HfError> {
        if bits != 4 {
            return Err(config.refuse("bits"));
        }
        if config.text("version")?.is_some_and(|name| !name.eq_ignore_ascii_case("gemm")) {
            return Err(config.refuse("version"));
        }
        // Without zero points their tensor is there too, and says so.
        Ok(Quantization { method: Method::Awq, bits, group, symmetric: false, act_order: false })
    }
}
