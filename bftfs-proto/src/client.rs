//! The client: sends requests to all replicas and believes what a quorum of them answers.
//!
//! Ordered requests go in the slots of a session, one outstanding in each; a fast read needs no
//! slot. Both need q matching answers: with fast reads about, w would let a read miss a write that
//! was acknowledged (`docs/protocol.md`, reads).

mod calls;
mod tally;

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;

use crate::auth::{Signature, Signer, Verified};
use crate::config::{Cluster, OPERATION_BYTES_MAX, SESSION_SLOTS};
use crate::engine::To;
use crate::message::{Answer, Body, Message, Read, Reply, Request, Tag};
use crate::types::{ClientId, Mono, Now, Principal, ReplicaId, SessionId, SlotIndex};

use calls::{Call, Calls};

/// How an operation is to be carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// Ordered among all others.
    Ordered,
    /// Answered by a quorum of replicas without ordering; ordered if they do not agree.
    Read,
}

/// What can happen to a client.
#[derive(Debug)]
pub enum ClientInput {
    /// The user wants an operation done.
    Submit {
        /// The user's name for it.
        ticket: u64,
        /// The operation.
        operation: Bytes,
        /// Ordered or read.
        how: How,
        /// When the user stops waiting.
        deadline: Mono,
    },
    /// A checked message arrived from a replica.
    Message(ReplicaId, Verified<Message>),
    /// The time that `poll_timeout` asked for has come.
    Timeout,
    /// A link to this replica came up: what is outstanding is sent on it again.
    Connected(ReplicaId),
}

/// What a client asks of the world.
#[derive(Debug)]
pub enum ClientOutput {
    /// Send this.
    Send {
        /// To whom.
        to: To,
        /// What.
        message: Message,
    },
    /// What this session waits for may have come: one correct replica says so.
    Nudge {
        /// What it is about, in the words of the service.
        about: Bytes,
    },
    /// An operation is done, or given up.
    Complete {
        /// The user's name for it.
        ticket: u64,
        /// The service's result.
        result: Result<Bytes, Failure>,
    },
}

/// Why an operation has no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// No quorum answered in time. An ordered operation may still be carried out.
    #[error("no quorum of replicas answered in time")]
    Deadline,
    /// The session was closed by the replicas. An ordered operation may have been carried out.
    #[error("the session was closed by the replicas")]
    SessionLost,
    /// The result was not kept and the operation cannot be repeated.
    #[error("the replicas no longer keep the result")]
    ResultLost,
    /// So many replicas refuse the client that no quorum can answer it. An ordered operation may
    /// have been carried out.
    #[error("the replicas refuse this client: it is not known to them, or its access was revoked")]
    Refused,
    /// The operation is larger than any may be.
    #[error("the operation is too large")]
    TooLarge,
}

/// A pause before a request is sent again, in nanoseconds; doubles up to [`RETRY_NANOS_MAX`].
const RETRY_NANOS: u64 = 500_000_000;
/// The longest such pause.
const RETRY_NANOS_MAX: u64 = 4_000_000_000;
/// How long a read may stay undecided before it is ordered, in nanoseconds.
const READ_NANOS: u64 = 100_000_000;
/// How long the designated replier may keep the client waiting for a large answer that the others
/// agree on, in nanoseconds.
const REPLIER_NANOS: u64 = 20_000_000;

/// How often all are asked for the whole of an answer that a quorum agrees on before it counts as
/// lost. Large ones are in memory only: after a power cut nobody may have it any more.
const ASKS_MAX: u32 = 4;

/// Nudges that too few replicas sent as yet. When there are more, all are forgotten.
const NUDGES_MAX: usize = 1024;

/// What a client did, for people and for benchmarks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClientStats {
    /// Ordered operations completed.
    pub ordered: u64,
    /// Fast reads completed as such.
    pub reads: u64,
    /// Fast reads that had to be ordered.
    pub fallbacks: u64,
    /// Messages sent again.
    pub retries: u64,
    /// Nudges believed.
    pub nudges: u64,
}

