//! How much context and KV cache a server gets: as asked, or as the memory allows.

use anyhow::{Result, bail};
use ferrum_models::gguf::Gguf;
use ferrum_models::{KV_BLOCK_SIZE, LoadOptions, arch, memory_estimate};

use crate::ui::text;

/// Part of the memory that is free which a server takes by default, weights included; the rest is
/// for the page cache and for others.
const SHARE: f64 = 0.7;

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

/// Sets context and KV blocks of `options`. `kv_memory` is what the user gives the KV cache, `free`
/// the machine's free memory where it is known.
pub fn fit(
    file: &Gguf,
    options: &LoadOptions,
    kv_memory: Option<u64>,
    free: Option<u64>,
) -> Result<LoadOptions> {
    let trained = arch::spec(file)?.context;
    let block = LoadOptions {
        kv_blocks: Some(1),
        context: Some(options.context.unwrap_or(trained)),
        ..options.clone()
    };
    let one = memory_estimate(file, &block)?;
    let fixed = [one.weights, one.buffers, one.vocabulary].into_iter();
    let fixed = fixed.fold(0, usize::saturating_add) as u64;
    let left = |free: u64| ((free as f64 * SHARE) as u64).saturating_sub(fixed);
    let positions = block.context.unwrap_or(trained).max(1);
    let known = Known {
        trained,
        context: options.context,
        max_seqs: options.max_seqs,
        block_bytes: one.kv_cache as u64,
        // What the user gives is for the KV cache alone.
        table_bytes: if kv_memory.is_some() { 0 } else { one.tables.div_ceil(positions) as u64 },
        kv_bytes: kv_memory.or(free.map(left)),
    };
    let Sizes { context, kv_blocks } = known.sizes()?;
    Ok(LoadOptions { context: Some(context), kv_blocks: Some(kv_blocks), ..options.clone() })
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
