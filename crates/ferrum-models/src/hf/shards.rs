//! The safetensors files of a folder, mapped, and all their tensors.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::path::{Path, PathBuf};

use ferrum_kernels::Format;
use ferrum_kernels::weight::dequantize_row;
use serde::Deserialize;

use super::error::HfError;
use super::json;
use crate::load::ModelError;
use crate::mmap::Map;
use crate::safetensors::{self, RawTensor};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// Ends of names of files that hold Python objects.
const PICKLES: &[&str] = &[".bin", ".pt", ".pth", ".ckpt", ".pkl"];

/// More files than any model has.
const MAX_SHARDS: usize = 4096;

/// A tensor and the file that holds it.
#[derive(Debug, Clone)]
pub struct StoredTensor {
    /// As its header describes it.
    pub raw: RawTensor,
    /// Number of the file.
    file: usize,
}

impl StoredTensor {
    /// The format of its values, if it is one of a weight.
    pub(crate) fn format(&self) -> Result<Format, HfError> {
        let RawTensor { name, dtype, .. } = &self.raw;
        dtype.format().ok_or_else(|| HfError::Dtype { name: name.clone(), dtype: *dtype })
    }

    /// Holds its shape against the one that is expected, outermost first.
    pub(crate) fn check_shape(&self, expected: &[usize]) -> Result<(), ModelError> {
        let RawTensor { name, shape, .. } = &self.raw;
        if shape == expected {
            return Ok(());
        }
        // Innermost first, as elsewhere.
        let reversed = |shape: &[usize]| shape.iter().rev().copied().collect();
        let (expected, got) = (reversed(expected), reversed(shape));
        Err(ModelError::TensorShape { name: name.clone(), expected, got })
    }
}

/// The files, and their tensors in the order of files and bytes.
#[derive(Debug)]
pub struct Shards {
    names: Vec<String>,
    maps: Vec<Map>,
    /// All tensors.
    pub tensors: Vec<StoredTensor>,
}

/// `model.safetensors.index.json`. Its `metadata` is for people.
#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl Shards {
    /// Maps the files of the model in `folder` and checks their headers.
    pub fn open(folder: &Path) -> Result<Self, HfError> {
        let path = folder.join(INDEX);
        let Some(index) = json::read::<Index>(&path)? else {
            if folder.join(SINGLE).exists() {
                return Shards::map(folder, vec![SINGLE.to_string()]);
            }
            return Err(no_weights(folder));
        };
        let mut names: Vec<String> = index.weight_map.values().cloned().collect();
        names.sort();
        names.dedup();
        if names.len() > MAX_SHARDS {
            let reason = format!("{} files are more than {MAX_SHARDS}", names.len());
            return Err(HfError::Json { path, reason });
        }
        if let Some(name) = names.iter().find(|name| !is_shard_name(name)) {
            return Err(HfError::ShardName { path, name: name.clone() });
        }
        let shards = Shards::map(folder, names)?;
        shards.check_index(&path, &index)?;
        Ok(shards)
    }

    /// Maps the one file of this name in `folder`.
    pub(crate) fn open_single(folder: &Path, name: &str) -> Result<Self, HfError> {
        match folder.join(name).exists() {
            true => Shards::map(folder, vec![name.to_string()]),
            false => Err(no_weights(folder)),
        }
    }

    fn map(folder: &Path, names: Vec<String>) -> Result<Self, HfError> {
        let mut shards = Shards { names, maps: Vec::new(), tensors: Vec::new() };
        let mut seen: HashMap<String, usize> = HashMap::new();
        for (file, name) in shards.names.iter().enumerate() {
            let (map, tensors) = open_file(folder.join(name))?;
            for raw in tensors {
                if let Some(first) = seen.insert(raw.name.clone(), file) {
                    let first = shards.names[first].clone();
                    return Err(HfError::Duplicate { name: raw.name, first, second: name.clone() });
                }
                shards.tensors.push(StoredTensor { raw, file });
            }
            shards.maps.push(map);
        }
        Ok(shards)
    }

    /// Each tensor is where the index says, and the index knows each.
    fn check_index(&self, path: &Path, index: &Index) -> Result<(), HfError> {
        let mut left = index.weight_map.clone();
        for StoredTensor { raw, file } in &self.tensors {
            let (name, shard) = (raw.name.clone(), self.names[*file].clone());
            if left.remove(&name).as_ref() != Some(&shard) {
                return Err(HfError::NotInIndex { name, shard });
            }
        }
        match left.into_iter().next() {
            Some((name, shard)) => {
                Err(HfError::NotInShard { path: path.to_path_buf(), name, shard })
            }
            None => Ok(()),
        }
    }

    /// The bytes of a tensor, which must be one of these.
    pub fn data(&self, tensor: &StoredTensor) -> &[u8] {
        &self.maps[tensor.file][tensor.raw.range.clone()]
    }

    /// The values of a tensor, in `f32`.
    pub(crate) fn floats(&self, tensor: &StoredTensor) -> Result<Vec<f32>, ModelError> {
        let mut values = vec![0.0; tensor.raw.shape.iter().product()];
        dequantize_row(tensor.format()?, self.data(tensor), &mut values)?;
        Ok(values)
    }

    /// Gives back the memory of a range of the bytes of `tensor`, which are read from the file again
    /// when they are asked for.
    pub fn release(&self, tensor: &StoredTensor, range: Range<usize>) {
        let Range { start, end } = tensor.raw.range;
        let at = |offset: usize| start.saturating_add(offset).min(end);
        self.maps[tensor.file].release(at(range.start)..at(range.end));
    }

    /// Bytes of all files.
    pub fn file_bytes(&self) -> u64 {
        self.maps.iter().map(|map| map.len() as u64).sum()
    }
}

fn open_file(path: PathBuf) -> Result<(Map, Vec<RawTensor>), HfError> {
    let map = match Map::open(&path) {
        Ok(Some(map)) => map,
        Ok(None) => return Err(HfError::NotAFile { path }),
        Err(reason) => return Err(HfError::Io { path, reason }),
    };
    match safetensors::parse(&map) {
        Ok(header) => {
            // What was read of it is now in `header`.
            map.release(0..map.len());
            Ok((map, header.tensors))
        }
        Err(reason) => Err(HfError::Parse { path, reason }),
    }
}

/// Whether the name stays in its folder on every platform.
fn is_shard_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    name.ends_with(".safetensors")
        && name.len() <= 255
        && !name.starts_with('.')
        && name.chars().all(plain)
}

/// Why there is nothing to read: a word on pickles where there are some.
fn no_weights(folder: &Path) -> HfError {
    let names = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut pickles: Vec<PathBuf> = names
        .map(|entry| entry.path())
        .filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
            PICKLES.iter().any(|end| name.ends_with(end)) && path.is_file()
        })
        .collect();
    pickles.sort();
    match pickles.into_iter().next() {
        Some(path) => HfError::Pickle { path },
        None => HfError::NoWeights { path: folder.to_path_buf() },
    }
}
