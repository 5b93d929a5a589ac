//! cuBLASLt, which is found at run time: products of dense weights with many tokens.

use std::collections::HashMap;
use std::ffi::c_void;
use std::ptr;
use std::sync::{Mutex, PoisonError};

use cudarc::cublaslt::result::{self, CublasError};
use cudarc::cublaslt::sys::{self, cublasLtMatmulDescAttributes_t as Attribute};
use cudarc::driver;

use super::NAME;
use crate::{Format, KernelError, Result};

/// Bytes that an algorithm may use beside its operands: as much as NVIDIA advises for Hopper.
const WORKSPACE: usize = 32 << 20;

/// Addresses of operands are multiples of so many bytes.
const ALIGNMENT: u32 = 16;

/// `CUBLAS_OP_T`
const TRANSPOSED: i32 = 1;

/// The library on one card, with the algorithms that it has chosen.
pub(super) struct Blas {
    handle: sys::cublasLtHandle_t,
    chosen: Mutex<HashMap<Shape, Option<Algorithm>>>,
}

// SAFETY: the library's handles may be used from several threads at once.
unsafe impl Send for Blas {}
// SAFETY: as above.
unsafe impl Sync for Blas {}

/// `dst[tokens, rows] = input[tokens, cols] · weight[rows, cols]ᵀ + bias`, also added to what is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Shape {
    /// Of the weight and the input: F16, BF16, or without a bias E4M3. Results are F32, and so are sums.
    pub(super) format: Format,
    pub(super) tokens: usize,
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) bias: bool,
}

/// How a product of one shape is computed.
#[derive(Clone, Copy)]
pub(super) struct Algorithm {
    algorithm: sys::cublasLtMatmulAlgo_t,
    /// Bytes of workspace.
    pub(super) workspace: usize,
}

/// Where operands lie on the card.
pub(super) struct Operands {
    pub(super) weight: u64,
    pub(super) input: u64,
    pub(super) dst: u64,
    /// `[rows]`, heeded if the shape has one.
    pub(super) bias: u64,
    /// Add to `dst`; else nobody reads what is there.
    pub(super) accumulate: bool,
    pub(super) workspace: u64,
}

impl Blas {
    /// The library, if it is installed, for the card that is the thread's.
    pub(super) fn open() -> Option<Blas> {
        // SAFETY: loads a library of the system and lets it go again.
        let installed = unsafe { sys::is_culib_present() };
        let handle = installed.then(result::create_handle)?.ok()?;
        Some(Blas { handle, chosen: Mutex::default() })
    }

    /// How to compute such a product; `None` if the library cannot.
    pub(super) fn algorithm(&self, shape: Shape) -> Option<Algorithm> {
        let mut chosen = self.chosen.lock().unwrap_or_else(PoisonError::into_inner);
        *chosen.entry(shape).or_insert_with(|| self.choose(&shape).ok())
    }

    fn choose(&self, shape: &Shape) -> std::result::Result<Algorithm, CublasError> {
        // Any address that is aligned will do for a bias.
        let d = Descriptors::new(shape, u64::from(ALIGNMENT))?;
        let preference = Preference::new()?;
        // SAFETY: all of them are alive.
        let found = unsafe {
            result::get_matmul_algo_heuristic(
                self.handle,
                d.operation,
                d.weight,
                d.input,
                d.dst,
                d.dst,
                preference.0,
            )
        }?;
        Ok(Algorithm { algorithm: found.algo, workspace: found.workspaceSize })
    }

    /// Queues a product.
    ///
    /// # Safety
    /// The operands must be as long as the shape says, and what [`Blas::algorithm`] gives for it must
    /// be `algorithm`; the card must be the thread's.
    pub(super) unsafe fn multiply(
        &self,
        op: &'static str,
        shape: &Shape,
        algorithm: &Algorithm,
        operands: &Operands,
        stream: driver::sys::CUstream,
    ) -> Result<()> {
        let d = Descriptors::new(shape, operands.bias).map_err(|error| named(op, &error))?;
        let pointer = |address: u64| address as usize as *mut c_void;
        let (product, before) = (1.0_f32, if operands.accumulate { 1.0_f32 } else { 0.0 });
        // SAFETY: the caller's promise; the descriptors are alive.
        unsafe {
            result::matmul(
                self.handle,
                d.operation,
                ptr::from_ref(&product).cast(),
                ptr::from_ref(&before).cast(),
                pointer(operands.weight),
                d.weight,
                pointer(operands.input),
                d.input,
                pointer(operands.dst),
                d.dst,
                pointer(operands.dst),
                d.dst,
                &algorithm.algorithm,
                pointer(operands.workspace),
                algorithm.workspace,
                stream.cast(),
            )
        }
        .map_err(|error| named(op, &error))
    }
}

