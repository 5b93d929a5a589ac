//! The paged KV cache of one layer, laid out for attention.

use super::NAME;
use super::aligned::AlignedVec;
use super::simd::{LANES, Simd};
use crate::host::Plain;
use crate::params::{KvSpec, KvValues};
use crate::{E4m3, KV_SCALE_GROUP, KernelError, KvDType, KvStorage, Result, checks};
use half::{bf16, f16};

/// Keys and values of one layer.
///
/// A block holds, for one KV head, `KV_BLOCK_SIZE` positions: keys transposed as
/// `[head_dim][KV_BLOCK_SIZE]`, so that the lanes of a register are positions and a score needs no
/// sum across lanes; values as `[KV_BLOCK_SIZE][head_dim]`. Blocks are `[blocks][kv_heads]`, keys
/// and values apart.
///
/// Where values are a part of the keys ([`KvValues::PrefixOfKey`]) there are none; attention brings those
/// of a step into the layout of values once for all its rows.
///
/// In [`KvDType::Q8_0`] the scales lie apart from the bytes, for keys and values alike as
/// `[head_dim / KV_SCALE_GROUP][KV_BLOCK_SIZE]`: then a register of scales belongs to a register of
/// positions. A key's scale multiplies the sum over its group, a value's scale the weight of its
/// position, so neither costs an operation for each value.
pub struct CpuKvCache {
    spec: KvSpec,
    pub(super) data: Data,
}

/// The arrays `[blocks][kv_heads][KV_BLOCK_SIZE · head_dim]`, by element type.
pub(super) enum Data {
    F16 { k: AlignedVec<f16>, v: AlignedVec<f16> },
    BF16 { k: AlignedVec<bf16>, v: AlignedVec<bf16> },
    F32 { k: AlignedVec<f32>, v: AlignedVec<f32> },
    E4m3 { k: AlignedVec<E4m3>, v: AlignedVec<E4m3> },
    Q8 { k: Scaled, v: Scaled },
}

/// Bytes and their scales.
pub(super) struct Scaled {
    pub(super) q: AlignedVec<i8>,
    /// `[blocks][kv_heads][head_dim / KV_SCALE_GROUP][KV_BLOCK_SIZE]`
    pub(super) scales: AlignedVec<f16>,
}

impl Scaled {
    fn zeroed(len: usize, what: &'static str) -> Result<Self> {
        let scales = AlignedVec::zeroed(len / KV_SCALE_GROUP, what)?;
        Ok(Scaled { q: AlignedVec::zeroed(len, what)?, scales })
    }

    fn bytes(&self) -> usize {
        size_of_val(&self.q[..]) + size_of_val(&self.scales[..])
    }

    /// All of it.
    pub(super) fn stored(&self) -> Stored<'_, i8> {
        Stored { values: &self.q, scales: &self.scales }
    }
}

/// Keys or values, of a layer or a block.
#[derive(Clone, Copy)]
pub(super) struct Stored<'a, E> {
    pub(super) values: &'a [E],
    /// One for every [`KV_SCALE_GROUP`] values where [`KvElement::SCALED`], else none.
    pub(super) scales: &'a [f16],
}

impl<'a, E: KvElement> Stored<'a, E> {
    /// Nothing.
    pub(super) const NONE: Self = Stored { values: &[], scales: &[] };

    /// Part number `i` of `len` values each, which are whole groups.
    #[inline(always)]
    pub(super) fn part(self, i: usize, len: usize) -> Self {
        let scales = if E::SCALED { len / KV_SCALE_GROUP } else { 0 };
        Stored {
            values: &self.values[i * len..][..len],
            scales: &self.scales[i * scales..][..scales],
        }
    }
}

/// An element type of the cache.
pub(super) trait KvElement: Plain {
    /// Whether values are in units of a scale.
    const SCALED: bool = false;
    /// Eight values, widened.
    fn load<S: Simd>(src: &[Self]) -> S;
}

/// An element type without scales.
pub(super) trait KvFloat: KvElement {
    /// Stores eight values, rounded to nearest even.
    fn store<S: Simd>(x: S, dst: &mut [Self]);
}

impl KvElement for f16 {
    #[inline(always)]
    fn load<S: Simd>(src: &[Self]) -> S {
        S::load_f16(src)
    }
}

impl KvFloat for f16 {
    #[inline(always)]
    fn store<S: Simd>(x: S, dst: &mut [Self]) {
        x.store_f16(dst);
    }
}

