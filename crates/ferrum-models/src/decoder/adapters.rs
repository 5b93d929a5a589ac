//! Linears with what adapters add to them: `y = W·x + B·(A·x)`, another `A` and `B` for each sequence.
//!
//! The tokens of a step are grouped by adapter. The weight itself meets all of them at once, as it does
//! without adapters; then each group's rows are gathered, multiplied with its two small matrices and
//! added (Chen et al. 2023, arXiv:2310.18547, do the same in one kernel). A step in which all
//! tokens have one adapter needs no gathering, and one without any is computed as if there were none.

use ferrum_kernels::params::{Gate, GatedLinear, GatherRows, Linear, LinearOutput, ScatterAdd};
use ferrum_kernels::{Backend, DType, Format, KernelError, PackedWeight, StepInput, WeightSource};

use super::DecoderSpec;
use crate::load::ModelError;
use crate::lora::{Adapter, LowRank, Module, Site};
use crate::runner::RunnerLimits;

/// The most linears that share an input.
const SHARED: usize = 3;

/// The adapters of a model, and the groups of a step.
pub(super) struct Adapters<B: Backend> {
    /// By number; each by layer.
    sets: Vec<Vec<LayerAdapter<B>>>,
    /// One for each adapter that a step can have at once.
    groups: Vec<Group<B>>,
    /// Groups of the step.
    active: usize,
    /// The second half of a gated MLP `[T, mlp width]`.
    up: B::Buffer,
    scratch: Scratch<B>,
}

/// By [`Module`].
type LayerAdapter<B> = [Option<Delta<B>>; Module::ALL.len()];

/// What an adapter adds to a linear: `b · (a · x)`.
struct Delta<B: Backend> {
    /// `[rank, cols]`
    a: B::Weight,
    /// `[rows, rank]`
    b: B::Weight,
}

/// Tokens of a step that have the same adapter.
struct Group<B: Backend> {
    set: usize,
    /// They are all of the step.
    whole: bool,
    /// Their numbers.
    rows: Vec<i32>,
    /// Likewise, `I32 [T]`.
    buffer: B::Buffer,
}

/// Device buffers, all `F32`.
struct Scratch<B: Backend> {
    /// A group's part of an input `[T, widest input]`.
    input: B::Buffer,
    /// Products with `A` `[T, highest rank]`.
    mid: [B::Buffer; SHARED],
    /// A group's part of an output `[T, widest output]`.
    output: B::Buffer,
}

/// Sizes of all adapters of a model together.
pub(super) struct AdapterSizes {
    rank: usize,
    cols: usize,
    rows: usize,
    mlp: usize,
    groups: usize,
    tokens: usize,
}

impl AdapterSizes {
    /// `None` where no adapter changes anything.
    pub fn new(adapters: &[Adapter], spec: &DecoderSpec, limits: &RunnerLimits) -> Option<Self> {
        let used = adapters.iter().filter(|adapter| !adapter.is_empty()).count();
        let shapes = || sites(spec).map(|site| site.shape(spec));
        let ranks = sites(spec).flat_map(|site| adapters.iter().map(move |a| a.rank(site)));
        (used > 0).then(|| AdapterSizes {
            rank: ranks.max().unwrap_or(0),
            cols: shapes().map(|(_, cols)| cols).max().unwrap_or(0),
            rows: shapes().map(|(rows, _)| rows).max().unwrap_or(0),
            mlp: spec.layers.iter().map(|l| l.mlp.width).max().unwrap_or(0),
            groups: used.min(limits.capacity.seqs),
            tokens: limits.capacity.tokens,
        })
    }

    /// Bytes of the buffers.
    pub fn buffer_bytes(&self) -> usize {
        let floats = self.cols + SHARED * self.rank + self.rows + self.mlp;
        // The numbers of the rows are kept on the host too.
        size_of::<f32>() * self.tokens * (floats + 2 * self.groups)
    }
}

/// Bytes of the weights of all adapters.
pub(super) fn weight_bytes<B: Backend>(
    backend: &B,
    adapters: &[Adapter],
    spec: &DecoderSpec,
) -> usize {
    let mut bytes = 0usize;
    for (adapter, site) in adapters.iter().flat_map(|a| sites(spec).map(move |site| (a, site))) {
        let (rank, (rows, cols)) = (adapter.rank(site), site.shape(spec));
        if rank > 0 {
            let a = backend.packed_bytes(Format::F32, rank, cols);
            bytes = bytes.saturating_add(a);
            bytes = bytes.saturating_add(backend.packed_bytes(Format::F32, rows, rank));
        }
    }
    bytes
}

