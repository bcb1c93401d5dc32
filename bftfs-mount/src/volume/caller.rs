//! Whose request it is: user, group and supplementary groups.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use bftfs_fs::{Credentials, GROUPS_MAX};

/// How long the supplementary groups of a process are believed. A process that changes its
/// groups while it keeps its user and group is seen so late.
const GROUPS_TTL: Duration = Duration::from_millis(200);
/// Processes whose groups are remembered.
const PROCESSES_MAX: usize = 64;

/// The process behind a kernel request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process {
    /// Thread number as this process sees it; 0 if it cannot.
    pub pid: u32,
    /// File-system user.
    pub uid: u32,
    /// File-system group.
    pub gid: u32,
}

/// Remembers for a moment which groups a process is in.
#[derive(Debug, Default)]
pub(super) struct Groups {
    recent: Mutex<VecDeque<(Process, Instant, Vec<u32>)>>,
}

impl Groups {
    /// On whose behalf `process` acts.
    pub(super) fn credentials(&self, process: Process) -> Credentials {
        Credentials { uid: process.uid, gid: process.gid, groups: self.of(process) }
    }

    /// The supplementary groups of `process`. None for the superuser, who needs none, and for
    /// a process that is gone or out of sight.
    fn of(&self, process: Process) -> Vec<u32> {
        if process.uid == 0 || process.pid == 0 {
            return Vec::new();
        }
        let now = Instant::now();
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.retain(|(_, since, _)| now.duration_since(*since) < GROUPS_TTL);
        if let Some((_, _, groups)) = recent.iter().find(|(known, _, _)| *known == process) {
            return groups.clone();
        }
        let groups = read(process.pid);
        recent.truncate(PROCESSES_MAX - 1);
        recent.push_front((process, now, groups.clone()));
        groups
    }
}

fn read(pid: u32) -> Vec<u32> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    parse(&status)
}

/// The groups in the text of `/proc/PID/status` (proc(5)), sorted, at most [`GROUPS_MAX`].
fn parse(status: &str) -> Vec<u32> {
    let line = status.lines().find_map(|line| line.strip_prefix("Groups:")).unwrap_or_default();
    let words = line.split_ascii_whitespace();
    let mut groups: Vec<u32> =
        words.filter_map(|word| word.parse().ok()).take(GROUPS_MAX).collect();
    groups.sort_unstable();
    groups.dedup();
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_read_from_the_status_of_a_process() {
        let status = "Name:\tsh\nGid:\t5\t5\t5\t5\nGroups:\t27 4 1000 4 \nNStgid:\t1\n";
        assert_eq!(parse(status), [4, 27, 1000]);
        assert!(parse("Name:\tsh\nGroups:\t\n").is_empty());
        assert!(parse("").is_empty());
    }

    #[test]
    fn memory_is_bounded_and_the_superuser_needs_no_groups() {
        let groups = Groups::default();
        for pid in 1..500 {
            groups.of(Process { pid, uid: 1, gid: 1 });
            groups.of(Process { pid, uid: 0, gid: 1 });
        }
        assert!(groups.recent.lock().expect("lock").len() <= PROCESSES_MAX);
    }
}
