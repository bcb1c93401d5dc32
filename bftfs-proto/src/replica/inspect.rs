//! What checkers ask of a replica after every step, cheaply.

use crate::service::Service;
use crate::types::{Seq, View};

use super::Replica;

impl<S: Service> Replica<S> {
    /// Its view, or the one that it promised to move to.
    #[must_use]
    pub fn view(&self) -> View {
        self.view
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
}
