//! What is replicated: a deterministic function over a tree. It knows nothing of agreement.

use alloc::vec::Vec;

use bftfs_state::Tree;
use bytes::Bytes;

use crate::types::{ClientId, SessionId, Wall};

/// Under what circumstances an operation is executed. Equal on all replicas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Context {
    /// Who signed the request.
    pub client: ClientId,
    /// The session it came in.
    pub session: SessionId,
    /// The agreed time, strictly later for every operation. In a query: the time of the last one.
    pub time: Wall,
}

/// A word to a session that what it waits for may have come, so that it asks at once.
///
/// It is no part of the agreed state and may be lost: whoever waits asks from time to time anyway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nudge {
    /// Whom it is for.
    pub session: SessionId,
    /// What it is about, as the service and its clients understand it; at most
    /// [`crate::config::NUDGE_BYTES_MAX`] bytes.
    pub about: Bytes,
}

/// A service: all of its state is in the tree that it is handed.
///
/// Everything must be a function of its arguments: no clock, randomness, float, hash-map order or
/// local limit. A malformed operation gets a result that says so, the same on every replica.
pub trait Service {
    /// Writes the state of a new cluster into an empty tree.
    fn genesis(&self, state: &mut Tree);

    /// Executes an ordered operation and returns its result, at most
    /// [`crate::config::RESULT_BYTES_MAX`] bytes. Adds whom to nudge to `nudges`.
    fn execute(
        &self,
        state: &mut Tree,
        context: &Context,
        operation: &Bytes,
        nudges: &mut Vec<Nudge>,
    ) -> Bytes;

    /// Answers an operation that changes nothing; `None` if this one would change something.
    /// The replica decides this from the operation and the state, whatever the client claims
    /// (OSDI'99, 5.1).
    fn query(&self, state: &Tree, context: &Context, operation: &Bytes) -> Option<Bytes>;

    /// A session ended: lets go of all that it held. Adds whom to nudge to `nudges`.
    fn session_closed(
        &self,
        state: &mut Tree,
        session: SessionId,
        time: Wall,
        nudges: &mut Vec<Nudge>,
    );
}
