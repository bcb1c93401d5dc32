//! A replica: the state machine of PBFT (Castro & Liskov, OSDI'99).
//!
//! One file per duty: `request` admits and proposes, `ordering` is the three phases, `execution`
//! runs what is decided and answers, `checkpoint` makes checkpoints stable, `suspicion` says when the
//! primary is to go, `view_change` leaves a view and begins the next, with the batches of `choice`;
//! `catch_up` asks for and gives what is missing, `transfer` fetches state, `recovery` begins again
//! from the disk and `amnesia` without it, `repair` has damaged blocks replaced. `log`, `pool` and
//! `state` are the data that they share.

mod amnesia;
mod catch_up;
mod checkpoint;
mod choice;
mod execution;
mod faults;
mod inspect;
mod log;
mod ordering;
mod pool;
mod recovery;
mod repair;
mod request;
mod state;
mod suspicion;
mod transfer;
mod view_change;

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::string::String;
use alloc::sync::Arc;

use bftfs_state::{Digest, Source, Tree};
use serde::Serialize;

use crate::auth::{Reject, Signer};
use crate::config::Cluster;
use crate::engine::{Input, Output, Record, To};
use crate::message::{Fetch, Message, Tag};
use crate::service::Service;
use crate::types::{ClientId, Lsn, Mono, Now, Principal, ReplicaId, Seq, View};

pub use amnesia::Recovery;
pub use choice::{Choice, choose};
pub use faults::{Fault, UnknownFault};
pub use inspect::Sizes;
pub use recovery::{Contradiction, Loaded, Setup};

use amnesia::Amnesia;
use catch_up::Want;
use checkpoint::Checkpoints;
use log::Log;
use pool::Pool;
use repair::Repair;
use state::State;
use transfer::Transfer;
use view_change::Views;

/// One replica. Step it with `handle`, then drain `poll_output`.
#[derive(Debug)]
pub struct Replica<S> {
    cluster: Cluster,
    me: ReplicaId,
    signer: Signer,
    view: View,
    views: Views,
    state: State<S>,
    /// Where the blocks of the state are.
    source: Arc<dyn Source>,
    repair: Repair,
    log: Log,
    pool: Pool,
    checkpoints: Checkpoints,
    /// What is asked of others, by its hash.
    wants: BTreeMap<Fetch, Want>,
    /// How often in a row each other replica did not give what it was asked for.
    unanswered: BTreeMap<ReplicaId, u32>,
    /// Slots whose proposal or decided batch lacks bodies, by the body.
    blocked: BTreeMap<Digest, BTreeSet<Seq>>,
    transfer: Option<Transfer>,
    /// Large answers, by client: kept until the client's next ones, for [`Message::Ask`].
    answers: execution::Answers,
    outputs: VecDeque<Output>,
    /// The number of the last record appended.
    appended: Lsn,
    /// The state that this replica began from, at its start or by state transfer: all after it it
    /// executed by itself.
    begun: Seq,
    /// The record that the executed state depends on.
    executed_lsn: Lsn,
    /// The primary's next sequence number.
    next_seq: Seq,
    /// What the journal said was stable at the start. It has no votes up to there any more, so this
    /// replica must not vote there, even if its state is lost and it begins from an older one.
    settled: Seq,
    /// No fast read is answered before this is executed (`docs/protocol.md`, restart barrier).
    barrier: Seq,
    started: Mono,
    last_status: Mono,
    /// When each peer's STATUS was answered last.
    answered: BTreeMap<ReplicaId, Mono>,
    /// Requests with bad signatures that each replica showed since this one's last STATUS.
    forgeries: BTreeMap<ReplicaId, u32>,
    /// Replicas that are on their way to another view, as far as their last STATUS tells: they hear
    /// no votes of this one.
    astray: BTreeSet<ReplicaId>,
    /// How far replicas that listen need the others to go, so that they may vote again.
    awaited: BTreeMap<ReplicaId, Seq>,
    /// This replica lost its disk and listens.
    amnesia: Option<Amnesia>,
    /// This replica's state differs from a stable checkpoint: it is faulty and says nothing more.
    diverged: bool,
    now: Now,
    rejects: BTreeMap<Reject, u64>,
    /// The rule that it breaks, if any.
    #[cfg(feature = "faults")]
    fault: Option<Fault>,
}

/// Where a replica is, for people and for tests.
#[derive(Clone, Debug, Serialize)]
pub struct ReplicaStatus {
    /// The replica.
    pub id: u32,
    /// Its view.
    pub view: u64,
    /// The primary of that view.
    pub primary: u32,
    /// The view has begun for it: it does not wait for the view's NEW-VIEW.
    pub active: bool,
    /// It has waited for that primary in vain.
    pub suspects: bool,
    /// Views that it left since it started.
    pub view_changes: u64,
    /// The last sequence number it executed.
    pub last_executed: u64,
    /// Its last stable checkpoint.
    pub last_stable: u64,
    /// It fetches state because its log does not reach back far enough.
    pub transferring: bool,
    /// It lost its disk and only listens: until which stable checkpoint and view, once it knows.
    pub listening: Option<Option<(u64, u64)>>,
    /// Its state differs from what a quorum agreed on.
    pub diverged: bool,
    /// Damaged blocks of its state that it asks others for.
    pub lacking: usize,
    /// Blocks that others made good.
    pub mended: u64,
    /// Requests that wait to be ordered.
    pub waiting: usize,
    /// Refused messages by reason.
    pub rejects: BTreeMap<String, u64>,
}