/// A client of the cluster. Step it with `handle`, then drain `poll_output`.
#[derive(Debug)]
pub struct Client {
    cluster: Cluster,
    me: ClientId,
    signer: Signer,
    nonce: u64,
    session: Option<SessionId>,
    /// The number of each slot's last request, and whether it is free.
    slots: BTreeMap<SlotIndex, (u64, bool)>,
    /// Ordered operations that wait for a slot.
    queue: VecDeque<Call>,
    calls: Calls,
    next_read: u64,
    next_replier: u32,
    /// How often in a row a replica failed to send the answer it was to send.
    failings: BTreeMap<ReplicaId, u32>,
    /// Who nudged, and what about, as long as too few did.
    nudges: BTreeMap<Bytes, BTreeSet<ReplicaId>>,
    outputs: VecDeque<ClientOutput>,
    stats: ClientStats,
    now: Mono,
}

impl Client {
    /// A client that opens a session at once. `nonce` is to be random: a session of another mount
    /// that picked the same would be shared with it.
    #[must_use]
    pub fn new(cluster: Cluster, me: ClientId, signer: Signer, nonce: u64, now: Now) -> Self {
        let mut client = Self {
            cluster,
            me,
            signer,
            nonce,
            session: None,
            slots: BTreeMap::new(),
            queue: VecDeque::new(),
            calls: Calls::default(),
            next_read: 1,
            next_replier: 0,
            failings: BTreeMap::new(),
            nudges: BTreeMap::new(),
            outputs: VecDeque::new(),
            stats: ClientStats::default(),
            now: now.mono,
        };
        client.open_session();
        client
    }

    /// Takes one input. Never fails and never blocks; drain [`Self::poll_output`] afterwards.
    pub fn handle(&mut self, now: Now, input: ClientInput) {
        self.now = now.mono;
        match input {
            ClientInput::Submit { ticket, operation, how, deadline } => {
                self.on_submit(ticket, operation, how, deadline);
            }
            ClientInput::Message(from, message) => match message.into_inner() {
                Message::Reply(reply) => self.on_reply(from, reply),
                Message::Nudge(session, about) => self.on_nudge(from, session, about),
                _ => {}
            },
            ClientInput::Timeout => self.on_timeout(),
            ClientInput::Connected(replica) => self.on_connected(replica),
        }
    }

    /// The next output, in order. Drain to `None` before the next input.
    pub fn poll_output(&mut self) -> Option<ClientOutput> {
        self.outputs.pop_front()
    }

