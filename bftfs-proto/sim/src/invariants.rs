//! What must hold after every step, one function a property. The numbers are those of
//! `docs/testing.md`. Each returns what it found wrong.
//!
//! Only correct replicas are judged: what a Byzantine one says of itself proves nothing.

mod bounds;
mod views;
mod votes;

use std::collections::{BTreeMap, BTreeSet};

use bftfs_proto::Digest;
use bftfs_proto::config::Cluster;
use bftfs_proto::message::Batch;
use bftfs_proto::types::{ReplicaId, Seq};

use views::Views;
use votes::Votes;

/// What a checker found.
pub type Violation = String;

/// What all correct replicas were ever seen to do.
#[derive(Debug)]
pub struct History {
    decided: BTreeMap<Seq, Digest>,
    states: BTreeMap<Seq, Digest>,
    executed: BTreeMap<ReplicaId, Seq>,
    /// The digests of all requests that clients sent.
    issued: BTreeSet<Digest>,
    /// The requests of all batches that any correct replica stood by.
    batches: BTreeMap<Digest, Vec<Digest>>,
    votes: Votes,
    views: Views,
}

impl History {
    /// The history of a cluster of which `liars` replicas are not correct.
    #[must_use]
    pub fn new(cluster: &Cluster, liars: usize) -> Self {
        let null = Batch::null();
        Self {
            decided: BTreeMap::new(),
            states: BTreeMap::new(),
            executed: BTreeMap::new(),
            issued: BTreeSet::new(),
            batches: [(null.digest(&cluster.id), null.requests)].into(),
            votes: Votes::new(cluster),
            views: Views::new(cluster, liars),
        }
    }

    /// A client sent this request.
    pub fn issued(&mut self, request: Digest) {
        self.issued.insert(request);
    }

    /// A correct replica stands by this batch.
    pub fn stood_by(&mut self, batch: Digest, requests: &[Digest]) {
        self.batches.entry(batch).or_insert_with(|| requests.to_vec());
    }

    /// I1 (agreement, OSDI'99 section 4.5.1): no two replicas decide differently for one number.
    ///
    /// # Errors
    /// The violation.
    pub fn agreement(&mut self, id: ReplicaId, seq: Seq, digest: Digest) -> Result<(), Violation> {
        let first = *self.decided.entry(seq).or_insert(digest);
        if first == digest {
            self.validity(seq, &digest)
        } else {
            Err(format!("I1: {id:?} decided {digest:?} for {seq:?}, another {first:?}"))
        }
    }

    /// What was decided for a number, if a replica was seen to execute it.
    #[must_use]
    pub fn decided(&self, seq: Seq) -> Option<Digest> {
        self.decided.get(&seq).copied()
    }

    /// The last number that any correct replica decided.
    #[must_use]
    pub fn last(&self) -> Seq {
        self.decided.last_key_value().map_or(Seq(0), |(seq, _)| *seq)
    }

    /// I4 (validity, section 4.1): whatever is executed was asked for by the client in whose name
    /// it is. That nothing is executed twice, the workload's judge sees.
    fn validity(&self, seq: Seq, digest: &Digest) -> Result<(), Violation> {
        let Some(requests) = self.batches.get(digest) else {
            return Err(format!("I4: {seq:?} is decided as {digest:?}, which nobody stood by"));
        };
        match requests.iter().find(|request| !self.issued.contains(*request)) {
            Some(request) => Err(format!("I4: {seq:?} holds {request:?}, which no client sent")),
            None => Ok(()),
        }
    }

    /// I5 (total order, section 4.2): a replica executes in order and undoes nothing while it is
    /// up. `restarted`: its earlier life does not count.
    ///
    /// # Errors
    /// The violation.
    pub fn order(&mut self, id: ReplicaId, seq: Seq, restarted: bool) -> Result<(), Violation> {
        match self.executed.insert(id, seq) {
            Some(last) if last > seq && !restarted => {
                Err(format!("I5: {id:?} had executed {last:?} and now {seq:?}"))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// I7 (section 4.3): equal numbers executed, equal states; and the state's digest is that of
    /// its content.
    ///
    /// # Errors
    /// The violation.
    pub fn equal_states(
        &mut self,
        id: ReplicaId,
        seq: Seq,
        digest: Digest,
    ) -> Result<(), Violation> {
        let first = *self.states.entry(seq).or_insert(digest);
        if first == digest {
            Ok(())
        } else {
            Err(format!("I7: {id:?} has state {digest:?} at {seq:?}, another {first:?}"))
        }
    }
}
