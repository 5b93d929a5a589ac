//! `cargo xtask gpu-check`: what only a real card can tell. The tests that otherwise run on an
//! emulated driver, and with several cards those of ranks and the time of their sums; then the speed of a
//! model of Llama 8B's shape, beside what the card's memory and arithmetic allow.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use ferrum_models::cuda;
use serde_json::Value;

use crate::command::{json, status};
use crate::synth;

pub const USAGE: &str = "       \
cargo xtask gpu-check [PRESET]      tests and measures the CUDA backend on the card of this machine";

/// Formats, by `ferrum convert`'s names: two bytes a weight, four bits, and a mix of K-quants.
const FORMATS: [&str; 3] = ["bf16", "q4_0", "q4_k_m"];
const BATCHES: [usize; 4] = [1, 4, 16, 64];

pub fn run(root: &Path, args: &[&str]) -> Result<()> {
    let preset = match args {
        [] => "llama-8b",
        [preset] => preset,
        _ => bail!("{USAGE}"),
    };
    cuda::version().context("see tools/cuda/wheels.py")?;
    status(cargo(root, &["build", "--release"]))?;
    let ferrum = root.join("target/release/ferrum");
    let devices = json(Command::new(&ferrum).args(["devices", "--json"]))?;
    let card = devices["cuda"]["devices"][0].clone();
    ensure!(card.is_object(), "no card: {}", devices["cuda"]["problem"]);
    test(root)?;
    println!("\n## Several cards\n");
    match not_several()? {
        Some(why) => println!("not run: {why}"),
        None => several_cards(root)?,
    }

    println!("\n## {}, {preset}\n", card["description"].as_str().unwrap_or_default());
    println!(
        "| format | sequences | prefill, tokens/s | decode, tokens/s | of what memory allows |"
    );
    println!("|---|---|---|---|---|");
    let mut profiles = Vec::new();
    for format in FORMATS {
        let file = model(root, &ferrum, preset, format)?;
        for batch in BATCHES {
            let plain = bench(&ferrum, &file, batch, false)?;
            let profile = bench(&ferrum, &file, batch, true)?;
            println!("{}", speed(format, batch, &plain, &profile)?);
            profiles.push((format, batch, profile));
        }
    }
    for (format, batch, profile) in profiles.iter().filter(|(_, batch, _)| [1, 64].contains(batch))
    {
        for phase in ["prefill", "decode"] {
            print_operations(format, *batch, phase, profile);
        }
    }
    Ok(())
}

/// The tests that use an emulated driver elsewhere.
fn test(root: &Path) -> Result<()> {
    on_card(root, &["-p", "ferrum-kernels", "--test", "backends", "cuda::"])?;
    on_card(root, &["-p", "ferrum-kernels", "--test", "recordings"])?;
    on_card(root, &["-p", "ferrum-models", "--test", "cuda"])
}

/// Why nothing can be shared out among the cards.
fn not_several() -> Result<Option<String>> {
    let cards = cuda::devices()?;
    let first = cards.first().map(|card| card.capability);
    if cards.len() < 2 {
        return Ok(Some("there is one card".into()));
    }
    if cards.iter().any(|card| card.problem().is_some() || Some(card.capability) != first) {
        return Ok(Some("the cards are not alike".into()));
    }
    let missing = cuda::libraries().into_iter().find(|l| l.name == "NCCL" && l.version.is_none());
    Ok(missing.map(|library| format!("{} is not found", library.name)))
}

/// Those of ranks, and what a sum over all cards takes.
fn several_cards(root: &Path) -> Result<()> {
    on_card(root, &["-p", "ferrum-kernels", "--test", "backends", "collectives_of_cuda_world"])?;
    on_card(root, &["-p", "ferrum-models", "--test", "cuda_ranks"])?;
    status(cargo(root, &["bench", "-p", "ferrum-kernels", "--bench", "collectives"]))
}

