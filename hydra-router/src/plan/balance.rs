//! Which folders change their server so that every server has its share, and as few as possible move. Pure.

/// A server as a plan sees it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Place {
    /// How much it should have compared with the others; 0 for one that is to have nothing.
    pub(crate) capacity: f64,
}

/// A folder that changes its server; both by their index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Move {
    pub(crate) folder: u32,
    pub(crate) from: usize,
    pub(crate) to: usize,
}

/// The moves after which every server has its share of the number of folders, rounded down or up. No plan with that
/// outcome has fewer. `owners` has the server of each folder; at least one place has a capacity above 0.
pub(crate) fn by_folders(owners: &[usize], places: &[Place]) -> Vec<Move> {
    let wanted = quotas(owners, places);
    let mut have = counts(owners, places.len());
    let mut moves = Vec::new();
    // The last folders of a server go, so that what it keeps is one range where it was one.
    for (folder, &from) in owners.iter().enumerate().rev() {
        if have[from] > wanted[from] {
            have[from] -= 1;
            moves.push((folder as u32, from));
        }
    }
    moves.reverse();
    // Folders of one server go to the same receiver as far as there is room.
    moves.sort_by_key(|&(folder, from)| (from, folder));
    let mut to = 0;
    let mut planned = Vec::with_capacity(moves.len());
    for (folder, from) in moves {
        while have[to] >= wanted[to] {
            to += 1;
        }
        have[to] += 1;
        planned.push(Move { folder, from, to });
    }
    planned.sort_unstable();
    planned
}

/// How many folders each server should have. Who has most of them keeps what is left over by rounding.
fn quotas(owners: &[usize], places: &[Place]) -> Vec<usize> {
    let have = counts(owners, places.len());
    let total: f64 = places.iter().map(|place| place.capacity).sum();
    let exact: Vec<f64> = places.iter().map(|place| owners.len() as f64 * place.capacity / total).collect();
    let mut wanted: Vec<usize> = exact.iter().map(|exact| exact.floor() as usize).collect();
    let mut left = owners.len() - wanted.iter().sum::<usize>();
    // One more than the whole part: first for those that have it already, then by what was cut off.
    let mut order: Vec<usize> = (0..places.len()).filter(|&at| places[at].capacity > 0.0).collect();
    order.sort_by(|&a, &b| {
        let keeps = |at: usize| have[at] > wanted[at];
        let cut = |at: usize| exact[at] - exact[at].floor();
        keeps(b).cmp(&keeps(a)).then(cut(b).total_cmp(&cut(a))).then(a.cmp(&b))
    });
    for at in order.into_iter().cycle() {
        if left == 0 {
            break;
        }
        wanted[at] += 1;
        left -= 1;
    }
    wanted
}

fn counts(owners: &[usize], servers: usize) -> Vec<usize> {
    let mut counts = vec![0; servers];
    owners.iter().for_each(|&owner| counts[owner] += 1);
    counts
}

