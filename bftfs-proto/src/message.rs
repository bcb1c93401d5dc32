//! What is said: one struct per message of the protocol.
//!
//! | message | from → to | authenticated by | paper (OSDI'99) |
//! |---|---|---|---|
//! | [`Request`] | client → all replicas; relayed in [`Data`] | signature, and MAC on the link | 4.1 |
//! | [`Read`] | client → all replicas | MAC | 5.1 read-only |
//! | [`Ask`](Message::Ask) | client → one replica | MAC | 5.1 digest replies |
//! | [`Reply`] | replica → client | MAC | 4.1, 5.1 |
//! | [`Nudge`](Message::Nudge) | replica → client | MAC; believed from w | – (`docs/protocol.md`, nudges) |
//! | [`PrePrepare`] | primary → backups | MAC | 4.2 |
//! | [`Vote`] (prepare, commit) | replica → all | MAC | 4.2 |
//! | [`Checkpoint`] | replica → all; relayed | signature | 4.3 |
//! | [`ViewChange`] | replica → all; within [`NewView`] | signature | 4.4; P and Q as TOCS'02 |
//! | [`NewView`] | new primary → all; relayed | signature | 4.4 |
//! | [`Status`] | replica → all | MAC | TOCS'02 5.2 |
//! | [`Decided`] | replica → replica | MAC; believed from w | – (`docs/protocol.md`, catch-up) |
//! | [`Fetch`], [`Data`] | replica ↔ replica | MAC, content by hash | 5.3 |

use alloc::vec::Vec;

use bftfs_state::Digest;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::auth::{PublicKey, Reject, Signature, Signer, digest_of};
use crate::codec;
use crate::config::{
    BATCH_REQUESTS_MAX, Cluster, NUDGE_BYTES_MAX, OPERATION_BYTES_MAX, REPLICAS_MAX,
    RESULT_BYTES_MAX,
};
use crate::config::{SESSION_SLOTS, VIEW_CHANGE_ACCEPTED_MAX, WINDOW_SEQS};
use crate::types::{ClientId, Principal, ReplicaId, Seq, SessionId, SlotIndex, View, Wall};

/// Everything that is ever sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// A client's signed request to order an operation.
    Request(Request),
    /// A client's request to answer a read without ordering it.
    Read(Read),
    /// A client asks one replica for a whole result.
    Ask(Tag),
    /// A replica's answer to a client.
    Reply(Reply),
    /// The primary's assignment of a batch to a sequence number.
    PrePrepare(PrePrepare),
    /// A backup's vote for an assignment.
    Prepare(Vote),
    /// A replica's vote that the assignment is prepared.
    Commit(Vote),
    /// A replica's signed claim of its state at a sequence number.
    Checkpoint(Checkpoint),
    /// A replica has left its view and says what it promised there.
    ViewChange(ViewChange),
    /// The primary of a new view says what its first batches are, and by whose word.
    NewView(NewView),
    /// Where a replica is.
    Status(Status),
    /// A replica's claims of what was committed.
    Decided(Decided),
    /// A replica asks for content by its hash.
    Fetch(Vec<Fetch>),
    /// The content asked for.
    Data(Data),
    /// What a session waits for may have come: the service says what to ask about.
    Nudge(SessionId, Bytes),
}

/// Which answer belongs to which question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Tag {
    /// An ordered request, by the session, slot and number it was sent in.
    Ordered(SessionId, SlotIndex, u64),
    /// The opening of a session, by the client's random nonce.
    Open(u64),
    /// A fast read, by its session and the numbering of the mount that holds it. Mounts may share
    /// a certificate, and then may hear each other's replies.
    Read(SessionId, u64),
}

impl Tag {
    /// The session that is answered, unless one is being opened.
    #[must_use]
    pub fn session(&self) -> Option<SessionId> {
        match self {
            Self::Ordered(session, ..) | Self::Read(session, _) => Some(*session),
            Self::Open(_) => None,
        }
    }
}

/// What a request asks to be ordered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Body {
    /// Open a session. The nonce makes a repeated request find the session it opened.
    Open(u64),
    /// An operation of the service, in a slot of a session.
    Operation(SessionId, SlotIndex, u64, Bytes),
    /// Close a session.
    Close(SessionId, SlotIndex, u64),
}

