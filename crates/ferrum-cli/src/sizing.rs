//! How much context and KV cache a server gets: as asked, or as the memory allows.

use anyhow::{Result, bail};
use ferrum_models::gguf::Gguf;
use ferrum_models::{KV_BLOCK_SIZE, LoadOptions, arch, memory_estimate};

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
        let blocks = match self.kv_bytes {
            Some(bytes) => usize::try_from(bytes / self.block_bytes.max(1)).unwrap_or(usize::MAX),
            None => usize::MAX,
        };
        if blocks == 0 || (self.context.is_some() && blocks < wanted) {
            bail!(
                "a context of {context} tokens needs {} of KV cache; there is room for {}",
                crate::ui::text::bytes(wanted as u64 * self.block_bytes),
                crate::ui::text::bytes(self.kv_bytes.unwrap_or(0)),
            );
        }
        let context = context.min(blocks.saturating_mul(KV_BLOCK_SIZE));
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
    let left = |free: u64| {
        ((free as f64 * SHARE) as u64).saturating_sub((one.weights + one.buffers) as u64)
    };
    let known = Known {
        trained,
        context: options.context,
        max_seqs: options.max_seqs,
        block_bytes: one.kv_cache as u64,
        kv_bytes: kv_memory.or(free.map(left)),
    };
    let Sizes { context, kv_blocks } = known.sizes()?;
    Ok(LoadOptions { context: Some(context), kv_blocks: Some(kv_blocks), ..options.clone() })
}

/// Memory that programs can have without others being written to disk, where the system says so.
pub fn free_memory() -> Option<u64> {
    available(&std::fs::read_to_string("/proc/meminfo").ok()?)
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
        Known { trained: 1000, context: None, max_seqs: 4, block_bytes: 10, kv_bytes: None }
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
    }

    #[test]
    fn free_memory_is_read() {
        let text = "MemTotal:  9 kB\nMemAvailable:    2048 kB\n";
        assert_eq!(available(text), Some(2 << 20));
        assert_eq!(available("MemTotal: 9 kB\n"), None);
    }
}
