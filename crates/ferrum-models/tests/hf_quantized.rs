//! Folders with quantised layers as a whole: the same logits as with the weights that the layers mean.
//! What a layer means is held against independent programs in `src/hf/quant/tests.rs`.

mod support;

use std::fs;

use anyhow::{Context, Result};
use ferrum_kernels::Format;
use ferrum_models::convert::{Conversion, ConvertError, ConvertOptions, Quant};
use ferrum_models::gguf::Gguf;
use ferrum_models::{Checkpoint, Device, LoadOptions, load, memory_estimate};
use half::f16;
use serde_json::{Value, json};
use support::filled::seed;
use support::hf::{Golden, distance, options, tokenizer};
use support::prefill;
use support::quantized::{Quantize, Tensor, floats, folders};

/// The scale by which the largest of these is `most`, in half precision.
fn scale(values: &[f32], most: f32) -> f16 {
    f16::from_f32(values.iter().fold(0.0f32, |m, v| m.max(v.abs())) / most)
}

/// compressed-tensors: four bits, groups of 32 columns.
fn w4(module: &str, values: &[f32], [rows, cols]: [usize; 2]) -> (Vec<Tensor>, Vec<f32>) {
    let (mut words, mut scales, mut meant) = (Vec::new(), Vec::new(), Vec::new());
    for group in values.chunks_exact(32) {
        let d = scale(group, 7.0);
        scales.extend(d.to_le_bytes());
        for eight in group.chunks_exact(8) {
            let mut word = 0u32;
            for (i, v) in eight.iter().enumerate() {
                let q = (v / d.to_f32()).round().clamp(-8.0, 7.0);
                word |= ((q as i32 + 8) as u32) << (4 * i);
                meant.push(q * d.to_f32());
            }
            words.extend(word.to_le_bytes());
        }
    }
    let shape: Vec<u8> = [rows, cols].iter().flat_map(|n| (*n as i64).to_le_bytes()).collect();
    let tensors = vec![
        (format!("{module}.weight_packed"), "I32", vec![rows, cols / 8], words),
        (format!("{module}.weight_scale"), "F16", vec![rows, cols / 32], scales),
        (format!("{module}.weight_shape"), "I64", vec![2], shape),
    ];
    (tensors, meant)
}

/// compressed-tensors: bytes with a scale for each row.
fn int8(module: &str, values: &[f32], [rows, cols]: [usize; 2]) -> (Vec<Tensor>, Vec<f32>) {
    let (mut bytes, mut scales, mut meant) = (Vec::new(), Vec::new(), Vec::new());
    for row in values.chunks_exact(cols) {
        let d = scale(row, 127.0);
        scales.extend(d.to_le_bytes());
        for v in row {
            let q = (v / d.to_f32()).round().clamp(-127.0, 127.0);
            bytes.push(q as i8 as u8);
            meant.push(q * d.to_f32());
        }
    }
    let tensors = vec![
        (format!("{module}.weight"), "I8", vec![rows, cols], bytes),
        (format!("{module}.weight_scale"), "F16", vec![rows, 1], scales),
    ];
    (tensors, meant)
}

/// Floats of eight bits, all of them powers of two and zero, with a scale for 16 rows and 32 columns.
fn fp8(module: &str, values: &[f32], [rows, cols]: [usize; 2]) -> (Vec<Tensor>, Vec<f32>) {
    let grid = [rows.div_ceil(16), cols.div_ceil(32)];
    let scales: Vec<f32> = (0..grid[0] * grid[1]).map(|i| 0.01 * (1.0 + i as f32 / 7.0)).collect();
    let (mut bytes, mut meant) = (Vec::new(), Vec::new());
    for (at, v) in values.iter().enumerate() {
        let d = scales[at / cols / 16 * grid[1] + at % cols / 32];
        let exponent = (v.abs() / d).log2().round().clamp(-6.0, 8.0);
        let sign = if *v < 0.0 { 0x80 } else { 0 };
        bytes.push(sign | ((exponent as i32 + 7) as u8) << 3);
        meant.push(exponent.exp2() * d * v.signum());
    }
    let tensors = vec![
        (format!("{module}.weight"), "F8_E4M3", vec![rows, cols], bytes),
        (format!("{module}.weight_scale_inv"), "F32", grid.to_vec(), floats(&scales)),
    ];
    (tensors, meant)
}

