//! Models to GGUF files: from a folder of Hugging Face, or from a GGUF file to other formats.
//!
//! [`Conversion::plan`] decides what the file will hold without reading a weight, and refuses what
//! GGUF has no place for; [`Conversion::write`] then makes one tensor after the other, in several
//! threads. A [`Checkpoint`] has the names and the settings of GGUF already; what is left to do is
//! what its layouts differ in, and that is read off the specs of both (see [`settings`]).

mod error;
mod mix;
mod quant;
mod settings;
mod write;

#[cfg(test)]
mod tests;

use std::fmt;

use ferrum_kernels::Format;

pub use error::ConvertError;
pub use quant::Quant;
pub use write::Progress;

use crate::arch;
use crate::checkpoint::{Checkpoint, Layout};
use crate::decoder::{DecoderSpec, QkNorm, RopeStyle, checked_roles};
use crate::gguf::{GgufWriter, Metadata, Value};
use mix::Mix;
use settings::Settings;

/// Version of the formats of ggml, `GGML_QNT_VERSION`.
const QUANTIZATION_VERSION: u32 = 2;

/// Metadata that is about a file and not about its model.
const OF_THE_FILE: &[&str] = &[
    "general.alignment",
    "general.file_type",
    "general.quantization_version",
    "split.count",
    "split.no",
    "split.tensors.count",
];

/// How to convert.
#[derive(Debug, Clone, Default)]
pub struct ConvertOptions {
    /// Formats of the weights; `None`: as they are.
    pub quant: Option<Quant>,
    /// Threads that quantise; 0 stands for one.
    pub threads: usize,
    /// Quantise again what is quantised already.
    pub allow_requantize: bool,
    /// `general.name` of a folder's model.
    pub name: Option<String>,
}

/// What a file will hold.
pub struct Conversion<'a> {
    source: &'a dyn Checkpoint,
    metadata: Vec<(String, Value)>,
    tensors: Vec<Planned>,
    notes: Vec<String>,
    threads: usize,
}

/// A tensor of the file.
#[derive(Debug, Clone, PartialEq)]
pub struct Planned {
    /// GGUF's name.
    pub name: String,
    /// How it will be stored.
    pub format: Format,
    /// How it is stored.
    pub from: Format,
    /// Innermost first.
    pub dims: Vec<usize>,
    /// [`crate::checkpoint::Tensor::columns`]
    columns: Option<Vec<u32>>,
    change: Change,
}

/// What happens to a tensor's values, beside their format.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Change {
    /// Rows of heads whose rotated pairs are brought side by side.
    pairs: Option<Pairs>,
    factor: f32,
}

/// Of each so many rows, the first few are rotated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Pairs {
    head: usize,
    rotated: usize,
}

impl fmt::Debug for Conversion<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Conversion").field("tensors", &self.tensors).finish_non_exhaustive()
    }
}

impl Planned {
    /// Number of values.
    pub fn elements(&self) -> usize {
        self.dims.iter().product()
    }

    /// Bytes in `format`; rows are whole blocks of it.
    fn bytes_in(&self, format: Format) -> u64 {
        (self.elements() / format.block_len()) as u64 * format.block_bytes() as u64
    }

    /// Bytes in the file.
    pub fn bytes(&self) -> u64 {
        self.bytes_in(self.format)
    }

    /// Bytes that are read.
    pub fn source_bytes(&self) -> u64 {
        self.bytes_in(self.from)
    }
}

impl<'a> Conversion<'a> {
    /// Plans the file of `source`. Fails where the model is none that Ferrum runs, and where GGUF
    /// cannot say what it is.
    pub fn plan(
        source: &'a dyn Checkpoint,
        options: &ConvertOptions,
    ) -> Result<Self, ConvertError> {
        let spec = arch::spec(source)?;
        let roles = checked_roles(source, &spec)?;
        let arch = source.metadata().need_str("general.architecture")?;
        let tied = source.find("output.weight").is_none();
        let mix = options.quant.map(|quant| Mix::new(quant, arch, &spec, tied));
        let settings = settings(source, &spec)?;
        let mut tensors = Vec::with_capacity(roles.len());
        for role in roles {
            let tensor = source.require(&role.name)?;
            let (from, dims) = (tensor.format, tensor.dims.to_vec());
            // Groups of columns that do not lie side by side are no blocks of GGUF.
            let columns = tensor.columns.map(<[u32]>::to_vec);
            let kept = if columns.is_some() { Format::F16 } else { from };
            let format = format(source, mix, &role.name, kept, &dims);
            let planned = Planned {
                change: change(&role.name, &spec, &settings),
                name: role.name,
                format,
                from,
                dims,
                columns,
            };
            check(&planned, options)?;
            tensors.push(planned);
        }
        let vocabulary = source.tokenizer_metadata()?;
        let mut notes = settings.notes;
        notes.extend(vocabulary.notes);
        let file_type = file_type(source, options.quant, &tensors);
        let mut metadata = head(source, options, file_type);
        metadata.extend(rest(&settings.metadata, &metadata));
        metadata.extend(vocabulary.entries);
        let threads = options.threads.max(1);
        Ok(Conversion { source, metadata, tensors, notes, threads })
    }

