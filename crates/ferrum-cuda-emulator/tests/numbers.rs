//! Conversions against the `half` crate, tensor cores against plain products.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]
#![allow(clippy::undocumented_unsafe_blocks, missing_docs, reason = "tests of a C interface")]

mod common;

use common::{Buffer, Gpu, Kernel};
use half::{bf16, f16};

const CONVERSIONS: &str = r#"
#include "ptx.cuh"
KERNEL(widen, 256, (float* h, float* b)) {
  u32 i = blockIdx.x * 256 + threadIdx.x;
  h[i] = f16_to_f32((u16)i);
  b[i] = bf16_to_f32((u16)i);
}
KERNEL(narrow, 256, (const float* x, u16* h, u32* hh, u32* bb, int n)) {
  int i = blockIdx.x * 256 + threadIdx.x;
  if (i >= n) return;
  h[i] = f32_to_f16(x[i]);
  hh[i] = f16x2(x[i], x[n - 1 - i]);
  bb[i] = bf16x2(x[i], x[n - 1 - i]);
}
"#;

/// The same bits, or both NaN.
fn same(a: f32, b: f32) -> bool {
    a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan()
}

#[test]
fn all_halves_widen() {
    let gpu = Gpu::open(0);
    let (h, b) = (Buffer::new(65536 * 4).unwrap(), Buffer::new(65536 * 4).unwrap());
    gpu.launch(&gpu.kernel(CONVERSIONS, "widen"), 256, 256, &[h.0, b.0]).unwrap();
    let halves: Vec<f32> = gpu.download(&h, 65536).unwrap();
    let brains: Vec<f32> = gpu.download(&b, 65536).unwrap();
    for bits in 0..=u16::MAX {
        let i = usize::from(bits);
        assert!(same(halves[i], f16::from_bits(bits).to_f32()), "f16 {bits:#x}");
        assert!(same(brains[i], bf16::from_bits(bits).to_f32()), "bf16 {bits:#x}");
    }
}

/// Every half and the points half way to the next, the borders of the subnormal numbers, infinities
/// and NaN, and bits that follow no pattern.
fn floats() -> Vec<f32> {
    let mut floats = Vec::new();
    for bits in 0..=u16::MAX {
        let h = f16::from_bits(bits).to_f32();
        let b = bf16::from_bits(bits).to_f32().to_bits();
        let tie = f32::from_bits(h.to_bits().wrapping_add(0x1000));
        let ties = [h, tie, tie.next_up(), tie.next_down()];
        floats.extend(
            ties.into_iter().chain([b, b | 0x7fff, b | 0x8000, b | 0x8001].map(f32::from_bits)),
        );
    }
    floats.extend([
        f32::MAX,
        f32::MIN,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::NAN,
        65519.0,
        65520.0,
    ]);
    let mut state = 1_u64;
    floats.extend((0..200_000).map(|_| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        f32::from_bits((state >> 32) as u32)
    }));
    // Subnormal halves and what rounds to them.
    floats.extend((0..50_000).map(|i| i as f32 * 2.0_f32.powi(-33)));
    floats
}

#[test]
fn floats_narrow() {
    let gpu = Gpu::open(0);
    let x = floats();
    let n = x.len();
    let input = gpu.upload(&x);
    let (h, hh, bb) =
        (Buffer::new(n * 2).unwrap(), Buffer::new(n * 4).unwrap(), Buffer::new(n * 4).unwrap());
    let kernel = gpu.kernel(CONVERSIONS, "narrow");
    gpu.launch(&kernel, (n as u32).div_ceil(256), 256, &[input.0, h.0, hh.0, bb.0, n as u64])
        .unwrap();
    let (h, hh, bb): (Vec<u16>, Vec<u32>, Vec<u32>) = (
        gpu.download(&h, n).unwrap(),
        gpu.download(&hh, n).unwrap(),
        gpu.download(&bb, n).unwrap(),
    );
    // As the PTX ISA says, every NaN becomes 0x7fff.
    let half = |x: f32| if x.is_nan() { 0x7fff } else { f16::from_f32(x).to_bits() };
    let brain = |x: f32| if x.is_nan() { 0x7fff } else { bf16::from_f32(x).to_bits() };
    let two = |low: u16, high: u16| u32::from(high) << 16 | u32::from(low);
    for i in 0..n {
        let (low, high) = (x[i], x[n - 1 - i]);
        assert_eq!(h[i], half(low), "f16 of {low:?}");
        assert_eq!(hh[i], two(half(low), half(high)), "f16x2 of {low:?}, {high:?}");
        assert_eq!(bb[i], two(brain(low), brain(high)), "bf16x2 of {low:?}, {high:?}");
    }
}

