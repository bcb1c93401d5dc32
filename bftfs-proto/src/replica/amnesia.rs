//! A replica that lost its disk comes back: first as one that only listens (Castro & Liskov,
//! OSDI'00 section 4, without the secure coprocessor).
//!
//! It does not know what it promised, so it votes for nothing that it may have voted on before. From
//! what n-f others say it takes bounds on that: a number, two windows above the highest stable
//! checkpoint that is proven; and a view, two above the highest of theirs. Until its own stable
//! checkpoint and its view have passed both it executes what others decided, and counts as faulty.

use alloc::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::engine::Record;
use crate::message::Status;
use crate::service::Service;
use crate::types::{ReplicaId, Seq, View};

use super::Replica;

/// How far a replica that lost its disk has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Recovery {
    /// Its operator says that it lost what it promised.
    Begun,
    /// It may vote when its stable checkpoint is here or further on, in this view or a later one.
    Until(Seq, View),
    /// It votes again.
    Done,
}

/// What a listening replica has heard.
#[derive(Debug, Default)]
pub(super) struct Amnesia {
    /// The views of those whose word on their checkpoint is proven.
    heard: BTreeMap<ReplicaId, View>,
    pub(super) until: Option<(Seq, View)>,
}

impl<S: Service> Replica<S> {
    /// Whether this replica may vote, propose, suspect and move: not while it does not know what
    /// it promised.
    pub(super) fn may_vote(&self) -> bool {
        self.amnesia.is_none()
    }

    pub(super) fn replay_recovery(&mut self, recovery: Recovery) {
        self.amnesia = match recovery {
            Recovery::Begun => Some(Amnesia::default()),
            Recovery::Until(seq, view) => {
                Some(Amnesia { until: Some((seq, view)), heard: BTreeMap::new() })
            }
            Recovery::Done => None,
        };
    }

    /// Up to which number others are to go on, be it with nothing, so that this one may vote.
    pub(super) fn awaited(&self) -> Option<Seq> {
        let (seq, _) = self.amnesia.as_ref()?.until?;
        (self.log.low() < seq).then_some(seq)
    }

    /// Another replica says where it is. Its word counts once its checkpoint and its view are
    /// proven here, so that no liar can keep this replica listening for ever.
    pub(super) fn listen(&mut self, from: ReplicaId, status: &Status) {
        let ahead = self.checkpoints.ahead.first().map_or(Seq(0), |claim| claim.seq);
        let proven = self.log.low().max(ahead);
        let Some(amnesia) = self.amnesia.as_mut().filter(|amnesia| amnesia.until.is_none()) else {
            return;
        };
        if status.stable > proven || status.view > self.view.next() {
            return;
        }
        amnesia.heard.insert(from, status.view);
        if amnesia.heard.len() < self.cluster.n() - self.cluster.f() {
            return;
        }
        // A vote was at most a window above a checkpoint that was stable then, a correct replica
        // is at most a window above one that is proven; and whoever promised a view alone was one
        // ahead of the others.
        let last = amnesia.heard.values().copied().max().unwrap_or_default();
        let until = (Seq(proven.0 + 2 * self.cluster.window), last.next().next());
        amnesia.until = Some(until);
        // What it may have executed, and answered reads from, lies below as well.
        self.barrier = until.0;
        self.append(Record::Recovery(Recovery::Until(until.0, until.1)));
    }

    /// Votes again when both bounds are passed.
    pub(super) fn try_awake(&mut self) {
        let Some((seq, view)) = self.amnesia.as_ref().and_then(|amnesia| amnesia.until) else {
            return;
        };
        if self.log.low() < seq || self.view < view || !self.views.active {
            return;
        }
        self.amnesia = None;
        self.append(Record::Recovery(Recovery::Done));
        self.adopt_choice();
        let open: alloc::vec::Vec<Seq> = self.log.iter().map(|(seq, _)| seq).collect();
        open.into_iter().for_each(|seq| self.try_accept(seq));
        self.execute_ready();
    }
}
