//! What a profile consists of.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::Format;

/// What an operation is for. The contract names operations by their mathematics; the part that a
/// linear plays in a decoder follows from the operation before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names say it, and `name` in words")]
pub enum Op {
    Embed,
    Qkv,
    AttentionOutput,
    GateUp,
    Down,
    Head,
    OtherLinear,
    Attention,
    Activate,
    Norm,
    Rope,
    KvWrite,
    GatherRows,
    ScatterAdd,
    Router,
    RouteTopk,
    Sample,
    Logprobs,
    ExpertGateUp,
    ExpertDown,
    Collective,
    Upload,
    Download,
}

impl Op {
    /// A name for people.
    pub fn name(self) -> &'static str {
        match self {
            Op::Embed => "embed",
            Op::Qkv => "linear q k v",
            Op::AttentionOutput => "linear o",
            Op::GateUp => "linear gate up",
            Op::Down => "linear down",
            Op::Head => "linear head",
            Op::OtherLinear => "linear",
            Op::Attention => "attention",
            Op::Activate => "activation",
            Op::Norm => "norm",
            Op::Rope => "rope",
            Op::KvWrite => "kv write",
            Op::GatherRows => "gather rows",
            Op::ScatterAdd => "scatter add",
            Op::Router => "linear router",
            Op::RouteTopk => "route top-k",
            Op::Sample => "sample",
            Op::Logprobs => "log-probabilities",
            Op::ExpertGateUp => "experts gate up",
            Op::ExpertDown => "experts down",
            Op::Collective => "collectives",
            Op::Upload => "upload step",
            Op::Download => "download results",
        }
    }
}

/// Formats of the weights that an operation read, in the order of its outputs, each once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Formats([Option<Format>; 4]);

impl Formats {
    /// Those of some weights. More than four different ones are not told apart.
    pub(super) fn of(formats: impl IntoIterator<Item = Format>) -> Self {
        let mut all = Formats::default();
        for format in formats {
            if all.0.contains(&Some(format)) {
                continue;
            }
            if let Some(free) = all.0.iter_mut().find(|f| f.is_none()) {
                *free = Some(format);
            }
        }
        all
    }
}

/// What one call takes by the arithmetic of its operation, whoever computes it and however.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Cost {
    /// Bytes that must be read or written at least once.
    pub(super) bytes: u64,
    /// `f32` or integer operations, a multiply-add counted as two.
    pub(super) ops: u64,
}

/// The calls of one operation with weights of one format.
#[derive(Debug, Clone, PartialEq)]
pub struct OpRecord {
    /// Which.
    pub op: Op,
    /// Formats of its weights; empty where it reads none.
    pub formats: Vec<Format>,
    /// How often.
    pub calls: u64,
    /// How long, in all.
    pub time: Duration,
    /// Bytes that had to be read or written at least once, in all.
    pub bytes: u64,
    /// Arithmetic operations, a multiply-add counted as two, in all.
    pub ops: u64,
}

/// What [`super::Profiled`] has seen so far, from outside.
#[derive(Debug, Clone, Default)]
pub struct Profiler(Arc<Mutex<Vec<(Formats, OpRecord)>>>);

impl Profiler {
    /// The records since the last call, in the order in which the operations first came.
    pub fn take(&self) -> Vec<OpRecord> {
        let mut records = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        records.drain(..).map(|(_, record)| record).collect()
    }

    /// Counts a call.
    pub(super) fn add(&self, op: Op, formats: Formats, time: Duration, cost: Cost) {
        let mut records = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = records.iter_mut().find(|(f, r)| r.op == op && *f == formats);
        let record = match known {
            Some((_, record)) => record,
            None => {
                let names = formats.0.into_iter().flatten().collect();
                let time = Duration::ZERO;
                let new = OpRecord { op, formats: names, calls: 0, time, bytes: 0, ops: 0 };
                &mut records.push_mut((formats, new)).1
            }
        };
        record.calls += 1;
        record.time += time;
        record.bytes += cost.bytes;
        record.ops += cost.ops;
    }
}
