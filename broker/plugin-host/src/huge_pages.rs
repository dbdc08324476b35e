//! Huge pages for what plugins take.
//!
//! A guest holds its thread for as long as one of its instructions takes, and one may write megabytes that nobody has touched: with
//! pages of 4 KiB each is a fault, two thousand for 8 MiB, which take 4 ms. So the memories of plugins ask for huge pages, which they
//! get where Linux gives them to those who ask (`/sys/kernel/mm/transparent_hugepage/enabled`: `madvise` or `always`). A memory of less
//! than 2 MiB has none.

use std::num::NonZeroUsize;
use std::ptr::NonNull;

use nix::sys::mman::{MmapAdvise, madvise};

/// For the pool of memories, which has reserved `least` addresses or more.
#[allow(unsafe_code, reason = "all advice is, some of it throws memory away; this does not")]
pub(crate) fn ask_for(least: usize) {
    for (begin, length) in reserved(least) {
        // SAFETY: it changes of which pages memory is made, and nothing that can be read there.
        if let Err(error) =
            unsafe { madvise(NonNull::without_provenance(begin), length, MmapAdvise::MADV_HUGEPAGE) }
        {
            tracing::debug!(%error, "the memories of plugins are made of small pages");
        }
    }
}

/// Addresses that are reserved and not used, at least so many in a row, and how many. Wasmtime does not tell where its pool is;
/// nothing else is as large and as empty.
fn reserved(least: usize) -> Vec<(NonZeroUsize, usize)> {
    // Elsewhere than on Linux there is no such file, and no such page.
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let of_line = |line: &str| {
        let (range, rest) = line.split_once(' ')?;
        let (begin, end) = range.split_once('-')?;
        let number = |text| usize::from_str_radix(text, 16).ok();
        let (begin, end) = (number(begin)?, number(end)?);
        let is_it = rest.starts_with("---p") && end - begin >= least;
        NonZeroUsize::new(begin).filter(|_| is_it).map(|first| (first, end - begin))
    };
    maps.lines().filter_map(of_line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::PluginEngine;
    use crate::settings::HostSettings;

    #[test]
    fn the_pool_of_memories_asks_for_huge_pages() {
        if !std::path::Path::new("/sys/kernel/mm/transparent_hugepage").exists() {
            return;
        }
        let settings = HostSettings { instances: 40, ..HostSettings::default() };
        let least = settings.instances as usize * settings.memory_ceiling;
        assert!(reserved(least).is_empty(), "something else is as large");
        let _engine = PluginEngine::new(&settings).expect("an engine");
        let pools = reserved(least);
        let smaps = std::fs::read_to_string("/proc/self/smaps").expect("Linux");
        for &(begin, _) in &pools {
            let (_, mapping) = smaps.split_once(&format!("\n{begin:x}-")).expect("it is mapped");
            let flags = mapping.lines().find(|line| line.starts_with("VmFlags:")).expect("flags");
            assert!(flags.split(' ').any(|flag| flag == "hg"), "{flags}");
        }
        assert_eq!(pools.len(), 1);
    }
}
