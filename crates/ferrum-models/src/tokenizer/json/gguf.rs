//! A `tokenizer.json` as the metadata of a GGUF file, which has fewer words: a cut is one of a list of
//! names, and merges of characters are scores.
//!
//! What was written is read again and held against the original on texts of many kinds. Where plain
//! text would get other tokens, it is refused; smaller differences are noted.

use std::collections::{HashMap, HashSet};

use super::super::error::TokenizerError;
use super::super::normalize::Step;
use super::super::pretokenize::{self, PreTokenizer};
use super::super::spm::SPACE;
use super::super::vocab::TokenKind;
use super::super::{Tokenizer, special};
use super::file::File;
use super::vocabulary::{self, Entry};
use super::{Beside, Family, normalizer, pre_tokenizer, unsupported};
use crate::gguf::{Metadata, Value};

/// A tokenizer as metadata of a GGUF file.
#[derive(Debug, Default)]
pub struct GgufVocabulary {
    /// Keys and values.
    pub entries: Vec<(String, Value)>,
    /// What GGUF cannot say of it.
    pub notes: Vec<String>,
}

/// Texts of many kinds: contractions, numbers, scripts, marks, spaces, punctuation, code.
const PROBES: &[&str] = &[
    "Hello world, it's the 1st day; we'll see they've DON'T stop. I'd say 12345 or 3.14159!",
    "  leading,   inner    and trailing   \n\n\n\tnew\tlines\r\n \r\n  x",
    "Größe ÆØÅ naïve Ĳsselmeer ﬁ ǅ straße İstanbul élan e\u{301}lan ñandú",
    "Привет, мир! Γειά σου Κόσμε. שלום עולם مرحبا بالعالم नमस्ते दुनिया ภาษาไทย",
    "你好，世界！日本語のテキスト、カタカナ。한국어 텍스트 １２３４ ㍿ 𠮷野家",
    "fn main() { let x = a[i] + b->c::<T>(0xFF_u8); // TODO: !!! ??? ...\n    return \"x\\n\"; }",
    "e-mail: a.b+c@d.org https://x.y/z?q=1&r=%20#frag $5.00 €7 50% ~/.bashrc C:\\dir",
    "👩‍👩‍👧 😀😀 ™ © ½ ² ① – — … “quoted” ‘x’ «y» \u{a0}nbsp\u{3000}wide\u{200b}zero",
    "x\u{1F}y\u{0}z a1b22c333d4444 ABCdefGHI camelCaseText snake_case_text 1,000,000.00",
    "'s 't 're 've 'm 'll 'd 'S 'LL ''' \"\" `` <tag attr='v'/> [INST] #include <x>",
    "'",
    " ",
    "",
    "\n",
    "a",
    " a",
    "  a",
    "a ",
    "\u{e9}",
    "▁",
    "a▁b ▁c",
];

impl GgufVocabulary {
    /// Translates a `tokenizer.json` of byte-level or character BPE.
    pub fn from_json(json: &[u8], beside: &Beside<'_>) -> Result<Self, TokenizerError> {
        let file = File::parse(json)?;
        let family = Family::of(&file)?;
        let original = super::build(&file, family, beside)?;
        let mut out = GgufVocabulary::default();
        let entries = vocabulary::entries(&file, family, beside)?;
        let mut composes = false;
        match family {
            Family::Bytes => composes = out.bytes(&file)?,
            Family::Characters => out.characters(&file, &entries, beside)?,
            Family::WordPiece => return Err(unsupported("model", "WordPiece, to be converted,")),
            Family::Unigram => return Err(unsupported("model", "Unigram, to be converted,")),
        }
        out.tokens(&entries, beside);
        out.special_tokens(&file, &original, beside);
        out.check(&original, composes)?;
        Ok(out)
    }

    fn set(&mut self, key: &str, value: impl Into<Value>) {
        self.entries.push((format!("tokenizer.ggml.{key}"), value.into()));
    }

    /// The name of the cut, and the merges. Whether texts are brought to normal form C, which GGUF
    /// cannot say.
    fn bytes(&mut self, file: &File<'_>) -> Result<bool, TokenizerError> {
        let mut steps = normalizer::steps(file.normalizer.as_ref())?;
        let words = pre_tokenizer::read(file.pre_tokenizer.as_ref(), &mut steps)?;
        let mut composes = false;
        for step in &steps {
            match step {
                Step::Nfc => {
                    composes = true;
                    self.notes.push("texts are not brought to normal form C".into());
                }
                _ => return Err(unsupported("normalizer", "of a kind that GGUF has not")),
            }
        }
        self.set("model", "gpt2");
        self.set("pre", cut_name(&words, file.model.ignore_merges)?);
        let mut merges = Vec::with_capacity(file.model.merges.len());
        for merge in &file.model.merges {
            let parts = merge.parts().filter(|p| !p.left.contains(' ') && !p.right.contains(' '));
            let parts = parts.ok_or_else(|| unsupported("BPE's", "merge of a space"))?;
            merges.push(format!("{} {}", parts.left, parts.right));
        }
        self.set("merges", merges);
        Ok(composes)
    }

