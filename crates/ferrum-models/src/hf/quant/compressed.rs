//! `quantization_config` of compressed-tensors: groups of layers, each with a scheme.

use serde_json::Value;

use super::super::error::HfError;
use super::super::json::Object;
use super::{ByteKind, Method, Scheme, Words, block_of};
use crate::pattern::Pattern;

/// Layers with one scheme.
pub(in super::super) struct Group {
    targets: Vec<Target>,
    scheme: Scheme,
}

/// Which layers are meant.
enum Target {
    /// The one of this name.
    Name(String),
    /// Those whose names begin as this says.
    Pattern(Pattern),
    /// Every linear.
    Linear,
}

/// Parts that change the result and that nothing here does, with what they are where they do nothing.
const UNSUPPORTED: &[(&str, &str)] = &[("kv_cache_scheme", "{}"), ("transform_config", "{}")];

/// Reads the groups. Layers to be ignored are those that are stored as they are.
pub(super) fn read(config: Object<'_>) -> Result<Vec<Group>, HfError> {
    config.refuse_unless(UNSUPPORTED)?;
    if let Some(sparsity) = config.object("sparsity_config")?
        && sparsity.text("format")?.is_some_and(|name| name != "dense")
    {
        return Err(config.refuse("sparsity_config"));
    }
    let missing = |key: &str| HfError::Missing { key: format!("quantization_config.{key}") };
    let groups = config.object("config_groups")?.ok_or_else(|| missing("config_groups"))?;
    let general = config.text("format")?;
    let group = |name: &String| {
        let group = groups.object(name)?.ok_or_else(|| groups.refuse(name))?;
        let format = group.text("format")?.or(general).ok_or_else(|| missing("format"))?;
        group.refuse_unless(&[("output_activations", "{}")])?;
        let weights = group.object("weights")?.ok_or_else(|| missing("weights"))?;
        let scheme = scheme(weights, format)?.ok_or_else(|| config.refuse("format"))?;
        let targets = group.list("targets")?.ok_or_else(|| missing("targets"))?;
        let targets = targets.iter().map(|t| target(t).ok_or_else(|| group.refuse("targets")));
        Ok(Group { targets: targets.collect::<Result<_, HfError>>()?, scheme })
    };
    groups.0.keys().map(group).collect()
}

fn target(value: &Value) -> Option<Target> {
    Some(match value.as_str()? {
        "Linear" => Target::Linear,
        text => match text.strip_prefix("re:") {
            Some(pattern) => Target::Pattern(Pattern::start(pattern).ok()?),
            None => Target::Name(text.to_string()),
        },
    })
}

/// The scheme of the group that names a layer most exactly.
pub(super) fn of(groups: &[Group], module: &str) -> Option<Scheme> {
    let rank = |target: &Target| match target {
        Target::Name(name) => (name == module).then_some(0),
        Target::Pattern(pattern) => pattern.matches(module).then_some(1),
        Target::Linear => Some(2),
    };
    let ranked = groups
        .iter()
        .filter_map(|group| Some((group.targets.iter().filter_map(rank).min()?, group.scheme)));
    ranked.min_by_key(|(rank, _)| *rank).map(|(_, scheme)| scheme)
}

/// What `weights` says; `None` where the format is not known.
fn scheme(weights: Object<'_>, format: &str) -> Result<Option<Scheme>, HfError> {
    let bits = weights.count("num_bits")?.unwrap_or(8);
    let kind = match weights.text("type")? {
        None | Some("int") => ByteKind::Int,
        Some("float") => ByteKind::Float,
        Some(_) => return Err(weights.refuse("type")),
    };
    let symmetric = weights.bool("symmetric")?.unwrap_or(true);
    weights.refuse_unless(&[("dynamic", "false")])?;
    let size = weights.count("group_size")?.map(|n| n as usize).filter(|n| *n > 0);
    let group = match weights.text("strategy")? {
        Some("group") => Some(size.ok_or_else(|| weights.refuse("group_size"))?),
        Some("channel" | "tensor" | "block") => None,
        None => size,
        Some(_) => return Err(weights.refuse("strategy")),
    };
    let act_order = match weights.get("actorder") {
        None | Some(Value::Bool(false)) => false,
        Some(Value::Bool(true)) => true,
        // Columns keep their places.
        Some(Value::String(name)) if name == "weight" || name == "static" => false,
        Some(Value::String(name)) if name == "group" => true,
        Some(_) => return Err(weights.refuse("actorder")),
    };
    let block = weights.list("block_structure")?.map(block_of).transpose();
    let block = block.map_err(|()| weights.refuse("block_structure"))?;
    let bytes = |kind| {
        // A row in groups is a row of blocks one row high.
        let block = block.or(group.map(|cols| [1, cols]));
        Scheme { symmetric, ..Scheme::bytes(kind, block) }
    };
    match (format, kind, bits) {
        ("pack-quantized", ByteKind::Int, 4 | 8) => {
            let method = Method::Words(Words::Compressed);
            Ok(Some(Scheme { method, bits, group, symmetric, act_order }))
        }
        ("int-quantized" | "naive-quantized", ByteKind::Int, 8) => Ok(Some(bytes(kind))),
        ("float-quantized" | "naive-quantized", ByteKind::Float, 8) => Ok(Some(bytes(kind))),
        ("pack-quantized" | "int-quantized" | "float-quantized" | "naive-quantized", _, _) => {
            Err(weights.refuse("num_bits"))
        }
        _ => Ok(None),
    }
}
