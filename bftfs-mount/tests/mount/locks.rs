//! Locks as processes see them, on two mounts of one cluster.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use bftfs_mount::stats::Kind;
use bftfs_mount::volume::Mode;
use rustix::process::Signal;

use crate::double::Double;
use crate::locker::Locker;
use crate::mounted::{Mounted, has_fuse};

const BRIEFLY: Duration = Duration::from_millis(150);
/// A call that waits looks for signals more often than that.
const SOON: Duration = Duration::from_secs(5);

const EINTR: &str = "error 4";
const EIO: &str = "error 5";
const EAGAIN: &str = "error 11";
const EDEADLK: &str = "error 35";

/// Two mounts, and a file of them.
struct Two {
    double: Double,
    here: Mounted,
    there: Mounted,
}

impl Two {
    fn mount() -> Option<Self> {
        if !has_fuse() {
            return None;
        }
        let double = Double::default();
        let here = Mounted::new(&double, Mode::Strict);
        let there = Mounted::new(&double, Mode::RoLookup);
        fs::write(here.at("f"), b"contents").expect("write");
        Some(Self { double, here, there })
    }

    fn here(&self) -> Locker {
        Locker::with(&self.here.at("f"))
    }

    fn there(&self) -> Locker {
        Locker::with(&self.there.at("f"))
    }
}

/// Every way to lock the whole file: to take the lock, to wait for it, to give it up.
const WHOLE: [[&str; 3]; 3] = [
    ["set 3 w 0 0", "wait 3 w 0 0", "set 3 u 0 0"],
    ["ofd-set 3 w 0 0", "ofd-wait 3 w 0 0", "ofd-set 3 u 0 0"],
    ["flock 3 6", "flock 3 2", "flock 3 8"],
];

#[test]
fn every_kind_of_lock_excludes_processes_on_this_and_other_mounts() {
    let Some(two) = Two::mount() else { return };
    for [take, _, give_up] in WHOLE {
        let (mut holder, mut neighbour, mut other) = (two.here(), two.here(), two.there());
        assert_eq!(holder.ask(take), "ok", "{take}");
        for [try_to, _, _] in WHOLE {
            assert_eq!(neighbour.ask(try_to), EAGAIN, "{take} against {try_to} here");
            assert_eq!(other.ask(try_to), EAGAIN, "{take} against {try_to} there");
        }
        assert_eq!(holder.ask(take), "ok", "nobody is in his own way");
        assert_eq!(holder.ask(give_up), "ok");
        assert_eq!(other.ask(take), "ok");
        assert_eq!(holder.ask(take), EAGAIN);
    }
}

#[test]
fn ranges_are_locked_apart_and_the_lock_in_the_way_is_told() {
    let Some(two) = Two::mount() else { return };
    let (mut one, mut neighbour, mut other) = (two.here(), two.here(), two.there());
    assert_eq!(one.ask("set 3 w 10 10"), "ok");
    assert_eq!(one.ask("set 3 r 15 2"), "ok");
    assert_eq!(other.ask("set 3 w 20 0"), "ok", "what one does not hold another may");
    assert_eq!(other.ask("set 3 r 15 2"), "ok", "two may read");
    assert_eq!(other.ask("set 3 w 15 1"), EAGAIN);
    assert_eq!(neighbour.ask("get 3 w 0 100"), format!("ok w 10 5 {}", one.pid()));
    assert_eq!(other.ask("get 3 r 0 100"), "ok w 10 5 0", "processes elsewhere have no number");
    assert_eq!(other.ask("get 3 r 15 2"), "ok free");
    assert_eq!(neighbour.ask("get 3 r 17 1"), format!("ok w 17 3 {}", one.pid()));
    assert_eq!(neighbour.ask("get 3 w 30 1"), "ok w 20 0 0", "to the end, wherever that is");
    assert_eq!(one.ask("set 3 u 0 0"), "ok");
    assert_eq!(neighbour.ask("set 3 w 0 15"), "ok");
}

#[test]
fn whoever_waits_has_the_lock_as_soon_as_others_let_go() {
    let Some(two) = Two::mount() else { return };
    for [take, wait, give_up] in WHOLE {
        let (mut holder, mut waiter) = (two.here(), two.there());
        assert_eq!(holder.ask(take), "ok");
        waiter.tell(wait);
        assert_eq!(waiter.answer_within(BRIEFLY), None, "{wait}");
        assert_eq!(holder.ask(give_up), "ok");
        assert_eq!(waiter.answer(), "ok");
        assert_eq!(holder.ask(take), EAGAIN);
    }
}

