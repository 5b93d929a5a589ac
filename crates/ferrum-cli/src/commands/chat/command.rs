//! The chat's commands: inputs that begin with a slash.

use crate::session::AnswerOptions;

/// What `/help` prints.
pub const HELP: &str = "\
/help               this
/clear              forget the conversation
/system [TEXT]      set the system message, or show it
/set NAME VALUE     temperature, top-k, top-p, min-p, typical, repeat-penalty,
                    presence-penalty, frequency-penalty, seed, max-tokens
/stats              token counts and speeds of the last answer
/save FILE          write the conversation to a new text file
/exit               leave (so does Ctrl-D)
Several lines: end a line with \\, or put \"\"\" before the first and after the last.
Ctrl-C stops an answer. //text says /text to the model.
";

/// A command.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    Help,
    Clear,
    System(Option<String>),
    Set(Setting),
    Stats,
    Save(String),
    Exit,
}

/// A setting with its new value.
#[derive(Debug, Clone, PartialEq)]
pub enum Setting {
    Temperature(f32),
    TopK(usize),
    TopP(f32),
    MinP(f32),
    Typical(f32),
    RepeatPenalty(f32),
    PresencePenalty(f32),
    FrequencyPenalty(f32),
    Seed(u64),
    MaxTokens(usize),
}

/// Reads an input; `None` if it is no command, an error's text if it is a wrong one.
pub fn parse(input: &str) -> Option<Result<Command, String>> {
    let rest = input.strip_prefix('/').filter(|rest| !rest.starts_with('/'))?;
    let (name, argument) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    let argument = argument.trim();
    Some(match (name, argument) {
        ("help" | "?", _) => Ok(Command::Help),
        ("clear", _) => Ok(Command::Clear),
        ("system", "") => Ok(Command::System(None)),
        ("system", text) => Ok(Command::System(Some(text.to_string()))),
        ("set", text) => setting(text).map(Command::Set),
        ("stats", _) => Ok(Command::Stats),
        ("save", "") => Err("/save needs the name of a file".into()),
        ("save", path) => Ok(Command::Save(path.to_string())),
        ("exit" | "quit" | "bye", _) => Ok(Command::Exit),
        (other, _) => Err(format!("there is no /{other}; /help shows what there is")),
    })
}

fn setting(text: &str) -> Result<Setting, String> {
    let (name, value) = text.split_once(char::is_whitespace).ok_or("/set needs NAME VALUE")?;
    let value = value.trim();
    let name = name.trim_start_matches('-').replace('_', "-");
    let wrong = || format!("{value} is no value for {name}");
    let real = || value.parse::<f32>().ok().filter(|v| v.is_finite()).ok_or_else(wrong);
    let non_negative = || real().and_then(|v| if v >= 0.0 { Ok(v) } else { Err(wrong()) });
    let positive = || real().and_then(|v| if v > 0.0 { Ok(v) } else { Err(wrong()) });
    let probability = || positive().and_then(|v| if v <= 1.0 { Ok(v) } else { Err(wrong()) });
    let count = || value.parse::<usize>().map_err(|_| wrong());
    Ok(match name.as_str() {
        "temperature" => Setting::Temperature(non_negative()?),
        "top-k" => Setting::TopK(count()?),
        "top-p" => Setting::TopP(probability()?),
        "min-p" => {
            Setting::MinP(non_negative().and_then(|v| if v <= 1.0 { Ok(v) } else { Err(wrong()) })?)
        }
        "typical" => Setting::Typical(probability()?),
        "repeat-penalty" => Setting::RepeatPenalty(positive()?),
        "presence-penalty" => Setting::PresencePenalty(real()?),
        "frequency-penalty" => Setting::FrequencyPenalty(real()?),
        "seed" => Setting::Seed(value.parse().map_err(|_| wrong())?),
        "max-tokens" => {
            Setting::MaxTokens(count().and_then(|n| if n > 0 { Ok(n) } else { Err(wrong()) })?)
        }
        other => return Err(format!("there is no setting {other}; /help shows them")),
    })
}

impl Setting {
    /// Makes it so from the next answer on.
    pub fn apply(self, options: &mut AnswerOptions) {
        let sampling = &mut options.sampling;
        match self {
            Setting::Temperature(v) => sampling.temperature = v,
            Setting::TopK(v) => sampling.top_k = v,
            Setting::TopP(v) => sampling.top_p = v,
            Setting::MinP(v) => sampling.min_p = v,
            Setting::Typical(v) => sampling.typical_p = v,
            Setting::RepeatPenalty(v) => sampling.repetition_penalty = v,
            Setting::PresencePenalty(v) => sampling.presence_penalty = v,
            Setting::FrequencyPenalty(v) => sampling.frequency_penalty = v,
            Setting::Seed(v) => sampling.seed = Some(v),
            Setting::MaxTokens(v) => options.max_tokens = Some(v),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_read() {
        assert_eq!(parse("hello"), None);
        assert_eq!(parse("//not a command"), None);
        assert_eq!(parse("/clear"), Some(Ok(Command::Clear)));
        let system = Command::System(Some("be brief".into()));
        assert_eq!(parse("/system  be brief "), Some(Ok(system)));
        let set = |text: &str| parse(&format!("/set {text}")).unwrap();
        assert_eq!(set("temperature 0"), Ok(Command::Set(Setting::Temperature(0.0))));
        assert_eq!(set("top_k 5"), Ok(Command::Set(Setting::TopK(5))));
        for wrong in
            ["", "temperature", "temperature -1", "top-p 0", "min-p 2", "max-tokens 0", "x 1"]
        {
            assert!(set(wrong).is_err(), "{wrong}");
        }
        assert!(parse("/nonsense").unwrap().is_err() && parse("/save").unwrap().is_err());
    }
}
