//! MiniLM's vectors, token by token and number by number as sentence-transformers has them
//! (`tools/golden/embeddings.py`), and the same to the bit in any batch.

use std::path::PathBuf;

use base64::Engine;
use ferrum_models::encoder::{EmbedError, Embedder, TextEncoder, is_encoder};
use ferrum_models::{Device, LoadOptions};
use half::f16;
use serde::Deserialize;

#[derive(Deserialize)]
struct Golden {
    width: usize,
    vectors: String,
    texts: Vec<Text>,
}

#[derive(Deserialize)]
struct Text {
    text: String,
    ids: Vec<u32>,
}

impl Golden {
    fn read() -> Self {
        serde_json::from_str(include_str!("data/embeddings-minilm.json")).expect("JSON")
    }

    fn vectors(&self) -> Vec<Vec<f64>> {
        let bytes =
            base64::engine::general_purpose::STANDARD.decode(&self.vectors).expect("base64");
        let value = |b: &[u8; 2]| f64::from(f16::from_le_bytes(*b).to_f32());
        let values: Vec<f64> = bytes.as_chunks().0.iter().map(value).collect();
        values.chunks_exact(self.width).map(<[f64]>::to_vec).collect()
    }
}

fn minilm() -> PathBuf {
    ferrum_hub::testing::fetch_alias("minilm").expect("fetched")
}

fn load(options: &LoadOptions) -> Embedder {
    Embedder::load(&minilm(), options).expect("loaded")
}

fn cosine(a: &[f32], b: &[f64]) -> f64 {
    let dot: f64 = a.iter().zip(b).map(|(&a, b)| f64::from(a) * b).sum();
    let norm = a.iter().map(|&a| f64::from(a) * f64::from(a)).sum::<f64>().sqrt();
    dot / norm / b.iter().map(|b| b * b).sum::<f64>().sqrt()
}

#[test]
fn vectors_are_those_of_sentence_transformers() {
    let golden = Golden::read();
    assert_eq!(golden.texts.len(), 50);
    assert!(is_encoder(&minilm()).expect("readable"));
    let encoder = TextEncoder::open(&minilm(), None).expect("opened");
    let ids: Vec<Vec<u32>> = (golden.texts.iter())
        .map(|t| {
            let ids = encoder.encode(&t.text, true).expect("truncated");
            assert_eq!(ids, t.ids, "{:?}", t.text);
            ids
        })
        .collect();
    let vectors = load(&LoadOptions::default()).embed(&ids, None).expect("embedded");
    let cosines = vectors.iter().zip(golden.vectors()).map(|(got, want)| cosine(got, &want));
    let least = cosines.fold(1.0, f64::min);
    println!("least cosine {least:.9}");
    assert!(least >= 0.9999, "{least}");
    for vector in &vectors {
        let norm: f64 = vector.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
        assert!((norm - 1.0).abs() < 1e-5, "{norm}");
    }
}

#[test]
fn a_text_has_the_same_vector_in_any_batch() {
    let golden = Golden::read();
    let ids: Vec<Vec<u32>> = golden.texts.into_iter().map(|t| t.ids).take(46).collect();
    let options = LoadOptions { threads: Some(2), ..LoadOptions::default() };
    let all = load(&options).embed(&ids, None).expect("embedded");
    let mut alone = load(&LoadOptions { threads: Some(1), ..options.clone() });
    for (ids, vector) in ids.iter().zip(&all).step_by(5) {
        let got = alone.embed(std::slice::from_ref(ids), None).expect("embedded");
        assert_eq!(&got[0], vector);
    }
    let mut oracle = load(&LoadOptions { device: Device::Reference, ..LoadOptions::default() });
    let mut exact = load(&LoadOptions { exact: true, ..options });
    for (ids, vector) in ids.iter().zip(&all).take(2) {
        let ids = std::slice::from_ref(ids);
        let want = oracle.embed(ids, None).expect("embedded");
        let want: Vec<f64> = want[0].iter().map(|&x| x.into()).collect();
        assert!(cosine(&exact.embed(ids, None).expect("embedded")[0], &want) > 1.0 - 1e-10);
        // Rounded numbers move it a little.
        assert!(cosine(vector, &want) > 1.0 - 5e-5);
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let encoder = TextEncoder::open(&minilm(), None).expect("opened");
    let long = "word ".repeat(300);
    let error = encoder.encode(&long, false).expect_err("too long");
    assert!(matches!(error, EmbedError::TooLong { tokens: 302, limit: 256 }), "{error}");
    let cut = encoder.encode(&long, true).expect("cut");
    assert_eq!((cut.len(), cut[0], cut[255]), (256, 101, 102));
    assert!(matches!(encoder.accept(&[30522], false), Err(EmbedError::Token { .. })));
    assert!(matches!(encoder.accept(&[], false), Err(EmbedError::Empty)));
    assert!(encoder.accept(&[5; 257], false).is_err());
    assert_eq!(encoder.accept(&[5; 257], true).expect("cut").len(), 256);

    let mut model = load(&LoadOptions::default());
    for bad in [vec![], vec![30522], vec![5; 257]] {
        assert!(model.embed(&[vec![101, 102], bad], None).is_err());
    }
    let dimensions = |model: &mut Embedder, n| model.embed(&[vec![101, 7592, 102]], Some(n));
    for n in [0, 385] {
        let error = dimensions(&mut model, n).expect_err("no such number");
        assert!(matches!(error, EmbedError::Dimensions { have: 384, .. }));
    }
    let whole = dimensions(&mut model, 384).expect("all");
    let short = dimensions(&mut model, 8).expect("some");
    assert!(
        cosine(&short[0], &whole[0][..8].iter().map(|&x| x.into()).collect::<Vec<_>>())
            > 1.0 - 1e-9
    );
    assert!((short[0].iter().map(|x| x * x).sum::<f32>() - 1.0).abs() < 1e-6);
}
