//! From a grammar to a constraint that requests share, within limits of size and time.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::Duration,
};

use llguidance::{
    JsonCompileOptions, Matcher, ParserFactory,
    api::{GrammarWithLexer, ParserLimits, TopLevelGrammar},
    earley::SlicedBiasComputer,
    toktrie::{
        ApproximateTokEnv, INVALID_TOKEN, InferenceCapabilities, TokEnv, TokRxInfo, TokTrie,
    },
};
use serde_json::{Value, json};

use super::{
    Constraint, ConstraintError, Grammar, Spelling, TokenTable,
    error::summary,
    gbnf,
    numbers::NumberTokens,
    schema::{self, SchemaLimits},
};

/// What a grammar may cost. The default serves grammars that people write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompileLimits {
    /// Bytes of a regular expression.
    pub regex_bytes: usize,
    /// Bytes of a Lark grammar.
    pub lark_bytes: usize,
    /// Bytes of a GBNF grammar; each of its characters is a terminal.
    pub gbnf_bytes: usize,
    /// Size of each schema.
    pub schema: SchemaLimits,
    /// Time to compile, the first mask included.
    pub time: Duration,
    /// Grammars compiled at once.
    pub at_once: usize,
    /// Compiled grammars that are kept for the next request.
    pub kept: usize,
}

impl Default for CompileLimits {
    fn default() -> Self {
        CompileLimits {
            regex_bytes: 4 << 10,
            lark_bytes: 64 << 10,
            gbnf_bytes: 16 << 10,
            schema: SchemaLimits::default(),
            time: Duration::from_secs(2),
            at_once: 2,
            kept: 32,
        }
    }
}

/// Stack of the thread that compiles: the parsers of grammars call themselves. It is address
/// space; memory is taken as deep as a grammar goes.
const STACK: usize = 256 << 20;

/// Brackets within brackets that a grammar may have.
pub(super) const MAX_NESTING: usize = 100;

/// Bytes of a token that answers may hold. The trie has room for 1024; longer ones are runs of
/// spaces and the like.
const MAX_TOKEN: usize = 512;

/// Bytes of all tokens together. The trie's nodes are counted in 22 bits.
const MAX_VOCABULARY: usize = 1 << 22;

/// What may stand between the parts of JSON: nothing, a space, or a line with its indentation.
/// Bounded, as a weak model would write spaces for ever.
const WHITESPACE: &str = r"( |\n[ \t]{0,20})";

/// Compiles grammars for one vocabulary. It never changes but for the grammars that it keeps, so
/// threads can share it.
pub struct ConstraintCompiler {
    shared: Arc<Shared>,
    limits: CompileLimits,
    running: Arc<AtomicUsize>,
    /// The last used first.
    kept: Mutex<Vec<(Grammar, Constraint)>>,
}

/// What compiling threads need.
struct Shared {
    factory: ParserFactory,
    numbers: Arc<NumberTokens>,
    ends: Arc<[u32]>,
    vocab: usize,
}

impl ConstraintCompiler {
    /// Builds the trie of `table`: some tens of milliseconds for 49,000 tokens.
    pub fn new(table: &TokenTable, limits: CompileLimits) -> Result<Self, ConstraintError> {
        let refuse = |reason: String| ConstraintError::Vocabulary { reason };
        let words = words(table)?;
        let vocab = words.len();
        let ends: Vec<u32> =
            table.end_of_generation.iter().copied().filter(|&id| (id as usize) < vocab).collect();
        let info = TokRxInfo::new(vocab as u32, ends.first().copied().unwrap_or(INVALID_TOKEN));
        let mut trie = TokTrie::from(&info, &words);
        if !ends.is_empty() {
            trie = trie.with_eos_tokens(&ends);
        }
        let env: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
        let slices = SlicedBiasComputer::general_slices();
        let mut factory = ParserFactory::new(&env, InferenceCapabilities::default(), &slices)
            .map_err(|error| refuse(error.to_string()))?;
        factory.quiet();
        *factory.limits_mut() = parser_limits();
        let numbers = Arc::new(NumberTokens::new(&words));
        let shared = Shared { factory, numbers, ends: ends.into(), vocab };
        Ok(ConstraintCompiler {
            shared: Arc::new(shared),
            limits,
            running: Arc::default(),
            kept: Mutex::default(),
        })
    }

    /// The constraint of a grammar. It takes up to [`CompileLimits::time`] of the calling thread.
    pub fn compile(&self, grammar: &Grammar) -> Result<Constraint, ConstraintError> {
        if let Some(constraint) = self.recall(grammar) {
            return Ok(constraint);
        }
        let constraint = self.compile_new(grammar.clone())?;
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.insert(0, (grammar.clone(), constraint.clone()));
        kept.truncate(self.limits.kept);
        Ok(constraint)
    }