    /// Scores that let the pairs of the merges be merged in their order.
    fn characters(
        &mut self,
        file: &File<'_>,
        entries: &[Entry<'_>],
        beside: &Beside<'_>,
    ) -> Result<(), TokenizerError> {
        let mut steps = normalizer::steps(file.normalizer.as_ref())?;
        pre_tokenizer::read(file.pre_tokenizer.as_ref(), &mut steps)?;
        let mut prefix = false;
        for step in &steps {
            match step {
                Step::Replace { from, to } if from == " " && to == SPACE => {}
                Step::Prepend(with) | Step::Begin { with, .. } if with == SPACE => prefix = true,
                _ => return Err(unsupported("normalizer", "of a kind that GGUF has not")),
            }
        }
        let (mut ranks, mut pairs) = (HashMap::new(), HashSet::new());
        for (rank, merge) in file.model.merges.iter().enumerate() {
            let Some(parts) = merge.parts() else { continue };
            ranks.entry(format!("{}{}", parts.left, parts.right)).or_insert(rank);
            pairs.insert((parts.left.to_string(), parts.right.to_string()));
        }
        let lowest = -(file.model.merges.len() as f32);
        let rows = entries.len().max(beside.tokens.unwrap_or(0));
        let mut scores = vec![lowest; rows];
        for (score, entry) in scores.iter_mut().zip(entries) {
            *score = match entry.kind {
                TokenKind::Normal => ranks.get(entry.text).map_or(lowest, |r| -(*r as f32)),
                _ => 0.0,
            };
        }
        self.set("model", "llama");
        self.set("pre", "default");
        self.set("scores", scores);
        self.set("add_space_prefix", prefix);
        let more = unmerged(entries, &pairs);
        if more > 0 {
            self.notes.push(format!("{more} tokens can be made that the merges do not make"));
        }
        Ok(())
    }

    /// Texts and kinds; where the model has more rows than there are tokens, these are reserved.
    fn tokens(&mut self, entries: &[Entry<'_>], beside: &Beside<'_>) {
        let count = entries.len().max(beside.tokens.unwrap_or(0));
        let text = |id: usize| match entries.get(id) {
            Some(entry) if !entry.text.is_empty() => entry.text.to_string(),
            _ => format!("[PAD{id}]"),
        };
        let kind = |id: usize| entries.get(id).map_or(TokenKind::Unused, |entry| entry.kind);
        self.set("tokens", (0..count).map(text).collect::<Vec<String>>());
        self.set("token_type", (0..count).map(|id| kind(id).number()).collect::<Vec<i32>>());
    }

    fn special_tokens(&mut self, file: &File<'_>, original: &Tokenizer, beside: &Beside<'_>) {
        let vocab = &original.pieces.vocab;
        let named = |key: &str| super::named(beside, vocab, key);
        let unknown = file.model.unk_token.as_ref().and_then(|t| special::by_text(vocab, t));
        let ids = [
            ("bos", original.bos()),
            ("eos", original.eos()),
            ("unknown", unknown.or_else(|| named("unk_token"))),
            ("padding", named("pad_token")),
        ];
        for (name, id) in ids {
            if let Some(id) = id {
                self.set(&format!("{name}_token_id"), id);
            }
        }
        self.set("add_bos_token", original.add_bos());
        self.set("add_eos_token", original.add_eos());
        // Further tokens that end an answer: those that are not known by their texts.
        let known = special::end_of_generation(vocab, original.eos().into_iter());
        let more: Vec<u32> =
            original.end_of_generation().iter().copied().filter(|id| !known.contains(id)).collect();
        for (key, id) in ["eot_token_id", "eom_token_id"].into_iter().zip(&more) {
            self.set(key, *id);
        }
        for id in more.iter().skip(2) {
            self.notes.push(format!("token {id} is not known to end an answer"));
        }
    }

    /// Reads what was written and compares. `composes`: that texts are not brought to normal form C was
    /// noted.
    fn check(&mut self, original: &Tokenizer, composes: bool) -> Result<(), TokenizerError> {
        let mut metadata = Metadata::default();
        for (key, value) in &self.entries {
            // No key is set twice.
            let _ = metadata.insert(key.clone(), value.clone());
        }
        let written = Tokenizer::from_metadata(&metadata)?;
        for probe in PROBES {
            let (ours, theirs) = (written.encode_text(probe), original.encode_text(probe));
            let noted = composes && !unicode_normalization::is_nfc(probe);
            if ours != theirs && !noted {
                let reason = format!("GGUF would cut {probe:?} into other tokens");
                return Err(TokenizerError::Json { reason });
            }
            if ours == theirs && written.decode(&ours) != original.decode(&theirs) {
                let reason = format!("GGUF would give the tokens of {probe:?} another text");
                return Err(TokenizerError::Json { reason });
            }
        }
        for text in original.special_texts().take(64) {
            let probe = format!("a{text}b {text} c");
            if written.encode_markup(&probe) != original.encode_markup(&probe) {
                let text = text.escape_debug();
                self.notes.push(format!("text beside {text} may be cut into other tokens"));
                break;
            }
        }
        Ok(())
    }
}

/// The name of a way to cut.
fn cut_name(words: &PreTokenizer, whole_words: bool) -> Result<&'static str, TokenizerError> {
    for name in pretokenize::NAMES {
        let Some(spec) = pretokenize::spec(name).filter(|spec| spec.whole_words == whole_words)
        else {
            continue;
        };
        let other = PreTokenizer::new(&spec)?;
        if PROBES.iter().all(|probe| words.split(probe) == other.split(probe)) {
            return Ok(name);
        }
    }
    Err(unsupported("pre-tokenizer", "of a kind that GGUF has no name for"))
}

/// How many tokens are two others for which there is no merge.
fn unmerged(entries: &[Entry<'_>], pairs: &HashSet<(String, String)>) -> usize {
    let texts: HashSet<&str> =
        entries.iter().filter(|e| e.kind == TokenKind::Normal).map(|e| e.text).collect();
    let made_otherwise = |text: &&&str| {
        text.char_indices().skip(1).any(|(at, _)| {
            let (left, right) = text.split_at(at);
            texts.contains(left)
                && texts.contains(right)
                && !pairs.contains(&(left.to_string(), right.to_string()))
        })
    };
    texts.iter().filter(made_otherwise).count()
}
