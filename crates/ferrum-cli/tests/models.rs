//! Commands that run a model, on a tiny one of random weights.

mod support;

use support::{Home, arg};

const PROMPT: &str = "the rain in the stone";

#[test]
fn an_answer_goes_to_standard_output_and_all_else_to_standard_error() {
    let home = Home::new();
    let model = home.model();
    let m = arg(&model);
    let run = home.run(&["run", m, PROMPT, "-n", "8", "-v", "--seed", "7"]);
    assert_eq!(run.code, 0, "{run:?}");
    assert!(run.out.ends_with('\n'));
    assert!(run.err.contains("tokens/s") && run.err.contains("8 tokens"), "{run:?}");
    let again = home.run(&["run", m, PROMPT, "-n", "8", "--seed", "7"]);
    assert_eq!((again.out.as_str(), again.err.as_str()), (run.out.as_str(), ""));
}

#[test]
fn ways_to_give_the_prompt_agree() {
    let home = Home::new();
    let model = home.model();
    let m = arg(&model);
    let greedy = ["-n", "12", "--temperature", "0"];
    let with = |words: &[&str], input: &str| {
        home.run_with_input(&[&["run"], words, &greedy[..]].concat(), input.as_bytes()).ok()
    };
    let answer = with(&[m, PROMPT], "");
    assert_eq!(with(&["-m", m, "-p", PROMPT], ""), answer);
    assert_eq!(with(&["-m", m, PROMPT], ""), answer);
    assert_eq!(with(&["-p", PROMPT, m], ""), answer);
    assert_eq!(with(&[m], &format!("{PROMPT}\n")), answer);
    assert_ne!(with(&[m, PROMPT, "--raw"], ""), answer, "without the template it differs");
    assert_ne!(with(&[m, PROMPT, "--system", "be brief"], ""), answer);
}

#[test]
fn devices_and_caches_agree() {
    let home = Home::new();
    let model = home.model();
    let with = |flags: &[&str]| {
        let common = ["run", arg(&model), PROMPT, "-n", "6", "--temperature", "0"];
        home.run(&[&common[..], flags].concat()).ok()
    };
    let answer = with(&[]);
    for flags in [
        &["--device", "reference", "--kv-dtype", "f32"][..],
        &["--threads", "1"],
        &["--cpu-isa", "portable"],
        &["--threads", "3", "--kv-dtype", "f32"],
        &["--context", "64"],
        &["--tensor-parallel", "2", "--kv-dtype", "f32"],
        &["--tensor-parallel", "2", "--threads", "3"],
        &["--tensor-parallel", "2", "--device", "reference"],
    ] {
        assert_eq!(with(flags), answer, "{flags:?}");
    }
}

#[test]
fn a_model_is_shared_out_everywhere() {
    let home = Home::new();
    let model = home.model();
    let two = ["--tensor-parallel", "2"];
    let bench = ["bench", arg(&model), "--prefill", "40", "--decode", "3", "--repetitions", "1"];
    let report = home.run(&[&bench[..], &two, &["--json", "--profile"]].concat()).ok();
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    assert_eq!(report["tensor_parallel"], 2);
    let ops = report["profile"]["decode"]["ops"].as_array().unwrap();
    let sums = ops.iter().find(|op| op["op"] == "collectives").map(|op| &op["calls"]);
    // Of the embedding, and twice a layer.
    assert_eq!(sums, Some(&(3 * 5).into()), "{report}");

    let text = home.path("text.txt");
    std::fs::write(&text, PROMPT.repeat(40)).unwrap();
    let with = |flags: &[&str]| {
        let common =
            ["perplexity", arg(&model), arg(&text), "--context", "64", "--kv-dtype", "f32"];
        home.run(&[&common[..], flags].concat()).ok()
    };
    let value = |out: String| -> f64 {
        out.lines().last().unwrap().split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    let (one, shared) = (value(with(&[])), value(with(&two)));
    assert!((shared / one - 1.0).abs() < 1e-3, "{shared}, {one} on one rank");

    let refused = home.run(&["run", arg(&model), "hi", "--tensor-parallel", "4"]).failed(1);
    assert!(refused.contains("tensor parallelism over 4 ranks: the 2"), "{refused}");
    assert_eq!(home.run(&["run", arg(&model), "hi", "--tensor-parallel", "0"]).code, 2);
}

#[test]
fn what_cannot_be_answered_is_said() {
    let home = Home::new();
    let model = home.model();
    let m = arg(&model);
    let long = "word ".repeat(100);
    assert!(home.run(&["run", m, &long, "-c", "64"]).failed(1).contains("context"));
    assert!(home.run(&["run", m, "hi", "--top-p", "7"]).failed(1).contains("top_p"));
    assert!(home.run(&["run", m, "hi", "--logit-bias", "9999=1"]).failed(1).contains("9999"));
    assert!(home.run(&["run", m, "hi", "-c", "999999999"]).failed(1).contains("trained"));
    let run = home.run_with_input(&["run", m], b"\xff\xfe");
    assert!(run.failed(1).contains("UTF-8"));
}

#[test]
fn a_biased_token_can_be_banned_and_forced() {
    let home = Home::new();
    let model = home.model();
    let m = arg(&model);
    // Token 65 of the byte-level vocabulary is one byte, which is forced here again and again.
    let forced = home.run(&["run", m, PROMPT, "-n", "5", "--logit-bias", "65=1000"]).ok();
    let trimmed = forced.trim_end();
    let first = trimmed.chars().next().unwrap();
    assert!(trimmed.chars().all(|c| c == first), "{forced:?}");
    let stopped = home
        .run(&[
            "run",
            m,
            PROMPT,
            "-n",
            "5",
            "--logit-bias",
            "65=1000",
            "--stop",
            &first.to_string(),
        ])
        .ok();
    assert_eq!(stopped, "\n");
}

#[test]
fn tokens_are_printed() {
    let home = Home::new();
    let model = home.model();
    let text = "the <|im_start|> é";
    let ids = |flags: &[&str]| -> Vec<u32> {
        let args = [&["tokenize", "--ids", arg(&model)], flags].concat();
        serde_json::from_str(&home.run_with_input(&args, text.as_bytes()).ok()).unwrap()
    };
    let plain = ids(&["--no-bos"]);
    assert!(ids(&["--no-bos", "--parse-special"]).len() < plain.len());
    let listed = home.run_with_input(&["tokenize", "--no-bos", arg(&model)], text.as_bytes()).ok();
    assert_eq!(listed.lines().count(), plain.len());
    assert!(home.run_with_input(&["tokenize", arg(&model)], b"\xff").failed(1).contains("UTF-8"));
}

#[test]
fn bench_profiles() {
    let home = Home::new();
    let model = home.model();
    let common = ["bench", arg(&model), "--prefill", "40", "--decode", "3", "--repetitions", "2"];
    let flags = ["--profile", "--threads", "1", "--threads-batch", "2"];
    let out = home.run(&[&common[..], &flags].concat()).ok();
    for part in ["prefill:", "decode:", "attention", "linear head", "OF READ", "limits of this"] {
        assert!(out.contains(part), "{part}: {out}");
    }
    let out = home.run(&[&common[..], &flags, &["--json"]].concat()).ok();
    let report: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&report["threads"], &report["threads_batch"]), (&1.into(), &2.into()));
    let decode = &report["profile"]["decode"];
    let ops = decode["ops"].as_array().unwrap();
    let calls = |name: &str| ops.iter().find(|op| op["op"] == name).map(|op| op["calls"].as_u64());
    // Two layers, three steps, two repetitions; the warm-up does not count.
    assert_eq!(calls("attention"), Some(Some(12)), "{out}");
    assert_eq!(calls("linear q k v"), Some(Some(12)), "{out}");
    assert_eq!(calls("linear head"), Some(Some(6)), "{out}");
    assert_eq!(calls("linear"), None, "every linear has a part: {out}");
    let share: f64 = ops.iter().map(|op| op["share"].as_f64().unwrap()).sum();
    assert!((0.0..=1.0).contains(&share), "{share}");
    let plain: serde_json::Value =
        serde_json::from_str(&home.run(&[&common[..], &["--json"]].concat()).ok()).unwrap();
    assert!(plain.get("profile").is_none());
}