    fn recall(&self, grammar: &Grammar) -> Option<Constraint> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let at = kept.iter().position(|(known, _)| known == grammar)?;
        kept[..=at].rotate_right(1);
        Some(kept[0].1.clone())
    }

    /// Compiles on a thread of its own, for its stack and so that the caller can stop waiting.
    fn compile_new(&self, grammar: Grammar) -> Result<Constraint, ConstraintError> {
        let slot = Slot::take(&self.running, self.limits.at_once)?;
        let (shared, limits) = (Arc::clone(&self.shared), self.limits.clone());
        let (sender, receiver) = mpsc::sync_channel(1);
        let work = move || {
            let result = limits.check(&grammar).and_then(|()| shared.compile(&grammar));
            drop(slot);
            // Nobody waits any more after the time limit; the work itself is bounded by fuel.
            let _ = sender.send(result);
        };
        let thread = thread::Builder::new().name("grammar".into()).stack_size(STACK);
        // No thread to be had: the machine is too busy.
        thread.spawn(work).map_err(|_| ConstraintError::Busy)?;
        receiver.recv_timeout(self.limits.time).unwrap_or_else(|error| {
            Err(match error {
                RecvTimeoutError::Timeout => ConstraintError::TooSlow { limit: self.limits.time },
                RecvTimeoutError::Disconnected => {
                    ConstraintError::Invalid { reason: "its compilation failed".into() }
                }
            })
        })
    }
}

impl CompileLimits {
    /// Holds what can be counted against the limits, and schemas against what can be enforced.
    /// References may lead from schema to schema, as deep as there are schemas: this wants
    /// [`STACK`].
    fn check(&self, grammar: &Grammar) -> Result<(), ConstraintError> {
        match grammar {
            Grammar::JsonObject => Ok(()),
            Grammar::JsonSchema(schema) => schema::check(schema, &self.schema),
            Grammar::Regex(regex) => at_most("bytes", regex.len(), self.regex_bytes),
            Grammar::Lark(lark) => self.check_lark(lark),
            Grammar::Gbnf(gbnf) => at_most("bytes", gbnf.len(), self.gbnf_bytes),
            Grammar::OneOf(texts) => {
                at_most("bytes", texts.iter().map(String::len).sum(), self.lark_bytes)
            }
            Grammar::Framed { lark, parts } => {
                at_most("bytes", lark.len(), self.lark_bytes)?;
                parts.iter().try_for_each(|(_, part)| self.check(part))
            }
        }
    }

    fn check_lark(&self, lark: &str) -> Result<(), ConstraintError> {
        at_most("bytes", lark.len(), self.lark_bytes)?;
        at_most("brackets within brackets", nesting(lark), MAX_NESTING)?;
        if lark.contains("x-guidance") {
            let reason = "`x-guidance` is not accepted".to_owned();
            return Err(ConstraintError::Invalid { reason });
        }
        Ok(())
    }
}

impl Shared {
    fn compile(&self, grammar: &Grammar) -> Result<Constraint, ConstraintError> {
        let mut matcher = Matcher::new(self.factory.create_parser(top_level(grammar)?));
        let mut pristine = None;
        // The first mask finds grammars that allow nothing or that are too costly from the start.
        if !matcher.is_error() {
            pristine = Some(matcher.deep_clone());
            let _ = matcher.compute_mask_or_eos();
        }
        match (matcher.get_error(), pristine) {
            (None, Some(matcher)) => {
                let numbers = has_json(grammar).then(|| Arc::clone(&self.numbers));
                Ok(Constraint::new(matcher, self.vocab, Arc::clone(&self.ends), numbers))
            }
            (error, _) => Err(explain(&error.unwrap_or_default())),
        }
    }
}

/// A place among the grammars that are compiled at once, free again when dropped.
struct Slot(Arc<AtomicUsize>);

