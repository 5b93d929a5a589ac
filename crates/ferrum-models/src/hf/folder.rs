//! A folder as a checkpoint: its tensors under GGUF's names, some of them made when they are read.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use ferrum_kernels::Format;
use ferrum_kernels::cpu::physical_cores;
use ferrum_kernels::weight::dequantize_row;
use serde_json::{Map, Value};

use super::config::{self, Config};
use super::error::HfError;
use super::json::{self, Object};
use super::names::{self, Place};
use super::quant::{Layer, Parts, Quantization};
use super::shards::{Shards, StoredTensor};
use super::template;
use crate::checkpoint::{self, Checkpoint, Kept, Layout, Tensor};
use crate::gguf::{GgufError, Metadata};
use crate::load::ModelError;
use crate::safetensors::{Dtype, RawTensor};
use crate::tokenizer::{Beside, GgufVocabulary, Tokenizer, TokenizerError};

/// The longest `tokenizer.json` that is accepted; Gemma 3's has 33 MB.
const MAX_TOKENIZER_BYTES: u64 = 256 << 20;

/// A model in a folder.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    metadata: Metadata,
    shards: Shards,
    tensors: BTreeMap<String, Part>,
    tokenizer_config: Map<String, Value>,
    /// Threads that make tensors which the files keep in another form.
    threads: usize,
    /// Tokens that end an answer, as `generation_config.json` or `config.json` give them.
    ends: Vec<u32>,
}

/// A tensor under GGUF's name.
#[derive(Debug)]
struct Part {
    format: Format,
    /// Innermost first.
    dims: Vec<usize>,
    /// What transformers calls it, or the first of those it is made of.
    name: String,
    source: Source,
}

/// Where the values come from. Numbers are those of [`Shards::tensors`].
#[derive(Debug)]
enum Source {
    /// As they lie in a file.
    Stored(usize),
    /// The matrices of the experts, the first first.
    Stack(Vec<usize>),
    /// A vector plus one, in `f32`.
    PlusOne(usize),
    /// Quantised: a layer, or that of every expert.
    Quantized(Vec<Layer>),
    /// Computed from the settings.
    Values(Vec<f32>),
}

impl Folder {
    /// Opens the model in the folder at `path`. Only headers and settings are read: the cost does not
    /// grow with the weights.
    pub fn open(path: &Path) -> Result<Folder, HfError> {
        Folder::open_with(path, true)
    }

    /// The same of a model whose states are wanted, and that may have no output head.
    pub(crate) fn open_headless(path: &Path) -> Result<Folder, HfError> {
        Folder::open_with(path, false)
    }

    fn open_with(path: &Path, head: bool) -> Result<Folder, HfError> {
        let read = |name: &str| json::read::<Map<String, Value>>(&path.join(name));
        let Some(json) = read("config.json")? else {
            return Err(HfError::NoConfig { path: path.to_path_buf() });
        };
        let config = config::translate(Object(&json))?;
        let quantization = match Object(&json).object("quantization_config")? {
            Some(object) => Some(Quantization::read(object)?),
            None => None,
        };
        let tokenizer_config = read("tokenizer_config.json")?.unwrap_or_default();
        let generation = read("generation_config.json")?.unwrap_or_default();
        let mut ends = end_tokens(Object(&json))?;
        ends.extend(end_tokens(Object(&generation))?);
        let shards = Shards::open(path)?;
        let tensors = Collector::new(&shards, &config, quantization.as_ref()).collect(head)?;
        let mut metadata = config.metadata;
        if let Some(template) = template::read(path, &tokenizer_config)? {
            // There is no such key yet.
            let _ = metadata.insert("tokenizer.chat_template".into(), template.into());
        }
        let path = path.to_path_buf();
        let threads = physical_cores();
        Ok(Folder { path, metadata, shards, tensors, tokenizer_config, threads, ends })
    }

    /// What the files hold, as they call it.
    pub fn stored(&self) -> &Shards {
        &self.shards
    }

    fn part(&self, name: &str) -> Result<&Part, ModelError> {
        let missing = || GgufError::MissingTensor { name: self.name_in_file(name) };
        Ok(self.tensors.get(name).ok_or_else(missing)?)
    }

    fn stored_bytes(&self, index: usize) -> &[u8] {
        self.shards.data(&self.shards.tensors[index])
    }

    fn tokenizer_json(&self) -> Result<Vec<u8>, TokenizerError> {
        let path = self.path.join("tokenizer.json");
        json::read_bytes(&path, MAX_TOKENIZER_BYTES)?.ok_or(TokenizerError::NoFile { path })
    }

    /// What the other files say of the tokenizer.
    fn beside(&self) -> Beside<'_> {
        let tokens = self.find("token_embd.weight").map(|t| t.rows());
        Beside { config: &self.tokenizer_config, ends: &self.ends, tokens }
    }
}