/// Every linear that adapters can change.
fn sites(spec: &DecoderSpec) -> impl Iterator<Item = Site> {
    let layers = 0..spec.layers.len();
    layers.flat_map(|layer| Module::ALL.map(|module| Site { layer, module }))
}

impl<B: Backend> Adapters<B> {
    /// Loads them; `None` where none changes anything.
    pub fn load(
        backend: &B,
        stream: &mut B::Stream,
        adapters: &[Adapter],
        (spec, limits): (&DecoderSpec, &RunnerLimits),
    ) -> Result<Option<Self>, ModelError> {
        let Some(sizes) = AdapterSizes::new(adapters, spec, limits) else { return Ok(None) };
        let mut sets = Vec::with_capacity(adapters.len());
        for adapter in adapters {
            let mut layers = Vec::new();
            for layer in 0..if adapter.is_empty() { 0 } else { spec.layers.len() } {
                let mut deltas = [const { None }; Module::ALL.len()];
                for (delta, module) in deltas.iter_mut().zip(Module::ALL) {
                    let site = Site { layer, module };
                    let (rows, cols) = site.shape(spec);
                    let Some(values) = adapter.read(site, cols)? else { continue };
                    *delta = Some(Delta::pack(backend, stream, &values, (rows, cols))?);
                }
                layers.push(deltas);
            }
            sets.push(layers);
        }
        let floats = |width: usize| backend.alloc(DType::F32, sizes.tokens * width);
        let group = |_| {
            let buffer = backend.alloc(DType::I32, sizes.tokens)?;
            let rows = Vec::with_capacity(sizes.tokens);
            Ok::<_, KernelError>(Group { set: 0, whole: false, rows, buffer })
        };
        Ok(Some(Adapters {
            sets,
            groups: (0..sizes.groups).map(group).collect::<Result<_, _>>()?,
            active: 0,
            up: floats(sizes.mlp)?,
            scratch: Scratch {
                input: floats(sizes.cols)?,
                mid: [floats(sizes.rank)?, floats(sizes.rank)?, floats(sizes.rank)?],
                output: floats(sizes.rows)?,
            },
        }))
    }

    /// Groups the tokens of a step, which names only adapters that there are.
    pub fn begin(&mut self, b: &B, s: &mut B::Stream, step: &StepInput) -> Result<(), KernelError> {
        self.active = 0;
        for (seq, bounds) in step.query_starts.windows(2).enumerate() {
            let set = step.adapters.get(seq).map_or(0, |&number| number as usize);
            if self.sets.get(set).is_none_or(Vec::is_empty) {
                continue;
            }
            let known = self.groups[..self.active].iter().position(|group| group.set == set);
            let index = known.unwrap_or(self.active);
            let Some(group) = self.groups.get_mut(index) else {
                return Err(KernelError::shape("adapters", "more of them than sequences"));
            };
            if known.is_none() {
                (group.set, self.active) = (set, self.active + 1);
                group.rows.clear();
            }
            group.rows.extend(bounds[0]..bounds[1]);
        }
        for group in &mut self.groups[..self.active] {
            group.whole = group.rows.len() == step.tokens.len();
            if !group.whole {
                b.upload_i32(s, &group.rows, &mut group.buffer)?;
            }
        }
        Ok(())
    }

    /// Whether the step's adapters change one of these linears.
    fn change(&self, layer: usize, modules: &[Module]) -> bool {
        self.groups[..self.active].iter().any(|group| {
            let deltas = &self.sets[group.set][layer];
            modules.iter().any(|&module| deltas[module as usize].is_some())
        })
    }
}

impl<B: Backend> Delta<B> {
    fn pack(
        backend: &B,
        s: &mut B::Stream,
        values: &LowRank,
        (rows, cols): (usize, usize),
    ) -> Result<Self, ModelError> {
        let mut pack = |values: &[f32], rows, cols| {
            let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
            backend.pack(s, &WeightSource::new(Format::F32, rows, cols, &bytes)?)
        };
        let a = pack(&values.a, values.rank, cols)?;
        Ok(Delta { a, b: pack(&values.b, rows, values.rank)? })
    }
}

/// The one place where the linears of a layer are computed.
pub(super) struct Linears<'a, B: Backend> {
    pub b: &'a B,
    pub s: &'a mut B::Stream,
    pub adapters: Option<&'a mut Adapters<B>>,
}