#[test]
fn bench_measures() {
    let home = Home::new();
    let model = home.model();
    let sizes = ["--prefill", "40", "--decode", "3", "--depth", "50", "--batch", "3"];
    let common = [&["bench", arg(&model), "--threads", "1", "--repetitions", "2"], &sizes[..]];
    let json = home.run(&[&common.concat()[..], &["--json"]].concat()).ok();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    for key in ["prefill_tps", "decode_tps"] {
        assert!(json[key].as_f64().unwrap() > 0.0, "{json}");
    }
    assert_eq!((json["batch"].as_u64(), json["depth"].as_u64()), (Some(3), Some(50)));
    let table = home.run(&common.concat()).ok();
    assert!(table.contains("prefill") && table.contains("decode"), "{table}");
    let only = home.run(&["bench", arg(&model), "--prefill", "0", "--decode", "2", "--json"]).ok();
    assert!(serde_json::from_str::<serde_json::Value>(&only).unwrap()["prefill_tps"].is_null());
}

#[test]
fn perplexity_ends_with_the_value() {
    let home = Home::new();
    let model = home.model();
    let text =
        home.file("text.txt", "the rain in the stone was there before us. ".repeat(40).as_bytes());
    let with = |flags: &[&str]| {
        let common = ["perplexity", arg(&model), arg(&text), "--context", "33"];
        home.run(&[&common[..], flags].concat()).ok()
    };
    let out = with(&[]);
    let last = out.lines().last().unwrap();
    let value: f64 = last.split_whitespace().nth(1).unwrap().parse().unwrap();
    assert!(last.starts_with("perplexity ") && last.contains('±'), "{last}");
    // The logits of random weights say little: not far from the size of the vocabulary.
    assert!(value > 50.0 && value < 4000.0, "{value}");
    let json: serde_json::Value = serde_json::from_str(&with(&["--json"])).unwrap();
    assert!((json["perplexity"].as_f64().unwrap() - value).abs() < 1e-3);
    let windows = json["windows"].as_u64().unwrap();
    // Windows of 33 tokens: positions 16 ..= 31 predict 17 ..= 32.
    assert_eq!(json["scored_tokens"].as_u64(), Some(windows * 16));
    let oracle = with(&["--device", "reference", "--kv-dtype", "f32", "--windows", "2", "--json"]);
    let fast = with(&["--windows", "2", "--json"]);
    let value = |json: &str| {
        serde_json::from_str::<serde_json::Value>(json).unwrap()["perplexity"].as_f64().unwrap()
    };
    let (oracle, fast) = (value(&oracle), value(&fast));
    assert!((oracle / fast - 1.0).abs() < 0.01, "{oracle} and {fast}");
    let short = home.file("short.txt", b"hi");
    let error = home.run(&["perplexity", arg(&model), arg(&short)]).failed(1);
    assert!(error.contains("fewer than one window"));
}
