//! LoRA adapters beside PEFT: logits of tiny models whose adapters `tools/golden/lora_reference.py` made,
//! as folders and as GGUF files; and sequences with different adapters in one step.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use ferrum_models::gguf::{Gguf, GgufWriter, Value};
use ferrum_models::{
    Checkpoint, Device, LoadOptions, LoraSource, Runner, checkpoint, load, memory_estimate,
};
use serde::Deserialize;
use serde_json::Value as Json;
use support::hf::{Fillings, Golden, distance, options, reordered, write_gguf};
use support::{Sequence, step};

/// A case of the file.
#[derive(Deserialize)]
struct Case {
    /// The golden file of the model.
    model: String,
    config: Json,
    tensors: Fillings,
    logits: Vec<Vec<f32>>,
}

fn cases() -> Result<BTreeMap<String, Case>> {
    Ok(serde_json::from_str(include_str!("data/lora.json"))?)
}

fn data(model: &str) -> Result<Golden> {
    let path = format!("{}/tests/data/hf/{model}.json", env!("CARGO_MANIFEST_DIR"));
    Ok(serde_json::from_str(&fs::read_to_string(path)?)?)
}

impl Case {
    /// The adapter as PEFT keeps it.
    fn write(&self, folder: &Path) -> Result<LoraSource> {
        fs::create_dir_all(folder)?;
        fs::write(folder.join("adapter_config.json"), self.config.to_string())?;
        fs::write(folder.join("adapter_model.safetensors"), self.tensors.all("F32"))?;
        Ok(source(folder))
    }
}

fn source(path: &Path) -> LoraSource {
    LoraSource { path: path.to_path_buf(), scale: 1.0 }
}

/// A model as a folder and as a GGUF file.
fn bases(golden: &Golden, folder: &Path) -> Result<[Box<dyn Checkpoint>; 2]> {
    golden.write(folder, 1)?;
    let model = checkpoint::open(folder)?;
    let file = folder.join("model.gguf");
    write_gguf(model.as_ref(), &file)?;
    Ok([model, Box::new(Gguf::open(&file)?)])
}

/// Holds the logits of a model that is loaded with the adapter against those of PEFT.
fn check(golden: &Golden, case: &Case, runner: &mut dyn Runner) -> Result<()> {
    let logits = golden.run(runner)?;
    ensure!(logits.len() == case.logits.len());
    for (i, (got, expected)) in logits.iter().zip(&case.logits).enumerate() {
        let error = distance(got, expected);
        ensure!(error < 1e-4, "step {i}: {error:.2e}");
        // The adapter is not small: without it the logits are others.
        ensure!(distance(&golden.logits[i], expected) > 1e-2, "step {i}: no change");
    }
    Ok(())
}

#[test]
fn logits_are_those_of_peft() -> Result<()> {
    for (name, case) in cases()? {
        let golden = data(&case.model)?;
        let folder = tempfile::tempdir()?;
        let lora = vec![case.write(&folder.path().join("adapter"))?];
        for base in bases(&golden, folder.path())? {
            for device in [Device::Reference, Device::Cpu] {
                let options = LoadOptions { lora: lora.clone(), ..options(device) };
                let what = || format!("{name} on {device:?}, {:?}", base.layout());
                let mut runner = load(base.as_ref(), &options).with_context(what)?;
                check(&golden, &case, runner.as_mut()).with_context(what)?;
            }
        }
    }
    Ok(())
}

