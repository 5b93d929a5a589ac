//! KV caches that cannot be.

use ferrum_kernels::params::KvSpec;
use ferrum_kernels::{Backend, KvDType, KvStorage, Need};

use crate::harness::Subject;

/// Heads of every width, and sizes that overflow; `check` agrees with what follows.
pub fn wrong_caches_are_refused<B: Backend>(subjects: &mut [Subject<B>]) {
    for s in subjects {
        let types = [KvDType::F16, KvDType::F32, KvDType::Q8_0];
        for (head_dim, dtype) in (0..=300).flat_map(|d| types.map(|dtype| (d, dtype))) {
            let spec = KvSpec { blocks: 2, kv_heads: 3, head_dim, dtype };
            let able = s.backend.check(&Need::Attention { head_dim, kv: spec.dtype }).is_ok();
            let cache = s.backend.kv_cache(&spec);
            assert_eq!(cache.is_ok(), able, "{}: heads of {head_dim}, {dtype:?}", s.label);
            let least = 2 * dtype.bytes(2 * 32 * 3 * head_dim);
            cache.iter().for_each(|c| assert!(c.resident_bytes() >= least && *c.spec() == spec));
        }
        let good = KvSpec { blocks: 2, kv_heads: 3, head_dim: 64, dtype: KvDType::F32 };
        for spec in [
            KvSpec { blocks: 0, ..good },
            KvSpec { kv_heads: 0, ..good },
            KvSpec { blocks: usize::MAX / 8, ..good },
            KvSpec { kv_heads: usize::MAX / 8, ..good },
            KvSpec { blocks: 1 << 40, ..good },
        ] {
            assert!(s.backend.kv_cache(&spec).is_err(), "{}: {spec:?}", s.label);
        }
    }
}
