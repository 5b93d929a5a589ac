//! Each kind of mistake is caught, and its report says where.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]
#![allow(clippy::undocumented_unsafe_blocks, missing_docs, reason = "tests of a C interface")]

mod common;

use common::{Buffer, Gpu};
use cudarc::driver::sys::CUresult;

/// Runs a kernel on one device of each schedule and expects it to fail with these words.
fn fails(body: &str, block: u32, shared: u32, error: CUresult, words: &[&str]) {
    let source =
        format!("#include \"ptx.cuh\"\nKERNEL(wrong, 1024, (float* x, int n)) {{\n{body}\n}}");
    Gpu::each(|gpu| {
        let kernel = gpu.kernel(&source, "wrong");
        let x = gpu.upload(&[1.0_f32; 100]);
        let (code, text) = gpu.fault(&kernel, 2, block, shared, &[x.0, 100]);
        assert_eq!(code, error, "{text}");
        for word in words.iter().chain(&["wrong: ", "block (", "thread ("]) {
            assert!(text.contains(word), "no {word:?} in {text:?}");
        }
    });
}

#[test]
fn writes_past_the_end() {
    fails(
        "x[n] = 1;",
        1,
        0,
        CUresult::CUDA_ERROR_ILLEGAL_ADDRESS,
        &["0 bytes past the end", "400 bytes"],
    );
}

#[test]
fn reads_past_the_end_far_away() {
    fails("x[0] = x[n + 500];", 1, 0, CUresult::CUDA_ERROR_ILLEGAL_ADDRESS, &["past the end"]);
}

#[test]
fn reads_before_the_begin() {
    fails("x[0] = x[-1000];", 1, 0, CUresult::CUDA_ERROR_ILLEGAL_ADDRESS, &["before"]);
}

#[test]
fn null_pointers() {
    fails(
        "float* p = nullptr; asm(\"\" : \"+r\"(p)); *p = 1;",
        1,
        0,
        CUresult::CUDA_ERROR_ILLEGAL_ADDRESS,
        &["not device memory"],
    );
}

#[test]
fn the_thread_that_did_it() {
    fails(
        "if (blockIdx.x == 1 && threadIdx.x == 37) x[n] = 1;",
        64,
        0,
        CUresult::CUDA_ERROR_ILLEGAL_ADDRESS,
        &["block (1, 0, 0), thread (37, 0, 0)"],
    );
}

#[test]
fn divergent_barriers() {
    let error = CUresult::CUDA_ERROR_LAUNCH_FAILED;
    fails(
        "if (threadIdx.x < 40) {\n__syncthreads();\n} else {\n__syncthreads();\n}",
        64,
        0,
        error,
        &["divergent barrier", "line 4", "line 6"],
    );
}

#[test]
fn a_barrier_and_a_collective() {
    fails(
        "if (threadIdx.x < 16) __syncthreads();\nelse x[0] = __shfl_sync(~0u, x[0], 0);",
        64,
        0,
        CUresult::CUDA_ERROR_LAUNCH_FAILED,
        &["deadlock", "__syncthreads of line 3", "__shfl_sync of line 4"],
    );
}

#[test]
fn lanes_missing_from_a_collective() {
    fails(
        "if (threadIdx.x < 31) x[0] = __shfl_sync(~0u, x[0], 0);",
        32,
        0,
        CUresult::CUDA_ERROR_LAUNCH_FAILED,
        &["deadlock", "31 threads wait at __shfl_sync", "1 have ended"],
    );
}

#[test]
fn different_collectives() {
    fails(
        "if (threadIdx.x < 31) x[0] = __shfl_sync(~0u, x[0], 0); else __syncwarp();",
        32,
        0,
        CUresult::CUDA_ERROR_LAUNCH_FAILED,
        &["divergent collective"],
    );
}

#[test]
fn shuffles_from_lanes_outside_the_mask() {
    fails(
        "if (threadIdx.x < 16) x[0] = __shfl_sync(0xffffu, x[0], 20);",
        32,
        0,
        CUresult::CUDA_ERROR_LAUNCH_FAILED,
        &["outside its mask"],
    );
}

