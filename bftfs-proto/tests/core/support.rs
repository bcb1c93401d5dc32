//! A cluster of four on paper, one real replica of it, and short names for what it hears and says.

use std::sync::Arc;

use bftfs_proto::auth::{MacKey, Signature, Signer, Verified, verify};
use bftfs_proto::config::Cluster;
use bftfs_proto::engine::{Input, Output, Record, To};
use bftfs_proto::message::{
    Answer, Batch, Body, Checkpoint, Message, PrePrepare, Read, Reply, Request, Tag, Vote,
};
use bftfs_proto::replica::{Replica, Setup};
use bftfs_proto::service::{Context, Nudge, Service};
use bftfs_proto::types::{
    ClientId, Lsn, Mono, Now, Principal, ReplicaId, Seq, SessionId, SlotIndex, View, Wall,
};
use bftfs_proto::{Digest, Tree};
use bftfs_state::Source as _;
use bftfs_state_memory::Memory;
use bytes::Bytes;

/// The clock of every replica when a test begins, in nanoseconds since the epoch.
pub(crate) const EPOCH: u64 = 1_800_000_000_000_000_000;
/// Sequence numbers between two checkpoints.
pub(crate) const K: u64 = 4;
/// Sequence numbers that may be open.
pub(crate) const L: u64 = 8;
/// The operation that reads all that was appended.
pub(crate) const GET: &[u8] = b"?";

/// One string to which operations append themselves; the result is the whole of it.
#[derive(Debug)]
pub(crate) struct Appends;

impl Appends {
    pub(crate) fn text(tree: &Tree) -> Vec<u8> {
        tree.get(b"text").map(|text| text.to_vec()).unwrap_or_default()
    }
}

/// Before the number of a session: it is nudged.
pub(crate) const NUDGE: &[u8] = b"nudge ";

impl Service for Appends {
    fn genesis(&self, _: &mut Tree) {}

    fn execute(
        &self,
        state: &mut Tree,
        _: &Context,
        operation: &Bytes,
        nudges: &mut Vec<Nudge>,
    ) -> Bytes {
        if let Some(&[session]) = operation.strip_prefix(NUDGE) {
            let (session, about) = (SessionId(session.into()), operation.clone());
            nudges.push(Nudge { session, about });
        }
        if &operation[..] != GET {
            state.upsert(b"text", |text| text.extend_from_slice(operation));
        }
        Self::text(state).into()
    }

    fn query(&self, state: &Tree, _: &Context, operation: &Bytes) -> Option<Bytes> {
        (&operation[..] == GET).then(|| Self::text(state).into())
    }

    fn session_closed(&self, _: &mut Tree, _: SessionId, _: Wall, _: &mut Vec<Nudge>) {}
}

pub(crate) fn replica_signer(index: u32) -> Signer {
    signer(0, index)
}

pub(crate) fn client_signer(index: u32) -> Signer {
    signer(1, index)
}

fn signer(kind: u8, index: u32) -> Signer {
    let mut seed = [kind; 32];
    seed[..4].copy_from_slice(&index.to_le_bytes());
    Signer::from_seed(&seed)
}

/// n replicas, and clients 1 and 2.
pub(crate) fn cluster(n: u32) -> Cluster {
    let keys = (0..n).map(|i| replica_signer(i).public()).collect();
    let clients = (1..=2).map(|i| (ClientId(i), client_signer(i).public())).collect();
    let mut cluster = Cluster::new(id(), keys, clients);
    (cluster.checkpoint_interval, cluster.window) = (K, L);
    cluster
}

/// The name of the cluster.
pub(crate) fn id() -> Digest {
    Digest::of(b"cluster")
}

pub(crate) fn link(from: Principal, to: Principal) -> MacKey {
    MacKey::derive(&[7; 32], &id(), from, to)
}

/// The only way in: encoded, sealed, verified.
pub(crate) fn verified(from: Principal, to: Principal, message: &Message) -> Verified<Message> {
    let key = link(from, to);
    verify(&key, from, &key.seal(&message.encode())).expect("a well-formed message of its sender")
}

pub(crate) const fn replica(index: u32) -> Principal {
    Principal::Replica(ReplicaId(index))
}

pub(crate) const fn client(index: u32) -> Principal {
    Principal::Client(ClientId(index))
}

pub(crate) const fn at(nanos: u64) -> Now {
    Now { mono: Mono(nanos), wall: Wall(EPOCH + nanos) }
}

/// A request with its client's signature.
pub(crate) fn signed(client: u32, body: Body) -> Request {
    let (signature, replier) = (Signature::NONE, ReplicaId(0));
    let mut request = Request { client: ClientId(client), body, signature, replier };
    request.signature = client_signer(client).sign(&request.digest(&id()));
    request
}