impl<B: Backend> Linears<'_, B> {
    /// [`Backend::linear`] for some modules of a layer, in the order of its outputs.
    pub fn linear(
        &mut self,
        layer: usize,
        modules: &[Module],
        p: Linear<'_, '_, B>,
    ) -> Result<(), KernelError> {
        let Linear { input, rows, outputs } = p;
        self.b.linear(self.s, Linear { input, rows, outputs: &mut *outputs })?;
        let Some(adapters) = self.adapters.as_deref_mut() else { return Ok(()) };
        let Adapters { sets, groups, active, scratch, .. } = adapters;
        let mut changes = Changes { sets, groups: &groups[..*active], scratch };
        changes.add((self.b, self.s), (layer, modules), (input, rows), outputs)
    }

    /// [`Backend::gated_linear`] for gate and up of a layer.
    pub fn gated_linear(
        &mut self,
        layer: usize,
        dst: &mut B::Buffer,
        p: &GatedLinear<'_, B>,
    ) -> Result<(), KernelError> {
        const MODULES: [Module; 2] = [Module::Gate, Module::Up];
        let changed = self.adapters.as_ref().is_some_and(|a| a.change(layer, &MODULES));
        let Some(adapters) = self.adapters.as_deref_mut().filter(|_| changed) else {
            return self.b.gated_linear(self.s, dst, p);
        };
        let &GatedLinear { input, rows, gate, up, activation } = p;
        let Adapters { sets, groups, active, scratch, up: second, .. } = adapters;
        let output = |weight, dst| LinearOutput { weight, bias: None, dst, accumulate: false };
        let mut outputs = [output(gate, &mut *dst), output(up, &mut *second)];
        self.b.linear(self.s, Linear { input, rows, outputs: &mut outputs })?;
        let mut changes = Changes { sets, groups: &groups[..*active], scratch };
        changes.add((self.b, self.s), (layer, &MODULES), (input, rows), &mut outputs)?;
        self.b.gate(self.s, dst, &Gate { up: second, rows, width: gate.rows(), activation })
    }
}

/// What the adapters of a step change, and what it takes to compute it.
struct Changes<'a, B: Backend> {
    sets: &'a [Vec<LayerAdapter<B>>],
    groups: &'a [Group<B>],
    scratch: &'a mut Scratch<B>,
}

impl<B: Backend> Changes<'_, B> {
    /// Adds what the adapters make of the input of some modules of a layer to their outputs.
    fn add(
        &mut self,
        (b, s): (&B, &mut B::Stream),
        (layer, modules): (usize, &[Module]),
        (input, rows): (&B::Buffer, usize),
        outputs: &mut [LinearOutput<'_, B>],
    ) -> Result<(), KernelError> {
        for group in self.groups {
            let deltas = &self.sets[group.set][layer];
            let both = modules.iter().zip(outputs.iter_mut());
            let changed = both.filter_map(|(&module, output)| {
                Some((deltas[module as usize].as_ref()?, &mut *output.dst))
            });
            self.scratch.add(b, s, group, (input, rows), changed.collect())?;
        }
        Ok(())
    }
}

impl<B: Backend> Scratch<B> {
    /// Adds what a group's adapter makes of an input of `rows` tokens to each output.
    fn add(
        &mut self,
        b: &B,
        s: &mut B::Stream,
        group: &Group<B>,
        (input, rows): (&B::Buffer, usize),
        outputs: Vec<(&Delta<B>, &mut B::Buffer)>,
    ) -> Result<(), KernelError> {
        let Some((first, _)) = outputs.first() else { return Ok(()) };
        let count = if group.whole { rows } else { group.rows.len() };
        let input = match group.whole {
            true => input,
            false => {
                let (rows, width) = (&group.buffer, first.a.cols());
                b.gather_rows(s, &mut self.input, &GatherRows { src: input, rows, count, width })?;
                &self.input
            }
        };
        let mut products: Vec<_> = outputs
            .iter()
            .zip(&mut self.mid)
            .map(|((delta, _), dst)| LinearOutput {
                weight: &delta.a,
                bias: None,
                dst,
                accumulate: false,
            })
            .collect();
        b.linear(s, Linear { input, rows: count, outputs: &mut products })?;
        for ((delta, dst), input) in outputs.into_iter().zip(&self.mid) {
            let weight = &delta.b;
            let (out, accumulate) =
                if group.whole { (&mut *dst, true) } else { (&mut self.output, false) };
            let outputs = &mut [LinearOutput { weight, bias: None, dst: out, accumulate }];
            b.linear(s, Linear { input, rows: count, outputs })?;
            if !group.whole {
                let (src, rows, width) = (&self.output, &group.buffer, weight.rows());
                b.scatter_add(s, dst, &ScatterAdd { src, rows, count, width })?;
            }
        }
        Ok(())
    }
}
