//! Folders from Hugging Face beside transformers: logits after a prompt of 40 tokens and 8 steps.
//!
//! The golden files were made by `tools/golden/hf_reference.py`. They hold no weights: these follow
//! from the names of the tensors, and are written to a folder here. The same models converted to GGUF
//! files give the same logits.

mod support;

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use ferrum_models::convert::{Conversion, ConvertError, ConvertOptions, Quant};
use ferrum_models::gguf::Gguf;
use ferrum_models::{Checkpoint, Device, checkpoint};
use serde_json::json;
use support::hf::{Golden, distance, options, tokenizer};

fn check(golden: &str, device: Device, shards: usize) -> Result<()> {
    let golden: Golden = serde_json::from_str(golden)?;
    let folder = tempfile::tempdir()?;
    golden.write(folder.path(), shards)?;
    let model = checkpoint::open(folder.path())?;
    check_model(&golden, model.as_ref(), device)?;
    check_converted(&golden, folder.path(), device).context("as GGUF")
}

/// The model as a GGUF file of single precision gives the same logits; or there is no such file.
fn check_converted(golden: &Golden, folder: &Path, device: Device) -> Result<()> {
    fs::write(folder.join("tokenizer.json"), tokenizer())?;
    let model = checkpoint::open(folder)?;
    let options = ConvertOptions { quant: Some(Quant::F32), threads: 2, ..Default::default() };
    let plan = match Conversion::plan(model.as_ref(), &options) {
        Err(ConvertError::NoPlace { what }) if what.contains("dynamic") => return Ok(()),
        plan => plan?,
    };
    let file = folder.join("model.gguf");
    plan.write(fs::File::create(&file)?, &mut |_| true)?;
    let file = Gguf::open(&file)?;
    ensure!(file.tensors().iter().all(|t| t.format.to_string() == "F32"));
    ensure!(file.tokenizer()?.encode_text("ab c") == [97, 98, 32, 99]);
    check_model(golden, &file, device)
}

fn check_model(golden: &Golden, model: &dyn Checkpoint, device: Device) -> Result<()> {
    let mut runner = ferrum_models::load(model, &options(device))?;
    let logits = golden.run(runner.as_mut())?;
    ensure!(logits.len() == golden.logits.len());
    for (i, (got, expected)) in logits.iter().zip(&golden.logits).enumerate() {
        let distance = distance(got, expected);
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

/// A setting that changes the result and that no GGUF file can state is no file.
#[test]
fn what_gguf_cannot_say_is_refused() -> Result<()> {
    let mut golden: Golden = serde_json::from_str(include_str!("data/hf/qwen2-yarn.json"))?;
    let plan = |golden: &Golden| -> Result<_> {
        let folder = tempfile::tempdir()?;
        golden.write(folder.path(), 1)?;
        fs::write(folder.path().join("tokenizer.json"), tokenizer())?;
        let model = checkpoint::open(folder.path())?;
        Ok(Conversion::plan(model.as_ref(), &ConvertOptions::default()).map(|_| ()))
    };
    ensure!(plan(&golden)?.is_ok());
    golden.config["rope_scaling"]["truncate"] = json!(false);
    let refused = plan(&golden)?;
    ensure!(matches!(&refused, Err(ConvertError::NoPlace { what }) if what.contains("truncate")));
    Ok(())
}