pub(crate) fn open(client: u32, nonce: u64) -> Request {
    signed(client, Body::Open(nonce))
}

/// Client 1's operation in slot 0 of its session 1.
pub(crate) fn append(number: u64, text: &'static [u8]) -> Request {
    append_in(1, SessionId(1), number, text)
}

pub(crate) fn append_in(
    client: u32,
    session: SessionId,
    number: u64,
    text: &'static [u8],
) -> Request {
    signed(client, Body::Operation(session, SlotIndex(0), number, Bytes::from_static(text)))
}

pub(crate) fn read(number: u64, operation: &'static [u8]) -> Message {
    let (session, replier) = (SessionId(1), ReplicaId(0));
    Message::Read(Read { session, number, operation: Bytes::from_static(operation), replier })
}

pub(crate) fn batch(requests: &[&Request]) -> Batch {
    let requests = requests.iter().map(|request| request.digest(&id())).collect();
    Batch { requests, time: Wall(EPOCH) }
}

pub(crate) fn pre_prepare(seq: u64, batch: &Batch) -> Message {
    Message::PrePrepare(PrePrepare { view: View(0), seq: Seq(seq), batch: batch.clone() })
}

pub(crate) fn vote(seq: u64, batch: &Batch) -> Vote {
    Vote { view: View(0), seq: Seq(seq), digest: batch.digest(&id()) }
}

pub(crate) fn prepare(seq: u64, batch: &Batch) -> Message {
    Message::Prepare(vote(seq, batch))
}

pub(crate) fn commit(seq: u64, batch: &Batch) -> Message {
    Message::Commit(vote(seq, batch))
}

pub(crate) fn claim(by: u32, seq: u64, state: Digest) -> Checkpoint {
    Checkpoint::sign(&id(), &replica_signer(by), ReplicaId(by), Seq(seq), state)
}

pub(crate) fn reply(tag: Tag, answer: Answer) -> Message {
    let digest = answer.digest(&id());
    Message::Reply(Reply { tag, view: View(0), digest, answer: Some(answer) })
}

pub(crate) fn result(text: &'static [u8]) -> Answer {
    Answer::Result(Bytes::from_static(text))
}

/// An output, as far as tests compare it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Out {
    Append(Record),
    Send(To, Message, Lsn),
    Checkpoint(Seq),
    Truncate(Seq),
    Serve(Principal, Digest),
}

/// To all other replicas, after record `after`.
pub(crate) fn to_all(message: Message, after: u64) -> Out {
    Out::Send(To::Replicas, message, Lsn(after))
}

pub(crate) fn to_one(to: Principal, message: Message, after: u64) -> Out {
    Out::Send(To::One(to), message, Lsn(after))
}

pub(crate) fn accepted(seq: u64, batch: &Batch, requests: &[&Request]) -> Out {
    let requests = requests.iter().map(|request| (*request).clone()).collect();
    let (view, seq, batch) = (View(0), Seq(seq), batch.clone());
    Out::Append(Record::Accepted { view, seq, batch, requests })
}

pub(crate) fn prepared(seq: u64, batch: &Batch) -> Out {
    let Vote { view, seq, digest } = vote(seq, batch);
    Out::Append(Record::Prepared { view, seq, digest })
}

/// The answers among `outputs`, with the tag of each.
pub(crate) fn answers(outputs: &[Out]) -> Vec<(Tag, Option<Answer>)> {
    let answer = |out: &Out| match out {
        Out::Send(_, Message::Reply(reply), _) => Some((reply.tag, reply.answer.clone())),
        _ => None,
    };
    outputs.iter().filter_map(answer).collect()
}

/// One replica, its clock and its journal.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) replica: Replica<Appends>,
    pub(crate) me: Principal,
    pub(crate) now: Now,
    pub(crate) records: Vec<Record>,
    /// The blocks of its state.
    pub(crate) blocks: Arc<Memory>,
}

impl Node {
    /// A replica of a cluster of four, with an empty disk.
    pub(crate) fn new(me: u32) -> Self {
        Self::of(me, 4)
    }

    pub(crate) fn of(me: u32, n: u32) -> Self {
        Self::with_journal(me, n, Vec::new()).0
    }

    /// A replica that finds `records` on its disk, and what it says at once.
    pub(crate) fn with_journal(me: u32, n: u32, records: Vec<Record>) -> (Self, Vec<Out>) {
        let (signer, source) = (replica_signer(me), Memory::new());
        let setup =
            Setup { cluster: cluster(n), me: ReplicaId(me), signer, source: source.clone() };
        let now = at(0);
        let replica =
            Replica::recover(setup, Appends, now, None, records.clone()).expect("as written");
        let mut node = Self { replica, me: self::replica(me), now, records, blocks: source };
        let outputs = node.drain();
        (node, outputs)
    }

