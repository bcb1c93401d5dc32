//! The replicated state: the session table and the service's tree, and how a request changes them.
//!
//! The session table holds, per slot, the number and the answer of its last request. It is part of
//! the checkpoint, so that a replica that skipped an execution by state transfer can still answer,
//! and so that nothing is ever executed twice (OSDI'99 section 4.1; at-most-once).

use alloc::sync::Arc;
use alloc::vec::Vec;

use bftfs_state::{Digest, Snapshot, Source, Tree};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::codec;
use crate::config::{CLIENT_SESSIONS_MAX, RESULT_CACHED_BYTES_MAX, SESSION_STEP_NANOS};
use crate::engine::Snapshots;
use crate::message::{Answer, Body, Request, StateRoot, Tag};
use crate::service::{Context, Nudge, Service};
use crate::types::{ClientId, Seq, SessionId, SlotIndex, Wall};

/// A session's time of last use may be stale by this part of the time after which it is closed, so
/// that not every request rewrites it.
const ACTIVITY_GRAIN_PART: u64 = 9;
/// In how many steps of that time sessions are looked at.
const EXPIRY_PART: u64 = 90;

/// A session, under `[0, id]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Session {
    client: ClientId,
    nonce: u64,
    /// When it was used last, by the sessions' clock.
    active: Wall,
}

/// The last request of a slot, under `[1, session, slot]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Last {
    number: u64,
    kept: Kept,
}

/// What is kept of an answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Kept {
    /// All of it.
    Whole(Answer),
    /// Its digest: it was too large for the session table.
    Digest(Digest),
}

/// Where a request stands with the session table.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It is the next of its slot, or opens a session that does not exist.
    Fresh,
    /// It was executed last in its slot.
    Executed(Kept),
    /// It cannot be executed: this is the answer.
    Refused(Answer),
}

/// Everything that a checkpoint covers. The session table is all in memory; it is asked at every
/// turn, and has at most a few MiB for each client.
#[derive(Debug)]
pub(super) struct State<S> {
    service: S,
    sessions: Tree,
    tree: Tree,
    executed: Seq,
    time: Wall,
    /// How long a session may go unused.
    patience: u64,
    /// Whom the operations since [`Self::begin`] are to nudge.
    nudges: Vec<Nudge>,
}

/// A state to go back to.
#[derive(Debug)]
pub(super) struct Mark {
    sessions: Tree,
    tree: Tree,
    executed: Seq,
    time: Wall,
}

impl<S: Service> State<S> {
    /// Remembers the state as it is, in constant time.
    pub(super) fn mark(&self) -> Mark {
        let (sessions, tree) = (self.sessions.clone(), self.tree.clone());
        Mark { sessions, tree, executed: self.executed, time: self.time }
    }

    /// Makes undone what was executed since.
    pub(super) fn undo(&mut self, mark: Mark) {
        self.sessions = mark.sessions;
        self.tree = mark.tree;
        self.executed = mark.executed;
        self.time = mark.time;
    }

    pub(super) fn genesis(service: S, patience: u64, source: &Arc<dyn Source>) -> Self {
        let mut tree = Tree::over(source.clone());
        service.genesis(&mut tree);
        let (sessions, executed, time) = (Tree::new(), Seq(0), Wall(0));
        Self { service, sessions, tree, executed, time, patience, nudges: Vec::new() }
    }

    pub(super) fn load(
        service: S,
        patience: u64,
        root: &StateRoot,
        sessions: Tree,
        tree: Tree,
    ) -> Self {
        let (executed, time, nudges) = (root.seq, root.time, Vec::new());
        Self { service, sessions, tree, executed, time, patience, nudges }
    }

    /// Replaces everything by a state that was fetched and checked.
    pub(super) fn install(&mut self, root: &StateRoot, sessions: Tree, tree: Tree) {
        assert!(root.seq > self.executed, "state transfer only goes forward");
        self.sessions = sessions;
        self.tree = tree;
        self.executed = root.seq;
        self.time = root.time;
    }