impl Drop for Blas {
    fn drop(&mut self) {
        // SAFETY: created in `open`. An error has nobody to hear it.
        let _ = unsafe { result::destroy_handle(self.handle) };
    }
}

fn named(op: &'static str, error: &CublasError) -> KernelError {
    KernelError::Device { backend: NAME, op, what: format!("cuBLASLt: {error}") }
}

/// A product in the library's words. It counts along columns, so that a matrix of ours is its own
/// transpose: it computes `dstᵀ [rows, tokens]` of `weight` and `inputᵀ`.
struct Descriptors {
    operation: sys::cublasLtMatmulDesc_t,
    weight: sys::cublasLtMatrixLayout_t,
    input: sys::cublasLtMatrixLayout_t,
    dst: sys::cublasLtMatrixLayout_t,
}

impl Descriptors {
    fn new(shape: &Shape, bias: u64) -> std::result::Result<Self, CublasError> {
        use sys::cudaDataType_t::{CUDA_R_8F_E4M3, CUDA_R_16BF, CUDA_R_16F, CUDA_R_32F};
        let number = match shape.format {
            Format::F16 => CUDA_R_16F,
            Format::F8_E4M3 => CUDA_R_8F_E4M3,
            _ => CUDA_R_16BF,
        };
        let sums = sys::cublasComputeType_t::CUBLAS_COMPUTE_32F;
        // One after the other, so that those that are there are destroyed where one cannot be made.
        let mut d = Descriptors {
            operation: result::create_matmul_desc(sums, CUDA_R_32F)?,
            weight: ptr::null_mut(),
            input: ptr::null_mut(),
            dst: ptr::null_mut(),
        };
        let layout = |number, width: usize, height: usize| {
            result::create_matrix_layout(number, width as u64, height as u64, width as i64)
        };
        d.weight = layout(number, shape.cols, shape.rows)?;
        d.input = layout(number, shape.cols, shape.tokens)?;
        d.dst = layout(CUDA_R_32F, shape.rows, shape.tokens)?;
        d.set(Attribute::CUBLASLT_MATMUL_DESC_TRANSA, &TRANSPOSED)?;
        if shape.bias {
            let epilogue = sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_BIAS;
            d.set(Attribute::CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue)?;
            d.set(Attribute::CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias)?;
        }
        Ok(d)
    }

    fn set<T>(&self, attribute: Attribute, value: &T) -> std::result::Result<(), CublasError> {
        let value = ptr::from_ref(value);
        // SAFETY: the descriptor is alive; the value is copied.
        unsafe {
            result::set_matmul_desc_attribute(
                self.operation,
                attribute,
                value.cast(),
                size_of::<T>(),
            )
        }
    }
}

impl Drop for Descriptors {
    fn drop(&mut self) {
        for layout in [self.weight, self.input, self.dst].into_iter().filter(|l| !l.is_null()) {
            // SAFETY: made in `new`. An error has nobody to hear it.
            let _ = unsafe { result::destroy_matrix_layout(layout) };
        }
        // SAFETY: as above.
        let _ = unsafe { result::destroy_matmul_desc(self.operation) };
    }
}

/// What an algorithm must make do with.
struct Preference(sys::cublasLtMatmulPreference_t);

impl Preference {
    fn new() -> std::result::Result<Self, CublasError> {
        use sys::cublasLtMatmulPreferenceAttributes_t as Limit;
        let preference = Preference(result::create_matmul_pref()?);
        preference.set(Limit::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &WORKSPACE)?;
        for operand in [
            Limit::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
            Limit::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
            Limit::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
            Limit::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES,
        ] {
            preference.set(operand, &ALIGNMENT)?;
        }
        Ok(preference)
    }

    fn set<T>(
        &self,
        limit: sys::cublasLtMatmulPreferenceAttributes_t,
        value: &T,
    ) -> std::result::Result<(), CublasError> {
        let value = ptr::from_ref(value);
        // SAFETY: the preference is alive; the value is copied.
        unsafe { result::set_matmul_pref_attribute(self.0, limit, value.cast(), size_of::<T>()) }
    }
}

impl Drop for Preference {
    fn drop(&mut self) {
        // SAFETY: made in `new`. An error has nobody to hear it.
        let _ = unsafe { result::destroy_matmul_pref(self.0) };
    }
}
