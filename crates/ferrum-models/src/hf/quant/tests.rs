//! Quantised layers beside an independent program (`tools/golden/quantized.py`), bit by bit.

use std::collections::BTreeMap;
use std::fs;

use ferrum_kernels::Format;
use ferrum_kernels::weight::dequantize_row;
use half::f16;
use serde_json::{Map, Value, json};

use super::super::error::HfError;
use super::super::json::Object;
use super::super::shards::Shards;
use super::{Layer, Parts, Quantization};

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
        let (mut header, mut data) = (Map::new(), Vec::new());
        for (name, (shape, numbers)) in &self.tensors {
            let start = data.len();
            let is_scale = name == "scales";
            for n in numbers {
                let bytes = (*n as i32).to_le_bytes();
                data.extend(&bytes[..if is_scale { 2 } else { 4 }]);
            }
            let dtype = if is_scale { "F16" } else { "I32" };
            let entry =
                json!({"dtype": dtype, "shape": shape, "data_offsets": [start, data.len()]});
            header.insert(name.clone(), entry);
        }
        let header = Value::Object(header).to_string();
        let folder = tempfile::tempdir().unwrap();
        let file = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &data].concat();
        fs::write(folder.path().join("model.safetensors"), file).unwrap();
        Shards::open(folder.path()).unwrap()
    }

    fn layer(&self, shards: &Shards) -> Result<Layer, HfError> {
        let index = |name: &str| shards.tensors.iter().position(|t| t.raw.name == name);
        let parts = Parts {
            qweight: index("qweight"),
            qzeros: index("qzeros"),
            scales: index("scales"),
            g_idx: index("g_idx"),
        };
        Layer::new(Quantization::read(Object(&self.config))?, parts, shards, "layer")
    }
}

#[test]
fn weights_have_the_bits_of_the_reference() {
    for (name, case) in cases() {
        let shards = case.shards();
        let layer = case.layer(&shards).unwrap();
        assert_eq!((layer.rows, layer.cols), (case.rows, case.cols), "{name}");
        let expected = match name.as_str() {
            "gptq sym" | "gptq sym all" => Format::Q4_0,
            "gptq asym" | "gptq asym v2" | "awq" | "awq wide" => Format::Q4_Z,
            "gptq 8" => Format::Q8_0,
            _ => Format::F16,
        };
        assert_eq!(layer.format, expected, "{name}");
        let bytes = layer.decode(&shards, "layer").unwrap();
        let mut got = vec![f32::NAN; case.rows * case.cols];
        dequantize_row(layer.format, &bytes, &mut got).unwrap();
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
fn layers_that_do_not_fit_are_refused() {
    let changed = |name: &str, change: &dyn Fn(&mut Case)| {
        let mut case = cases().remove(name).unwrap();
        change(&mut case);
        let shards = case.shards();
        match case.layer(&shards) {
            Ok(layer) => layer.decode(&shards, "layer").map(|_| ()),
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
