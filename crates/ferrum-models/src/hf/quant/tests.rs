//! Quantised layers beside independent programs (`tools/golden/quantized.py`, `compressed.py`), bit by bit.

use std::collections::BTreeMap;
use std::fs;

use ferrum_kernels::weight::dequantize_row;
use ferrum_kernels::{E4m3, Format};
use half::f16;
use serde_json::{Map, Value, json};

use super::super::error::HfError;
use super::super::json::Object;
use super::super::shards::Shards;
use super::{Layer, Parts, Quantization};
use crate::checkpoint::in_order;

#[derive(serde::Deserialize)]
struct Case {
    config: Map<String, Value>,
    cols: usize,
    rows: usize,
    /// Shape, and numbers: bits of f16 for scales.
    tensors: BTreeMap<String, (Vec<usize>, Vec<i64>)>,
    /// Bits of f32.
    weights: Vec<u32>,
}

fn cases() -> BTreeMap<String, Case> {
    serde_json::from_str(include_str!("../../../tests/data/quantized.json")).unwrap()
}

impl Case {
    fn shards(&self) -> Shards {
        shards(self.tensors.iter().map(|(name, (shape, numbers))| {
            let is_scale = name == "scales";
            let bytes = numbers.iter().flat_map(|n| {
                (*n as i32).to_le_bytes().into_iter().take(if is_scale { 2 } else { 4 })
            });
            (name.as_str(), if is_scale { "F16" } else { "I32" }, shape, bytes.collect())
        }))
    }

    fn layer(&self, shards: &Shards, movable: bool) -> Result<Layer, HfError> {
        let index = |name: &str| shards.tensors.iter().position(|t| t.raw.name == name);
        let parts = Parts {
            qweight: index("qweight"),
            qzeros: index("qzeros"),
            scales: index("scales"),
            g_idx: index("g_idx"),
            shape: None,
        };
        let scheme = Quantization::read(Object(&self.config))?.of("layer").unwrap();
        Layer::new(scheme, parts, movable, shards, "layer")
    }
}

/// A file with these tensors: name, type, shape and bytes.
fn shards<'a>(
    tensors: impl Iterator<Item = (&'a str, &'a str, &'a Vec<usize>, Vec<u8>)>,
) -> Shards {
    let (mut header, mut data) = (Map::new(), Vec::new());
    for (name, dtype, shape, bytes) in tensors {
        let start = data.len();
        data.extend(bytes);
        let entry = json!({"dtype": dtype, "shape": shape, "data_offsets": [start, data.len()]});
        header.insert(name.to_string(), entry);
    }
    let header = Value::Object(header).to_string();
    let folder = tempfile::tempdir().unwrap();
    let file = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &data].concat();
    fs::write(folder.path().join("model.safetensors"), file).unwrap();
    Shards::open(folder.path()).unwrap()
}

/// Cases whose columns come by their groups.
const ORDERED: [&str; 2] = ["gptq order", "gptq 8 order"];

/// The bytes of a layer.
fn decoded(layer: &Layer, shards: &Shards) -> Result<Vec<u8>, HfError> {
    let mut bytes = vec![0xa5; layer.bytes()];
    layer.decode((shards, 3), "layer", 0, &mut bytes)?;
    Ok(bytes)
}

/// The values of a layer, each in its place.
fn values(layer: &Layer, shards: &Shards) -> Vec<f32> {
    let mut values = vec![f32::NAN; layer.rows * layer.cols];
    dequantize_row(layer.format, &decoded(layer, shards).unwrap(), &mut values).unwrap();
    if let Some(columns) = layer.columns() {
        values.chunks_exact_mut(layer.cols).for_each(|row| in_order(row, columns));
    }
    values
}

#[test]
fn weights_have_the_bits_of_the_reference() {
    for (name, case) in cases() {
        let shards = case.shards();
        let layer = case.layer(&shards, true).unwrap();
        assert_eq!((layer.rows, layer.cols), (case.rows, case.cols), "{name}");
        let expected = match name.as_str() {
            "gptq sym" | "gptq sym all" => Format::Q4_0,
            "gptq asym" | "gptq asym v2" | "gptq order" | "awq" | "awq wide" => Format::Q4_Z,
            "gptq 8" | "gptq 8 order" => Format::Q8_0,
            _ => Format::F16,
        };
        assert_eq!(layer.format, expected, "{name}");
        assert_eq!(layer.columns().is_some(), ORDERED.contains(&name.as_str()), "{name}");
        let got = values(&layer, &shards);
        for (i, (got, bits)) in got.iter().zip(&case.weights).enumerate() {
            // Half precision is that of the programs that made the model.
            let want = match layer.format {
                Format::F16 => f16::from_f32(f32::from_bits(*bits)).to_f32(),
                _ => f32::from_bits(*bits),
            };
            assert_eq!(*got, want, "{name}: weight {i}");
        }
    }
}