/// `eos_token_id`: one or several.
fn end_tokens(config: Object<'_>) -> Result<Vec<u32>, HfError> {
    let key = "eos_token_id";
    match config.get(key) {
        Some(Value::Array(all)) => all
            .iter()
            .map(|v| v.as_u64().and_then(|n| u32::try_from(n).ok()))
            .collect::<Option<_>>()
            .ok_or_else(|| config.refuse(key)),
        _ => Ok(config.count(key)?.into_iter().collect()),
    }
}

/// Gives every tensor of the files its name in GGUF.
struct Collector<'a> {
    shards: &'a Shards,
    config: &'a Config,
    quantization: Option<&'a Quantization>,
    tensors: BTreeMap<String, Part>,
    /// By name, the matrices of the experts.
    stacks: BTreeMap<String, BTreeMap<usize, usize>>,
    /// By module, the parts of the layer, or of that of every expert.
    layers: BTreeMap<String, BTreeMap<usize, Parts>>,
}

impl<'a> Collector<'a> {
    fn new(shards: &'a Shards, config: &'a Config, quantization: Option<&'a Quantization>) -> Self {
        let (tensors, stacks, layers) = Default::default();
        Collector { shards, config, quantization, tensors, stacks, layers }
    }

    /// `head`: an output head of its own, where the model has one, must be there.
    fn collect(mut self, head: bool) -> Result<BTreeMap<String, Part>, HfError> {
        for index in 0..self.shards.tensors.len() {
            self.sort(index)?;
        }
        for (ours, matrices) in std::mem::take(&mut self.stacks) {
            let part = stack(self.shards, &matrices)?;
            self.insert(ours, part)?;
        }
        for (module, experts) in std::mem::take(&mut self.layers) {
            let part = self.quantized(&module, &experts)?;
            self.insert(format!("{module}.weight"), part)?;
        }
        for (name, values) in &self.config.divisors {
            let (dims, source) = (vec![values.len()], Source::Values(values.clone()));
            let part = Part { format: Format::F32, dims, name: "rope_scaling".into(), source };
            self.insert((*name).to_string(), part)?;
        }
        let own = head && self.config.tied == Some(false);
        if own && !self.tensors.contains_key("output.weight") {
            return Err(HfError::NoHead);
        }
        Ok(self.tensors)
    }

    /// Puts a tensor where it belongs.
    fn sort(&mut self, index: usize) -> Result<(), HfError> {
        let tensor = &self.shards.tensors[index];
        let name = &tensor.raw.name;
        if names::is_beside(name) {
            return Ok(());
        }
        // A name that says nothing is kept, and found to be unused.
        let unknown = || Place { module: name.clone(), part: String::new(), expert: None };
        let Place { module, part, expert } =
            names::place(name, self.config.architecture).unwrap_or_else(unknown);
        if self.config.tied == Some(true) && module == "output" {
            return Ok(());
        }
        if self.quantization.is_some() {
            // Scales of activations, which are rounded in a way of our own.
            if matches!(part.as_str(), "input_scale" | "activation_scale") {
                return Ok(());
            }
            let parts = self.layers.get(&module).and_then(|all| all.get(&expert.unwrap_or(0)));
            let mut parts = parts.copied().unwrap_or_default();
            let bytes = matches!(tensor.raw.dtype, Dtype::I8 | Dtype::F8_E4M3);
            if let Some(place) = parts.place(&part, bytes) {
                if let Some(first) = place.replace(index) {
                    return Err(same_part(self.shards, first, index));
                }
                self.layers.entry(module).or_default().insert(expert.unwrap_or(0), parts);
                return Ok(());
            }
            // Some programs give every layer a bias.
            if part == "bias" && self.shards.data(tensor).iter().all(|byte| *byte == 0) {
                return Ok(());
            }
        }
        let ours = if part.is_empty() { module } else { format!("{module}.{part}") };
        if let Some(expert) = expert {
            let matrices = self.stacks.entry(ours).or_default();
            return match matrices.insert(expert, index) {
                Some(first) => Err(same_part(self.shards, first, index)),
                None => Ok(()),
            };
        }
        let plus_one = self.config.architecture.norms_less_one && ours.ends_with("norm.weight");
        let part = stored(tensor, index, plus_one)?;
        self.insert(ours, part)
    }

    fn insert(&mut self, ours: String, part: Part) -> Result<(), HfError> {
        let second = part.name.clone();
        match self.tensors.insert(ours, part) {
            Some(other) => Err(HfError::SamePart { first: other.name, second }),
            None => Ok(()),
        }
    }

