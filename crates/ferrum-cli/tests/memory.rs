//! The memory that `ferrum run` takes at its peak, which Linux tells in `/proc`: little more than the
//! file, and what `ferrum inspect` predicts.
#![cfg(target_os = "linux")]

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

/// Bytes of a position in the KV cache of each model, in f16: layers, times keys and values, times
/// heads of keys and values, times values of a head.
const SMOLLM2_POSITION: f64 = (30 * 2 * 3 * 64 * 2) as f64;
const GEMMA3_POSITION: f64 = (18 * 2 * 256 * 2) as f64;

/// How far the prediction may be off.
const TOLERANCE: f64 = 0.1;

fn ferrum() -> Command {
    Command::new(env!("CARGO_BIN_EXE_ferrum"))
}

/// Bytes of a size as tables print it, such as `96.6 MB`.
fn bytes(text: &str) -> f64 {
    let (number, unit) = text.trim().split_once(' ').expect("a unit");
    let factor = match unit {
        "MB" => 1e6,
        "GB" => 1e9,
        _ => panic!("unit {unit}"),
    };
    number.parse::<f64>().expect("a number") * factor
}

fn predicted(model: &Path, context: &str) -> f64 {
    let mut command = ferrum();
    let output = command.arg("inspect").arg(model).args(["--context", context]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let line = text.lines().last().unwrap();
    bytes(line.strip_prefix("in all").unwrap_or_else(|| panic!("{line:?}")))
}

/// The most memory that the process had at once, until it ends; and what it has at the end of files: the
/// program and its libraries, of which the system maps as much beside what is used as it likes.
fn peak(mut command: Command) -> [f64; 2] {
    let mut child = command.stdout(Stdio::null()).spawn().unwrap();
    let status = format!("/proc/{}/status", child.id());
    let (mut most, mut program) = (0.0f64, 0.0);
    loop {
        if let Some(done) = child.try_wait().unwrap() {
            assert!(done.success(), "{done}");
            return [most, program];
        }
        let text = fs::read_to_string(&status).unwrap_or_default();
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name))?;
            // Of 1024 bytes, whatever the unit's name.
            let kib = line.trim().trim_end_matches("kB").trim();
            Some(1024.0 * kib.parse::<f64>().expect("a number"))
        };
        most = most.max(field("VmHWM:").unwrap_or(0.0));
        program = field("RssFile:").filter(|&bytes| bytes > 0.0).unwrap_or(program);
        thread::sleep(Duration::from_millis(2));
    }
}

/// At most so many times the file, and the KV cache of the positions that it used, beside the program.
fn check_beside_the_file(alias: &str, times: f64, position: f64) {
    let model = ferrum_hub::testing::fetch_alias(alias).expect("the model");
    let file = fs::metadata(&model).expect("its size").len() as f64;
    let mut command = ferrum();
    command.arg("run").arg(&model).args(["-p", "Why is the sky blue?", "--max-tokens", "40"]);
    let [peak, program] = peak(command);
    let (peak, allowed) = (peak - program, times * file + 96.0 * position);
    println!("{alias}: {peak} bytes and a program of {program}, {:.3} of the file", peak / file);
    assert!(peak > 0.5 * file, "{alias}: {peak} bytes is no reading of a loaded model");
    assert!(peak <= allowed, "{alias}: {peak} bytes, {allowed} allowed");
}

#[test]
fn smollm2_is_in_memory_once() {
    check_beside_the_file("smollm2", 1.15, SMOLLM2_POSITION);
}

#[test]
fn gemma3_is_in_memory_once() {
    check_beside_the_file("gemma3", 1.15, GEMMA3_POSITION);
}

fn check(alias: &str) {
    let model = ferrum_hub::testing::fetch_alias(alias).expect("the model");
    let text = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tools/golden/tom_sawyer.txt");
    // A prompt that fills most of the cache, so that it is all written.
    let prompt: String = fs::read_to_string(text).unwrap().chars().take(1600).collect();
    let context = "512";
    let mut command = ferrum();
    command.arg("run").arg(&model).args(["--raw", "-n", "40", "--context", context, "-p", &prompt]);
    let (want, got) = (predicted(&model, context), peak(command)[0]);
    let off = got / want - 1.0;
    assert!(
        off.abs() <= TOLERANCE,
        "{alias}: {got} bytes, {want} predicted: {:+.1} %",
        100.0 * off
    );
}

#[test]
fn smollm2_takes_what_is_predicted() {
    check("smollm2");
}

#[test]
fn gemma3_takes_what_is_predicted() {
    check("gemma3");
}