    /// The tensors, in the order of the file.
    pub fn tensors(&self) -> &[Planned] {
        &self.tensors
    }

    /// What another program, or GGUF, will not know of the model.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The file's metadata and its tensors, declared.
    fn declare(&self) -> Result<GgufWriter, ConvertError> {
        let mut writer = GgufWriter::new();
        for (key, value) in &self.metadata {
            writer.set(key, value.clone())?;
        }
        for tensor in &self.tensors {
            writer.tensor(&tensor.name, tensor.format, &tensor.dims)?;
        }
        Ok(writer)
    }
}

/// The settings of the file: those of a GGUF file stay as they are.
fn settings(source: &dyn Checkpoint, spec: &DecoderSpec) -> Result<Settings, ConvertError> {
    match source.layout() {
        Layout::HuggingFace => settings::write(source, spec),
        Layout::Gguf => Ok(Settings {
            metadata: source.metadata().clone(),
            query_factor: 1.0,
            spec: spec.clone(),
            notes: Vec::new(),
        }),
    }
}

/// The format of a tensor in the file.
fn format(
    source: &dyn Checkpoint,
    mix: Option<Mix>,
    name: &str,
    from: Format,
    dims: &[usize],
) -> Format {
    let quantized = match mix {
        Some(mix) => mix.format(name, dims),
        None => mix::is_quantized(name, dims).then_some(from),
    };
    // Converters store in single precision what is not quantised.
    let small = match source.layout() {
        Layout::HuggingFace => Format::F32,
        Layout::Gguf => from,
    };
    quantized.unwrap_or(small)
}

/// How the values of a tensor change.
fn change(name: &str, spec: &DecoderSpec, settings: &Settings) -> Change {
    let part = name.rsplit_once('.').map_or(name, |(module, _)| module);
    let part = part.rsplit_once('.').map_or(part, |(_, part)| part);
    let style = |spec: &DecoderSpec| spec.ropes.first().map(|rope| rope.style);
    let reordered = (style(spec), style(&settings.spec))
        == (Some(RopeStyle::Split), Some(RopeStyle::Interleaved));
    let rotated = spec.ropes.first().map_or(0, |rope| rope.rotary_dim);
    let pairs = (reordered && matches!(part, "attn_q" | "attn_k"))
        .then_some(Pairs { head: spec.layers[0].head_dim, rotated });
    // A norm of the queries comes after their projection.
    let queries = match spec.layers[0].qk_norm {
        QkNorm::None => "attn_q",
        _ => "attn_q_norm",
    };
    Change { pairs, factor: if part == queries { settings.query_factor } else { 1.0 } }
}

/// Refuses to quantise again without being asked, and formats that GGUF has not.
fn check(tensor: &Planned, options: &ConvertOptions) -> Result<(), ConvertError> {
    let Planned { name, format, from, columns, .. } = tensor;
    if *format == Format::Q4_Z {
        return Err(ConvertError::NotInGguf { name: name.clone(), format: *format });
    }
    // Columns in another order make other blocks.
    let kept = if columns.is_some() { *format == Format::F16 } else { format == from };
    if from.block_len() > 1 && !kept && !options.allow_requantize {
        return Err(ConvertError::Quantized { name: name.clone(), format: *from });
    }
    Ok(())
}

/// `general.file_type`: the mix, or what the file said, or what most weights are.
fn file_type(source: &dyn Checkpoint, quant: Option<Quant>, tensors: &[Planned]) -> u32 {
    if let Some(quant) = quant {
        return quant.file_type();
    }
    if let Ok(Some(stated)) = source.metadata().u32("general.file_type") {
        return stated;
    }
    let values = |format: Format| -> usize {
        tensors.iter().filter(|t| t.format == format).map(Planned::elements).sum()
    };
    let most = Quant::ALL.into_iter().max_by_key(|quant| values(quant.format()));
    most.map_or(0, Quant::file_type)
}

/// What the file begins with.
fn head(source: &dyn Checkpoint, options: &ConvertOptions, file_type: u32) -> Vec<(String, Value)> {
    let mut head = Vec::new();
    let mut set = |key: &str, value: Value| head.push((key.to_string(), value));
    if let Some(arch) = source.metadata().get("general.architecture") {
        set("general.architecture", arch.clone());
    }
    if source.layout() == Layout::HuggingFace {
        set("general.type", "model".into());
        if let Some(name) = &options.name {
            set("general.name", name.as_str().into());
        }
    }
    set("general.quantization_version", QUANTIZATION_VERSION.into());
    set("general.file_type", file_type.into());
    head
}

/// The other settings.
fn rest(settings: &Metadata, head: &[(String, Value)]) -> Vec<(String, Value)> {
    let is_new = |key: &str| !OF_THE_FILE.contains(&key) && head.iter().all(|(k, _)| k != key);
    let entries = settings.iter().filter(|(key, _)| is_new(key));
    entries.map(|(key, value)| (key.to_string(), value.clone())).collect()
}
