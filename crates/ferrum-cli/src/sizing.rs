//! How much context and KV cache a server gets: as asked, or as the memory allows.

use anyhow::{Result, bail};
use ferrum_models::{Checkpoint, Device, KV_BLOCK_SIZE, LoadOptions, arch, cuda, memory_estimate};

use crate::ui::text;

/// Part of the memory that is free which a server takes by default, weights included; the rest is
/// for the page cache and for others.
const SHARE: f64 = 0.7;

/// The same of a card, which has no page cache; the rest is for scratch memory and recordings.
const CARD_SHARE: f64 = 0.9;

/// What is known when sizes are chosen.
#[derive(Debug, Clone, Copy)]
pub struct Known {
    /// Positions that the model was trained for.
    pub trained: usize,
    /// Positions that the user asks for.
    pub context: Option<usize>,
    /// Sequences at once.
    pub max_seqs: usize,
    /// Bytes of a block of the KV cache.
    pub block_bytes: u64,
    /// Bytes of a position in tables that all sequences share, where `kv_bytes` is to hold them too.
    pub table_bytes: u64,
    /// Bytes for the KV cache, if anything limits them.
    pub kv_bytes: Option<u64>,
}

/// The sizes of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// Positions of a sequence.
    pub context: usize,
    /// Blocks of the KV pool.
    pub kv_blocks: usize,
}

impl Known {
    /// All sequences at full length if the memory allows it; else as many blocks as it holds, and
    /// where not even one sequence of full length fits, a shorter context. Fails where the context
    /// was asked for and does not fit.
    pub fn sizes(&self) -> Result<Sizes> {
        let context = self.context.unwrap_or(self.trained);
        let wanted = context.div_ceil(KV_BLOCK_SIZE);
        // Of each block of one sequence, the tables have as many positions.
        let tables = self.table_bytes.saturating_mul(KV_BLOCK_SIZE as u64);
        let whole = self.block_bytes.saturating_add(tables);
        let room =
            |bytes: u64, size: u64| usize::try_from(bytes / size.max(1)).unwrap_or(usize::MAX);
        let longest = self.kv_bytes.map_or(usize::MAX, |bytes| room(bytes, whole));
        if longest == 0 || (self.context.is_some() && longest < wanted) {
            bail!(
                "a context of {context} tokens needs {} of KV cache and tables; there is room for \
                 {}; --context makes it smaller",
                text::bytes((wanted as u64).saturating_mul(whole)),
                text::bytes(self.kv_bytes.unwrap_or(0)),
            );
        }
        let context = context.min(longest.saturating_mul(KV_BLOCK_SIZE));
        let used = tables.saturating_mul(context.div_ceil(KV_BLOCK_SIZE) as u64);
        let blocks = self
            .kv_bytes
            .map_or(usize::MAX, |bytes| room(bytes.saturating_sub(used), self.block_bytes));
        let kv_blocks = blocks.min(context.div_ceil(KV_BLOCK_SIZE).saturating_mul(self.max_seqs));
        Ok(Sizes { context, kv_blocks })
    }
}

/// What limits the memory of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    /// These bytes are for the KV cache.
    Kv(u64),
    /// These are for all of the model.
    Whole(u64),
    /// Nothing that is known.
    Unknown,
}

impl Room {
    /// The part of the free memory that a server takes by default.
    pub fn by_default(options: &LoadOptions) -> Result<Room> {
        Ok(default_memory(options)?.map_or(Room::Unknown, Room::Whole))
    }
}

/// The memory that a server takes by default, where it is known what is free; of cards that share a
/// model, on each.
pub fn default_memory(options: &LoadOptions) -> Result<Option<u64>> {
    let (free, share) = match options.device {
        Device::Cuda(first) => {
            let mut least = cuda::free_memory(first)?;
            for card in 1..options.tensor_parallel {
                least = least.min(cuda::free_memory(first.saturating_add(card))?);
            }
            (Some(least as u64), CARD_SHARE)
        }
        Device::Cpu | Device::Reference => (free_memory(), SHARE),
    };
    Ok(free.map(|free| (free as f64 * share) as u64))
}

/// What a model needs, before its context and its KV cache are chosen.
#[derive(Debug, Clone, Copy)]
pub struct Needs {
    /// With a draft model, its parts are included in what a block takes.
    known: Known,
    /// Weights, buffers and vocabulary.
    fixed: u64,
    table_bytes: u64,
}