impl Slot {
    fn take(running: &Arc<AtomicUsize>, most: usize) -> Result<Self, ConstraintError> {
        let slot = Slot(Arc::clone(running));
        if running.fetch_add(1, Ordering::Relaxed) >= most {
            return Err(ConstraintError::Busy);
        }
        Ok(slot)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Work for one mask: a fifth of llguidance's own limits, so that a hostile grammar cannot hold
/// up the other requests of a step for more than some milliseconds.
fn parser_limits() -> ParserLimits {
    ParserLimits {
        step_lexer_fuel: 50_000,
        step_max_items: 20_000,
        max_lexer_states: 50_000,
        max_grammar_size: 200_000,
        verbose_errors: false,
        ..Default::default()
    }
}

/// The tokens in the spelling of the trie, where 0xff begins what is not text.
fn words(table: &TokenTable) -> Result<Vec<Vec<u8>>, ConstraintError> {
    let control = |name: &str| [&[TokTrie::SPECIAL_TOKEN_MARKER], name.as_bytes()].concat();
    let word = |(id, token): (usize, &Spelling)| match token {
        Spelling::Control(name) => control(name),
        Spelling::Text(bytes) if table.end_of_generation.contains(&(id as u32)) => {
            control(&String::from_utf8_lossy(bytes))
        }
        // A byte that UTF-8 never has, and the mark of control tokens.
        Spelling::Text(bytes) if bytes.contains(&TokTrie::SPECIAL_TOKEN_MARKER) => Vec::new(),
        Spelling::Text(bytes) => bytes.clone(),
        Spelling::None => Vec::new(),
    };
    let mut words: Vec<Vec<u8>> = table.tokens.iter().enumerate().map(word).collect();
    words.iter_mut().filter(|word| word.len() > MAX_TOKEN).for_each(Vec::clear);
    let bytes: usize = words.iter().map(Vec::len).sum();
    let tokens = words.len();
    if tokens == 0 || bytes == 0 || bytes > MAX_VOCABULARY || tokens > MAX_VOCABULARY {
        let reason = format!("it has {tokens} tokens of {bytes} bytes");
        return Err(ConstraintError::Vocabulary { reason });
    }
    Ok(words)
}

fn at_most(what: &'static str, size: usize, max: usize) -> Result<(), ConstraintError> {
    if size > max { Err(ConstraintError::TooLarge { what, size, max }) } else { Ok(()) }
}

/// The deepest nesting of brackets, those in strings counted too: an upper bound.
fn nesting(text: &str) -> usize {
    let (mut depth, mut deepest) = (0usize, 0);
    for byte in text.bytes() {
        match byte {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    deepest
}

/// Whether some of the answer is JSON.
fn has_json(grammar: &Grammar) -> bool {
    match grammar {
        Grammar::JsonObject | Grammar::JsonSchema(_) => true,
        Grammar::Framed { parts, .. } => parts.iter().any(|(_, part)| has_json(part)),
        Grammar::Regex(_) | Grammar::Lark(_) | Grammar::Gbnf(_) | Grammar::OneOf(_) => false,
    }
}

/// A grammar and its parts, in llguidance's form.
fn top_level(grammar: &Grammar) -> Result<TopLevelGrammar, ConstraintError> {
    let mut grammars = Vec::new();
    match grammar {
        Grammar::Framed { lark, parts } => {
            grammars.push(GrammarWithLexer::from_lark(lark.clone()));
            for (name, part) in parts {
                let part = single(part)?;
                grammars.push(GrammarWithLexer { name: Some(name.clone()), ..part });
            }
        }
        grammar => grammars.push(single(grammar)?),
    }
    Ok(TopLevelGrammar { grammars, max_tokens: None })
}

/// A grammar without parts.
fn single(grammar: &Grammar) -> Result<GrammarWithLexer, ConstraintError> {
    Ok(match grammar {
        Grammar::JsonObject => GrammarWithLexer::from_json_schema(prepared(&json!({
            "type": "object"
        }))),
        Grammar::JsonSchema(schema) => GrammarWithLexer::from_json_schema(prepared(schema)),
        Grammar::Regex(regex) => GrammarWithLexer::from_regex(regex),
        Grammar::Lark(lark) => GrammarWithLexer::from_lark(lark.clone()),
        Grammar::Gbnf(gbnf) => GrammarWithLexer::from_lark(gbnf::to_lark(gbnf)?),
        Grammar::OneOf(texts) => {
            // A JSON string is also a string of Lark.
            let texts: Vec<String> = texts.iter().map(|text| json!(text).to_string()).collect();
            GrammarWithLexer::from_lark(format!("start: {}", texts.join(" | ")))
        }
        Grammar::Framed { .. } => {
            let reason = "a frame within a frame".to_owned();
            return Err(ConstraintError::Invalid { reason });
        }
    })
}

/// `schema` with our choice of whitespace.
fn prepared(schema: &Value) -> Value {
    let mut schema = match schema {
        Value::Bool(true) => json!({}),
        other => other.clone(),
    };
    if schema.is_object() {
        let options = JsonCompileOptions {
            whitespace_pattern: Some(WHITESPACE.into()),
            ..Default::default()
        };
        options.apply_to(&mut schema);
    }
    schema
}

/// An error of llguidance in our terms.
fn explain(error: &str) -> ConstraintError {
    if error.contains("oneOf constraints are not supported") {
        return ConstraintError::Unsupported {
            keyword: "oneOf".into(),
            place: "#".into(),
            reason: "its options are not certain to exclude each other; use anyOf".into(),
        };
    }
    ConstraintError::Invalid { reason: summary(error) }
}