/// REQUEST: signed, so that whoever is shown it knows who asked (OSDI'99 section 4.1).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Who asks.
    pub client: ClientId,
    /// What for.
    pub body: Body,
    /// The client's signature over [`Request::digest`]; [`Signature::NONE`] in a cluster of one.
    pub signature: Signature,
    /// Who is to send the whole of a large result. A hint: not signed, not part of the digest.
    pub replier: ReplicaId,
}

impl Request {
    /// The name of this request in a batch. Covers everything but the signature and the hint.
    #[must_use]
    pub fn digest(&self, cluster: &Digest) -> Digest {
        let client = self.client.0.to_le_bytes();
        let (kind, session, slot, number, operation) = match &self.body {
            Body::Open(nonce) => (0_u8, SessionId(0), SlotIndex(0), *nonce, &[][..]),
            Body::Operation(session, slot, number, op) => (1, *session, *slot, *number, &op[..]),
            Body::Close(session, slot, number) => (2, *session, *slot, *number, &[][..]),
        };
        let fields: [&[u8]; 6] = [
            &client,
            &[kind],
            &session.0.to_le_bytes(),
            &slot.0.to_le_bytes(),
            &number.to_le_bytes(),
            operation,
        ];
        digest_of("request", cluster, &fields)
    }

    /// Bytes that this request takes, within a few.
    #[must_use]
    pub fn bytes(&self) -> usize {
        match &self.body {
            Body::Operation(.., operation) => 128 + operation.len(),
            Body::Open(_) | Body::Close(..) => 128,
        }
    }

    /// What its reply is tagged with.
    #[must_use]
    pub fn tag(&self) -> Tag {
        match &self.body {
            Body::Open(nonce) => Tag::Open(*nonce),
            Body::Operation(session, slot, number, _) | Body::Close(session, slot, number) => {
                Tag::Ordered(*session, *slot, *number)
            }
        }
    }

    fn check(&self) -> Result<(), Reject> {
        match &self.body {
            Body::Open(_) => Ok(()),
            Body::Operation(_, slot, _, operation) => {
                let fits = operation.len() <= OPERATION_BYTES_MAX && slot.0 < SESSION_SLOTS;
                if fits { Ok(()) } else { Err(Reject::Shape) }
            }
            Body::Close(_, slot, _) if slot.0 < SESSION_SLOTS => Ok(()),
            Body::Close(..) => Err(Reject::Shape),
        }
    }
}

/// A read that is answered from committed state without ordering (OSDI'99 section 5.1).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Read {
    /// The client's session.
    pub session: SessionId,
    /// The mount's own number for it.
    pub number: u64,
    /// The operation. A replica refuses it unless the service calls it read-only.
    pub operation: Bytes,
    /// Who is to send the whole of a large result.
    pub replier: ReplicaId,
}

/// REPLY: the result, or its digest (OSDI'99 section 5.1).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    /// What it answers.
    pub tag: Tag,
    /// The replica's view: a hint.
    pub view: View,
    /// The digest of the whole answer, [`Answer::digest`].
    pub digest: Digest,
    /// The whole answer, from the designated replier or where it is small.
    pub answer: Option<Answer>,
}

/// The outcome of a request, before the service's own errors.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// The service's result.
    Result(Bytes),
    /// The session that was opened.
    Opened(SessionId),
    /// The session was closed.
    Closed,
    /// There is no such session of this client (any more).
    NoSession,
    /// The slot is past this number; its result is no longer kept.
    Forgotten,
    /// The number is not the slot's next.
    OutOfOrder,
    /// The operation is not a read: ask to have it ordered.
    NotRead,
}

impl Answer {
    /// What replies are compared by.
    #[must_use]
    pub fn digest(&self, cluster: &Digest) -> Digest {
        let (kind, bytes): (u8, &[u8]) = match self {
            Self::Result(bytes) => (0, bytes),
            Self::Opened(SessionId(id)) => (1, &id.to_le_bytes()),
            Self::Closed => (2, &[]),
            Self::NoSession => (3, &[]),
            Self::Forgotten => (4, &[]),
            Self::OutOfOrder => (5, &[]),
            Self::NotRead => (6, &[]),
        };
        digest_of("answer", cluster, &[&[kind], bytes])
    }

