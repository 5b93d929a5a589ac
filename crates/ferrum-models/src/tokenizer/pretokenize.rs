//! Pre-tokenizers: how text is cut into words before byte-pair merging.
//!
//! Each is a list of stages. A stage cuts every piece at the matches of its pattern; both the
//! matches and what lies between them become pieces of the next stage ("isolated" splits in the
//! `tokenizer.json` of each model, from which the patterns are taken). Most patterns end in
//! `\s+(?!\S)|\s+`: a run of spaces leaves its last one to the word that follows. That look-ahead
//! is the only part that is not a regular expression, so it is done by hand, and the rest runs on
//! an engine whose time is linear in the text: no input can make it backtrack.

use std::ops::Range;

use regex_automata::Input;
use regex_automata::meta::Regex;

use super::error::TokenizerError;
use super::oniguruma;

/// A pattern, and whether `\s+(?!\S)|\s+` follows as its last alternatives.
struct StageSpec {
    pattern: &'static str,
    spaces: bool,
}

/// How a model cuts text, and what else its `tokenizer.json` fixes.
pub(super) struct Spec {
    stages: &'static [StageSpec],
    /// A word that is a token is that token, whether or not the merges lead to it.
    pub whole_words: bool,
    /// Prompts begin with the BOS token unless the metadata says otherwise.
    pub add_bos: bool,
}

const fn spaces(pattern: &'static str) -> StageSpec {
    StageSpec { pattern, spaces: true }
}

const fn plain(pattern: &'static str) -> StageSpec {
    StageSpec { pattern, spaces: false }
}

/// OpenAI's GPT-2, `encoder.py`.
const GPT2: StageSpec = spaces(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+");

/// Meta-Llama-3-8B `tokenizer.json`; the same as `cl100k_base` of tiktoken but for the spaces.
const LLAMA3: StageSpec = spaces(concat!(
    r"'(?i:s|t|re|ve|m|ll|d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
));

/// Qwen2-7B `tokenizer.json`: Llama 3 with single digits.
const QWEN2: StageSpec = spaces(concat!(
    r"'(?i:s|t|re|ve|m|ll|d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
));

/// Qwen3.5 `tokenizer.json`: Qwen2 with combining marks as parts of words.
const QWEN35: StageSpec = spaces(concat!(
    r"'(?i:s|t|re|ve|m|ll|d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}",
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+"
));

/// `o200k_base` of tiktoken (GPT-4o); also Llama 4 and Phi-4-mini.
const O200K: StageSpec = spaces(concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
    r"(?:'(?i:s|t|re|ve|m|ll|d))?",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*",
    r"(?:'(?i:s|t|re|ve|m|ll|d))?",
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+"
));

/// Mistral-Nemo-Instruct-2407 `tokenizer.json`.
const TEKKEN: StageSpec = spaces(concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*",
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+"
));

/// Letters of scripts with case, as deepseek-llm-7b-base `tokenizer.json` lists them. Characters
/// that a Unicode normalisation would replace are written by number.
const DEEPSEEK_LETTERS: &str = concat!(
    r"\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕ",
    r"ἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-\u{1F7D}ᾀ-ᾴᾶ-ᾼ\u{1FBE}ῂ-ῄῆ-ῌῐ-\u{1FD3}ῖ-\u{1FDB}ῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤ",
    r"\u{2126}ℨ\u{212A}-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻",
    r"𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+"
);

/// What converters write where they do not know the model.
const DEFAULT: &[StageSpec] =
    &[plain(r"[\p{P}$+<=>^~|]+"), GPT2, plain(r"\p{N}+"), plain("[0-9][0-9][0-9]")];

/// SmolLM2, StarCoder and Command R `tokenizer.json`: single digits, then GPT-2.
const DIGITS_GPT2: &[StageSpec] = &[plain(r"\p{N}"), GPT2];

/// deepseek-llm-7b-base `tokenizer.json`.
const DEEPSEEK_LLM: &[StageSpec] = &[
    plain(r"[\r\n]"),
    plain(DEEPSEEK_LETTERS),
    plain(r"\s?[!-/:-~！-／：-～‘-‟\u{3000}-。]+"),
    plain(r"\s+$"),
    plain(r"[一-龥ࠀ-一가-\u{D7FF}]+"),
    plain(r"\p{N}+"),
];

/// deepseek-coder-6.7b-base `tokenizer.json`.
const DEEPSEEK_CODER: &[StageSpec] = &[
    plain(r"[\r\n]"),
    plain(r"\s?\p{L}+"),
    plain(r"\s?\p{P}+"),
    plain(r"[一-龥ࠀ-一가-\u{D7FF}]+"),
    plain(r"\p{N}"),
];

