//! LoRA adapters (Hu et al. 2021, arXiv:2106.09685): what they add to the linears of a decoder.
//!
//! A linear `y = W·x` becomes `y = W·x + s · B·(A·x)`. The weights stay as they are, of whatever
//! format; `A` and `B` are kept beside them, and `s` is put into `B`. Two kinds of files are read: a
//! folder that PEFT wrote ([`peft`]), and a GGUF file as llama.cpp's converter makes it ([`gguf`]).
//!
//! Names are those of GGUF, as for the model itself. What a file has and this does not honour is
//! refused by name.

mod gguf;
mod peft;
mod place;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use ferrum_kernels::weight::dequantize_row;

use crate::arch;
use crate::checkpoint::{Checkpoint, Layout};
use crate::decoder::DecoderSpec;
use crate::gguf::Gguf;
use crate::hf::Shards;
use crate::load::ModelError;
pub(crate) use place::{Module, Site};

/// An adapter on disk, and how strongly it is applied.
#[derive(Debug, Clone, PartialEq)]
pub struct LoraSource {
    /// A folder with `adapter_config.json` and `adapter_model.safetensors`, or a GGUF file.
    pub path: PathBuf,
    /// Factor on what it adds.
    pub scale: f32,
}

/// Why an adapter cannot be applied to a model. Names from its files are printed quoted and escaped.
#[derive(Debug, thiserror::Error)]
#[error("adapter {}: {reason}", path.display())]
pub struct LoraError {
    path: PathBuf,
    reason: String,
}

/// Adapters that are applied together: the sum of what they add.
#[derive(Debug, Default)]
pub(crate) struct Adapter {
    files: Vec<File>,
}

/// What is added at one site: `b · (a · x)`.
pub(crate) struct LowRank {
    /// Values between the two.
    pub rank: usize,
    /// `[rank, cols]`
    pub a: Vec<f32>,
    /// `[rows, rank]`, all factors included.
    pub b: Vec<f32>,
}

/// One adapter, opened and held against the model.
#[derive(Debug)]
struct File {
    store: Store,
    parts: BTreeMap<Site, Part>,
}

/// Where the values lie.
#[derive(Debug)]
enum Store {
    Folder(Shards),
    Gguf(Gguf),
}

/// The two matrices of a module, as a file has them.
struct Pair {
    /// The module in GGUF's words, such as `blk.0.attn_q`.
    module: String,
    /// What the file calls it.
    name: String,
    /// Numbers of the tensors in the store.
    a: usize,
    b: usize,
    /// Rows and columns of each.
    a_shape: [usize; 2],
    b_shape: [usize; 2],
    /// Factor on the product: `alpha / rank`, or what stands for it.
    factor: f32,
}

/// What a file adds at a site.
#[derive(Debug)]
struct Part {
    a: usize,
    b: usize,
    rank: usize,
    /// Rows of `b`: some of them where a module stands for several sites.
    rows: Range<usize>,
    factor: f32,
    /// Of q and k, where the model's rows are in another order than the adapter's.
    order: Option<place::Order>,
}

/// A file before it is held against the model.
struct Opened {
    store: Store,
    pairs: Vec<Pair>,
    layout: Layout,
}

/// Whether an adapter is for this model: what [`crate::load()`] would say against it.
pub fn check(base: &dyn Checkpoint, source: &LoraSource) -> Result<(), ModelError> {
    let spec = arch::spec(base)?;
    Adapter::open(std::slice::from_ref(source), base, &spec).map(|_| ())
}

impl Adapter {
    /// Opens adapters for a model; the tensors are not read yet.
    pub fn open(
        sources: &[LoraSource],
        base: &dyn Checkpoint,
        spec: &DecoderSpec,
    ) -> Result<Self, ModelError> {
        let files = sources.iter().map(|source| {
            let located = |reason| LoraError { path: source.path.clone(), reason };
            File::open(source, base, spec).map_err(located)
        });
        Ok(Adapter { files: files.collect::<Result<_, LoraError>>()? })
    }

    /// Whether it adds nothing anywhere.
    pub fn is_empty(&self) -> bool {
        self.files.iter().all(|file| file.parts.is_empty())
    }

    /// The rank of what is added at a site; 0 for nothing.
    pub fn rank(&self, site: Site) -> usize {
        self.parts(site).map(|(_, part)| part.rank).sum()
    }