const PAIRS: &str = r#"
#include "ptx.cuh"
KERNEL(pairs, 256, (const u32* x, u32* products, u32* differences, int n)) {
  int i = blockIdx.x * 256 + threadIdx.x;
  if (i >= n) return;
  products[i] = mul_f16x2(x[i], x[n - 1 - i]);
  differences[i] = sub_f16x2(x[i], x[n - 1 - i]);
}
"#;

#[test]
fn pairs_of_halves() {
    let gpu = Gpu::open(0);
    // Every half, in an order in which it meets others of all sizes.
    let x: Vec<u32> =
        (0..1 << 17).map(|i: u32| i.wrapping_mul(40_503) & 0xffff | i << 16).collect();
    let n = x.len();
    let (input, products, differences) =
        (gpu.upload(&x), Buffer::new(n * 4).unwrap(), Buffer::new(n * 4).unwrap());
    let arguments = [input.0, products.0, differences.0, n as u64];
    gpu.launch(&gpu.kernel(PAIRS, "pairs"), (n as u32).div_ceil(256), 256, &arguments).unwrap();
    let products: Vec<u32> = gpu.download(&products, n).unwrap();
    let differences: Vec<u32> = gpu.download(&differences, n).unwrap();
    let halves = |bits: u32| [bits, bits >> 16].map(|h| f16::from_bits(h as u16).to_f64());
    let bits = |x: f64| if x.is_nan() { 0x7fff } else { f16::from_f64(x).to_bits() };
    let two = |low: f64, high: f64| u32::from(bits(high)) << 16 | u32::from(bits(low));
    for i in 0..n {
        let ([a, b], [c, d]) = (halves(x[i]), halves(x[n - 1 - i]));
        assert_eq!(products[i], two(a * c, b * d), "{a} · {c}, {b} · {d}");
        assert_eq!(differences[i], two(a - c, b - d), "{a} - {c}, {b} - {d}");
    }
}

/// c [16, 8] = a [16, K] · b [K, 8], loaded by ldmatrix: a by rows, b [K, 8] transposed on the way.
const MMA: &str = r#"
#include "ptx.cuh"
#define PRODUCT(name, multiply)                                                     \
  KERNEL(name, 32, (const u16* a, const u16* b, float* c)) {                        \
    __shared__ __align__(16) u16 as[16 * 16];                                       \
    __shared__ __align__(16) u16 bs[16 * 8];                                        \
    int l = threadIdx.x;                                                            \
    for (int i = l; i < 256; i += 32) as[i] = a[i];                                 \
    for (int i = l; i < 128; i += 32) bs[i] = b[i];                                 \
    __syncthreads();                                                                \
    u32 af[4], bf[2];                                                               \
    float cf[4] = {1, 1, 1, 1};                                                     \
    ldmatrix_x4(af, as + l % 16 * 16 + l / 16 * 8);                                 \
    ldmatrix_x2_trans(bf, bs + l % 16 * 8);                                         \
    multiply(cf, af, bf);                                                           \
    for (int i = 0; i < 4; i++) c[(l / 4 + i / 2 * 8) * 8 + l % 4 * 2 + i % 2] = cf[i]; \
  }
