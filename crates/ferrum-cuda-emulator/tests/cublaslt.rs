//! The emulated cuBLASLt: a product worked by hand, and what it refuses.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]
#![allow(clippy::undocumented_unsafe_blocks, missing_docs, reason = "tests of a C interface")]

mod common;

use std::ffi::c_void;

use common::{Buffer, Gpu};
use cudarc::cublaslt::result::{self, CublasError};
use cudarc::cublaslt::sys::{
    cublasComputeType_t::CUBLAS_COMPUTE_32F,
    cublasLtHandle_t, cublasLtMatmulAlgo_t, cublasLtMatmulDesc_t,
    cublasLtMatmulDescAttributes_t::{
        CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, CUBLASLT_MATMUL_DESC_EPILOGUE,
        CUBLASLT_MATMUL_DESC_TRANSA,
    },
    cublasLtMatmulPreferenceAttributes_t as Limit, cublasLtMatrixLayout_t,
    cudaDataType_t::{self, CUDA_R_8F_E4M3, CUDA_R_16F, CUDA_R_32F},
};

/// `[T, K]` times `[N, K]ᵀ`.
const T: u64 = 2;
const N: u64 = 3;
const K: u64 = 4;

struct Product {
    handle: cublasLtHandle_t,
    operation: cublasLtMatmulDesc_t,
    layouts: [cublasLtMatrixLayout_t; 3],
}

impl Product {
    fn new(tokens: u64) -> Product {
        Product::of(CUDA_R_16F, [N, K, tokens])
    }

    fn of(number: cudaDataType_t, [n, k, tokens]: [u64; 3]) -> Product {
        let operation = result::create_matmul_desc(CUBLAS_COMPUTE_32F, CUDA_R_32F).unwrap();
        let (attribute, one) = (CUBLASLT_MATMUL_DESC_TRANSA, (&raw const ONE).cast());
        unsafe { result::set_matmul_desc_attribute(operation, attribute, one, 4).unwrap() };
        let layout =
            |kind, rows, cols| result::create_matrix_layout(kind, rows, cols, rows as i64).unwrap();
        let layouts =
            [layout(number, k, n), layout(number, k, tokens), layout(CUDA_R_32F, n, tokens)];
        Product { handle: result::create_handle().unwrap(), operation, layouts }
    }

    fn algorithm(&self) -> cublasLtMatmulAlgo_t {
        self.found().unwrap()
    }

    fn found(&self) -> Result<cublasLtMatmulAlgo_t, CublasError> {
        let (preference, [a, b, d]) = (result::create_matmul_pref().unwrap(), self.layouts);
        for (limit, most) in LIMITS {
            unsafe {
                result::set_matmul_pref_attribute(preference, limit, (&raw const most).cast(), 8)
                    .unwrap();
            }
        }
        let found = unsafe {
            result::get_matmul_algo_heuristic(self.handle, self.operation, a, b, d, d, preference)
        };
        found.map(|found| found.algo)
    }

    /// Twice the product and what is there, of the weight, the input, the result and 4096 bytes of
    /// workspace.
    fn multiply(
        &self,
        gpu: &Gpu,
        algorithm: &cublasLtMatmulAlgo_t,
        [weight, input, dst, workspace]: [u64; 4],
        workspace_bytes: usize,
    ) -> Result<(), CublasError> {
        let ([a, b, d], at) = (self.layouts, |address: u64| address as usize as *mut c_void);
        let (alpha, beta) = ((&raw const FACTORS[0]).cast(), (&raw const FACTORS[1]).cast());
        unsafe {
            result::matmul(
                self.handle,
                self.operation,
                alpha,
                beta,
                at(weight),
                a,
                at(input),
                b,
                at(dst),
                d,
                at(dst),
                d,
                algorithm,
                at(workspace),
                workspace_bytes,
                gpu.stream.cast(),
            )
        }
    }
}

static ONE: i32 = 1;
static FACTORS: [f32; 2] = [2.0, 1.0];

/// Addresses here are multiples of 16, those of a card of 256, which is what is taken for granted; and
/// no workspace is.
const LIMITS: [(Limit, u64); 5] = [
    (Limit::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, 16),
    (Limit::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, 16),
    (Limit::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, 16),
    (Limit::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, 16),
    (Limit::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, 1 << 20),
];

/// Small whole numbers as halves.
fn halves(values: &[u16]) -> Vec<u16> {
    let half = |&v: &u16| match v {
        0 => 0,
        _ => (15 + v.ilog2() as u16) << 10 | (v << (10 - v.ilog2())) & 0x3ff,
    };
    values.iter().map(half).collect()
}

