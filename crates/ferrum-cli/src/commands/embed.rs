//! `ferrum embed`: lines of text to vectors.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Seek, SeekFrom, Write};
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use ferrum_hub::{Hub, ModelRef};
use ferrum_models::LoadOptions;
use ferrum_models::encoder::{Embedder, TextEncoder, makes_embeddings};

use crate::args::EmbedArgs;
use crate::config::Config;
use crate::ui::progress;

/// Bytes of the header of a `.npy` file, enough for any shape: it is written anew at the end.
const NPY_HEADER: usize = 128;

/// Reads, embeds and writes, a batch after the other.
pub fn run(args: &EmbedArgs, config: &Config) -> Result<()> {
    let reference = ModelRef::parse(&args.model)?;
    let path = Hub::new(config.hub.clone()).fetch(&reference, &mut *progress::new(config))?;
    if !makes_embeddings(&path)? {
        bail!(
            "{reference} makes no embeddings: it is neither a folder with a model of the bert or \
             RoBERTa family, nor one whose modules.json or pooling_type says how its states are pooled"
        );
    }
    let options = LoadOptions {
        context: args.context.map(|n| n as usize),
        ..args.load.options(&config.cuda)
    };
    let texts = TextEncoder::open(&path, options.context)
        .with_context(|| format!("cannot use {}", path.display()))?;
    if texts.scores_pairs() {
        bail!(
            "{reference} scores pairs of texts and makes no embeddings; see /v1/rerank of `ferrum serve`"
        );
    }
    let mut model = Embedder::load(&path, &options)
        .with_context(|| format!("cannot load {}", path.display()))?;
    if let Some(pooling) = args.pooling {
        model.set_pooling(pooling);
    }
    let dimensions = args.dimensions.map(|n| n as usize);
    let width = dimensions.unwrap_or(model.dimensions());
    if width > model.dimensions() {
        bail!("--dimensions {width}: the vectors of {reference} have {}", model.dimensions());
    }
    let mut out = Output::create(args.output.as_deref(), width)?;
    let mut batch = Vec::new();
    for_each_line(args, &mut |place, line| {
        let ids = texts.encode(line, args.truncate).map_err(|error| match args.truncate {
            true => anyhow!("{place}: {error}"),
            false => anyhow!("{place}: {error}; --truncate cuts it"),
        })?;
        batch.push(ids);
        if batch.len() == args.batch as usize {
            out.write(&model.embed(&batch, dimensions)?)?;
            batch.clear();
        }
        Ok(())
    })?;
    out.write(&model.embed(&batch, dimensions)?)?;
    out.finish()
}

/// Calls `f` with each line of the input and where it is.
fn for_each_line(args: &EmbedArgs, f: &mut dyn FnMut(&str, &str) -> Result<()>) -> Result<()> {
    if args.files.is_empty() {
        return lines("standard input", &mut io::stdin().lock(), f);
    }
    for path in &args.files {
        let name = path.display().to_string();
        let file = File::open(path).with_context(|| format!("cannot read {name}"))?;
        lines(&name, &mut BufReader::new(file), f)?;
    }
    Ok(())
}

fn lines(
    name: &str,
    input: &mut dyn BufRead,
    f: &mut dyn FnMut(&str, &str) -> Result<()>,
) -> Result<()> {
    for (i, line) in input.lines().enumerate() {
        let place = format!("{name}, line {}", i + 1);
        f(&place, &line.with_context(|| format!("cannot read {place}"))?)?;
    }
    Ok(())
}

/// Where vectors go.
enum Output {
    Json(Box<dyn Write>),
    Npy { file: BufWriter<File>, width: usize, rows: usize },
}

impl Output {
    fn create(path: Option<&Path>, width: usize) -> Result<Self> {
        let Some(path) = path else {
            return Ok(Output::Json(Box::new(BufWriter::new(io::stdout().lock()))));
        };
        let file =
            File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
        let mut file = BufWriter::new(file);
        if path.extension().is_none_or(|end| end != "npy") {
            return Ok(Output::Json(Box::new(file)));
        }
        file.write_all(&npy_header(0, width))?;
        Ok(Output::Npy { file, width, rows: 0 })
    }

    fn write(&mut self, vectors: &[Vec<f32>]) -> Result<()> {
        match self {
            Output::Json(out) => {
                for vector in vectors {
                    serde_json::to_writer(&mut *out, vector)?;
                    out.write_all(b"\n")?;
                }
            }
            Output::Npy { file, rows, .. } => {
                for value in vectors.iter().flatten() {
                    file.write_all(&value.to_le_bytes())?;
                }
                *rows += vectors.len();
            }
        }
        Ok(())
    }

    /// Writes what is left, and how many there were.
    fn finish(self) -> Result<()> {
        match self {
            Output::Json(mut out) => out.flush()?,
            Output::Npy { mut file, width, rows } => {
                file.seek(SeekFrom::Start(0))?;
                file.write_all(&npy_header(rows, width))?;
                file.flush()?;
            }
        }
        Ok(())
    }
}

/// The header of a `.npy` file, version 1.0 (<https://numpy.org/neps/nep-0001-npy-format.html>).
fn npy_header(rows: usize, width: usize) -> Vec<u8> {
    let mut header = b"\x93NUMPY\x01\x00".to_vec();
    header.extend(((NPY_HEADER - 10) as u16).to_le_bytes());
    let fields =
        format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {width}), }}");
    header.extend(fields.bytes());
    header.resize(NPY_HEADER - 1, b' ');
    header.push(b'\n');
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_have_one_length() {
        for (rows, width) in [(0, 384), (usize::MAX, usize::MAX)] {
            let header = npy_header(rows, width);
            assert_eq!((header.len(), header[8], header[127]), (128, 118, b'\n'));
            let text = String::from_utf8_lossy(&header);
            assert!(text.contains(&format!("'shape': ({rows}, {width}), }}")), "{text}");
        }
    }
}
