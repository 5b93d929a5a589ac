//! Races in shared memory, found by rule under any schedule.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]
#![allow(clippy::undocumented_unsafe_blocks, missing_docs, reason = "tests of a C interface")]

mod common;

use std::sync::Once;

use common::{Buffer, Gpu};
use cudarc::driver::sys::CUresult;

fn open() -> Gpu {
    static SET: Once = Once::new();
    // SAFETY: every test of this process waits here before it does anything else.
    SET.call_once(|| unsafe { std::env::set_var("FERRUM_EMULATOR_RACES", "1") });
    Gpu::open(0)
}

fn source(body: &str) -> String {
    format!(
        "#include \"ptx.cuh\"\n\
         KERNEL(racy, 128, (const float* x, float* out)) {{\n\
           int t = threadIdx.x;\n\
           __shared__ __align__(16) float s[128];\n\
           {body}\n\
         }}"
    )
}

/// Run forward, where luck would give the expected result.
fn races(body: &str, words: &[&str]) {
    let gpu = open();
    let kernel = gpu.kernel(&source(body), "racy");
    let (x, out) = (gpu.upload(&[1.0_f32; 512]), Buffer::new(512).unwrap());
    let (code, text) = gpu.fault(&kernel, 1, 128, 256, &[x.0, out.0]);
    assert_eq!(code, CUresult::CUDA_ERROR_LAUNCH_FAILED);
    for word in words.iter().chain(&["racy: ", "test.cu:"]) {
        assert!(text.contains(word), "no {word:?} in {text:?}");
    }
}

fn runs(body: &str) {
    let gpu = open();
    let kernel = gpu.kernel(&source(body), "racy");
    let (x, out) = (gpu.upload(&[1.0_f32; 512]), Buffer::new(512).unwrap());
    gpu.launch_with(&kernel, 2, 128, 256, &[x.0, out.0]).unwrap();
    assert_eq!(gpu.download::<f32>(&out, 128).unwrap(), [1.0; 128]);
}

#[test]
fn reads_of_earlier_threads() {
    // Threads run in ascending order, so the value is there by luck.
    races(
        "s[t] = x[t];\nout[t] = s[t / 2];",
        &["between a write of thread", "this read", "test.cu:6"],
    );
    runs("s[t] = x[t];\n__syncthreads();\nout[t] = s[t / 2];");
}

#[test]
fn writes_after_reads() {
    races(
        "s[t] = x[t];\n__syncthreads();\nfloat v = s[(t + 1) % 128];\ns[t] = 2 * v;\nout[t] = v;",
        &["between a read of", "this write"],
    );
    runs(
        "s[t] = x[t];\n__syncthreads();\nfloat v = s[(t + 1) % 128];\n__syncthreads();\ns[t] = 2 * v;\nout[t] = v;",
    );
}

#[test]
fn writes_to_the_same_place() {
    races(
        "s[t / 2] = x[t] + t;\n__syncthreads();\nout[t] = s[t / 2];",
        &["between a write of thread 0", "this write"],
    );
}

#[test]
fn warps_that_write_the_same() {
    let body = |value: &str| {
        format!(
            "for (int i = t % 32; i < 128; i += 32) s[i] = {value};\n__syncwarp();\nout[t] = s[127 - t];"
        )
    };
    runs(&body("x[i]"));
    races(&body("x[i] + (t == 127)"), &["between a", "this write", "test.cu:5"]);
}

#[test]
fn collectives_order_within_a_warp_and_no_further() {
    runs("s[t] = x[t];\n__syncwarp();\nout[t] = s[t ^ 1];");
    races("s[t] = x[t];\n__syncwarp();\nout[t] = s[t / 2];", &["race in shared memory"]);
}

#[test]
fn bytes_beside_one_another_are_no_race() {
    runs("u8* b = (u8*)s;\nb[t] = t;\n__syncthreads();\nout[t] = x[t] + b[t / 2] - t / 2;");
}

#[test]
fn unwritten_memory() {
    races(
        "if (t < 127) s[t] = x[t];\n__syncthreads();\nout[t] = s[t];",
        &["nothing has written", "thread (127, 0, 0)"],
    );
    races("DYNAMIC_SHARED(float, d);\nout[t] = d[t % 64];", &["nothing has written"]);
}

#[test]
fn blocks_do_not_inherit() {
    races(
        "if (blockIdx.x == 0) s[t] = x[t];\n__syncthreads();\nif (gridDim.x == 1) out[t] = s[(t + 1) % 128] + s[t / 3];\nif (t < 64) s[t] = 0;\nif (t == 127) out[0] = s[3];",
        &["race"],
    );
}

#[test]
fn copies_that_are_not_waited_for() {
    let body = |wait: &str| {
        format!(
            "if (t < 32) cp_async16(s + 4 * t, x + 4 * t);\ncp_async_commit();\n{wait}\nout[t] = s[t];"
        )
    };
    races(&body("__syncthreads();"), &["nothing has written"]);
    races(&body("cp_async_wait<0>();"), &["race in shared memory"]);
    runs(&body("cp_async_wait<0>();\n__syncthreads();"));
}

#[test]
fn atomics_are_no_race() {
    runs(
        "if (t < 4) s[t] = 0;\n__syncthreads();\natomicAdd(&s[t % 4], 1.0f);\n__syncthreads();\nout[t] = s[t % 4] / 32;",
    );
}

#[test]
fn matrices_and_pipelines() {
    runs(
        "u16* h = (u16*)s;\nif (t < 64) h[2 * t] = f32_to_f16(1), h[2 * t + 1] = f32_to_f16(0);\n__syncthreads();\nu32 r[4];\nldmatrix_x4(r, h + t % 16 * 8);\nout[t] = f16_to_f32((u16)r[0]);",
    );
}
