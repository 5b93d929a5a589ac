//! Tensors of a checkpoint to packed weights, one tensor at a time.

use std::borrow::Cow;
use std::collections::HashSet;
use std::ops::Range;

use ferrum_kernels::params::KvValues;
use ferrum_kernels::{Backend, DType, Format, KernelError, KvDType, Need, WeightSource};

use super::cut::Cut;
use super::{DecoderSpec, ExpertsSpec, LayerSpec, MlpSpec, QkNorm, Share};
use crate::checkpoint::{Checkpoint, Tensor, rows_of};
use crate::gguf::GgufError;
use crate::hf::HfError;
use crate::load::ModelError;

/// The embedding, which may be the output head too.
const EMBEDDING: &str = "token_embd.weight";

/// All weights of a decoder on a backend.
pub(super) struct DecoderWeights<B: Backend> {
    /// `[vocab, hidden]`
    pub embed: B::Weight,
    /// `[vocab, hidden]`; `None` where the embedding serves as the output head too.
    pub head: Option<B::Weight>,
    /// `[hidden]`
    pub output_norm: B::Buffer,
    pub layers: Vec<LayerWeights<B>>,
}

impl<B: Backend> DecoderWeights<B> {
    /// The output head.
    pub fn head(&self) -> &B::Weight {
        self.head.as_ref().unwrap_or(&self.embed)
    }
}

/// Weights of one layer.
pub(super) struct LayerWeights<B: Backend> {
    pub attn_norm: Option<B::Buffer>,
    pub q: B::Weight,
    pub k: B::Weight,
    pub v: B::Weight,
    /// Biases of q, k and v.
    pub qkv_bias: Option<[B::Buffer; 3]>,
    /// Norms of q and k, of a head's width or of all heads'.
    pub qk_norm: Option<[B::Buffer; 2]>,
    pub attn_output: B::Weight,
    pub post_attn_norm: Option<B::Buffer>,
    pub ffn_norm: Option<B::Buffer>,
    pub mlp: MlpWeights<B>,
    pub post_ffn_norm: Option<B::Buffer>,
}

/// Weights of an MLP.
pub(super) enum MlpWeights<B: Backend> {
    Dense { gate: B::Weight, up: B::Weight, down: B::Weight },
    Experts(ExpertWeights<B>),
}

/// Weights of a mixture: the router `[experts, hidden]`, and stacks of the experts' matrices.
pub(super) struct ExpertWeights<B: Backend> {
    pub router: B::Weight,
    pub gate: B::Weight,
    pub up: B::Weight,
    pub down: B::Weight,
}

/// What a tensor is for, with the shape that the spec gives it.
pub(crate) struct TensorRole {
    pub name: String,
    pub kind: RoleKind,
}

/// The ways in which the decoder uses a tensor.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum RoleKind {
    /// A packed matrix of so many rows and columns.
    Matrix { rows: usize, cols: usize },
    /// So many packed matrices, one for each expert.
    Stack { experts: usize, rows: usize, cols: usize },
    /// A vector of norms, biases or factors, kept in `f32`.
    Vector(usize),
}

impl RoleKind {
    /// Columns of a matrix.
    fn cols(&self) -> usize {
        match *self {
            RoleKind::Matrix { cols, .. } | RoleKind::Stack { cols, .. } => cols,
            RoleKind::Vector(_) => 0,
        }
    }
}

/// Every tensor that a model of this spec has, in the order of loading. `tied` leaves out the
/// output head.
pub(crate) fn tensor_roles(spec: &DecoderSpec, tied: bool) -> Vec<TensorRole> {
    let mut roles = vec![matrix(EMBEDDING, spec.vocab, spec.hidden)];
    for (i, layer) in spec.layers.iter().enumerate() {
        layer_roles(&mut roles, spec, layer, i);
    }
    roles.push(vector("output_norm.weight", spec.hidden));
    if !tied {
        roles.push(matrix("output.weight", spec.vocab, spec.hidden));
    }
    for rope in &spec.ropes {
        roles.extend(rope.divisors().into_iter().map(|d| vector(d, rope.rotary_dim / 2)));
    }
    roles
}