#[test]
fn columns_stay_where_they_cannot_move() {
    for name in ORDERED {
        let case = cases().remove(name).unwrap();
        let shards = case.shards();
        let layer = case.layer(&shards, false).unwrap();
        assert_eq!((layer.format, layer.columns()), (Format::F16, None), "{name}");
        let halves = case.weights.iter().map(|bits| f16::from_f32(f32::from_bits(*bits)).to_f32());
        assert!(values(&layer, &shards).into_iter().eq(halves), "{name}");
    }
    // A group whose columns fill no whole blocks.
    let mut case = cases().remove("gptq order").unwrap();
    let groups = &mut case.tensors.get_mut("g_idx").unwrap().1;
    let first = groups[0];
    *groups.iter_mut().find(|group| **group != first).unwrap() = first;
    let layer = case.layer(&case.shards(), true).unwrap();
    assert_eq!((layer.format, layer.columns()), (Format::F16, None));
}

/// Layers of more rows than are unpacked at a time, and that several threads share out: each row, at
/// whatever place, as that row alone.
#[test]
fn rows_of_large_layers_are_those_of_small_ones() {
    for name in ["gptq asym", "gptq order", "gptq 8", "awq"] {
        let small = cases().remove(name).unwrap();
        let copies = (1 << 20) / (small.rows * small.cols) + 3;
        let mut large = cases().remove(name).unwrap();
        for (part, (shape, numbers)) in &mut large.tensors {
            if part != "g_idx" {
                let width = shape[1];
                let rows = numbers.chunks_exact(width);
                *numbers = rows.flat_map(|row| row.repeat(copies)).collect();
                shape[1] = width * copies;
            }
        }
        let (few, many) = (small.shards(), large.shards());
        let want = decoded(&small.layer(&few, true).unwrap(), &few).unwrap();
        let layer = large.layer(&many, true).unwrap();
        assert_eq!(layer.rows, small.rows * copies);
        let got = decoded(&layer, &many).unwrap();
        assert!(got.chunks_exact(want.len()).all(|part| part == want), "{name}");
        // From any row on that a part may begin with.
        let (first, row) = (3 * layer.row_step(), layer.bytes() / layer.rows);
        let mut part = vec![0xa5; 200 * row];
        layer.decode((&many, 2), "layer", first, &mut part).unwrap();
        assert!(part == got[first * row..][..part.len()], "{name}");
    }
}

#[test]
fn layers_that_do_not_fit_are_refused() {
    let changed = |name: &str, change: &dyn Fn(&mut Case)| {
        let mut case = cases().remove(name).unwrap();
        change(&mut case);
        let shards = case.shards();
        match case.layer(&shards, true) {
            Ok(layer) => decoded(&layer, &shards).map(|_| ()),
            Err(error) => Err(error),
        }
    };
    let refused = |name: &str, change: &dyn Fn(&mut Case), word: &str| {
        let error = changed(name, change).unwrap_err().to_string();
        assert!(error.contains(word), "{error} should name {word}");
    };
    let set = |key: &'static str, value: Value| {
        move |case: &mut Case| {
            case.config.insert(key.into(), value.clone());
        }
    };
    assert!(changed("awq", &|_| ()).is_ok());
    refused("awq", &set("quant_method", "hqq".into()), "hqq");
    refused("awq", &set("version", "gemv".into()), "gemv");
    refused("awq", &set("bits", json!(3)), "bits");
    refused("awq", &set("group_size", json!(0)), "group_size");
    refused("awq", &set("group_size", json!(48)), "shapes");
    refused("gptq sym", &set("checkpoint_format", "marlin".into()), "marlin");
    refused("gptq sym", &set("dynamic", json!({"a": {}})), "dynamic");
    refused("gptq sym", &set("bits", json!(2)), "bits");
    refused("gptq asym", &set("sym", true.into()), "symmetric");
    refused("gptq order", &set("desc_act", false.into()), "desc_act");
    for part in ["qweight", "qzeros", "scales"] {
        refused("awq", &|case| drop(case.tensors.remove(part)), "not all there");
    }
    refused("gptq order", &|case| case.tensors.get_mut("g_idx").unwrap().1[0] = 4, "group");
    refused("gptq order", &|case| case.tensors.get_mut("g_idx").unwrap().1[0] = -1, "group");
}

