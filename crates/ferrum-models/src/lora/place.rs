//! Where an adapter changes a model.

use std::ops::Range;

use crate::arch;
use crate::checkpoint::Layout;
use crate::decoder::{DecoderSpec, LayerSpec};

/// The linears of a layer that an adapter can change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Module {
    Q,
    K,
    V,
    AttnOutput,
    Gate,
    Up,
    Down,
}

impl Module {
    /// All of them, in the order of their numbers.
    pub const ALL: [Module; 7] = [
        Module::Q,
        Module::K,
        Module::V,
        Module::AttnOutput,
        Module::Gate,
        Module::Up,
        Module::Down,
    ];
}

/// A linear of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Site {
    pub layer: usize,
    pub module: Module,
}

impl Site {
    /// Output and input features.
    pub fn shape(self, spec: &DecoderSpec) -> (usize, usize) {
        let layer = &spec.layers[self.layer];
        let (q, kv) = (layer.heads * layer.head_dim, layer.kv_heads * layer.head_dim);
        match self.module {
            Module::Q => (q, spec.hidden),
            Module::K | Module::V => (kv, spec.hidden),
            Module::AttnOutput => (spec.hidden, q),
            Module::Gate | Module::Up => (layer.mlp.width, spec.hidden),
            Module::Down => (spec.hidden, layer.mlp.width),
        }
    }
}

/// The sites of a module in GGUF's words, and which of its rows each has; `None` where the model has
/// no such linear, or one that adapters do not change (experts, embedding, output head).
pub(super) fn sites(module: &str, spec: &DecoderSpec) -> Option<Vec<(Site, Range<usize>)>> {
    let (layer, module) = module.strip_prefix("blk.")?.split_once('.')?;
    let layer: usize = layer.parse().ok()?;
    let modules = modules(module, spec.layers.get(layer)?)?;
    let mut start = 0;
    let place = |module: &Module| {
        let site = Site { layer, module: *module };
        let rows = start..start + site.shape(spec).0;
        start = rows.end;
        (site, rows)
    };
    Some(modules.iter().map(place).collect())
}

fn modules(name: &str, layer: &LayerSpec) -> Option<&'static [Module]> {
    let dense = layer.mlp.experts().is_none();
    Some(match name {
        "attn_qkv" if layer.fused_qkv => &[Module::Q, Module::K, Module::V],
        "attn_q" if !layer.fused_qkv => &[Module::Q],
        "attn_k" if !layer.fused_qkv => &[Module::K],
        "attn_v" if !layer.fused_qkv => &[Module::V],
        "attn_output" => &[Module::AttnOutput],
        "ffn_up" if dense && layer.mlp.fused => &[Module::Gate, Module::Up],
        "ffn_gate" if dense && !layer.mlp.fused => &[Module::Gate],
        "ffn_up" if dense => &[Module::Up],
        "ffn_down" if dense => &[Module::Down],
        _ => return None,
    })
}

/// A change of the order of rows, within each head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Order {
    /// Half of a head's rows.
    half: usize,
    /// From transformers' order to llama.cpp's, or back.
    interleave: bool,
}

impl Order {
    /// For heads of twice `half` rows; `interleave` is for a model of llama.cpp's order.
    pub fn new(half: usize, interleave: bool) -> Self {
        Order { half, interleave }
    }

    /// The row of the adapter that is row `row` of the model.
    pub fn source(&self, row: usize) -> usize {
        let (head, at) = (row / (2 * self.half), row % (2 * self.half));
        let within = match self.interleave {
            // Row 2i of llama.cpp is row i of transformers, row 2i + 1 is row half + i.
            true => at % 2 * self.half + at / 2,
            false => at % self.half * 2 + at / self.half,
        };
        head * 2 * self.half + within
    }
}

/// How rows have to be reordered for the model, whose `layouts` are its own and the adapter's:
/// llama.cpp's converter puts the rows of q and k side by side that are rotated together.
pub(super) fn order(
    site: Site,
    spec: &DecoderSpec,
    architecture: &str,
    layouts: (Layout, Layout),
) -> Option<Order> {
    let rotated = matches!(site.module, Module::Q | Module::K);
    if !rotated || layouts.0 == layouts.1 || !arch::reorders_rows(architecture) {
        return None;
    }
    let head_dim = spec.layers[site.layer].head_dim;
    let interleave = layouts.0 == Layout::Gguf;
    head_dim.is_multiple_of(2).then_some(Order::new(head_dim / 2, interleave))
}
