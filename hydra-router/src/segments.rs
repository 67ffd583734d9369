//! Which folders are asked for together: those for which no pool changes its route. Pure.

use std::collections::BTreeSet;

use hydra_core::FolderSet;
use hydra_sdk::ClientMap;

/// The folders asked for in ranges, each from the first to the last, in ascending order. In each of them every pool has
/// one route.
pub(crate) fn segments(map: &ClientMap, wanted: &FolderSet) -> Vec<(u32, u32)> {
    let routed = map.pools().flat_map(|pool| map.routes(pool)).flat_map(|(folders, ..)| folders.ranges());
    let mut begins = BTreeSet::new();
    for &(first, last) in routed.chain(wanted.ranges()) {
        begins.extend([first, last + 1]);
    }
    let begins: Vec<u32> = begins.into_iter().collect();
    let ranges = begins.windows(2).map(|two| (two[0], two[1] - 1));
    ranges.filter(|&(first, _)| wanted.contains(hydra_core::FolderId::new(first))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use hydra_sdk::PoolBuilder;

    #[test]
    fn a_segment_has_one_route_in_every_pool() {
        let chat = PoolBuilder::new("chat").matches("chat/*/*");
        let map = ClientMap::builder()
            .folders(100)
            .server("s1", "http://h:1")
            .server("s2", "http://h:2")
            .server("s3", "http://h:3")
            .server("s4", "http://h:4")
            .route("0-33,84-99", "s1", ["s2"])
            .route("34-83", "s2", ["s1"])
            .pool(chat.route("0-49", "s3", [""; 0]).route("50-99", "s4", [""; 0]))
            .build()
            .expect("a map");
        let of = |wanted: &str| segments(&map, &wanted.parse().expect("folders"));
        assert_eq!(of("0-99"), [(0, 33), (34, 49), (50, 83), (84, 99)]);
        assert_eq!(of("40-60,99"), [(40, 49), (50, 60), (99, 99)]);
        assert_eq!(of("7"), [(7, 7)]);
        let count: u32 = of("0-99").iter().map(|(first, last)| last - first + 1).sum();
        assert_eq!(count, 100);
    }
}
