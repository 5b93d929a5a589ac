//! Speed of attention on the CPU: GB/s of keys and values read by a decode step at some depth,
//! beside a plain read of as much memory in the same run, and GFLOP/s of a prefill.
//!
//! `cargo bench -p ferrum-kernels --bench attention -- [--threads N] [--isa NAME]
//! [--kv q8_0] [SHAPE …]`

use ferrum_kernels::cpu::{Cpu, CpuConfig, CpuKvCache, CpuStream, Isa};
use ferrum_kernels::host::HostBuffer;
use ferrum_kernels::params::{Attention, KvSpec, KvValues};
use ferrum_kernels::{Backend, DType, KV_BLOCK_SIZE, KvDType, StepBatch, StepCapacity, StepInput};
use std::hint::black_box;
use std::time::Instant;

/// The attention of a model.
struct Shape {
    name: &'static str,
    layers: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    window: Option<usize>,
}

const SHAPES: [Shape; 5] = [
    Shape { name: "smollm2-135m", layers: 30, heads: 9, kv_heads: 3, head_dim: 64, window: None },
    Shape {
        name: "gemma3-270m-local",
        layers: 15,
        heads: 4,
        kv_heads: 1,
        head_dim: 256,
        window: Some(512),
    },
    Shape {
        name: "gemma3-270m-global",
        layers: 15,
        heads: 4,
        kv_heads: 1,
        head_dim: 256,
        window: None,
    },
    Shape { name: "llama-1b", layers: 8, heads: 32, kv_heads: 8, head_dim: 64, window: None },
    Shape { name: "llama-8b", layers: 4, heads: 32, kv_heads: 8, head_dim: 128, window: None },
];

/// Positions of the decode step.
const DEPTH: usize = 4096;

/// Runs of each measurement; the best counts, because others may use the machine too.
const RUNS: usize = 10;

/// Where the runs take long, there are fewer.
const MAX_SECONDS: f64 = 0.5;

fn main() {
    let mut args = std::env::args().skip(1).filter(|a| a != "--bench");
    let mut config = CpuConfig { threads: 2, ..CpuConfig::default() };
    let (mut wanted, mut kv) = (Vec::new(), KvDType::F16);
    while let Some(arg) = args.next() {
        let mut value = || args.next().unwrap_or_else(|| panic!("{arg} needs a value"));
        match arg.as_str() {
            "--threads" => config.threads = value().parse().expect("a number of threads"),
            "--kv" => {
                kv = match value().as_str() {
                    "f16" => KvDType::F16,
                    "bf16" => KvDType::BF16,
                    "f32" => KvDType::F32,
                    "fp8_e4m3" => KvDType::Fp8E4M3,
                    "q8_0" => KvDType::Q8_0,
                    other => panic!("{other} is no type of a cache"),
                }
            }
            "--isa" => config.isa = Some(value().parse::<Isa>().expect("an instruction set")),
            _ => wanted.push(arg),
        }
    }
    let cpu = Cpu::new(config).expect("a processor");
    println!("{} threads, {}", cpu.threads(), cpu.isa());
    for shape in SHAPES {
        if !wanted.is_empty() && !wanted.iter().any(|w| shape.name.contains(w.as_str())) {
            continue;
        }
        let mut model = Model::new(&cpu, shape, kv);
        model.decode();
        for len in [512, 2048] {
            model.prefill(len);
        }
    }
}

/// One sequence and its caches.
struct Model<'a> {
    cpu: &'a Cpu,
    shape: Shape,
    kv: KvDType,
    stream: CpuStream,
    caches: Vec<CpuKvCache>,
    batch: StepBatch<HostBuffer>,
    q: HostBuffer,
    dst: HostBuffer,
}