fn layer_roles(roles: &mut Vec<TensorRole>, spec: &DecoderSpec, layer: &LayerSpec, i: usize) {
    let name = |what: &str| format!("blk.{i}.{what}");
    let (q_width, kv_width) = (layer.heads * layer.head_dim, layer.kv_heads * layer.head_dim);
    let (before, after) = (layer.norms.before(), layer.norms.after());
    if before {
        roles.push(vector(name("attn_norm.weight"), spec.hidden));
        roles.push(vector(name("ffn_norm.weight"), spec.hidden));
    }
    if layer.fused_qkv {
        let width = q_width + 2 * kv_width;
        roles.push(matrix(name("attn_qkv.weight"), width, spec.hidden));
    }
    for (part, width) in [("q", q_width), ("k", kv_width), ("v", kv_width)] {
        if !layer.fused_qkv {
            roles.push(matrix(name(&format!("attn_{part}.weight")), width, spec.hidden));
        }
        if layer.qkv_bias {
            roles.push(vector(name(&format!("attn_{part}.bias")), width));
        }
        let norm_width = match layer.qk_norm {
            QkNorm::Head if part != "v" => layer.head_dim,
            QkNorm::Row if part != "v" => width,
            _ => continue,
        };
        roles.push(vector(name(&format!("attn_{part}_norm.weight")), norm_width));
    }
    roles.push(matrix(name("attn_output.weight"), spec.hidden, q_width));
    mlp_roles(roles, spec.hidden, &layer.mlp, i);
    if after {
        roles.push(vector(name("post_attention_norm.weight"), spec.hidden));
        roles.push(vector(name("post_ffw_norm.weight"), spec.hidden));
    }
}

fn mlp_roles(roles: &mut Vec<TensorRole>, hidden: usize, mlp: &MlpSpec, i: usize) {
    let name = |what: &str| format!("blk.{i}.ffn_{what}.weight");
    if mlp.fused {
        roles.push(matrix(name("up"), 2 * mlp.width, hidden));
        return roles.push(matrix(name("down"), hidden, mlp.width));
    }
    let parts =
        [("gate", mlp.width, hidden), ("up", mlp.width, hidden), ("down", hidden, mlp.width)];
    let Some(&ExpertsSpec { count: experts, .. }) = mlp.experts() else {
        return roles.extend(parts.map(|(part, rows, cols)| matrix(name(part), rows, cols)));
    };
    roles.push(matrix(name("gate_inp"), experts, hidden));
    roles.extend(parts.map(|(part, rows, cols)| TensorRole {
        name: name(&format!("{part}_exps")),
        kind: RoleKind::Stack { experts, rows, cols },
    }));
}

fn matrix(name: impl Into<String>, rows: usize, cols: usize) -> TensorRole {
    TensorRole { name: name.into(), kind: RoleKind::Matrix { rows, cols } }
}

fn vector(name: impl Into<String>, len: usize) -> TensorRole {
    TensorRole { name: name.into(), kind: RoleKind::Vector(len) }
}

/// Holds the file against the spec: each tensor that the spec names is there with its shape, and the
/// file has no other tensor (one that we do not use would be a part of the model that we leave out in
/// silence). Gives the tensors back.
pub(crate) fn checked_roles(
    file: &dyn Checkpoint,
    spec: &DecoderSpec,
) -> Result<Vec<TensorRole>, ModelError> {
    let tied = file.find("output.weight").is_none();
    let roles = tensor_roles(spec, tied);
    for role in &roles {
        check_shape(file, role, file.require(&role.name)?)?;
    }
    let known: HashSet<&str> = roles.iter().map(|r| r.name.as_str()).collect();
    match file.names().into_iter().find(|name| !known.contains(name)) {
        Some(extra) => Err(ModelError::UnusedTensor { name: file.name_in_file(extra) }),
        None => Ok(roles),
    }
}

/// The tensor called `name` in the format that it is packed from: as the file keeps it, where inputs may be
/// rounded and the backend multiplies such numbers, or as [`Checkpoint::read`] gives it.
pub(super) fn packed_tensor<'a, B: Backend>(
    backend: &B,
    file: &'a dyn Checkpoint,
    name: &str,
    rounded: bool,
) -> Result<Tensor<'a>, ModelError> {
    let tensor = file.require(name)?;
    let keep = rounded && name != EMBEDDING && backend.keeps_e4m3() && file.is_kept(name);
    Ok(if keep { Tensor { format: Format::F8_E4M3, columns: None, ..tensor } } else { tensor })
}

