//! The file as it is written.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::{self, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use super::super::bpe::MergeParts;
use super::super::error::TokenizerError;
use super::unsupported;

/// A `tokenizer.json`. Truncation and padding are about batches and are not read.
#[derive(Deserialize)]
pub(super) struct File<'a> {
    #[serde(default)]
    pub added_tokens: Vec<AddedToken>,
    pub normalizer: Option<Value>,
    pub pre_tokenizer: Option<Value>,
    pub post_processor: Option<Value>,
    pub decoder: Option<Value>,
    #[serde(borrow)]
    pub model: ModelJson<'a>,
}

/// A token beside those of the model.
#[derive(Deserialize)]
pub(super) struct AddedToken {
    pub id: u32,
    pub content: String,
    #[serde(default)]
    pub single_word: bool,
    #[serde(default)]
    pub lstrip: bool,
    #[serde(default)]
    pub rstrip: bool,
    normalized: Option<bool>,
    #[serde(default)]
    pub special: bool,
}

impl AddedToken {
    /// Whether it is looked for in the normalised text.
    pub fn normalized(&self) -> bool {
        self.normalized.unwrap_or(!self.special)
    }
}

/// The algorithm with its tables.
#[derive(Deserialize)]
pub(super) struct ModelJson<'a> {
    r#type: Option<String>,
    #[serde(borrow)]
    pub vocab: Entries<'a>,
    #[serde(borrow, default)]
    pub merges: Vec<MergeJson<'a>>,
    pub unk_token: Option<String>,
    pub unk_id: Option<u32>,
    pub continuing_subword_prefix: Option<String>,
    pub end_of_word_suffix: Option<String>,
    pub dropout: Option<f64>,
    pub max_input_chars_per_word: Option<u64>,
    #[serde(default)]
    pub fuse_unk: bool,
    #[serde(default)]
    pub byte_fallback: bool,
    #[serde(default)]
    pub ignore_merges: bool,
}

impl ModelJson<'_> {
    /// Its name; old files leave that of BPE out.
    pub fn kind(&self) -> &str {
        self.r#type.as_deref().unwrap_or(if self.merges.is_empty() { "(none)" } else { "BPE" })
    }
}

/// Only what tells the model's kind, of a file that is not written as ours are.
#[derive(Deserialize)]
struct Kind {
    model: ModelKind,
}

#[derive(Deserialize)]
struct ModelKind {
    r#type: Option<String>,
}

impl<'a> File<'a> {
    pub fn parse(json: &'a [u8]) -> Result<Self, TokenizerError> {
        let error = |e: serde_json::Error| TokenizerError::Json {
            reason: e.to_string().chars().flat_map(char::escape_debug).collect(),
        };
        let not_read = match serde_json::from_slice(json) {
            Ok(file) => return Ok(file),
            Err(not_read) => not_read,
        };
        let kind: Kind = serde_json::from_slice(json).map_err(error)?;
        match kind.model.r#type.as_deref() {
            None | Some("BPE" | "WordPiece" | "Unigram") => Err(error(not_read)),
            Some(other) => Err(unsupported("model", other)),
        }
    }
}

/// A text that lies in the file where nothing in it is escaped.
pub(super) struct Text<'a>(pub Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AsText<'a>(PhantomData<&'a ()>);
        impl<'de: 'a, 'a> Visitor<'de> for AsText<'a> {
            type Value = Text<'a>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text")
            }

            fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Text<'a>, E> {
                Ok(Text(Cow::Borrowed(text)))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Text<'a>, E> {
                Ok(Text(Cow::Owned(text.to_string())))
            }
        }
        deserializer.deserialize_str(AsText(PhantomData))
    }
}

/// Tokens with their ids, in the order of the file; where that is a list of tokens and scores, these too.
pub(super) struct Entries<'a> {
    pub tokens: Vec<(Text<'a>, u32)>,
    pub scores: Option<Vec<f64>>,
}

impl<'de: 'a, 'a> Deserialize<'de> for Entries<'a> {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AsEntries<'a>(PhantomData<&'a ()>);
        impl<'de: 'a, 'a> Visitor<'de> for AsEntries<'a> {
            type Value = Entries<'a>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("tokens with their ids or scores")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries<'a>, A::Error> {
                let mut tokens = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    tokens.push(entry);
                }
                Ok(Entries { tokens, scores: None })
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Entries<'a>, A::Error> {
                let (mut tokens, mut scores) = (Vec::new(), Vec::new());
                while let Some((text, score)) = seq.next_element::<(Text<'a>, f64)>()? {
                    let id = u32::try_from(tokens.len()).map_err(de::Error::custom)?;
                    tokens.push((text, id));
                    scores.push(score);
                }
                Ok(Entries { tokens, scores: Some(scores) })
            }
        }
        deserializer.deserialize_any(AsEntries(PhantomData))
    }
}

