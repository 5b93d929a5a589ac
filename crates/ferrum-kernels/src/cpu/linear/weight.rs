//! A packed weight: groups of eight rows, each in one piece of memory.

use super::super::aligned::AlignedVec;
use super::super::shared::SharedSlice;
use super::super::{CpuStream, NAME};
use super::dots::ROWS;
use super::kernels::{Kernels, kernels};
use super::packing;
use crate::checks;
use crate::{Format, KernelError, PackedWeight, Result, WeightSource};

/// Bytes packed before those of the file are given back: little beside a model, and enough for the
/// whole team.
const SLAB_BYTES: usize = 4 << 20;

/// A weight matrix, eight rows interleaved, in the bytes of the file (rows rounded up to a multiple
/// of eight).
pub struct CpuWeight {
    format: Format,
    rows: usize,
    cols: usize,
    data: AlignedVec<u8>,
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

    fn resident_bytes(&self) -> usize {
        self.data.len()
    }
}

/// Whether weights of this format and number of input features can be packed.
pub(in super::super) fn supported(format: Format, cols: usize) -> Result<()> {
    match format.row_bytes(cols) {
        Some(bytes) if bytes > 0 => Ok(()),
        _ => Err(KernelError::Unsupported {
            backend: NAME,
            what: format!("a weight of {cols} columns in {format}"),
        }),
    }
}

/// [`crate::Backend::packed_bytes`]; `usize::MAX` where there cannot be such a weight.
pub(in super::super) fn packed_bytes(format: Format, rows: usize, cols: usize) -> usize {
    let group = format.row_bytes(cols).and_then(|bytes| bytes.checked_mul(ROWS));
    group.map_or(usize::MAX, |bytes| bytes.saturating_mul(rows.div_ceil(ROWS)))
}

/// [`crate::Backend::pack`]
pub(in super::super) fn pack(s: &mut CpuStream, source: &WeightSource<'_>) -> Result<CpuWeight> {
    checks::pack(source)?;
    let &WeightSource { format, rows, cols, .. } = source;
    let bytes = packed_bytes(format, rows, cols);
    let mut packed = AlignedVec::<u8>::zeroed(bytes, "a packed weight")?;
    let kernels = kernels(s.isa, format);
    let groups = rows.div_ceil(ROWS);
    let group_bytes = bytes / groups;
    let out = SharedSlice::new(&mut packed);
    let slab = (SLAB_BYTES / group_bytes).max(1);
    for first in (0..groups).step_by(slab) {
        let last = groups.min(first + slab);
        s.team.chunks(last - first, &|_, i| {
            let group = first + i;
            let rows = group * ROWS..rows.min((group + 1) * ROWS);
            let mut sources: [&[u8]; ROWS] = [&[]; ROWS];
            for (source_row, row) in sources.iter_mut().zip(rows.clone()) {
                *source_row = source.row(row);
            }
            // SAFETY: each group is packed once.
            let out = unsafe { out.range_mut(group * group_bytes..(group + 1) * group_bytes) };
            match kernels {
                Kernels::Blocks(kernels) => (kernels.pack)(&sources[..rows.len()], out),
                Kernels::Floats(_) => {
                    packing::float_group(format.block_bytes(), &sources[..rows.len()], out);
                }
            }
        });
        source.consume(first * ROWS..rows.min(last * ROWS));
    }
    Ok(CpuWeight { format, rows, cols, data: packed, kernels })
}

impl CpuWeight {
    /// Groups of eight rows.
    pub(super) fn groups(&self) -> usize {
        self.rows.div_ceil(ROWS)
    }

    /// The packed bytes of a group.
    pub(super) fn group(&self, group: usize) -> &[u8] {
        let bytes = self.data.len() / self.groups();
        &self.data[group * bytes..][..bytes]
    }
}
