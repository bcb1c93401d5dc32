//! The cluster as every replica knows it, its quorums, and every limit of the protocol.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use bftfs_state::Digest;

use crate::auth::{PublicKey, Reject, Signature};
use crate::types::{ClientId, Principal, ReplicaId, View};

/// Sequence numbers between two checkpoints (K).
pub const CHECKPOINT_INTERVAL_SEQS: u64 = 128;
/// Sequence numbers that may be open above the last stable checkpoint (L).
pub const WINDOW_SEQS: u64 = WINDOW_SLOTS as u64;
/// The same, as a count of what is in memory.
pub const WINDOW_SLOTS: usize = 256;
/// Batches a primary keeps in flight before it lets requests collect into the next.
pub const PIPELINE_BATCHES: u64 = 4;
/// Requests in one batch.
pub const BATCH_REQUESTS_MAX: usize = 256;
/// Bytes of request bodies after which a batch is closed. One larger request still fits alone.
pub const BATCH_BYTES_MAX: usize = 1 << 20;
/// Bytes of one operation, the largest write of the kernel and its header.
pub const OPERATION_BYTES_MAX: usize = (1 << 20) + 4096;
/// Bytes of one result.
pub const RESULT_BYTES_MAX: usize = (1 << 20) + 4096;
/// Bytes of what a nudge is about.
pub const NUDGE_BYTES_MAX: usize = 64;
/// Bytes of one encoded message, without its MAC.
pub const MESSAGE_BYTES_MAX: usize = (1 << 20) + 65536;
/// Results up to this size are sent whole by every replica; larger ones by one, as a digest by others.
pub const RESULT_INLINE_BYTES_MAX: usize = 1024;
/// Results up to this size are kept in the replicated state for a client that asks again.
pub const RESULT_CACHED_BYTES_MAX: usize = 4096;
/// Slots of a session: ordered requests that one mount may have outstanding.
pub const SESSION_SLOTS: u16 = 64;
/// Sessions of one client. Opening one more closes its longest idle one.
pub const CLIENT_SESSIONS_MAX: usize = 16;
/// How long a session may go unused before it is closed, in nanoseconds of agreed time in which the
/// cluster was at work: see [`SESSION_STEP_NANOS`]. As long as the lease of an NFS server on Linux.
pub const SESSION_NANOS: u64 = 90_000_000_000;
/// The most by which one batch ages sessions, in nanoseconds. So an outage, in which no client can
/// use its session, ends none.
pub const SESSION_STEP_NANOS: u64 = 1_000_000_000;
/// Bytes of request bodies not yet executed that a replica holds for one client.
pub const CLIENT_PENDING_BYTES_MAX: usize = 128 << 20;
/// Requests not yet executed that a replica holds for one client.
pub const CLIENT_PENDING_REQUESTS_MAX: usize = 4096;
/// How far a proposed time may lie from a backup's own clock (delta), in nanoseconds.
pub const TIME_BOUND_NANOS: u64 = 2_000_000_000;
/// How far a proposed time may lag behind a backup's own clock, in nanoseconds. Also how long after
/// its start a backup does not mind: what was proposed before an outage must still be voted on.
pub const TIME_LAG_NANOS: u64 = 60_000_000_000;
/// Pause before something missing is asked for, and between two attempts, in nanoseconds.
pub const FETCH_PAUSE_NANOS: u64 = 20_000_000;
/// The same for a piece of state, in nanoseconds: it is read from a disk, and many are on their way
/// at once. Asked for again too early, a state comes twice.
pub const FETCH_BLOCK_PAUSE_NANOS: u64 = 100_000_000;
/// Pieces of state asked for at once.
pub const FETCH_BLOCKS_MAX: usize = 64;
/// Pause between two STATUS messages while something is outstanding.
pub const STATUS_BUSY_NANOS: u64 = 100_000_000;
/// Pause between two STATUS messages of an idle replica.
pub const STATUS_IDLE_NANOS: u64 = 1_000_000_000;
/// Replicas in a cluster: with more, a NEW-VIEW of whole view-changes might not fit a message.
pub const REPLICAS_MAX: usize = 19;
/// Digests that a replica remembers having accepted for one number, each in its latest view. More
/// come about only if views fail one after another; forgetting the oldest can cost a view, never
/// safety (`docs/protocol.md`, view changes).
pub const ACCEPTED_PER_SEQ_MAX: usize = 4;
/// The last view that can be left for. At a million a second it is reached after 10^5 years; only
/// liars name a later one.
pub const VIEW_MAX: View = View(1 << 62);
/// Entries of Q in a view-change.
pub const VIEW_CHANGE_ACCEPTED_MAX: usize = ACCEPTED_PER_SEQ_MAX * WINDOW_SLOTS;
/// How long a request may wait before its replica suspects the primary, at first, in nanoseconds.
pub const VIEW_TIMEOUT_NANOS: u64 = 500_000_000;
/// The longest that this time grows to by doubling with each view that fails, in nanoseconds.
pub const VIEW_TIMEOUT_NANOS_MAX: u64 = 16_000_000_000;

