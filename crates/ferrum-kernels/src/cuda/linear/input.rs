//! Activations in the forms that products ask for, made once for all that share an input.

use std::sync::Arc;

use super::super::buffer::Part;
use super::super::launch::Grid;
use super::super::memory::Memory;
use super::super::modules::Source;
use super::super::stream::{CudaStream, Scratch};
use super::layout::GROUP;
use crate::{Format, Result};

const THREADS: usize = 256;

/// Threads that copy a row (`cuda/rows.cu`).
const ROW_THREADS: usize = 128;

/// What a product reads of its input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// The values as they are.
    Floats,
    /// Signed bytes with scales (`cuda/activations.cuh`).
    Codes,
    /// Sums of F16 numbers (`cuda/halves.cuh`).
    F16,
    /// Sums of BF16 numbers, likewise.
    Bf16,
    /// F16 numbers, zeroes to whole groups of columns; behind all rows a scale of each
    /// (`cuda/round_halves.cu`).
    RoundedF16,
    /// BF16 numbers, without scales.
    RoundedBf16,
    /// E4M3 numbers, otherwise as [`Form::RoundedF16`].
    RoundedE4m3,
}

impl Form {
    const ALL: [Form; 7] = [
        Form::Floats,
        Form::Codes,
        Form::F16,
        Form::Bf16,
        Form::RoundedF16,
        Form::RoundedBf16,
        Form::RoundedE4m3,
    ];

    /// Columns of a record, and its bytes, a multiple of 16.
    pub(super) fn record(self) -> (usize, usize) {
        match self {
            Form::Floats => (1, 0),
            Form::Codes => (2 * GROUP, 80),
            Form::F16 => (GROUP, 144),
            Form::Bf16 => (GROUP, 208),
            Form::RoundedF16 | Form::RoundedBf16 => (GROUP, 64),
            Form::RoundedE4m3 => (GROUP, 32),
        }
    }

    /// Where the scales of [`Form::RoundedF16`] and [`Form::RoundedE4m3`] begin, in bytes.
    pub(super) fn scales_at(self, rows: usize, cols: usize) -> usize {
        rows.saturating_mul(self.row_bytes(cols))
    }

    /// Bytes of all rows of an input in scratch memory, a multiple of 16.
    fn bytes(self, rows: usize, cols: usize) -> usize {
        let scales = match self {
            Form::RoundedF16 | Form::RoundedE4m3 => rows.next_multiple_of(4) * size_of::<f32>(),
            _ => 0,
        };
        self.scales_at(rows, cols).saturating_add(scales)
    }

    /// Bytes of a row of `cols` values.
    fn row_bytes(self, cols: usize) -> usize {
        let (columns, bytes) = self.record();
        cols.div_ceil(columns) * bytes
    }
}

/// An input in all the forms that were asked for.
pub(super) struct Input {
    /// Of each form: where it lies.
    places: [Option<(Arc<Memory>, usize)>; 7],
}

impl Input {
    /// Brings `rows` rows of `cols` values into the order of columns that is at `columns`, if there is
    /// one, and into the forms.
    pub(super) fn new(
        s: &mut CudaStream,
        op: &'static str,
        floats: &Part<'_>,
        [rows, cols]: [usize; 2],
        columns: Option<&Arc<Memory>>,
        forms: &[Form],
    ) -> Result<Input> {
        let arranged = columns.map(|columns| arrange(s, op, floats, [rows, cols], columns));
        let floats = arranged.transpose()?.unwrap_or_else(|| floats.memory.clone());
        let wanted = Form::ALL.map(|form| forms.contains(&form));
        let mut bytes = 0usize;
        let starts = Form::ALL.map(|form| {
            let start = bytes;
            let own = if wanted[form as usize] { form.bytes(rows, cols) } else { 0 };
            bytes = bytes.saturating_add(own);
            start
        });
        let scratch = s.scratch(Scratch::Activations, bytes)?;
        let places = Form::ALL.map(|form| {
            let place = match form {
                Form::Floats => (floats.clone(), 0),
                _ => (scratch.clone(), starts[form as usize]),
            };
            wanted[form as usize].then_some(place)
        });
        let input = Input { places };
        for form in Form::ALL.into_iter().filter(|&form| wanted[form as usize]) {
            convert(s, op, &floats, [rows, cols], form, input.place(form))?;
        }
        Ok(input)
    }