impl KvElement for bf16 {
    #[inline(always)]
    fn load<S: Simd>(src: &[Self]) -> S {
        S::load_bf16(src)
    }
}

impl KvFloat for bf16 {
    #[inline(always)]
    fn store<S: Simd>(x: S, dst: &mut [Self]) {
        store_each(x, dst, bf16::from_f32);
    }
}

impl KvElement for E4m3 {
    #[inline(always)]
    fn load<S: Simd>(src: &[Self]) -> S {
        S::load_e4m3(src)
    }
}

impl KvFloat for E4m3 {
    #[inline(always)]
    fn store<S: Simd>(x: S, dst: &mut [Self]) {
        store_each(x, dst, E4m3::from_f32);
    }
}

/// Stores eight values one by one: a step writes few, and reads many.
#[inline(always)]
fn store_each<S: Simd, E>(x: S, dst: &mut [E], round: impl Fn(f32) -> E) {
    let mut lanes = [0.0; LANES];
    x.store(&mut lanes);
    for (dst, x) in dst[..LANES].iter_mut().zip(lanes) {
        *dst = round(x);
    }
}

impl KvElement for f32 {
    #[inline(always)]
    fn load<S: Simd>(src: &[Self]) -> S {
        S::load(src)
    }
}

impl KvFloat for f32 {
    #[inline(always)]
    fn store<S: Simd>(x: S, dst: &mut [Self]) {
        x.store(dst);
    }
}

impl KvElement for i8 {
    const SCALED: bool = true;

    #[inline(always)]
    fn load<S: Simd>(src: &[Self]) -> S {
        S::load_i8(src)
    }
}

/// The kernels work on whole registers of a head, and on whole groups that share a scale.
pub(super) fn check_head_dim(head_dim: usize, values: KvValues, kv: KvDType) -> Result<()> {
    let unit = if kv == KvDType::Q8_0 { KV_SCALE_GROUP } else { LANES };
    let whole = |dim: usize| dim.is_multiple_of(unit);
    if !checks::is_head(head_dim, values, kv) || !whole(head_dim) || !whole(values.dim(head_dim)) {
        let head = values.of(head_dim);
        let what = format!("attention with {head} (a multiple of {unit}) and a cache in {kv:?}");
        return Err(KernelError::Unsupported { backend: NAME, what });
    }
    Ok(())
}

impl CpuKvCache {
    /// Allocates a zeroed cache.
    pub(super) fn new(spec: &KvSpec) -> Result<Self> {
        check_head_dim(spec.head_dim, spec.values, spec.dtype)?;
        let [len, values] = checks::kv_cache(spec)?;
        let what = "a KV cache";
        let data = match spec.dtype {
            KvDType::F16 => Data::F16 {
                k: AlignedVec::zeroed(len, what)?,
                v: AlignedVec::zeroed(values, what)?,
            },
            KvDType::BF16 => Data::BF16 {
                k: AlignedVec::zeroed(len, what)?,
                v: AlignedVec::zeroed(values, what)?,
            },
            KvDType::Fp8E4M3 => Data::E4m3 {
                k: AlignedVec::zeroed(len, what)?,
                v: AlignedVec::zeroed(values, what)?,
            },
            KvDType::F32 => Data::F32 {
                k: AlignedVec::zeroed(len, what)?,
                v: AlignedVec::zeroed(values, what)?,
            },
            KvDType::Q8_0 => {
                Data::Q8 { k: Scaled::zeroed(len, what)?, v: Scaled::zeroed(values, what)? }
            }
        };
        Ok(CpuKvCache { spec: *spec, data })
    }
}

impl KvStorage for CpuKvCache {
    fn spec(&self) -> &KvSpec {
        &self.spec
    }

    fn resident_bytes(&self) -> usize {
        match &self.data {
            Data::F16 { k, v } => size_of_val(&k[..]) + size_of_val(&v[..]),
            Data::BF16 { k, v } => size_of_val(&k[..]) + size_of_val(&v[..]),
            Data::E4m3 { k, v } => size_of_val(&k[..]) + size_of_val(&v[..]),
            Data::F32 { k, v } => size_of_val(&k[..]) + size_of_val(&v[..]),
            Data::Q8 { k, v } => [k, v].map(Scaled::bytes).iter().sum(),
        }
    }
}
