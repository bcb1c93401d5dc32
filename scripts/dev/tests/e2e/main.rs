//! End-to-end tests: real replicas, a real mount, and what can happen to them.
//!
//! Run them with `scripts/test --e2e-only`, which builds the programs first. They run one after the
//! other, and each leaves no process and no mount behind, however it ends.

mod admin;
mod andrew;
mod bench;
mod crashes;
mod damage;
mod failover;
mod histories;
mod lab;
mod liars;
// The process that locks is the same as in the tests of the mount.
#[path = "../../../../bftfs-mount/tests/mount/locker.rs"]
mod locker;
mod locks;
mod many_mounts;
mod mirror;
mod outage;
mod posix;
mod refusals;
mod sharing;
mod transcript;
mod unlinked;
mod workload;