    /// The block that an operation needed and that is not to be had, since this was asked last.
    pub(super) fn missed(&self) -> Option<Digest> {
        self.tree.missed()
    }

    /// The last sequence number executed.
    pub(super) fn executed(&self) -> Seq {
        self.executed
    }

    /// The service's tree.
    pub(super) fn tree(&self) -> &Tree {
        &self.tree
    }

    /// Begins the execution of the batch `seq` and returns the agreed time of its first request:
    /// the larger of the proposed time and one more than any before (OSDI'99 section 6.2).
    pub(super) fn begin(&mut self, seq: Seq, proposed: Wall, requests: usize) -> Wall {
        assert!(seq == self.executed.next(), "batches are executed in order, without gaps");
        let first = Wall(proposed.0.max(self.time.0.saturating_add(1)));
        self.nudges.clear();
        self.age_sessions(first);
        self.executed = seq;
        self.time = Wall(first.0.saturating_add(requests as u64));
        first
    }

    /// Moves the sessions' clock on to the time of a batch, and closes those that went unused.
    ///
    /// That clock runs with agreed time, but no batch moves it by much: while the cluster is down
    /// no client can use its session.
    fn age_sessions(&mut self, now: Wall) {
        let before = self.sessions_clock();
        let step = now.0.saturating_sub(self.time.0).min(SESSION_STEP_NANOS);
        let after = Wall(before.0.saturating_add(step));
        self.sessions.insert(&[4], codec::encode(&after));
        let stride = (self.patience / EXPIRY_PART).max(1);
        if before.0 / stride == after.0 / stride {
            return;
        }
        let unused = |session: &Session| after.0.saturating_sub(session.active.0) > self.patience;
        let table = self.sessions.prefix(&[0]);
        let all = table.filter_map(|(key, record)| {
            let session: Session = codec::decode(&record.read()).ok()?;
            unused(&session).then(|| key.last_chunk().copied().map(u64::from_be_bytes))?
        });
        let ids: Vec<SessionId> = all.map(SessionId).collect();
        ids.into_iter().for_each(|id| self.close(id, now));
    }

    /// What the sessions' clock shows. In a state that was begun without one: the agreed time.
    fn sessions_clock(&self) -> Wall {
        let kept = self.sessions.get(&[4]).and_then(|bytes| codec::decode(&bytes).ok());
        kept.unwrap_or(self.time)
    }

    /// Answers an operation that changes nothing, unless a block is missing.
    pub(super) fn query(
        &self,
        client: ClientId,
        session: SessionId,
        operation: &Bytes,
    ) -> Result<Answer, Digest> {
        let context = Context { client, session, time: self.time };
        let result = self.service.query(&self.tree, &context, operation);
        let answer = result.map_or(Answer::NotRead, Answer::Result);
        self.missed().map_or(Ok(answer), Err)
    }

    /// Where `request` stands, without changing anything.
    pub(super) fn standing(&self, request: &Request) -> Standing {
        match &request.body {
            Body::Open(nonce) => match self.session_opened_by(request.client, *nonce) {
                Some(session) => Standing::Executed(Kept::Whole(Answer::Opened(session))),
                None => Standing::Fresh,
            },
            Body::Operation(session, slot, number, _) | Body::Close(session, slot, number) => {
                self.standing_in_slot(request.client, *session, *slot, *number)
            }
        }
    }

    /// Whether `request` was executed, or never will be because a later one of its slot was.
    pub(super) fn is_done(&self, request: &Request) -> bool {
        match self.standing(request) {
            Standing::Executed(_) | Standing::Refused(Answer::Forgotten) => true,
            Standing::Fresh | Standing::Refused(_) => false,
        }
    }

    /// Whether the session of `request` was closed. One that is not there may still be opened; its
    /// number tells which.
    pub(super) fn is_over(&self, request: &Request) -> bool {
        let (Body::Operation(id, ..) | Body::Close(id, ..)) = &request.body else { return false };
        id.0 <= self.sessions_opened() && self.session(*id).is_none()
    }

