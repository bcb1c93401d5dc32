//! A client among replicas that may answer anything.

use std::collections::{BTreeMap, BTreeSet};

use bftfs_proto::Digest;
use bftfs_proto::client::{Client, ClientInput, ClientOutput, Failure, How};
use bftfs_proto::codec;
use bftfs_proto::config::{NUDGE_BYTES_MAX, OPERATION_BYTES_MAX};
use bftfs_proto::engine::To;
use bftfs_proto::message::{Answer, Body, Message, Reply, Request, Tag};
use bftfs_proto::types::{Mono, Principal, ReplicaId, SessionId, SlotIndex, View};
use bytes::Bytes;

use crate::cast::{self, at, client, client_signer, cluster, deliver, replica};
use crate::pick::Pick;

const ME: u32 = 1;
const NONCE: u64 = 100;
/// Timeouts after which everything must have been given up.
const TIMEOUTS_MAX: usize = 20_000;

/// A client, what it asked and what it was told.
struct World {
    n: u32,
    client: Client,
    now: u64,
    /// The tags of what it sent, oldest first.
    tags: Vec<Tag>,
    /// The last number in each slot, and the request that had it.
    slots: BTreeMap<(SessionId, SlotIndex), (u64, Digest)>,
    /// What each replica said last.
    said: BTreeMap<Tag, BTreeMap<ReplicaId, Digest>>,
    /// The last deadline of what was submitted.
    patience: u64,
    submitted: u64,
    completed: BTreeSet<u64>,
}

/// Submissions, answers, silence and reconnections in any order.
pub fn run(data: &[u8]) {
    let mut pick = Pick::new(data);
    let n = [4, 1, 7][pick.index(3)];
    let client = Client::new(
        cluster(n).clone(),
        bftfs_proto::types::ClientId(ME),
        client_signer(ME).clone(),
        NONCE,
        at(0),
    );
    let mut world = World {
        n,
        client,
        now: 0,
        tags: Vec::new(),
        slots: BTreeMap::new(),
        said: BTreeMap::new(),
        patience: 0,
        submitted: 0,
        completed: BTreeSet::new(),
    };
    world.drain();
    while !pick.is_empty() {
        world.step(&mut pick);
    }
    world.give_up();
}

impl World {
    fn step(&mut self, pick: &mut Pick<'_>) {
        match pick.below(16) {
            0..=3 => self.submit(pick),
            4..=6 => {
                let from = self.replica(pick);
                let reply = self.reply(pick);
                self.hear(from, &reply);
            }
            7..=10 => {
                let reply = self.reply(pick);
                let silent = if pick.flip() { self.replica(pick) } else { u32::MAX };
                (0..self.n).filter(|id| *id != silent).for_each(|id| self.hear(id, &reply));
            }
            11 => {
                let from = self.replica(pick);
                if let Ok(message) = codec::decode::<Message>(&pick.bytes(64)) {
                    self.hear(from, &message);
                }
            }
            12 => {
                let replica = self.replica(pick);
                self.input(ClientInput::Connected(ReplicaId(replica)));
            }
            13 => self.now = self.now.saturating_add(pick.below(1 << 32)),
            _ => self.tick(),
        }
    }

    fn replica(&self, pick: &mut Pick<'_>) -> u32 {
        u32::try_from(pick.below(u64::from(self.n))).unwrap_or(0)
    }

    fn submit(&mut self, pick: &mut Pick<'_>) {
        let too_large = pick.rarely(64);
        let len = if too_large { OPERATION_BYTES_MAX + 1 } else { pick.index(8) };
        let how = if pick.flip() { How::Read } else { How::Ordered };
        let deadline = self.now.saturating_add(pick.below(1 << 34));
        self.patience = self.patience.max(deadline);
        self.submitted += 1;
        let (ticket, operation) = (self.submitted, vec![pick.byte(); len].into());
        self.input(ClientInput::Submit { ticket, operation, how, deadline: Mono(deadline) });
    }