/// A merge: `"left right"` or `["left", "right"]`.
pub(super) enum MergeJson<'a> {
    Line(Text<'a>),
    Pair(Text<'a>, Text<'a>),
}

impl MergeJson<'_> {
    pub fn parts(&self) -> Option<MergeParts<'_>> {
        match self {
            MergeJson::Line(line) => MergeParts::parse(&line.0),
            MergeJson::Pair(left, right) => Some(MergeParts { left: &left.0, right: &right.0 }),
        }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for MergeJson<'a> {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AsMerge<'a>(PhantomData<&'a ()>);
        impl<'de: 'a, 'a> Visitor<'de> for AsMerge<'a> {
            type Value = MergeJson<'a>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a merge of two tokens")
            }

            fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(MergeJson::Line(Text(Cow::Borrowed(text))))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
                Ok(MergeJson::Line(Text(Cow::Owned(text.to_string()))))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                match (seq.next_element()?, seq.next_element()?, seq.next_element::<Text<'_>>()?) {
                    (Some(left), Some(right), None) => Ok(MergeJson::Pair(left, right)),
                    _ => Err(de::Error::custom("a merge has two parts")),
                }
            }
        }
        deserializer.deserialize_any(AsMerge(PhantomData))
    }
}

/// A normalizer, pre-tokenizer, post-processor or decoder.
pub(super) struct Part<'a> {
    pub kind: &'a str,
    value: &'a Value,
}

impl<'a> Part<'a> {
    fn new(value: &'a Value) -> Result<Self, TokenizerError> {
        let untyped = || TokenizerError::Json { reason: "a part has no type".into() };
        let kind = value.get("type").and_then(Value::as_str).ok_or_else(untyped)?;
        Ok(Part { kind, value })
    }

    /// The parts of a sequence, whose list is called `list`, or the one that there is.
    pub fn flat(value: Option<&'a Value>, list: &str) -> Result<Vec<Self>, TokenizerError> {
        let Some(value) = value.filter(|v| !v.is_null()) else { return Ok(Vec::new()) };
        let part = Part::new(value)?;
        if part.kind != "Sequence" {
            return Ok(vec![part]);
        }
        let mut parts = Vec::new();
        // Depth is bounded by that of the JSON.
        for value in part.list(list)? {
            parts.extend(Part::flat(Some(value), list)?);
        }
        Ok(parts)
    }

    /// The member, unless it is null.
    pub fn get(&self, key: &str) -> Option<&'a Value> {
        self.value.get(key).filter(|v| !v.is_null())
    }

    pub fn invalid(&self, key: &str) -> TokenizerError {
        TokenizerError::Json {
            reason: format!("{key:?} of {:?} is missing or malformed", self.kind),
        }
    }

    pub fn list(&self, key: &str) -> Result<&'a [Value], TokenizerError> {
        let list = self.get(key).and_then(Value::as_array);
        list.map(Vec::as_slice).ok_or_else(|| self.invalid(key))
    }

    pub fn text(&self, key: &str) -> Result<&'a str, TokenizerError> {
        self.get(key).and_then(Value::as_str).ok_or_else(|| self.invalid(key))
    }

    pub fn number(&self, key: &str) -> Option<u64> {
        self.get(key)?.as_u64()
    }

    /// A truth value, or what holds where there is none.
    pub fn flag(&self, key: &str, default: bool) -> Result<bool, TokenizerError> {
        match self.get(key) {
            None => Ok(default),
            Some(value) => value.as_bool().ok_or_else(|| self.invalid(key)),
        }
    }

    /// `pattern`: a text or a regular expression.
    pub fn pattern(&self) -> Result<Pattern<'a>, TokenizerError> {
        let pattern = self.get("pattern").ok_or_else(|| self.invalid("pattern"))?;
        let part = |key: &str| pattern.get(key).and_then(Value::as_str);
        match (part("String"), part("Regex")) {
            (Some(text), None) => Ok(Pattern::Text(text)),
            (None, Some(regex)) => Ok(Pattern::Regex(regex)),
            _ => Err(self.invalid("pattern")),
        }
    }
}

/// What a part looks for.
pub(super) enum Pattern<'a> {
    Text(&'a str),
    Regex(&'a str),
}