/// Writes a case's adapter as llama.cpp's converter does: rows of `B` in the order of the model's, and
/// `alpha` over the rank as the factor.
fn write_gguf_adapter(case: &Case, golden: &Golden, arch: &str, path: &Path) -> Result<()> {
    let words = [
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.o_proj", "attn_output"),
        ("mlp.up_proj", "ffn_up"),
    ];
    let mut writer = GgufWriter::new();
    writer.set("general.type", Value::from("adapter"))?;
    writer.set("general.architecture", Value::from(arch))?;
    writer.set("adapter.type", Value::from("lora"))?;
    let alpha = case.config["lora_alpha"].as_f64().context("alpha")?;
    writer.set("adapter.lora.alpha", Value::from(alpha as f32))?;
    let mut tensors = Vec::new();
    for (name, (shape, ..)) in &case.tensors.0 {
        let rest = name.strip_prefix("base_model.model.model.layers.").context("a layer")?;
        let (layer, rest) = rest.split_once('.').context("a layer")?;
        let (theirs, ours) =
            *words.iter().find(|(w, _)| rest.starts_with(w)).context(rest.to_string())?;
        let half = if rest[theirs.len()..].starts_with(".lora_A") { "lora_a" } else { "lora_b" };
        let ours_name = format!("blk.{layer}.{ours}.weight.{half}");
        writer.tensor(&ours_name, ferrum_kernels::Format::F32, &[shape[1], shape[0]])?;
        let mut bytes = case.tensors.bytes(name, "F32");
        let heads = match (half, ours) {
            ("lora_b", "attn_q") => golden.config["num_attention_heads"].as_u64(),
            ("lora_b", "attn_k") => golden.config["num_key_value_heads"].as_u64(),
            _ => None,
        };
        if let Some(heads) = heads {
            let half = shape[0] / heads as usize / 2;
            bytes = reordered(&bytes, shape[0], half);
        }
        tensors.push((ours_name, bytes));
    }
    let mut out = writer.start(fs::File::create(path)?)?;
    for (name, bytes) in tensors {
        out.write(&name, &bytes)?;
    }
    out.finish()?;
    Ok(())
}

#[test]
fn gguf_adapters_are_those_of_peft() -> Result<()> {
    for (name, arch) in [("list", "llama"), ("reordered", "granite")] {
        let case = cases()?.remove(name).context("a case")?;
        let golden = data(&case.model)?;
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("adapter.gguf");
        write_gguf_adapter(&case, &golden, arch, &path)?;
        for base in bases(&golden, folder.path())? {
            let options = LoadOptions { lora: vec![source(&path)], ..options(Device::Cpu) };
            let mut runner = load(base.as_ref(), &options)?;
            check(&golden, &case, runner.as_mut()).context(name)?;
        }
        let other = data("qwen2")?;
        let folder = tempfile::tempdir()?;
        for base in bases(&other, folder.path())? {
            let options = LoadOptions { lora: vec![source(&path)], ..options(Device::Cpu) };
            let error = load(base.as_ref(), &options).err().context("it is for another model")?;
            assert!(error.to_string().contains(arch), "{error}");
        }
    }
    Ok(())
}

/// Three adapters of the model of case `all`: itself, with another strength, and another.
fn several(folder: &Path) -> Result<(Golden, Vec<LoraSource>)> {
    let mut cases = cases()?;
    let golden = data("qwen2")?;
    let all = cases.remove("all").context("a case")?.write(&folder.join("all"))?;
    let regex = cases.remove("regex").context("a case")?.write(&folder.join("regex"))?;
    let half = LoraSource { scale: 0.5, ..all.clone() };
    Ok((golden, vec![all, half, regex]))
}

/// Logits after the last token of some sequences, each with the adapter of its number, read in steps
/// of `chunks` tokens.
fn run(
    runner: &mut dyn Runner,
    sequences: &[(Vec<u32>, i32)],
    chunks: &[usize],
) -> Result<Vec<Vec<f32>>> {
    let (count, blocks) = (sequences.len(), runner.limits().kv_blocks);
    let mut all: Vec<Sequence> = sequences
        .iter()
        .enumerate()
        .map(|(i, (tokens, adapter))| Sequence {
            adapter: *adapter,
            ..Sequence::new(tokens, i, count, blocks)
        })
        .collect();
    let mut last = vec![Vec::new(); count];
    while all.iter().any(|s| s.computed < s.tokens.len()) {
        let chunks: Vec<usize> =
            all.iter().zip(chunks).map(|(s, c)| (s.tokens.len() - s.computed).min(*c)).collect();
        let mut logits = step(runner, &mut all, &chunks)?.into_iter();
        for (row, _) in last.iter_mut().zip(&chunks).filter(|(_, c)| **c > 0) {
            *row = logits.next().context("logits")?;
        }
    }
    Ok(last)
}

