//! Tests of synthetic models: the files are valid, complete, and never change.

use std::collections::HashSet;

use super::*;
use crate::gguf::{Array, Metadata, Value, parse};

fn bytes(spec: &SynthSpec) -> Vec<u8> {
    spec.write(Vec::new()).unwrap()
}

/// FNV-1a, 64 bits.
fn digest(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

fn metadata(spec: &SynthSpec) -> Metadata {
    parse(&bytes(spec)).unwrap().metadata
}

#[test]
fn presets_never_change() {
    // Golden logits of other engines were computed with these very files.
    let found = PRESETS.map(|name| (name, digest(&bytes(&SynthSpec::preset(name).unwrap()))));
    let expected = [
        ("llama-tiny", 0xb6c8_4e88_f0a5_e5e8),
        ("llama3-tiny", 0x3a90_7dd5_c324_ad3a),
        ("qwen2-tiny", 0xe542_537c_4cd8_1b55),
        ("qwen3-tiny", 0x5a8b_164b_e222_5732),
        ("qwen3moe-tiny", 0),
        ("gemma3-tiny", 0xf0e2_d571_d3a8_71d2),
    ];
    assert_eq!(found, expected, "found {found:#018x?}");
}

#[test]
fn tensors_are_those_of_the_architecture() {
    for (name, count) in [
        ("llama-tiny", 3 + 4 * 9),
        ("llama3-tiny", 3 + 4 * 9),
        ("qwen2-tiny", 2 + 4 * 12),
        ("qwen3-tiny", 2 + 4 * 11),
        ("qwen3moe-tiny", 2 + 4 * 12),
        ("gemma3-tiny", 2 + 7 * 13),
    ] {
        let spec = SynthSpec::preset(name).unwrap();
        let file = bytes(&spec);
        let tensors = parse(&file).unwrap().layout(file.len()).unwrap();
        assert_eq!(tensors.len(), count, "{name}");
        let find = |name: &str| tensors.iter().find(|t| t.name == name).unwrap();
        assert_eq!(find("token_embd.weight").dims, [spec.hidden, spec.vocab]);
        let q = find("blk.3.attn_q.weight");
        assert_eq!((q.cols(), q.rows()), (spec.hidden, spec.heads * spec.head_dim));
        match spec.experts.0 {
            0 => assert_eq!(find("blk.3.ffn_down.weight").dims, [spec.ffn, spec.hidden]),
            experts => {
                let router = find("blk.3.ffn_gate_inp.weight");
                assert_eq!(
                    (router.format, &*router.dims),
                    (Format::F32, &[spec.hidden, experts][..])
                );
                let down = find("blk.3.ffn_down_exps.weight");
                assert_eq!(down.dims, [spec.ffn, spec.hidden, experts]);
            }
        }
        assert_eq!(find("output_norm.weight").format, Format::F32);
    }
}

#[test]
fn another_seed_gives_other_weights_of_the_same_shape() {
    let spec = SynthSpec { layers: 1, ..SynthSpec::preset("qwen3-tiny").unwrap() };
    let (a, b) = (bytes(&spec), bytes(&SynthSpec { seed: 1, ..spec }));
    assert_eq!(parse(&a).unwrap(), parse(&b).unwrap());
    assert_ne!(a, b);
}

#[test]
fn rope_factors_rise_from_one_to_eight() {
    let file = bytes(&SynthSpec::preset("llama3-tiny").unwrap());
    let tensors = parse(&file).unwrap().layout(file.len()).unwrap();
    let factors = tensors.iter().find(|t| t.name == "rope_freqs.weight").unwrap();
    let values: Vec<f32> = file[factors.range()]
        .chunks_exact(4)
        .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
        .collect();
    assert_eq!(values.len(), 16);
    assert_eq!(values[..8], [1.0; 8]);
    assert!(values[7..].is_sorted_by(|a, b| a < b));
    assert_eq!(values[15], 8.0);
}

#[test]
fn vocabulary_holds_every_byte_and_merge_once() {
    for vocab in [259, 260, 311, 987, 988, 1024, 5000] {
        let spec = SynthSpec { vocab, layers: 1, ..SynthSpec::preset("qwen2-tiny").unwrap() };
        let meta = metadata(&spec);
        let tokens = meta.need_str_array("tokenizer.ggml.tokens").unwrap();
        let merges = meta.need_str_array("tokenizer.ggml.merges").unwrap();
        assert_eq!((tokens.len(), merges.len()), (vocab, vocab - 259));
        let known: HashSet<&str> = tokens.iter().map(String::as_str).collect();
        assert_eq!(known.len(), vocab, "a token appears twice");
        for merge in merges {
            let (left, right) = merge.split_once(' ').unwrap();
            assert!(known.contains(left) && known.contains(right));
            assert!(known.contains(&*format!("{left}{right}")));
        }
        let eos = meta.need_u32("tokenizer.ggml.eos_token_id").unwrap();
        assert_eq!(tokens[eos as usize], "<|im_end|>");
        let types = meta.need_i32_array("tokenizer.ggml.token_type").unwrap();
        assert_eq!(types.iter().filter(|t| **t == 3).count(), 3);
    }
}

#[test]
fn sizes_out_of_range_are_refused() {
    let tiny = SynthSpec::preset("qwen2-tiny").unwrap();
    for vocab in [0, 258, 259 + 52 + 676 + 676 * 676 + 1] {
        let refused = SynthSpec { vocab, ..tiny.clone() }.write(Vec::new());
        assert!(matches!(refused, Err(SynthError::Vocab { vocab: v, .. }) if v == vocab));
    }
    let refused = SynthSpec { context: 1 << 40, ..tiny.clone() }.write(Vec::new());
    assert!(matches!(refused, Err(SynthError::TooLarge { what: "context_length", .. })));
    let refused = SynthSpec { ffn: 0, ..tiny }.write(Vec::new());
    assert!(matches!(refused, Err(SynthError::Write(WriteError::Dimensions { .. }))));
    assert!(SynthSpec::preset("absent").is_none());
}

#[test]
fn gemma_has_its_window() {
    let meta = metadata(&SynthSpec::preset("gemma3-tiny").unwrap());
    assert_eq!(meta.u32("gemma3.attention.sliding_window").unwrap(), Some(64));
    let tokens = meta.get("tokenizer.ggml.tokens").unwrap();
    assert!(matches!(tokens, Value::Array(Array::String(t)) if t[32] == "\u{120}"));
}
