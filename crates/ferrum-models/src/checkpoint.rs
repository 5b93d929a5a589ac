//! The one seam between files and models: settings and tensors, whatever the files call them.
//!
//! The names are those of GGUF, the ones for which the decoder's tensors and the metadata keys of
//! every architecture are known. A GGUF file has them; [`crate::hf::Folder`] gives them to a folder
//! from Hugging Face. Nothing behind this seam knows which of the two a model came from, but for
//! what [`Checkpoint::layout`] says.

use std::borrow::Cow;
use std::fs;
use std::ops::Range;
use std::path::Path;

use ferrum_kernels::Format;

use crate::gguf::{self, Gguf, GgufError, Metadata};
use crate::hf::Folder;
use crate::load::ModelError;
use crate::tokenizer::{GgufVocabulary, Tokenizer, TokenizerError};

/// A model on disk, opened and checked as far as that can be done without knowing its architecture.
pub trait Checkpoint: Send + Sync {
    /// Settings, under the keys of GGUF.
    fn metadata(&self) -> &Metadata;

    /// Whose conventions the tensors follow where the two differ.
    fn layout(&self) -> Layout;

    /// Names of all tensors.
    fn names(&self) -> Vec<&str>;

    /// The tensor called `name`.
    fn find(&self, name: &str) -> Option<Tensor<'_>>;

    /// The bytes of tensor `name`: rows of [`Tensor::cols`] values in its format, one after the
    /// other. They are made here where the files keep them in another order.
    fn read(&self, name: &str) -> Result<Cow<'_, [u8]>, ModelError>;

    /// The bytes of some rows of tensor `name`, as [`Checkpoint::read`] gives all. Those that have to be
    /// made are made in `memory`, whatever it holds, by one of `readers` shares of the cores: as many
    /// threads may call this at once.
    fn read_rows<'a>(
        &'a self,
        name: &str,
        rows: Range<usize>,
        readers: usize,
        memory: &'a mut Vec<u8>,
    ) -> Result<&'a [u8], ModelError>;

    /// Whether the files keep tensor `name` as floats of eight bits with a number for each row or for all,
    /// and [`Checkpoint::find`] and [`Checkpoint::read`] tell of what they are rounded to.
    fn is_kept(&self, _name: &str) -> bool {
        false
    }

    /// Tensor `name` as the files keep it, where [`Checkpoint::is_kept`] says so.
    fn kept(&self, _name: &str) -> Option<Kept<'_>> {
        None
    }

    /// Gives back the memory that holds what [`Checkpoint::kept`] gave, as [`Checkpoint::give_back`] does.
    fn give_back_kept(&self, _name: &str) {}

    /// Gives back the memory that holds a range of what [`Checkpoint::read`] gave; call it once
    /// these bytes are packed. They stay valid and are read from the file again.
    fn give_back(&self, name: &str, range: Range<usize>);

    /// Bytes of all files that hold tensors.
    fn file_bytes(&self) -> u64;

    /// Memory of the metadata while it is read, and of the tokenizer made from the files.
    fn vocabulary_bytes(&self) -> usize;

    /// The model's tokenizer.
    fn tokenizer(&self) -> Result<Tokenizer, TokenizerError>;

    /// The tokenizer as metadata of a GGUF file, unless [`Checkpoint::metadata`] has it.
    fn tokenizer_metadata(&self) -> Result<GgufVocabulary, TokenizerError> {
        Ok(GgufVocabulary::default())
    }

    /// What `name` is called in the files, for messages.
    fn name_in_file(&self, name: &str) -> String {
        name.to_string()
    }

    /// The tensor called `name`, which must be there.
    fn require(&self, name: &str) -> Result<Tensor<'_>, ModelError> {
        let missing = || GgufError::MissingTensor { name: self.name_in_file(name) };
        Ok(self.find(name).ok_or_else(missing)?)
    }
}

/// A tensor in [`Format::F8_E4M3`].
#[derive(Debug, Clone, PartialEq)]
pub struct Kept<'a> {
    /// The bytes of its matrices: of the experts, or one.
    pub matrices: Vec<&'a [u8]>,
    /// What each row of all of them is multiplied with.
    pub scales: Vec<f32>,
}