    /// An answer to something that was asked, as a rule of late.
    fn reply(&self, pick: &mut Pick<'_>) -> Message {
        let recent = self.tags.len().min(8);
        let of =
            if pick.rarely(8) { &self.tags[..] } else { &self.tags[self.tags.len() - recent..] };
        let tag = pick.one(of).copied().unwrap_or(Tag::Open(NONCE));
        let answer = match (pick.byte() % 32, tag) {
            // A new nonce gets a new session, whoever lies about the rest.
            (0..=23, Tag::Open(nonce)) => Answer::Opened(SessionId(nonce)),
            (0..=25, _) => Answer::Result(vec![pick.byte() % 3].into()),
            (26, _) => Answer::Result(vec![1; 2000].into()),
            (27, _) => Answer::NoSession,
            (28, _) => Answer::Forgotten,
            (29, _) => Answer::OutOfOrder,
            (30, _) => Answer::NotRead,
            _ => Answer::Closed,
        };
        let mut digest = answer.digest(&cast::id());
        if pick.rarely(16) {
            digest.0[0] ^= 1;
        }
        let whole = !pick.rarely(4);
        Message::Reply(Reply { tag, view: View(0), digest, answer: whole.then_some(answer) })
    }

    fn hear(&mut self, from: u32, message: &Message) {
        let Ok(verified) = deliver(replica(from), client(ME), message) else { return };
        if let Message::Reply(reply) = message {
            self.said.entry(reply.tag).or_default().insert(ReplicaId(from), reply.digest);
        }
        self.input(ClientInput::Message(ReplicaId(from), verified));
    }

    fn tick(&mut self) {
        let Some(due) = self.client.poll_timeout() else { return };
        self.now = self.now.max(due.0);
        self.input(ClientInput::Timeout);
        let next = self.client.poll_timeout();
        assert!(next.is_none_or(|next| next.0 > self.now), "a timeout that is done is not due");
    }

    fn input(&mut self, input: ClientInput) {
        self.client.handle(at(self.now), input);
        self.drain();
    }

    fn drain(&mut self) {
        while let Some(output) = self.client.poll_output() {
            match output {
                ClientOutput::Send { to, message } => self.check_sent(to, &message),
                ClientOutput::Nudge { about } => assert!(about.len() <= NUDGE_BYTES_MAX),
                ClientOutput::Complete { ticket, result } => self.check_result(ticket, result),
            }
        }
    }

    /// What a client says is well-formed, signed, and one request for each number of a slot.
    fn check_sent(&mut self, to: To, message: &Message) {
        assert!(matches!(to, To::Replicas | To::One(Principal::Replica(_))));
        assert_eq!(message.check(client(ME)), Ok(()));
        let tag = match message {
            Message::Request(request) => {
                self.check_request(request);
                request.tag()
            }
            Message::Read(read) => Tag::Read(read.session, read.number),
            Message::Ask(tag) => *tag,
            _ => panic!("a client does not say {message:?}"),
        };
        if !self.tags.contains(&tag) {
            self.tags.push(tag);
        }
    }

    fn check_request(&mut self, request: &Request) {
        let digest = request.digest(&cast::id());
        let signed = client_signer(ME).public().verify(&digest, &request.signature);
        assert!(signed.is_ok() || self.n == 1);
        let Body::Operation(session, slot, number, _) = &request.body else { return };
        let last = self.slots.entry((*session, *slot)).or_insert((*number, digest));
        let again = *last == (*number, digest);
        assert!(again || *number == last.0 + 1, "a number of a slot is one request's");
        *last = (*number, digest);
    }

    /// A result was not told before, and a quorum stands behind it.
    fn check_result(&mut self, ticket: u64, result: Result<Bytes, Failure>) {
        assert!((1..=self.submitted).contains(&ticket) && self.completed.insert(ticket));
        let Ok(result) = result else { return };
        let digest = Answer::Result(result).digest(&cast::id());
        let voices =
            |said: &BTreeMap<ReplicaId, Digest>| said.values().filter(|d| **d == digest).count();
        let quorum = cluster(self.n).quorum();
        assert!(self.said.values().any(|said| voices(said) >= quorum), "a quorum said so");
    }

    /// Whatever was submitted ends, at the latest when its user stops waiting.
    fn give_up(&mut self) {
        let timeouts = (0..TIMEOUTS_MAX).take_while(|_| {
            self.tick();
            self.now <= self.patience && self.client.poll_timeout().is_some()
        });
        assert!(timeouts.count() < TIMEOUTS_MAX, "timeouts are no loop");
        assert_eq!(self.completed.len() as u64, self.submitted, "everything ends");
    }
}
