//! Folders from Hugging Face beside transformers: logits after a prompt of 40 tokens and 8 steps.
//!
//! The golden files were made by `tools/golden/hf_reference.py`. They hold no weights: these follow
//! from the names of the tensors, and are written to a folder here. The same models as GGUF files, with
//! what the converter to GGUF changes, give the same logits.

mod support;

use anyhow::{Context, Result, ensure};
use ferrum_models::gguf::Gguf;
use ferrum_models::{Checkpoint, Device, KvDType, LoadOptions, checkpoint};
use support::hf::{Golden, distance, write_gguf};
use support::{Sequence, step};

fn check(golden: &str, device: Device, shards: usize) -> Result<()> {
    let golden: Golden = serde_json::from_str(golden)?;
    let folder = tempfile::tempdir()?;
    golden.write(folder.path(), shards)?;
    let model = checkpoint::open(folder.path())?;
    check_model(&golden, model.as_ref(), device)?;
    let file = folder.path().join("model.gguf");
    write_gguf(model.as_ref(), &file)?;
    check_model(&golden, &Gguf::open(&file)?, device).context("as GGUF")
}

fn check_model(golden: &Golden, model: &dyn Checkpoint, device: Device) -> Result<()> {
    let options = LoadOptions {
        device,
        context: Some(64),
        kv_dtype: KvDType::F32,
        step_tokens: 16,
        ..LoadOptions::default()
    };
    let mut runner = ferrum_models::load(model, &options)?;
    let tokens = [&golden.prompt[..], &golden.steps].concat();
    let blocks = runner.limits().kv_blocks;
    let mut sequence = [Sequence::new(&tokens, 0, 1, blocks)];
    // The prompt in chunks, the rest token by token.
    for chunk in [16, 16] {
        step(runner.as_mut(), &mut sequence, &[chunk])?;
    }
    for (i, expected) in golden.logits.iter().enumerate() {
        let chunk = if i == 0 { golden.prompt.len() - 32 } else { 1 };
        let got = step(runner.as_mut(), &mut sequence, &[chunk])?.swap_remove(0);
        let distance = distance(&got, expected);
        println!("step {i}: {distance:.2e}");
        ensure!(distance < 1e-4, "step {i}: {distance:.2e} on {device:?}");
    }
    Ok(())
}

macro_rules! models {
    ($($test:ident: $name:literal),* $(,)?) => {
        $(
            #[test]
            fn $test() -> Result<()> {
                let golden = include_str!(concat!("data/hf/", $name, ".json"));
                check(golden, Device::Reference, 1).context($name)?;
                check(golden, Device::Cpu, 2).context($name)
            }
        )*
    };
}

models!(
    llama: "llama",
    llama_bf16: "llama-bf16",
    llama_with_linear_rope: "llama-linear",
    llama_with_llama3_rope: "llama-llama3",
    llama_with_dynamic_rope: "llama-dynamic",
    mistral: "mistral",
    mixtral: "mixtral",
    qwen2: "qwen2",
    qwen2_with_windows: "qwen2-window",
    qwen2_with_yarn: "qwen2-yarn",
    qwen3: "qwen3",
    qwen3_moe: "qwen3-moe",
    gemma2: "gemma2",
    gemma3: "gemma3",
    phi3: "phi3",
    phi3_with_longrope: "phi3-longrope",
    olmo2: "olmo2",
    granite: "granite",
    smollm3: "smollm3",
);