    /// The same replica after a crash that lost nothing, and what it says at once.
    pub(crate) fn restart(self) -> (Self, Vec<Out>) {
        let status = self.replica.status();
        Self::with_journal(status.id, 4, self.records)
    }

    /// Takes a message and says what comes of it.
    pub(crate) fn hear(&mut self, from: Principal, message: &Message) -> Vec<Out> {
        self.input(Input::Message(from, verified(from, self.me, message)))
    }

    /// Takes a request from its own client.
    pub(crate) fn ask(&mut self, request: &Request) -> Vec<Out> {
        self.hear(Principal::Client(request.client), &Message::Request(request.clone()))
    }

    pub(crate) fn input(&mut self, input: Input) -> Vec<Out> {
        self.replica.handle(self.now, input);
        self.drain()
    }

    /// Lets the clock reach the time that the replica asked for.
    pub(crate) fn tick(&mut self) -> Vec<Out> {
        let due = self.replica.poll_timeout().expect("a replica always has a timer");
        self.now = at(due.0.max(self.now.mono.0));
        self.input(Input::Timeout)
    }

    fn drain(&mut self) -> Vec<Out> {
        let mut outputs = Vec::new();
        while let Some(output) = self.replica.poll_output() {
            outputs.push(match output {
                Output::Append(record) => {
                    self.records.push(record.clone());
                    Out::Append(record)
                }
                Output::Send { to, message, after } => Out::Send(to, message, after),
                Output::Checkpoint(snapshots) => {
                    snapshots.added.iter().for_each(|block| self.blocks.keep(block));
                    Out::Checkpoint(snapshots.root.seq)
                }
                Output::Truncate(seq) => Out::Truncate(seq),
                Output::Serve(to, digest) => Out::Serve(to, digest),
            });
        }
        outputs
    }

    /// Has backup 1 order and execute `requests` under `seq` with the others' votes.
    pub(crate) fn order(&mut self, seq: u64, requests: &[&Request]) -> Vec<Out> {
        let outputs = self.order_only(seq, requests);
        assert_eq!(self.replica.executed(), Seq(seq));
        outputs
    }

    /// The same, whether or not they can be executed.
    pub(crate) fn order_only(&mut self, seq: u64, requests: &[&Request]) -> Vec<Out> {
        self.order_batch(seq, &batch(requests), requests)
    }

    /// The same now, and all others sign the same checkpoint.
    pub(crate) fn order_on(&mut self, seq: u64, requests: &[&Request]) -> Vec<Out> {
        let batch = Batch { time: self.now.wall, ..batch(requests) };
        let outputs = self.order_batch(seq, &batch, requests);
        for out in &outputs {
            if let Out::Send(_, Message::Checkpoint(own), _) = out {
                for other in [0, 2] {
                    let claim = claim(other, own.seq.0, own.state);
                    self.hear(replica(other), &Message::Checkpoint(claim));
                }
            }
        }
        outputs
    }

    fn order_batch(&mut self, seq: u64, batch: &Batch, requests: &[&Request]) -> Vec<Out> {
        let mut outputs = Vec::new();
        requests.iter().for_each(|request| outputs.extend(self.ask(request)));
        outputs.extend(self.hear(replica(0), &pre_prepare(seq, batch)));
        outputs.extend(self.hear(replica(2), &prepare(seq, batch)));
        outputs.extend(self.hear(replica(0), &commit(seq, batch)));
        outputs.extend(self.hear(replica(2), &commit(seq, batch)));
        outputs
    }

    /// Has backup 1 open client 1's session under number 1, and execute one append for each of
    /// 2 to `last`.
    pub(crate) fn run_to(&mut self, last: u64) -> Vec<Out> {
        let mut outputs = self.order(1, &[&open(1, 9)]);
        for seq in 2..=last {
            outputs.extend(self.order(seq, &[&append(seq - 1, b"x")]));
        }
        outputs
    }

    /// The replica's refusals by reason.
    pub(crate) fn rejects(&self) -> Vec<(String, u64)> {
        self.replica.status().rejects.into_iter().collect()
    }

    /// Hears a message that it must refuse for this one reason, without voting or recording
    /// anything.
    pub(crate) fn refuses(&mut self, from: Principal, message: &Message, reason: &str) {
        let count = |node: &Self| node.replica.status().rejects.get(reason).copied().unwrap_or(0);
        let before = count(self);
        let said = self.hear(from, message);
        let vote = |out: &Out| !matches!(out, Out::Send(_, Message::Status(_), _));
        assert!(!said.iter().any(vote), "says nothing but where it is: {said:?}");
        assert_eq!(count(self), before + 1, "one more {reason}: {:?}", self.rejects());
    }

    pub(crate) fn text(&self) -> Vec<u8> {
        Appends::text(self.replica.tree())
    }
}