/// With weights as they are and quantised: a token's logits are the same to the bit whatever else is
/// in its step.
#[test]
fn sequences_with_different_adapters_in_one_step_equal_each_alone() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (golden, adapters) = several(folder.path())?;
    let tokens = |n: usize| golden.prompt.iter().cycle().skip(n).take(9 + 4 * n).copied().collect();
    for base in bases(&golden, folder.path())? {
        let options = LoadOptions {
            max_seqs: 6,
            step_tokens: 64,
            adapters: adapters.clone(),
            ..options(Device::Cpu)
        };
        let mut runner = load(base.as_ref(), &options)?;
        assert_eq!(runner.adapters(), 4);
        let sequences: Vec<(Vec<u32>, i32)> =
            [0, 1, 3, 1, 2, 0].iter().enumerate().map(|(i, a)| (tokens(i), *a)).collect();
        let together = run(runner.as_mut(), &sequences, &[1, 7, 3, 16, 2, 5])?;
        for (i, sequence) in sequences.iter().enumerate() {
            let alone = run(runner.as_mut(), std::slice::from_ref(sequence), &[64])?;
            assert_eq!(together[i], alone[0], "sequence {i}");
        }
        // What has no adapter is what the model says without any.
        let mut plain = load(base.as_ref(), &LoadOptions { adapters: vec![], ..options.clone() })?;
        for i in [0, 5] {
            assert_eq!(run(plain.as_mut(), &sequences[i..=i], &[64])?[0], together[i]);
        }
        // And what has another adapter is another thing.
        let same: Vec<_> = (0..4).map(|a| (tokens(3), a)).collect();
        let different = run(runner.as_mut(), &same, &[16; 4])?;
        for (i, a) in different.iter().enumerate() {
            assert!(different[..i].iter().all(|b| distance(a, b) > 1e-3), "adapter {i}");
        }
        let refused = run(runner.as_mut(), &[(tokens(1), 4)], &[64]).unwrap_err();
        assert!(refused.to_string().contains("adapter 4 of 4"), "{refused}");
    }
    Ok(())
}

/// Two adapters together add up: the same as one of twice the strength.
#[test]
fn adapters_add_up() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (golden, adapters) = several(folder.path())?;
    let [model, _] = bases(&golden, folder.path())?;
    let mut logits = Vec::new();
    for lora in [
        vec![LoraSource { scale: 1.5, ..adapters[0].clone() }],
        vec![adapters[0].clone(), adapters[1].clone()],
        vec![LoraSource { scale: 0.0, ..adapters[0].clone() }],
        vec![],
    ] {
        let mut runner = load(model.as_ref(), &LoadOptions { lora, ..options(Device::Cpu) })?;
        logits.extend(run(runner.as_mut(), &[(golden.prompt.clone(), 0)], &[16])?);
    }
    assert!(distance(&logits[1], &logits[0]) < 1e-5);
    assert!(distance(&logits[3], &logits[2]) < 1e-6);
    assert!(distance(&logits[2], &logits[0]) > 1e-2);
    Ok(())
}

/// Modules of SmolLM2's layers: transformers' name, GGUF's, and rows of half a head where it is
/// rotated.
const MODULES: [(&str, &str, Option<usize>); 7] = [
    ("self_attn.q_proj", "attn_q", Some(32)),
    ("self_attn.k_proj", "attn_k", Some(32)),
    ("self_attn.v_proj", "attn_v", None),
    ("self_attn.o_proj", "attn_output", None),
    ("mlp.gate_proj", "ffn_gate", None),
    ("mlp.up_proj", "ffn_up", None),
    ("mlp.down_proj", "ffn_down", None),
];

