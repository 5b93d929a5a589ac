//! Models of golden files: what lies beside the weights, and weights that follow from the names of
//! the tensors, as `tools/golden/hf_reference.py` says.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Deserialize)]
pub struct Model {
    /// By their paths.
    pub files: BTreeMap<String, Value>,
    /// Shape, offset and scale.
    pub tensors: BTreeMap<String, (Vec<usize>, f64, f64)>,
}

/// Value `i` of the tensor whose name has this hash: see `tools/golden/hf_reference.py`.
pub fn value(seed: u64, i: u64, offset: f64, scale: f64) -> f32 {
    let mut z = seed.wrapping_add(i).wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^= z >> 31;
    let unit = 2.0 * (z >> 40) as f64 / f64::from(1 << 24) - 1.0;
    (offset + scale * unit) as f32
}

/// FNV-1a.
pub fn seed(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

impl Model {
    /// Writes the model.
    pub fn write(&self, folder: &Path) {
        for (name, content) in &self.files {
            let path = folder.join(name);
            fs::create_dir_all(path.parent().expect("a folder")).expect("made");
            fs::write(path, content.to_string()).expect("written");
        }
        let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
        for (name, (shape, offset, scale)) in &self.tensors {
            let (start, count) = (data.len(), shape.iter().product::<usize>() as u64);
            let values = (0..count).map(|i| value(seed(name), i, *offset, *scale));
            data.extend(values.flat_map(f32::to_le_bytes));
            let offsets = [start, data.len()];
            header.insert(
                name.clone(),
                json!({"dtype": "F32", "shape": shape, "data_offsets": offsets}),
            );
        }
        let header = Value::Object(header).to_string();
        let file = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &data].concat();
        let place = folder.join(self.place()).join("model.safetensors");
        fs::write(place, file).expect("written");
    }

    /// The folder of the network.
    fn place(&self) -> &str {
        let modules = self.files.get("modules.json");
        modules.and_then(|m| m[0]["path"].as_str()).unwrap_or_default()
    }
}