#[derive(serde::Deserialize)]
struct Compressed {
    /// Values of all E4M3FN bytes.
    e4m3: Vec<Option<f64>>,
    cases: BTreeMap<String, CompressedCase>,
}

#[derive(serde::Deserialize)]
struct CompressedCase {
    config: Map<String, Value>,
    cols: usize,
    rows: usize,
    /// Type, shape, and bytes in hexadecimal digits.
    tensors: BTreeMap<String, (String, Vec<usize>, String)>,
    /// Bits of f32.
    weights: Vec<i32>,
}

fn compressed() -> Compressed {
    serde_json::from_str(include_str!("../../../tests/data/compressed.json")).unwrap()
}

impl CompressedCase {
    /// The layer, and the file that it is in.
    fn layer(&self) -> Result<(Layer, Shards), HfError> {
        let bytes = |hex: &str| {
            let digit = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
            (0..hex.len()).step_by(2).map(digit).collect()
        };
        let tensors = self.tensors.iter();
        let shards = shards(
            tensors.map(|(n, (dtype, shape, hex))| (n.as_str(), dtype.as_str(), shape, bytes(hex))),
        );
        let mut parts = Parts::default();
        for (index, tensor) in shards.tensors.iter().enumerate() {
            let bytes = tensor.raw.dtype.size() == 1;
            *parts.place(&tensor.raw.name, bytes).expect("a part of a layer") = Some(index);
        }
        let scheme = Quantization::read(Object(&self.config))?.of("layer").expect("a scheme");
        let layer = Layer::new(scheme, parts, true, &shards, "layer")?;
        assert_eq!((layer.rows, layer.cols), (self.rows, self.cols));
        Ok((layer, shards))
    }

    /// The format and the bytes in it.
    fn decode(&self) -> Result<(Layer, Vec<u8>), HfError> {
        let (layer, shards) = self.layer()?;
        let bytes = decoded(&layer, &shards)?;
        Ok((layer, bytes))
    }

    fn weights(&self) -> impl Iterator<Item = f32> {
        self.weights.iter().map(|bits| f32::from_bits(*bits as u32))
    }
}

#[test]
fn compressed_weights_have_the_bits_of_the_reference() {
    for (name, case) in compressed().cases {
        let (layer, bytes) = case.decode().unwrap_or_else(|error| panic!("{name}: {error}"));
        let expected = match name.as_str() {
            "w4 group" | "w4 group 128" | "w4 channel" | "w4 tensor" => Format::Q4_0,
            "w4 asym" | "w4 asym channel" => Format::Q4_Z,
            "w4 narrow" | "w8 asym" | "float narrow" => Format::F16,
            _ => Format::Q8_0,
        };
        assert_eq!(layer.format, expected, "{name}");
        let mut got = vec![f32::NAN; case.rows * case.cols];
        dequantize_row(layer.format, &bytes, &mut got).unwrap();
        let all: Vec<f32> = case.weights().collect();
        let is_float = name.starts_with("float") || name.starts_with("fp8");
        for (at, (got, want)) in got.iter().zip(&all).enumerate() {
            // Of 32 columns the largest decides how finely Q8_0 tells their values apart; a float of
            // eight bits is then the nearest of them.
            let block = largest(&all[at / 32 * 32..all.len().min(at / 32 * 32 + 32)]);
            let bound = match layer.format {
                Format::F16 => (f16::from_f32(*want).to_f32() - want).abs(),
                Format::Q8_0 if is_float => block * (0.5 / 127.0 + 1e-3),
                // A scale in f32 is rounded.
                Format::Q8_0 if name == "int8 tensor" => want.abs() * 4.9e-4,
                _ => 0.0,
            };
            assert!((got - want).abs() <= bound, "{name}: weight {at}: {got} for {want}");
        }
    }
}