#[test]
fn misaligned_vectors() {
    let error = CUresult::CUDA_ERROR_MISALIGNED_ADDRESS;
    fails(
        "float4 v = *reinterpret_cast<float4*>(x + 1);\nx[0] = v.x + v.w;",
        1,
        0,
        error,
        &["needs 16 bytes", "test.cu:3"],
    );
    fails(
        "*reinterpret_cast<uint4*>(x + 2) = make_uint4(1, 2, 3, 4);",
        1,
        0,
        error,
        &["needs 16 bytes"],
    );
    fails("x[0] = reinterpret_cast<const float2*>(x + 1)->y;", 1, 0, error, &["needs 8 bytes"]);
    fails(
        "x[0] = __ldg(reinterpret_cast<const float4*>(x + 1)).y;",
        1,
        0,
        error,
        &["needs 16 bytes"],
    );
}

#[test]
fn misaligned_asynchronous_copies() {
    fails(
        "__shared__ __align__(16) float s[8];\ncp_async16(s, x + 1);",
        1,
        0,
        CUresult::CUDA_ERROR_MISALIGNED_ADDRESS,
        &["cp.async of line 4"],
    );
    fails(
        "DYNAMIC_SHARED(float, s);\ncp_async16(s + 2, x);",
        1,
        64,
        CUresult::CUDA_ERROR_MISALIGNED_ADDRESS,
        &["cp.async of line 4"],
    );
}

#[test]
fn asynchronous_copies_out_of_bounds() {
    let error = CUresult::CUDA_ERROR_ILLEGAL_ADDRESS;
    fails("DYNAMIC_SHARED(float, s);\ncp_async16(s, x + n);", 1, 64, error, &["past the end"]);
    fails(
        "DYNAMIC_SHARED(float, s);\ncp_async16(s + 16, x);",
        1,
        64,
        error,
        &["not in shared memory"],
    );
    fails("DYNAMIC_SHARED(float, s);\ncp_async16(x, s);", 1, 64, error, &["not in shared memory"]);
}

#[test]
fn matrix_rows() {
    fails(
        "DYNAMIC_SHARED(u16, s);\nu32 r[4];\nldmatrix_x4(r, s + 4);",
        32,
        512,
        CUresult::CUDA_ERROR_MISALIGNED_ADDRESS,
        &["ldmatrix_x4 of line 5"],
    );
    fails(
        "u32 r[4];\nldmatrix_x4(r, x);",
        32,
        512,
        CUresult::CUDA_ERROR_ILLEGAL_ADDRESS,
        &["not in shared memory"],
    );
}

#[test]
fn static_shared_memory_out_of_bounds() {
    fails(
        "__shared__ float s[32];\ns[threadIdx.x + 1] = 0;\nx[0] = s[0];",
        32,
        0,
        CUresult::CUDA_ERROR_ILLEGAL_ADDRESS,
        &["index 32", "test.cu:4", "thread (31, 0, 0)"],
    );
}

#[test]
fn dynamic_shared_memory_out_of_bounds() {
    fails(
        "DYNAMIC_SHARED(float, s);\ns[256] = 0;",
        1,
        1024,
        CUresult::CUDA_ERROR_ILLEGAL_ADDRESS,
        &["dynamic shared memory"],
    );
}

#[test]
fn division_by_zero_and_wide_shifts() {
    fails("x[0] = 7 / (n - 100);", 1, 0, CUresult::CUDA_ERROR_LAUNCH_FAILED, &["division by zero"]);
    fails("x[0] = 7 << (n - 60);", 1, 0, CUresult::CUDA_ERROR_LAUNCH_FAILED, &["shift by 40"]);
}

#[test]
fn endless_recursion_is_no_crash() {
    let body = "struct Endless {\n\
        static __attribute__((noinline)) int f(int n) {\n\
          int a[64]; a[n % 64] = n; asm volatile(\"\" :: \"r\"(a) : \"memory\");\n\
          return n ? f(n - 1) + a[n % 64] : 0;\n\
        }\n\
      };\nx[0] = Endless::f(1 << 20);";
    fails(body, 1, 0, CUresult::CUDA_ERROR_ILLEGAL_ADDRESS, &["stack overflowed"]);
}

