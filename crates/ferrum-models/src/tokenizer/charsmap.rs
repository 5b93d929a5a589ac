//! `Precompiled`: the normalisation of a SentencePiece model, a table of texts and what they become.
//!
//! The table is the model's `precompiled_charsmap`: the bytes of a double array (Aoe, "An Efficient
//! Digital Search Algorithm by Using a Double-Array Structure", 1989, in the layout of Darts-clone), their
//! number in four bytes before them, and behind them the replacements, each ended by a zero. What is
//! looked up is what Hugging Face's `tokenizers` looks up, which is not all that SentencePiece does: of
//! each grapheme of up to five bytes the shortest entry that it begins with, and where there is none,
//! and in longer graphemes, likewise of each character.

use unicode_segmentation::UnicodeSegmentation;

/// Graphemes of more bytes are not looked up as a whole.
const MAX_GRAPHEME: usize = 5;

/// A table of texts and what they become.
pub(super) struct Charsmap {
    units: Vec<u32>,
    /// The replacements, each with a zero behind it.
    replacements: String,
}

impl Charsmap {
    /// Reads a table; `None` where it is malformed.
    pub fn new(bytes: &[u8]) -> Option<Self> {
        let (size, rest) = bytes.split_first_chunk::<4>()?;
        let size = usize::try_from(u32::from_le_bytes(*size)).ok()?;
        let (units, replacements) = rest.split_at_checked(size)?;
        let (units, []) = units.as_chunks::<4>() else { return None };
        let units: Vec<u32> = units.iter().map(|unit| u32::from_le_bytes(*unit)).collect();
        let replacements = String::from_utf8(replacements.to_vec()).ok()?;
        (!units.is_empty()).then_some(Charsmap { units, replacements })
    }

    /// Bytes of the longest replacement.
    pub fn longest(&self) -> usize {
        self.replacements.split('\0').map(str::len).max().unwrap_or(0)
    }

    /// The text with all replacements made.
    pub fn apply(&self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        for grapheme in text.graphemes(true) {
            if grapheme.len() <= MAX_GRAPHEME
                && let Some(with) = self.find(grapheme)
            {
                out.push_str(with);
                continue;
            }
            for c in grapheme.chars() {
                let mut buffer = [0; 4];
                let c = c.encode_utf8(&mut buffer);
                out.push_str(self.find(c).unwrap_or(c));
            }
        }
        out
    }

    /// What the shortest entry that `text` begins with becomes. One that leads out of the table is none.
    fn find(&self, text: &str) -> Option<&str> {
        let unit = |at: usize| self.units.get(at).copied();
        let mut at = offset(unit(0)?);
        for byte in text.bytes().take_while(|byte| *byte != 0) {
            at ^= usize::from(byte);
            let node = unit(at)?;
            if node & LABEL != u32::from(byte) {
                return None;
            }
            at ^= offset(node);
            if node & HAS_LEAF != 0 {
                let start = (unit(at)? & VALUE) as usize;
                let rest = self.replacements.get(start..)?;
                return rest.split('\0').next();
            }
        }
        None
    }
}

/// The byte that leads to a node, with the bit that marks a leaf, which has none.
const LABEL: u32 = 1 << 31 | 0xff;

/// Whether an entry ends at a node.
const HAS_LEAF: u32 = 1 << 8;

/// What a leaf holds: where a replacement begins.
const VALUE: u32 = (1 << 31) - 1;

/// Where the children of a node lie, from its own place.
fn offset(unit: u32) -> usize {
    ((unit >> 10) << ((unit & 1 << 9) >> 6)) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A table by hand: "a" becomes "bc", "c" nothing, and "b" leads out of it.
    fn table() -> Vec<u8> {
        let mut units = vec![0u32; 256];
        for (letter, leaf) in [('a', 0), ('c', 2)] {
            let at = letter as usize;
            units[at] = letter as u32 | HAS_LEAF | 0x80 << 10;
            units[at ^ 0x80] = 1 << 31 | leaf;
        }
        units[usize::from(b'b')] = u32::from(b'b') | HAS_LEAF | 1 << 20;
        let bytes: Vec<u8> = units.iter().flat_map(|unit| unit.to_le_bytes()).collect();
        [&(bytes.len() as u32).to_le_bytes(), bytes.as_slice(), b"bc\0"].concat()
    }

    #[test]
    fn entries_are_replaced() {
        let map = Charsmap::new(&table()).expect("a table");
        assert_eq!(map.apply("abcd"), "bcbd");
        // A grapheme is replaced as a whole by what becomes of its first letter.
        assert_eq!(map.apply("a\u{301}d"), "bcd");
        assert_eq!(map.apply("a\u{301}\u{302}\u{303}d"), "bc\u{301}\u{302}\u{303}d");
        assert_eq!(map.apply("\0"), "\0");
        assert_eq!(map.longest(), 2);
    }

    #[test]
    fn malformed_tables_are_refused() {
        let good = table();
        for bytes in [&[][..], &good[..3], &good[..100], &[0, 0, 0, 0], &[3, 0, 0, 0, 1, 2, 3]] {
            assert!(Charsmap::new(bytes).is_none());
        }
        let with = |end: &[u8]| Charsmap::new(&[&good[..good.len() - 3], end].concat());
        assert!(with(b"\xff\0").is_none(), "no text");
        // An entry whose replacement is not there, or begins within a character, is none.
        assert_eq!(with(b"").expect("a table").apply("ac"), "c");
        assert_eq!(with("\u{20ac}\0".as_bytes()).expect("a table").apply("ac"), "\u{20ac}c");
    }
}
