//! Byte-pair encoding: the pair of neighbours with the lowest rank is merged until none is left.
//!
//! Source: Sennrich, Haddow and Birch, "Neural Machine Translation of Rare Words with Subword
//! Units", 2016, on bytes as in GPT-2, or on characters as SentencePiece models have it when they are
//! written as a list of merges. A heap of candidate pairs makes a word of n bytes take O(n log n).

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};

use super::byte_level;
use super::error::TokenizerError;
use super::pretokenize::PreTokenizer;
use super::vocab::{SPECIAL, TokenKind, Vocabulary};

/// BPE of one model.
pub(super) struct Bpe {
    words: PreTokenizer,
    whole_words: bool,
    units: Units,
    /// By the ids of two neighbours: the rank of their merge and the id of the result.
    merges: HashMap<(u32, u32), Merge>,
}

#[derive(Clone, Copy)]
struct Merge {
    rank: u32,
    id: u32,
}

/// What merging begins with.
pub(super) enum Units {
    /// Bytes, with their tokens. A byte that has none is left out: vocabularies that were trained
    /// without the full alphabet (SmolLM2) define nothing for it.
    Bytes([Option<u32>; 256]),
    /// Characters. One that is no token is spelled in the tokens of its bytes where all of them
    /// have one, else it is the unknown token, else it is left out.
    Characters {
        /// Tokens `<0xNN>`.
        bytes: [Option<u32>; 256],
        /// Stands for a character that is no token.
        unknown: Option<u32>,
        /// Neighbouring unknown characters are one token.
        fuse: bool,
    },
}

impl Units {
    /// Those of a byte-level vocabulary.
    pub fn bytes(vocab: &Vocabulary) -> Self {
        Units::Bytes(std::array::from_fn(|byte| vocab.find(&[byte as u8])))
    }

    /// Those of a vocabulary of characters; bytes count where `fallback` says so.
    pub fn characters(
        vocab: &Vocabulary,
        fallback: bool,
        unknown: Option<u32>,
        fuse: bool,
    ) -> Self {
        let mut bytes = [None; 256];
        for id in vocab.of_kind(&[TokenKind::Byte]).filter(|_| fallback) {
            // the builder of the vocabulary has turned the text of byte tokens into the byte
            if let [byte] = vocab.bytes(id) {
                bytes[*byte as usize] = Some(id);
            }
        }
        Units::Characters { bytes, unknown, fuse }
    }

    /// The bytes that a token of this vocabulary is found by.
    fn key(&self, text: &str) -> Option<Vec<u8>> {
        match self {
            Units::Bytes(_) => byte_level::decode(text),
            Units::Characters { .. } => Some(text.as_bytes().to_vec()),
        }
    }

    /// Appends the tokens that `word` is merged from.
    fn divide(&self, vocab: &Vocabulary, word: &str, out: &mut Vec<Option<u32>>) {
        let Units::Characters { bytes, unknown, fuse } = self else {
            let Units::Bytes(bytes) = self else { return };
            return out.extend(word.bytes().map(|byte| bytes[byte as usize]));
        };
        let mut after_unknown = false;
        for (start, c) in word.char_indices() {
            let text = &word.as_bytes()[start..start + c.len_utf8()];
            let spelled = || text.iter().map(|byte| bytes[*byte as usize]);
            let is_unknown = match vocab.find(text) {
                Some(id) => {
                    out.push(Some(id));
                    false
                }
                None if spelled().all(|id| id.is_some()) => {
                    out.extend(spelled());
                    false
                }
                None => {
                    if unknown.is_some() && !(*fuse && after_unknown) {
                        out.push(*unknown);
                    }
                    true
                }
            };
            after_unknown = is_unknown;
        }
    }
}

/// A token in the making. The symbols of a word are a linked list over its units.
struct Symbol {
    /// `None` for a byte without a token, and for a symbol that was merged into its left one.
    id: Option<u32>,
    prev: usize,
    next: usize,
}

/// No neighbour.
const NONE: usize = usize::MAX;

/// A pair that may be merged: lowest rank first, then leftmost.
type Candidate = Reverse<(u32, usize, (u32, u32))>;

/// Storage that is kept from word to word.
#[derive(Default)]
struct Scratch {
    units: Vec<Option<u32>>,
    symbols: Vec<Symbol>,
    heap: BinaryHeap<Candidate>,
}

