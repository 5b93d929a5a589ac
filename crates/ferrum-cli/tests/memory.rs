//! Memory of a run: at most 1.15 times the file, and the KV cache of the positions that it used.

#![cfg(target_os = "linux")]

use std::fs;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

/// Bytes of a position in the KV cache of each model, in f16: layers, times keys and values, times
/// heads of keys and values, times values of a head.
const SMOLLM2_POSITION: u64 = 30 * 2 * 3 * 64 * 2;
const GEMMA3_POSITION: u64 = 18 * 2 * 256 * 2;

/// Positions that prompt and answer take at most, in whole blocks.
const POSITIONS: u64 = 96;

/// Largest resident set of `ferrum run` on a model, in bytes.
fn peak_of_a_run(model: &str) -> u64 {
    let mut child = Command::new(env!("CARGO_BIN_EXE_ferrum"))
        .args(["run", model, "-p", "Why is the sky blue?", "--temperature", "0"])
        .args(["--max-tokens", "40", "--quiet"])
        .stdout(Stdio::null())
        .spawn()
        .expect("ferrum runs");
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    loop {
        // Until it ends, the kernel keeps the highest mark.
        if let Some(kilobytes) = fs::read_to_string(&status).ok().as_deref().and_then(high_mark) {
            peak = peak.max(kilobytes * 1024);
        }
        if let Some(status) = child.try_wait().expect("its status") {
            assert!(status.success());
            return peak;
        }
        sleep(Duration::from_millis(1));
    }
}

/// `VmHWM` of a `/proc/PID/status`, in kilobytes.
fn high_mark(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.split_whitespace().next()?.parse().ok()
}

fn check(alias: &str, position: u64) {
    let model = ferrum_hub::testing::fetch_alias(alias).expect("the model");
    let file = fs::metadata(&model).expect("its size").len();
    let peak = peak_of_a_run(model.to_str().expect("UTF-8"));
    let allowed = file * 115 / 100 + POSITIONS * position;
    println!("{alias}: {peak} of {allowed} bytes, {:.3} of the file", peak as f64 / file as f64);
    assert!(peak > file / 2, "{alias}: {peak} bytes is no reading of a loaded model");
    assert!(peak <= allowed, "{alias}: {peak} bytes, allowed {allowed}");
}

#[test]
fn smollm2() {
    check("smollm2", SMOLLM2_POSITION);
}

#[test]
fn gemma3() {
    check("gemma3", GEMMA3_POSITION);
}
