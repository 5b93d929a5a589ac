//! Time of a sum over all NVIDIA cards of this machine, for as many values as steps of a model with a
//! width of 4096 add up.
//!
//! `cargo bench -p ferrum-kernels --bench collectives [-- --emulated]`: with emulated cards the times
//! mean nothing.

use std::time::Duration;

use ferrum_kernels::cuda::{Cuda, CudaConfig, devices};
use ferrum_kernels::{Backend, DType, Result};

const WIDTH: usize = 4096;
/// Tokens of a step.
const TOKENS: [usize; 6] = [1, 4, 16, 64, 512, 2048];
/// Sums before and while time is taken.
const RUNS: usize = 20;

fn main() -> Result<()> {
    if std::env::args().any(|arg| arg == "--emulated") {
        ferrum_cuda_emulator::load().expect("emulated cards");
    }
    let open = |ordinal| Cuda::new(&CudaConfig { ordinal, ..CudaConfig::default() });
    let cards: Vec<Cuda> = (0..devices()?.len()).map(open).collect::<Result<_>>()?;
    if cards.len() < 2 {
        println!("one card: nothing to add up");
        return Ok(());
    }
    let communicators = Cuda::communicators(&cards.iter().collect::<Vec<_>>())?;
    println!("{} cards of {}\n", cards.len(), cards[0].properties());
    println!("| tokens | KiB | us a sum | GB/s of each card's links |");
    println!("|---|---|---|---|");
    let times = std::thread::scope(|scope| {
        let pairs = cards.iter().zip(communicators);
        let threads: Vec<_> = pairs.map(|(card, c)| scope.spawn(move || times(card, c))).collect();
        let mut all = threads.into_iter().map(|thread| thread.join().expect("no panic"));
        // All take part; one clock is enough.
        let first = all.next().expect("two cards");
        all.try_for_each(|other| other.map(|_| ())).and(first)
    })?;
    for (tokens, time) in TOKENS.into_iter().zip(times) {
        let (bytes, ranks) = ((tokens * WIDTH * size_of::<f32>()) as f64, cards.len() as f64);
        // A sum must bring each card the others' parts and take its own to them (Patarasuk & Yuan
        // 2009, bandwidth optimal all-reduce algorithms).
        let moved = 2.0 * (ranks - 1.0) / ranks * bytes;
        let seconds = time.as_secs_f64() / RUNS as f64;
        let (micros, speed) = (1e6 * seconds, moved / seconds / 1e9);
        println!("| {tokens} | {:.0} | {micros:.1} | {speed:.1} |", bytes / 1024.0);
    }
    Ok(())
}

/// Time of [`RUNS`] sums for each of [`TOKENS`], on this card's clock.
fn times(card: &Cuda, mut c: <Cuda as Backend>::Communicator) -> Result<Vec<Duration>> {
    let mut stream = card.stream()?;
    let mut x = card.alloc(DType::F32, TOKENS[TOKENS.len() - 1] * WIDTH)?;
    let mut run = |len: usize| -> Result<Duration> {
        let begun = card.mark(&mut stream)?;
        (0..RUNS).try_for_each(|_| card.all_reduce(&mut stream, &mut c, &mut x, len))?;
        let ended = card.mark(&mut stream)?;
        card.elapsed(&begun, &ended)
    };
    TOKENS
        .map(|tokens| {
            run(tokens * WIDTH)?;
            run(tokens * WIDTH)
        })
        .into_iter()
        .collect()
}
