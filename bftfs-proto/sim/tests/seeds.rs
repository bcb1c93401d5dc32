//! Seeds that found something once, negative controls, and that one seed is one run.

use bftfs_sim::faults::Sabotage;
use bftfs_sim::workload::ListsLoad;
use bftfs_sim::{Choices, World};

/// See `docs/testing.md` for what each of them found.
const ONCE_FAILED: [u64; 13] =
    [195, 198, 252, 345, 933, 1602, 1653, 1680, 4872, 6753, 7870, 8696, 8717];

#[test]
fn seeds_that_failed_once_pass() {
    for seed in ONCE_FAILED {
        let report = World::new(seed, &Choices::honest(None), ListsLoad::default()).run();
        assert_eq!(report.violation, None, "seed {seed}");
    }
}

#[test]
fn one_seed_is_one_run() {
    let run = || World::new(11, &Choices::honest(Some(4)), ListsLoad::default()).run();
    let (first, second) = (run(), run());
    assert_eq!(first.trace, second.trace);
    assert!(first.events > 500, "the run did something");
    let other = World::new(12, &Choices::honest(Some(4)), ListsLoad::default()).run();
    assert_ne!(first.trace, other.trace);
}

/// How many of 40 seeds a checker finds to be wrong.
fn red(sabotage: Sabotage) -> usize {
    let choices = Choices { sabotage: Some(sabotage), ..Choices::honest(Some(4)) };
    let run = |seed| World::new(seed, &choices, ListsLoad::default()).run();
    (1..=40).filter(|seed| run(*seed).violation.is_some()).count()
}

#[test]
fn a_vote_before_its_record_is_noticed() {
    assert!(red(Sabotage::EarlySend) > 20);
}

#[test]
fn a_state_that_drifts_is_noticed() {
    assert!(red(Sabotage::StateDrift) > 10);
}
