//! Locks of processes on two mounts of one cluster of four replicas.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bftfs_dev::{Mode, MountGuard, wait_until};
use rustix::process::Signal;

use crate::lab::with_cluster;
use crate::locker::Locker;

/// Long enough for a call that is not to be answered.
const BRIEFLY: Duration = Duration::from_millis(500);
/// A lock that is free is had so soon, and a process that waits is gone.
const SOON: Duration = Duration::from_secs(5);
/// How often each process counts.
const ROUNDS: u32 = 50;

const EINTR: &str = "error 4";
const EAGAIN: &str = "error 11";
const EDEADLK: &str = "error 35";

#[test]
fn processes_on_two_mounts_lock_each_other_out() {
    with_cluster(4, |lab| {
        let here = lab.mount("here", Mode::Strict)?;
        let there = lab.mount("there", Mode::RoLookup)?;
        let (one, two) = (here.point().join("f"), there.point().join("f"));
        fs::write(&one, "0")?;
        for how in ["fcntl", "flock"] {
            fs::write(&one, "0")?;
            let mut lockers = [&one, &two, &two].map(|path| Locker::with(path));
            for locker in &mut lockers {
                locker.tell(&format!("count 3 {how} {ROUNDS}"));
            }
            for locker in &lockers {
                let answer = locker.answer();
                ensure!(answer == "ok", "{how}: {answer}");
            }
            let number: u32 = fs::read_to_string(&two)?.parse()?;
            ensure!(number == 3 * ROUNDS, "{how}: {number} of {} were counted", 3 * ROUNDS);
        }

        let (mut holder, mut other) = (Locker::with(&one), Locker::with(&two));
        ensure!(holder.ask("set 3 w 0 1") == "ok");
        ensure!(other.ask("set 3 w 0 1") == EAGAIN);
        let shown = Locker::with(&one).ask("get 3 w 0 0");
        ensure!(shown == format!("ok w 0 1 {}", holder.pid()), "{shown}");
        ensure!(other.ask("get 3 w 0 0") == "ok w 0 1 0");
        ensure!(other.ask("set 3 w 1 1") == "ok");
        holder.tell("wait 3 w 1 1");
        ensure!(holder.answer_within(BRIEFLY).is_none(), "it waits");
        ensure!(other.ask("wait 3 w 0 1") == EDEADLK);
        ensure!(other.ask("set 3 u 0 0") == "ok");
        ensure!(holder.answer_within(SOON).as_deref() == Some("ok"), "its turn");

        other.tell("wait 3 w 0 0");
        ensure!(other.answer_within(BRIEFLY).is_none());
        other.send(Signal::USR1);
        ensure!(other.answer_within(SOON).as_deref() == Some(EINTR), "a signal ends the wait");
        Ok(())
    });
}

#[test]
fn whoever_waits_is_nudged_when_the_lock_is_his() {
    with_cluster(4, |lab| {
        let here = lab.mount("here", Mode::RoLookup)?;
        let there = lab.mount("there", Mode::RoLookup)?;
        let nudges = |mount: &MountGuard| -> Result<u64> {
            let counters = mount.counters()?;
            let count = counters.other["operations"]["nudges"].as_u64();
            count.context("a mount counts its nudges")
        };
        let (one, two) = (here.point().join("f"), there.point().join("f"));
        fs::write(&one, "0")?;
        let (mut holder, mut waiter) = (Locker::with(&one), Locker::with(&two));
        for round in 1..=3 {
            ensure!(holder.ask("set 3 w 0 0") == "ok");
            waiter.tell("wait 3 w 0 0");
            ensure!(waiter.answer_within(BRIEFLY).is_none(), "it waits");
            ensure!(holder.ask("set 3 u 0 0") == "ok");
            ensure!(waiter.answer_within(SOON).as_deref() == Some("ok"), "its turn");
            let told = wait_until(SOON, || nudges(&there).is_ok_and(|count| count >= round));
            ensure!(told, "{} nudges in {round} rounds", nudges(&there)?);
            ensure!(waiter.ask("set 3 u 0 0") == "ok");
        }
        ensure!(nudges(&here)? == 0, "they are for the session that waits");
        Ok(())
    });
}

#[test]
fn who_dies_lets_go_of_locks_and_waits() {
    with_cluster(4, |lab| {
        let here = lab.mount("here", Mode::RoLookup)?;
        let there = lab.mount("there", Mode::RoLookup)?;
        let (one, two) = (here.point().join("f"), there.point().join("f"));
        for [take, wait] in [["set 3 w 0 0", "wait 3 w 0 0"], ["flock 3 6", "flock 3 2"]] {
            let [mut holder, mut victim] = [&one, &two].map(|path| Locker::with(path));
            let mut next = Locker::with(&one);
            ensure!(holder.ask(take) == "ok");
            victim.tell(wait);
            ensure!(victim.answer_within(BRIEFLY).is_none());
            next.tell(wait);
            let start = Instant::now();
            victim.kill();
            ensure!(start.elapsed() < SOON, "whoever waits can be killed");
            ensure!(next.answer_within(BRIEFLY).is_none());
            holder.kill();
            ensure!(next.answer_within(SOON).as_deref() == Some("ok"), "{wait}: the next has it");
        }

        // Nobody can tell a mount that died from one that is slow: its session goes on for a while.
        let (mut holder, mut other) = (Locker::with(&one), Locker::with(&two));
        ensure!(holder.ask("set 3 w 0 0") == "ok");
        // Not by `kill`, which forgets it: its mount is still to be cleared.
        here.process().signal(Signal::KILL)?;
        ensure!(here.process().ended_within(SOON), "it is killed");
        ensure!(other.ask("set 3 w 0 0") == EAGAIN);
        ensure!(other.ask("get 3 w 0 0") == "ok w 0 0 0");
        drop(holder);
        Ok(())
    });
}
