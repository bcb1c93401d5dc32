//! Request bodies: held from their arrival until the checkpoint after their execution is stable.

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::vec::Vec;

use bftfs_state::Digest;

use crate::auth::Reject;
use crate::config::{
    BATCH_BYTES_MAX, BATCH_REQUESTS_MAX, CLIENT_PENDING_BYTES_MAX, CLIENT_PENDING_REQUESTS_MAX,
};
use crate::message::Request;
use crate::types::{ClientId, Mono, Seq};

/// How far a request has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// It is to be proposed.
    Waiting,
    /// It is in a batch that this replica stands by in the present view.
    Ordered,
    /// It was executed, or proved to have been before.
    Executed,
}

/// A body and what is known of it.
#[derive(Debug)]
pub(super) struct Body {
    pub(super) request: Request,
    /// The signature was checked: it may be proposed and shown to others.
    pub(super) verified: bool,
    /// When it came.
    since: Mono,
    /// Since when the primary of the present view has it, as far as this replica knows.
    shown: Option<Mono>,
    stage: Stage,
    /// The last sequence number it was ordered under: it stays until that is stable.
    held: Option<Seq>,
}

impl Body {
    /// Whether it is still to be proposed.
    pub(super) fn is_waiting(&self) -> bool {
        self.stage == Stage::Waiting
    }

    /// For how long the primary has had it and could have proposed it, which it could from `free`
    /// on. What it was not shown it need not have.
    pub(super) fn waited(&self, free: Mono, now: Mono) -> u64 {
        self.shown.map_or(0, |since| now.0.saturating_sub(since.max(free).0))
    }

    /// The same as if its client had sent it to the primary, too.
    pub(super) fn lay(&self, free: Mono, now: Mono) -> u64 {
        now.0.saturating_sub(self.since.max(free).0)
    }

    /// Whether the primary was shown it.
    pub(super) fn is_shown(&self) -> bool {
        self.shown.is_some()
    }
}

/// Requests of a client that are shown to the primary as they come, once it overlooked one. Twice
/// as many each time it does so again, up to [`HERALDED_MAX`].
const HERALDED_MIN: u32 = 64;
/// See [`HERALDED_MIN`].
const HERALDED_MAX: u32 = 2048;
/// Bytes of a request up to which it is.
const HERALDED_BYTES_MAX: usize = 16 << 10;

/// The requests of one client that are not ordered yet, oldest first.
#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Digest>,
    count: usize,
    bytes: usize,
    /// The batch that held a request of this client last, or that was executed last when the
    /// client began to wait.
    served: Seq,
    /// How many requests of this client are still to be shown to the primary as they come.
    heralded: u32,
    /// How many they were last, less one for each that was served in time without.
    distrust: u32,
}

/// A request that the primary has and does not serve.
#[derive(Clone, Copy, Debug)]
pub(super) struct Owed {
    pub(super) digest: Digest,
    /// When it was shown to the primary.
    pub(super) since: Mono,
}

/// All bodies, and per client the queue of those to be proposed.
#[derive(Debug, Default)]
pub(super) struct Pool {
    bodies: BTreeMap<Digest, Body>,
    /// What is not executed, by its time of arrival.
    pending: BTreeSet<(Mono, Digest)>,
    /// Of that, what the primary has, by when it was shown. A client may have sent the rest to
    /// backups only: it says nothing about the primary.
    shown: BTreeSet<(Mono, Digest)>,
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

    /// All bodies that are held.
    pub(super) fn len(&self) -> usize {
        self.bodies.len()
    }

    /// Of the client with most requests to be proposed, how many.
    pub(super) fn most_pending(&self) -> usize {
        self.queues.values().map(|queue| queue.count).max().unwrap_or(0)
    }

    /// Whether there is nothing to be executed.
    pub(super) fn is_idle(&self) -> bool {
        self.pending.is_empty()
    }

    /// The request that the primary has had longest.
    pub(super) fn owed(&self) -> Option<Owed> {
        let (since, digest) = *self.shown.first()?;
        Some(Owed { digest, since })
    }

    /// From now on the primary has this request.
    pub(super) fn show(&mut self, digest: &Digest, now: Mono) {
        let Some(body) = self.bodies.get_mut(digest) else { return };
        if body.shown.is_none() && body.stage != Stage::Executed {
            body.shown = Some(now);
            self.shown.insert((now, *digest));
        }
    }

    /// The primary did not serve this client until it was shown what waits, though it could have:
    /// its next requests are shown to it at once. So a primary that does not hear a client, and a
    /// client that does not speak to its primary, cost the others a message and no time.
    pub(super) fn herald(&mut self, client: ClientId) {
        if let Some(queue) = self.queues.get_mut(&client) {
            queue.distrust = (2 * queue.distrust).clamp(HERALDED_MIN, HERALDED_MAX);
            queue.heralded = queue.distrust;
        }
    }

