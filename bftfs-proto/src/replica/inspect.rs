//! What checkers ask of a replica after every step, cheaply.

use crate::service::Service;
use crate::types::{Seq, View};

use super::Replica;

/// How much a replica holds of what others can make it hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Numbers that something is known of.
    pub slots: usize,
    /// Requests with their bodies, executed ones until their checkpoint is stable.
    pub bodies: usize,
    /// Requests of one client that are not executed: of the one that has most.
    pub pending: usize,
    /// Things asked for.
    pub wants: usize,
    /// Bodies that batches wait for.
    pub blocked: usize,
    /// Claims of checkpoints that are not stable.
    pub claims: usize,
    /// View-changes.
    pub view_changes: usize,
    /// Bytes of large answers.
    pub answers_bytes: usize,
}

impl<S: Service> Replica<S> {
    /// Its view, or the one that it promised to move to.
    #[must_use]
    pub fn view(&self) -> View {
        self.view
    }

    /// Whether that view has begun for it.
    #[must_use]
    pub fn is_active(&self) -> bool {
        self.views.active
    }

    /// Its last stable checkpoint.
    #[must_use]
    pub fn stable(&self) -> Seq {
        self.log.low()
    }

    /// Whether it lost its disk and does not vote yet.
    #[must_use]
    pub fn is_listening(&self) -> bool {
        self.amnesia.is_some()
    }

    /// Whether it fetches state.
    #[must_use]
    pub fn is_transferring(&self) -> bool {
        self.transfer.is_some()
    }

    /// Whether it found that its state differs from a quorum's.
    #[must_use]
    pub fn is_diverged(&self) -> bool {
        self.diverged
    }

    /// How much it holds.
    #[must_use]
    pub fn sizes(&self) -> Sizes {
        Sizes {
            slots: self.log.iter().count(),
            bodies: self.pool.len(),
            pending: self.pool.most_pending(),
            wants: self.wants.len(),
            blocked: self.blocked.len(),
            claims: self.checkpoints.claims(),
            view_changes: self.views.changes(),
            answers_bytes: self.answers.bytes(),
        }
    }
}
