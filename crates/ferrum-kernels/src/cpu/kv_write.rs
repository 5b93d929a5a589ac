//! Writing a step's keys and values into the cache.

use super::{Cpu, CpuKvCache, CpuStream};
use crate::Result;
use crate::params::KvWrite;

/// [`crate::Backend::kv_write`].
pub(super) fn kv_write(s: &mut CpuStream, kv: &mut CpuKvCache, p: &KvWrite<'_, Cpu>) -> Result<()> {
    let _ = (s, kv, p);
    todo!()
}
