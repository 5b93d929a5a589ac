//! The memory that `ferrum inspect` predicts is what `ferrum run` takes at its peak, which Linux tells
//! in `/proc`.
#![cfg(target_os = "linux")]

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

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

/// The most memory that the process had at once, until it ends.
fn peak(mut command: Command) -> f64 {
    let mut child = command.stdout(Stdio::null()).spawn().unwrap();
    let status = format!("/proc/{}/status", child.id());
    let mut most = 0.0f64;
    loop {
        if let Some(done) = child.try_wait().unwrap() {
            assert!(done.success(), "{done}");
            return most;
        }
        let text = fs::read_to_string(&status).unwrap_or_default();
        if let Some(line) = text.lines().find_map(|line| line.strip_prefix("VmHWM:")) {
            // Of 1024 bytes, whatever the unit's name.
            let kib = line.trim().trim_end_matches("kB").trim();
            most = most.max(1024.0 * kib.parse::<f64>().expect("a number"));
        }
        thread::sleep(Duration::from_millis(2));
    }
}

fn check(alias: &str) {
    let model = ferrum_hub::testing::fetch_alias(alias).expect("the model");
    let text = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tools/golden/tom_sawyer.txt");
    // A prompt that fills most of the cache, so that it is all written.
    let prompt: String = fs::read_to_string(text).unwrap().chars().take(1600).collect();
    let context = "512";
    let mut command = ferrum();
    command.arg("run").arg(&model).args(["--raw", "-n", "40", "--context", context, "-p", &prompt]);
    let (want, got) = (predicted(&model, context), peak(command));
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
