//! What it takes to bring weights to tiles.

use super::super::kernels::Meaning;
use super::super::panel::GROUPS;

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

/// Rounded weights of a panel ([`super::super::shorts`]), likewise.
pub(super) struct ExpandShorts<'a> {
    /// The packed groups, from the first of the steps on. The second may be the first again.
    pub(super) groups: [&'a [u8]; GROUPS],
    /// Steps of 32 columns, an even number.
    pub(super) steps: usize,
    pub(super) which: usize,
}