    /// A quantised layer, or a stack of them, which must be numbered from zero and alike.
    fn quantized(&self, module: &str, experts: &BTreeMap<usize, Parts>) -> Result<Part, HfError> {
        let name = names::theirs(&format!("{module}.weight")).unwrap_or_else(|| module.into());
        // Inputs are brought into the order of one matrix, and rows of a table are no inputs.
        let movable = experts.len() == 1 && module != "token_embd";
        let layer = |parts: &Parts| {
            // The name of the module in the files, by one of its tensors.
            let tensor = parts.qweight.or(parts.scales).map(|i| &self.shards.tensors[i].raw.name);
            let module = tensor.and_then(|name| name.rsplit_once('.')).map_or("", |(m, _)| m);
            match self.quantization.and_then(|quantization| quantization.of(module)) {
                Some(scheme) => Layer::new(scheme, *parts, movable, self.shards, &name),
                None => {
                    let reason = "quantization_config says nothing of it".into();
                    Err(HfError::Quantized { name: name.clone(), reason })
                }
            }
        };
        let layers: Vec<Layer> = experts.values().map(layer).collect::<Result<_, _>>()?;
        let kind = |layer: &Layer| (layer.format, layer.rows, layer.cols);
        let (format, rows, cols) = kind(&layers[0]);
        let numbered = experts.keys().copied().eq(0..experts.len());
        if !numbered || layers.iter().any(|layer| kind(layer) != (format, rows, cols)) {
            return Err(HfError::Experts { name, found: layers.len() });
        }
        let mut dims = vec![cols, rows];
        if layers.len() > 1 {
            dims.push(layers.len());
        }
        Ok(Part { format, dims, name, source: Source::Quantized(layers) })
    }
}

fn same_part(shards: &Shards, first: usize, second: usize) -> HfError {
    let name = |index: usize| shards.tensors[index].raw.name.clone();
    HfError::SamePart { first: name(first), second: name(second) }
}

/// A tensor that is one in GGUF too.
fn stored(tensor: &StoredTensor, index: usize, plus_one: bool) -> Result<Part, HfError> {
    let name = tensor.raw.name.clone();
    let format = tensor.format()?;
    let dims = dims_of(tensor)?;
    Ok(match plus_one {
        true => Part { format: Format::F32, dims, name, source: Source::PlusOne(index) },
        false => Part { format, dims, name, source: Source::Stored(index) },
    })
}

/// Matrices of experts, which must be numbered from zero and alike.
fn stack(shards: &Shards, matrices: &BTreeMap<usize, usize>) -> Result<Part, HfError> {
    let indices: Vec<usize> = matrices.values().copied().collect();
    let first = &shards.tensors[indices[0]];
    let alike = |index: &usize| {
        let raw = &shards.tensors[*index].raw;
        raw.shape == first.raw.shape && raw.dtype == first.raw.dtype
    };
    let numbered = matrices.keys().copied().eq(0..matrices.len());
    if !numbered || !indices.iter().all(alike) || first.raw.shape.len() != 2 {
        let (name, found) = (first.raw.name.clone(), indices.len());
        return Err(HfError::Experts { name, found });
    }
    let (format, mut dims) = (first.format()?, dims_of(first)?);
    dims.push(indices.len());
    Ok(Part { format, dims, name: first.raw.name.clone(), source: Source::Stack(indices) })
}

/// The shape, innermost first.
fn dims_of(tensor: &StoredTensor) -> Result<Vec<usize>, HfError> {
    let RawTensor { name, shape, .. } = &tensor.raw;
    if shape.is_empty() || shape.len() > 4 || shape.contains(&0) {
        return Err(HfError::Shape { name: name.clone(), shape: shape.clone() });
    }
    Ok(shape.iter().rev().copied().collect())
}

/// Some rows of layers of one shape, one after the other, made by so many threads in `memory`.
fn decode<'a>(
    layers: &[Layer],
    name: &str,
    rows: Range<usize>,
    (shards, threads): (&Shards, usize),
    memory: &'a mut Vec<u8>,
) -> Result<&'a [u8], HfError> {
    let (of_layer, step) = (layers[0].rows, layers[0].row_step());
    let row_bytes = layers[0].bytes() / of_layer;
    let last = rows.end.next_multiple_of(step).min(layers.len() * of_layer);
    let mut at = rows.start / step * step;
    let before = rows.start - at;
    memory.resize(last.saturating_sub(at) * row_bytes, 0);
    let mut rest = memory.as_mut_slice();
    while at < last {
        let (layer, first) = (&layers[at / of_layer], at % of_layer);
        let count = (of_layer - first).min(last - at);
        let (out, others) = rest.split_at_mut(count * row_bytes);
        layer.decode((shards, threads), name, first, out)?;
        (rest, at) = (others, at + count);
    }
    Ok(&memory[before * row_bytes..][..rows.len() * row_bytes])
}

impl Checkpoint for Folder {
    fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    fn layout(&self) -> Layout {
        Layout::HuggingFace
    }

