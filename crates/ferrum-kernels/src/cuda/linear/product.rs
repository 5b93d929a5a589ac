//! A product of a weight with an input: which kernel computes it, and its launch.

use std::sync::Arc;

use super::super::launch::{Grid, Launch};
use super::super::memory::Memory;
use super::super::modules::Source;
use super::super::stream::CudaStream;
use super::CudaWeight;
use super::input::{Form, Input};
use super::library;
use crate::{Format, KernelError, Result};

/// Most tokens that the kernels of `cuda/gemv.cuh` work on. With more, reading the weight once for
/// each eight takes longer than tensor cores do.
const FEW: usize = 8;

/// Most tokens for tiles of 16, of which there are enough to keep a card busy.
const SOME: usize = 64;

/// Threads of a block of either kind of kernel: four warps.
const THREADS: usize = 128;
const WARPS: usize = 4;

/// Records on their way to shared memory: `GEMM_STAGES` in `cuda/gemm.cuh`.
const STAGES: usize = 3;

/// How a product is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Method {
    /// `cuda/gemv.cuh`: the weight is read once for so many slots.
    Gemv(usize),
    /// `cuda/gemm.cuh`: by tiles of so many slots, 16 or 64.
    Gemm(usize),
    /// cuBLASLt: one weight, a slot for each token, an input that may be rounded.
    Library,
}

impl Method {
    /// For the product of a weight with so many tokens, with or without a bias.
    pub(super) fn of(s: &CudaStream, weight: &CudaWeight, tokens: usize, bias: bool) -> Method {
        let dense = matches!(weight.format, Format::F16 | Format::BF16 | Format::F8_E4M3);
        let library = tokens > SOME && dense && weight.rounded && weight.experts == 1;
        if library && library::algorithm(s, weight, tokens, bias).is_some() {
            return Method::Library;
        }
        Method::new(weight.format, tokens)
    }

    /// By our own kernels, for the products of a weight in this format with so many tokens.
    ///
    /// The results of different methods may differ by rounding; those of [`Method::Gemv`] for any
    /// number of slots do not.
    pub(super) fn new(format: Format, tokens: usize) -> Method {
        // There are no tensor cores for single precision.
        if format == Format::F32 || tokens <= FEW {
            Method::Gemv(few(tokens))
        } else if tokens <= SOME {
            Method::Gemm(16)
        } else {
            Method::Gemm(64)
        }
    }

    /// What it reads of its input.
    pub(super) fn form(self, format: Format) -> Form {
        match (format, self) {
            (Format::F32, _) | (Format::F16 | Format::BF16 | Format::F8_E4M3, Method::Gemv(_)) => {
                Form::Floats
            }
            // A float of eight bits is one of F16.
            (Format::F16 | Format::F8_E4M3, Method::Gemm(_)) => Form::F16,
            (Format::BF16, Method::Gemm(_)) => Form::Bf16,
            (Format::F16, Method::Library) => Form::RoundedF16,
            (Format::BF16, Method::Library) => Form::RoundedBf16,
            (Format::F8_E4M3, Method::Library) => Form::RoundedE4m3,
            _ => Form::Codes,
        }
    }

    /// Outputs that a launch makes at most. With many tokens each has work enough for a card.
    pub(super) fn outputs(self) -> usize {
        match self {
            Method::Gemv(_) | Method::Gemm(16) => MOST_OUTPUTS,
            Method::Gemm(_) | Method::Library => 1,
        }
    }

    /// Parts of the columns that the warps of a block share out.
    fn parts(self) -> usize {
        match self {
            Method::Gemm(16) => WARPS,
            _ => 1,
        }
    }

    fn kernel(self, format: Format, gated: bool) -> (Source, &'static str) {
        let coded = format.block_len() > 1;
        let source = match self {
            Method::Gemv(_) if coded => Source::GemvCodes(format),
            Method::Gemv(_) => Source::GemvFloats(format),
            _ if coded => Source::GemmCodes(format),
            _ => Source::GemmHalves(format),
        };
        let entry = match (self, gated) {
            (Method::Gemv(1), false) => "gemv_1",
            (Method::Gemv(2), false) => "gemv_2",
            (Method::Gemv(4), false) => "gemv_4",
            (Method::Gemv(_), false) => "gemv_8",
            (Method::Gemv(1), true) => "gated_gemv_1",
            (Method::Gemv(2), true) => "gated_gemv_2",
            (Method::Gemv(4), true) => "gated_gemv_4",
            (Method::Gemv(_), true) => "gated_gemv_8",
            (Method::Gemm(16), false) => "gemm_16",
            (_, false) => "gemm_64",
            (Method::Gemm(16), true) => "gated_gemm_16",
            (_, true) => "gated_gemm_64",
        };
        (source, entry)
    }
}

/// The smallest kernel for so many slots, or the largest that there is.
fn few(slots: usize) -> usize {
    slots.next_power_of_two().min(FEW)
}

/// Outputs that a launch can make: `MOST_OUTPUTS` in `cuda/linear.cuh`.
const MOST_OUTPUTS: usize = 3;

/// One product, or the half of a gated linear's.
#[derive(Clone, Copy)]
pub(super) struct Output<'a> {
    pub(super) weight: &'a CudaWeight,
    /// `[slots, n]`
    pub(super) dst: &'a Arc<Memory>,
    /// `[n]`
    pub(super) bias: Option<&'a Arc<Memory>>,
    pub(super) accumulate: bool,
}

impl<'a> Output<'a> {
    /// One with nothing added.
    pub(super) fn plain(weight: &'a CudaWeight, dst: &'a Arc<Memory>) -> Self {
        Output { weight, dst, bias: None, accumulate: false }
    }
}