impl<'a> Model<'a> {
    fn new(cpu: &'a Cpu, shape: Shape, dtype: KvDType) -> Self {
        let mut stream = cpu.stream().expect("a stream");
        let blocks = DEPTH / KV_BLOCK_SIZE;
        let &Shape { kv_heads, head_dim, .. } = &shape;
        let spec = KvSpec { blocks, kv_heads, head_dim, values: KvValues::Own, dtype };
        let width = shape.kv_heads * shape.head_dim;
        let cap = StepCapacity { tokens: DEPTH, seqs: 1, blocks_per_seq: blocks, samples: 1 };
        let mut batch = StepBatch::new(cpu, &cap).expect("a batch");
        let mut filled = |len: usize| {
            let values: Vec<f32> = (0..len).map(|i| (i as f32 * 0.37).sin()).collect();
            let mut buffer = cpu.alloc(DType::F32, len).expect("memory");
            cpu.upload_f32(&mut stream, &values, &mut buffer).expect("an upload");
            buffer
        };
        let (k, v) = (filled(DEPTH * width), filled(DEPTH * width));
        let q = filled(DEPTH * shape.heads * shape.head_dim);
        let dst = filled(DEPTH * shape.heads * shape.head_dim);
        batch.upload(cpu, &mut stream, &step(0, DEPTH)).expect("a step");
        let caches = (0..shape.layers).map(|_| {
            let mut kv = cpu.kv_cache(&spec).expect("a cache");
            let write = ferrum_kernels::params::KvWrite { k: &k, v: Some(&v), batch: &batch };
            cpu.kv_write(&mut stream, &mut kv, &write).expect("a write");
            kv
        });
        let caches = caches.collect();
        Model { cpu, shape, kv: dtype, stream, caches, batch, q, dst }
    }

    /// Seconds of the fastest layer, in some runs through all: the others see to it that what one
    /// reads is no longer in a cache.
    fn seconds(&mut self, first: usize, end: usize) -> f64 {
        let step = step(first, end);
        self.batch.upload(self.cpu, &mut self.stream, &step).expect("a step");
        let mut best = f64::INFINITY;
        let begin = Instant::now();
        for _ in 0..RUNS {
            for kv in &self.caches {
                if best.is_finite() && begin.elapsed().as_secs_f64() > MAX_SECONDS {
                    return best;
                }
                let p = Attention {
                    q: &self.q,
                    kv,
                    batch: &self.batch,
                    heads: self.shape.heads,
                    scale: 0.1,
                    window: self.shape.window,
                    softcap: None,
                    sinks: None,
                };
                let start = Instant::now();
                self.cpu.attention(&mut self.stream, &mut self.dst, &p).expect("attention");
                best = best.min(start.elapsed().as_secs_f64());
            }
        }
        best
    }

    fn decode(&mut self) {
        let positions = self.shape.window.unwrap_or(DEPTH);
        let values = positions * self.shape.kv_heads * self.shape.head_dim;
        let bytes = 2 * self.kv.bytes(values);
        let seconds = self.seconds(DEPTH - 1, DEPTH);
        println!(
            "{:20} decode at {DEPTH}: {:6.1} GB/s (a plain read: {:5.1}), {:6.1} us a layer",
            self.shape.name,
            bytes as f64 / seconds / 1e9,
            plain_read(self.cpu.threads()) / 1e9,
            seconds * 1e6
        );
    }

    fn prefill(&mut self, len: usize) {
        let seen = |position: usize| (position + 1).min(self.shape.window.unwrap_or(usize::MAX));
        let pairs: usize = (0..len).map(seen).sum();
        // A multiplication and an addition for each value of a key, and of a value.
        let flops = 4 * pairs * self.shape.heads * self.shape.head_dim;
        let seconds = self.seconds(0, len);
        println!(
            "{:20} prefill {len:5}: {:6.1} GFLOP/s, {:7.1} us a layer",
            self.shape.name,
            flops as f64 / seconds / 1e9,
            seconds * 1e6
        );
    }
}

/// Tokens `first..end` of one sequence, whose blocks are in reverse order.
fn step(first: usize, end: usize) -> StepInput {
    let blocks = DEPTH / KV_BLOCK_SIZE;
    StepInput {
        tokens: vec![0; end - first],
        positions: (first..end).map(|p| p as i32).collect(),
        query_starts: vec![0, (end - first) as i32],
        kv_lens: vec![end as i32],
        block_tables: (0..blocks).rev().map(|b| b as i32).collect(),
        blocks_per_seq: blocks,
        sample_rows: vec![],
        adapters: Vec::new(),
    }
}

/// Bytes a second of the fastest plain read of more memory than a cache holds.
fn plain_read(threads: usize) -> f64 {
    let memory = vec![1_u64; 12 << 20];
    let mut best = f64::INFINITY;
    for _ in 0..RUNS {
        let start = Instant::now();
        std::thread::scope(|scope| {
            for part in memory.chunks(memory.len().div_ceil(threads)) {
                scope.spawn(move || black_box(part.iter().fold(0, |a, b| a ^ b)));
            }
        });
        best = best.min(start.elapsed().as_secs_f64());
    }
    size_of_val(&memory[..]) as f64 / best
}
