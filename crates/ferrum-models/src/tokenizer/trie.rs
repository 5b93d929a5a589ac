//! Tokens by their bytes, such that all that a text begins with are found in one pass.

use super::error::TokenizerError;

/// The longest token that is taken: what finding costs at each place of a text is bounded by it.
const MAX_TOKEN_BYTES: usize = 1024;

/// More nodes than any vocabulary has: one of 250,000 tokens has about a million.
const MAX_NODES: usize = 1 << 24;

/// No token ends at a node.
const NONE: u32 = u32::MAX;

/// A trie whose nodes are numbered level by level, so that the children of one lie side by side.
pub(super) struct Trie {
    /// The byte that leads to a node; that of the root means nothing.
    labels: Vec<u8>,
    /// The first child of each node, and one more number: children end where those of the next begin.
    children: Vec<u32>,
    /// The token that ends at a node.
    tokens: Vec<u32>,
}

impl Trie {
    /// Builds a trie of tokens; fails where two have the same bytes. Those without bytes are left out.
    pub fn new(mut tokens: Vec<(&[u8], u32)>) -> Result<Self, TokenizerError> {
        let bytes = tokens.iter().map(|(bytes, _)| bytes.len()).sum();
        let too_large = TokenizerError::TooLarge { tokens: tokens.len(), bytes };
        if let Some((bytes, id)) = tokens.iter().find(|(bytes, _)| bytes.len() > MAX_TOKEN_BYTES) {
            return Err(TokenizerError::LongToken { id: *id, bytes: bytes.len() });
        }
        tokens.retain(|(bytes, _)| !bytes.is_empty());
        tokens.sort_unstable();
        if let Some([(bytes, first), (_, second)]) =
            tokens.array_windows().find(|[(a, _), (b, _)]| a == b)
        {
            let (first, second, text) = (*first, *second, String::from_utf8_lossy(bytes).into());
            return Err(TokenizerError::Duplicate { first, second, text });
        }
        let mut trie = Trie { labels: vec![0], children: Vec::new(), tokens: Vec::new() };
        // Of each node, the tokens that go through it; of the nodes of a level, side by side.
        let mut level = Vec::from_iter(std::iter::once(0..tokens.len()));
        for depth in 0.. {
            let mut next = Vec::new();
            for through in level {
                trie.children.push(trie.labels.len() as u32);
                let mut rest = &tokens[through.clone()];
                let mut at = through.start;
                let ends = rest.first().filter(|(bytes, _)| bytes.len() == depth);
                trie.tokens.push(ends.map_or(NONE, |(_, id)| *id));
                if ends.is_some() {
                    (rest, at) = (&rest[1..], at + 1);
                }
                for same in rest.chunk_by(|(a, _), (b, _)| a[depth] == b[depth]) {
                    trie.labels.push(same[0].0[depth]);
                    next.push(at..at + same.len());
                    at += same.len();
                }
            }
            if trie.labels.len() > MAX_NODES {
                return Err(too_large);
            }
            if next.is_empty() {
                break;
            }
            level = next;
        }
        trie.children.push(trie.labels.len() as u32);
        Ok(trie)
    }

    /// The tokens that `text` begins with, each with its length, the shortest first.
    pub fn prefixes<'a>(&'a self, text: &'a [u8]) -> impl Iterator<Item = (usize, u32)> + 'a {
        let mut node = 0;
        let step = move |byte: &u8| {
            let (first, last) = (self.children[node] as usize, self.children[node + 1] as usize);
            node = first + self.labels[first..last].binary_search(byte).ok()?;
            Some(self.tokens[node])
        };
        let tokens = text.iter().map_while(step);
        (1..).zip(tokens).filter(|(_, token)| *token != NONE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_tokens_that_a_text_begins_with() {
        let words = ["a", "b", "ab", "abcd", "", "é", "éa", "b\u{2581}"];
        let tokens = words.iter().zip(10..).map(|(word, id)| (word.as_bytes(), id)).collect();
        let trie = Trie::new(tokens).expect("built");
        let found = |text: &str| trie.prefixes(text.as_bytes()).collect::<Vec<_>>();
        assert_eq!(found("abcde"), [(1, 10), (2, 12), (4, 13)]);
        assert_eq!(found("abc"), [(1, 10), (2, 12)]);
        assert_eq!(found("éa"), [(2, 15), (3, 16)]);
        assert_eq!(found("b\u{2581}"), [(1, 11), (4, 17)]);
        assert_eq!(found("x"), []);
        assert_eq!(found(""), []);
        let none = Trie::new(Vec::new()).expect("built");
        assert_eq!(none.prefixes(b"a").count(), 0);
    }

    #[test]
    fn tokens_that_are_not_told_apart_are_refused() {
        let error = Trie::new(vec![(b"ab", 3), (b"a", 4), (b"ab", 7)]).err().expect("refused");
        assert!(matches!(error, TokenizerError::Duplicate { first: 3, second: 7, .. }), "{error}");
    }

    #[test]
    fn tokens_without_end_are_refused() {
        let long = vec![b'a'; MAX_TOKEN_BYTES + 1];
        let error = Trie::new(vec![(&long, 7)]).err().expect("refused").to_string();
        assert!(error.contains("token 7"), "{error}");
    }
}