/// [`checked_roles`], before any weight is packed, and that the share can be cut from the tensors and
/// the backend has the formats.
fn check_tensors<B: Backend>(
    backend: &B,
    file: &dyn Checkpoint,
    (spec, share): (&DecoderSpec, Share),
    rounded: bool,
) -> Result<(), ModelError> {
    let tied = file.find("output.weight").is_none();
    let own = tensor_roles(&share.of_spec(spec)?, tied);
    for (whole, role) in checked_roles(file, spec)?.into_iter().zip(own) {
        let format = packed_tensor(backend, file, &role.name, rounded)?.format;
        if whole.kind.cols() != role.kind.cols() {
            let name = file.name_in_file(&role.name);
            share.check_cols(&name, format, whole.kind.cols())?;
            if file.require(&role.name)?.columns.is_some() {
                let what = format!("the columns of tensor {name} have an order of their own");
                return Err(share.refusal(what));
            }
        }
        match role.kind {
            RoleKind::Matrix { cols, .. } => backend.check(&Need::Linear { format, cols })?,
            RoleKind::Stack { cols, .. } => backend.check(&Need::ExpertLinear { format, cols })?,
            RoleKind::Vector(_) => {}
        }
    }
    Ok(backend.check(&Need::Embed(file.require(EMBEDDING)?.format))?)
}

/// [`check_tensors`], and that the backend has the attention of every layer with such a cache.
pub(super) fn check_file<B: Backend>(
    backend: &B,
    file: &dyn Checkpoint,
    (spec, share): (&DecoderSpec, Share),
    (kv, rounded): (KvDType, bool),
) -> Result<(), ModelError> {
    check_tensors(backend, file, (spec, share), rounded)?;
    for layer in &spec.layers {
        let values = KvValues::Own;
        backend.check(&Need::Attention { head_dim: layer.head_dim, values, kv })?;
    }
    Ok(())
}

fn check_shape(
    file: &dyn Checkpoint,
    role: &TensorRole,
    tensor: Tensor<'_>,
) -> Result<(), ModelError> {
    let expected = match role.kind {
        RoleKind::Matrix { rows, cols } => vec![cols, rows],
        RoleKind::Stack { experts, rows, cols } => vec![cols, rows, experts],
        RoleKind::Vector(len) => vec![len],
    };
    // Writers may keep trailing dimensions of one.
    let got: &[usize] = tensor.dims;
    let significant = got.iter().rposition(|&d| d != 1).map_or(1, |last| last + 1);
    if got[..significant.max(expected.len()).min(got.len())] == expected[..] {
        return Ok(());
    }
    let name = file.name_in_file(&role.name);
    Err(ModelError::TensorShape { name, expected, got: got.to_vec() })
}

/// Packs weights one tensor at a time and gives the file's pages back as it goes, so that the file
/// and the packed form are never resident together.
pub(super) struct Loader<'a, B: Backend> {
    pub backend: &'a B,
    pub stream: &'a mut B::Stream,
    pub file: &'a dyn Checkpoint,
    /// Linears may be rounded.
    pub rounded: bool,
    /// The output head is wanted.
    pub head: bool,
    /// Of each tensor, what this rank has.
    pub share: Share,
    /// For tensors that the file has in another form.
    pub memory: Vec<u8>,
}

