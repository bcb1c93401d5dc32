//! Bounds: on agreed time and on memory.

use bftfs_proto::config::{
    ACCEPTED_PER_SEQ_MAX, BATCH_REQUESTS_MAX, CLIENT_PENDING_REQUESTS_MAX, Cluster,
    FETCH_BLOCKS_MAX, RESULT_BYTES_MAX, TIME_BOUND_NANOS,
};
use bftfs_proto::replica::Sizes;
use bftfs_proto::types::{ReplicaId, Seq, Wall};

use super::{History, Violation};

/// Claims of checkpoints that a replica keeps of one other.
const CLAIMS_EACH: usize = 4;
/// Bytes of large answers that a replica keeps.
const ANSWERS_BYTES: usize = 64 << 20;

impl History {
    /// I15 (section 6.2): a batch that a correct replica accepts is not further ahead of the
    /// fastest correct clock than the bound.
    ///
    /// # Errors
    /// The violation.
    pub fn time(&self, id: ReplicaId, proposed: Wall, fastest: Wall) -> Result<(), Violation> {
        if proposed.0 <= fastest.0.saturating_add(TIME_BOUND_NANOS) {
            Ok(())
        } else {
            Err(format!("I15: {id:?} accepted {proposed:?}, the fastest clock shows {fastest:?}"))
        }
    }

    /// I12 (no memory without bound): whatever others say, a replica holds no more than follows
    /// from the window, the size of a batch, the quota of a client and the size of the cluster.
    ///
    /// # Errors
    /// The violation.
    pub fn memory(
        &self,
        id: ReplicaId,
        cluster: &Cluster,
        stable: Seq,
        held: &Sizes,
    ) -> Result<(), Violation> {
        // After a restart from an older checkpoint there is also what the own journal holds.
        let behind = self.behind(id, stable);
        let window = usize::try_from(cluster.window).unwrap_or(usize::MAX);
        let slots = 2 * window + behind;
        let ordered = slots * BATCH_REQUESTS_MAX;
        // What a batch waits for is taken in beyond the quota.
        let pending = CLIENT_PENDING_REQUESTS_MAX + window * BATCH_REQUESTS_MAX;
        let bound = Sizes {
            slots,
            bodies: cluster.clients.len() * pending + ordered * ACCEPTED_PER_SEQ_MAX,
            pending,
            wants: ordered + slots + FETCH_BLOCKS_MAX + 1,
            blocked: ordered,
            claims: cluster.n() * CLAIMS_EACH + slots,
            view_changes: cluster.n(),
            answers_bytes: ANSWERS_BYTES + RESULT_BYTES_MAX,
        };
        let within = held.slots <= bound.slots
            && held.bodies <= bound.bodies
            && held.pending <= bound.pending
            && held.wants <= bound.wants
            && held.blocked <= bound.blocked
            && held.claims <= bound.claims
            && held.view_changes <= bound.view_changes
            && held.answers_bytes <= bound.answers_bytes;
        if within {
            Ok(())
        } else {
            Err(format!("I12: {id:?} holds {held:?}, more than {bound:?}"))
        }
    }
}