impl<S: Service> Replica<S> {
    /// Takes one input. Never fails and never blocks; drain [`Self::poll_output`] afterwards.
    pub fn handle(&mut self, now: Now, input: Input) {
        self.now = now;
        if self.diverged {
            return;
        }
        match input {
            Input::Message(from, message) => {
                if let Err(reject) = self.on_message(from, message.into_inner()) {
                    *self.rejects.entry(reject).or_default() += 1;
                }
            }
            Input::Timeout => self.on_timeout(),
            Input::CheckpointDurable(seq) => self.on_checkpoint_durable(seq),
            Input::Client(id, key) => {
                self.cluster.clients.insert(id, key);
            }
            Input::Damaged(digest) => self.lack(digest),
            Input::Rotate => {
                self.views.conduct.condemn();
                self.review_primary();
            }
        }
        self.check_invariants();
    }

    fn on_message(&mut self, from: Principal, message: Message) -> Result<(), Reject> {
        match from {
            Principal::Client(client) => match message {
                Message::Request(request) => self.on_request(client, request),
                Message::Read(read) => self.on_read(client, &read),
                Message::Ask(tag) => self.on_ask(client, tag),
                _ => Err(Reject::Role),
            },
            Principal::Replica(id) if id == self.me || id.0 as usize >= self.cluster.n() => {
                Err(Reject::Role)
            }
            Principal::Replica(replica) => match message {
                Message::PrePrepare(pre_prepare) => self.on_pre_prepare(replica, pre_prepare),
                Message::Prepare(vote) => self.on_prepare(replica, &vote),
                Message::Commit(vote) => self.on_commit(replica, &vote),
                Message::Checkpoint(checkpoint) => self.on_checkpoint(checkpoint),
                Message::ViewChange(change) => self.on_view_change(replica, change),
                Message::NewView(new_view) => self.on_new_view(replica, new_view),
                Message::Status(status) => self.on_status(replica, &status),
                Message::Decided(decided) => self.on_decided(replica, &decided),
                Message::Fetch(wanted) => self.on_fetch(replica, &wanted),
                Message::Data(data) => self.on_data(replica, data),
                Message::Request(_)
                | Message::Read(_)
                | Message::Ask(_)
                | Message::Reply(_)
                | Message::Nudge(..) => Err(Reject::Role),
            },
        }
    }

    /// The next output, in order. Drain to `None` before the next input.
    pub fn poll_output(&mut self) -> Option<Output> {
        // Nor does it say what else came of the input by which it fell silent.
        if self.diverged {
            self.outputs.clear();
        }
        self.outputs.pop_front()
    }

    /// When [`Input::Timeout`] is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Mono> {
        let want = self.wants.values().map(|want| want.due);
        want.chain([self.status_due()]).chain(self.suspicion_due()).min()
    }

    /// Where this replica is.
    #[must_use]
    pub fn status(&self) -> ReplicaStatus {
        let rejects = self.rejects.iter().map(|(why, n)| (alloc::format!("{why:?}"), *n));
        ReplicaStatus {
            id: self.me.0,
            view: self.view.0,
            primary: self.cluster.primary(self.view).0,
            active: self.views.active,
            suspects: self.views.suspects,
            view_changes: self.views.left,
            last_executed: self.state.executed().0,
            last_stable: self.log.low().0,
            transferring: self.transfer.is_some(),
            listening: self
                .amnesia
                .as_ref()
                .map(|amnesia| amnesia.until.map(|(seq, view)| (seq.0, view.0))),
            diverged: self.diverged,
            lacking: self.repair.len(),
            mended: self.repair.mended,
            waiting: self.pool.waiting(),
            rejects: rejects.collect(),
        }
    }

    /// The service's tree, for tools and for checks.
    #[must_use]
    pub fn tree(&self) -> &Tree {
        self.state.tree()
    }

    /// The last sequence number executed.
    #[must_use]
    pub fn executed(&self) -> Seq {
        self.state.executed()
    }

    /// The batch that was decided for `seq`, while it is in the log.
    #[must_use]
    pub fn decided(&self, seq: Seq) -> Option<Digest> {
        self.log.get(seq).and_then(|slot| slot.decided)
    }

    /// The digest of the whole state, computed from nothing. Slow: for checks.
    #[must_use]
    pub fn digest_from_scratch(&self) -> Digest {
        self.state.digest_from_scratch(&self.cluster.id)
    }

    fn is_primary(&self) -> bool {
        self.cluster.primary(self.view) == self.me
    }

    fn append(&mut self, record: Record) {
        self.appended.0 += 1;
        self.outputs.push_back(Output::Append(record));
    }

    /// Sends after everything appended so far is durable.
    fn send(&mut self, to: To, message: Message) {
        self.send_after(self.appended, to, message);
    }

    fn send_after(&mut self, after: Lsn, to: To, message: Message) {
        // A cluster of one has no other replicas to tell.
        if to != To::Replicas || self.cluster.n() > 1 {
            self.outputs.push_back(Output::Send { to, message, after });
        }
    }

    fn send_to(&mut self, to: ReplicaId, message: Message) {
        self.send(To::One(Principal::Replica(to)), message);
    }

    /// The sentences of `docs/protocol.md` about one replica, as assertions on what it computed.
    fn check_invariants(&self) {
        let (low, high, executed) = (self.log.low(), self.log.high(), self.state.executed());
        assert!(low <= executed, "the log is cut only below what was executed");
        // Until its own state is there, a checkpoint that others proved opens the window above it.
        let ahead = self.checkpoints.ahead.first().map_or(low, |claim| claim.seq.max(low));
        let known = Seq(ahead.0 + self.cluster.window);
        assert!(executed <= known, "nothing above the high watermark is executed");
        assert!(high.0 - low.0 == self.cluster.window);
        assert!(self.next_seq > executed || !self.is_primary(), "a primary proposes new numbers");
    }
}

/// Which client and which question: the key under which a large answer is kept.
type AnswerKey = (ClientId, Tag);
