//! A real replica with its outbox and its disk, and what it must never do.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bftfs_proto::Digest;
use bftfs_proto::codec;
use bftfs_proto::config::{ACCEPTED_PER_SEQ_MAX, MESSAGE_BYTES_MAX};
use bftfs_proto::engine::{Input, Outbox, Output, Record, Release, Snapshots, To};
use bftfs_proto::message::{Batch, Fetch, Message, NewView, StateRoot, ViewChange, Vote};
use bftfs_proto::replica::{Loaded, Replica, Setup, choose};
use bftfs_proto::service::Service;
use bftfs_proto::types::{Mono, Now, Principal, Seq, View, Wall};
use bftfs_state::{Part, Source};
use bftfs_state_memory::Memory;

use crate::cast::{EPOCH, id};
use crate::pick::Pick;

/// Outputs that one input may have: a window of votes sent again, or one FETCH answered.
const OUTPUTS_MAX: usize = 512;
/// Timeouts after which nothing more is due at once.
const TIMEOUTS_MAX: usize = 4;

/// A phase in which one digest is said for a view and number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Accepted,
    Prepared,
}

/// What is on the disk.
#[derive(Debug, Default)]
struct Disk {
    records: Vec<Record>,
    /// The last checkpoint.
    checkpoint: Option<StateRoot>,
    /// Every block.
    blocks: Arc<Memory>,
    /// The blocks of the last checkpoint.
    digests: Vec<Digest>,
    /// Every vote that ever was durable.
    votes: BTreeSet<(Phase, View, Seq, Digest)>,
    /// The latest view that it was ever durable to be in.
    view: View,
}

/// What was said to others, in all lives.
#[derive(Debug, Default)]
struct Said {
    votes: BTreeMap<(Phase, View, Seq), Digest>,
    new_views: BTreeMap<View, NewView>,
    /// The latest view that it said it moves to: it votes in none before.
    left_for: View,
}

/// Where the replica is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) view: u64,
    pub(super) last_stable: u64,
    pub(super) last_executed: u64,
    diverged: bool,
}

/// The replica and its machine.
#[derive(Debug)]
pub(super) struct Node<S> {
    setup: Setup,
    service: S,
    replica: Replica<S>,
    outbox: Outbox,
    disk: Disk,
    /// Checkpoints that are to be stored, oldest first.
    storing: Vec<Snapshots>,
    said: Said,
    pub(super) mono: u64,
    /// The wall clock, where it is ahead of the monotonic one.
    pub(super) wall: u64,
    /// What it asked for of late.
    pub(super) asked: Vec<Fetch>,
    /// What it proposed or stood by, by number.
    pub(super) batches: BTreeMap<Seq, Batch>,
    /// Its own checkpoints.
    pub(super) roots: BTreeMap<Seq, StateRoot>,
    /// Its own view-change of late.
    pub(super) change: Option<ViewChange>,
    /// Inputs are printed, for whoever wants to understand a failure (`TRACE=1`).
    traced: bool,
}

impl<S: Service + Clone> Node<S> {
    pub(super) fn new(setup: Setup, service: S) -> Self {
        let disk = Disk::default();
        let setup = Setup { source: disk.blocks.clone(), ..setup };
        let now = Now { mono: Mono(0), wall: Wall(EPOCH) };
        let replica = Replica::recover(setup.clone(), service.clone(), now, None, Vec::new())
            .expect("nothing contradicts nothing");
        let mut node = Self {
            setup,
            service,
            replica,
            outbox: Outbox::default(),
            disk,
            storing: Vec::new(),
            said: Said::default(),
            mono: 0,
            wall: EPOCH,
            asked: Vec::new(),
            batches: BTreeMap::new(),
            roots: BTreeMap::new(),
            change: None,
            traced: std::env::var_os("TRACE").is_some(),
        };
        node.drain();
        node
    }

    pub(super) fn me(&self) -> Principal {
        Principal::Replica(self.setup.me)
    }

    pub(super) fn status(&self) -> Place {
        let replica = &self.replica;
        Place {
            view: replica.view().0,
            last_stable: replica.stable().0,
            last_executed: replica.executed().0,
            diverged: replica.is_diverged(),
        }
    }

    fn now(&self) -> Now {
        Now { mono: Mono(self.mono), wall: Wall(self.wall.saturating_add(self.mono)) }
    }

    pub(super) fn input(&mut self, input: Input) {
        if self.traced {
            let (mono, status) = (self.mono, self.status());
            let (view, low, executed) = (status.view, status.last_stable, status.last_executed);
            eprintln!("at {mono}, view {view}, stable {low}, executed {executed}: {input:?}");
        }
        let before = self.status();
        self.replica.handle(self.now(), input);
        self.drain();
        let after = self.status();
        assert!(
            after.last_executed >= before.last_executed && after.last_stable >= before.last_stable
        );
        assert!(after.view >= before.view, "views do not fall");
    }