const _: () = assert!(WINDOW_SEQS >= 2 * CHECKPOINT_INTERVAL_SEQS, "a window holds two intervals");
const _: () = assert!(PIPELINE_BATCHES <= CHECKPOINT_INTERVAL_SEQS);
const _: () = assert!(OPERATION_BYTES_MAX + 4096 <= MESSAGE_BYTES_MAX, "a request fits a message");
const _: () = assert!(RESULT_BYTES_MAX + 4096 <= MESSAGE_BYTES_MAX, "a reply fits a message");
/// Bytes of a vote, encoded: two numbers and a digest.
const VOTE_BYTES_MAX: usize = 10 + 10 + 32;
/// Bytes of a signed checkpoint, encoded.
const CHECKPOINT_BYTES_MAX: usize = 5 + 10 + 32 + 64;
/// Bytes of a view-change, encoded.
const VIEW_CHANGE_BYTES_MAX: usize = 128
    + REPLICAS_MAX * CHECKPOINT_BYTES_MAX
    + (WINDOW_SLOTS + VIEW_CHANGE_ACCEPTED_MAX) * VOTE_BYTES_MAX;
/// The quorum of the largest cluster: what a primary puts into its NEW-VIEW.
const QUORUM_MAX: usize = (REPLICAS_MAX + (REPLICAS_MAX - 1) / 3 + 1).div_ceil(2);
const _: () = assert!(
    128 + QUORUM_MAX * VIEW_CHANGE_BYTES_MAX + WINDOW_SLOTS * 32 <= MESSAGE_BYTES_MAX,
    "a new-view fits a message"
);
const _: () = assert!(BATCH_BYTES_MAX <= CLIENT_PENDING_BYTES_MAX);

/// Checks a signature over a digest.
pub type Verify = fn(&PublicKey, &Digest, &Signature) -> Result<(), Reject>;

/// The members of a cluster and their keys.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// Names the cluster in every MAC, signature and digest.
    pub id: Digest,
    /// Each replica's public key, by its index.
    pub replicas: Vec<PublicKey>,
    /// Each known client's public key.
    pub clients: BTreeMap<ClientId, PublicKey>,
    /// Sequence numbers between two checkpoints (K). The simulator makes it small.
    pub checkpoint_interval: u64,
    /// Sequence numbers that may be open above the last stable checkpoint (L), at least 2 K and at
    /// most [`WINDOW_SEQS`].
    pub window: u64,
    /// How long a session may go unused, in nanoseconds. The simulator makes it short.
    pub session_nanos: u64,
    /// How signatures are checked: [`PublicKey::verify`]. The simulator, in which one process is
    /// all members, remembers what was checked.
    pub verify: Verify,
}

impl Cluster {
    /// A cluster with the intervals of this protocol version.
    #[must_use]
    pub fn new(
        id: Digest,
        replicas: Vec<PublicKey>,
        clients: BTreeMap<ClientId, PublicKey>,
    ) -> Self {
        let (checkpoint_interval, window) = (CHECKPOINT_INTERVAL_SEQS, WINDOW_SEQS);
        let (session_nanos, verify) = (SESSION_NANOS, PublicKey::verify);
        Self { id, replicas, clients, checkpoint_interval, window, session_nanos, verify }
    }

    /// Replicas in the cluster (n).
    #[must_use]
    pub fn n(&self) -> usize {
        self.replicas.len()
    }

    /// Faulty replicas that are tolerated (f), the most that n allows.
    #[must_use]
    pub fn f(&self) -> usize {
        self.n().saturating_sub(1) / 3
    }

    /// Replicas of which any two sets share a correct one (q): the ceiling of (n+f+1)/2.
    #[must_use]
    pub fn quorum(&self) -> usize {
        (self.n() + self.f() + 1).div_ceil(2)
    }

    /// Replicas of which at least one is correct (w = f+1).
    #[must_use]
    pub fn weak(&self) -> usize {
        self.f() + 1
    }

    /// The primary of `view` (view mod n).
    #[must_use]
    pub fn primary(&self, view: View) -> ReplicaId {
        let index = view.0 % self.n().max(1) as u64;
        ReplicaId(u32::try_from(index).unwrap_or(0))
    }

    /// Every replica's id, in order.
    pub fn ids(&self) -> impl Iterator<Item = ReplicaId> + use<> {
        (0..u32::try_from(self.n()).unwrap_or(u32::MAX)).map(ReplicaId)
    }

    /// The public key of `principal`, if the cluster knows it.
    #[must_use]
    pub fn key(&self, principal: Principal) -> Option<&PublicKey> {
        match principal {
            Principal::Replica(id) => self.replicas.get(id.0 as usize),
            Principal::Client(id) => self.clients.get(&id),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster(n: usize) -> Cluster {
        let replicas = (0..n).map(|_| PublicKey([0; 32])).collect();
        Cluster::new(Digest::ZERO, replicas, BTreeMap::new())
    }

    #[test]
    fn quorums_intersect_in_a_correct_replica_and_are_available() {
        for n in 1..=REPLICAS_MAX {
            let c = cluster(n);
            assert!(3 * c.f() < n, "n={n}");
            assert!(2 * c.quorum() - n > c.f(), "two quorums share a correct replica, n={n}");
            assert!(c.quorum() <= n - c.f(), "a quorum answers without the faulty, n={n}");
        }
        assert_eq!((cluster(4).f(), cluster(4).quorum(), cluster(4).weak()), (1, 3, 2));
        assert_eq!((cluster(5).f(), cluster(5).quorum()), (1, 4), "2f+1 = 3 would be unsafe");
        assert_eq!((cluster(1).f(), cluster(1).quorum()), (0, 1));
    }
}
