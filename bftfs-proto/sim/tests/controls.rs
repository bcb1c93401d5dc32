//! Negative controls: each published fault, put back in, is found. Needs the feature `faults`.
//!
//! `docs/testing.md` has the table.

use bftfs_adversary::Role;
use bftfs_proto::replica::Fault;
use bftfs_sim::workload::ListsLoad;
use bftfs_sim::{Choices, World};

/// From the seed that found it on, so many may fail to.
const SEEDS: u64 = 60;

/// A fault, the role and the Byzantine clients that provoke it, the first seed that found it, and
/// the invariant that did.
struct Control(Fault, Option<Role>, Option<u32>, u64, &'static str);

const CONTROLS: &[Control] = &[
    Control(Fault::AnyDigest, Some(Role::Equivocate), None, 2, "I3"),
    Control(Fault::NoCertificate, Some(Role::Equivocate), None, 2, "I3"),
    Control(Fault::NoCommits, Some(Role::Equivocate), None, 11, "I1"),
    Control(Fault::AnyPrimary, Some(Role::Equivocate), None, 37, "I3"),
    Control(Fault::NoPreparedRecord, None, None, 1, "I9"),
    Control(Fault::DropPrepared, None, None, 1, "I9"),
    Control(Fault::TrustTestimony, Some(Role::VcLies), None, 128, "I6"),
    Control(Fault::AnyChoice, Some(Role::BadNewView), None, 3, "I6"),
    Control(Fault::UnsignedTestimony, Some(Role::BadNewView), None, 55, "I6"),
    Control(Fault::FollowOne, Some(Role::VcLies), None, 2, "I14"),
    Control(Fault::HideNewView, Some(Role::Silent), None, 39, "I13"),
    Control(Fault::LoseRequests, None, None, 13, "I13"),
    Control(Fault::LoseBatch, None, None, 41, "I13"),
    Control(Fault::ForgetPromise, None, None, 3, "I8"),
    Control(Fault::HideStable, None, None, 1, "I13"),
    Control(Fault::AnyCertificate, Some(Role::BadCheckpoint), None, 1, "I7"),
    Control(Fault::AnyBlock, Some(Role::PoisonTransfer), None, 36, "I7"),
    Control(Fault::AnswerOnce, None, None, 1, "I13"),
    Control(Fault::NoBarrier, None, None, 36, "I10"),
    Control(Fault::ProposeUnsigned, None, Some(2), 1, "I13"),
    Control(Fault::SuspectUnsigned, None, Some(2), 3, "I13"),
    Control(Fault::SuspectRefused, None, Some(2), 23, "I14"),
    Control(Fault::AnyTime, Some(Role::BadTime), None, 2, "I15"),
    Control(Fault::LocalTime, None, None, 1, "I7"),
    Control(Fault::NoQuota, None, Some(2), 161, "I12"),
    Control(Fault::HideDecided, Some(Role::SilentToOne), None, 260, "I13"),
    Control(Fault::BelieveOne, Some(Role::WrongVotes), None, 1, "I1"),
];

/// Faults that nothing here suffers from, with the reason in `docs/testing.md`.
const HARMLESS: &[Fault] = &[Fault::SameCheckpoint];

#[test]
fn every_fault_is_found_by_its_invariant() {
    for Control(fault, role, rogues, first, invariant) in CONTROLS {
        let choices = Choices {
            fault: Some(*fault),
            role: *role,
            rogues: *rogues,
            backups_only: *invariant == "I14" && role.is_some(),
            faulty: Some(0),
            ..Choices::default()
        };
        let fails = |seed| World::new(seed, &choices, ListsLoad::default()).run().violation;
        let found = (*first..first + SEEDS).find_map(fails).unwrap_or_default();
        assert!(found.starts_with(invariant), "{fault}: {found:.200}");
    }
}

#[test]
fn every_fault_has_its_control() {
    let controlled = CONTROLS.iter().map(|control| control.0);
    let mut faults: Vec<Fault> = controlled.chain(HARMLESS.iter().copied()).collect();
    faults.sort_unstable();
    assert_eq!(faults, Fault::ALL);
}