/// Where slots lie, if each is a token's share of an expert.
#[derive(Clone, Copy)]
pub(super) struct Slots<'a> {
    /// The expert of each slot, `[slots]`.
    pub(super) ids: &'a Arc<Memory>,
    /// Slots that share a row of the input.
    pub(super) per_row: usize,
    /// For [`Method::Gemm`]: what `sort_slots` in `cuda/experts.cu` has made.
    pub(super) sorted: Option<&'a Sorted>,
}

/// Slots in the order of their experts, `[slots]`, and behind them the tiles of each expert.
pub(super) struct Sorted {
    pub(super) memory: Arc<Memory>,
    /// Where the tiles begin, in bytes.
    pub(super) tiles_at: usize,
    /// Tiles at most.
    pub(super) tiles: usize,
}

/// Products of `count` slots, which share their input and the format of their weights; without
/// [`Slots`], a slot is a token.
#[derive(Clone, Copy)]
pub(super) struct Product<'a> {
    pub(super) op: &'static str,
    /// One to [`Method::outputs`]; of a gated linear the gate's, whose `dst` is the result's, and the
    /// other's.
    pub(super) outputs: &'a [Output<'a>],
    /// Of a gated linear, the number of its activation (`cuda/activation.cuh`): the gate's product goes
    /// through it, and is multiplied with the other's.
    pub(super) gated: Option<usize>,
    pub(super) method: Method,
    pub(super) input: &'a Input,
    pub(super) count: usize,
    pub(super) slots: Option<Slots<'a>>,
}

impl Product<'_> {
    /// Launches the kernel, or the library's.
    ///
    /// # Safety
    /// The operands must be as long as the shapes say.
    pub(super) unsafe fn run(&self, s: &mut CudaStream) -> Result<()> {
        let Some(first) = self.outputs.first() else { return Ok(()) };
        if self.outputs.len() > self.method.outputs() && self.gated.is_none() {
            return Err(KernelError::shape(self.op, "more outputs than a launch makes"));
        }
        if self.method == Method::Library {
            // SAFETY: the caller's promise.
            return unsafe { library::run(s, self, first) };
        }
        let (weight, gated) = (first.weight, self.gated.is_some());
        let (source, entry) = self.method.kernel(weight.format, gated);
        let (input, offset) = self.input.place(self.method.form(weight.format));
        let per_row = self.slots.map_or(1, |slots| slots.per_row);
        let launch = s.launch(self.op, source, entry).structure(|fields| {
            // Where there are fewer outputs, nobody looks at the others.
            let outputs = self.outputs.iter().chain(std::iter::repeat(first)).take(MOST_OUTPUTS);
            let fields = outputs.fold(fields, |fields, output| {
                let fields = fields.planes(output.weight).memory(output.dst, 0);
                let fields = fields.memory_if(output.bias.map(|bias| (bias, 0)));
                fields.ints(output.weight.rows, usize::from(output.accumulate))
            });
            let fields = self.slot_fields(fields.memory(input, offset));
            let fields = fields.ints(self.outputs.len(), weight.cols);
            let fields = fields.ints(weight.groups(), self.count).ints(per_row, weight.experts);
            fields.int(self.gated.unwrap_or(0))
        });
        let rows = self.outputs.iter().map(|output| output.weight.rows);
        let blocks_of = |rows| self.rows_of_blocks(rows);
        let down = if gated { blocks_of(weight.rows) } else { rows.map(blocks_of).sum() };
        let blocks = [self.columns_of_blocks(), down, 1];
        // SAFETY: the caller's promise; the fields are those of `Linear` in `cuda/linear.cuh`.
        unsafe { launch.run(Grid { blocks, threads: THREADS, shared: self.shared(weight.format) }) }
    }

    /// Bytes of shared memory: for each slot, stages of records of each part, and two numbers.
    fn shared(&self, format: Format) -> usize {
        match self.method {
            Method::Gemv(_) | Method::Library => 0,
            Method::Gemm(slots) => {
                let (_, record) = self.method.form(format).record();
                slots * (STAGES * self.method.parts() * record + 2 * size_of::<i32>())
            }
        }
    }

    /// The fields `ids`, `sorted` and `tiles`.
    fn slot_fields<'s>(&self, fields: Launch<'s>) -> Launch<'s> {
        let sorted = self.slots.and_then(|slots| slots.sorted);
        let fields = fields.memory_if(self.slots.map(|slots| (slots.ids, 0)));
        let fields = fields.memory_if(sorted.map(|sorted| (&sorted.memory, 0)));
        fields.memory_if(sorted.map(|sorted| (&sorted.memory, sorted.tiles_at)))
    }

    /// Blocks side by side, that read the same rows of the weight.
    fn columns_of_blocks(&self) -> usize {
        match (self.method, self.slots.and_then(|slots| slots.sorted)) {
            (Method::Gemm(_), Some(sorted)) => sorted.tiles,
            (Method::Gemv(slots) | Method::Gemm(slots), _) => self.count.div_ceil(slots),
            (Method::Library, _) => 0,
        }
    }

    /// Blocks that share out the rows of a matrix.
    fn rows_of_blocks(&self, rows: usize) -> usize {
        // Of a warp; half as many of each of two weights.
        let of_warp = match self.method {
            Method::Gemv(_) => 2,
            Method::Gemm(_) | Method::Library => 32,
        };
        let weights = if self.gated.is_some() { 2 } else { 1 };
        rows.div_ceil(WARPS / self.method.parts() * of_warp / weights)
    }
}