    /// Bytes that this answer takes, within a few.
    #[must_use]
    pub fn bytes(&self) -> usize {
        if let Self::Result(bytes) = self { bytes.len() } else { 16 }
    }
}

/// The header of a batch: which requests in which order, at what time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    /// The digests of the requests, in the order of execution.
    pub requests: Vec<Digest>,
    /// The time that the primary proposes.
    pub time: Wall,
}

impl Batch {
    /// The batch of a number for which nothing can have been decided: a new view fills gaps with
    /// it (OSDI'99 section 4.4). It holds nothing and moves agreed time by as little as it can.
    #[must_use]
    pub fn null() -> Self {
        Self { requests: Vec::new(), time: Wall(0) }
    }

    /// The name of this batch. It excludes the view: a later view proposes the same digest again.
    #[must_use]
    pub fn digest(&self, cluster: &Digest) -> Digest {
        let mut requests = Vec::with_capacity(32 * self.requests.len());
        self.requests.iter().for_each(|digest| requests.extend_from_slice(&digest.0));
        digest_of("batch", cluster, &[&self.time.0.to_le_bytes(), &requests])
    }

    fn check(&self) -> Result<(), Reject> {
        if self.requests.len() <= BATCH_REQUESTS_MAX { Ok(()) } else { Err(Reject::Shape) }
    }
}

/// PRE-PREPARE: batch `batch` is to have number `seq` in `view` (OSDI'99 section 4.2).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrePrepare {
    /// The view.
    pub view: View,
    /// The sequence number.
    pub seq: Seq,
    /// The batch.
    pub batch: Batch,
}

/// PREPARE or COMMIT: a vote for a digest (OSDI'99 section 4.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Vote {
    /// The view.
    pub view: View,
    /// The sequence number.
    pub seq: Seq,
    /// The batch's digest.
    pub digest: Digest,
}

/// CHECKPOINT: the state after executing `seq` has digest `state` (OSDI'99 section 4.3). Signed,
/// because it is shown to others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Who says so.
    pub replica: ReplicaId,
    /// After which sequence number.
    pub seq: Seq,
    /// The digest of the state.
    pub state: Digest,
    /// The replica's signature over all of the above.
    pub signature: Signature,
}

impl Checkpoint {
    /// A signed checkpoint.
    #[must_use]
    pub fn sign(c: &Digest, signer: &Signer, replica: ReplicaId, seq: Seq, state: Digest) -> Self {
        let mut checkpoint = Self { replica, seq, state, signature: Signature::NONE };
        checkpoint.signature = signer.sign(&checkpoint.signed(c));
        checkpoint
    }

    fn signed(&self, cluster: &Digest) -> Digest {
        let replica = self.replica.0.to_le_bytes();
        let seq = self.seq.0.to_le_bytes();
        digest_of("checkpoint", cluster, &[&replica, &seq, &self.state.0])
    }

    /// Checks the signature.
    ///
    /// # Errors
    /// [`Reject::Signature`].
    pub fn verify(&self, cluster: &Cluster, key: &PublicKey) -> Result<(), Reject> {
        (cluster.verify)(key, &self.signed(&cluster.id), &self.signature)
    }
}

/// VIEW-CHANGE: a replica has left every view below `view`, for ever, and this is what it stands by
/// (OSDI'99 section 4.4). Signed, because a [`NewView`] shows it to others.
///
/// Its votes are testimony, not proof (TOCS'02): what a new view chooses is decided by quorums of
/// such testimony, [`crate::replica::choose`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ViewChange {
    /// Who says so.
    pub replica: ReplicaId,
    /// The view that it moves to.
    pub view: View,
    /// Its last stable checkpoint (h).
    pub stable: Seq,
    /// q matching claims for it; none for the beginning.
    pub certificate: Vec<Checkpoint>,
    /// P: what prepared here above h, the latest view for each number. By number, ascending.
    pub prepared: Vec<Vote>,
    /// Q: what was accepted here above h, the latest view for each number and digest. By number
    /// and digest, ascending.
    pub accepted: Vec<Vote>,
    /// The replica's signature over all of the above.
    pub signature: Signature,
}

