//! Models of golden files: what lies beside the weights, and weights that follow from the names of
//! the tensors, as `tools/golden/filled.py` says.

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

/// Value `i` of the tensor whose name has this hash: see `tools/golden/filled.py`.
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

/// A safetensors file with tensors of these names, types, shapes and bytes.
pub fn safetensors<'a>(
    tensors: impl IntoIterator<Item = (&'a str, &'a str, &'a [usize], Vec<u8>)>,
) -> Vec<u8> {
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    for (name, dtype, shape, bytes) in tensors {
        let start = data.len();
        data.extend(bytes);
        let offsets = [start, data.len()];
        let entry = json!({"dtype": dtype, "shape": shape, "data_offsets": offsets});
        header.insert(name.to_string(), entry);
    }
    let header = Value::Object(header).to_string();
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &data].concat()
}

impl Model {
    /// Writes the model.
    pub fn write(&self, folder: &Path) {
        for (name, content) in &self.files {
            let path = folder.join(name);
            fs::create_dir_all(path.parent().expect("a folder")).expect("made");
            fs::write(path, content.to_string()).expect("written");
        }
        let file = safetensors(self.tensors.iter().map(|(name, (shape, offset, scale))| {
            let count = shape.iter().product::<usize>() as u64;
            let values = (0..count).map(|i| value(seed(name), i, *offset, *scale));
            (name.as_str(), "F32", shape.as_slice(), values.flat_map(f32::to_le_bytes).collect())
        }));
        let place = folder.join(self.place()).join("model.safetensors");
        fs::write(place, file).expect("written");
    }

    /// The folder of the network.
    fn place(&self) -> &str {
        let modules = self.files.get("modules.json");
        modules.and_then(|m| m[0]["path"].as_str()).unwrap_or_default()
    }
}