    /// The primary served this client in time by itself.
    pub(super) fn trust(&mut self, client: ClientId) {
        if let Some(queue) = self.queues.get_mut(&client) {
            queue.distrust = queue.distrust.saturating_sub(1);
        }
    }

    /// Whether this request, which just came, is to be shown to the primary at once.
    pub(super) fn is_heralded(&mut self, digest: &Digest) -> bool {
        let Some(body) = self.bodies.get(digest).filter(|body| body.is_waiting()) else {
            return false;
        };
        let small = body.request.bytes() <= HERALDED_BYTES_MAX;
        let Some(queue) = self.queues.get_mut(&body.request.client).filter(|_| small) else {
            return false;
        };
        let heralded = queue.heralded > 0;
        queue.heralded = queue.heralded.saturating_sub(1);
        heralded
    }

    /// Since which batch this client has not been served.
    pub(super) fn served(&self, client: ClientId) -> Option<Seq> {
        self.queues.get(&client).map(|queue| queue.served)
    }

    /// This request cannot be executed, or not yet: as if it had come now.
    pub(super) fn postpone(&mut self, digest: &Digest, now: Mono) {
        let Some(body) = self.bodies.get_mut(digest) else { return };
        body.shown.take().map(|since| self.shown.remove(&(since, *digest)));
        if self.pending.remove(&(body.since, *digest)) {
            self.pending.insert((now, *digest));
        }
        body.since = now;
    }

    /// What came by `until` and may not be known to the primary: the oldest of each client, and
    /// about `most` in all.
    pub(super) fn unshown(&self, until: Mono, most: usize) -> Vec<Digest> {
        let clients = self.queues.values().filter(|queue| queue.count > 0).count();
        let share = (most / clients.max(1)).max(1);
        let mut taken: BTreeMap<ClientId, usize> = BTreeMap::new();
        let late = self.pending.iter().take_while(|(since, _)| *since <= until);
        let unshown = late.filter_map(|(_, digest)| {
            let body = self.bodies.get(digest).filter(|body| body.shown.is_none())?;
            let taken = taken.entry(body.request.client).or_default();
            *taken += 1;
            (*taken <= share).then_some(*digest)
        });
        unshown.take(most).collect()
    }

    /// A signature was found to be good.
    pub(super) fn mark_verified(&mut self, digest: &Digest) {
        if let Some(body) = self.bodies.get_mut(digest) {
            body.verified = true;
        }
    }

    /// Of the client that has waited for the most batches: since which one, and its oldest request,
    /// if the primary has that.
    pub(super) fn neglected(&mut self) -> Option<(Seq, Owed)> {
        let waiting = self.queues.iter().filter(|(_, queue)| queue.count > 0);
        let (served, client) = waiting.map(|(id, queue)| (queue.served, *id)).min()?;
        let digest = self.peek(client)?;
        let since = self.bodies.get(&digest)?.shown?;
        Some((served, Owed { digest, since }))
    }

    /// Whether the client is within its quota with this request.
    pub(super) fn has_room(&self, request: &Request) -> bool {
        self.queues.get(&request.client).is_none_or(|queue| {
            queue.count < CLIENT_PENDING_REQUESTS_MAX
                && queue.bytes + request.bytes() <= CLIENT_PENDING_BYTES_MAX
        })
    }

    /// Takes in a body that is authentic to this replica, when `executed` was executed last. One that
    /// was checked takes the place of one that was not: a client may show the same request with
    /// different signatures.
    pub(super) fn add(
        &mut self,
        digest: Digest,
        request: Request,
        verified: bool,
        now: Mono,
        executed: Seq,
    ) -> Result<(), Reject> {
        if let Some(body) = self.bodies.get_mut(&digest) {
            if verified && !body.verified {
                body.request = request;
                body.verified = true;
            }
            return Err(Reject::Stale);
        }
        let queue = self.queues.entry(request.client).or_default();
        let bytes = request.bytes();
        if queue.count == 0 {
            queue.served = queue.served.max(executed);
        }
        queue.enter(digest, bytes);
        self.pending.insert((now, digest));
        let (since, shown, stage, held) = (now, None, Stage::Waiting, None);
        self.bodies.insert(digest, Body { request, verified, since, shown, stage, held });
        Ok(())
    }

    /// Puts back a body that this replica accepted before a crash, under `seq`.
    pub(super) fn restore(&mut self, digest: Digest, request: Request, seq: Seq, now: Mono) {
        let held = self.bodies.get(&digest).and_then(|body| body.held).max(Some(seq));
        let (since, shown, stage) = (now, None, Stage::Ordered);
        self.pending.insert((now, digest));
        // Whether it was checked before the crash is not known.
        let verified = false;
        self.bodies.insert(digest, Body { request, verified, since, shown, stage, held });
    }