PRODUCT(product_f16, mma_f16)
PRODUCT(product_bf16, mma_bf16)
// Fragments by the formulas of the PTX ISA, straight from memory.
KERNEL(product_s8, 32, (const u32* a, const i8* b, i32* c)) {
  int g = threadIdx.x / 4, t = threadIdx.x % 4;
  u32 af[4], bf[2] = {0, 0};
  for (int r = 0; r < 4; r++) af[r] = a[(g + r % 2 * 8) * 8 + r / 2 * 4 + t];
  for (int i = 0; i < 8; i++) {
    int k = 4 * t + i % 4 + i / 4 * 16;
    bf[i / 4] |= (u32)(u8)b[k * 8 + g] << (8 * (i % 4));
  }
  i32 cf[4] = {5, 5, 5, 5};
  mma_s8(cf, af, bf);
  for (int i = 0; i < 4; i++) c[(g + i / 2 * 8) * 8 + 2 * t + i % 2] = cf[i];
}
KERNEL(product_s8_k16, 32, (const u32* a, const i8* b, i32* c)) {
  int g = threadIdx.x / 4, t = threadIdx.x % 4;
  u32 af[2], bf = 0;
  for (int r = 0; r < 2; r++) af[r] = a[(g + r * 8) * 4 + t];
  for (int i = 0; i < 4; i++) bf |= (u32)(u8)b[(4 * t + i) * 8 + g] << (8 * i);
  i32 cf[4] = {5, 5, 5, 5};
  mma_s8_k16(cf, af, bf);
  for (int i = 0; i < 4; i++) c[(g + i / 2 * 8) * 8 + 2 * t + i % 2] = cf[i];
}
"#;

fn pattern(i: usize) -> i32 {
    (i * 7919 % 31) as i32 - 15
}

/// Products of small whole numbers, which are exact in any order.
fn check_product(gpu: &Gpu, kernel: &Kernel, bits: impl Fn(f32) -> u16) {
    let a: Vec<f32> = (0..256).map(|i| pattern(i) as f32).collect();
    let b: Vec<f32> = (0..128).map(|i| pattern(i * 3 + 1) as f32 * 0.5).collect();
    let as_bits = |x: &[f32]| gpu.upload(&x.iter().map(|v| bits(*v)).collect::<Vec<u16>>());
    let (a_device, b_device, c) = (as_bits(&a), as_bits(&b), Buffer::new(512).unwrap());
    gpu.launch(kernel, 1, 32, &[a_device.0, b_device.0, c.0]).unwrap();
    let c: Vec<f32> = gpu.download(&c, 128).unwrap();
    for (i, value) in c.iter().enumerate() {
        let product: f32 = (0..16).map(|k| a[i / 8 * 16 + k] * b[k * 8 + i % 8]).sum();
        assert_eq!(*value, 1.0 + product, "row {}, column {}", i / 8, i % 8);
    }
}

#[test]
fn products_of_halves() {
    Gpu::each(|gpu| {
        check_product(gpu, &gpu.kernel(MMA, "product_f16"), |v| f16::from_f32(v).to_bits());
        check_product(gpu, &gpu.kernel(MMA, "product_bf16"), |v| bf16::from_f32(v).to_bits());
    });
}

#[test]
fn products_of_bytes() {
    for (name, depth) in [("product_s8", 32), ("product_s8_k16", 16)] {
        Gpu::each(|gpu| {
            let a: Vec<i8> = (0..16 * depth).map(|i| (pattern(i) * 8 - 7) as i8).collect();
            let b: Vec<i8> = (0..8 * depth).map(|i| (pattern(5 * i + 2) * 8 + 7) as i8).collect();
            let (a_device, b_device, c) =
                (gpu.upload(&a), gpu.upload(&b), Buffer::new(512).unwrap());
            gpu.launch(&gpu.kernel(MMA, name), 1, 32, &[a_device.0, b_device.0, c.0]).unwrap();
            let c: Vec<i32> = gpu.download(&c, 128).unwrap();
            for (i, value) in c.iter().enumerate() {
                let (row, column) = (i / 8, i % 8);
                let product: i32 = (0..depth)
                    .map(|k| i32::from(a[row * depth + k]) * i32::from(b[k * 8 + column]))
                    .sum();
                assert_eq!(*value, 5 + product, "{name}: row {row}, column {column}");
            }
        });
    }
}
