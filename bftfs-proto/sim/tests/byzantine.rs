//! Byzantine replicas and clients: each role alone, seeds that found something, and more liars
//! than are tolerated.

use bftfs_adversary::Role;
use bftfs_sim::workload::{FilesLoad, ListsLoad};
use bftfs_sim::{Choices, Report, World};

/// Seeds that failed once with a cast of their own choice; see `docs/testing.md`.
const ONCE_FAILED: [u64; 20] = [
    21, 105, 130, 133, 142, 164, 190, 208, 509, 3704, 7635, 3076, 50_275, 52_154, 52_662, 304_990,
    3_200_464, 3_405_076, 4_201_492, 661,
];
/// Seeds that failed once with two Byzantine clients.
const ONCE_FAILED_BY_CLIENTS: [u64; 4] = [4, 23, 86, 99];

fn run(seed: u64, choices: &Choices) -> Report {
    if seed.is_multiple_of(2) {
        World::new(seed, choices, FilesLoad::of(seed)).run()
    } else {
        World::new(seed, choices, ListsLoad::default()).run()
    }
}

fn passes(seed: u64, choices: &Choices) {
    let report = run(seed, choices);
    assert_eq!(report.violation, None, "seed {seed}, {:?}", report.cast);
}

#[test]
fn seeds_that_failed_once_with_liars_pass() {
    ONCE_FAILED.iter().for_each(|seed| passes(*seed, &Choices::default()));
    let choices = Choices { rogues: Some(2), ..Choices::default() };
    ONCE_FAILED_BY_CLIENTS.iter().for_each(|seed| passes(*seed, &choices));
}

#[test]
fn every_role_is_borne_as_primary_and_as_backup() {
    for role in Role::ALL {
        let honest = Choices::honest(Some(4));
        let any = Choices { role: Some(*role), liars: Some(1), ..honest };
        [1, 2, 3].iter().for_each(|seed| passes(*seed, &any));
        passes(4, &Choices { backups_only: true, ..any });
    }
}

#[test]
fn one_seed_with_liars_is_one_run() {
    let choices = Choices { liars: Some(2), rogues: Some(1), ..Choices::honest(Some(7)) };
    let (first, second) = (run(7, &choices), run(7, &choices));
    assert_eq!(first.trace, second.trace);
    assert_eq!(first.cast.liars.len(), 2);
}

/// How the first seed fails that does, with two liars among four.
fn two_liars(role: Role) -> String {
    let choices = Choices { role: Some(role), liars: Some(2), ..Choices::honest(Some(4)) };
    let fails = |seed| World::new(seed, &choices, ListsLoad::default()).run().violation;
    (1..20).find_map(fails).unwrap_or_default()
}

#[test]
fn more_liars_than_are_tolerated_are_noticed() {
    assert!(two_liars(Role::Equivocate).starts_with("I3"), "{}", two_liars(Role::Equivocate));
    assert!(two_liars(Role::WrongVotes).starts_with("I7"), "{}", two_liars(Role::WrongVotes));
    assert!(two_liars(Role::Silent).starts_with("I13"), "{}", two_liars(Role::Silent));
}
