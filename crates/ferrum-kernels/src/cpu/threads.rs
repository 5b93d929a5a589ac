//! How many threads are worth having.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

/// Physical cores that this process may use: two hyper-threads of a core share its arithmetic
/// units, which one thread of a kernel already keeps busy. At least 1.
pub fn physical_cores() -> usize {
    let allowed = std::thread::available_parallelism().map_or(1, usize::from);
    let cores = count_cores(Path::new("/sys/devices/system/cpu"));
    cores.unwrap_or(allowed).clamp(1, allowed)
}

/// Distinct (package, core) pairs below a Linux `cpu` folder; `None` where they cannot be read.
/// <https://docs.kernel.org/admin-guide/cputopology.html>
fn count_cores(folder: &Path) -> Option<usize> {
    let mut cores = HashSet::new();
    for entry in fs::read_dir(folder).ok()?.flatten() {
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix("cpu"));
        if !number.is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit())) {
            continue;
        }
        let id = |file: &str| {
            let text = fs::read_to_string(entry.path().join("topology").join(file)).ok()?;
            text.trim().parse::<i64>().ok()
        };
        // A processor that is offline has no topology; it is not counted.
        if let (Some(package), Some(core)) = (id("physical_package_id"), id("core_id")) {
            cores.insert((package, core));
        }
    }
    (!cores.is_empty()).then_some(cores.len())
}

/// Bytes of the largest cache of this machine's first processor; `None` where that is not known.
pub(super) fn last_level_cache() -> Option<usize> {
    largest_cache(Path::new("/sys/devices/system/cpu/cpu0/cache"))
}

/// The largest `size` below a Linux `cache` folder, such as `32768K`.
/// <https://docs.kernel.org/admin-guide/abi-stable.html>
fn largest_cache(folder: &Path) -> Option<usize> {
    let size = |path: &Path| {
        let text = fs::read_to_string(path.join("size")).ok()?;
        text.trim().strip_suffix('K')?.parse::<usize>().ok()?.checked_mul(1024)
    };
    fs::read_dir(folder).ok()?.flatten().filter_map(|entry| size(&entry.path())).max()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hyper_threads_count_once() -> std::io::Result<()> {
        let root = std::env::temp_dir().join(format!("ferrum-topology-{}", std::process::id()));
        for (cpu, core) in [(0, 0), (1, 0), (2, 1), (3, 1)] {
            let topology = root.join(format!("cpu{cpu}/topology"));
            fs::create_dir_all(&topology)?;
            fs::write(topology.join("physical_package_id"), "0\n")?;
            fs::write(topology.join("core_id"), format!("{core}\n"))?;
        }
        fs::create_dir_all(root.join("cpufreq"))?;
        assert_eq!(count_cores(&root), Some(2));
        fs::remove_dir_all(&root)
    }

    #[test]
    fn the_largest_cache_counts() -> std::io::Result<()> {
        let root = std::env::temp_dir().join(format!("ferrum-caches-{}", std::process::id()));
        for (index, size) in [("index0", "32K"), ("index3", "32768K"), ("index2", "lots")] {
            fs::create_dir_all(root.join(index))?;
            fs::write(root.join(index).join("size"), format!("{size}\n"))?;
        }
        assert_eq!(largest_cache(&root), Some(32 << 20));
        assert_eq!(largest_cache(&root.join("index2")), None);
        fs::remove_dir_all(&root)
    }

    #[test]
    fn an_unreadable_topology_is_none() {
        assert_eq!(count_cores(Path::new("/nonexistent")), None);
        assert!(physical_cores() >= 1);
    }
}