impl<B: Backend> Loader<'_, B> {
    /// Loads all weights of the share; `spec` is that of the whole model, and the file has passed
    /// [`check_file`].
    pub fn load(&mut self, spec: &DecoderSpec) -> Result<DecoderWeights<B>, ModelError> {
        let tokens = self.share.of(spec.vocab);
        let zeros = self.share.is_part();
        let embed = self.pack(EMBEDDING, 1, |cut| Cut { rows: tokens, zeros, ..cut })?;
        let layers = spec
            .layers
            .iter()
            .enumerate()
            .map(|(i, layer)| self.layer(layer, i))
            .collect::<Result<_, _>>()?;
        let head = match self.file.find("output.weight") {
            Some(_) if self.head => Some(self.rows("output.weight", 0..spec.vocab)?),
            _ => None,
        };
        Ok(DecoderWeights { embed, head, output_norm: self.vector("output_norm.weight")?, layers })
    }

    fn layer(&mut self, layer: &LayerSpec, i: usize) -> Result<LayerWeights<B>, ModelError> {
        let name = |what: &str| format!("blk.{i}.{what}");
        let qkv_bias = match layer.qkv_bias {
            true => Some([
                self.vector_part(&name("attn_q.bias"))?,
                self.vector_part(&name("attn_k.bias"))?,
                self.vector_part(&name("attn_v.bias"))?,
            ]),
            false => None,
        };
        let qk_norm = match layer.qk_norm {
            QkNorm::None => None,
            QkNorm::Head | QkNorm::Row => Some([
                self.vector(&name("attn_q_norm.weight"))?,
                self.vector(&name("attn_k_norm.weight"))?,
            ]),
        };
        let mut norm =
            |there: bool, what: &str| there.then(|| self.vector(&name(what))).transpose();
        let (before, after) = (layer.norms.before(), layer.norms.after());
        let attn_norm = norm(before, "attn_norm.weight")?;
        let post_attn_norm = norm(after, "post_attention_norm.weight")?;
        let ffn_norm = norm(before, "ffn_norm.weight")?;
        let post_ffn_norm = norm(after, "post_ffw_norm.weight")?;
        let [q, k, v] = self.projections(layer, &name)?;
        let attn_output = self.cols(&name("attn_output.weight"), 1)?;
        let mlp = self.mlp(&layer.mlp, &name)?;
        Ok(LayerWeights {
            attn_norm,
            q,
            k,
            v,
            qkv_bias,
            qk_norm,
            attn_output,
            post_attn_norm,
            ffn_norm,
            mlp,
            post_ffn_norm,
        })
    }

    /// Query, key and value projections.
    fn projections(
        &mut self,
        layer: &LayerSpec,
        name: &dyn Fn(&str) -> String,
    ) -> Result<[B::Weight; 3], ModelError> {
        let (k, kv) = (layer.heads * layer.head_dim, layer.kv_heads * layer.head_dim);
        if !layer.fused_qkv {
            return Ok([
                self.rows(&name("attn_q.weight"), 0..k)?,
                self.rows(&name("attn_k.weight"), 0..kv)?,
                self.rows(&name("attn_v.weight"), 0..kv)?,
            ]);
        }
        let (fused, v) = (name("attn_qkv.weight"), k + kv);
        Ok([self.rows(&fused, 0..k)?, self.rows(&fused, k..v)?, self.rows(&fused, v..v + kv)?])
    }

    fn mlp(
        &mut self,
        mlp: &MlpSpec,
        name: &dyn Fn(&str) -> String,
    ) -> Result<MlpWeights<B>, ModelError> {
        let width = mlp.width;
        if mlp.fused {
            let fused = name("ffn_up.weight");
            return Ok(MlpWeights::Dense {
                gate: self.rows(&fused, 0..width)?,
                up: self.rows(&fused, width..2 * width)?,
                down: self.cols(&name("ffn_down.weight"), 1)?,
            });
        }
        let Some(&ExpertsSpec { count, .. }) = mlp.experts() else {
            return Ok(MlpWeights::Dense {
                gate: self.rows(&name("ffn_gate.weight"), 0..width)?,
                up: self.rows(&name("ffn_up.weight"), 0..width)?,
                down: self.cols(&name("ffn_down.weight"), 1)?,
            });
        };
        let part = self.share.of(width);
        let mut rows =
            |what: &str| self.pack(&name(what), count, |cut| Cut { rows: part.clone(), ..cut });
        let (gate, up) = (rows("ffn_gate_exps.weight")?, rows("ffn_up_exps.weight")?);
        Ok(MlpWeights::Experts(ExpertWeights {
            router: self.pack(&name("ffn_gate_inp.weight"), 1, |cut| cut)?,
            gate,
            up,
            down: self.cols(&name("ffn_down_exps.weight"), count)?,
        }))
    }

    /// Of some rows of a matrix, those of this rank, as a matrix of their own.
    fn rows(&mut self, name: &str, rows: Range<usize>) -> Result<B::Weight, ModelError> {
        let part = self.share.of(rows.len());
        let rows = rows.start + part.start..rows.start + part.end;
        self.pack(name, 1, |cut| Cut { rows, ..cut })
    }

    /// This rank's columns of each of a tensor's matrices.
    fn cols(&mut self, name: &str, experts: usize) -> Result<B::Weight, ModelError> {
        let share = self.share;
        self.pack(name, experts, |cut| Cut { cols: share.of(cut.cols.len()), ..cut })
    }

    /// What `cut` makes of all of a tensor with so many matrices.
    fn pack(
        &mut self,
        name: &str,
        experts: usize,
        cut: impl FnOnce(Cut) -> Cut,
    ) -> Result<B::Weight, ModelError> {
        // Rows of the embedding are taken as they are.
        let rounded = self.rounded && name != EMBEDDING;
        let tensor = packed_tensor(self.backend, self.file, name, rounded)?;
        let cut = cut(Cut::whole(&tensor, experts));
        if tensor.format == Format::F8_E4M3 {
            return self.pack_kept(name, &tensor, &cut);
        }
        let (ranks, memory) = (self.share.ranks, &mut self.memory);
        let data = self.file.read_rows(name, cut.span(&tensor), ranks, memory)?;
        let (ranges, part) = (cut.ranges(&tensor), cut.bytes(&tensor, data));
        let source = WeightSource::new(tensor.format, cut.total_rows(), cut.cols.len(), &part)?;
        let source = source.stacked(experts)?.ordered(tensor.columns)?;
        let source = if rounded { source.rounded() } else { source };
        let start = ranges.first().map_or(0, |range| range.start);
        let release = |range: Range<usize>| {
            self.file.give_back(name, start + range.start..start + range.end);
        };
        if let Cow::Borrowed(_) = &part {
            return Ok(self.backend.pack(self.stream, &source.telling(&release))?);
        }
        ranges.into_iter().for_each(|range| self.file.give_back(name, range));
        Ok(self.backend.pack(self.stream, &source)?)
    }

    /// The part of a tensor that the file keeps in this format.
    fn pack_kept(
        &mut self,
        name: &str,
        tensor: &Tensor<'_>,
        cut: &Cut,
    ) -> Result<B::Weight, ModelError> {
        let missing = || GgufError::MissingTensor { name: self.file.name_in_file(name) };
        let kept = self.file.kept(name).ok_or_else(missing)?;
        let bytes = match *kept.matrices {
            [one] => Cow::Borrowed(one),
            _ => Cow::Owned(kept.matrices.concat()),
        };
        let data = rows_of(&bytes, tensor.rows(), cut.span(tensor));
        let (part, scales) = (cut.bytes(tensor, data), cut.of_rows(tensor, &kept.scales));
        let source = WeightSource::new(tensor.format, cut.total_rows(), cut.cols.len(), &part);
        let source = source.and_then(|source| source.stacked(cut.experts)?.scaled(Some(&scales)));
        let packed = source.and_then(|source| self.backend.pack(self.stream, &source.rounded()));
        let packed = packed.map_err(|error| match error {
            // What it says of the numbers says not of which tensor.
            KernelError::Shape { what, .. } => {
                let name = self.file.name_in_file(name);
                ModelError::Hf(HfError::Quantized { name, reason: what })
            }
            other => other.into(),
        })?;
        self.file.give_back_kept(name);
        Ok(packed)
    }

    /// This rank's part of a vector.
    fn vector_part(&mut self, name: &str) -> Result<B::Buffer, ModelError> {
        let values = vector_values(self.file, name)?;
        self.upload(&values[self.share.of(values.len())])
    }

    fn vector(&mut self, name: &str) -> Result<B::Buffer, ModelError> {
        let values = vector_values(self.file, name)?;
        self.upload(&values)
    }

    fn upload(&mut self, values: &[f32]) -> Result<B::Buffer, ModelError> {
        let mut buffer = self.backend.alloc(DType::F32, values.len())?;
        self.backend.upload_f32(self.stream, values, &mut buffer)?;
        Ok(buffer)
    }
}

/// The values of a small tensor (norms, biases, rope factors) in `f32`, whatever its format.
pub(super) fn vector_values(file: &dyn Checkpoint, name: &str) -> Result<Vec<f32>, ModelError> {
    let tensor = file.require(name)?;
    let mut values = vec![0.0; tensor.elements()];
    ferrum_kernels::weight::dequantize_row(tensor.format, &file.read(name)?, &mut values)?;
    tensor.in_order(&mut values);
    Ok(values)
}