    /// Lets the clock reach the time that the replica asked for.
    pub(super) fn tick(&mut self) {
        let Some(due) = self.replica.poll_timeout() else { return };
        self.mono = self.mono.max(due.0);
        // What is done at a timeout may have something to be asked for at once.
        let mut timeouts = 0;
        while !self.status().diverged
            && self.replica.poll_timeout().is_some_and(|due| due.0 <= self.mono)
        {
            self.input(Input::Timeout);
            timeouts += 1;
            assert!(timeouts <= TIMEOUTS_MAX, "timeouts are no loop");
        }
    }

    fn drain(&mut self) {
        let mut count = 0;
        while let Some(output) = self.replica.poll_output() {
            count += 1;
            match &output {
                Output::Send { message, after, .. } => {
                    assert!(
                        *after <= self.outbox.appended(),
                        "it waits for what is to come: {message:?}"
                    );
                    self.note(message);
                }
                Output::Checkpoint(snapshots) => self.note_checkpoint(snapshots),
                Output::Append(Record::Accepted { seq, batch, .. }) => {
                    self.batches.insert(*seq, batch.clone());
                }
                Output::Append(_) | Output::Truncate(_) | Output::Serve(..) => {}
            }
            self.outbox.push(output);
        }
        assert!(count <= OUTPUTS_MAX, "{count} outputs");
    }

    fn note(&mut self, message: &Message) {
        match message {
            Message::Fetch(wanted) => self.asked.extend(wanted),
            Message::ViewChange(change) => self.change = Some(change.clone()),
            _ => {}
        }
    }

    fn note_checkpoint(&mut self, snapshots: &Snapshots) {
        let root = snapshots.root;
        self.roots.insert(root.seq, root);
        if self.replica.executed() == root.seq {
            assert_eq!(root.digest(&id()), self.replica.digest_from_scratch(), "I7");
        }
    }

    /// The disk has all records by now: what waited for them leaves.
    pub(super) fn sync(&mut self) {
        let (records, lsn) = self.outbox.take_records();
        self.disk.append(&records);
        self.outbox.durable(lsn);
        for release in self.outbox.release() {
            match release {
                Release::Send(to, message) => self.check_sent(to, &message),
                Release::Checkpoint(snapshots) => self.storing.push(*snapshots),
                Release::Truncate(seq) => self.disk.truncate(seq),
                Release::Serve(..) => {}
            }
        }
    }

    /// The oldest checkpoint that waits is on the disk.
    pub(super) fn store(&mut self) {
        if self.storing.is_empty() {
            return;
        }
        let snapshots = self.storing.remove(0);
        self.disk.store(&snapshots);
        self.input(Input::CheckpointDurable(snapshots.root.seq));
    }

    /// Power goes. Of the records that were being written the first `torn` are on the disk.
    pub(super) fn crash(&mut self, torn: usize) {
        let (mut records, _) = self.outbox.take_records();
        records.truncate(torn);
        self.disk.append(&records);
        self.recover();
    }

    /// A block of the last checkpoint is damaged; somebody may notice.
    pub(super) fn damage(&mut self, pick: &mut Pick<'_>) {
        if let Some(digest) = pick.one(&self.disk.digests).copied() {
            self.disk.blocks.damage(digest);
            if pick.flip() {
                self.input(Input::Damaged(digest));
            }
        }
    }

    fn recover(&mut self) {
        if self.traced {
            eprintln!("crash: {:?}", self.disk.records);
        }
        self.outbox = Outbox::default();
        self.storing.clear();
        let (loaded, records) = self.disk.load();
        let from = loaded.as_ref().map_or(Seq(0), |loaded| loaded.root.seq);
        let (setup, service) = (self.setup.clone(), self.service.clone());
        self.replica = Replica::recover(setup, service, self.now(), loaded, records)
            .expect("the journal is as it was written");
        assert!(self.replica.executed() >= from);
        assert!(self.status().view >= self.disk.view.0, "a promise is kept");
        self.drain();
    }

    /// After all is durable, a restart changes no state, and all that was said is remembered.
    pub(super) fn end(&mut self) {
        self.sync();
        let (executed, state) = (self.replica.executed(), self.replica.digest_from_scratch());
        self.crash(0);
        if self.replica.executed() == executed {
            assert_eq!(self.replica.digest_from_scratch(), state, "I7 across a restart");
        }
        self.sync();
    }

    /// The sentences of `docs/protocol.md` about what leaves a replica.
    fn check_sent(&mut self, to: To, message: &Message) {
        let me = self.me();
        assert_eq!(message.check(me), Ok(()), "others accept its shape");
        assert!(message.encode().len() <= MESSAGE_BYTES_MAX, "and its size");
        let for_client = matches!(to, To::One(Principal::Client(_)));
        assert_eq!(matches!(message, Message::Reply(_) | Message::Nudge(..)), for_client);
        assert_ne!(to, To::One(me), "it does not talk to itself");
        match message {
            Message::PrePrepare(said) => {
                let digest = said.batch.digest(&id());
                let vote = Vote { view: said.view, seq: said.seq, digest };
                self.check_vote(Phase::Accepted, &vote);
            }
            Message::Prepare(vote) => self.check_vote(Phase::Accepted, vote),
            Message::Commit(vote) => self.check_vote(Phase::Prepared, vote),
            Message::ViewChange(change) => self.check_change(change),
            Message::NewView(new_view) => self.check_new_view(new_view),
            _ => {}
        }
    }

