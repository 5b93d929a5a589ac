//! KV caches that cannot be.

use ferrum_kernels::params::{KvSpec, KvValues};
use ferrum_kernels::{Backend, KvDType, KvStorage, Need};

use crate::harness::Subject;

/// Heads of every width, and sizes that overflow; `check` agrees with what follows.
pub fn wrong_caches_are_refused<B: Backend>(subjects: &mut [Subject<B>]) {
    for s in subjects {
        for (head_dim, dtype) in (0..=300).flat_map(|d| KvDType::ALL.map(|dtype| (d, dtype))) {
            for (values, arrays) in [
                (KvValues::Own, 2),
                (KvValues::PrefixOfKey(0), 1),
                (KvValues::PrefixOfKey(8), 1),
                (KvValues::PrefixOfKey(head_dim / 64 * 32), 1),
                (KvValues::PrefixOfKey(head_dim), 1),
                (KvValues::PrefixOfKey(head_dim + 32), 1),
            ] {
                let spec = KvSpec { blocks: 2, kv_heads: 3, head_dim, values, dtype };
                let need = Need::Attention { head_dim, values, kv: dtype };
                let able = s.backend.check(&need).is_ok();
                let inside = (1..=head_dim).contains(&spec.value_dim());
                assert!(inside || !able, "{}: {need:?}", s.label);
                let cache = s.backend.kv_cache(&spec);
                assert_eq!(cache.is_ok(), able, "{}: {need:?}", s.label);
                let Ok(cache) = cache else { continue };
                let single = KvSpec { values: KvValues::PrefixOfKey(head_dim), ..spec };
                let single = s.backend.kv_cache(&single).expect("as wide").resident_bytes();
                assert!(single >= dtype.bytes(2 * 32 * 3 * head_dim));
                assert_eq!(cache.resident_bytes(), arrays * single, "{}: {spec:?}", s.label);
                assert_eq!(*cache.spec(), spec);
            }
        }
        let (head_dim, values, dtype) = (64, KvValues::Own, KvDType::F32);
        let good = KvSpec { blocks: 2, kv_heads: 3, head_dim, values, dtype };
        for spec in [
            KvSpec { blocks: 0, ..good },
            KvSpec { kv_heads: 0, ..good },
            KvSpec { blocks: usize::MAX / 8, ..good },
            KvSpec { kv_heads: usize::MAX / 8, ..good },
            KvSpec { blocks: 1 << 40, ..good },
            KvSpec { head_dim: usize::MAX / 32 * 32, values: KvValues::PrefixOfKey(64), ..good },
        ] {
            assert!(s.backend.kv_cache(&spec).is_err(), "{}: {spec:?}", s.label);
        }
    }
}
