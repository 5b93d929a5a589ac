//! The bytes of the tensors: some rows of one at a time, shared out among threads.

use std::io::Write;
use std::ops::Range;
use std::thread;

use ferrum_kernels::weight::{dequantize_row, quantize_row};
use ferrum_kernels::{Format, KernelError};

use super::{Change, Conversion, ConvertError, Pairs, Planned};
use crate::checkpoint::in_order;
use crate::gguf::TensorWriter;

/// Values that a thread works on before the rows are written.
const VALUES: usize = 1 << 20;

/// Bytes that are copied at a time.
const COPIED: usize = 16 << 20;

/// Hears of what was read, in bytes; the writing ends where it says `false`.
pub type Progress<'a> = dyn FnMut(u64) -> bool + 'a;

impl Conversion<'_> {
    /// Writes the file to `out` and gives `out` back. `progress` hears of the bytes that were read, up
    /// to the sum of [`Planned::source_bytes`].
    pub fn write<W: Write>(&self, out: W, progress: &mut Progress<'_>) -> Result<W, ConvertError> {
        let mut out = self.declare()?.start(out)?;
        let mut done = 0;
        for tensor in &self.tensors {
            let mut step = |bytes: usize| {
                done += bytes as u64;
                if progress(done) { Ok(()) } else { Err(ConvertError::Interrupted) }
            };
            let data = self.source.read(&tensor.name)?;
            if tensor.is_copied() {
                for start in (0..data.len()).step_by(COPIED) {
                    let range = start..(start + COPIED).min(data.len());
                    out.write(&tensor.name, &data[range.clone()])?;
                    self.source.give_back(&tensor.name, range.clone());
                    step(range.len())?;
                }
            } else {
                let job = Job::new(tensor, &data)?;
                self.convert(&job, &mut out, &mut step)?;
                self.source.give_back(&tensor.name, 0..data.len());
            }
        }
        Ok(out.finish()?)
    }

    fn convert<W: Write>(
        &self,
        job: &Job<'_>,
        out: &mut TensorWriter<W>,
        step: &mut dyn FnMut(usize) -> Result<(), ConvertError>,
    ) -> Result<(), ConvertError> {
        let name = &job.tensor.name;
        // Rows for each thread; bands of whole heads would gain nothing.
        let share = (VALUES / job.cols).max(1);
        let mut bytes = Vec::new();
        for start in (0..job.rows).step_by(share * self.threads) {
            let rows = start..(start + share * self.threads).min(job.rows);
            bytes.resize(rows.len() * job.to_bytes, 0);
            job.rows(rows.clone(), share, &mut bytes)
                .map_err(|reason| ConvertError::Values { name: name.clone(), reason })?;
            out.write(name, &bytes)?;
            let read = rows.start * job.from_bytes..rows.end * job.from_bytes;
            if job.tensor.change.pairs.is_none() {
                self.source.give_back(name, read.clone());
            }
            step(read.len())?;
        }
        Ok(())
    }
}

impl Planned {
    /// Whether the bytes of the file are those of the source.
    fn is_copied(&self) -> bool {
        self.format == self.from
            && self.columns.is_none()
            && self.change == Change { pairs: None, factor: 1.0 }
    }
}

/// A tensor whose rows are made.
struct Job<'a> {
    tensor: &'a Planned,
    data: &'a [u8],
    rows: usize,
    cols: usize,
    /// Bytes of a row, as it is and as it will be.
    from_bytes: usize,
    to_bytes: usize,
}

impl<'a> Job<'a> {
    fn new(tensor: &'a Planned, data: &'a [u8]) -> Result<Self, ConvertError> {
        // A vector whose values change places is a matrix of one column.
        let one_column = tensor.dims.len() == 1 && tensor.change.pairs.is_some();
        let cols = if one_column { 1 } else { tensor.dims[0] };
        let rows = tensor.elements() / cols;
        let row = |format: Format| {
            format.row_bytes(cols).ok_or_else(|| ConvertError::Values {
                name: tensor.name.clone(),
                reason: KernelError::shape("quantize", format!("{cols} columns as {format}")),
            })
        };
        let (from_bytes, to_bytes) = (row(tensor.from)?, row(tensor.format)?);
        Ok(Job { tensor, data, rows, cols, from_bytes, to_bytes })
    }

    /// Makes some rows, `share` of them in each thread.
    fn rows(&self, rows: Range<usize>, share: usize, out: &mut [u8]) -> Result<(), KernelError> {
        let parts = out.chunks_mut(share * self.to_bytes).zip(rows.step_by(share));
        thread::scope(|scope| {
            let workers: Vec<_> =
                parts.map(|(out, first)| scope.spawn(move || self.part(first, out))).collect();
            let results = workers.into_iter().map(|worker| match worker.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            });
            results.collect()
        })
    }

    fn part(&self, first: usize, out: &mut [u8]) -> Result<(), KernelError> {
        let Change { pairs, factor } = self.tensor.change;
        let mut values = vec![0.0; self.cols];
        for (row, out) in out.chunks_exact_mut(self.to_bytes).enumerate() {
            let row = pairs.map_or(first + row, |pairs| pairs.source(first + row));
            let data = &self.data[row * self.from_bytes..][..self.from_bytes];
            dequantize_row(self.tensor.from, data, &mut values)?;
            if let Some(columns) = &self.tensor.columns {
                in_order(&mut values, columns);
            }
            if factor != 1.0 {
                values.iter_mut().for_each(|v| *v *= factor);
            }
            quantize_row(self.tensor.format, &values, out)?;
        }
        Ok(())
    }
}

impl Pairs {
    /// The row that comes to `row`: in a folder, the first values of all pairs lie before the second.
    pub(super) fn source(&self, row: usize) -> usize {
        let (head, i) = (row - row % self.head, row % self.head);
        if i >= self.rotated {
            return row;
        }
        head + i / 2 + i % 2 * (self.rotated / 2)
    }
}