#[test]
fn use_after_free() {
    let source = "#include \"ptx.cuh\"\nKERNEL(stale, 1, (float* x)) { x[3] = 1; }";
    Gpu::each(|gpu| {
        let kernel = gpu.kernel(source, "stale");
        let (x, others) = (gpu.upload(&[1.0_f32; 16]), gpu.upload(&[0_u8; 64]));
        let address = x.0;
        x.free().unwrap();
        let _ = (gpu.upload(&[1.0_f32; 16]), others); // not in its place
        let (code, text) = gpu.fault(&kernel, 1, 1, 0, &[address]);
        assert_eq!(code, CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
        assert!(text.contains("byte 12 of a freed allocation of 64 bytes"), "{text}");
    });
}

#[test]
fn pointers_into_host_memory() {
    let source =
        "#include \"ptx.cuh\"\nKERNEL(lost, 1, (int n, const float* x, float* y)) { *y = *x + n; }";
    let gpu = Gpu::open(0);
    let kernel = gpu.kernel(source, "lost");
    let (y, host) = (gpu.upload(&[1.0_f32]), [1.0_f32]);
    let error = gpu.launch(&kernel, 1, 1, &[3, host.as_ptr() as u64, y.0]).unwrap_err();
    assert_eq!(error.0, CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
    let copied = unsafe {
        let inside = std::slice::from_raw_parts(y.0 as *const f32, 1);
        cudarc::driver::result::memcpy_htod_async(y.0, inside, gpu.stream)
    };
    assert_eq!(copied.unwrap_err().0, CUresult::CUDA_ERROR_INVALID_VALUE);
}

#[test]
fn wrong_frees() {
    let gpu = Gpu::open(0);
    let x = gpu.upload(&[1.0_f32; 16]);
    let address = x.0;
    let invalid = CUresult::CUDA_ERROR_INVALID_VALUE;
    assert_eq!(Buffer(address + 4).free().unwrap_err().0, invalid);
    assert_eq!(Buffer(0x1234_5678).free().unwrap_err().0, invalid);
    x.free().unwrap();
    assert_eq!(Buffer(address).free().unwrap_err().0, invalid);
}

#[test]
fn bytes_just_outside_of_an_allocation() {
    let source = "#include \"ptx.cuh\"\nKERNEL(poke, 1, (u8* x, int at)) { x[at] = 1; }";
    for at in [21, -1] {
        let gpu = Gpu::open(0);
        let kernel = gpu.kernel(source, "poke");
        let x = gpu.upload(&[0_u8; 21]);
        gpu.launch(&kernel, 1, 1, &[x.0, at as u64]).unwrap();
        assert_eq!(x.free().unwrap_err().0, CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
    }
}

#[test]
fn another_thread_and_device_live_on() {
    let fine = "#include \"ptx.cuh\"\nKERNEL(fine, 32, (float* x)) { x[threadIdx.x] += 1; }";
    let other = std::thread::spawn(move || {
        let gpu = Gpu::open(3);
        let kernel = gpu.kernel(fine, "fine");
        let x = gpu.upload(&[0.0_f32; 32]);
        for _ in 0..500 {
            gpu.launch(&kernel, 1, 32, &[x.0]).unwrap();
            gpu.sync().unwrap();
        }
        assert_eq!(gpu.download::<f32>(&x, 32).unwrap(), [500.0; 32]);
    });
    let wrong = "#include \"ptx.cuh\"\nKERNEL(wrong, 32, (float* x)) { x[threadIdx.x] += 1; }";
    for _ in 0..20 {
        let gpu = Gpu::open(1);
        let kernel = gpu.kernel(wrong, "wrong");
        let x = gpu.upload(&[0.0_f32; 16]);
        gpu.fault(&kernel, 1, 32, 0, &[x.0]);
    }
    other.join().unwrap();
}