    /// How many sessions there ever were. They are numbered from 1.
    fn sessions_opened(&self) -> u64 {
        let counter = self.sessions.get(&[3]).and_then(|bytes| codec::decode(&bytes).ok());
        counter.unwrap_or(0)
    }

    /// The whole answer to the last request of a slot, if it was small enough to be kept.
    pub(super) fn kept(&self, client: ClientId, tag: Tag) -> Option<Answer> {
        let Tag::Ordered(session, slot, number) = tag else { return None };
        match self.standing_in_slot(client, session, slot, number) {
            Standing::Executed(Kept::Whole(answer)) => Some(answer),
            Standing::Executed(Kept::Digest(_)) | Standing::Fresh | Standing::Refused(_) => None,
        }
    }

    fn standing_in_slot(
        &self,
        client: ClientId,
        session: SessionId,
        slot: SlotIndex,
        number: u64,
    ) -> Standing {
        if self.session(session).is_none_or(|s| s.client != client) {
            return Standing::Refused(Answer::NoSession);
        }
        let last = self.last(session, slot);
        let done = last.as_ref().map_or(0, |last| last.number);
        match last {
            Some(last) if number == done => Standing::Executed(last.kept),
            _ if number == done.saturating_add(1) => Standing::Fresh,
            _ if number <= done => Standing::Refused(Answer::Forgotten),
            _ => Standing::Refused(Answer::OutOfOrder),
        }
    }

    /// Executes `request` at `time`; `None` if it was executed before.
    pub(super) fn execute(
        &mut self,
        cluster: &Digest,
        request: &Request,
        time: Wall,
    ) -> Option<Answer> {
        match self.standing(request) {
            Standing::Executed(_) => None,
            Standing::Refused(answer) => Some(answer),
            Standing::Fresh => Some(self.execute_fresh(cluster, request, time)),
        }
    }

    fn execute_fresh(&mut self, cluster: &Digest, request: &Request, time: Wall) -> Answer {
        match &request.body {
            Body::Open(nonce) => Answer::Opened(self.open(request.client, *nonce, time)),
            Body::Close(session, ..) => {
                self.close(*session, time);
                Answer::Closed
            }
            Body::Operation(session, slot, number, operation) => {
                let context = Context { client: request.client, session: *session, time };
                let result =
                    self.service.execute(&mut self.tree, &context, operation, &mut self.nudges);
                let answer = Answer::Result(result);
                self.touch(*session);
                let kept = if answer.bytes() <= RESULT_CACHED_BYTES_MAX {
                    Kept::Whole(answer.clone())
                } else {
                    Kept::Digest(answer.digest(cluster))
                };
                let last = Last { number: *number, kept };
                self.sessions.insert(&slot_key(*session, *slot), codec::encode(&last));
                answer
            }
        }
    }

    /// Whom the last batch nudges: the client, its session, and what about.
    pub(super) fn nudged(&mut self) -> Vec<(ClientId, Nudge)> {
        let nudges = core::mem::take(&mut self.nudges);
        let client = |nudge: &Nudge| Some(self.session(nudge.session)?.client);
        nudges.into_iter().filter_map(|nudge| Some((client(&nudge)?, nudge))).collect()
    }

    fn open(&mut self, client: ClientId, nonce: u64, time: Wall) -> SessionId {
        let mine = self.sessions_of(client);
        if mine.len() >= CLIENT_SESSIONS_MAX {
            let idle = mine.iter().min_by_key(|(id, session)| (session.active, *id));
            if let Some((id, _)) = idle {
                self.close(*id, time);
            }
        }
        let id = self.sessions_opened() + 1;
        self.sessions.insert(&[3], codec::encode(&id));
        let session = Session { client, nonce, active: self.sessions_clock() };
        self.sessions.insert(&session_key(SessionId(id)), codec::encode(&session));
        self.sessions.insert(&client_key(client, SessionId(id)), Vec::new());
        SessionId(id)
    }