    fn names(&self) -> Vec<&str> {
        self.tensors.keys().map(String::as_str).collect()
    }

    fn find(&self, name: &str) -> Option<Tensor<'_>> {
        let part = self.tensors.get(name)?;
        let columns = match &part.source {
            Source::Quantized(layers) => layers[0].columns(),
            _ => None,
        };
        Some(Tensor { format: part.format, dims: &part.dims, columns })
    }

    fn read(&self, name: &str) -> Result<Cow<'_, [u8]>, ModelError> {
        let part = self.part(name)?;
        Ok(match &part.source {
            Source::Stored(index) => Cow::Borrowed(self.stored_bytes(*index)),
            Source::Stack(indices) => {
                let bytes = indices.iter().map(|i| self.stored_bytes(*i).len()).sum();
                let mut all = Vec::with_capacity(bytes);
                for index in indices {
                    all.extend_from_slice(self.stored_bytes(*index));
                    self.shards.release(&self.shards.tensors[*index], 0..usize::MAX);
                }
                Cow::Owned(all)
            }
            Source::PlusOne(index) => {
                let tensor = &self.shards.tensors[*index];
                let mut values = vec![0.0; tensor.raw.shape.iter().product()];
                dequantize_row(tensor.format()?, self.stored_bytes(*index), &mut values)?;
                Cow::Owned(values.iter().flat_map(|v| (v + 1.0).to_le_bytes()).collect())
            }
            Source::Quantized(layers) => {
                let (rows, mut all) = (layers.iter().map(|layer| layer.rows).sum(), Vec::new());
                decode(layers, &part.name, 0..rows, (&self.shards, self.threads), &mut all)?;
                Cow::Owned(all)
            }
            Source::Values(values) => {
                Cow::Owned(values.iter().flat_map(|v| v.to_le_bytes()).collect())
            }
        })
    }

    fn read_rows<'a>(
        &'a self,
        name: &str,
        rows: Range<usize>,
        readers: usize,
        memory: &'a mut Vec<u8>,
    ) -> Result<&'a [u8], ModelError> {
        let part = self.part(name)?;
        let count = part.dims[1..].iter().product();
        let layers = match &part.source {
            Source::Quantized(layers) => layers,
            Source::Stored(index) => {
                return Ok(checkpoint::rows_of(self.stored_bytes(*index), count, rows));
            }
            _ => {
                *memory = self.read(name)?.into_owned();
                return Ok(checkpoint::rows_of(memory, count, rows));
            }
        };
        let threads = (self.threads / readers.max(1)).max(1);
        Ok(decode(layers, &part.name, rows, (&self.shards, threads), memory)?)
    }

    fn is_kept(&self, name: &str) -> bool {
        let source = self.tensors.get(name).map(|part| &part.source);
        matches!(source, Some(Source::Quantized(layers)) if layers.iter().all(Layer::is_kept))
    }

    fn kept(&self, name: &str) -> Option<Kept<'_>> {
        let Source::Quantized(layers) = &self.tensors.get(name)?.source else { return None };
        let kept: Vec<_> = layers.iter().map(|l| l.kept(&self.shards)).collect::<Option<_>>()?;
        let (matrices, scales): (_, Vec<Vec<f32>>) = kept.into_iter().unzip();
        Some(Kept { matrices, scales: scales.concat() })
    }

    fn give_back_kept(&self, name: &str) {
        if let Some(Part { source: Source::Quantized(layers), .. }) = self.tensors.get(name) {
            layers.iter().for_each(|layer| layer.give_back(&self.shards));
        }
    }

    fn give_back(&self, name: &str, range: Range<usize>) {
        if let Some(Part { source: Source::Stored(index), .. }) = self.tensors.get(name) {
            self.shards.release(&self.shards.tensors[*index], range);
        }
    }

    fn file_bytes(&self) -> u64 {
        self.shards.file_bytes()
    }

    fn vocabulary_bytes(&self) -> usize {
        let path = self.path.join("tokenizer.json");
        // Tokens and merges are about as large in memory as in the file.
        std::fs::metadata(path).map_or(0, |m| usize::try_from(m.len()).unwrap_or(usize::MAX))
    }

    fn tokenizer(&self) -> Result<Tokenizer, TokenizerError> {
        Tokenizer::from_json(&self.tokenizer_json()?, &self.beside())
    }

    fn tokenizer_metadata(&self) -> Result<GgufVocabulary, TokenizerError> {
        GgufVocabulary::from_json(&self.tokenizer_json()?, &self.beside())
    }

    fn name_in_file(&self, name: &str) -> String {
        match self.tensors.get(name) {
            Some(part) => part.name.clone(),
            None => names::theirs(name).unwrap_or_else(|| name.to_string()),
        }
    }
}