/// Writes a GGUF model with an adapter of rank `rank` merged into its weights in `f32`; the other
/// tensors stay as they are.
fn write_merged(
    model: &Gguf,
    tensors: &Fillings,
    (rank, factor): (usize, f32),
    path: &Path,
) -> Result<()> {
    let halves = |name: &str| {
        let rest = name.strip_prefix("blk.")?.strip_suffix(".weight")?;
        let (layer, module) = rest.split_once('.')?;
        let (theirs, _, half) = MODULES.iter().find(|(_, ours, _)| *ours == module)?;
        let name = |which| format!("base_model.model.model.layers.{layer}.{theirs}.{which}.weight");
        let floats = |name: String| -> Vec<f32> {
            let bytes = tensors.bytes(&name, "F32");
            bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
        };
        tensors
            .0
            .contains_key(&name("lora_A"))
            .then(|| (floats(name("lora_A")), floats(name("lora_B")), *half))
    };
    let mut writer = GgufWriter::new();
    for (key, value) in model.metadata().iter() {
        writer.set(key, value.clone())?;
    }
    for tensor in model.tensors() {
        let merged = halves(&tensor.name).is_some();
        let format = if merged { ferrum_kernels::Format::F32 } else { tensor.format };
        writer.tensor(&tensor.name, format, &tensor.dims)?;
    }
    let mut out = writer.start(std::io::BufWriter::new(fs::File::create(path)?))?;
    for tensor in model.tensors() {
        let data = model.data(tensor);
        let Some((a, b, half)) = halves(&tensor.name) else {
            out.write(&tensor.name, data)?;
            continue;
        };
        let (cols, rows) = (tensor.dims[0], tensor.dims[1]);
        let mut values = vec![0.0; rows * cols];
        ferrum_kernels::weight::dequantize_row(tensor.format, data, &mut values)?;
        let mut delta = Vec::with_capacity(4 * rows * cols);
        for row in b.chunks_exact(rank) {
            for col in 0..cols {
                let product: f64 =
                    (0..rank).map(|r| f64::from(row[r]) * f64::from(a[r * cols + col])).sum();
                delta.extend((f64::from(factor) * product).to_le_bytes());
            }
        }
        let delta = half.map_or(delta.clone(), |half| reordered(&delta, rows, half));
        let merged = values.iter().zip(delta.as_chunks().0);
        let bytes: Vec<u8> = merged
            .flat_map(|(v, d)| ((f64::from(*v) + f64::from_le_bytes(*d)) as f32).to_le_bytes())
            .collect();
        out.write(&tensor.name, &bytes)?;
    }
    out.finish()?;
    Ok(())
}

/// A real model, quantised: an adapter beside its weights does what the same adapter merged into the
/// weights does, once these are dequantised.
#[test]
fn a_quantised_model_with_an_adapter_is_the_merged_model() -> Result<()> {
    const RANK: usize = 8;
    let folder = tempfile::tempdir()?;
    let model = Gguf::open(&ferrum_hub::testing::fetch_alias("smollm2")?)?;
    let mut tensors = Fillings(BTreeMap::new());
    for (layer, (theirs, ours, _)) in [0, 7, 29].iter().flat_map(|l| MODULES.map(|m| (l, m))) {
        let dims = &model.tensor(&format!("blk.{layer}.{ours}.weight")).context("a tensor")?.dims;
        for (which, shape) in [("lora_A", [RANK, dims[0]]), ("lora_B", [dims[1], RANK])] {
            let name = format!("base_model.model.model.layers.{layer}.{theirs}.{which}.weight");
            tensors.0.insert(name, (shape.to_vec(), 0.0, 1.0 / (shape[1] as f64).sqrt()));
        }
    }
    let config = serde_json::json!({
        "peft_type": "LORA", "r": RANK, "lora_alpha": 16, "target_modules": "all-linear",
    });
    let case = Case { model: String::new(), config, tensors, logits: Vec::new() };
    let lora = vec![LoraSource { scale: 0.5, ..case.write(&folder.path().join("adapter"))? }];
    let merged = folder.path().join("merged.gguf");
    write_merged(&model, &case.tensors, (RANK, 0.5 * 16.0 / RANK as f32), &merged)?;
    let merged = Gguf::open(&merged)?;
    let tokens: Vec<u32> = (0..9).map(|i| 1000 + 917 * i).collect();
    let logits = |model: &Gguf, device, lora: &[LoraSource]| -> Result<Vec<f32>> {
        let options = LoadOptions { lora: lora.to_vec(), ..options(device) };
        let mut runner = load(model, &options)?;
        Ok(run(runner.as_mut(), &[(tokens.clone(), 0)], &[9])?.swap_remove(0))
    };
    let expected = logits(&merged, Device::Reference, &[])?;
    let exact = distance(&logits(&model, Device::Reference, &lora)?, &expected);
    assert!(exact < 1e-4, "{exact:.2e}");
    // The CPU backend rounds activations to eight bits: as much with the adapter as without.
    let plain = logits(&model, Device::Reference, &[])?;
    let noise = distance(&logits(&model, Device::Cpu, &[])?, &plain);
    let fast = distance(&logits(&model, Device::Cpu, &lora)?, &expected);
    let change = distance(&plain, &expected);
    println!("exact {exact:.2e}, cpu {fast:.2e}, cpu without {noise:.2e}, change {change:.2e}");
    assert!(fast < 2.0 * noise, "{fast:.2e} beside {noise:.2e}");
    assert!(change > 2.0 * fast && change > 1e-2, "{change:.2e}");
    Ok(())
}