/// Runs tests with the machine's cards.
fn on_card(root: &Path, args: &[&str]) -> Result<()> {
    let mut command = cargo(root, &["test", "--release"]);
    command.args(args).env("FERRUM_TEST_CUDA", "card");
    status(command)
}

/// The model in a format, made where it is not there yet.
fn model(root: &Path, ferrum: &Path, preset: &str, format: &str) -> Result<PathBuf> {
    let folder = root.join("target/gpu-check");
    fs::create_dir_all(&folder)?;
    let file = folder.join(format!("{preset}-{format}.gguf"));
    if file.exists() {
        return Ok(file);
    }
    let source = folder.join(format!("{preset}.gguf"));
    if !source.exists() {
        let partial = source.with_extension("partial");
        synth::run(preset, &partial)?;
        fs::rename(&partial, &source)?;
    }
    let mut convert = Command::new(ferrum);
    convert.arg("convert").args([&source, &file]).args(["--quant", format]);
    status(convert)?;
    Ok(file)
}

fn bench(ferrum: &Path, file: &Path, batch: usize, profile: bool) -> Result<Value> {
    let mut command = Command::new(ferrum);
    command.arg("bench").arg(file).args(["--device", "cuda:0", "--json"]);
    // Attention over a context, and prompts that are read by whole tiles also by many sequences.
    command.args(["--prefill", "2048", "--decode", "64", "--depth", "1024"]);
    command.args(["--step-tokens", "2048", "--batch", &batch.to_string()]);
    if profile {
        command.arg("--profile");
    }
    json(&mut command)
}

/// A line of the table. Memory allows as many steps a second as it can be read for what a step's
/// operations must read.
fn speed(format: &str, batch: usize, plain: &Value, profile: &Value) -> Result<String> {
    let [prefill, decode] = ["prefill_tps", "decode_tps"].map(|key| plain[key].as_f64());
    let (prefill, decode) = prefill.zip(decode).context("no speeds")?;
    let profile = &profile["profile"];
    let read = profile["limits"]["before"]["read_gb_per_s"].as_f64().context("no limits")?;
    let operations = profile["decode"]["ops"].as_array().context("no operations")?;
    let bytes: f64 = operations.iter().filter_map(|op| op["bytes"].as_f64()).sum();
    let repetitions = plain["repetitions"].as_f64().context("no repetitions")?;
    let steps = 64.0 * repetitions;
    let allowed = batch as f64 * read * 1e9 / (bytes / steps);
    let share = 100.0 * decode / allowed;
    Ok(format!("| {format} | {batch} | {prefill:.0} | {decode:.0} | {share:.0} % |"))
}

/// Each operation of a phase beside the card's data sheet.
fn print_operations(format: &str, batch: usize, phase: &str, profile: &Value) {
    let profile = &profile["profile"];
    let limit = |name: &str| profile["limits"]["before"][name].as_f64().unwrap_or(f64::NAN);
    println!("\n### {phase}, {format}, {batch} sequences\n");
    println!("| operation | weights | us a call | GB/s | of memory | GOP/s | of arithmetic |");
    println!("|---|---|---|---|---|---|---|");
    for op in profile[phase]["ops"].as_array().into_iter().flatten() {
        let number = |name: &str| op[name].as_f64().unwrap_or(f64::NAN);
        let text = |name: &str| op[name].as_str().unwrap_or_default();
        let peak = match op["int8"].as_bool() {
            Some(true) => limit("int8_gop_per_s"),
            _ => limit("f32_gflop_per_s"),
        };
        println!(
            "| {} | {} | {:.1} | {:.0} | {:.0} % | {:.0} | {:.0} % |",
            text("op"),
            text("format"),
            1e6 * number("seconds") / number("calls"),
            number("gb_per_s"),
            100.0 * number("gb_per_s") / limit("read_gb_per_s"),
            number("gop_per_s"),
            100.0 * number("gop_per_s") / peak,
        );
    }
}

fn cargo(root: &Path, args: &[&str]) -> Command {
    let mut command = Command::new("cargo");
    command.args(args).current_dir(root);
    command
}
