//! A block of this replica's own state is damaged or lost. It is asked of the others like one of a
//! state transfer; meanwhile nothing that needs it is executed, and all else goes on. If the others
//! no longer have it, their next stable state replaces this one.

use alloc::collections::BTreeSet;

use bftfs_state::{Block, Digest, is_block};
use bytes::Bytes;

use crate::auth::Reject;
use crate::message::Fetch;
use crate::service::Service;

use super::{Fault, Replica};

/// Blocks that are asked for at once. Whoever finds more damage tells later.
const LACKING_MAX: usize = 32;
/// How often a block is asked for that nothing waits for: some seconds. Then it may be one
/// that no state needs any more; whoever finds that one does tells again.
const ATTEMPTS_MAX: u32 = 6;

/// What is to be repaired.
#[derive(Debug, Default)]
pub(super) struct Repair {
    /// Damaged blocks.
    lacking: BTreeSet<Digest>,
    /// The one that execution waits for.
    pub(super) stalled: Option<Digest>,
    /// Blocks that were made good.
    pub(super) mended: u64,
}

impl Repair {
    /// Another state takes the place of the damaged one.
    pub(super) fn drop_all(&mut self) {
        self.lacking.clear();
        self.stalled = None;
    }

    /// Damaged blocks that are known of.
    pub(super) fn len(&self) -> usize {
        self.lacking.len()
    }
}

impl<S: Service> Replica<S> {
    /// This block is to be brought back.
    pub(super) fn lack(&mut self, digest: Digest) {
        if self.cluster.n() > 1 && self.takes_damage() {
            self.repair.lacking.insert(digest);
            self.want(Fetch::Block(digest));
        }
    }

    /// Whether more damage is taken note of at present.
    #[must_use]
    pub fn takes_damage(&self) -> bool {
        self.repair.lacking.len() < LACKING_MAX
    }

    /// Whether a block was asked for in vain for long enough, or is no longer needed.
    pub(super) fn is_given_up(&mut self, what: &Fetch, attempts: u32) -> bool {
        let Fetch::Block(digest) = what else { return false };
        let fetched = self.transfer.as_ref().is_some_and(|transfer| transfer.misses(digest));
        if attempts < ATTEMPTS_MAX || fetched || self.repair.stalled == Some(*digest) {
            return false;
        }
        self.repair.lacking.remove(digest);
        true
    }

    /// Execution needs this block: it waits.
    pub(super) fn stall_for(&mut self, digest: Digest) {
        self.repair.stalled = Some(digest);
        self.repair.lacking.insert(digest);
        self.want(Fetch::Block(digest));
    }

    /// A block of the own state came back. Used iff it is lacking and has that digest.
    pub(super) fn mend(&mut self, digest: Digest, bytes: Bytes) -> Result<(), Reject> {
        if !self.repair.lacking.contains(&digest) {
            return Err(Reject::Unasked);
        }
        if !is_block(&digest, &bytes) && !self.broken(Fault::AnyBlock) {
            return Err(Reject::Hash);
        }
        self.repair.lacking.remove(&digest);
        self.repair.mended += 1;
        self.wants.remove(&Fetch::Block(digest));
        self.source.keep(&Block { digest, bytes });
        if self.repair.stalled == Some(digest) {
            self.repair.stalled = None;
            self.execute_ready();
        }
        Ok(())
    }
}
