//! The command line of `bench-peers`, and the cells of its table.

use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};

use super::peer::Peer;

pub(crate) const USAGE: &str = "\
       cargo xtask bench-peers [--models A.gguf,llama-1b:q4_k_m] [--threads 2,1] [--rounds 3]
                               [--cells prefill,decode,deep,batch] [--peers llama.cpp,openvino]
                               [--cpu-isa NAME] [--python PATH] [--ferrum PATH]
                                       measures Ferrum beside other engines";

/// What is measured where nothing is said: the models that `ferrum pull` gets.
const MODELS: &str = "smollm2,gemma3";

/// A kind of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cell {
    /// A prompt of 512 tokens.
    Prefill,
    /// 64 tokens from an empty context.
    Decode,
    /// 32 tokens behind 4096 others.
    Deep,
    /// 32 tokens of each of 16 sequences.
    Batch,
}

impl Cell {
    const ALL: [Cell; 4] = [Cell::Prefill, Cell::Decode, Cell::Deep, Cell::Batch];

    /// On the command line.
    fn name(self) -> &'static str {
        match self {
            Cell::Prefill => "prefill",
            Cell::Decode => "decode",
            Cell::Deep => "deep",
            Cell::Batch => "batch",
        }
    }

    /// In the table.
    pub(super) fn title(self) -> String {
        match self {
            Cell::Prefill => format!("prefill {}", self.tokens()),
            Cell::Decode => "decode, depth 0".into(),
            Cell::Deep => format!("decode, depth {}", self.depth()),
            Cell::Batch => format!("decode, {} sequences", self.batch()),
        }
    }

    /// Tokens measured, of each sequence.
    pub(super) fn tokens(self) -> usize {
        match self {
            Cell::Prefill => 512,
            Cell::Decode => 64,
            Cell::Deep | Cell::Batch => 32,
        }
    }

    /// Positions before them.
    pub(super) fn depth(self) -> usize {
        if self == Cell::Deep { 4096 } else { 0 }
    }

    /// Sequences.
    pub(super) fn batch(self) -> usize {
        if self == Cell::Batch { 16 } else { 1 }
    }

    /// Measurements of a process, of which the median counts.
    pub(super) fn repetitions(self) -> usize {
        if self == Cell::Deep { 1 } else { 3 }
    }
}

/// What to measure and with what.
#[derive(Debug)]
pub(super) struct Options {
    /// Paths, names that `ferrum pull` knows, or `PRESET:TYPE`.
    pub(super) models: Vec<String>,
    pub(super) cells: Vec<Cell>,
    pub(super) threads: Vec<usize>,
    pub(super) rounds: usize,
    pub(super) peers: Vec<Peer>,
    /// Ferrum's instruction set; `None`: the best. Llama.cpp's is the one that it was built for.
    pub(super) cpu_isa: Option<String>,
    /// An interpreter that has the peers' packages; `None`: one of our own.
    pub(super) python: Option<PathBuf>,
    /// A built binary; `None`: it is built.
    pub(super) ferrum: Option<PathBuf>,
}

impl Options {
    pub(super) fn parse(args: &[&str]) -> Result<Self> {
        let list = |text: &str| text.split(',').map(str::to_string).collect::<Vec<_>>();
        let mut options = Options {
            models: list(MODELS),
            cells: Cell::ALL.to_vec(),
            threads: vec![2, 1],
            rounds: 3,
            peers: vec![Peer::Llama],
            cpu_isa: None,
            python: None,
            ferrum: None,
        };
        let mut args = args.iter();
        while let Some(flag) = args.next() {
            let value = *args.next().with_context(|| format!("{flag} needs a value"))?;
            match *flag {
                "--models" => options.models = list(value),
                "--cells" => options.cells = list(value).iter().map(cell).collect::<Result<_>>()?,
                "--threads" => {
                    options.threads = list(value).iter().map(number).collect::<Result<_>>()?
                }
                "--rounds" => options.rounds = number(&value.to_string())?,
                "--peers" => options.peers = list(value).iter().map(peer).collect::<Result<_>>()?,
                "--cpu-isa" => options.cpu_isa = Some(value.to_string()),
                "--python" => options.python = Some(value.into()),
                "--ferrum" => options.ferrum = Some(value.into()),
                _ => bail!("unknown flag {flag}\nusage:\n{USAGE}"),
            }
        }
        Ok(options)
    }
}

fn cell(name: &String) -> Result<Cell> {
    let known = Cell::ALL.into_iter().find(|cell| cell.name() == name);
    known.with_context(|| {
        format!("no cell {name:?}; there are {}", Cell::ALL.map(Cell::name).join(", "))
    })
}

fn peer(name: &String) -> Result<Peer> {
    let known = Peer::ALL.into_iter().find(|peer| peer.name() == name);
    known.with_context(|| {
        format!("no peer {name:?}; there are {}", Peer::ALL.map(Peer::name).join(", "))
    })
}

fn number(text: &String) -> Result<usize> {
    let n = text.parse().with_context(|| format!("{text:?} is not a number"))?;
    ensure!((1..=1024).contains(&n), "{n} is not between 1 and 1024");
    Ok(n)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_read() {
        let options =
            Options::parse(&["--cells", "deep,batch", "--threads", "1", "--rounds", "5"]).unwrap();
        assert_eq!(options.cells, [Cell::Deep, Cell::Batch]);
        assert_eq!((options.threads, options.rounds), (vec![1], 5));
        assert_eq!(options.models, ["smollm2", "gemma3"]);
        assert_eq!(options.peers, [Peer::Llama]);
        for wrong in
            [&["--cells", "fast"][..], &["--threads", "0"], &["--rounds"], &["--peers", "vllm"]]
        {
            assert!(Options::parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