impl Needs {
    /// Of a file loaded with `options`.
    pub fn of(file: &dyn Checkpoint, options: &LoadOptions) -> Result<Self> {
        let trained = arch::spec(file)?.context;
        let block = LoadOptions {
            kv_blocks: Some(1),
            context: Some(options.context.unwrap_or(trained)),
            ..options.clone()
        };
        let one = memory_estimate(file, &block)?;
        let fixed = [one.weights, one.buffers, one.vocabulary].into_iter();
        let positions = block.context.unwrap_or(trained).max(1);
        let known = Known {
            trained,
            context: options.context,
            max_seqs: options.max_seqs,
            block_bytes: one.kv_cache as u64,
            table_bytes: 0,
            kv_bytes: None,
        };
        Ok(Needs {
            known,
            fixed: fixed.fold(0, usize::saturating_add) as u64,
            table_bytes: one.tables.div_ceil(positions) as u64,
        })
    }

    /// Of a model without a KV cache.
    pub fn fixed(bytes: u64) -> Self {
        let known = Known {
            trained: 1,
            context: None,
            max_seqs: 0,
            block_bytes: 0,
            table_bytes: 0,
            kv_bytes: None,
        };
        Needs { known, fixed: bytes, table_bytes: 0 }
    }

    /// Together with a draft model, whose KV cache has as many blocks.
    pub fn with_draft(self, draft: &Needs) -> Self {
        let known = Known {
            block_bytes: self.known.block_bytes.saturating_add(draft.known.block_bytes),
            ..self.known
        };
        Needs {
            known,
            fixed: self.fixed.saturating_add(draft.fixed),
            table_bytes: self.table_bytes.saturating_add(draft.table_bytes),
        }
    }

    /// How the draft model is loaded for a model that is loaded with `options`: with as many blocks,
    /// and a context as long as it was trained for.
    pub fn as_draft(&self, options: &LoadOptions) -> LoadOptions {
        let context = options.context.map(|context| context.min(self.known.trained));
        LoadOptions { context, max_samples: None, ..options.for_draft() }
    }

    /// Bytes with the KV cache of one sequence as long as it may be.
    fn with_one(&self) -> u64 {
        self.fixed.saturating_add(self.cache(1))
    }

    /// Bytes of tables and KV cache for so many sequences at full length.
    fn cache(&self, seqs: usize) -> u64 {
        let context = self.known.context.unwrap_or(self.known.trained);
        let blocks = context.div_ceil(KV_BLOCK_SIZE).saturating_mul(seqs) as u64;
        let tables = self.table_bytes.saturating_mul(context as u64);
        blocks.saturating_mul(self.known.block_bytes).saturating_add(tables)
    }

    /// Sets context and KV blocks of `options`.
    pub fn fit(&self, options: &LoadOptions, room: Room) -> Result<LoadOptions> {
        if let Room::Whole(bytes) = room
            && bytes < self.fixed
        {
            bail!(
                "it takes {} without a KV cache; there is room for {}",
                text::bytes(self.fixed),
                text::bytes(bytes)
            );
        }
        let known = match room {
            // What the user gives is for the KV cache alone.
            Room::Kv(bytes) => Known { kv_bytes: Some(bytes), ..self.known },
            Room::Whole(bytes) => Known {
                kv_bytes: Some(bytes.saturating_sub(self.fixed)),
                table_bytes: self.table_bytes,
                ..self.known
            },
            Room::Unknown => self.known,
        };
        let Sizes { context, kv_blocks } = known.sizes()?;
        Ok(LoadOptions { context: Some(context), kv_blocks: Some(kv_blocks), ..options.clone() })
    }
}

/// How many of `memory` bytes each of several models may take, so that as many as possible are
/// loaded at once. Each gets what it needs for a sequence of full length, as far as the memory goes,
/// and what that leaves is shared out evenly.
pub fn shares(needs: &[Needs], memory: u64) -> Vec<u64> {
    let share = |(index, own): (usize, &Needs)| {
        let others = needs.iter().enumerate().filter(|&(other, _)| other != index);
        let mut others: Vec<&Needs> = others.map(|(_, needs)| needs).collect();
        others.sort_by_key(|needs| needs.with_one());
        // Beside this one, the smallest of the others: as many as fit with a sequence each.
        let (mut least, mut count) = (own.with_one(), 1);
        for other in others {
            match least.checked_add(other.with_one()).filter(|&sum| sum <= memory) {
                Some(sum) => (least, count) = (sum, count + 1),
                None => break,
            }
        }
        own.with_one().saturating_add(memory.saturating_sub(least) / count).min(memory)
    };
    needs.iter().enumerate().map(share).collect()
}

