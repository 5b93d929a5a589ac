//! Patterns on the names of modules, as PEFT and compressed-tensors have them: Python's regular
//! expressions.

use regex_automata::meta::{Config, Regex};
use regex_automata::util::syntax;
use regex_automata::{Anchored, Input};

/// Bytes that a compiled pattern may take.
const MAX_BYTES: usize = 4 << 20;
/// The longest pattern.
const MAX_LEN: usize = 16 << 10;

/// A pattern on a name from its beginning on.
#[derive(Debug)]
pub(crate) struct Pattern(Regex);

impl Pattern {
    /// `re.fullmatch(pattern, …)`
    pub fn whole(pattern: &str) -> Result<Self, String> {
        Pattern::compile(pattern, format!("(?:{pattern})\\z"))
    }

    /// `re.match(rf"(.*\.)?({pattern})$", …)`: as PEFT finds a module's own rank.
    pub fn tail(pattern: &str) -> Result<Self, String> {
        Pattern::compile(pattern, format!("(?:.*\\.)?(?:{pattern})\\z"))
    }

    /// `re.match(pattern, …)`
    pub fn start(pattern: &str) -> Result<Self, String> {
        Pattern::compile(pattern, format!("(?:{pattern})"))
    }

    fn compile(pattern: &str, whole: String) -> Result<Self, String> {
        if pattern.len() > MAX_LEN {
            return Err(format!("a pattern of {} bytes is too long", pattern.len()));
        }
        let config =
            Config::new().nfa_size_limit(Some(MAX_BYTES)).onepass_size_limit(Some(MAX_BYTES));
        // Names have one line; backtracking, which Python has and this has not, is refused here.
        let built = Regex::builder().configure(config).syntax(syntax::Config::new()).build(&whole);
        built.map(Pattern).map_err(|_| format!("the pattern {pattern:?} is not supported"))
    }

    /// Whether `name` is meant.
    pub fn matches(&self, name: &str) -> bool {
        self.0.is_match(Input::new(name).anchored(Anchored::Yes))
    }
}