#[test]
fn a_posix_lock_goes_when_its_process_closes_any_descriptor_of_the_file() {
    let Some(two) = Two::mount() else { return };
    let (mut one, mut other) = (two.here(), two.there());
    let again = format!("open {}", two.here.at("f").display());
    for by in [again.as_str(), "dup 3"] {
        assert_eq!(one.ask("set 3 w 0 0"), "ok");
        assert_eq!(one.ask("fork-and-close 3"), "ok", "another process has other locks");
        assert_eq!(other.ask("set 3 w 0 0"), EAGAIN);
        assert_eq!(one.ask(by), "ok 4");
        assert_eq!(one.ask("close 4"), "ok");
        assert_eq!(other.ask("set 3 w 0 0"), "ok", "by the time the close returns");
        assert_eq!(one.ask("set 3 w 0 0"), EAGAIN);
        assert_eq!(other.ask("set 3 u 0 0"), "ok");
    }
}

#[test]
fn locks_of_open_files_go_with_the_last_descriptor() {
    let Some(two) = Two::mount() else { return };
    for [take, wait, _] in &WHOLE[1..] {
        let (mut one, mut other) = (two.here(), two.there());
        assert_eq!(one.ask(take), "ok");
        assert_eq!(one.ask("dup 3"), "ok 4");
        assert_eq!(one.ask("close 3"), "ok");
        assert_eq!(one.ask(&format!("open {}", two.here.at("f").display())), "ok 3");
        assert_eq!(one.ask("fork-and-close 4"), "ok");
        assert_eq!(one.ask(take), EAGAIN, "it is another open file");
        assert_eq!(one.ask("close 3"), "ok");
        assert_eq!(other.ask(take), EAGAIN);
        assert_eq!(one.ask("close 4"), "ok");
        assert_eq!(other.ask(wait), "ok", "soon after the close");
    }
}

#[test]
fn a_killed_process_leaves_no_lock_and_no_wait() {
    let Some(two) = Two::mount() else { return };
    for [take, wait, _] in WHOLE {
        let (mut holder, mut waiter, mut last) = (two.here(), two.there(), two.there());
        assert_eq!(holder.ask(take), "ok");
        waiter.tell(wait);
        assert_eq!(waiter.answer_within(BRIEFLY), None);
        last.tell(wait);
        let start = Instant::now();
        waiter.kill();
        assert!(start.elapsed() < SOON, "{wait} can be killed");
        assert_eq!(last.answer_within(BRIEFLY), None);
        holder.kill();
        assert_eq!(last.answer(), "ok", "it is next, and the dead are not served");
    }
}

#[test]
fn a_signal_ends_the_wait_as_its_handler_was_set() {
    let Some(two) = Two::mount() else { return };
    let (mut holder, mut waiter, mut third) = (two.here(), two.there(), two.here());
    assert_eq!(holder.ask("set 3 w 0 0"), "ok");
    waiter.tell("wait 3 w 0 0");
    assert_eq!(waiter.answer_within(BRIEFLY), None);
    // Ignored by default: nothing to attend to.
    waiter.send(Signal::WINCH);
    waiter.send(Signal::USR2);
    assert_eq!(waiter.answer_within(2 * BRIEFLY), None, "SA_RESTART: it waits on");
    waiter.send(Signal::USR1);
    assert_eq!(waiter.answer_within(SOON).as_deref(), Some(EINTR));
    assert_eq!(holder.ask("set 3 u 0 0"), "ok");
    assert_eq!(third.ask("set 3 w 0 0"), "ok", "who gave up has nothing");
    waiter.tell("wait 3 w 0 0");
    waiter.send(Signal::USR2);
    assert_eq!(waiter.answer_within(2 * BRIEFLY), None);
    assert_eq!(third.ask("set 3 u 0 0"), "ok");
    assert_eq!(waiter.answer(), "ok");
}

#[test]
fn processes_that_would_wait_for_each_other_are_told() {
    let Some(two) = Two::mount() else { return };
    let (mut one, mut other) = (two.here(), two.there());
    assert_eq!(one.ask("set 3 w 0 1"), "ok");
    assert_eq!(other.ask("set 3 w 1 1"), "ok");
    one.tell("wait 3 w 1 1");
    assert_eq!(one.answer_within(BRIEFLY), None);
    assert_eq!(other.ask("wait 3 r 0 1"), EDEADLK);
    assert_eq!(other.ask("set 3 u 0 0"), "ok");
    assert_eq!(one.answer(), "ok");
}

