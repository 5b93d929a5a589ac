//! A packed weight: groups of eight rows, each in one piece of memory.

use super::super::arena::Part;
use super::super::shared::SharedSlice;
use super::super::{CpuStream, NAME};
use super::dots::ROWS;
use super::kernels::{Kernels, kernels};
use super::packing;
use super::panel::GROUPS;
use super::shorts;
use crate::checks;
use crate::{Format, KernelError, PackedWeight, Result, WeightSource};

/// Bytes packed before those of the file are given back: little beside a model, and enough for the
/// whole team.
const SLAB_BYTES: usize = 1 << 20;

/// A weight matrix, eight rows interleaved, in the bytes of the file (rows rounded up to a multiple
/// of eight), or as 16-bit integers where it may be rounded; or several of one shape, one after the
/// other.
pub struct CpuWeight {
    format: Format,
    experts: usize,
    rows: usize,
    cols: usize,
    /// The order of the columns, where it is another than that of an input's values.
    columns: Option<Box<[u32]>>,
    data: Part,
    /// Those of the format, for the instruction set that it was packed for.
    pub(super) kernels: Kernels,
}

impl PackedWeight for CpuWeight {
    fn format(&self) -> Format {
        self.format
    }

    fn rows(&self) -> usize {
        self.rows
    }

    fn cols(&self) -> usize {
        self.cols
    }

    fn experts(&self) -> usize {
        self.experts
    }

    fn columns(&self) -> Option<&[u32]> {
        self.columns.as_deref()
    }

    fn resident_bytes(&self) -> usize {
        self.data.len() + self.columns().map_or(0, size_of_val)
    }
}

/// Whether weights of this format and number of input features can be packed.
pub(in super::super) fn supported(format: Format, cols: usize) -> Result<()> {
    match format.row_bytes(cols) {
        Some(bytes) if bytes > 0 && format != Format::F8_E4M3 => Ok(()),
        _ => Err(unsupported(format, cols)),
    }
}

fn unsupported(format: Format, cols: usize) -> KernelError {
    let what = format!("a weight of {cols} columns in {format}");
    KernelError::Unsupported { backend: NAME, what }
}

/// [`crate::Backend::packed_bytes`]; `usize::MAX` where there cannot be such a weight.
pub(in super::super) fn packed_bytes(format: Format, rows: usize, cols: usize) -> usize {
    let group = format.row_bytes(cols).and_then(|bytes| bytes.checked_mul(ROWS));
    group.map_or(usize::MAX, |bytes| bytes.saturating_mul(rows.div_ceil(ROWS)))
}

/// [`crate::Backend::pack`]
pub(in super::super) fn pack(s: &mut CpuStream, source: &WeightSource<'_>) -> Result<CpuWeight> {
    checks::pack(source)?;
    let &WeightSource { format, cols, experts, .. } = source;
    let rows = source.rows / experts;
    let kernels = match shorts::kernels(s.isa) {
        Some(rounding) if may_round(source) => Kernels::Shorts(rounding),
        _ => kernels(s.isa, format).ok_or_else(|| unsupported(format, cols))?,
    };
    let bytes = match kernels {
        Kernels::Shorts(_) => {
            (cols / shorts::STEP * shorts::STEP_BYTES).saturating_mul(rows.div_ceil(ROWS))
        }
        _ => packed_bytes(format, rows, cols).saturating_mul(experts),
    };
    let mut packed = s.arena.take(bytes, "a packed weight")?;
    let groups = rows.div_ceil(ROWS);
    let group_bytes = bytes / (experts * groups);
    let out = SharedSlice::new(&mut packed);
    let first_row = |group: usize| group / groups * rows + group % groups * ROWS;
    let all = experts * groups;
    let slab = (SLAB_BYTES / group_bytes).max(1);
    for first in (0..all).step_by(slab) {
        let last = all.min(first + slab);
        s.team.chunks(last - first, &|_, i| {
            let group = first + i;
            let row = first_row(group);
            let count = ROWS.min(rows - group % groups * ROWS);
            let mut sources: [&[u8]; ROWS] = [&[]; ROWS];
            for (r, source_row) in sources.iter_mut().enumerate().take(count) {
                *source_row = source.row(row + r);
            }
            // SAFETY: each group is packed once.
            let out = unsafe { out.range_mut(group * group_bytes..(group + 1) * group_bytes) };
            match kernels {
                Kernels::Blocks(kernels) => (kernels.pack)(&sources[..count], out),
                Kernels::Floats(_) => {
                    packing::float_group(format.block_bytes(), &sources[..count], out);
                }
                Kernels::Shorts(_) => shorts::pack_group(format, &sources[..count], out),
            }
        });
        source.consume(first_row(first)..source.rows.min(first_row(last)));
    }
    let columns = source.columns.map(Box::from);
    Ok(CpuWeight { format, experts, rows, cols, columns, data: packed, kernels })
}

/// Whether the numbers of a weight may be rounded, and can be.
fn may_round(source: &WeightSource<'_>) -> bool {
    let single = source.experts == 1 && source.format.block_len() == 1;
    source.rounded && single && source.cols.is_multiple_of(shorts::STEP)
}

impl CpuWeight {
    /// Groups of eight rows, in one matrix.
    pub(super) fn groups(&self) -> usize {
        self.rows.div_ceil(ROWS)
    }

    /// The packed bytes of a group; those of a stack's matrices follow one another.
    pub(super) fn group(&self, group: usize) -> &[u8] {
        let bytes = self.data.len() / (self.experts * self.groups());
        &self.data[group * bytes..][..bytes]
    }

    /// Panels in one matrix.
    pub(super) fn panels(&self) -> usize {
        self.groups().div_ceil(GROUPS)
    }

    /// The groups of a panel, as many as there are: those of the last panel of a matrix may be
    /// fewer. The panels of a stack's matrices follow one another.
    pub(super) fn panel(&self, panel: usize) -> [Option<&[u8]>; GROUPS] {
        let (expert, first) = (panel / self.panels(), panel % self.panels() * GROUPS);
        let (at, left) = (expert * self.groups() + first, self.groups() - first);
        std::array::from_fn(|g| (g < left).then(|| self.group(at + g)))
    }
}
