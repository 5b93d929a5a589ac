//! What is planned: the mixes of llama.cpp, names, and what is refused.

use std::collections::BTreeMap;

use ferrum_kernels::Format;
use serde::Deserialize;

use super::mix::Mix;
use super::{Conversion, ConvertError, ConvertOptions, Pairs, Quant};
use crate::gguf::Gguf;
use crate::synth::SynthSpec;

/// A model of `tools/golden/mixes.py`.
#[derive(Deserialize)]
struct Model {
    shape: Shape,
    dims: BTreeMap<String, Vec<usize>>,
    /// By mix and part, runs of formats: "3 Q6_K 2 Q4_K".
    mixes: BTreeMap<String, BTreeMap<String, String>>,
}

#[derive(Deserialize)]
struct Shape {
    layers: usize,
    hidden: usize,
    heads: usize,
    kv_heads: usize,
    experts: usize,
    tied: bool,
}

impl Shape {
    fn mix(&self, quant: Quant) -> Mix {
        let group = self.heads / self.kv_heads;
        let seventy = self.layers == 80;
        let Shape { layers, experts, tied, .. } = *self;
        Mix { quant, layers, group, experts, tied, seventy }
    }
}

fn runs(text: &str) -> Vec<String> {
    let words: Vec<&str> = text.split(' ').collect();
    let run = |pair: &[&str]| vec![pair[1].to_string(); pair[0].parse().unwrap()];
    words.chunks_exact(2).flat_map(run).collect()
}

#[test]
fn mixes_are_those_of_llama_cpp() {
    let text = include_str!("../../tests/data/mixes.json");
    let models: BTreeMap<String, Model> = serde_json::from_str(text).unwrap();
    let mut checked = 0;
    for (name, Model { shape, dims, mixes }) in &models {
        for (quant, parts) in mixes {
            let mix = shape.mix(Quant::by_name(quant).unwrap());
            for (part, formats) in parts {
                let (prefix, formats, dims) = match dims.get(part) {
                    Some(dims) => (true, runs(formats), dims.clone()),
                    None if part == "output_norm.weight" => continue,
                    None => (false, vec![formats.clone()], vec![shape.hidden, 256]),
                };
                for (layer, expected) in formats.iter().enumerate() {
                    let tensor = if prefix { format!("blk.{layer}.{part}") } else { part.clone() };
                    // The models are of half precision, which stays where nothing is quantised.
                    let kept = if dims.len() == 1 { Format::F32 } else { Format::F16 };
                    let got = mix.format(&tensor, &dims).unwrap_or(kept).to_string();
                    assert_eq!(got, *expected, "{name}, {quant}: {tensor}");
                    checked += 1;
                }
            }
        }
    }
    assert!(checked > 10_000, "{checked}");
}

#[test]
fn the_large_models_are_told_by_their_layers() {
    let mut spec = synthetic().0;
    let seventy = |arch, spec: &_| Mix::new(Quant::Q4_K_M, arch, spec, false).seventy;
    assert!(!seventy("llama", &spec));
    spec.layers = vec![spec.layers[0].clone(); 80];
    assert!(seventy("llama", &spec) && seventy("qwen2", &spec) && !seventy("qwen3", &spec));
    spec.layers.iter_mut().for_each(|layer| layer.kv_heads = layer.heads);
    assert!(!seventy("llama", &spec) && seventy("qwen2", &spec));
}

#[test]
fn every_mix_has_a_name_and_a_number() {
    for quant in Quant::ALL {
        assert_eq!(Quant::by_name(quant.name()), Some(quant));
        assert_eq!(Quant::by_name(&quant.name().to_uppercase()), Some(quant));
        assert_eq!(Quant::ALL.iter().filter(|q| q.file_type() == quant.file_type()).count(), 1);
        assert_eq!(quant.to_string(), format!("{quant:?}").to_lowercase());
    }
    assert_eq!(Quant::by_name("Q4_K"), Some(Quant::Q4_K_M));
    assert!(["", "q4", "q6_k_m", "_m", "iq1_s"].iter().all(|name| Quant::by_name(name).is_none()));
}

