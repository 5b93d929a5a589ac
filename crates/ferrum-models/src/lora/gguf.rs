//! Adapters as GGUF files, which llama.cpp's `convert_lora_to_gguf.py` makes: tensors
//! `NAME.lora_a` and `NAME.lora_b` for the weight `NAME`, and `adapter.lora.alpha`.

use std::collections::BTreeMap;
use std::path::Path;

use super::{Opened, Pair, Store};
use crate::checkpoint::Layout;
use crate::gguf::{Gguf, GgufError};

/// Opens an adapter for a model of this architecture.
pub(super) fn open(path: &Path, architecture: &str) -> Result<Opened, String> {
    let file = Gguf::open(path).map_err(|error| error.to_string())?;
    let pairs = pairs(&file, architecture)?;
    Ok(Opened { store: Store::Gguf(file), pairs, layout: Layout::Gguf })
}

/// Keys that change the result, and the only value that is known.
const MEANT: &[(&str, &str)] = &[("general.type", "adapter"), ("adapter.type", "lora")];

fn pairs(file: &Gguf, architecture: &str) -> Result<Vec<Pair>, String> {
    let metadata = file.metadata();
    let text = |error: GgufError| error.to_string();
    let meant = MEANT.iter().copied().chain([("general.architecture", architecture)]);
    for (key, value) in meant {
        let found = metadata.need_str(key).map_err(text)?;
        if found != value {
            return Err(format!("{key} is {found:?} where {value:?} is needed"));
        }
    }
    if let Some((key, _)) = metadata.iter().find(|(key, _)| key.starts_with("adapter.alora.")) {
        return Err(format!("{key} is not supported"));
    }
    let alpha = metadata.f32("adapter.lora.alpha").map_err(text)?.unwrap_or(0.0);
    if !alpha.is_finite() {
        return Err(format!("adapter.lora.alpha = {alpha} is not supported"));
    }
    let mut halves: BTreeMap<&str, [Option<usize>; 2]> = BTreeMap::new();
    for (index, tensor) in file.tensors().iter().enumerate() {
        let (name, half) = match tensor.name.rsplit_once('.') {
            Some((name, "lora_a")) => (name, 0),
            Some((name, "lora_b")) => (name, 1),
            _ => return Err(format!("the tensor {:?} is not supported", tensor.name)),
        };
        halves.entry(name).or_default()[half] = Some(index);
    }
    halves.into_iter().map(|(name, halves)| pair(file, name, halves, alpha)).collect()
}

fn pair(file: &Gguf, name: &str, halves: [Option<usize>; 2], alpha: f32) -> Result<Pair, String> {
    let [Some(a), Some(b)] = halves else {
        return Err(format!("lora_a and lora_b of {name:?} are not both there"));
    };
    let shape = |index: usize| match file.tensors()[index].dims.as_slice() {
        [cols, rows] => Ok([*rows, *cols]),
        // Trailing dimensions of one are left out.
        [cols] => Ok([1, *cols]),
        dims => Err(format!("{name:?} has the shape {dims:?}")),
    };
    let (a_shape, b_shape) = (shape(a)?, shape(b)?);
    let factor = if alpha == 0.0 { 1.0 } else { alpha / a_shape[0].max(1) as f32 };
    let module = name.strip_suffix(".weight").unwrap_or_default().to_string();
    Ok(Pair { module, name: name.to_string(), a, b, a_shape, b_shape, factor })
}
