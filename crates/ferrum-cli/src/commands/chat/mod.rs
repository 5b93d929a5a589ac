//! The interactive chat: history, input of several lines, commands, Ctrl-C for the answer only.

mod command;
mod composer;

use std::fs;
use std::io::Write;

use anyhow::{Result, bail};
use ferrum_engine::FinishReason;
use ferrum_models::chat::{Content, Message};
use rustyline::DefaultEditor;
use rustyline::config::Configurer;
use rustyline::error::ReadlineError;

use super::run::stream;
use crate::args::RunArgs;
use crate::config::Config;
use crate::exit::Outcome;
use crate::session::{Answer, AnswerOptions, Session};
use crate::ui::interrupt::Interrupt;
use command::Command;
use composer::{Composed, Composer};

/// Inputs that the history file keeps.
const HISTORY: usize = 1000;

/// A conversation with its settings.
struct Chat<'a> {
    session: Session,
    options: AnswerOptions,
    interrupt: &'a Interrupt,
    raw: bool,
    verbose: bool,
    system: Option<String>,
    messages: Vec<Message>,
    last: Option<Answer>,
}

/// Chats until the user leaves.
pub fn run(
    args: &RunArgs,
    config: &Config,
    session: Session,
    options: AnswerOptions,
    interrupt: &Interrupt,
) -> Result<Outcome> {
    if !args.raw && !session.can_chat() {
        bail!("the model has no chat template, so it cannot chat; --raw continues texts instead");
    }
    let mut chat = Chat {
        session,
        options,
        interrupt,
        raw: args.raw,
        verbose: args.verbose,
        system: args.system.clone(),
        messages: Vec::new(),
        last: None,
    };
    let mut editor = DefaultEditor::new()?;
    editor.set_max_history_size(HISTORY)?;
    // A history that is not there yet, or cannot be read, is no reason not to chat.
    let _ = editor.load_history(&config.history);
    if !config.quiet {
        eprintln!(
            "/help shows what there is besides talking; Ctrl-C stops an answer, Ctrl-D leaves"
        );
    }
    while let Some(input) = read_input(&mut editor)? {
        let _ = editor.add_history_entry(&input);
        if !chat.take(&input)? {
            break;
        }
    }
    if let Some(folder) = config.history.parent() {
        let _ = fs::create_dir_all(folder);
    }
    if let Err(error) = editor.save_history(&config.history) {
        eprintln!("the history was not saved to {}: {error}", config.history.display());
    }
    Ok(Outcome::Done)
}

/// The next input, lines put together; `None` at Ctrl-D.
fn read_input(editor: &mut DefaultEditor) -> Result<Option<String>> {
    let mut composer = Composer::default();
    loop {
        let prompt = if composer.is_empty() { "> " } else { "… " };
        match editor.readline(prompt) {
            Ok(line) => match composer.push(&line) {
                Composed::More => {}
                Composed::Input(text) if text.trim().is_empty() => {}
                Composed::Input(text) => return Ok(Some(text)),
            },
            Err(ReadlineError::Interrupted) => {
                eprintln!("(Ctrl-D or /exit leaves)");
                composer = Composer::default();
            }
            Err(ReadlineError::Eof) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
    }
}

impl Chat<'_> {
    /// Takes one input; whether the chat goes on.
    fn take(&mut self, input: &str) -> Result<bool> {
        match command::parse(input) {
            None => self.say(input)?,
            Some(Ok(Command::Exit)) => return Ok(false),
            Some(Ok(command)) => self.run(command),
            Some(Err(why)) => eprintln!("{why}"),
        }
        Ok(true)
    }

    /// Answers what the user said. What goes wrong with one answer does not end the chat, except a
    /// standard output that nobody reads any more.
    fn say(&mut self, input: &str) -> Result<()> {
        self.messages.push(Message::new("user", input));
        match self.answer(input) {
            Ok(answer) => {
                if self.verbose {
                    eprintln!("{}", answer.stats());
                }
                self.messages.push(Message::new("assistant", answer.text.clone()));
                self.last = Some(answer);
            }
            Err(error) if error.is::<std::io::Error>() => return Err(error),
            Err(error) => {
                self.messages.pop();
                eprintln!("error: {error:#}");
            }
        }
        Ok(())
    }

    fn answer(&mut self, input: &str) -> Result<Answer> {
        let tokens = if self.raw {
            self.session.raw_prompt(input)
        } else {
            let system = self.system.iter().map(|text| Message::new("system", text.clone()));
            let messages: Vec<Message> = system.chain(self.messages.iter().cloned()).collect();
            self.session.chat_prompt(&messages)?
        };
        let context = self.session.context();
        if tokens.len() >= context {
            bail!(
                "the conversation has {} tokens, the context {context}: /clear starts a new one, \
                 and --context makes it longer",
                tokens.len()
            );
        }
        // A limit that goes beyond the context is the context's.
        let room = context - tokens.len();
        let mut options = self.options.clone();
        options.max_tokens = options.max_tokens.map(|n| n.min(room));
        let answer = stream(&mut self.session, tokens, &options, self.interrupt)?;
        match answer.reason {
            FinishReason::Length => eprintln!("(cut: --max-tokens or the context is reached)"),
            FinishReason::Cancelled => eprintln!("(stopped)"),
            _ => {}
        }
        Ok(answer)
    }

    fn run(&mut self, command: Command) {
        match command {
            Command::Help => eprint!("{}", command::HELP),
            Command::Clear => {
                self.messages.clear();
                eprintln!("a new conversation");
            }
            Command::System(None) => match &self.system {
                Some(text) => eprintln!("{text}"),
                None => eprintln!("there is no system message of yours"),
            },
            Command::System(Some(text)) => self.system = Some(text),
            Command::Set(setting) => setting.apply(&mut self.options),
            Command::Stats => match &self.last {
                Some(answer) => eprintln!("{}", answer.stats()),
                None => eprintln!("there is no answer yet"),
            },
            Command::Save(path) => match self.save(&path) {
                Ok(()) => eprintln!("saved to {path}"),
                Err(error) => eprintln!("not saved to {path}: {error}"),
            },
            Command::Exit => {}
        }
    }

    /// Writes the conversation as text; an existing file is left alone.
    fn save(&self, path: &str) -> std::io::Result<()> {
        let mut file = fs::File::create_new(path)?;
        let system = self.system.iter().map(|text| ("system", text.as_str()));
        let messages = self.messages.iter().filter_map(|message| match &message.content {
            Content::Text(text) => Some((message.role.as_str(), text.as_str())),
            _ => None,
        });
        let mut all = system.chain(messages);
        all.try_for_each(|(role, text)| writeln!(file, "{role}: {text}\n"))
    }
}