/// DeepSeek-V3 `tokenizer.json`.
const DEEPSEEK_V3: &[StageSpec] = &[
    plain(r"\p{N}{1,3}"),
    plain(r"[一-龥\u{3040}-ゟ゠-ヿ]+"),
    spaces(concat!(
        r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"##,
        r"|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+"
    )),
];

/// One name for each way to cut: those that a file is given whose `tokenizer.json` cuts so.
pub(super) const NAMES: &[&str] = &[
    "gpt-2",
    "smollm",
    "llama-bpe",
    "smaug-bpe",
    "qwen2",
    "qwen35",
    "gpt-4o",
    "tekken",
    "deepseek-llm",
    "deepseek-coder",
    "deepseek-v3",
    "default",
];

/// The pre-tokenizer that `tokenizer.ggml.pre` names. Names that mean the same are those that
/// llama.cpp's converter gives to models whose `tokenizer.json` cuts text the same way.
pub(super) fn spec(name: &str) -> Option<Spec> {
    let cut = |stages| Some(Spec { stages, whole_words: false, add_bos: false });
    match name {
        "default" => cut(DEFAULT),
        "gpt-2" | "phi-2" | "olmo" | "mpt" | "exaone4" => cut(&[GPT2]),
        "llama-bpe" | "llama3" | "llama-v3" | "falcon3" | "pixtral" | "lfm2" => {
            Some(Spec { stages: &[LLAMA3], whole_words: true, add_bos: true })
        }
        "smaug-bpe" | "dbrx" | "chatglm-bpe" => cut(&[LLAMA3]),
        "glm4" => Some(Spec { stages: &[LLAMA3], whole_words: true, add_bos: false }),
        "qwen2" | "deepseek-r1-qwen" | "megrez" | "stablelm2" | "hunyuan" => cut(&[QWEN2]),
        "qwen35" => cut(&[QWEN35]),
        "smollm" | "starcoder" | "refact" | "command-r" | "exaone" | "minerva-7b" => {
            cut(DIGITS_GPT2)
        }
        "gpt-4o" | "llama4" | "kanana2" => cut(&[O200K]),
        "tekken" => Some(Spec { stages: &[TEKKEN], whole_words: true, add_bos: true }),
        "deepseek-llm" => cut(DEEPSEEK_LLM),
        "deepseek-coder" => cut(DEEPSEEK_CODER),
        "deepseek-v3" | "hunyuan-dense" => cut(DEEPSEEK_V3),
        _ => None,
    }
}

/// Cuts text into words.
pub(super) struct PreTokenizer {
    stages: Vec<Stage>,
}

/// One cut of every piece.
pub(super) struct Stage {
    /// Pattern 0 of the specification; pattern 1 is `\s+` where the stage keeps spaces with words.
    regex: Regex,
    behavior: Behavior,
    /// Matches count as what lies between them, and the other way round.
    invert: bool,
}

/// What becomes of the matches of a pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Behavior {
    /// Each is a piece of its own.
    Isolated,
    /// They are dropped.
    Removed,
    /// Neighbouring ones are one piece.
    Contiguous,
    /// Each is the end of the piece before it.
    WithPrevious,
    /// Each is the beginning of the piece after it.
    WithNext,
}

/// The pattern of a [`Stage`] that matches runs of spaces.
const SPACES: usize = 1;

/// How patterns of `tokenizer.json` files end where runs of spaces leave their last one to the word
/// that follows.
const LEAVE_LAST_SPACE: &[&str] = &[r"|\s+(?!\S)|\s+", r"|\s+(?!\S)|\s"];

impl PreTokenizer {
    /// Compiles the patterns of `spec`.
    pub fn new(spec: &Spec) -> Result<Self, TokenizerError> {
        let stage = |s: &StageSpec| Stage::new(s.pattern, s.spaces, Behavior::Isolated, false);
        let stages = spec.stages.iter().map(stage).collect::<Result<_, _>>()?;
        Ok(PreTokenizer { stages })
    }

    /// Cuts by these stages, one after the other.
    pub fn of_stages(stages: Vec<Stage>) -> Self {
        PreTokenizer { stages }
    }

    /// The words of `text`, in order; unless a stage removes its matches, they are together the text.
    pub fn split(&self, text: &str) -> Vec<Range<usize>> {
        let mut pieces = Vec::from_iter(std::iter::once(0..text.len()));
        for stage in &self.stages {
            let mut next = Vec::with_capacity(pieces.len());
            for piece in pieces {
                stage.split(&text[piece.clone()], piece.start, &mut next);
            }
            pieces = next;
        }
        pieces
    }
}