impl Bpe {
    /// Builds the merges, given as pairs of texts. Each must be two tokens whose concatenation is a
    /// third; where a pair is listed twice, the first counts. Merges from or to special tokens do not
    /// take part, so that plain text never becomes one.
    pub fn new<'a>(
        words: PreTokenizer,
        whole_words: bool,
        units: Units,
        vocab: &Vocabulary,
        merges: impl ExactSizeIterator<Item = Option<MergeParts<'a>>>,
    ) -> Result<Self, TokenizerError> {
        let special: HashSet<&[u8]> = vocab.of_kind(SPECIAL).map(|id| vocab.bytes(id)).collect();
        let mut table = HashMap::with_capacity(merges.len());
        for (rank, parts) in (0..).zip(merges) {
            let invalid = |text: String| TokenizerError::Merge { index: rank as usize, text };
            let parts = parts.ok_or_else(|| invalid(String::new()))?;
            match parts.resolve(vocab, &units) {
                Some((pair, id)) => {
                    table.entry(pair).or_insert(Merge { rank, id });
                }
                None if parts.any_of(&special) => {}
                None => return Err(invalid(format!("{} {}", parts.left, parts.right))),
            }
        }
        Ok(Bpe { words, whole_words, units, merges: table })
    }

    /// Appends the tokens of `text`.
    pub fn encode(&self, vocab: &Vocabulary, text: &str, out: &mut Vec<u32>) {
        let mut scratch = Scratch::default();
        for word in self.words.split(text) {
            self.encode_word(vocab, &text[word], &mut scratch, out);
        }
    }

    fn encode_word(
        &self,
        vocab: &Vocabulary,
        word: &str,
        scratch: &mut Scratch,
        out: &mut Vec<u32>,
    ) {
        if self.whole_words
            && let Some(id) = vocab.find(word.as_bytes())
        {
            out.push(id);
            return;
        }
        let Scratch { units, symbols, heap } = scratch;
        units.clear();
        self.units.divide(vocab, word, units);
        symbols.clear();
        symbols.extend(units.iter().enumerate().map(|(at, id)| Symbol {
            id: *id,
            prev: at.checked_sub(1).unwrap_or(NONE),
            next: if at + 1 == units.len() { NONE } else { at + 1 },
        }));
        heap.clear();
        for left in 0..symbols.len() {
            self.add_candidate(symbols, left, heap);
        }
        while let Some(Reverse((_, left, pair))) = heap.pop() {
            self.merge(symbols, left, pair, heap);
        }
        out.extend(symbols.iter().filter_map(|symbol| symbol.id));
    }

    /// Adds the pair that begins at `left`, if it has a merge.
    fn add_candidate(&self, symbols: &[Symbol], left: usize, heap: &mut BinaryHeap<Candidate>) {
        let Some(pair) = pair_at(symbols, left) else { return };
        if let Some(merge) = self.merges.get(&pair) {
            heap.push(Reverse((merge.rank, left, pair)));
        }
    }

    /// Merges `pair` at `left`, unless one of the two is no longer there.
    fn merge(
        &self,
        symbols: &mut [Symbol],
        left: usize,
        pair: (u32, u32),
        heap: &mut BinaryHeap<Candidate>,
    ) {
        if pair_at(symbols, left) != Some(pair) {
            return;
        }
        let Some(merge) = self.merges.get(&pair) else { return };
        let right = symbols[left].next;
        let after = symbols[right].next;
        symbols[right].id = None;
        symbols[left].id = Some(merge.id);
        symbols[left].next = after;
        if after != NONE {
            symbols[after].prev = left;
        }
        let before = symbols[left].prev;
        if before != NONE {
            self.add_candidate(symbols, before, heap);
        }
        self.add_candidate(symbols, left, heap);
    }
}

/// The ids of the symbol at `left` and of its right neighbour.
fn pair_at(symbols: &[Symbol], left: usize) -> Option<(u32, u32)> {
    let symbol = &symbols[left];
    let right = symbols.get(symbol.next)?;
    Some((symbol.id?, right.id?))
}

/// A line of the merge list.
#[derive(Clone, Copy)]
pub(super) struct MergeParts<'a> {
    pub left: &'a str,
    pub right: &'a str,
}

impl<'a> MergeParts<'a> {
    /// `left right`, divided by the first space that is not the first character.
    pub fn parse(text: &'a str) -> Option<Self> {
        let from = text.chars().next()?.len_utf8();
        let (left, right) = text.split_at(from + text[from..].find(' ')?);
        Some(MergeParts { left, right: &right[1..] })
    }

    /// The ids of both parts and of the whole.
    fn resolve(&self, vocab: &Vocabulary, units: &Units) -> Option<((u32, u32), u32)> {
        let mut bytes = units.key(self.left)?;
        let left = vocab.find(&bytes)?;
        let tail = units.key(self.right)?;
        let right = vocab.find(&tail)?;
        bytes.extend_from_slice(&tail);
        Some(((left, right), vocab.find(&bytes)?))
    }

    /// Whether a part or the whole is in `set`.
    fn any_of(&self, set: &HashSet<&[u8]>) -> bool {
        let whole = [self.left, self.right].concat();
        [self.left, self.right, &whole].iter().any(|part| set.contains(part.as_bytes()))
    }
}
