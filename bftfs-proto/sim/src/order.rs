//! The order that replicas decided on, spelled out once more from the decided batches: which
//! request is executed, at what agreed time, in which session (`docs/protocol.md`, rules).
//!
//! It shares no code with the replica's own session table, so each is a check of the other.

use std::collections::{BTreeMap, BTreeSet};

use bftfs_proto::config::{CLIENT_SESSIONS_MAX, SESSION_NANOS};
use bftfs_proto::message::{Batch, Body, Request};
use bftfs_proto::service::Context;
use bftfs_proto::types::{ClientId, SessionId, SlotIndex, Wall};
use bytes::Bytes;

/// The most by which a batch moves the sessions' clock, in nanoseconds.
const STEP_NANOS: u64 = 1_000_000_000;

/// Something that happened to the service.
#[derive(Clone, Debug)]
pub enum Step {
    /// An operation was executed.
    Operation(Context, Bytes),
    /// A session ended.
    Closed(SessionId),
}

/// All that happened to the service, in order.
#[derive(Clone, Debug)]
pub struct Order {
    /// The steps.
    pub steps: Vec<Step>,
    /// Clients whose operations need not have been asked for by the workload: Byzantine ones.
    pub strangers: BTreeSet<ClientId>,
    sessions: BTreeMap<SessionId, Session>,
    opened: u64,
    time: Wall,
    /// How long a session may go unused, in nanoseconds.
    patience: u64,
    /// What the sessions' clock shows, in nanoseconds.
    clock: u64,
}

impl Default for Order {
    fn default() -> Self {
        Self::new(SESSION_NANOS)
    }
}

#[derive(Clone, Debug)]
struct Session {
    client: ClientId,
    nonce: u64,
    /// By the sessions' clock.
    active: u64,
    last: BTreeMap<SlotIndex, u64>,
}

impl Order {
    /// Nothing has happened yet; a session may go unused for `patience` nanoseconds.
    #[must_use]
    pub fn new(patience: u64) -> Self {
        Self {
            steps: Vec::new(),
            strangers: BTreeSet::new(),
            sessions: BTreeMap::new(),
            opened: 0,
            time: Wall(0),
            patience,
            clock: 0,
        }
    }

    /// Appends what a batch did. Operation k of it takes place k nanoseconds after the proposed
    /// time, or after any before if that was later (OSDI'99 section 6.2).
    pub fn append(&mut self, batch: &Batch, requests: &[Request]) {
        let first = batch.time.max(Wall(self.time.0 + 1));
        self.expire(first.0 - self.time.0);
        self.time = Wall(first.0 + requests.len() as u64);
        for (k, request) in (0..).zip(requests) {
            self.execute(request, Wall(first.0 + k));
        }
    }

    /// Ninety times in a session's patience, those that went unused for longer are closed. The
    /// sessions' clock stands still but for a second while nothing is decided.
    fn expire(&mut self, passed: u64) {
        let (before, stride) = (self.clock, self.patience / 90);
        self.clock += passed.min(STEP_NANOS);
        if before / stride != self.clock / stride {
            let unused = |session: &Session| self.clock - session.active > self.patience;
            let unused = self.sessions.iter().filter(|(_, session)| unused(session));
            let unused: Vec<SessionId> = unused.map(|(id, _)| *id).collect();
            unused.into_iter().for_each(|id| self.close(id));
        }
    }

    fn execute(&mut self, request: &Request, time: Wall) {
        let client = request.client;
        match &request.body {
            Body::Open(nonce) => self.open(client, *nonce),
            Body::Operation(id, slot, number, operation) => {
                let (clock, grain) = (self.clock, self.patience / 9);
                if let Some(session) = self.next(client, *id, *slot, *number) {
                    session.last.insert(*slot, *number);
                    if clock - session.active > grain {
                        session.active = clock;
                    }
                    let context = Context { client, session: *id, time };
                    self.steps.push(Step::Operation(context, operation.clone()));
                }
            }
            Body::Close(id, slot, number) => {
                if self.next(client, *id, *slot, *number).is_some() {
                    self.close(*id);
                }
            }
        }
    }

    /// The session, if this is the next request of a slot of it: each is executed at most once.
    fn next(
        &mut self,
        client: ClientId,
        id: SessionId,
        slot: SlotIndex,
        number: u64,
    ) -> Option<&mut Session> {
        let session = self.sessions.get_mut(&id).filter(|session| session.client == client)?;
        let last = session.last.get(&slot).copied().unwrap_or(0);
        (number == last + 1).then_some(session)
    }

    fn open(&mut self, client: ClientId, nonce: u64) {
        let mine = || self.sessions.iter().filter(|(_, session)| session.client == client);
        if mine().any(|(_, session)| session.nonce == nonce) {
            return;
        }
        if mine().count() >= CLIENT_SESSIONS_MAX {
            let idle = mine().min_by_key(|(id, session)| (session.active, **id)).map(|(id, _)| *id);
            idle.into_iter().for_each(|id| self.close(id));
        }
        self.opened += 1;
        let session = Session { client, nonce, active: self.clock, last: BTreeMap::new() };
        self.sessions.insert(SessionId(self.opened), session);
    }

    fn close(&mut self, id: SessionId) {
        self.sessions.remove(&id);
        self.steps.push(Step::Closed(id));
    }
}