    fn close(&mut self, id: SessionId, time: Wall) {
        let Some(session) = self.session(id) else { return };
        self.sessions.remove(&session_key(id));
        self.sessions.remove(&client_key(session.client, id));
        let slots = tagged(1, &[&id.0.to_be_bytes()]);
        let keys: Vec<Vec<u8>> = self.sessions.prefix(&slots).map(|(key, _)| key.into()).collect();
        keys.iter().for_each(|key| {
            self.sessions.remove(key);
        });
        self.service.session_closed(&mut self.tree, id, time, &mut self.nudges);
    }

    fn touch(&mut self, id: SessionId) {
        let Some(mut session) = self.session(id) else { return };
        let clock = self.sessions_clock();
        if clock.0.saturating_sub(session.active.0) > self.patience / ACTIVITY_GRAIN_PART {
            session.active = clock;
            self.sessions.insert(&session_key(id), codec::encode(&session));
        }
    }

    fn session(&self, id: SessionId) -> Option<Session> {
        codec::decode(&self.sessions.get(&session_key(id))?).ok()
    }

    fn last(&self, session: SessionId, slot: SlotIndex) -> Option<Last> {
        codec::decode(&self.sessions.get(&slot_key(session, slot))?).ok()
    }

    fn sessions_of(&self, client: ClientId) -> Vec<(SessionId, Session)> {
        let prefix = tagged(2, &[&client.0.to_be_bytes()]);
        let id = |key: &[u8]| key.last_chunk().map(|bytes| SessionId(u64::from_be_bytes(*bytes)));
        let ids = self.sessions.prefix(&prefix).filter_map(|(key, _)| id(key));
        ids.filter_map(|id| Some((id, self.session(id)?))).collect()
    }

    fn session_opened_by(&self, client: ClientId, nonce: u64) -> Option<SessionId> {
        let sessions = self.sessions_of(client);
        sessions.into_iter().find(|(_, session)| session.nonce == nonce).map(|(id, _)| id)
    }

    /// Computes the digest of the state and freezes it. Costs what changed since the last time.
    pub(super) fn seal(&mut self) -> Snapshots {
        let (mut sessions, mut service) = (self.sessions.seal(), self.tree.seal());
        let root = StateRoot {
            seq: self.executed,
            time: self.time,
            sessions: sessions.root,
            service: service.root,
        };
        sessions.added.append(&mut service.added);
        sessions.freed.append(&mut service.freed);
        Snapshots {
            root,
            trees: self.snapshots(),
            added: sessions.added,
            freed: sessions.freed,
            rewrite: false,
        }
    }

    /// Both trees as they were sealed.
    pub(super) fn snapshots(&self) -> [Snapshot; 2] {
        [self.sessions.snapshot(), self.tree.snapshot()]
    }

    /// The digest of the state, computed from nothing: what the incremental one must equal.
    pub(super) fn digest_from_scratch(&self, cluster: &Digest) -> Digest {
        StateRoot {
            seq: self.executed,
            time: self.time,
            sessions: self.sessions.digest_from_scratch(),
            service: self.tree.digest_from_scratch(),
        }
        .digest(cluster)
    }
}

fn tagged(table: u8, parts: &[&[u8]]) -> Vec<u8> {
    let mut key = Vec::with_capacity(24);
    key.push(table);
    parts.iter().for_each(|part| key.extend_from_slice(part));
    key
}

fn session_key(id: SessionId) -> Vec<u8> {
    tagged(0, &[&id.0.to_be_bytes()])
}

fn slot_key(session: SessionId, slot: SlotIndex) -> Vec<u8> {
    tagged(1, &[&session.0.to_be_bytes(), &slot.0.to_be_bytes()])
}

fn client_key(client: ClientId, session: SessionId) -> Vec<u8> {
    tagged(2, &[&client.0.to_be_bytes(), &session.0.to_be_bytes()])
}
