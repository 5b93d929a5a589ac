//! `ferrum run`: one answer to a prompt, or a chat.

use std::hash::{BuildHasher, RandomState};
use std::io::{self, Read, Write};

use anyhow::{Context, Result, bail};
use ferrum_engine::FinishReason;
use ferrum_models::LoadOptions;
use ferrum_models::chat::Message;

use super::chat;
use crate::args::{Input, RunArgs, draft_samples};
use crate::config::Config;
use crate::exit::{Outcome, UsageError};
use crate::session::{Answer, AnswerOptions, Drafts, Session, open_model, open_reference};
use crate::ui::interrupt::Interrupt;

/// Answers, or chats.
pub fn run(args: &RunArgs, config: &Config) -> Result<Outcome> {
    let meaning = args.meaning(config.terminal.stdin)?;
    if let Some(word) = meaning.doubtful.filter(|_| !config.quiet) {
        eprintln!(
            "'{word}' names no model, so it is the prompt for {} (-m names a model)",
            meaning.model
        );
    }
    let prompt = match meaning.input {
        Input::Prompt(text) => Some(text),
        Input::Stdin => Some(read_stdin()?),
        Input::Chat => None,
    };
    let file = open_reference(&meaning.model, config)?;
    let options = LoadOptions {
        context: args.context.map(|n| n as usize),
        max_samples: args.draft_model.as_ref().map(|_| draft_samples(1, args.draft.draft_max)),
        lora: args.lora.sources(),
        ..args.load.options(&config.cuda)
    };
    let name = file.name.clone();
    let draft = args.draft_model.as_deref().map(|name| open_model(name, config));
    let drafts = Drafts { model: draft.transpose()?, most: usize::from(args.draft.draft_max) };
    let mut session = Session::load(file, &options, drafts)?;
    if args.verbose {
        eprintln!("{name} loaded in {:.3} s", session.load_time.as_secs_f64());
    }
    let answer_options = AnswerOptions {
        sampling: args.sampling.params(RandomState::new().hash_one(std::process::id())),
        stop: args.stop.clone(),
        max_tokens: args.max_tokens.map(|n| n as usize),
    };
    let interrupt = Interrupt::install()?;
    match prompt {
        Some(prompt) => {
            let tokens = prompt_tokens(args, config, &session, &prompt)?;
            once(args, &mut session, tokens, &answer_options, &interrupt)
        }
        None => chat::run(args, config, session, answer_options, &interrupt),
    }
}

/// Standard input as the prompt; one line end at its end belongs to the shell.
fn read_stdin() -> Result<String> {
    let mut text = String::new();
    io::stdin().read_to_string(&mut text).context("standard input is not a UTF-8 text")?;
    let text = text.strip_suffix('\n').map_or(text.as_str(), |t| t.strip_suffix('\r').unwrap_or(t));
    if text.trim().is_empty() {
        return Err(UsageError("there is no prompt on standard input".into()).into());
    }
    Ok(text.to_string())
}

/// The tokens of a single prompt: a conversation of one message, or the text as it is.
fn prompt_tokens(
    args: &RunArgs,
    config: &Config,
    session: &Session,
    prompt: &str,
) -> Result<Vec<u32>> {
    if args.raw {
        return Ok(session.raw_prompt(prompt));
    }
    if !session.can_chat() {
        if args.system.is_some() {
            bail!("the model has no chat template, so it takes no system message");
        }
        if !config.quiet {
            eprintln!("the model has no chat template: continuing the text as with --raw");
        }
        return Ok(session.raw_prompt(prompt));
    }
    let system = args.system.as_ref().map(|text| Message::new("system", text.clone()));
    let messages: Vec<Message> = system.into_iter().chain([Message::new("user", prompt)]).collect();
    session.chat_prompt(&messages)
}

/// One answer to standard output, with a line end.
fn once(
    args: &RunArgs,
    session: &mut Session,
    tokens: Vec<u32>,
    options: &AnswerOptions,
    interrupt: &Interrupt,
) -> Result<Outcome> {
    let answer = stream(session, tokens, options, interrupt)?;
    if args.verbose {
        eprintln!("{}", answer.stats());
    }
    Ok(match answer.reason {
        FinishReason::Cancelled => Outcome::Interrupted,
        _ => Outcome::Done,
    })
}

/// Answers to standard output as the text comes, and ends the line.
pub fn stream(
    session: &mut Session,
    tokens: Vec<u32>,
    options: &AnswerOptions,
    interrupt: &Interrupt,
) -> Result<Answer> {
    let mut out = io::stdout().lock();
    let mut show = |text: &str| {
        out.write_all(text.as_bytes())?;
        Ok(out.flush()?)
    };
    let answer = session.answer(tokens, options, interrupt, &mut show)?;
    if !answer.text.ends_with('\n') {
        writeln!(out)?;
    }
    Ok(answer)
}
