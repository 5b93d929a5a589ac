//! What is counted, on the reference backend; that results pass through is the generic suite's.

use super::*;
use crate::params::KvValues;
use crate::reference::Reference;
use crate::{KV_BLOCK_SIZE, KvDType, KvStorage, StepBatch, StepCapacity};

const WIDTH: usize = 8;

/// Two sequences: 3 tokens behind 2 others, and 1 token behind 39.
fn step() -> StepInput {
    StepInput {
        tokens: vec![0; 4],
        positions: vec![2, 3, 4, 39],
        query_starts: vec![0, 3, 4],
        kv_lens: vec![5, 40],
        block_tables: vec![0, 0, 1, 2],
        blocks_per_seq: 2,
        sample_rows: vec![2, 3],
        ..StepInput::default()
    }
}

struct Fixture {
    backend: Profiled<Reference>,
    profiler: Profiler,
    stream: <Profiled<Reference> as Backend>::Stream,
}

impl Fixture {
    fn new() -> Self {
        let (backend, profiler) = Profiled::new(Reference::new());
        let stream = backend.stream().unwrap();
        Fixture { backend, profiler, stream }
    }

    fn floats(&self, len: usize) -> <Reference as Backend>::Buffer {
        self.backend.alloc(DType::F32, len).unwrap()
    }

    fn attention(&mut self, window: Option<usize>) {
        let cap = StepCapacity { tokens: 4, seqs: 2, blocks_per_seq: 2, samples: 2 };
        let mut batch = StepBatch::new(&self.backend, &cap).unwrap();
        batch.upload(&self.backend, &mut self.stream, &step()).unwrap();
        let (values, dtype) = (KvValues::Own, KvDType::F32);
        let spec = KvSpec { blocks: 3, kv_heads: 1, head_dim: WIDTH, values, dtype };
        let kv = self.backend.kv_cache(&spec).unwrap();
        assert_eq!(kv.resident_bytes(), 3 * KV_BLOCK_SIZE * 2 * WIDTH * 4);
        let (q, mut dst) = (self.floats(8 * WIDTH), self.floats(8 * WIDTH));
        let (batch, kv, q) = (&batch, &kv, &q);
        let (softcap, sinks) = (None, None);
        let p = Attention { q, kv, batch, heads: 2, scale: 1.0, window, softcap, sinks };
        self.backend.attention(&mut self.stream, &mut dst, &p).unwrap();
    }

    fn linear(&mut self, weights: usize, rows: usize) {
        let bytes = vec![0u8; 2 * WIDTH * 4];
        let source = WeightSource::new(Format::F32, 2, WIDTH, &bytes).unwrap();
        let weight = self.backend.pack(&mut self.stream, &source).unwrap();
        let input = self.floats(rows * WIDTH);
        let mut dsts: Vec<_> = (0..weights).map(|_| self.floats(rows * 2)).collect();
        let mut outputs: Vec<_> = dsts
            .iter_mut()
            .map(|dst| LinearOutput { weight: &weight, bias: None, dst, accumulate: false })
            .collect();
        let p = Linear { input: &input, rows, outputs: &mut outputs };
        self.backend.linear(&mut self.stream, p).unwrap();
    }

    fn record(&mut self, op: Op) -> OpRecord {
        assert!(self.profiler.take().is_empty(), "not counted before the end of a step");
        self.backend.synchronize(&mut self.stream).unwrap();
        let records = self.profiler.take();
        records.iter().find(|r| r.op == op).unwrap_or_else(|| panic!("{records:?}")).clone()
    }
}

#[test]
fn attention_counts_what_its_tokens_see() {
    let mut f = Fixture::new();
    let activations = 2 * 4 * 2 * WIDTH * 4;
    let position = 2 * WIDTH * 4;
    f.attention(None);
    let record = f.record(Op::Attention);
    assert_eq!(record.bytes as usize, (5 + 40) * position + activations);
    assert_eq!(record.ops as usize, 4 * (3 + 4 + 5 + 40) * 2 * WIDTH);
    f.attention(Some(4));
    let record = f.record(Op::Attention);
    // The three tokens of the first see 2 + 4 positions between them, of which there are 5.
    assert_eq!(record.bytes as usize, (5 + 4) * position + activations);
    assert_eq!(record.ops as usize, 4 * (3 + 4 + 4 + 4) * 2 * WIDTH);
}

#[test]
fn linears_count_weights_once_and_products_for_every_row() {
    let mut f = Fixture::new();
    f.linear(3, 5);
    f.linear(3, 5);
    let record = f.record(Op::Qkv);
    assert_eq!((record.calls, record.formats.as_slice()), (2, &[Format::F32][..]));
    let weight = 2 * WIDTH * 4;
    assert_eq!(record.bytes as usize, 2 * (3 * (weight + 5 * 2 * 4) + 5 * WIDTH * 4));
    assert_eq!(record.ops as usize, 2 * 3 * 2 * 5 * 2 * WIDTH);
    assert!(f.profiler.take().is_empty(), "taken");
}

#[test]
fn linears_are_told_apart_by_what_came_before() {
    let mut f = Fixture::new();
    f.attention(None);
    f.linear(1, 1);
    f.linear(1, 1);
    f.backend.synchronize(&mut f.stream).unwrap();
    let ops: Vec<Op> = f.profiler.take().iter().map(|r| r.op).collect();
    assert_eq!(ops, [Op::Upload, Op::Attention, Op::AttentionOutput, Op::Router]);
    assert_eq!(role(Some(Op::Attention), 1), Op::AttentionOutput);
    assert_eq!(role(Some(Op::GateUp), 1), Op::Down);
    assert_eq!(role(Some(Op::GatherRows), 1), Op::Head);
    assert_eq!(role(None, 2), Op::Qkv);
    assert_eq!(role(None, 1), Op::OtherLinear);
}