impl ViewChange {
    /// The view-change with the signature of its replica.
    #[must_use]
    pub fn sign(mut self, cluster: &Digest, signer: &Signer) -> Self {
        self.signature = signer.sign(&self.signed(cluster));
        self
    }

    fn signed(&self, cluster: &Digest) -> Digest {
        let fields = (self.replica, self.view, self.stable);
        let fields = (fields, &self.certificate, &self.prepared, &self.accepted);
        digest_of("view-change", cluster, &[&codec::encode(&fields)])
    }

    /// Checks the signature.
    ///
    /// # Errors
    /// [`Reject::Signature`].
    pub fn verify(&self, cluster: &Cluster, key: &PublicKey) -> Result<(), Reject> {
        (cluster.verify)(key, &self.signed(&cluster.id), &self.signature)
    }

    fn check(&self) -> Result<(), Reject> {
        within(self.certificate.len(), REPLICAS_MAX)?;
        within_window(self.prepared.len())?;
        within(self.accepted.len(), VIEW_CHANGE_ACCEPTED_MAX)
    }
}

/// NEW-VIEW: the first batches of `view`, and the view-changes that they follow from (OSDI'99
/// section 4.4). Signed, because whoever has it may pass it on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewView {
    /// The view that begins.
    pub view: View,
    /// At least q view-changes for it, whole, of distinct replicas.
    pub changes: Vec<ViewChange>,
    /// The stable checkpoint that it begins from.
    pub stable: Seq,
    /// The batches of the numbers after it, in order; [`Batch::null`]'s digest where there is none.
    pub chosen: Vec<Digest>,
    /// The signature of the view's primary over all of the above.
    pub signature: Signature,
}

impl NewView {
    /// The new-view with the signature of its primary.
    #[must_use]
    pub fn sign(mut self, cluster: &Digest, signer: &Signer) -> Self {
        self.signature = signer.sign(&self.signed(cluster));
        self
    }

    fn signed(&self, cluster: &Digest) -> Digest {
        let fields = (self.view, &self.changes, self.stable, &self.chosen);
        digest_of("new-view", cluster, &[&codec::encode(&fields)])
    }

    /// Checks the signature.
    ///
    /// # Errors
    /// [`Reject::Signature`].
    pub fn verify(&self, cluster: &Cluster, key: &PublicKey) -> Result<(), Reject> {
        (cluster.verify)(key, &self.signed(&cluster.id), &self.signature)
    }

    fn check(&self) -> Result<(), Reject> {
        within(self.changes.len(), REPLICAS_MAX)?;
        within_window(self.chosen.len())?;
        self.changes.iter().try_for_each(ViewChange::check)
    }
}

/// STATUS: where a replica is, so that its peers re-send what it lacks (TOCS'02 section 5.2).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Its view.
    pub view: View,
    /// Whether that view has begun for it: it has the view's NEW-VIEW.
    pub active: bool,
    /// It has waited in vain for the primary of this view. When w replicas have, they leave it.
    pub suspects: bool,
    /// It listens until its stable checkpoint is here: others are to go on, be it with nothing.
    pub awaits: Option<Seq>,
    /// Its last stable checkpoint.
    pub stable: Seq,
    /// The last sequence number it executed.
    pub executed: Seq,
    /// From `executed + 1` on, what it has of each sequence number.
    pub slots: Vec<SlotStatus>,
}

/// What a replica has of one sequence number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum SlotStatus {
    /// No pre-prepare.
    Empty,
    /// A pre-prepare, not yet prepared.
    Accepted,
    /// Prepared, not yet committed.
    Prepared,
    /// Committed, not yet executed.
    Committed,
}

/// Claims that these batches committed locally. Believed from w replicas: one of them is correct.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decided {
    /// Sequence numbers and batch digests.
    pub batches: Vec<(Seq, Digest)>,
}