#[test]
fn a_product_and_what_is_refused() {
    Gpu::each(|gpu| {
        let product = Product::new(T);
        let weight = gpu.upload(&halves(&[1, 2, 3, 4, 0, 1, 0, 1, 5, 0, 0, 0]));
        let input = gpu.upload(&halves(&[1, 1, 1, 1, 0, 2, 0, 3]));
        let dst = gpu.upload(&[100.0_f32, 200.0, 300.0, 400.0, 500.0, 600.0]);
        let workspace = Buffer::new(4096).unwrap();
        let operands = [weight.0, input.0, dst.0, workspace.0];
        let algorithm = product.algorithm();
        product.multiply(gpu, &algorithm, operands, 4096).unwrap();
        let result: Vec<f32> = gpu.download(&dst, 6).unwrap();
        assert_eq!(result, [120.0, 204.0, 310.0, 432.0, 510.0, 600.0]);

        let other = Product::new(T + 1).algorithm();
        let [mut unaligned, mut nowhere] = [operands; 2];
        unaligned[1] += 8;
        nowhere[3] = 0;
        assert!(product.multiply(gpu, &other, operands, 4096).is_err(), "another product's");
        assert!(product.multiply(gpu, &algorithm, unaligned, 4096).is_err(), "not aligned");
        assert!(product.multiply(gpu, &algorithm, operands, 4095).is_err(), "too little");
        assert!(product.multiply(gpu, &algorithm, nowhere, 4096).is_err(), "no workspace");
        assert_eq!(ferrum_cuda_emulator::failure(gpu.ordinal), None);
    });
}

/// One, two and three as floats of eight bits; 2^-9, the smallest; no number.
const CODES: [u8; 5] = [0x38, 0x40, 0x44, 0x01, 0x7f];

#[test]
fn a_product_of_eight_bits_and_what_is_refused() {
    let [one, two, three, least, nan] = CODES;
    for ordinal in ferrum_cuda_emulator::WITH_FP8 {
        let gpu = Gpu::open(ordinal);
        let (mut weight, mut input) = ([0u8; 4 * 16], [0u8; 2 * 16]);
        (weight[0], weight[15], weight[16], weight[34]) = (one, three, two | 0x80, least);
        (input[0], input[2], input[15], input[16], input[31]) = (three, two, two, one, nan);
        let (weight, input) = (gpu.upload(&weight), gpu.upload(&input));
        let (dst, workspace) = (gpu.upload(&[0.0_f32; 8]), Buffer::new(4096).unwrap());
        let operands = [weight.0, input.0, dst.0, workspace.0];
        let product = Product::of(CUDA_R_8F_E4M3, [4, 16, 2]);
        product.multiply(&gpu, &product.algorithm(), operands, 4096).unwrap();
        let result: Vec<f32> = gpu.download(&dst, 8).unwrap();
        // Twice of them; what is no number is so even where it meets zeroes.
        assert_eq!(result[..4], [18.0, -12.0, 4.0 / 512.0, 0.0]);
        assert!(result[4..].iter().all(|v| v.is_nan()), "{result:?}");

        for shape in [[4, 8, 2], [3, 16, 2], [5, 16, 2], [4, 24, 2]] {
            let refused = Product::of(CUDA_R_8F_E4M3, shape).found();
            assert!(refused.is_err(), "{shape:?} is not of whole 16 bytes");
        }
        for (attribute, value) in
            [(CUBLASLT_MATMUL_DESC_EPILOGUE, 4), (CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, dst.0)]
        {
            let product = Product::of(CUDA_R_8F_E4M3, [4, 16, 2]);
            let value = (&raw const value).cast();
            unsafe {
                result::set_matmul_desc_attribute(product.operation, attribute, value, 8).unwrap();
            }
            assert!(product.found().is_err(), "{attribute:?}");
        }
        assert_eq!(ferrum_cuda_emulator::failure(gpu.ordinal), None);
    }
    let _old = Gpu::open(0);
    assert!(Product::of(CUDA_R_8F_E4M3, [4, 16, 2]).found().is_err(), "compute capability 8.0");
}

#[test]
fn operands_that_end_too_early_are_found() {
    let gpu = Gpu::open(0);
    let product = Product::new(T);
    let (short, dst) = (Buffer::new(K as usize).unwrap(), Buffer::new(6 * 4).unwrap());
    let (weight, workspace) = (Buffer::new(24).unwrap(), Buffer::new(4096).unwrap());
    let operands = [weight.0, short.0, dst.0, workspace.0];
    let queued = product.multiply(&gpu, &product.algorithm(), operands, 4096);
    assert!(queued.is_ok() && gpu.sync().is_err());
    let failure = ferrum_cuda_emulator::failure(0).unwrap();
    assert!(failure.contains("cuBLASLt: B"), "{failure}");
}