/// Memory that programs can have without others being written to disk, and without going beyond the
/// limit of the control group (of a container), where the system says so.
pub fn free_memory() -> Option<u64> {
    let read = |path: &str| std::fs::read_to_string(path).ok();
    let machine = read("/proc/meminfo").and_then(|text| available(&text));
    let group = |file: &str| read(&format!("/sys/fs/cgroup/memory.{file}"));
    let limited = match (group("max"), group("current")) {
        (Some(max), Some(current)) => left(&max, &current, &group("stat").unwrap_or_default()),
        _ => None,
    };
    machine.into_iter().chain(limited).min()
}

/// What a control group's `memory.max` leaves beside `memory.current`, in bytes; `None` where there
/// is no limit. Cached files that were not used of late, as `memory.stat` counts them, give way.
fn left(max: &str, current: &str, stat: &str) -> Option<u64> {
    let max: u64 = max.trim().parse().ok()?;
    let current: u64 = current.trim().parse().ok()?;
    let cached = stat.lines().find_map(|line| line.strip_prefix("inactive_file "));
    let cached: u64 = cached.and_then(|n| n.trim().parse().ok()).unwrap_or(0);
    Some(max.saturating_sub(current.saturating_sub(cached)))
}

/// `MemAvailable` of Linux' `/proc/meminfo`, in bytes.
fn available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_share_memory() {
        let needs = |fixed, block_bytes| Needs {
            known: Known { trained: 320, block_bytes, ..known() },
            fixed,
            table_bytes: 0,
        };
        // One sequence takes ten blocks: 10 and 100 bytes.
        let (small, large) = (needs(50, 1), needs(500, 10));
        assert_eq!((small.with_one(), large.with_one()), (60, 600));
        assert_eq!(shares(&[large], 1000), [1000]);
        // All fit at once, and what is left of 1000 bytes is halved.
        assert_eq!(shares(&[small, large], 1000), [60 + 170, 600 + 170]);
        // Two large ones do not: each is alone with the small one.
        assert_eq!(shares(&[large, small, large], 1000), [770, 230, 770]);
        assert_eq!(shares(&[small, large], 599), [599, 599]);
        let sum = |memory| shares(&[small, small, large], memory).iter().sum::<u64>();
        assert!(sum(720) <= 720 && sum(901) <= 901, "all at once");
    }

    fn known() -> Known {
        Known {
            trained: 1000,
            context: None,
            max_seqs: 4,
            block_bytes: 10,
            table_bytes: 0,
            kv_bytes: None,
        }
    }

    #[test]
    fn sizes_follow_the_memory() {
        let sizes = |known: Known| known.sizes().map(|s| (s.context, s.kv_blocks)).ok();
        assert_eq!(sizes(known()), Some((1000, 4 * 32)));
        assert_eq!(sizes(Known { context: Some(64), ..known() }), Some((64, 8)));
        assert_eq!(sizes(Known { kv_bytes: Some(405), ..known() }), Some((1000, 40)));
        assert_eq!(sizes(Known { kv_bytes: Some(99), ..known() }), Some((288, 9)));
        assert_eq!(sizes(Known { kv_bytes: Some(9), ..known() }), None);
        let asked = Known { context: Some(320), kv_bytes: Some(99), ..known() };
        assert_eq!(sizes(asked), None);
        assert_eq!(sizes(Known { kv_bytes: Some(100), ..asked }), Some((320, 10)));
        let error = asked.sizes().unwrap_err().to_string();
        assert!(error.contains("--context makes it smaller"), "{error}");
    }

    #[test]
    fn tables_are_those_of_the_context_that_is_chosen() {
        let block = KV_BLOCK_SIZE as u64;
        let with = |bytes| Known { table_bytes: 1, kv_bytes: Some(bytes), ..known() };
        let sizes = |known: Known| known.sizes().map(|s| (s.context, s.kv_blocks)).ok();
        // Two blocks with their tables, and no more.
        assert_eq!(sizes(with(2 * (10 + block))), Some((2 * KV_BLOCK_SIZE, 2)));
        assert_eq!(sizes(with(9 + block)), None);
        // Tables for the longest context, and what is left for other sequences.
        assert_eq!(sizes(with(32 * block + 400)), Some((1000, 40)));
    }

    #[test]
    fn free_memory_is_read() {
        let text = "MemTotal:  9 kB\nMemAvailable:    2048 kB\n";
        assert_eq!(available(text), Some(2 << 20));
        assert_eq!(available("MemTotal: 9 kB\n"), None);
        assert_eq!(left("max\n", "5\n", ""), None);
        assert_eq!(left("100\n", "70\n", ""), Some(30));
        assert_eq!(left("100\n", "70\n", "anon 7\ninactive_file 20\n"), Some(50));
        assert_eq!(left("100\n", "170\n", ""), Some(0));
    }
}