#[test]
fn what_is_not_honoured_is_refused_by_name() -> Result<()> {
    let golden = data("llama")?;
    let folder = tempfile::tempdir()?;
    let [model, _] = bases(&golden, folder.path())?;
    let path: PathBuf = folder.path().join("adapter");
    let refused = |change: &dyn Fn(&mut Case), words: &[&str]| -> Result<()> {
        let mut case = cases()?.remove("list").context("a case")?;
        change(&mut case);
        let lora = vec![case.write(&path)?];
        let options = LoadOptions { lora, ..options(Device::Cpu) };
        let error = load(model.as_ref(), &options).err().context(format!("{words:?}"))?;
        let text = error.to_string();
        assert!(words.iter().all(|word| text.contains(word)), "{text} should name {words:?}");
        let error = memory_estimate(model.as_ref(), &options).unwrap_err();
        assert_eq!(error.to_string(), text);
        Ok(())
    };
    let set =
        |key: &'static str, value: Json| move |case: &mut Case| case.config[key] = value.clone();
    for (key, value) in [
        ("use_dora", true.into()),
        ("bias", "all".into()),
        ("lora_bias", true.into()),
        ("modules_to_save", vec!["lm_head"].into()),
        ("trainable_token_indices", vec![1].into()),
        ("fan_in_fan_out", true.into()),
        ("peft_type", "IA3".into()),
        ("task_type", "SEQ_CLS".into()),
        ("layer_replication", vec![1].into()),
        ("init_lora_weights", "pissa".into()),
        ("target_modules", 3.into()),
        ("rank_pattern", vec![1].into()),
        ("something_new", 0.5.into()),
        ("r", "four".into()),
    ] {
        refused(&set(key, value), &[key])?;
    }
    refused(&set("r", 5.into()), &["q_proj", "rank 4", "5"])?;
    refused(&set("target_modules", vec!["q_proj"].into()), &["v_proj"])?;
    refused(&set("target_modules", "(?=x)q_proj".into()), &["pattern"])?;
    refused(&set("exclude_modules", vec!["v_proj"].into()), &["v_proj"])?;
    refused(&set("layers_to_transform", 1.into()), &["layers.0"])?;

    let q = "base_model.model.model.layers.0.self_attn.q_proj";
    let renamed = |from: &'static str, to: &'static str| {
        move |case: &mut Case| {
            let old: Vec<String> = case.tensors.0.keys().cloned().collect();
            for name in old {
                let values = case.tensors.0.remove(&name).unwrap_or_default();
                case.tensors.0.insert(name.replace(from, to), values);
            }
            let words = ["q_proj", "v_proj", "embed_tokens", "lm_head", "gate"];
            case.config["target_modules"] = words.as_slice().into();
        }
    };
    refused(&renamed("layers.1.", "layers.2."), &["layers.2"])?;
    refused(&renamed("layers.1.self_attn.q_proj", "layers.1.mlp.gate"), &["mlp.gate"])?;
    refused(&renamed("model.layers.1.self_attn.q_proj", "lm_head"), &["lm_head"])?;
    refused(&renamed("q_proj.lora_A.weight", "q_proj.lora_embedding_A"), &["lora_embedding_A"])?;
    let shaped = |name: String, shape: [usize; 2]| {
        move |case: &mut Case| {
            case.tensors.0.get_mut(&name).unwrap().0 = shape.to_vec();
        }
    };
    refused(&shaped(format!("{q}.lora_A.weight"), [4, 32]), &["not for this model", "32"])?;
    refused(&shaped(format!("{q}.lora_B.weight"), [32, 4]), &["not for this model", "32"])?;
    refused(&shaped(format!("{q}.lora_B.weight"), [64, 3]), &["rank 4", "rank 3"])?;
    let lost = format!("{q}.lora_B.weight");
    refused(&|case| drop(case.tensors.0.remove(&lost)), &["not both there"])?;
    Ok(())
}
