//! Byte-pair encoding: the pair of neighbours with the lowest rank is merged until none is left.
//!
//! Source: Sennrich, Haddow and Birch, "Neural Machine Translation of Rare Words with Subword
//! Units", 2016, on bytes as in GPT-2. A heap of candidate pairs makes a word of n bytes take
//! O(n log n).

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};

use super::byte_level;
use super::error::TokenizerError;
use super::pretokenize::{PreTokenizer, Spec};
use super::vocab::{SPECIAL, Vocabulary};
use crate::gguf::Strings;

/// Byte-level BPE of one model.
pub(super) struct Bpe {
    words: PreTokenizer,
    whole_words: bool,
    /// Token of each byte.
    bytes: [Option<u32>; 256],
    /// By the ids of two neighbours: the rank of their merge and the id of the result.
    merges: HashMap<(u32, u32), Merge>,
}

#[derive(Clone, Copy)]
struct Merge {
    rank: u32,
    id: u32,
}

/// A token in the making. The symbols of a word are a linked list over its bytes.
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
    symbols: Vec<Symbol>,
    heap: BinaryHeap<Candidate>,
}

impl Bpe {
    /// Builds the merges. Each must be two tokens whose concatenation is a third; where a pair is
    /// listed twice, the first counts. Merges from or to special tokens do not take part, so that
    /// plain text never becomes one.
    pub fn new(spec: &Spec, vocab: &Vocabulary, merges: &Strings) -> Result<Self, TokenizerError> {
        let bytes = std::array::from_fn(|byte| vocab.find(&[byte as u8]));
        let special: HashSet<&[u8]> = vocab.of_kind(SPECIAL).map(|id| vocab.bytes(id)).collect();
        let mut table = HashMap::with_capacity(merges.len());
        for (rank, text) in (0..).zip(merges.iter()) {
            let invalid = || TokenizerError::Merge { index: rank as usize, text: text.to_string() };
            let parts = MergeParts::parse(text).ok_or_else(invalid)?;
            match parts.resolve(vocab) {
                Some((pair, id)) => {
                    table.entry(pair).or_insert(Merge { rank, id });
                }
                None if parts.any_of(&special) => {}
                None => return Err(invalid()),
            }
        }
        let words = PreTokenizer::new(spec)?;
        Ok(Bpe { words, whole_words: spec.whole_words, bytes, merges: table })
    }

    /// Appends the tokens of `text`. A byte that has no token is left out: vocabularies that were
    /// trained without the full alphabet (SmolLM2) define nothing for it.
    pub fn encode(&self, vocab: &Vocabulary, text: &str, out: &mut Vec<u32>) {
        let mut scratch = Scratch::default();
        for word in self.words.split(text) {
            self.encode_word(vocab, &text.as_bytes()[word], &mut scratch, out);
        }
    }

    fn encode_word(
        &self,
        vocab: &Vocabulary,
        word: &[u8],
        scratch: &mut Scratch,
        out: &mut Vec<u32>,
    ) {
        if self.whole_words
            && let Some(id) = vocab.find(word)
        {
            out.push(id);
            return;
        }
        let Scratch { symbols, heap } = scratch;
        symbols.clear();
        symbols.extend(word.iter().enumerate().map(|(at, byte)| Symbol {
            id: self.bytes[*byte as usize],
            prev: at.checked_sub(1).unwrap_or(NONE),
            next: if at + 1 == word.len() { NONE } else { at + 1 },
        }));
        heap.clear();
        for left in 0..word.len() {
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
struct MergeParts<'a> {
    left: &'a str,
    right: &'a str,
}

impl<'a> MergeParts<'a> {
    /// `left right`, divided by the first space that is not the first character.
    fn parse(text: &'a str) -> Option<Self> {
        let from = text.chars().next()?.len_utf8();
        let (left, right) = text.split_at(from + text[from..].find(' ')?);
        Some(MergeParts { left, right: &right[1..] })
    }

    /// The ids of both parts and of the whole.
    fn resolve(&self, vocab: &Vocabulary) -> Option<((u32, u32), u32)> {
        let mut bytes = byte_level::decode(self.left)?;
        let left = vocab.find(&bytes)?;
        let tail = byte_level::decode(self.right)?;
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
