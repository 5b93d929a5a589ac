//! `ferrum convert`: what it prints, and what becomes of files.

mod support;

use std::fs;

use support::{Home, arg};

#[test]
fn a_model_is_converted_and_runs() {
    let home = Home::new();
    let (model, output) = (home.model(), home.path("q8.gguf"));
    let run = home.run(&["convert", arg(&model), arg(&output), "--quant", "Q8_0"]);
    assert_eq!(run.code, 0, "{run:?}");
    assert!(run.out.contains("Q8_0") && run.out.contains("(8.5"), "{run:?}");
    assert!(run.err.contains("converting"), "{run:?}");
    let answer = |path| home.run(&["run", path, "the rain", "-n", "4", "--temperature", "0"]).ok();
    assert!(!answer(arg(&output)).is_empty());
    // As it is, the model is the same.
    let copy = home.path("copy.gguf");
    let run = home.run(&["convert", "-q", arg(&model), arg(&copy)]);
    assert_eq!((run.code, run.err.as_str()), (0, ""));
    assert_eq!(answer(arg(&copy)), answer(arg(&model)));
}

#[test]
fn files_are_not_replaced_unasked_and_none_is_left_half_written() {
    let home = Home::new();
    let (model, output) = (home.model(), home.file("there.gguf", b"mine"));
    let command = ["convert", arg(&model), arg(&output), "-q", "-t", "q4_0"];
    assert!(home.run(&command).failed(1).contains("--force"));
    assert_eq!(fs::read(&output).unwrap(), b"mine");
    home.run(&[&command[..], &["--force"]].concat()).ok();
    assert!(fs::read(&output).unwrap().starts_with(b"GGUF"));
    // What is quantised already is not quantised again unasked.
    let again = home.path("again.gguf");
    let command = ["convert", arg(&output), arg(&again), "-q", "-t", "q4_k"];
    assert!(home.run(&command).failed(1).contains("--allow-requantize"));
    assert!(!again.exists());
    home.run(&[&command[..], &["--allow-requantize"]].concat()).ok();
    // Over itself, onto a folder, into one that is not there.
    let over = home.run(&["convert", arg(&model), arg(&model), "-f", "-t", "q4_0"]);
    assert!(over.failed(1).contains("the model itself"));
    let folder = home.path("");
    assert!(home.run(&["convert", arg(&model), arg(&folder)]).failed(1).contains("no file"));
    let nowhere = home.path("nowhere/out.gguf");
    assert!(
        home.run(&["convert", "-q", arg(&model), arg(&nowhere)]).failed(1).contains("cannot write")
    );
    let left = fs::read_dir(home.path("")).unwrap().flatten();
    assert!(left.into_iter().all(|e| !e.file_name().to_string_lossy().ends_with(".part")));
    let wrong = home.run(&["convert", arg(&model), "x.gguf", "--quant", "q9"]);
    assert!(wrong.code == 2 && wrong.err.contains("q4_k_m"), "{wrong:?}");
}

#[test]
fn what_is_no_model_is_refused() {
    let home = Home::new();
    let broken = home.file("broken.gguf", b"GGUF");
    let output = home.path("out.gguf");
    home.run(&["convert", arg(&broken), arg(&output)]).failed(1);
    home.file("folder/config.json", br#"{"model_type": "unknown"}"#);
    let folder = home.path("folder");
    assert!(home.run(&["convert", arg(&folder), arg(&output)]).failed(1).contains("unknown"));
    assert!(!output.exists());
}
