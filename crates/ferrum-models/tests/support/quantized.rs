//! Folders of tiny models with quantised layers, and with the weights that these mean.

use std::fs;
use std::path::Path;

use anyhow::Result;
use ferrum_models::{Checkpoint, checkpoint};
use serde_json::Value;

use super::filled::safetensors;
use super::hf::Golden;

/// Name, type, shape and bytes.
pub type Tensor = (String, &'static str, Vec<usize>, Vec<u8>);

/// A layer in some scheme: its tensors, and the weights that they mean.
pub type Quantize = fn(&str, &[f32], [usize; 2]) -> (Vec<Tensor>, Vec<f32>);

pub fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

fn write(folder: &Path, config: &Value, tensors: &[Tensor]) -> Result<()> {
    let file = safetensors(tensors.iter().map(|(name, dtype, shape, bytes)| {
        (name.as_str(), *dtype, shape.as_slice(), bytes.clone())
    }));
    fs::create_dir_all(folder)?;
    fs::write(folder.join("config.json"), config.to_string())?;
    Ok(fs::write(folder.join("model.safetensors"), file)?)
}

/// Writes the model with its layers quantised, and with the weights that they mean; opens both.
pub fn folders(
    golden: &Golden,
    settings: Value,
    quantize: Quantize,
    folder: &Path,
) -> Result<[Box<dyn Checkpoint>; 2]> {
    let (mut quantized, mut plain) = (Vec::new(), Vec::new());
    for (tensor, (shape, ..)) in &golden.tensors.0 {
        let bytes = golden.tensors.bytes(tensor, "F32");
        let Some(module) = tensor.strip_suffix("_proj.weight") else {
            quantized.push((tensor.clone(), "F32", shape.clone(), bytes.clone()));
            plain.push((tensor.clone(), "F32", shape.clone(), bytes));
            continue;
        };
        let values: Vec<f32> = bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        let module = format!("{module}_proj");
        let (tensors, meant) = quantize(&module, &values, [shape[0], shape[1]]);
        quantized.extend(tensors);
        plain.push((tensor.clone(), "F32", shape.clone(), floats(&meant)));
    }
    let mut config = golden.config.clone();
    let paths = ["quantized", "plain"].map(|name| folder.join(name));
    write(&paths[1], &config, &plain)?;
    config["quantization_config"] = settings;
    write(&paths[0], &config, &quantized)?;
    Ok([checkpoint::open(&paths[0])?, checkpoint::open(&paths[1])?])
}