    /// Reads what is added at a site of `cols` input features, where there is anything.
    pub fn read(&self, site: Site, cols: usize) -> Result<Option<LowRank>, ModelError> {
        let rank = self.rank(site);
        let Some((_, first)) = self.parts(site).next() else { return Ok(None) };
        let rows = first.rows.len();
        let (mut a, mut b) = (Vec::with_capacity(rank * cols), vec![0.0; rows * rank]);
        let mut column = 0;
        for (store, part) in self.parts(site) {
            a.extend(store.values(part.a)?);
            let values = store.values(part.b)?;
            for (row, to) in b.chunks_exact_mut(rank).enumerate() {
                let row = part.order.as_ref().map_or(row, |order| order.source(row));
                let from = &values[(part.rows.start + row) * part.rank..][..part.rank];
                let to = to[column..].iter_mut();
                to.zip(from).for_each(|(to, from)| *to = from * part.factor);
            }
            column += part.rank;
        }
        Ok(Some(LowRank { rank, a, b }))
    }

    fn parts(&self, site: Site) -> impl Iterator<Item = (&Store, &Part)> {
        self.files.iter().filter_map(move |file| Some((&file.store, file.parts.get(&site)?)))
    }
}

impl File {
    fn open(
        source: &LoraSource,
        base: &dyn Checkpoint,
        spec: &DecoderSpec,
    ) -> Result<Self, String> {
        let LoraSource { path, scale } = source;
        if !scale.is_finite() {
            return Err(format!("a scale of {scale}"));
        }
        let name = base.metadata().need_str("general.architecture").map_err(|e| e.to_string())?;
        let Opened { store, pairs, layout } = match is_gguf(path) {
            true => gguf::open(path, name)?,
            false => peft::open(&folder_of(path), name)?,
        };
        let mut parts = BTreeMap::new();
        for pair in &pairs {
            let sites = place::sites(&pair.module, spec).ok_or_else(|| {
                format!("{:?} is no linear of this model that an adapter can change", pair.name)
            })?;
            let all_rows = sites.last().map_or(0, |(_, rows)| rows.end);
            for (site, rows) in sites {
                check_shapes(pair, (all_rows, site.shape(spec).1))?;
                let order = place::order(site, spec, name, (base.layout(), layout));
                let factor = pair.factor * scale;
                let (a, b, rank) = (pair.a, pair.b, pair.a_shape[0]);
                if parts.insert(site, Part { a, b, rank, rows, factor, order }).is_some() {
                    return Err(format!("{:?} is changed twice", pair.name));
                }
            }
        }
        if parts.is_empty() {
            return Err("it changes nothing".into());
        }
        Ok(File { store, parts })
    }
}

/// The shapes fit each other and the model, in which the module has so many rows and columns.
fn check_shapes(pair: &Pair, expected: (usize, usize)) -> Result<(), String> {
    let ([rank, cols], [rows, rank_of_b]) = (pair.a_shape, pair.b_shape);
    if (rows, cols) != expected {
        return Err(format!(
            "it is not for this model: {:?} has {rows} rows and {cols} columns there, and {} and {} \
             in the model",
            pair.name, expected.0, expected.1
        ));
    }
    match rank == rank_of_b && rank > 0 {
        true => Ok(()),
        false => Err(format!("{:?} is of rank {rank} and of rank {rank_of_b}", pair.name)),
    }
}

impl Store {
    /// The values of a tensor.
    fn values(&self, index: usize) -> Result<Vec<f32>, ModelError> {
        match self {
            Store::Folder(shards) => shards.floats(&shards.tensors[index]),
            Store::Gguf(file) => {
                let tensor = &file.tensors()[index];
                let mut values = vec![0.0; tensor.dims.iter().product()];
                dequantize_row(tensor.format, file.data(tensor), &mut values)?;
                Ok(values)
            }
        }
    }
}

fn is_gguf(path: &Path) -> bool {
    path.extension().is_some_and(|end| end.eq_ignore_ascii_case("gguf"))
}

/// The folder of an adapter that is named by its weights too.
fn folder_of(path: &Path) -> PathBuf {
    match path.file_name().is_some_and(|name| name == peft::WEIGHTS) && path.is_file() {
        true => path.parent().unwrap_or(Path::new("")).to_path_buf(),
        false => path.to_path_buf(),
    }
}