    /// The body was put into a batch: it waits no longer and stays until `seq` is stable.
    pub(super) fn order(&mut self, digest: &Digest, seq: Seq) {
        let Some(body) = self.bodies.get_mut(digest) else { return };
        if body.stage == Stage::Waiting {
            leave(&mut self.queues, &body.request);
            body.stage = Stage::Ordered;
        }
        if let Some(queue) = self.queues.get_mut(&body.request.client) {
            queue.served = queue.served.max(seq);
        }
        body.held = body.held.max(Some(seq));
    }

    /// The body was executed: nobody waits for it any more.
    pub(super) fn executed(&mut self, digest: &Digest) {
        let Some(body) = self.bodies.get_mut(digest) else { return };
        if body.stage == Stage::Waiting {
            leave(&mut self.queues, &body.request);
        }
        body.stage = Stage::Executed;
        self.pending.remove(&(body.since, *digest));
        body.shown.take().map(|since| self.shown.remove(&(since, *digest)));
    }

    /// A new view begins: what was ordered in an earlier one and not executed waits again, in the
    /// order it came. Its primary was shown nothing yet.
    pub(super) fn requeue(&mut self) {
        self.shown.clear();
        let queues = &mut self.queues;
        for queue in queues.values_mut() {
            queue.waiting.clear();
            (queue.heralded, queue.distrust) = (0, 0);
        }
        for (_, digest) in &self.pending {
            let Some(body) = self.bodies.get_mut(digest) else { continue };
            body.shown = None;
            let queue = queues.entry(body.request.client).or_default();
            if body.stage == Stage::Waiting {
                queue.waiting.push_back(*digest);
            } else {
                body.stage = Stage::Waiting;
                queue.enter(*digest, body.request.bytes());
            }
        }
    }

    /// Nobody waits any more for a body that proved to be no request, or that was executed already.
    /// It is forgotten, unless a batch has it that this replica stands by: a client may show its
    /// request signed to the primary and unsigned to all others, and then the primary's disk may
    /// be lost. Those who accepted the batch are the only ones that still have the body.
    pub(super) fn discard(&mut self, digest: &Digest) {
        self.executed(digest);
        if self.bodies.get(digest).is_some_and(|body| body.held.is_none()) {
            self.bodies.remove(digest);
        }
    }

    /// Forgets bodies whose checkpoint is stable. What was not executed waits on.
    pub(super) fn release(&mut self, stable: Seq) {
        let needed = |body: &Body| body.held.is_some_and(|seq| seq > stable);
        self.bodies.retain(|_, body| body.stage != Stage::Executed || needed(body));
    }

    /// The next batch: clients in turn, each at most its share of it while others wait, a quarter
    /// at most.
    ///
    /// `admit` is asked once per request, before it is taken: the primary checks signatures here.
    pub(super) fn next_batch(
        &mut self,
        mut admit: impl FnMut(&Request, bool) -> bool,
    ) -> Vec<Digest> {
        let mut batch = Vec::new();
        let mut bytes = 0;
        let clients = self.clients_in_turn();
        let share = match clients.len() {
            0 | 1 => BATCH_REQUESTS_MAX,
            several => (BATCH_REQUESTS_MAX / several.max(4)).max(1),
        };
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
            if self.bodies.get(digest).is_some_and(|body| body.stage == Stage::Waiting) {
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

    /// Forgets requests that were executed elsewhere.
    pub(super) fn discard_if(&mut self, done: impl Fn(&Request) -> bool) {
        self.pending_that(done).iter().for_each(|digest| self.discard(digest));
    }

    /// Waits no longer for requests that were executed; their bodies stay for those who lag.
    pub(super) fn settle(&mut self, done: impl Fn(&Request) -> bool) {
        self.pending_that(done).iter().for_each(|digest| self.executed(digest));
    }

    /// The requests that wait to be executed.
    pub(super) fn pending(&self) -> impl Iterator<Item = &Request> {
        let bodies = self.pending.iter().filter_map(|(_, digest)| self.bodies.get(digest));
        bodies.map(|body| &body.request)
    }

    fn pending_that(&self, done: impl Fn(&Request) -> bool) -> Vec<Digest> {
        let is_done =
            |digest: &Digest| self.bodies.get(digest).is_none_or(|body| done(&body.request));
        self.pending.iter().map(|(_, digest)| *digest).filter(is_done).collect()
    }

    /// Backups never pop their queues: they shed what was ordered from time to time.
    pub(super) fn shed(&mut self) {
        let bodies = &self.bodies;
        let waits =
            |digest: &Digest| bodies.get(digest).is_some_and(|body| body.stage == Stage::Waiting);
        self.queues.values_mut().for_each(|queue| queue.waiting.retain(waits));
    }
}

impl Queue {
    fn enter(&mut self, digest: Digest, bytes: usize) {
        self.waiting.push_back(digest);
        self.count += 1;
        self.bytes += bytes;
    }
}

fn leave(queues: &mut BTreeMap<ClientId, Queue>, request: &Request) {
    if let Some(queue) = queues.get_mut(&request.client) {
        queue.count -= 1;
        queue.bytes -= request.bytes();
    }
}
