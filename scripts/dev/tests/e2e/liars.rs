//! One replica lies, in every way that is known: nobody who uses the mount can tell.

use std::time::Duration;

use anyhow::{Result, ensure};
use bftfs_adversary::Role;
use bftfs_dev::{Lie, Mode};
use rustix::process::Signal;

use crate::lab::{Lab, refused, with_options};
use crate::mirror;
use crate::workload::Load;

/// How long the workload lasts.
const WORK: Duration = Duration::from_millis(2000);
/// Time in which the correct replicas have all executed the same.
const LEVEL_PATIENCE: Duration = Duration::from_secs(20);
/// How long a replica is held up: longer than it takes to be suspected.
const HELD_UP: Duration = Duration::from_millis(1500);

macro_rules! each_role {
    ($($name:ident: $role:ident,)*) => {
        $(mod $name {
            use super::*;

            #[test]
            fn as_primary() {
                nobody_can_tell(Role::$role, 0);
            }

            #[test]
            fn as_backup() {
                nobody_can_tell(Role::$role, 2);
            }
        })*

        #[test]
        fn no_role_is_left_out() {
            assert_eq!([$(Role::$role),*], Role::ALL);
        }
    };
}

each_role! {
    equivocate: Equivocate,
    silent: Silent,
    silent_to_one: SilentToOne,
    slow: Slow,
    wrong_votes: WrongVotes,
    bad_auth: BadAuth,
    replay: Replay,
    garbage: Garbage,
    withhold_bodies: WithholdBodies,
    vc_lies: VcLies,
    bad_new_view: BadNewView,
    bad_checkpoint: BadCheckpoint,
    poison_transfer: PoisonTransfer,
    wrong_reads: WrongReads,
    bad_time: BadTime,
    starve: Starve,
}

/// A workload on a cluster whose replica `liar` plays `role`.
fn nobody_can_tell(role: Role, liar: u32) {
    with_liar(role, liar, |lab| {
        let local = lab.directory("local")?;
        let mount = lab.mount("mnt", Mode::Strict)?;
        mirror::work(&local, mount.point(), WORK)?;
        all_is_well(lab, liar, &local)
    });
}

#[test]
fn false_view_changes_of_the_next_primary_are_no_harm() {
    next_primary_lies(Role::VcLies);
}

#[test]
fn false_new_views_are_no_harm() {
    next_primary_lies(Role::BadNewView);
}

/// The primary is held up, not faulty, and the one after it lies.
fn next_primary_lies(role: Role) {
    with_liar(role, 1, |lab| {
        let local = lab.directory("local")?;
        let mount = lab.mount("mnt", Mode::Strict)?;
        let point = mount.point().to_owned();
        let primary = lab.cluster.replica(0)?;
        let worked = std::thread::scope(|scope| {
            let work = scope.spawn(|| mirror::work(&local, &point, 2 * HELD_UP));
            std::thread::sleep(HELD_UP / 2);
            primary.signal(Signal::STOP)?;
            std::thread::sleep(HELD_UP);
            primary.signal(Signal::CONT)?;
            work.join().expect("no panic")
        });
        worked?;
        all_is_well(lab, 1, &local)
    });
}

#[test]
fn state_that_a_liar_poisons_is_fetched_from_others() {
    with_liar(Role::PoisonTransfer, 2, |lab| {
        let mount = lab.mount("mnt", Mode::Strict)?;
        lab.cluster.kill(3)?;
        // More sequence numbers than the log of the others keeps.
        let enough = 3 * bftfs_proto::config::WINDOW_SEQS;
        let load = Load::start(mount.point());
        while lab.executed().into_iter().flatten().max() < Some(enough) {
            std::thread::sleep(Duration::from_millis(100));
        }
        let ledger = load.stop();
        assert_eq!(ledger.failures, [""; 0], "the workload notices nothing");
        lab.cluster.restart(3)?;
        lab.wait_until_level_but(Some(2), enough, LEVEL_PATIENCE)?;
        ledger.verify(mount.point())
    });
}

#[test]
fn the_released_program_knows_no_lies() {
    let said = refused("bftfs-node", &["run", "--byzantine", "silent"]).expect("it is refused");
    assert!(said.contains("unexpected argument '--byzantine'"), "{said}");
}

#[test]
fn an_unknown_role_is_refused() {
    let said = refused("bftfs-node-byzantine", &["run", "--byzantine", "honest"]);
    let said = said.expect("it is refused");
    assert!(said.contains("there is no role \"honest\""), "{said}");
}

fn with_liar(role: Role, liar: u32, test: impl FnOnce(&Lab) -> Result<()>) {
    let lie = Lie { role: role.to_string(), on_signal: false };
    with_options(
        |options| options.byzantine = [(liar, lie)].into(),
        |lab| {
            let before = lab.cluster.pids();
            test(lab)?;
            ensure!(before.len() == lab.cluster.pids().len(), "a replica has ended");
            Ok(())
        },
    );
}

/// What the mount shows is what it should be, and the correct replicas agree.
fn all_is_well(lab: &Lab, liar: u32, local: &std::path::Path) -> Result<()> {
    let fresh = lab.mount("fresh", Mode::RoLookup)?;
    mirror::compare(local, fresh.point())?;
    lab.wait_until_level_but(Some(liar), 1, LEVEL_PATIENCE)?;
    for replica in lab.cluster.status().into_iter().filter(|replica| replica.id != liar) {
        let diverged = replica.counters.is_none_or(|c| c.other["diverged"] != false);
        ensure!(!diverged, "replica {} has a state of its own", replica.id);
    }
    Ok(())
}
