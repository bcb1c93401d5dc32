//! What every liar knows: who it is, its own key, and where its inner replica stands.

use bftfs_proto::Digest;
use bftfs_proto::auth::Signer;
use bftfs_proto::config::Cluster;
use bftfs_proto::message::{Batch, Message, ViewChange};
use bftfs_proto::types::{Now, ReplicaId, Seq, View};
use fastrand::Rng;

use crate::Said;

/// Most that a liar has on its mind to say at the next occasion.
const WHISPERS_MAX: usize = 1024;

/// A liar's knowledge.
#[derive(Debug)]
pub(crate) struct Mind {
    pub(crate) cluster: Cluster,
    pub(crate) me: ReplicaId,
    pub(crate) signer: Signer,
    pub(crate) rng: Rng,
    pub(crate) now: Now,
    /// The inner replica's view.
    pub(crate) view: View,
    /// Its last stable checkpoint.
    pub(crate) stable: Seq,
    /// What it executed last.
    pub(crate) executed: Seq,
    /// What is said at the next occasion.
    pub(crate) whispers: Vec<Said>,
    /// Splits the others into two halves of which none is empty, if there are two.
    split: u32,
}

impl Mind {
    pub(crate) fn new(cluster: Cluster, me: ReplicaId, signer: Signer, seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let split = rng.u32(..);
        let now = Now::default();
        let (view, stable, executed) = (View(0), Seq(0), Seq(0));
        let whispers = Vec::new();
        Self { cluster, me, signer, rng, now, view, stable, executed, whispers, split }
    }

    /// Learns from what the inner replica says where it stands.
    pub(crate) fn notice(&mut self, message: &Message) {
        match message {
            Message::Status(status) => {
                self.view = self.view.max(status.view);
                self.stable = status.stable;
                self.executed = status.executed;
            }
            Message::Prepare(vote) | Message::Commit(vote) => self.view = self.view.max(vote.view),
            Message::ViewChange(change) => self.view = self.view.max(change.view),
            _ => {}
        }
    }

    pub(crate) fn others(&self) -> impl Iterator<Item = ReplicaId> + use<> {
        let me = self.me;
        self.cluster.ids().filter(move |id| *id != me)
    }

    /// One of the other replicas.
    pub(crate) fn someone(&mut self) -> ReplicaId {
        let others: Vec<ReplicaId> = self.others().collect();
        self.rng.choice(others).unwrap_or(self.me)
    }

    /// Whether `id` is in the second half of the others.
    pub(crate) fn in_second_half(&self, id: ReplicaId) -> bool {
        let n = u32::try_from(self.cluster.n()).unwrap_or(u32::MAX).max(1);
        let place = (id.0 + n - self.me.0) % n;
        // Places 1 and 2 are always apart; the others as the seed has it.
        if place <= 2 { place == 2 } else { self.split >> (place % 32) & 1 == 1 }
    }

    /// Happens once in `k` times.
    pub(crate) fn once_in(&mut self, k: u32) -> bool {
        self.rng.u32(0..k) == 0
    }

    pub(crate) fn digest(&mut self) -> Digest {
        let mut bytes = [0; 32];
        self.rng.fill(&mut bytes);
        Digest(bytes)
    }

    /// A key that is nobody's.
    pub(crate) fn false_signer(&mut self) -> Signer {
        Signer::from_seed(&self.digest().0)
    }

    pub(crate) fn null(&self) -> Digest {
        Batch::null().digest(&self.cluster.id)
    }

    pub(crate) fn is_primary(&self, view: View) -> bool {
        self.cluster.primary(view) == self.me
    }

    /// Says this at the next occasion.
    pub(crate) fn whisper(&mut self, to: ReplicaId, message: Message) {
        if self.whispers.len() < WHISPERS_MAX {
            self.whispers.push(Said::now(to, message));
        }
    }

    /// A view-change of its own that admits to nothing.
    pub(crate) fn blank_view_change(&self, view: View) -> ViewChange {
        ViewChange {
            replica: self.me,
            view,
            stable: Seq(0),
            certificate: Vec::new(),
            prepared: Vec::new(),
            accepted: Vec::new(),
            signature: bftfs_proto::auth::Signature::NONE,
        }
        .sign(&self.cluster.id, &self.signer)
    }
}
