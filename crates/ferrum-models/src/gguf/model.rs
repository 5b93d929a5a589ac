//! A model on disk: one GGUF file or all parts of a split one, mapped and checked.

use std::collections::HashMap;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::error::GgufError;
use super::header::{self, Header};
use super::metadata::Metadata;
use super::split::SplitInfo;
use super::tensor::TensorInfo;
use crate::mmap::Map;

/// An open model: metadata, tensors, and their bytes, memory-mapped.
#[derive(Debug)]
pub struct Gguf {
    files: Vec<Map>,
    metadata: Metadata,
    tensors: Vec<TensorInfo>,
    index: HashMap<String, usize>,
}

/// One file, mapped and parsed.
struct Part {
    path: PathBuf,
    map: Map,
    header: Header,
}

/// Reads the header of the file at `path` without asking whether Ferrum can run it.
pub fn read_header(path: &Path) -> Result<Header, GgufError> {
    Ok(Part::open(path)?.header)
}

impl Part {
    fn open(path: &Path) -> Result<Self, GgufError> {
        let io = |reason| GgufError::Io { path: path.to_path_buf(), reason };
        let map = Map::open(path)
            .map_err(io)?
            .ok_or_else(|| GgufError::NotAFile { path: path.to_path_buf() })?;
        let header = header::parse(&map)
            .map_err(|reason| GgufError::Parse { path: path.to_path_buf(), reason })?;
        // What was read of it is now in `header`.
        map.release(0..map.len());
        Ok(Part { path: path.to_path_buf(), map, header })
    }
}

impl Gguf {
    /// Maps the model at `path`; of a split model, `path` is any part and all are opened.
    ///
    /// Fails where a file cannot be read or is malformed, where a tensor has a type that Ferrum
    /// does not support, and where the parts of a split model are not all there or do not belong
    /// together. Only headers are read: the cost does not grow with the weights.
    pub fn open(path: &Path) -> Result<Gguf, GgufError> {
        let part = Part::open(path)?;
        let parts = match SplitInfo::of(&part.header.metadata)? {
            None => vec![part],
            Some(split) => open_split(part, split)?,
        };
        Gguf::assemble(parts)
    }

    fn assemble(parts: Vec<Part>) -> Result<Gguf, GgufError> {
        let mut files = Vec::with_capacity(parts.len());
        let mut paths: Vec<PathBuf> = Vec::with_capacity(parts.len());
        let mut metadata = None;
        let mut tensors: Vec<TensorInfo> = Vec::new();
        let mut index: HashMap<String, usize> = HashMap::new();
        for (file, part) in parts.into_iter().enumerate() {
            let layout = part
                .header
                .layout(part.map.len())
                .map_err(|reason| GgufError::Parse { path: part.path.clone(), reason })?;
            for tensor in layout {
                if let Some(earlier) = index.insert(tensor.name.clone(), tensors.len()) {
                    return Err(GgufError::SplitDuplicate {
                        first: paths[tensors[earlier].file].clone(),
                        name: tensor.name,
                        second: part.path,
                    });
                }
                tensors.push(TensorInfo { file, ..tensor });
            }
            metadata.get_or_insert(part.header.metadata);
            files.push(part.map);
            paths.push(part.path);
        }
        Ok(Gguf { files, metadata: metadata.unwrap_or_default(), tensors, index })
    }

    /// The model's metadata: of a split model, that of the first part.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// All tensors, in the order of the file or files.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// The tensor called `name`.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.index.get(name).map(|i| &self.tensors[*i])
    }

    /// The tensor called `name`, which must be there.
    pub fn require(&self, name: &str) -> Result<&TensorInfo, GgufError> {
        self.tensor(name).ok_or_else(|| GgufError::MissingTensor { name: name.to_string() })
    }

    /// The bytes of `tensor`, which must be one of this model: rows of [`TensorInfo::cols`]
    /// values, one after the other.
    ///
    /// # Panics
    /// May panic if `tensor` belongs to another model.
    pub fn data(&self, tensor: &TensorInfo) -> &[u8] {
        &self.files[tensor.file][tensor.range()]
    }

    /// Gives back the memory that holds a range of the bytes of `tensor`; call it once they are
    /// packed. [`Gguf::data`] stays valid and reads the file again.
    pub fn release(&self, tensor: &TensorInfo, range: Range<usize>) {
        let Range { start, end } = tensor.range();
        let at = |offset: usize| start.saturating_add(offset).min(end);
        self.files[tensor.file].release(at(range.start)..at(range.end));
    }

    /// Bytes of all files.
    pub fn file_bytes(&self) -> u64 {
        self.files.iter().map(|f| f.len() as u64).sum()
    }
}

/// Opens the other parts of the split model to which `opened` belongs.
fn open_split(opened: Part, split: SplitInfo) -> Result<Vec<Part>, GgufError> {
    let paths = split.paths(&opened.path)?;
    let mut opened = Some(opened);
    let mut parts = Vec::new();
    let mut tensors = 0;
    for (no, path) in (0..split.count).zip(paths) {
        let here = if no == split.no { opened.take() } else { None };
        let part = match here {
            Some(part) => part,
            None => Part::open(&path).map_err(|e| missing_part(e, no, split.count))?,
        };
        split.check_part(&part.path, no, SplitInfo::of(&part.header.metadata)?)?;
        tensors += part.header.tensors.len();
        parts.push(part);
    }
    if tensors as u64 != u64::from(split.tensors) {
        let path = parts.swap_remove(0).path;
        return Err(GgufError::SplitTensors { path, found: tensors, expected: split.tensors });
    }
    Ok(parts)
}

/// Says of a part that was not found that it is a part.
fn missing_part(error: GgufError, no: u32, count: u32) -> GgufError {
    match error {
        GgufError::Io { path, reason } if reason.kind() == io::ErrorKind::NotFound => {
            GgufError::SplitMissing { path, no, count }
        }
        other => other,
    }
}
