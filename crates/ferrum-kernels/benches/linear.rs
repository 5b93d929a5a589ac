//! Speed of the CPU linears: GB/s of weights read for few tokens, GMAC/s for many, beside a plain
//! read of as much memory in the same run.
//!
//! `cargo bench -p ferrum-kernels --bench linear -- [--threads N] [--isa NAME] [--tokens N]
//! [FORMAT|RxC ...]`: without arguments, the shapes of two small models on two threads.

use ferrum_kernels::cpu::{Cpu, CpuConfig, CpuStream, CpuWeight, Isa};
use ferrum_kernels::host::HostBuffer;
use ferrum_kernels::params::{Linear, LinearOutput};
use ferrum_kernels::{Backend, Format, PackedWeight, WeightSource};
use std::hint::black_box;
use std::time::Instant;

/// Weights are cycled through so many bytes that no cache holds them.
const COLD_BYTES: usize = 96 << 20;

/// Runs of each measurement; the best counts, because others may use the machine too.
const RUNS: usize = 12;

/// Format and (rows, columns) of the weights that make up most of SmolLM2 135M and Gemma 3 270M.
const SHAPES: [(Format, usize, usize); 15] = [
    (Format::Q4_1, 576, 576),
    (Format::Q4_1, 1536, 576),
    (Format::Q4_1, 576, 1536),
    (Format::Q8_0, 49152, 576),
    (Format::Q5_0, 2048, 640),
    (Format::Q8_0, 640, 1024),
    (Format::Q4_K, 640, 2048),
    (Format::Q6_K, 640, 2048),
    (Format::Q8_0, 262_144, 640),
    (Format::Q4_0, 8192, 2048),
    (Format::Q4_K, 8192, 2048),
    (Format::Q6_K, 2048, 8192),
    (Format::F16, 2048, 640),
    (Format::BF16, 8192, 2048),
    (Format::F32, 2048, 2048),
];

fn main() {
    let mut args = std::env::args().skip(1).filter(|a| a != "--bench");
    let mut config = CpuConfig { threads: 2, ..CpuConfig::default() };
    let (mut wanted, mut many) = (Vec::new(), 256);
    while let Some(arg) = args.next() {
        let mut value = || args.next().unwrap_or_else(|| panic!("{arg} needs a value"));
        match arg.as_str() {
            "--threads" => config.threads = value().parse().expect("a number of threads"),
            "--isa" => config.isa = Some(value().parse::<Isa>().expect("an instruction set")),
            "--tokens" => many = value().parse().expect("a number of tokens"),
            _ => wanted.push(arg),
        }
    }
    let cpu = Cpu::new(config).expect("a processor");
    let mut stream = cpu.stream().expect("a stream");
    println!("{} threads, {}", cpu.threads(), cpu.isa());
    println!(
        "format  rows x cols      | GB/s at 1 token (of a plain read) | us a matrix at 1, 4, 8, 16 tokens | GMAC/s at {many}"
    );
    for (format, rows, cols) in SHAPES {
        let name = [format.to_string(), format!("{rows}x{cols}")];
        if wanted.is_empty() || wanted.iter().any(|w| name.contains(w)) {
            measure(&cpu, &mut stream, (format, rows, cols), many);
        }
    }
}

fn measure(
    cpu: &Cpu,
    s: &mut CpuStream,
    (format, rows, cols): (Format, usize, usize),
    many: usize,
) {
    let weights = copies(cpu, s, format, rows, cols);
    let bytes: usize = weights.iter().map(PackedWeight::resident_bytes).sum();
    let plain = vec![1_u64; bytes / 8];
    // A read and a product in turn, because the machine's bandwidth drifts.
    let (mut reads, mut products) = (Vec::new(), Vec::new());
    multiply(cpu, s, &weights, 1);
    for _ in 0..RUNS {
        reads.push(seconds(|| read(&plain, cpu.threads())));
        products.push(seconds(|| multiply(cpu, s, &weights, 1)));
    }
    let (read, one) = (best(reads), best(products));
    let gb = bytes as f64 / 1e9;
    print!(
        "{format:6} {rows:7}x{cols:4}  {:6.1} ({:3.0} % of {:4.1})",
        gb / one,
        100.0 * read / one,
        gb / read
    );
    print!("   {:8.1}", one / weights.len() as f64 * 1e6);
    for tokens in [4, 8, 16] {
        let time =
            best((0..RUNS).map(|_| seconds(|| multiply(cpu, s, &weights, tokens))).collect());
        print!(" {:8.1}", time / weights.len() as f64 * 1e6);
    }
    let few = &weights[..weights.len().min(1 + 20_000_000 / (rows * cols))];
    multiply(cpu, s, few, many);
    let time = best((0..RUNS).map(|_| seconds(|| multiply(cpu, s, few, many))).collect());
    println!("   {:6.1}", (few.len() * rows * cols * many) as f64 / time / 1e9);
}

/// Copies of a weight, enough to be cold.
fn copies(
    cpu: &Cpu,
    s: &mut CpuStream,
    format: Format,
    rows: usize,
    cols: usize,
) -> Vec<CpuWeight> {
    let bytes = format.row_bytes(cols).expect("whole blocks") * rows;
    // Any bytes will do, but not such that are not numbers.
    let data: Vec<u8> = (0..bytes).map(|i| (i * 7 % 59) as u8).collect();
    let source = WeightSource::new(format, rows, cols, &data).expect("a source");
    (0..COLD_BYTES.div_ceil(bytes)).map(|_| cpu.pack(s, &source).expect("a weight")).collect()
}

fn multiply(cpu: &Cpu, s: &mut CpuStream, weights: &[CpuWeight], tokens: usize) {
    let input: Vec<f32> = (0..tokens * weights[0].cols()).map(|i| (i % 17) as f32 - 8.0).collect();
    let input = HostBuffer::F32(input);
    let mut dst = HostBuffer::F32(vec![0.0; tokens * weights[0].rows()]);
    for weight in weights {
        let outputs = &mut [LinearOutput { weight, bias: None, dst: &mut dst, accumulate: false }];
        cpu.linear(s, Linear { input: &input, rows: tokens, outputs }).expect("a product");
    }
}

/// Adds up all of it, each thread a part.
fn read(data: &[u64], threads: usize) {
    std::thread::scope(|scope| {
        for part in data.chunks(data.len().div_ceil(threads)) {
            scope.spawn(move || {
                black_box(part.iter().fold(0_u64, |sum, v| sum.wrapping_add(*v)));
            });
        }
    });
}

fn seconds(f: impl FnOnce()) -> f64 {
    let start = Instant::now();
    f();
    start.elapsed().as_secs_f64()
}

fn best(v: Vec<f64>) -> f64 {
    v.into_iter().fold(f64::INFINITY, f64::min)
}
