//! Request bodies: held from their arrival until the checkpoint after their execution is stable.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;

use bftfs_state::Digest;

use crate::auth::Reject;
use crate::config::{
    BATCH_BYTES_MAX, BATCH_REQUESTS_MAX, CLIENT_PENDING_BYTES_MAX, CLIENT_PENDING_REQUESTS_MAX,
};
use crate::message::Request;
use crate::types::{ClientId, Seq};

/// A body and what is known of it.
#[derive(Debug)]
pub(super) struct Body {
    pub(super) request: Request,
    /// The signature was checked: it may be proposed and shown to others.
    pub(super) verified: bool,
    /// The last sequence number it was ordered under.
    ordered: Option<Seq>,
}

/// The requests of one client that are not ordered yet, oldest first.
#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Digest>,
    count: usize,
    bytes: usize,
}

/// All bodies, and per client the queue of those to be proposed.
#[derive(Debug, Default)]
pub(super) struct Pool {
    bodies: BTreeMap<Digest, Body>,
    queues: BTreeMap<ClientId, Queue>,
    /// The client that was served last: the next batch begins after it.
    turn: ClientId,
}

impl Pool {
    pub(super) fn get(&self, digest: &Digest) -> Option<&Body> {
        self.bodies.get(digest)
    }

    /// Requests that wait to be ordered.
    pub(super) fn waiting(&self) -> usize {
        self.queues.values().map(|queue| queue.count).sum()
    }

    /// Takes in a body that is authentic to this replica.
    pub(super) fn add(
        &mut self,
        digest: Digest,
        request: Request,
        verified: bool,
    ) -> Result<(), Reject> {
        if let Some(body) = self.bodies.get_mut(&digest) {
            body.verified |= verified;
            return Err(Reject::Stale);
        }
        let queue = self.queues.entry(request.client).or_default();
        let bytes = request.bytes();
        if queue.count >= CLIENT_PENDING_REQUESTS_MAX
            || queue.bytes + bytes > CLIENT_PENDING_BYTES_MAX
        {
            return Err(Reject::Quota);
        }
        queue.count += 1;
        queue.bytes += bytes;
        queue.waiting.push_back(digest);
        self.bodies.insert(digest, Body { request, verified, ordered: None });
        Ok(())
    }

    /// Puts back a body that this replica accepted before a crash, under `seq`.
    pub(super) fn restore(&mut self, digest: Digest, request: Request, seq: Seq) {
        self.bodies.insert(digest, Body { request, verified: true, ordered: Some(seq) });
    }

    /// The body was put into a batch: it waits no longer and stays until `seq` is stable.
    pub(super) fn order(&mut self, digest: &Digest, seq: Seq) {
        let Some(body) = self.bodies.get_mut(digest) else { return };
        if body.ordered.is_none() {
            Self::leave(&mut self.queues, &body.request);
        }
        body.ordered = Some(body.ordered.map_or(seq, |before| before.max(seq)));
    }

    /// Forgets a body that proved to be no request, or that was executed already.
    pub(super) fn discard(&mut self, digest: &Digest) {
        if let Some(body) = self.bodies.remove(digest)
            && body.ordered.is_none()
        {
            Self::leave(&mut self.queues, &body.request);
        }
    }

    /// Forgets bodies of a batch whose checkpoint is stable.
    pub(super) fn release(&mut self, digests: &[Digest], stable: Seq) {
        for digest in digests {
            let done = |body: &Body| body.ordered.is_some_and(|seq| seq <= stable);
            if self.bodies.get(digest).is_some_and(done) {
                self.bodies.remove(digest);
            }
        }
    }

    /// The next batch: clients in turn, each at most a quarter of it while others wait.
    ///
    /// `admit` is asked once per request, before it is taken: the primary checks signatures here.
    pub(super) fn next_batch(
        &mut self,
        mut admit: impl FnMut(&Request, bool) -> bool,
    ) -> Vec<Digest> {
        let mut batch = Vec::new();
        let mut bytes = 0;
        let clients = self.clients_in_turn();
        let share = if clients.len() > 1 { BATCH_REQUESTS_MAX / 4 } else { BATCH_REQUESTS_MAX };
        for client in clients {
            let mut taken = 0;
            while taken < share && batch.len() < BATCH_REQUESTS_MAX {
                let Some(digest) = self.peek(client) else { break };
                let Some(body) = self.bodies.get(&digest) else { break };
                if !batch.is_empty() && bytes + body.request.bytes() > BATCH_BYTES_MAX {
                    return batch;
                }
                self.pop(client);
                let Some(body) = self.bodies.get_mut(&digest) else { break };
                if admit(&body.request, body.verified) {
                    body.verified = true;
                    bytes += body.request.bytes();
                    batch.push(digest);
                    taken += 1;
                    self.turn = client;
                } else {
                    self.discard(&digest);
                }
            }
        }
        batch
    }

    fn clients_in_turn(&self) -> Vec<ClientId> {
        let waiting = |id: &&ClientId| self.queues.get(*id).is_some_and(|q| q.count > 0);
        let after = self.queues.keys().filter(|id| **id > self.turn).filter(waiting);
        let before = self.queues.keys().filter(|id| **id <= self.turn).filter(waiting);
        after.chain(before).copied().collect()
    }

    /// The oldest waiting request of `client`, dropping those that were ordered meanwhile.
    fn peek(&mut self, client: ClientId) -> Option<Digest> {
        let queue = self.queues.get_mut(&client)?;
        while let Some(digest) = queue.waiting.front() {
            if self.bodies.get(digest).is_some_and(|body| body.ordered.is_none()) {
                return Some(*digest);
            }
            queue.waiting.pop_front();
        }
        None
    }

    fn pop(&mut self, client: ClientId) {
        if let Some(queue) = self.queues.get_mut(&client) {
            queue.waiting.pop_front();
        }
    }

    fn leave(queues: &mut BTreeMap<ClientId, Queue>, request: &Request) {
        if let Some(queue) = queues.get_mut(&request.client) {
            queue.count -= 1;
            queue.bytes -= request.bytes();
        }
    }

    /// Forgets waiting requests that were executed elsewhere.
    pub(super) fn discard_if(&mut self, executed: impl Fn(&Request) -> bool) {
        let done = |(digest, body): (&Digest, &Body)| {
            (body.ordered.is_none() && executed(&body.request)).then_some(*digest)
        };
        let done: Vec<Digest> = self.bodies.iter().filter_map(done).collect();
        done.iter().for_each(|digest| self.discard(digest));
    }

    /// Backups never pop their queues: they shed what was ordered from time to time.
    pub(super) fn shed(&mut self) {
        let bodies = &self.bodies;
        for queue in self.queues.values_mut() {
            queue.waiting.retain(|d| bodies.get(d).is_some_and(|body| body.ordered.is_none()));
        }
    }
}
