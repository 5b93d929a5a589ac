//! Weights: packing them, and their parts as kernels take them.

use std::sync::Arc;

use super::super::NAME;
use super::super::device::Device;
use super::super::launch::{Grid, Launch};
use super::super::memory::Memory;
use super::super::modules::Source;
use super::super::stream::{CudaStream, Scratch};
use super::layout::{self, GROUP};
use crate::{Format, KernelError, PackedWeight, Result, WeightSource, checks};

/// Bytes of the file that are brought to the card at once: enough to keep it busy.
const STAGING: usize = 16 << 20;

/// Threads of a block of the kernels that pack.
const THREADS: usize = 128;

/// A weight on a card, or a stack of them.
pub struct CudaWeight {
    pub(super) format: Format,
    /// Matrices.
    pub(super) experts: usize,
    /// Rows of a matrix.
    pub(super) rows: usize,
    pub(super) cols: usize,
    /// The order of the columns, where it is another than that of an input's values.
    columns: Option<Columns>,
    /// As [`WeightSource::rounded`] says; of dense weights, the inputs are rounded.
    pub(super) rounded: bool,
    memory: Arc<Memory>,
    /// Where the planes begin.
    planes: [usize; 4],
}

/// An order of columns, on both sides.
struct Columns {
    host: Box<[u32]>,
    memory: Arc<Memory>,
}

impl PackedWeight for CudaWeight {
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
        self.columns.as_ref().map(|columns| &*columns.host)
    }

    fn resident_bytes(&self) -> usize {
        self.memory.bytes() + self.column_memory().map_or(0, |memory| memory.bytes())
    }
}

impl CudaWeight {
    /// Whether the values are codes in blocks, not single numbers.
    pub(super) fn is_coded(&self) -> bool {
        self.format.block_len() > 1
    }

    /// Where the card has [`WeightSource::scales`], if the format has any.
    pub(super) fn row_scales(&self) -> Option<(&Arc<Memory>, usize)> {
        let scaled = self.format == Format::F8_E4M3;
        scaled.then_some((&self.memory, self.planes[layout::SCALES]))
    }

    /// Where the card has [`PackedWeight::columns`].
    pub(super) fn column_memory(&self) -> Option<&Arc<Memory>> {
        self.columns.as_ref().map(|columns| &columns.memory)
    }

    /// Where the values of a dense weight lie on the card.
    pub(super) fn values(&self) -> u64 {
        self.memory.address() + self.planes[0] as u64
    }

    /// The memory that it lies in.
    pub(super) fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }

    /// Groups of 32 columns in a row.
    pub(super) fn groups(&self) -> usize {
        self.cols.div_ceil(GROUP)
    }
}

impl Launch<'_> {
    /// The planes of a weight: `Planes`.
    pub(super) fn planes(self, weight: &CudaWeight) -> Self {
        self.pointers(&weight.memory, &weight.planes)
    }
}

/// [`crate::Backend::packed_bytes`]; `usize::MAX` where there cannot be such a weight.
pub(in super::super) fn packed_bytes(format: Format, rows: usize, cols: usize) -> usize {
    layout::planes(format, rows, cols).map_or(usize::MAX, |(_, end)| end)
}

/// [`crate::Backend::pack`]
pub(in super::super) fn pack(
    s: &mut CudaStream,
    device: &Arc<Device>,
    source: &WeightSource<'_>,
) -> Result<CudaWeight> {
    checks::pack(source)?;
    let &WeightSource { format, cols, experts, rounded, .. } = source;
    let rows = source.rows / experts;
    if i32::try_from(source.rows).is_err() || i32::try_from(cols).is_err() {
        let what = format!("a weight of {} x {cols}", source.rows);
        return Err(KernelError::Unsupported { backend: NAME, what });
    }
    let bytes = packed_bytes(format, rows, cols).saturating_mul(experts);
    let planes = layout::planes(format, source.rows, cols).map(|(starts, _)| starts);
    let planes = planes.ok_or(KernelError::OutOfMemory { bytes, what: "a weight" })?;
    let memory = Arc::new(Memory::new(device, bytes, "a weight")?);
    let columns = source.columns.map(|columns| upload(s, device, columns)).transpose()?;
    let weight = CudaWeight { format, experts, rows, cols, columns, rounded, memory, planes };

    let row_bytes = source.data.len() / source.rows;
    let slab = (STAGING / row_bytes).max(1).min(source.rows);
    let staging = s.scratch(Scratch::Staging, slab * row_bytes)?;
    for first in (0..source.rows).step_by(slab) {
        let count = slab.min(source.rows - first);
        let data = &source.data[first * row_bytes..(first + count) * row_bytes];
        s.copy_in("pack", data, &staging, 0)?;
        match weight.is_coded() {
            true => pack_codes(s, &weight, &staging, first, count)?,
            false => pack_floats(s, &weight, &staging, first, count)?,
        }
        source.consume(first..first + count);
    }
    if let Some(scales) = source.scales {
        s.copy_in("pack", scales, &weight.memory, planes[layout::SCALES])?;
    }
    Ok(weight)
}

/// Brings an order of columns to the card.
fn upload(s: &mut CudaStream, device: &Arc<Device>, columns: &[u32]) -> Result<Columns> {
    let memory = Arc::new(Memory::new(device, size_of_val(columns), "an order of columns")?);
    s.copy_in("pack", columns, &memory, 0)?;
    Ok(Columns { host: columns.into(), memory })
}

/// Takes `count` rows apart.
fn pack_codes(
    s: &mut CudaStream,
    weight: &CudaWeight,
    staging: &Arc<Memory>,
    first: usize,
    count: usize,
) -> Result<()> {
    let per_row = weight.cols / weight.format.block_len();
    let groups = count * weight.groups();
    let mut launch = s.launch("pack", Source::PackCodes(weight.format), "pack").memory(staging, 0);
    for plane in weight.planes {
        launch = launch.memory(&weight.memory, plane);
    }
    let launch = launch.int(first * per_row).int(count * per_row);
    let grid = Grid { blocks: [groups.div_ceil(THREADS), 1, 1], threads: THREADS, shared: 0 };
    // SAFETY: the planes have room for all rows, of which these are some.
    unsafe { launch.run(grid) }
}

/// Fills `count` rows up to whole groups.
fn pack_floats(
    s: &mut CudaStream,
    weight: &CudaWeight,
    staging: &Arc<Memory>,
    first: usize,
    count: usize,
) -> Result<()> {
    let padded = weight.groups() * GROUP;
    let at = first * padded * weight.format.block_bytes();
    let launch = s.launch("pack", Source::PackFloats(weight.format), "pack");
    let launch = launch.memory(staging, 0).memory(&weight.memory, at);
    let launch = launch.int(count).int(weight.cols).int(padded);
    let blocks = (count * padded).div_ceil(THREADS);
    // SAFETY: as above.
    unsafe { launch.run(Grid { blocks: [blocks, 1, 1], threads: THREADS, shared: 0 }) }
}