#[test]
fn pairs_of_rotated_rows_come_side_by_side() {
    let rows = |pairs: Pairs, count| (0..count).map(|row| pairs.source(row)).collect::<Vec<_>>();
    let whole = Pairs { head: 4, rotated: 4 };
    assert_eq!(rows(whole, 8), [0, 2, 1, 3, 4, 6, 5, 7]);
    // What is not rotated stays.
    let part = Pairs { head: 6, rotated: 4 };
    assert_eq!(rows(part, 12), [0, 2, 1, 3, 4, 5, 6, 8, 7, 9, 10, 11]);
}

/// A model of random weights in half precision.
fn synthetic() -> (crate::decoder::DecoderSpec, tempfile::TempDir) {
    let preset = SynthSpec::preset("llama-tiny").unwrap();
    let spec = SynthSpec { layers: 2, hidden: 256, ffn: 96, heads: 4, vocab: 300, ..preset };
    let folder = tempfile::tempdir().unwrap();
    spec.write(std::fs::File::create(folder.path().join("f16.gguf")).unwrap()).unwrap();
    let file = Gguf::open(&folder.path().join("f16.gguf")).unwrap();
    (crate::arch::spec(&file).unwrap(), folder)
}

fn options(quant: Quant) -> ConvertOptions {
    ConvertOptions { quant: Some(quant), threads: 3, ..Default::default() }
}

#[test]
fn a_file_is_converted_and_what_is_quantised_is_not_quantised_again() {
    let (spec, folder) = synthetic();
    let source = Gguf::open(&folder.path().join("f16.gguf")).unwrap();
    let path = folder.path().join("q4.gguf");
    let plan = Conversion::plan(&source, &options(Quant::Q4_K_M)).unwrap();
    let mut heard = Vec::new();
    let mut listen = |bytes| {
        heard.push(bytes);
        true
    };
    plan.write(std::fs::File::create(&path).unwrap(), &mut listen).unwrap();
    let all = plan.tensors().iter().map(super::Planned::source_bytes).sum();
    assert!(heard.is_sorted() && heard.last() == Some(&all));
    let file = Gguf::open(&path).unwrap();
    assert_eq!(crate::arch::spec(&file).unwrap(), spec);
    assert_eq!(file.metadata().u32("general.file_type").unwrap(), Some(15));
    for tensor in plan.tensors() {
        assert_eq!(file.tensor(&tensor.name).map(|t| t.format), Some(tensor.format));
    }
    let again = Conversion::plan(&file, &options(Quant::Q8_0));
    assert!(matches!(again, Err(ConvertError::Quantized { .. })), "{again:?}");
    let allowed = ConvertOptions { allow_requantize: true, ..options(Quant::Q8_0) };
    assert!(Conversion::plan(&file, &allowed).is_ok());
    // As it is: the same bytes.
    let plan = Conversion::plan(&file, &ConvertOptions::default()).unwrap();
    let copy = plan.write(Vec::new(), &mut |_| true).unwrap();
    assert!(copy == std::fs::read(&path).unwrap());
    let stopped = plan.write(Vec::new(), &mut |_| false);
    assert!(matches!(stopped, Err(ConvertError::Interrupted)));
}

#[test]
fn the_number_of_threads_changes_nothing() {
    let (_, folder) = synthetic();
    let source = Gguf::open(&folder.path().join("f16.gguf")).unwrap();
    let made = |threads| {
        let options = ConvertOptions { threads, ..options(Quant::Q3_K_M) };
        let plan = Conversion::plan(&source, &options).unwrap();
        plan.write(Vec::new(), &mut |_| true).unwrap()
    };
    assert!(made(1) == made(5));
}