    /// When [`ClientInput::Timeout`] is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Mono> {
        let queued = self.queue.iter().filter_map(|call| call.deadline);
        queued.chain(self.calls.due()).min()
    }

    /// The session, once a quorum opened it.
    #[must_use]
    pub fn session(&self) -> Option<SessionId> {
        self.session
    }

    /// What this client did so far.
    #[must_use]
    pub fn stats(&self) -> ClientStats {
        self.stats
    }

    fn open_session(&mut self) {
        self.session = None;
        self.slots.clear();
        let request = self.request(Body::Open(self.nonce));
        self.start(Call::opening(Tag::Open(self.nonce), Message::Request(request), self.now));
    }

    fn on_submit(&mut self, ticket: u64, operation: Bytes, how: How, deadline: Mono) {
        if operation.len() > OPERATION_BYTES_MAX {
            self.complete(ticket, Err(Failure::TooLarge));
            return;
        }
        let call = Call::new(ticket, operation, deadline, self.now);
        match (how, self.session) {
            (How::Read, Some(session)) => self.start_read(call, session),
            (How::Ordered, _) | (How::Read, None) => {
                self.queue.push_back(call);
                self.fill_slots();
            }
        }
    }

    fn start_read(&mut self, mut call: Call, session: SessionId) {
        let number = self.next_read;
        self.next_read += 1;
        let replier = self.pick_replier();
        let operation = call.operation.clone();
        call.sent(
            Tag::Read(session, number),
            Message::Read(Read { session, number, operation, replier }),
        );
        call.retry_at = self.now.after(READ_NANOS);
        self.start(call);
    }

    /// Sends queued operations while slots are free.
    fn fill_slots(&mut self) {
        while let Some(session) = self.session
            && let Some(slot) = self.free_slot()
            && let Some(mut call) = self.queue.pop_front()
        {
            let last = self.slots.entry(slot).or_insert((0, true));
            *last = (last.0 + 1, false);
            let number = last.0;
            let operation = call.operation.clone();
            let request = self.request(Body::Operation(session, slot, number, operation));
            call.sent(Tag::Ordered(session, slot, number), Message::Request(request));
            call.retry_at = self.now.after(RETRY_NANOS);
            self.start(call);
        }
    }

    fn free_slot(&self) -> Option<SlotIndex> {
        let free = |slot: &SlotIndex| self.slots.get(slot).is_none_or(|(_, free)| *free);
        (0..SESSION_SLOTS).map(SlotIndex).find(free)
    }

    fn request(&mut self, body: Body) -> Request {
        let replier = self.pick_replier();
        let mut request = Request { client: self.me, body, signature: Signature::NONE, replier };
        // A cluster of one has nobody to convince of what its client told it.
        if self.cluster.n() > 1 {
            request.signature = self.signer.sign(&request.digest(&self.cluster.id));
        }
        request
    }

    /// The replicas in turn, but for those that failed of late to send what they were to send.
    fn pick_replier(&mut self) -> ReplicaId {
        let least = |id: &ReplicaId| self.failings.get(id).copied().unwrap_or(0);
        let best = self.cluster.ids().map(|id| least(&id)).min().unwrap_or(0);
        let n = u32::try_from(self.cluster.n()).unwrap_or(u32::MAX);
        let turn = (1..=n).map(|step| ReplicaId((self.next_replier + step) % n));
        let pick = turn.into_iter().find(|id| least(id) == best).unwrap_or(ReplicaId(0));
        self.next_replier = pick.0;
        pick
    }

    fn start(&mut self, call: Call) {
        self.outputs
            .push_back(ClientOutput::Send { to: To::Replicas, message: call.message.clone() });
        self.calls.insert(call);
    }

    fn on_reply(&mut self, from: ReplicaId, reply: Reply) {
        if from.0 as usize >= self.cluster.n() {
            return;
        }
        let Some(call) = self.calls.get_mut(&reply.tag) else { return };
        let whole = reply.answer.filter(|a| a.digest(&self.cluster.id) == reply.digest);
        let brought = whole.is_some();
        call.tally.add(from, reply.digest, whole);
        if brought && call.replier() == Some(from) {
            self.failings.remove(&from);
        }
        self.conclude(reply.tag);
    }

    /// Believed from w replicas, so that no liar makes anybody ask in vain all the time. What the
    /// others say of it may make it believed once more. Mounts may share a certificate, and then
    /// may hear each other's.
    fn on_nudge(&mut self, from: ReplicaId, session: SessionId, about: Bytes) {
        if from.0 as usize >= self.cluster.n() || self.session != Some(session) {
            return;
        }
        let by = self.nudges.entry(about.clone()).or_default();
        by.insert(from);
        if by.len() >= self.cluster.weak() {
            self.nudges.remove(&about);
            self.stats.nudges += 1;
            self.outputs.push_back(ClientOutput::Nudge { about });
        }
        if self.nudges.len() > NUDGES_MAX {
            self.nudges.clear();
        }
    }

    /// Completes the call if a quorum agrees and the answer is here; otherwise sees to it that one
    /// of both happens.
    fn conclude(&mut self, tag: Tag) {
        let (n, quorum) = (self.cluster.n(), self.cluster.quorum());
        let Some(call) = self.calls.get_mut(&tag) else { return };
        let Some((digest, answer)) = call.tally.agreed(quorum) else {
            // All have answered and no quorum agrees: a write came between. Order the read.
            if matches!(tag, Tag::Read(..)) && !call.tally.may_agree(n, quorum) {
                self.fall_back(tag);
            }
            return;
        };
        match answer {
            Some(answer) => self.finish(tag, answer),
            None if call.agreed.is_none() => {
                call.agreed = Some(digest);
                call.retry_at = call.retry_at.min(self.now.after(REPLIER_NANOS));
                self.calls.reschedule(tag);
            }
            None => {}
        }
    }

    fn finish(&mut self, tag: Tag, answer: Answer) {
        let Some(call) = self.calls.remove(&tag) else { return };
        match (tag, answer) {
            (Tag::Open(_), Answer::Opened(session)) => self.session = Some(session),
            (Tag::Read(..), Answer::Result(result)) => {
                self.stats.reads += 1;
                self.complete_call(&call, Ok(result));
            }
            // Not a read after all, or no such session: the ordered path says which.
            (Tag::Read(..), _) => {
                self.calls.insert(call);
                self.fall_back(tag);
            }
            (Tag::Ordered(_, slot, _), answer) => self.finish_ordered(&call, slot, answer),
            (Tag::Open(_), _) => self.open_session(),
        }
        self.fill_slots();
    }

    fn finish_ordered(&mut self, call: &Call, slot: SlotIndex, answer: Answer) {
        if let Some((_, free)) = self.slots.get_mut(&slot) {
            *free = true;
        }
        match answer {
            Answer::Result(result) => {
                self.stats.ordered += 1;
                self.complete_call(call, Ok(result));
            }
            Answer::NoSession => {
                self.complete_call(call, Err(Failure::SessionLost));
                self.lose_session();
            }
            _ => self.complete_call(call, Err(Failure::ResultLost)),
        }
    }

    /// The replicas closed the session. What was under way in it may have been carried out, so it
    /// is not sent again under a new one: that could do it twice.
    fn lose_session(&mut self) {
        for call in self.calls.drain_ordered() {
            self.complete_call(&call, Err(Failure::SessionLost));
        }
        self.nonce = self.nonce.wrapping_add(1);
        self.open_session();
    }

    fn fall_back(&mut self, tag: Tag) {
        if let Some(mut call) = self.calls.remove(&tag) {
            self.stats.fallbacks += 1;
            call.reset();
            self.queue.push_back(call);
            self.fill_slots();
        }
    }

    fn complete_call(&mut self, call: &Call, result: Result<Bytes, Failure>) {
        if let Some(ticket) = call.ticket {
            self.complete(ticket, result);
        }
    }

    fn complete(&mut self, ticket: u64, result: Result<Bytes, Failure>) {
        self.outputs.push_back(ClientOutput::Complete { ticket, result });
    }

    fn on_timeout(&mut self) {
        for ticket in self.calls.expire(self.now) {
            self.complete(ticket, Err(Failure::Deadline));
        }
        let now = self.now;
        let expired = |call: &Call| call.deadline.is_some_and(|deadline| deadline <= now);
        while let Some(at) = self.queue.iter().position(expired) {
            if let Some(ticket) = self.queue.remove(at).and_then(|call| call.ticket) {
                self.complete(ticket, Err(Failure::Deadline));
            }
        }
        while let Some(tag) = self.calls.next_due(now) {
            self.retry(tag);
        }
    }

    /// A call that is not done in time: asks all for the whole answer if it is only that which is
    /// missing; orders a read; sends a request again.
    fn retry(&mut self, tag: Tag) {
        self.stats.retries += 1;
        let Some(call) = self.calls.get_mut(&tag) else { return };
        if call.agreed.is_some() {
            call.asks += 1;
            if let Some(replier) = call.replier() {
                let failings = self.failings.entry(replier).or_default();
                *failings = (*failings + 1).min(8);
            }
        }
        match tag {
            Tag::Read(..) => self.fall_back(tag),
            Tag::Ordered(..) if call.asks > ASKS_MAX => self.finish(tag, Answer::Forgotten),
            Tag::Ordered(..) | Tag::Open(_) => {
                let message = match call.agreed {
                    Some(_) => Message::Ask(tag),
                    None => call.message.clone(),
                };
                call.pause = call.pause.saturating_mul(2).clamp(RETRY_NANOS, RETRY_NANOS_MAX);
                call.retry_at = self.now.after(call.pause);
                self.calls.reschedule(tag);
                self.outputs.push_back(ClientOutput::Send { to: To::Replicas, message });
            }
        }
    }

    fn on_connected(&mut self, replica: ReplicaId) {
        let to = To::One(Principal::Replica(replica));
        for message in self.calls.messages() {
            self.outputs.push_back(ClientOutput::Send { to, message });
        }
    }
}