impl Stage {
    fn new(
        pattern: &str,
        spaces: bool,
        behavior: Behavior,
        invert: bool,
    ) -> Result<Self, TokenizerError> {
        let patterns: &[&str] = if spaces { &[pattern, r"\s+"] } else { &[pattern] };
        let regex = Regex::new_many(patterns).map_err(|e| TokenizerError::Pattern {
            pattern: pattern.to_string(),
            reason: e.to_string(),
        })?;
        Ok(Stage { regex, behavior, invert })
    }

    /// GPT-2's cut.
    pub fn gpt2() -> Result<Self, TokenizerError> {
        Stage::new(GPT2.pattern, GPT2.spaces, Behavior::Isolated, false)
    }

    /// The pre-tokenizer `Whitespace`, which `tokenizers` does with our engine and not with Oniguruma.
    pub fn whitespace() -> Result<Self, TokenizerError> {
        Stage::new(r"\w+|[^\w\s]+", false, Behavior::Removed, true)
    }

    /// A cut by a pattern in the words of `tokenizer.json`, which are those of Oniguruma.
    pub fn of_pattern(
        pattern: &str,
        behavior: Behavior,
        invert: bool,
    ) -> Result<Self, TokenizerError> {
        let ours = LEAVE_LAST_SPACE.iter().find_map(|end| pattern.strip_suffix(end));
        let (body, spaces) = (ours.unwrap_or(pattern), ours.is_some());
        let patterns: &[&str] = if spaces { &[body, r"\s+"] } else { &[body] };
        Ok(Stage { regex: oniguruma::compile(patterns)?, behavior, invert })
    }

    /// A cut at a text, which must not be empty.
    pub fn of_text(text: &str, behavior: Behavior, invert: bool) -> Result<Self, TokenizerError> {
        let literal: String = text.chars().map(|c| format!(r"\u{{{:x}}}", u32::from(c))).collect();
        Stage::new(&literal, false, behavior, invert)
    }

    /// Appends the pieces of `piece`, which begins at `offset` of the text.
    fn split(&self, piece: &str, offset: usize, pieces: &mut Vec<Range<usize>>) {
        let before = pieces.len();
        let (mut last_matched, mut some_empty) = (false, false);
        self.cut(piece, &mut |range, matched| {
            some_empty |= range.is_empty();
            let range = offset + range.start..offset + range.end;
            let matched = matched != self.invert;
            // Whether the piece is one with the last.
            let joined = match self.behavior {
                Behavior::Isolated => false,
                Behavior::Removed if matched => return,
                Behavior::Removed => false,
                Behavior::Contiguous => matched == last_matched,
                Behavior::WithPrevious => matched && !last_matched,
                Behavior::WithNext => !matched && last_matched,
            };
            last_matched = matched;
            match pieces[before..].last_mut() {
                Some(last) if joined => last.end = range.end,
                _ => pieces.push(range),
            }
        });
        if some_empty {
            let mut kept = pieces.split_off(before);
            kept.retain(|range| !range.is_empty());
            pieces.append(&mut kept);
        }
    }

    /// Calls `found` with every match of the pattern and all that lies between. A match may be empty:
    /// it cuts too, unless it stands where the last match ended.
    fn cut(&self, piece: &str, found: &mut dyn FnMut(Range<usize>, bool)) {
        let (mut at, mut from, mut last_end) = (0, 0, None);
        while from <= piece.len() {
            let input = Input::new(piece).range(from..);
            let Some(range) = self.regex.find(input) else { break };
            let mut end = range.end();
            if range.pattern().as_usize() == SPACES {
                end = leave_last_space(piece, range.range());
            }
            if range.is_empty() && last_end == Some(end) {
                from += piece[from..].chars().next().map_or(1, char::len_utf8);
                continue;
            }
            if range.start() > at {
                found(at..range.start(), false);
            }
            found(range.start()..end, true);
            (at, from, last_end) = (end, end, Some(end));
        }
        if at < piece.len() {
            found(at..piece.len(), false);
        }
    }
}

/// The end of the match of `\s+(?!\S)|\s+` where `\s+` matches `run`: a run of several spaces
/// before a word ends one space earlier.
fn leave_last_space(piece: &str, run: Range<usize>) -> usize {
    if run.end == piece.len() {
        return run.end;
    }
    match piece[run.clone()].char_indices().next_back() {
        Some((last, _)) if last > 0 => run.start + last,
        _ => run.end,
    }
}
