//! What it takes to bring unpacked weights to tiles.

use super::super::kernels::Meaning;

/// Unpacked weights of a panel, and where their tiles go.
pub(super) struct Expand<'a> {
    /// As in [`super::super::panel::Panel`].
    pub(super) quants: &'a [u8],
    pub(super) scales: &'a [f32],
    pub(super) mins: &'a [f32],
    pub(super) meaning: Meaning,
    /// Steps of 32 columns.
    pub(super) steps: usize,
    /// Whether the panel is the first or the second of its pair.
    pub(super) which: usize,
}