/// GPTQ with act-order: four bits with zero points, groups of 32 columns in an order of the layer's own.
fn ordered(module: &str, values: &[f32], [rows, cols]: [usize; 2]) -> (Vec<Tensor>, Vec<f32>) {
    let groups = cols / 32;
    // Such a step visits every column, where their number has no other factors than 2 and 3.
    let step = 6 * (seed(module) as usize % 16) + 5;
    let group_of: Vec<usize> = (0..cols).map(|c| c * step % cols / 32).collect();
    let (mut words, mut meant) = (vec![0u32; cols / 8 * rows], vec![0.0; values.len()]);
    let (mut scales, mut zeros) = (vec![f16::ZERO; groups * rows], vec![0u32; groups * rows / 8]);
    for (row, values) in values.chunks_exact(cols).enumerate() {
        for group in 0..groups {
            let of_group = |c: &usize| group_of[*c] == group;
            let all: Vec<f32> = (0..cols).filter(of_group).map(|c| values[c]).collect();
            let (d, z) = (scale(&all, 6.0), 7 + (row + group) as i32 % 2);
            scales[group * rows + row] = d;
            zeros[group * rows / 8 + row / 8] |= ((z - 1) as u32) << (4 * (row % 8));
            for c in (0..cols).filter(of_group) {
                let q = ((values[c] / d.to_f32()).round() as i32 + z).clamp(0, 15);
                words[c / 8 * rows + row] |= (q as u32) << (4 * (c % 8));
                meant[row * cols + c] = d.to_f32() * (q - z) as f32;
            }
        }
    }
    let ints = |all: &[u32]| all.iter().flat_map(|n| n.to_le_bytes()).collect();
    let g_idx = group_of.iter().flat_map(|g| (*g as u32).to_le_bytes()).collect();
    let halves = scales.iter().flat_map(|d| d.to_le_bytes()).collect();
    let tensors = vec![
        (format!("{module}.qweight"), "I32", vec![cols / 8, rows], ints(&words)),
        (format!("{module}.qzeros"), "I32", vec![groups, rows / 8], ints(&zeros)),
        (format!("{module}.scales"), "F16", vec![groups, rows], halves),
        (format!("{module}.g_idx"), "I32", vec![cols], g_idx),
    ];
    (tensors, meant)
}

/// AWQ of four bits, groups of 32 columns: a word holds eight rows of a column.
fn awq(module: &str, values: &[f32], [rows, cols]: [usize; 2]) -> (Vec<Tensor>, Vec<f32>) {
    // Places of the rows in a word, as the package interleaves them.
    const PLACES: [usize; 8] = [0, 4, 1, 5, 2, 6, 3, 7];
    let mut words = vec![0u32; cols * rows / 8];
    let (mut scales, mut meant) = (vec![f16::ZERO; cols / 32 * rows], Vec::new());
    for (row, of_row) in values.chunks_exact(cols).enumerate() {
        for (group, of_group) in of_row.chunks_exact(32).enumerate() {
            let d = scale(of_group, 7.0);
            scales[group * rows + row] = d;
            for (i, v) in of_group.iter().enumerate() {
                let q = (v / d.to_f32()).round().clamp(-7.0, 8.0);
                let word = &mut words[(32 * group + i) * rows / 8 + row / 8];
                *word |= ((q as i32 + 7) as u32) << (4 * PLACES[row % 8]);
                meant.push(q * d.to_f32());
            }
        }
    }
    let bytes = |words: &[u32]| words.iter().flat_map(|word| word.to_le_bytes()).collect();
    let zeros = vec![0x7777_7777; cols / 32 * rows / 8];
    let tensors = vec![
        (format!("{module}.qweight"), "I32", vec![cols, rows / 8], bytes(&words)),
        (format!("{module}.qzeros"), "I32", vec![cols / 32, rows / 8], bytes(&zeros)),
        (
            format!("{module}.scales"),
            "F16",
            vec![cols / 32, rows],
            scales.iter().flat_map(|d| d.to_le_bytes()).collect(),
        ),
    ];
    (tensors, meant)
}

fn logits(model: &dyn Checkpoint, tokens: &[u32], device: Device) -> Result<Vec<f32>> {
    let mut runner = load(model, &LoadOptions { step_tokens: 64, ..options(device) })?;
    prefill(runner.as_mut(), tokens, 64)
}

/// Some rows of a tensor are those of all.
fn same_rows(model: &dyn Checkpoint) -> Result<()> {
    let mut memory = vec![0xa5; 1000];
    for name in model.names() {
        let (whole, rows) = (model.read(name)?, model.require(name)?.rows());
        let row = whole.len() / rows;
        for part in [0..rows, rows / 2..rows, rows / 3..rows / 2 + 1, 0..1, rows..rows] {
            let want = &whole[part.start * row..part.end * row];
            let got = model.read_rows(name, part.clone(), 2, &mut memory)?;
            assert!(got == want, "{part:?} of {name}");
        }
    }
    Ok(())
}