#[test]
fn floats_with_scales_of_rows_are_kept() {
    let mut kept = Vec::new();
    for (name, case) in compressed().cases {
        let (layer, shards) = case.layer().unwrap();
        let Some((bytes, scales)) = layer.kept(&shards) else { continue };
        assert_eq!((bytes.len(), scales.len()), (case.rows * case.cols, case.rows), "{name}");
        for (at, (byte, want)) in bytes.iter().zip(case.weights()).enumerate() {
            let got = E4m3::from_bits(*byte).to_f32() * scales[at / case.cols];
            assert_eq!(got.to_bits(), want.to_bits(), "{name}: weight {at}: {got} for {want}");
        }
        kept.push(name);
    }
    assert_eq!(kept, ["float channel", "float narrow", "float tensor", "fp8 tensor"]);
}

/// The largest magnitude.
fn largest(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |most, v| most.max(v.abs()))
}

#[test]
fn floats_of_eight_bits_are_those_of_torch() {
    let all = compressed().e4m3;
    assert_eq!(all.len(), 256);
    for (byte, want) in (0u8..=255).zip(all) {
        let got = E4m3::from_bits(byte).to_f32();
        match want {
            None => assert!(got.is_nan(), "{byte}: {got}"),
            Some(want) => assert_eq!(got.to_bits(), (want as f32).to_bits(), "{byte}"),
        }
    }
}

#[test]
fn compressed_layers_that_do_not_fit_are_refused() {
    let refused = |name: &str, change: &dyn Fn(&mut CompressedCase), word: &str| {
        let mut case = compressed().cases.remove(name).unwrap();
        change(&mut case);
        let error = case.decode().map(|_| ()).unwrap_err().to_string();
        assert!(error.contains(word), "{error} should name {word}");
    };
    let set = |key: &'static str, value: Value| {
        move |case: &mut CompressedCase| {
            case.config.insert(key.into(), value.clone());
        }
    };
    let weights = |key: &'static str, value: Value| {
        move |case: &mut CompressedCase| {
            case.config["config_groups"]["group_0"]["weights"][key] = value.clone();
        }
    };
    refused("w4 group", &set("format", "nvfp4-pack-quantized".into()), "nvfp4");
    refused("w4 group", &set("format", "marlin-24".into()), "marlin-24");
    refused("w4 group", &set("kv_cache_scheme", json!({"num_bits": 8})), "kv_cache_scheme");
    refused("w4 group", &set("transform_config", json!({"a": 1})), "transform_config");
    let sparse = json!({"format": "sparse-24-bitmask"});
    refused("w4 group", &set("sparsity_config", sparse), "sparsity_config");
    refused("w4 group", &weights("num_bits", 3.into()), "num_bits");
    refused("w4 group", &weights("type", "fp".into()), "type");
    refused("w4 group", &weights("strategy", "token".into()), "strategy");
    refused("w4 group", &weights("group_size", 64.into()), "shapes");
    refused("w4 group", &weights("actorder", "odd".into()), "actorder");
    refused("w4 group", &weights("symmetric", false.into()), "zero points");
    refused("w4 asym", &weights("symmetric", true.into()), "symmetric");
    refused("fp8 block", &set("fmt", "e5m2".into()), "fmt");
    refused("fp8 block", &set("weight_block_size", json!([16])), "weight_block_size");
    refused("fp8 block", &set("weight_block_size", json!([16, 64])), "shapes");
    let nan = |case: &mut CompressedCase| {
        case.tensors.get_mut("weight").unwrap().2.replace_range(0..2, "7f");
    };
    refused("fp8 block", &nan, "not a number");
    for part in ["weight_packed", "weight_scale"] {
        refused("w4 group", &|case| drop(case.tensors.remove(part)), "not all there");
    }
}

#[test]
fn the_most_exact_group_decides() {
    let weights = |bits: u32| json!({"num_bits": bits, "type": "int", "strategy": "channel"});
    let config = json!({
        "quant_method": "compressed-tensors", "format": "pack-quantized",
        "config_groups": {
            "a": {"targets": ["Linear"], "weights": weights(4)},
            "b": {"targets": ["re:.*down_proj$"], "weights": weights(8)},
            "c": {"targets": ["model.layers.0.mlp.down_proj"], "weights": weights(4)},
        },
    });
    let quantization = Quantization::read(Object(config.as_object().unwrap())).unwrap();
    let bits = |name: &str| quantization.of(name).map(|scheme| scheme.bits);
    assert_eq!(bits("model.layers.1.mlp.up_proj"), Some(4));
    assert_eq!(bits("model.layers.1.mlp.down_proj"), Some(8));
    assert_eq!(bits("model.layers.0.mlp.down_proj"), Some(4));
}