/// Whose conventions tensors follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// Those of llama.cpp's converter, which reorders the rows of q and k of some architectures.
    Gguf,
    /// Those of the transformers package.
    HuggingFace,
}

/// Format and shape of a tensor, and the order of its columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tensor<'a> {
    /// How the values are stored.
    pub format: Format,
    /// 1 to 4 dimensions, innermost first, none zero.
    pub dims: &'a [usize],
    /// Which value of an input each column is for, where the columns of its rows are stored in another
    /// order: [`ferrum_kernels::WeightSource::columns`]. Whoever reads values by their places brings them
    /// back with [`Tensor::in_order`].
    pub columns: Option<&'a [u32]>,
}

impl Tensor<'_> {
    /// Values of a row: the innermost dimension.
    pub fn cols(&self) -> usize {
        self.dims[0]
    }

    /// Number of rows: the product of all dimensions but the innermost.
    pub fn rows(&self) -> usize {
        self.dims[1..].iter().product()
    }

    /// Brings the values of whole rows from the order of [`Tensor::columns`] into their own.
    pub fn in_order(&self, values: &mut [f32]) {
        if let Some(columns) = self.columns {
            values.chunks_exact_mut(columns.len()).for_each(|row| in_order(row, columns));
        }
    }

    /// Number of values.
    pub fn elements(&self) -> usize {
        self.dims.iter().product()
    }
}

/// The bytes of some of `count` rows.
pub(crate) fn rows_of(bytes: &[u8], count: usize, rows: Range<usize>) -> &[u8] {
    let row = bytes.len() / count.max(1);
    bytes.get(rows.start * row..rows.end * row).unwrap_or_default()
}

/// Value `j` of a row goes to place `columns[j]`, one of its own.
pub(crate) fn in_order(row: &mut [f32], columns: &[u32]) {
    let stored = row.to_vec();
    columns.iter().zip(stored).for_each(|(&at, value)| row[at as usize] = value);
}

/// Opens the model at `path`: a GGUF file (any part of a split one), or a folder with `config.json`,
/// `tokenizer.json` and safetensors files.
pub fn open(path: &Path) -> Result<Box<dyn Checkpoint>, ModelError> {
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => Ok(Box::new(Folder::open(path)?)),
        _ => Ok(Box::new(Gguf::open(path)?)),
    }
}

impl Checkpoint for Gguf {
    fn metadata(&self) -> &Metadata {
        Gguf::metadata(self)
    }

    fn layout(&self) -> Layout {
        Layout::Gguf
    }

    fn names(&self) -> Vec<&str> {
        self.tensors().iter().map(|t| t.name.as_str()).collect()
    }

    fn find(&self, name: &str) -> Option<Tensor<'_>> {
        let tensor = self.tensor(name)?;
        Some(Tensor { format: tensor.format, dims: &tensor.dims, columns: None })
    }

    fn read(&self, name: &str) -> Result<Cow<'_, [u8]>, ModelError> {
        Ok(Cow::Borrowed(self.data(Gguf::require(self, name)?)))
    }

    fn read_rows<'a>(
        &'a self,
        name: &str,
        rows: Range<usize>,
        _readers: usize,
        _memory: &'a mut Vec<u8>,
    ) -> Result<&'a [u8], ModelError> {
        let tensor = Gguf::require(self, name)?;
        let bytes = self.data(tensor);
        Ok(rows_of(bytes, Checkpoint::require(self, name)?.rows(), rows))
    }

    fn give_back(&self, name: &str, range: Range<usize>) {
        if let Some(tensor) = self.tensor(name) {
            self.release(tensor, range);
        }
    }

    fn file_bytes(&self) -> u64 {
        Gguf::file_bytes(self)
    }

    fn vocabulary_bytes(&self) -> usize {
        gguf::vocabulary_bytes(Gguf::metadata(self))
    }

    fn tokenizer(&self) -> Result<Tokenizer, TokenizerError> {
        Tokenizer::from_metadata(Gguf::metadata(self))
    }
}