    /// Where a form lies: memory, and bytes behind its beginning.
    pub(super) fn place(&self, form: Form) -> (&Arc<Memory>, usize) {
        let place = self.places[form as usize].as_ref();
        let (memory, offset) = place.expect("a form that was asked for");
        (memory, *offset)
    }
}

/// The rows of an input with their values in another order.
fn arrange(
    s: &mut CudaStream,
    op: &'static str,
    floats: &Part<'_>,
    [rows, cols]: [usize; 2],
    columns: &Arc<Memory>,
) -> Result<Arc<Memory>> {
    let bytes = rows.saturating_mul(cols).saturating_mul(size_of::<f32>());
    let arranged = s.scratch(Scratch::Arranged, bytes)?;
    let launch = s.launch(op, Source::Rows, "gather_columns").memory(&arranged, 0);
    let launch = launch.read(floats).memory(columns, 0).int(cols);
    // SAFETY: the input has been checked, the scratch is as large, and each column is one of `cols`.
    unsafe { launch.run(Grid { blocks: [rows, 1, 1], threads: ROW_THREADS, shared: 0 })? }
    Ok(arranged)
}

/// Brings an input into one form.
fn convert(
    s: &mut CudaStream,
    op: &'static str,
    floats: &Arc<Memory>,
    [rows, cols]: [usize; 2],
    form: Form,
    (memory, offset): (&Arc<Memory>, usize),
) -> Result<()> {
    // Threads that share a row: sixteen make a record of 64 columns, or 32 one of 32.
    let (source, entry, threads) = match form {
        Form::Floats => return Ok(()),
        Form::Codes => (Source::Activations, "quantize", cols.div_ceil(2 * GROUP) * 16),
        Form::F16 => (Source::SplitHalves(Format::F16), "split", cols.div_ceil(GROUP) * 32),
        Form::Bf16 => (Source::SplitHalves(Format::BF16), "split", cols.div_ceil(GROUP) * 32),
        Form::RoundedF16 | Form::RoundedBf16 | Form::RoundedE4m3 => {
            return round(s, op, floats, [rows, cols], form, (memory, offset));
        }
    };
    let launch = s.launch(op, source, entry).memory(floats, 0).memory(memory, offset);
    let launch = launch.int(rows).int(cols);
    let blocks = (rows * threads).div_ceil(THREADS);
    // SAFETY: the input has been checked, and the place has room for the form.
    unsafe { launch.run(Grid { blocks: [blocks, 1, 1], threads: THREADS, shared: 0 }) }
}

/// Rounds an input to one of the rounded forms.
fn round(
    s: &mut CudaStream,
    op: &'static str,
    floats: &Arc<Memory>,
    [rows, cols]: [usize; 2],
    form: Form,
    (memory, offset): (&Arc<Memory>, usize),
) -> Result<()> {
    let format = match form {
        Form::RoundedF16 => Format::F16,
        Form::RoundedE4m3 => Format::F8_E4M3,
        _ => Format::BF16,
    };
    let launch = s.launch(op, Source::RoundHalves(format), "round_rows").memory(floats, 0);
    let launch = launch.memory(memory, offset).memory(memory, offset + form.scales_at(rows, cols));
    let launch = launch.int(cols).int(cols.next_multiple_of(GROUP));
    // SAFETY: the input has been checked, and the place has room for the rows and their scales.
    unsafe { launch.run(Grid { blocks: [rows, 1, 1], threads: THREADS, shared: 0 }) }
}