#[test]
fn quantised_folders_mean_what_their_layers_mean() -> Result<()> {
    let golden: Golden = serde_json::from_str(include_str!("data/hf/llama.json"))?;
    let group = |bits: u32, kind: &str, strategy: Value| {
        let mut weights = json!({"num_bits": bits, "type": kind, "symmetric": true});
        weights.as_object_mut().unwrap().extend(strategy.as_object().unwrap().clone());
        json!({"group_0": {"targets": ["Linear"], "weights": weights}})
    };
    let compressed = |format: &str, groups: Value| {
        json!({"quant_method": "compressed-tensors", "format": format, "config_groups": groups,
               "ignore": ["lm_head"]})
    };
    let four = group(4, "int", json!({"strategy": "group", "group_size": 32}));
    let eight = group(8, "int", json!({"strategy": "channel"}));
    let four_awq = json!({"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm"});
    let cases: [(&str, Value, Quantize, f32); 4] = [
        ("awq", four_awq, awq, 1e-5),
        ("w4", compressed("pack-quantized", four), w4, 1e-5),
        ("int8", compressed("int-quantized", eight), int8, 1e-5),
        // Rounded to Q8_0.
        ("fp8", json!({"quant_method": "fp8", "weight_block_size": [16, 32]}), fp8, 3e-2),
    ];
    for (name, settings, quantize, bound) in cases {
        let folder = tempfile::tempdir()?;
        let [quantized, plain] = folders(&golden, settings, quantize, folder.path())?;
        same_rows(&*quantized).context(name)?;
        // Neither whole numbers nor floats with scales of blocks are for cards as they are.
        assert!(quantized.names().iter().all(|of| quantized.kept(of).is_none()), "{name}");
        let expected = logits(plain.as_ref(), &golden.prompt, Device::Reference)?;
        let got = logits(quantized.as_ref(), &golden.prompt, Device::Reference).context(name)?;
        let distance = distance(&got, &expected);
        println!("{name}: {distance:.2e}");
        assert!(distance < bound, "{name}: {distance:.2e}");
    }
    Ok(())
}

/// Columns of which each linear has its own order: the weights that they mean, on every backend and as a
/// GGUF file, in no more memory than four bits take.
#[test]
fn columns_in_an_order_of_their_own() -> Result<()> {
    let golden: Golden = serde_json::from_str(include_str!("data/hf/llama.json"))?;
    let settings = json!({"quant_method": "gptq", "bits": 4, "group_size": 32, "sym": false,
                          "desc_act": true});
    let folder = tempfile::tempdir()?;
    let [quantized, plain] = folders(&golden, settings, ordered, folder.path())?;
    for part in ["attn_q", "attn_k", "attn_output", "ffn_gate", "ffn_up", "ffn_down"] {
        let tensor = quantized.require(&format!("blk.1.{part}.weight"))?;
        assert_eq!(tensor.format, Format::Q4_Z, "{part}");
        assert!(tensor.columns.is_some(), "{part}");
    }
    same_rows(&*quantized)?;
    let of = |part: &str| quantized.require(&format!("blk.0.{part}.weight")).map(|t| t.columns);
    assert!(of("attn_q")? != of("attn_k")? && of("ffn_gate")? != of("ffn_up")?);

    let expected = logits(plain.as_ref(), &golden.prompt, Device::Reference)?;
    let exact = distance(&logits(&*quantized, &golden.prompt, Device::Reference)?, &expected);
    assert!(exact < 1e-5, "{exact:.2e}");
    // The CPU backend rounds activations to eight bits.
    let fast = distance(&logits(&*quantized, &golden.prompt, Device::Cpu)?, &expected);
    println!("exact {exact:.2e}, cpu {fast:.2e}");
    assert!(fast < 3e-2, "{fast:.2e}");
    let weights = |model: &dyn Checkpoint| {
        memory_estimate(model, &options(Device::Cpu)).map(|estimate| estimate.weights)
    };
    assert!(2 * weights(&*quantized)? < weights(&*plain)?);

    std::fs::write(folder.path().join("quantized/tokenizer.json"), tokenizer())?;
    let again = ConvertOptions { quant: Some(Quant::F32), threads: 2, ..Default::default() };
    let refused = Conversion::plan(&*quantized, &again).map(|_| ());
    assert!(matches!(refused, Err(ConvertError::Quantized { .. })), "{refused:?}");
    for (quant, bound) in [(Some(Quant::F32), 1e-5), (None, 1e-3)] {
        let options = ConvertOptions {
            quant,
            threads: 2,
            allow_requantize: quant.is_some(),
            ..Default::default()
        };
        let path = folder.path().join("model.gguf");
        let plan = Conversion::plan(&*quantized, &options)?;
        plan.write(fs::File::create(&path)?, &mut |_| true)?;
        let converted = Gguf::open(&path)?;
        let distance = distance(&logits(&converted, &golden.prompt, Device::Reference)?, &expected);
        assert!(distance < bound, "{quant:?}: {distance:.2e}");
    }
    Ok(())
}
