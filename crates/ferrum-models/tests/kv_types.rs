//! Caches of other types beside one in half precision, on real models.

mod support;

use anyhow::Result;
use ferrum_models::cpu::Isa;
use ferrum_models::{KvDType, LoadOptions, memory_estimate};
use support::{cosine, prefill, real_model};

fn options(kv_dtype: KvDType) -> LoadOptions {
    // In chunks the same, as the test says: so without products that depend on their length.
    let isa = Some(Isa::best().independent());
    LoadOptions { kv_dtype, isa, context: Some(2048), ..LoadOptions::default() }
}

/// Logits after so many tokens of the golden text.
const LENGTHS: [usize; 5] = [1, 2, 33, 300, 1200];

/// Holds the logits of a model against those with a cache in half precision, by their cosine, and
/// against its own in other chunks.
fn beside_half_precision(kv: KvDType, least: [f64; 5]) -> Result<()> {
    let golden: serde_json::Value = serde_json::from_str(include_str!("data/logits-smollm2.json"))?;
    let longest = golden["prompts"].as_array().into_iter().flatten().next_back();
    let tokens: Vec<u32> = longest
        .and_then(|prompt| prompt["tokens"].as_array())
        .into_iter()
        .flatten()
        .filter_map(|id| id.as_u64().map(|id| id as u32))
        .collect();
    assert_eq!(tokens.len(), 1200);
    let mut half = real_model("smollm2", &options(KvDType::F16))?;
    let mut other = real_model("smollm2", &options(kv))?;
    for (len, least) in LENGTHS.into_iter().zip(least) {
        let want = prefill(half.as_mut(), &tokens[..len], 512)?;
        let got = prefill(other.as_mut(), &tokens[..len], 512)?;
        let cosine = cosine(&got, &want);
        println!("{kv:?}, {len} tokens: cosine {cosine:.6}");
        assert!(cosine >= least, "{kv:?}, {len} tokens: cosine {cosine}");
        // In chunks, the same.
        let chunked = prefill(other.as_mut(), &tokens[..len], 97)?;
        let largest = got.iter().fold(0.0, |m: f32, v| m.max(v.abs()));
        let apart = got.iter().zip(&chunked).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(apart <= 1e-5 * largest, "{kv:?}, {len} tokens in chunks: {apart} of {largest}");
    }
    Ok(())
}

#[test]
fn bytes_with_scales_change_little_in_half_the_memory() -> Result<()> {
    // Measured: 0.99990 and more, and 0.99952 after 33 tokens, where activations of the linears lie
    // so near the middle of two steps of 8 bits that any change moves many of them.
    beside_half_precision(KvDType::Q8_0, [0.9995, 0.9995, 0.999, 0.9995, 0.9995])
}

#[test]
fn bfloat16_changes_little() -> Result<()> {
    // Measured: 0.99981 and more, and 0.99969 after 33 tokens.
    beside_half_precision(KvDType::BF16, [0.9995, 0.9995, 0.999, 0.9995, 0.9995])
}

#[test]
fn floats_of_eight_bits_change_more_in_half_the_memory() -> Result<()> {
    // Measured: 0.99998, 0.99967, 0.99838, 0.99997 and 0.99988. A value is off by up to a sixteenth of
    // itself, but each in its own direction, so that over many positions most of it cancels.
    beside_half_precision(KvDType::Fp8E4M3, [0.9995, 0.999, 0.996, 0.9995, 0.9995])
}

#[test]
fn the_estimate_knows_the_size_of_each_type() -> Result<()> {
    let file = ferrum_models::gguf::Gguf::open(&ferrum_hub::testing::fetch_alias("smollm2")?)?;
    let bytes = |kv| Ok::<_, anyhow::Error>(memory_estimate(&file, &options(kv))?.kv_cache);
    // 30 layers of 3 heads of 64 keys and as many values, at 2048 positions.
    let values = 2 * 30 * 3 * 64 * 2048;
    assert_eq!(bytes(KvDType::F16)?, 2 * values);
    assert_eq!(bytes(KvDType::BF16)?, 2 * values);
    assert_eq!(bytes(KvDType::F32)?, 4 * values);
    assert_eq!(bytes(KvDType::Fp8E4M3)?, values);
    assert_eq!(bytes(KvDType::Q8_0)?, values + 2 * values / 32);
    Ok(())
}
