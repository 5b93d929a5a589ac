//! How the work of one attention is shared out. The plan decides who computes what and when,
//! never in which order the terms of a sum are added.

use super::{Shape, State, splits};
use crate::checks::AttentionView;
use std::cmp::Reverse;
use std::ops::Range;

/// Query rows (tokens times heads of a group) of a tile, if a token has no more: enough to make
/// much of each key and value that is read, few enough for the second-level cache.
const TILE_ROWS: usize = 48;

/// Tiles of no more tokens may be split over their context.
const SPLIT_TOKENS: usize = 4;

/// Tasks for each thread that a long context makes: as many as keep the threads' ends together.
const TASKS_PER_THREAD: usize = 8;

/// Some tokens of one sequence, with the query heads that share one head of keys and values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tile {
    pub(super) seq: usize,
    pub(super) kv_head: usize,
    /// In the step.
    pub(super) tokens: Range<usize>,
    /// Position of the first token.
    pub(super) first_position: usize,
    /// Splits of the context that its tokens see something of.
    pub(super) splits: Range<usize>,
    /// Where the states of its splits start among the partial states, if they are computed apart.
    pub(super) partials: usize,
}

impl Tile {
    /// Query rows: row `r` is head `r % group` of the group, of token `r / group`.
    pub(super) fn rows(&self, shape: &Shape) -> usize {
        self.tokens.len() * shape.group
    }

    /// Position of a row's token.
    #[inline(always)]
    pub(super) fn position(&self, shape: &Shape, row: usize) -> usize {
        self.first_position + row / shape.group
    }
}

/// A tile, or some of its splits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Task {
    /// Index of the tile.
    pub(super) tile: usize,
    /// Splits to compute, whose states are left among the partial ones; `None` for all of them,
    /// and the output.
    pub(super) splits: Option<Range<usize>>,
    /// Splits times tokens: about how long it takes.
    cost: usize,
}

/// The work of one attention.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) tiles: Vec<Tile>,
    /// In any order, on any thread.
    pub(super) tasks: Vec<Task>,
    /// Tiles whose splits are computed apart, and must be merged once the tasks are done.
    pub(super) merges: Vec<usize>,
    /// Values of all partial states.
    pub(super) partials: usize,
    /// Query rows of the largest tile.
    pub(super) rows: usize,
}

impl Plan {
    /// Plans the work for a team of `threads`.
    pub(super) fn make(&mut self, view: &AttentionView<'_>, shape: &Shape, threads: usize) {
        self.tiles.clear();
        self.tasks.clear();
        self.merges.clear();
        self.partials = 0;
        self.rows = 0;
        for seq in 0..view.seqs {
            self.add_sequence(view, shape, seq, threads);
        }
        self.add_tasks(shape, threads);
    }

    fn add_sequence(
        &mut self,
        view: &AttentionView<'_>,
        shape: &Shape,
        index: usize,
        threads: usize,
    ) {
        let seq = view.seq(index);
        // Small enough to give each thread a few tiles, even where there is one head.
        let fair = (seq.tokens.len() * shape.kv_heads).div_ceil(4 * threads);
        let len = (TILE_ROWS / shape.group).min(fair).max(1);
        for start in seq.tokens.clone().step_by(len) {
            let tokens = start..seq.tokens.end.min(start + len);
            let first_position = seq.first_position + start - seq.tokens.start;
            let seen = shape.visible_to_any(first_position..first_position + tokens.len());
            self.tiles.extend((0..shape.kv_heads).map(|kv_head| Tile {
                seq: index,
                kv_head,
                tokens: tokens.clone(),
                first_position,
                splits: splits(&seen),
                partials: 0,
            }));
        }
    }

    /// Makes tasks of the tiles, the longest first: the short ones fill the gaps at the end.
    fn add_tasks(&mut self, shape: &Shape, threads: usize) {
        let may_split = |tile: &Tile| tile.tokens.len() <= SPLIT_TOKENS;
        let splits: usize =
            self.tiles.iter().filter(|t| may_split(t)).map(|t| t.splits.len()).sum();
        // Neighbouring splits stay together as far as that leaves enough tasks: the keys of the
        // next are brought close in time.
        let run = splits.div_ceil(TASKS_PER_THREAD * threads).max(1);
        for (index, tile) in self.tiles.iter_mut().enumerate() {
            let cost = |splits: &Range<usize>| splits.len() * tile.tokens.len();
            let rows = tile.rows(shape);
            self.rows = self.rows.max(rows);
            if !may_split(tile) || tile.splits.len() <= run {
                self.tasks.push(Task { tile: index, splits: None, cost: cost(&tile.splits) });
                continue;
            }
            for start in tile.splits.clone().step_by(run) {
                let splits = start..tile.splits.end.min(start + run);
                let cost = cost(&splits);
                self.tasks.push(Task { tile: index, splits: Some(splits), cost });
            }
            tile.partials = self.partials;
            self.partials += tile.splits.len() * State::len(rows, shape.value_dim());
            self.merges.push(index);
        }
        self.tasks.sort_by_key(|task| Reverse(task.cost));
    }
}