#[test]
fn who_had_locks_when_the_session_was_lost_reads_and_writes_no_more() {
    let Some(two) = Two::mount() else { return };
    let (mut one, mut neighbour, mut other) = (two.here(), two.here(), two.there());
    assert_eq!(one.ask("set 3 w 0 0"), "ok");
    two.here.replicas.lose();
    assert_eq!(other.ask("set 3 w 0 0"), "ok", "the lock is gone");
    assert_eq!(neighbour.ask("write 3"), EIO, "the first call finds the session gone");
    assert_eq!(neighbour.ask("write 3"), "ok", "but who had no lock goes on");
    for refused in ["read 3", "write 3", "set 3 w 0 0", "flock 3 6"] {
        assert_eq!(one.ask(refused), EIO, "{refused}");
    }
    assert_eq!(one.ask("set 3 u 0 0"), "ok");
    assert_eq!(one.ask(&format!("open {}", two.here.at("f").display())), "ok 4");
    assert_eq!(one.ask("write 4"), "ok", "opened anew it works again");
    assert_eq!(one.ask("set 4 w 0 0"), EAGAIN);
    assert_eq!(other.ask("set 3 u 0 0"), "ok");
    assert_eq!(one.ask("set 4 w 0 0"), "ok");
}

#[test]
fn a_wait_outlives_times_without_replicas_and_can_be_killed_in_them() {
    let Some(two) = Two::mount() else { return };
    let (mut holder, mut waiter, mut victim) = (two.here(), two.there(), two.there());
    assert_eq!(holder.ask("set 3 w 0 0"), "ok");
    for waits in [&mut waiter, &mut victim] {
        waits.tell("wait 3 w 0 0");
        assert_eq!(waits.answer_within(BRIEFLY), None);
    }
    two.double.set_dead(true);
    assert_eq!(waiter.answer_within(3 * BRIEFLY), None);
    let start = Instant::now();
    victim.kill();
    assert!(start.elapsed() < SOON);
    assert_eq!(holder.ask("set 3 u 0 0"), "error 110");
    two.double.set_dead(false);
    assert_eq!(holder.ask("set 3 u 0 0"), "ok");
    assert_eq!(waiter.answer(), "ok");
}

#[test]
fn a_lock_that_could_not_be_released_is_released_when_the_replicas_are_back() {
    let Some(two) = Two::mount() else { return };
    let (mut one, mut other) = (two.here(), two.there());
    assert_eq!(one.ask("set 3 w 0 0"), "ok");
    two.double.set_dead(true);
    assert_eq!(one.ask("close 3"), "error 110");
    two.double.set_dead(false);
    assert_eq!(other.ask("wait 3 w 0 0"), "ok");
}

#[test]
fn whoever_is_told_that_it_may_be_his_turn_asks_at_once() {
    let Some(two) = Two::mount() else { return };
    let (mut holder, mut waiter) = (two.here(), two.there());
    let ino = fs::metadata(two.there.at("f")).expect("stat").ino();
    assert_eq!(holder.ask("set 3 w 0 0"), "ok");
    waiter.tell("wait 3 w 0 0");
    assert_eq!(waiter.answer_within(Duration::from_secs(1)), None);
    // By now it asks once a second.
    let before = two.double.counts().0;
    for _ in 0..40 {
        two.there.volume.nudged(&ino.to_le_bytes());
        std::thread::sleep(Duration::from_millis(5));
    }
    let asked = two.double.counts().0 - before;
    assert!((10..60).contains(&asked), "{asked}");
    assert_eq!(holder.ask("set 3 u 0 0"), "ok");
    assert_eq!(waiter.answer(), "ok");
}

#[test]
fn counting_under_locks_loses_nothing() {
    let Some(two) = Two::mount() else { return };
    for how in ["fcntl", "flock"] {
        fs::write(two.here.at("f"), b"0").expect("write");
        let mut lockers = [two.here(), two.there(), two.there()];
        for locker in &mut lockers {
            locker.tell(&format!("count 3 {how} 30"));
        }
        for locker in &lockers {
            assert_eq!(locker.answer(), "ok");
        }
        assert_eq!(fs::read(two.there.at("f")).expect("read"), b"000000000000090", "{how}");
    }
}

#[test]
fn who_locks_nothing_pays_nothing() {
    let Some(two) = Two::mount() else { return };
    let (mut one, mut other) = (two.here(), two.there());
    assert_eq!(other.ask("set 3 w 0 0"), "ok");
    let (before, flushes) = (two.double.counts(), two.here.stats.count(Kind::Flush));
    assert_eq!(one.ask("set 3 u 0 0"), "ok");
    assert_eq!(one.ask("close 3"), "ok");
    assert_eq!(two.double.counts(), before, "neither to unlock nor to close");
    assert_eq!(two.here.stats.count(Kind::Flush), flushes + 1);
    assert_eq!(other.ask("set 3 u 0 0"), "ok");
    assert_eq!(other.ask("close 3"), "ok");
    let after = two.double.counts();
    assert_eq!((after.0 - before.0, after.1), (1, before.1), "to unlock, but not to close");
}
