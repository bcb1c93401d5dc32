//! Files that lose their last name while another mount may have them open.
//!
//! Nobody tells the replicas of an open file. But mounts attend: each asks from time to time which
//! files lost their last name, and holds those that it has open. Until all have heard of a file it
//! is in limbo: it has no name, and can be used like any other. Then it stays as long as a session
//! keeps it.
//!
//! A session that attends and does not listen delays what is freed, not for longer than sessions
//! may go unused: by a clock that moves while others attend. An outage, in which nobody can, is no
//! delay of anybody's. By the same clock one that was not there for as long attends no more: in a
//! state that was brought from another cluster, nobody is.

use alloc::vec::Vec;

use bftfs_proto::config::SESSION_NANOS;
use bftfs_proto::types::SessionId;
use serde::{Deserialize, Serialize};

use crate::attributes::{FileType, Ino, ROOT};
use crate::errno::Errno;
use crate::inode::{Change, View};
use crate::layout::{self, ATTENDANCE_KEY, Inode, REMOVED_BLOCKS_MAX, table};
use crate::operation::{Outcome, RELEASES_MAX, Reply};

/// Most files that a session is told of at once: so many as one operation can remove.
const PAGE: usize = REMOVED_BLOCKS_MAX;
/// How long a file is in limbo at most, and a session attends without a word.
const LIMBO_SECS: u64 = SESSION_NANOS / 1_000_000_000;
/// The most by which the clock moves at once: mounts attend more often.
const STEP_SECS: u64 = LIMBO_SECS / 3;
/// Directories above a file in limbo that are remembered, the closest ones, so that the record is
/// short. Whoever is confined to one further up does not keep it.
const ABOVE_MAX: usize = 48;

/// Who attends, as a whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Attendance {
    /// Sessions that attend.
    pub(crate) sessions: u64,
    /// The last number that was given to a file in limbo.
    pub(crate) last: u64,
    /// The number up to which all of them have heard.
    heard: u64,
    /// The clock, in seconds.
    clock: u64,
    /// The agreed time up to which it was moved, in seconds.
    moved: i64,
}

/// A session that attends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Attendant {
    /// The number up to which it has heard.
    pub(crate) heard: u64,
    /// What the clock showed when it was last there.
    there: u64,
}

/// A file without names that sessions may have open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Limbo {
    pub(crate) ino: Ino,
    /// What the clock showed.
    since: u64,
}

/// A file without names that is or was in limbo. Another is kept by one session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Unnamed {
    /// How many sessions keep it, and one more in limbo.
    pub(crate) keepers: u64,
    /// In limbo: the directories above it, if any client is confined.
    pub(crate) above: Vec<Ino>,
}

impl Attendance {
    fn move_clock(&mut self, now: i64) {
        let step = u64::try_from(now.saturating_sub(self.moved)).unwrap_or(0);
        self.clock = self.clock.saturating_add(step.min(STEP_SECS));
        self.moved = now;
    }

    /// Whether nobody need hear of a file any more.
    fn lets_go(&self, number: u64, limbo: Limbo) -> bool {
        number <= self.heard || self.is_over(limbo.since)
    }

    fn is_over(&self, since: u64) -> bool {
        self.clock.saturating_sub(since) >= LIMBO_SECS
    }
}

impl View<'_> {
    fn attendance(&self) -> Attendance {
        layout::load(self.tree, ATTENDANCE_KEY).unwrap_or_default()
    }

    fn attendant(&self, session: SessionId) -> Option<Attendant> {
        layout::load(self.tree, &layout::attendant_key(session))
    }

    /// Whether another session that attends may have a file open.
    pub(crate) fn concerns_others(&self, inode: &Inode) -> bool {
        let others =
            || self.attendance().sessions - u64::from(self.attendant(self.session).is_some());
        inode.kind == FileType::Regular && others() > 0
    }

    /// Whether a file in limbo was within the directory `top`.
    pub(crate) fn was_within(&self, ino: Ino, top: Ino) -> bool {
        self.unnamed(ino).above.contains(&top)
    }

    /// Who keeps a file without names: one session if there is no record of it.
    fn unnamed(&self, ino: Ino) -> Unnamed {
        let record = layout::load(self.tree, &layout::unnamed_key(ino));
        record.unwrap_or(Unnamed { keepers: 1, above: Vec::new() })
    }

    /// What is in limbo after a number, in order.
    fn limbo(&self, after: u64) -> impl Iterator<Item = (u64, Limbo)> {
        let from = layout::limbo_key(after.saturating_add(1));
        self.tree.range(&from, &[table::LIMBO + 1]).map(|(key, record)| {
            let number = layout::number_of(key).expect("a key of limbo has a number");
            let limbo = postcard::from_bytes(&record.read());
            (number, limbo.expect("records are as they were written"))
        })
    }

    /// What leaves limbo next, if nobody need hear of it any more.
    fn leaving_limbo(&self) -> Option<(u64, Ino)> {
        let (number, limbo) = self.limbo(0).next()?;
        self.attendance().lets_go(number, limbo).then_some((number, limbo.ino))
    }

    fn attendants(&self) -> impl Iterator<Item = (&[u8], Attendant)> {
        let from = layout::attendant_key(SessionId(0));
        self.tree.range(&from, &[table::ATTENDANCE + 1]).map(|(key, record)| {
            let attendant = postcard::from_bytes(&record.read());
            (key, attendant.expect("records are as they were written"))
        })
    }

    /// The directories above what is in `directory`, if anybody is confined to one.
    fn above(&self, directory: Ino) -> Vec<Ino> {
        let parent = |ino: &Ino| self.inode(*ino).map_or(ROOT, |inode| inode.parent);
        let above = core::iter::successors(Some(directory), |ino| Some(parent(ino)));
        let deep = if self.is_indexed() { ABOVE_MAX } else { 0 };
        above.take_while(|ino| *ino != ROOT).take(deep).collect()
    }
}

