//! The command line as users type it.

use clap::{CommandFactory, Parser};
use ferrum_hub::{ModelRef, Selector};

use super::run::{Input, Meaning};
use super::{Cli, Command};

fn parse(line: &[&str]) -> Result<Cli, clap::Error> {
    Cli::try_parse_from([&["ferrum"], line].concat())
}

/// What `ferrum run` with these words means, on a terminal.
fn run(words: &[&str]) -> anyhow::Result<Meaning> {
    let Command::Run(args) = parse(&[&["run"], words].concat())?.command else {
        unreachable!("run was parsed as another command")
    };
    args.meaning(true)
}

fn prompt(text: &str) -> Input {
    Input::Prompt(text.into())
}

#[test]
fn the_definition_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn a_model_and_a_prompt_are_told_apart() {
    let name = |words: &[&str]| run(words).unwrap().model.to_string();
    let input = |words: &[&str]| run(words).unwrap().input;
    assert_eq!((name(&[]), input(&[])), ("smollm2".into(), Input::Chat));
    assert_eq!((name(&["gemma3"]), input(&["gemma3"])), ("gemma3".into(), Input::Chat));
    let one = ["Why is the sky blue?"];
    assert_eq!((name(&one), input(&one)), ("smollm2".into(), prompt(one[0])));
    let two = ["gemma3", "smollm2"];
    assert_eq!((name(&two), input(&two)), ("gemma3".into(), prompt("smollm2")));
    for words in [["-m", "gemma3", "smollm2"], ["-p", "smollm2", "gemma3"]] {
        assert_eq!((name(&words), input(&words)), ("gemma3".into(), prompt("smollm2")));
    }
    let both = ["-p", "gemma3", "-m", "smollm2"];
    assert_eq!((name(&both), input(&both)), ("smollm2".into(), prompt("gemma3")));
    assert_eq!(input(&["-m", "gemma3"]), Input::Chat);
}

#[test]
fn a_single_word_is_a_model_only_if_it_names_one() {
    let model = |word| run(&[word]).unwrap().model;
    assert_eq!(model("missing.gguf"), ModelRef::Path("missing.gguf".into()));
    assert_eq!(model("./x"), ModelRef::Path("./x".into()));
    let selector = Selector::Quant("Q8_0".into());
    let hub = ModelRef::Hub { repo: "o/r".into(), revision: None, selector };
    assert_eq!(model("o/r:Q8_0"), hub);
    let typo = run(&["smolm2"]).unwrap();
    assert_eq!((typo.input, typo.doubtful.as_deref()), (prompt("smolm2"), Some("smolm2")));
    assert_eq!(run(&["Explain TCP/IP"]).unwrap().doubtful, None);
}

#[test]
fn wrong_combinations_are_usage_errors() {
    for words in [
        &["-m", "a", "-p", "b", "c"][..],
        &["-m", "a", "b", "c"],
        &["-p", "a", "b", "c"],
        &["-p", " "],
        &["smollm2", ""],
    ] {
        let error = run(words).unwrap_err();
        assert!(error.is::<crate::exit::UsageError>(), "{words:?}: {error}");
    }
    assert!(run(&["nonsense", "a prompt"]).is_err(), "two words: the first must be a model");
}

#[test]
fn numbers_are_held_against_their_ranges() {
    for words in [
        &["run", "--max-tokens", "0", "x"][..],
        &["run", "--threads", "0", "x"],
        &["run", "--context", "0", "x"],
        &["run", "--stop", "", "x"],
        &["run", "--logit-bias", "5", "x"],
        &["run", "--logit-bias", "5=nan", "x"],
        &["run", "--device", "abacus", "x"],
        &["run", "--raw", "--system", "s", "x"],
        &["bench", "m", "--batch", "0"],
        &["perplexity", "m", "t", "--context", "1"],
        &["rm"],
    ] {
        assert!(parse(words).is_err(), "{words:?}");
    }
    assert!(parse(&["run", "--logit-bias", "5=-inf", "--presence-penalty", "-1", "x"]).is_ok());
}