/// What a replica lacks, named by its hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Fetch {
    /// A request, by [`Request::digest`].
    Request(Digest),
    /// A batch, by [`Batch::digest`].
    Batch(Digest),
    /// The certificate of the stable checkpoint, if it is at or above this number.
    Stable(Seq),
    /// A block of the state, by its content hash.
    Block(Digest),
}

/// What was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Data {
    /// A request with its client's signature.
    Request(Request),
    /// A batch.
    Batch(Batch),
    /// q signed checkpoints for one number and state, and what the state digest is made of.
    Stable(Vec<Checkpoint>, StateRoot),
    /// A block of the state and the digest it was asked for by.
    Block(Digest, Bytes),
}

/// What the digest of a checkpoint is made of (OSDI'99 section 4.3). Nothing local, no view.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateRoot {
    /// The last sequence number executed.
    pub seq: Seq,
    /// The agreed time of its last operation.
    pub time: Wall,
    /// The root of the session table.
    pub sessions: Digest,
    /// The root of the service's tree.
    pub service: Digest,
}

impl StateRoot {
    /// The digest that replicas vote on.
    #[must_use]
    pub fn digest(&self, cluster: &Digest) -> Digest {
        let (seq, time) = (self.seq.0.to_le_bytes(), self.time.0.to_le_bytes());
        digest_of("state", cluster, &[&seq, &time, &self.sessions.0, &self.service.0])
    }
}

impl Message {
    /// Encodes the message, without a MAC.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        codec::encode(self).into()
    }

    /// The session that a client and a replica speak of, if they do.
    #[must_use]
    pub fn session(&self) -> Option<SessionId> {
        match self {
            Self::Request(request) => request.tag().session(),
            Self::Read(read) => Some(read.session),
            Self::Ask(tag) => tag.session(),
            Self::Reply(reply) => reply.tag.session(),
            Self::Nudge(session, _) => Some(*session),
            _ => None,
        }
    }

    /// Checks shape and sender: counts within their caps, and a kind that `from` may send.
    ///
    /// # Errors
    /// [`Reject::Shape`] or [`Reject::Role`].
    pub fn check(&self, from: Principal) -> Result<(), Reject> {
        let client = matches!(from, Principal::Client(_));
        let for_client = matches!(self, Self::Request(_) | Self::Read(_) | Self::Ask(_));
        if client != for_client {
            return Err(Reject::Role);
        }
        match self {
            Self::Request(request) if from != Principal::Client(request.client) => {
                Err(Reject::Role)
            }
            Self::Request(request) | Self::Data(Data::Request(request)) => request.check(),
            Self::Read(read) => within(read.operation.len(), OPERATION_BYTES_MAX),
            Self::Reply(reply) => {
                within(reply.answer.as_ref().map_or(0, Answer::bytes), RESULT_BYTES_MAX)
            }
            Self::Nudge(_, about) => within(about.len(), NUDGE_BYTES_MAX),
            Self::PrePrepare(PrePrepare { batch, .. }) | Self::Data(Data::Batch(batch)) => {
                batch.check()
            }
            Self::Checkpoint(checkpoint) if from != Principal::Replica(checkpoint.replica) => {
                Err(Reject::Role)
            }
            Self::ViewChange(change) if from != Principal::Replica(change.replica) => {
                Err(Reject::Role)
            }
            Self::ViewChange(change) => change.check(),
            Self::NewView(new_view) => new_view.check(),
            Self::Status(status) => within_window(status.slots.len()),
            Self::Decided(decided) => within_window(decided.batches.len()),
            Self::Fetch(wanted) => within(wanted.len(), BATCH_REQUESTS_MAX),
            Self::Data(Data::Stable(certificate, _)) => within(certificate.len(), REPLICAS_MAX),
            Self::Ask(_)
            | Self::Prepare(_)
            | Self::Commit(_)
            | Self::Checkpoint(_)
            | Self::Data(Data::Block(..)) => Ok(()),
        }
    }
}

fn within(count: usize, most: usize) -> Result<(), Reject> {
    if count <= most { Ok(()) } else { Err(Reject::Shape) }
}

fn within_window(count: usize) -> Result<(), Reject> {
    if count as u64 <= WINDOW_SEQS { Ok(()) } else { Err(Reject::Shape) }
}
