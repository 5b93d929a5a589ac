//! Answers as a sequence of blocks (text, reasoning, calls), as Anthropic's API and OpenAI's
//! Responses API have them.

use super::random_id;
use crate::output::Delta;

/// What a block is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// Text.
    Text,
    /// Reasoning.
    Reasoning,
    /// A call of a tool.
    Call {
        /// Names the call.
        id: String,
        /// The tool.
        name: String,
    },
}

/// A block with what came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// What it is.
    pub kind: Kind,
    /// Text, or arguments as JSON.
    pub text: String,
}

/// What a delta does to the blocks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The last block in the list begins.
    Open,
    /// The last block goes on with this.
    More(String),
    /// The last block is complete.
    Close,
}

/// The blocks of an answer so far; the last one may be open.
#[derive(Debug, Default)]
pub struct Blocks {
    /// All of them, in order.
    pub list: Vec<Block>,
    open: bool,
}

impl Blocks {
    /// Takes a delta; tells `each` of every change, after it was made.
    pub fn push(&mut self, delta: Delta, each: &mut dyn FnMut(&Blocks, Change)) {
        let (kind, text) = match delta {
            Delta::Content(text) => (Kind::Text, text),
            Delta::Reasoning(text) => (Kind::Reasoning, text),
            Delta::Call { name, .. } => {
                (Kind::Call { id: format!("call_{}", random_id()), name }, String::new())
            }
            Delta::Arguments { json, .. } => return self.more(json, each),
        };
        let same = self.open && self.list.last().is_some_and(|block| block.kind == kind);
        if !same {
            self.close(each);
            self.list.push(Block { kind, text: String::new() });
            self.open = true;
            each(self, Change::Open);
        }
        self.more(text, each);
    }

    fn more(&mut self, text: String, each: &mut dyn FnMut(&Blocks, Change)) {
        if let Some(block) = self.list.last_mut().filter(|_| !text.is_empty()) {
            block.text.push_str(&text);
            each(self, Change::More(text));
        }
    }

    /// Closes the last block, if it is open.
    pub fn close(&mut self, each: &mut dyn FnMut(&Blocks, Change)) {
        if std::mem::take(&mut self.open) {
            each(self, Change::Close);
        }
    }

    /// Place of the last block.
    pub fn index(&self) -> usize {
        self.list.len().saturating_sub(1)
    }

    /// Whether there is a call.
    pub fn calls(&self) -> bool {
        self.list.iter().any(|block| matches!(block.kind, Kind::Call { .. }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deltas_become_blocks() {
        let mut blocks = Blocks::default();
        let mut changes = Vec::new();
        let mut each = |blocks: &Blocks, change| changes.push((blocks.index(), change));
        let name = "f".to_string();
        for delta in [
            Delta::Reasoning("hm".into()),
            Delta::Content("a".into()),
            Delta::Content("b".into()),
            Delta::Call { index: 0, name: name.clone() },
            Delta::Arguments { index: 0, json: "{}".into() },
            Delta::Call { index: 1, name },
        ] {
            blocks.push(delta, &mut each);
        }
        blocks.close(&mut each);
        blocks.close(&mut each);
        let more = |text: &str| Change::More(text.into());
        use Change::{Close, Open};
        let expected = [
            (0, Open),
            (0, more("hm")),
            (0, Close),
            (1, Open),
            (1, more("a")),
            (1, more("b")),
            (1, Close),
            (2, Open),
            (2, more("{}")),
            (2, Close),
            (3, Open),
            (3, Close),
        ];
        assert_eq!(changes, expected);
        assert!(blocks.calls());
        assert_eq!(blocks.list[1], Block { kind: Kind::Text, text: "ab".into() });
    }
}