impl Change<'_> {
    /// This session has heard of what is in limbo up to the number `seen`.
    pub(crate) fn attend(&mut self, seen: u64) -> Outcome {
        let view = self.view();
        let mut attendance = view.attendance();
        let before = view.attendant(self.session);
        let seen = seen.max(before.map_or(0, |before| before.heard)).min(attendance.last);
        attendance.sessions += u64::from(before.is_none());
        attendance.move_clock(self.now.sec);
        let attendant = Attendant { heard: seen, there: attendance.clock };
        layout::store(self.tree, &layout::attendant_key(self.session), &attendant);
        self.save_attendance(attendance);
        self.sweep_limbo();

        let view = self.view();
        let page: Vec<_> = view.limbo(seen).take(PAGE).collect();
        let more = page.len() == PAGE || view.leaving_limbo().is_some();
        let seen = page.last().map_or(seen, |(number, _)| *number);
        Ok(Reply::Unlinked { seen, inos: page.iter().map(|(_, limbo)| limbo.ino).collect(), more })
    }

    /// This session attends no more.
    pub(crate) fn stop_attending(&mut self) {
        if self.tree.remove(&layout::attendant_key(self.session)) {
            let mut attendance = self.view().attendance();
            attendance.sessions -= 1;
            self.save_attendance(attendance);
        }
    }

    /// Finds anew who attends and what all have heard, if it matters.
    fn save_attendance(&mut self, mut attendance: Attendance) {
        if self.view().limbo(0).next().is_some() {
            let is_gone = |attendant: &Attendant| attendance.is_over(attendant.there);
            let all: Vec<_> = self
                .view()
                .attendants()
                .map(|(key, attendant)| (key.to_vec(), attendant))
                .collect();
            let (gone, there): (Vec<_>, Vec<_>) =
                all.into_iter().partition(|(_, attendant)| is_gone(attendant));
            for (key, _) in &gone {
                self.tree.remove(key);
            }
            let heard = there.iter().map(|(_, attendant)| attendant.heard).min();
            attendance.heard = heard.unwrap_or(attendance.last);
            attendance.sessions -= gone.len() as u64;
        }
        layout::store(self.tree, ATTENDANCE_KEY, &attendance);
    }

    /// A file lost its last name, which was in `directory`.
    pub(crate) fn enter_limbo(&mut self, ino: Ino, directory: Ino, kept: bool) {
        let view = self.view();
        let unnamed = Unnamed { keepers: 1 + u64::from(kept), above: view.above(directory) };
        let mut attendance = view.attendance();
        attendance.last += 1;
        let limbo = Limbo { ino, since: attendance.clock };
        layout::store(self.tree, &layout::unnamed_key(ino), &unnamed);
        layout::store(self.tree, &layout::limbo_key(attendance.last), &limbo);
        layout::store(self.tree, ATTENDANCE_KEY, &attendance);
    }

    /// Takes out of limbo what all have heard of, as far as this operation may.
    pub(crate) fn sweep_limbo(&mut self) {
        while self.removals > 0
            && let Some((number, ino)) = self.view().leaving_limbo()
        {
            self.removals -= 1;
            self.tree.remove(&layout::limbo_key(number));
            let unnamed = Unnamed { above: Vec::new(), ..self.view().unnamed(ino) };
            layout::store(self.tree, &layout::unnamed_key(ino), &unnamed);
            self.keep_less(ino);
        }
    }

    /// Keeps files for this session that others keep, or that are in limbo.
    pub(crate) fn hold(&mut self, inos: &[Ino]) -> Outcome {
        if inos.len() > RELEASES_MAX {
            return Err(Errno::EINVAL);
        }
        let held = inos.iter().copied().filter(|&ino| self.hold_one(ino)).collect();
        Ok(Reply::Held { inos: held })
    }

    fn hold_one(&mut self, ino: Ino) -> bool {
        let key = layout::orphan_key(self.session, ino);
        if self.tree.get(&key).is_some() {
            return true;
        }
        let Ok(inode) = self.view().inode(ino) else { return false };
        if inode.nlink > 0 || inode.kind != FileType::Regular {
            return false;
        }
        let mut unnamed = self.view().unnamed(ino);
        unnamed.keepers += 1;
        layout::store(self.tree, &layout::unnamed_key(ino), &unnamed);
        self.tree.insert(&key, Vec::new());
        true
    }

    /// One keeper less of a file without names; without any it is freed.
    pub(crate) fn keep_less(&mut self, ino: Ino) {
        let key = layout::unnamed_key(ino);
        let mut unnamed = self.view().unnamed(ino);
        unnamed.keepers -= 1;
        if unnamed.keepers > 0 {
            return layout::store(self.tree, &key, &unnamed);
        }
        self.tree.remove(&key);
        let inode = self.view().inode(ino).expect("what is kept is an inode");
        self.free(ino, &inode);
    }
}