    /// I2, I8, I9: durable, never revised, and not of a view that it left.
    fn check_vote(&mut self, phase: Phase, vote: &Vote) {
        let Vote { view, seq, digest } = *vote;
        assert!(self.disk.votes.contains(&(phase, view, seq, digest)), "I9: {phase:?} {vote:?}");
        assert!(view >= self.said.left_for, "I8: {vote:?} after it left");
        let before = *self.said.votes.entry((phase, view, seq)).or_insert(digest);
        assert_eq!(before, digest, "I2: {phase:?} {vote:?}");
    }

    /// A view-change tells nothing that is not durable, and leaves out nothing that was said.
    fn check_change(&mut self, change: &ViewChange) {
        assert!(self.disk.view >= change.view, "the promise is durable");
        self.said.left_for = self.said.left_for.max(change.view);
        for (phase, votes) in
            [(Phase::Prepared, &change.prepared), (Phase::Accepted, &change.accepted)]
        {
            for Vote { view, seq, digest } in votes {
                assert!(self.disk.votes.contains(&(phase, *view, *seq, *digest)), "I9: {change:?}");
            }
        }
        let window = self.setup.cluster.window;
        let open = |seq: Seq| (change.stable.0 + 1..=change.stable.0 + window).contains(&seq.0);
        let said =
            self.said.votes.iter().filter(|((_, view, seq), _)| *view < change.view && open(*seq));
        for ((phase, view, seq), digest) in said {
            let told = |votes: &[Vote], any: bool| {
                votes
                    .iter()
                    .any(|v| v.seq == *seq && v.view >= *view && (any || v.digest == *digest))
            };
            let fine = match phase {
                Phase::Prepared => told(&change.prepared, true),
                Phase::Accepted => {
                    told(&change.accepted, false) || self.digests_said(*seq) > ACCEPTED_PER_SEQ_MAX
                }
            };
            assert!(fine, "it forgot {phase:?} {view:?} {seq:?} {digest:?}: {change:?}");
        }
    }

    fn digests_said(&self, seq: Seq) -> usize {
        let of_seq = self.disk.votes.iter().filter(|(.., of, _)| *of == seq);
        of_seq.map(|(.., digest)| digest).collect::<BTreeSet<_>>().len()
    }

    fn check_new_view(&mut self, new_view: &NewView) {
        let choice = choose(&self.setup.cluster, &new_view.changes).expect("it follows from them");
        assert_eq!((choice.stable, &choice.chosen), (new_view.stable, &new_view.chosen));
        // Others' are passed on; of its own there is one for a view.
        if Principal::Replica(self.setup.cluster.primary(new_view.view)) == self.me() {
            let before =
                self.said.new_views.entry(new_view.view).or_insert_with(|| new_view.clone());
            assert_eq!(before, new_view, "one new-view");
        }
    }
}

impl Disk {
    fn append(&mut self, records: &[Record]) {
        for record in records {
            let vote = match record {
                Record::Accepted { view, seq, batch, .. } => {
                    Some((Phase::Accepted, *view, *seq, batch.digest(&id())))
                }
                Record::Reaccepted(vote) => {
                    Some((Phase::Accepted, vote.view, vote.seq, vote.digest))
                }
                Record::Prepared { view, seq, digest } => {
                    Some((Phase::Prepared, *view, *seq, *digest))
                }
                Record::View(view) => {
                    self.view = self.view.max(*view);
                    None
                }
                Record::NewView(new_view) => {
                    self.view = self.view.max(new_view.view);
                    None
                }
                _ => None,
            };
            self.votes.extend(vote);
            let read = codec::decode(&codec::encode(record));
            assert_eq!(read.as_ref(), Ok(record));
            self.records.push(record.clone());
        }
    }

    /// Drops what may go: records of numbers up to `seq`, and all but the last of each other kind.
    fn truncate(&mut self, seq: Seq) {
        let mut kinds = BTreeSet::new();
        self.records.reverse();
        self.records.retain(|record| match record.seq() {
            Some(of) => of > seq,
            None => kinds.insert(codec::encode(record)[0]),
        });
        self.records.reverse();
    }

    fn store(&mut self, snapshots: &Snapshots) {
        self.digests.clear();
        for part in snapshots.trees.iter().flat_map(bftfs_state::Snapshot::parts) {
            match part {
                Part::Page(block) | Part::Value(block) => {
                    self.digests.push(block.digest);
                    self.blocks.keep(&block);
                }
                Part::Away(digest, _) => {
                    assert!(self.blocks.holds(&digest), "what leaves the tree is kept");
                    self.digests.push(digest);
                }
            }
        }
        self.checkpoint = Some(snapshots.root);
    }

    fn load(&self) -> (Option<Loaded>, Vec<Record>) {
        let source: Arc<dyn Source> = self.blocks.clone();
        let loaded = self.checkpoint.and_then(|root| Loaded::open(root, &source).ok());
        (loaded, self.records.clone())
    }
}
