//! Tiny models of `tools/golden/hf_reference.py`: their weights follow from the names of the tensors,
//! and are written to a folder here.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::Result;
use ferrum_models::gguf::GgufWriter;
use ferrum_models::{Checkpoint, Device, KvDType, LoadOptions, Runner};
use serde::Deserialize;
use serde_json::{Value, json};

use super::filled::{safetensors, seed, value};
use super::{Sequence, step};

/// A golden file.
#[derive(Deserialize)]
pub struct Golden {
    pub config: Value,
    pub dtype: String,
    pub tensors: Fillings,
    pub prompt: Vec<u32>,
    pub steps: Vec<u32>,
    pub logits: Vec<Vec<f32>>,
}

/// Tensors: shape, offset and scale.
#[derive(Deserialize)]
#[serde(transparent)]
pub struct Fillings(pub BTreeMap<String, (Vec<usize>, f64, f64)>);

impl Fillings {
    /// The bytes of a tensor.
    pub fn bytes(&self, name: &str, dtype: &str) -> Vec<u8> {
        let (shape, offset, scale) = &self.0[name];
        let count: usize = shape.iter().product();
        let values = (0..count as u64).map(|i| value(seed(name), i, *offset, *scale));
        match dtype {
            "BF16" => values.flat_map(|v| half::bf16::from_f32(v).to_le_bytes()).collect(),
            _ => values.flat_map(f32::to_le_bytes).collect(),
        }
    }

    /// One safetensors file with some of the tensors.
    fn file(&self, names: &[&String], dtype: &str) -> Vec<u8> {
        safetensors(names.iter().map(|name| {
            (name.as_str(), dtype, self.0[*name].0.as_slice(), self.bytes(name, dtype))
        }))
    }

    /// One safetensors file with all of the tensors.
    pub fn all(&self, dtype: &str) -> Vec<u8> {
        self.file(&self.0.keys().collect::<Vec<_>>(), dtype)
    }
}

impl Golden {
    /// A folder with the model in one file, or in two with an index.
    pub fn write(&self, folder: &Path, shards: usize) -> Result<()> {
        fs::write(folder.join("config.json"), self.config.to_string())?;
        let names: Vec<&String> = self.tensors.0.keys().collect();
        if shards == 1 {
            return Ok(fs::write(
                folder.join("model.safetensors"),
                self.tensors.file(&names, &self.dtype),
            )?);
        }
        let mut map = serde_json::Map::new();
        for (i, names) in names.chunks(names.len().div_ceil(shards)).enumerate() {
            let file = format!("model-{:05}-of-{shards:05}.safetensors", i + 1);
            fs::write(folder.join(&file), self.tensors.file(names, &self.dtype))?;
            map.extend(names.iter().map(|name| ((*name).clone(), json!(file))));
        }
        let index = json!({"metadata": {"total_size": 1}, "weight_map": map});
        Ok(fs::write(folder.join("model.safetensors.index.json"), index.to_string())?)
    }
}

/// How these models are loaded.
pub fn options(device: Device) -> LoadOptions {
    LoadOptions {
        device,
        context: Some(64),
        kv_dtype: KvDType::F32,
        step_tokens: 16,
        ..LoadOptions::default()
    }
}

impl Golden {
    /// The logits after the prompt, which is read in chunks, and after each of the steps.
    pub fn run(&self, runner: &mut dyn Runner) -> Result<Vec<Vec<f32>>> {
        let tokens = [&self.prompt[..], &self.steps].concat();
        let blocks = runner.limits().kv_blocks;
        let mut sequence = [Sequence::new(&tokens, 0, 1, blocks)];
        for chunk in [16, 16] {
            step(runner, &mut sequence, &[chunk])?;
        }
        let rest = std::iter::once(self.prompt.len() - 32).chain(self.steps.iter().map(|_| 1));
        rest.map(|chunk| Ok(step(runner, &mut sequence, &[chunk])?.swap_remove(0))).collect()
    }
}

/// A tokenizer of 128 tokens, one for each byte of ASCII: what a GGUF file needs.
pub fn tokenizer() -> String {
    let letter = |byte: u32| match byte {
        0..=32 => char::from_u32(256 + byte),
        127 => char::from_u32(256 + 33),
        other => char::from_u32(other),
    };
    let vocab: serde_json::Map<String, Value> =
        (0..128).filter_map(|id| Some((letter(id)?.to_string(), id.into()))).collect();
    let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "use_regex": true});
    let model = json!({"type": "BPE", "vocab": vocab, "merges": []});
    json!({"pre_tokenizer": bytes, "decoder": bytes, "model": model}).to_string()
}

/// The largest difference over the largest logit.
pub fn distance(got: &[f32], expected: &[f32]) -> f32 {
    let largest = expected.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    let worst = got.iter().zip(expected).fold(0.0f32, |m, (a, b)| m.max((a - b).abs()));
    if got.len() == expected.len() && !worst.is_nan() { worst / largest } else { f32::INFINITY }
}

/// Architectures whose q and k the converter to GGUF reorders.
const REORDERED: &[&str] = &["llama", "granite", "smollm3"];

/// Writes a folder's model as the converter of llama.cpp does: the same tensors, but for the rows of
/// q and k, which lie side by side where they are rotated together.
pub fn write_gguf(model: &dyn Checkpoint, path: &Path) -> Result<()> {
    let metadata = model.metadata();
    let arch = metadata.need_str("general.architecture")?;
    let mut writer = GgufWriter::new();
    for (key, value) in metadata.iter() {
        writer.set(key, value.clone())?;
    }
    let names = model.names();
    for name in &names {
        let tensor = model.require(name)?;
        writer.tensor(name, tensor.format, tensor.dims)?;
    }
    let mut out = writer.start(fs::File::create(path)?)?;
    for name in names {
        let (tensor, data) = (model.require(name)?, model.read(name)?);
        let heads = match name.split('.').nth(2) {
            Some("attn_q") => "attention.head_count",
            Some("attn_k") => "attention.head_count_kv",
            _ => "",
        };
        if heads.is_empty() || !REORDERED.contains(&arch) {
            out.write(name, &data)?;
            continue;
        }
        let heads = metadata.need_u32(&format!("{arch}.{heads}"))? as usize;
        let rows = tensor.rows();
        out.write(name, &reordered(&data, rows, rows / heads / 2))?;
    }
    out.finish()?;
    Ok(())
}

/// Rows in the order that llama.cpp has: those side by side that are rotated together. `half` is half of
/// a head's rows.
pub fn reordered(data: &[u8], rows: usize, half: usize) -> Vec<u8> {
    let row = data.len() / rows;
    let source = |to: usize| {
        let (head, pair, side) = (to / (2 * half), to % (2 * half) / 2, to % 2);
        head * 2 * half + side * half + pair
    };
    (0..rows).flat_map(|to| &data[source(to) * row..][..row]).copied().collect()
}