/// The moves after which the servers have about their share of the bytes: the fullest server gives to the emptiest, each
/// time the largest folder that brings both nearer to their share. Every folder moves once at most.
pub(crate) fn by_bytes(owners: &[usize], bytes: &[u64], places: &[Place]) -> Vec<Move> {
    let total: u64 = bytes.iter().sum();
    let capacity: f64 = places.iter().map(|place| place.capacity).sum();
    let share: Vec<f64> = places.iter().map(|place| total as f64 * place.capacity / capacity).collect();
    let mut load = vec![0.0; places.len()];
    let mut folders: Vec<Vec<u32>> = vec![Vec::new(); places.len()];
    for (folder, &owner) in owners.iter().enumerate() {
        load[owner] += bytes[folder] as f64;
        folders[owner].push(folder as u32);
    }
    folders.iter_mut().for_each(|folders| folders.sort_by_key(|&folder| (bytes[folder as usize], folder)));
    let mut planned = Vec::new();
    let mut hand_over = |folder: u32, from: usize, load: &mut Vec<f64>| {
        let filled = |at: usize| (load[at] - share[at]) / places[at].capacity;
        let open = (0..places.len()).filter(|&at| places[at].capacity > 0.0 && at != from);
        let Some(to) = open.min_by(|&a, &b| filled(a).total_cmp(&filled(b)).then(a.cmp(&b))) else { return };
        load[from] -= bytes[folder as usize] as f64;
        load[to] += bytes[folder as usize] as f64;
        planned.push(Move { folder, from, to });
    };
    // What must go, the largest first.
    for from in (0..places.len()).filter(|&at| places[at].capacity <= 0.0) {
        for folder in std::mem::take(&mut folders[from]).into_iter().rev() {
            hand_over(folder, from, &mut load);
        }
    }
    // Then what should: only where it brings the two together nearer to their shares than they are.
    loop {
        let open = || (0..places.len()).filter(|&at| places[at].capacity > 0.0);
        let over = |at: usize| load[at] - share[at];
        let Some(from) = open().max_by(|&a, &b| over(a).total_cmp(&over(b)).then(b.cmp(&a))) else { break };
        let Some(to) = open().min_by(|&a, &b| over(a).total_cmp(&over(b)).then(a.cmp(&b))) else { break };
        let room = over(from).min(-over(to));
        // A folder up to this size leaves both nearer than they were.
        let fits = folders[from].partition_point(|&folder| bytes[folder as usize] as f64 <= room);
        let Some(at) = fits.checked_sub(1).filter(|&at| bytes[folders[from][at] as usize] > 0) else { break };
        let folder = folders[from].remove(at);
        load[from] -= bytes[folder as usize] as f64;
        load[to] += bytes[folder as usize] as f64;
        planned.push(Move { folder, from, to });
    }
    planned.sort_unstable();
    planned
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn equal(count: usize) -> Vec<Place> {
        vec![Place { capacity: 1.0 }; count]
    }

    fn after(owners: &[usize], moves: &[Move]) -> Vec<usize> {
        let mut after = owners.to_vec();
        for moved in moves {
            assert_eq!(after[moved.folder as usize], moved.from, "a folder moves once, from where it is");
            assert_ne!(moved.from, moved.to);
            after[moved.folder as usize] = moved.to;
        }
        after
    }

    #[test]
    fn from_two_servers_to_three_a_third_moves_and_no_more() {
        for halves in [50, 51, 49] {
            let owners: Vec<usize> = (0..100).map(|folder| usize::from(folder >= halves)).collect();
            let moves = by_folders(&owners, &equal(3));
            assert_eq!(moves.len(), 33, "{halves}");
            assert!(moves.iter().all(|moved| moved.to == 2));
        }
        let owners = [0; 100];
        assert_eq!(by_folders(&owners, &equal(2)).len(), 50);
        assert!(by_folders(&after(&owners, &by_folders(&owners, &equal(2))), &equal(2)).is_empty());
    }

    #[test]
    fn capacities_are_shares_and_zero_is_nothing() {
        let owners: Vec<usize> = (0..100).map(|folder| folder / 25).collect();
        let mut places = equal(4);
        places[3].capacity = 0.0;
        let drained = after(&owners, &by_folders(&owners, &places));
        assert_eq!(counts(&drained, 4), [34, 33, 33, 0]);
        places[0].capacity = 2.0;
        assert_eq!(counts(&after(&owners, &by_folders(&owners, &places)), 4), [50, 25, 25, 0]);
    }

    #[test]
    fn by_bytes_a_heavy_folder_counts_as_what_it_is() {
        let owners = [0, 0, 0, 0];
        let moves = by_bytes(&owners, &[90, 30, 30, 30], &equal(2));
        assert_eq!(moves, [Move { folder: 0, from: 0, to: 1 }]);
        assert!(by_bytes(&[0, 1], &[0, 0], &equal(2)).is_empty(), "empty folders need not move");
        let gone = by_bytes(&[0, 0, 1], &[0, 5, 5], &[Place { capacity: 0.0 }, Place { capacity: 1.0 }]);
        assert_eq!(gone.len(), 2, "a server that goes leaves nothing behind, empty folders neither");
    }

    fn cases() -> impl Strategy<Value = (Vec<usize>, Vec<u64>, Vec<Place>)> {
        (1..7_usize, 1..400_usize).prop_flat_map(|(servers, folders)| {
            let capacity = prop_oneof![3 => (1..5_u8).prop_map(f64::from), 1 => Just(0.0)];
            (
                proptest::collection::vec(0..servers, folders),
                proptest::collection::vec(prop_oneof![1 => Just(0), 4 => 0..1_000_000_u64], folders),
                proptest::collection::vec(capacity, servers),
            )
                .prop_map(|(owners, bytes, mut capacities)| {
                    if capacities.iter().all(|capacity| *capacity == 0.0) {
                        capacities[0] = 1.0;
                    }
                    (owners, bytes, capacities.into_iter().map(|capacity| Place { capacity }).collect())
                })
        })
    }

    proptest! {
        #[test]
        fn a_plan_by_folders_keeps_all_folders_and_moves_as_few_as_can_be((owners, _, places) in cases()) {
            let moves = by_folders(&owners, &places);
            let (before, now) = (counts(&owners, places.len()), counts(&after(&owners, &moves), places.len()));
            prop_assert_eq!(now.iter().sum::<usize>(), owners.len());
            let total: f64 = places.iter().map(|place| place.capacity).sum();
            let mut fewest = 0;
            for (at, place) in places.iter().enumerate() {
                let exact = owners.len() as f64 * place.capacity / total;
                prop_assert!((now[at] as f64 - exact).abs() < 1.0 + 1e-9, "{:?} for {}", now, exact);
                fewest += before[at].saturating_sub(exact.ceil() as usize);
            }
            // No plan gets by with less than what is beyond every rounding, and rounding differs by one for each.
            prop_assert!(moves.len() >= fewest && moves.len() <= fewest + places.len());
            prop_assert!(by_folders(&after(&owners, &moves), &places).is_empty(), "a plan that was carried out is done");
        }

        #[test]
        fn a_plan_by_bytes_keeps_all_folders_and_never_makes_it_worse((owners, bytes, places) in cases()) {
            let moves = by_bytes(&owners, &bytes, &places);
            let now = after(&owners, &moves);
            let load = |owners: &[usize]| -> Vec<u64> {
                let mut load = vec![0; places.len()];
                owners.iter().zip(&bytes).for_each(|(&owner, bytes)| load[owner] += bytes);
                load
            };
            let (before, after) = (load(&owners), load(&now));
            prop_assert_eq!(before.iter().sum::<u64>(), after.iter().sum::<u64>());
            let capacity: f64 = places.iter().map(|place| place.capacity).sum();
            let total: u64 = bytes.iter().sum();
            let away = |load: &[u64]| -> f64 {
                load.iter().zip(&places).map(|(&load, place)| {
                    (load as f64 - total as f64 * place.capacity / capacity).abs()
                }).sum()
            };
            let has_drained = places.iter().any(|place| place.capacity == 0.0);
            prop_assert!(has_drained || away(&after) <= away(&before) + 1e-6);
            for (at, place) in places.iter().enumerate().filter(|(_, place)| place.capacity == 0.0) {
                prop_assert!(!now.contains(&at), "server {} of capacity {} has folders", at, place.capacity);
            }
        }
    }
}
