//! `ferrum tokenize`: the tokens of a text.

use std::io::{self, Read, Write};

use anyhow::{Context, Result};

use crate::args::TokenizeArgs;
use crate::config::Config;
use crate::session::open_model;
use crate::ui::text;

/// Prints the tokens, one a line with their texts, or only the ids as one list.
pub fn run(args: &TokenizeArgs, config: &Config) -> Result<()> {
    let tokenizer = open_model(&args.model, config)?.tokenizer()?;
    let input = match &args.file {
        Some(path) => {
            std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?
        }
        None => {
            let mut bytes = Vec::new();
            io::stdin().read_to_end(&mut bytes).context("cannot read standard input")?;
            bytes
        }
    };
    let input = String::from_utf8(input).context("the text is not valid UTF-8")?;
    let mut ids = match args.parse_special {
        true => tokenizer.encode_markup(&input),
        false => tokenizer.encode_text(&input),
    };
    if let Some(bos) = tokenizer.bos().filter(|_| tokenizer.add_bos() && !args.no_bos) {
        ids.insert(0, bos);
    }
    if let Some(eos) = tokenizer.eos().filter(|_| tokenizer.add_eos()) {
        ids.push(eos);
    }
    let mut out = io::BufWriter::new(io::stdout().lock());
    if args.ids {
        let list: Vec<String> = ids.iter().map(u32::to_string).collect();
        writeln!(out, "[{}]", list.join(", "))?;
    } else {
        for id in ids {
            let piece = tokenizer.token_text(id).unwrap_or_default();
            writeln!(out, "{id:>7}  '{}'", text::escaped(&piece, usize::MAX))?;
        }
    }
    Ok(out.flush()?)
}
