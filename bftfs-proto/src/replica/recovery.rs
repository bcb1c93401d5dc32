//! Beginning again from the disk: a checkpoint, then the journal (`docs/protocol.md`, restart).

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::sync::Arc;
use alloc::vec::Vec;

use bftfs_state::{OpenError, Source, Tree};
use thiserror::Error;

use crate::auth::Signer;
use crate::config::Cluster;
use crate::engine::Record;
use crate::message::{Batch, Checkpoint, Request, StateRoot, Vote};
use crate::service::Service;
use crate::types::{Lsn, Now, ReplicaId, Seq, View};

use super::checkpoint::Checkpoints;
use super::log::{Accepted, Log};
use super::pool::Pool;
use super::repair::Repair;
use super::state::State;
use super::view_change::Views;
use super::{Fault, Replica};

/// Who a replica is.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Its cluster.
    pub cluster: Cluster,
    /// Its index.
    pub me: ReplicaId,
    /// Its key.
    pub signer: Signer,
    /// Where the blocks of its state are.
    pub source: Arc<dyn Source>,
}

/// The newest checkpoint on this replica's own disk.
#[derive(Debug)]
pub struct Loaded {
    /// What it is made of.
    pub root: StateRoot,
    /// The session table.
    pub sessions: Tree,
    /// The service's tree.
    pub service: Tree,
}

impl Loaded {
    /// Opens the session table, which is all in memory, and the service's tree, of which only the
    /// pages are.
    ///
    /// # Errors
    /// If a block is missing, damaged or malformed.
    pub fn open(root: StateRoot, source: &Arc<dyn Source>) -> Result<Self, OpenError> {
        let sessions = Tree::open(root.sessions, &mut |digest| source.get(digest))?;
        let service = Tree::open_over(root.service, source.clone())?;
        Ok(Self { root, sessions, service })
    }
}

/// The journal says what no correct replica writes: its disk lost or changed what it had kept. What
/// else was promised is not known then, so the replica must not vote.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the journal contradicts itself: {0}")]
pub struct Contradiction(&'static str);

/// A stable checkpoint and its certificate.
type Proven = (Vec<Checkpoint>, StateRoot);

impl<S: Service> Replica<S> {
    /// A replica as its disk left it: the state of `loaded` (of genesis, if there is none), then
    /// every vote of `records`, and everything executed again that is known to be decided.
    ///
    /// # Errors
    /// If `records` are not what a correct replica wrote.
    pub fn recover(
        setup: Setup,
        service: S,
        now: Now,
        loaded: Option<Loaded>,
        records: Vec<Record>,
    ) -> Result<Self, Contradiction> {
        let (mut replica, root, stable) = Self::load(setup, service, now, loaded, &records);
        replica.restore(records, root, stable)?;
        Ok(replica)
    }

    /// The same for a replica that breaks a rule.
    ///
    /// # Errors
    /// As [`Self::recover`].
    #[cfg(feature = "faults")]
    pub fn recover_breaking(
        fault: Fault,
        setup: Setup,
        service: S,
        now: Now,
        loaded: Option<Loaded>,
        records: Vec<Record>,
    ) -> Result<Self, Contradiction> {
        let (mut replica, root, stable) = Self::load(setup, service, now, loaded, &records);
        replica.fault = Some(fault);
        replica.restore(records, root, stable)?;
        Ok(replica)
    }

    /// A replica with the state of `loaded`, before its votes are restored.
    fn load(
        setup: Setup,
        service: S,
        now: Now,
        loaded: Option<Loaded>,
        records: &[Record],
    ) -> (Self, Option<StateRoot>, Option<Proven>) {
        let root = loaded.as_ref().map(|loaded| loaded.root);
        let stable = last_stable(records);
        let patience = setup.cluster.session_nanos;
        let state = match loaded {
            Some(Loaded { root, sessions, service: tree }) => {
                State::load(service, patience, &root, sessions, tree)
            }
            None => State::genesis(service, patience, &setup.source),
        };
        // Votes above the stable checkpoint count even where the own checkpoint is further on.
        let stable_seq = stable.as_ref().map_or(Seq(0), |(_, root)| root.seq);
        let low = stable_seq.min(state.executed());
        let mut replica = Self::fresh(setup, now, state, low);
        (replica.settled, replica.barrier) = (stable_seq, stable_seq);
        replica.checkpoints = Checkpoints::starting_at(root);
        (replica, root, stable)
    }

    fn restore(
        &mut self,
        records: Vec<Record>,
        root: Option<StateRoot>,
        stable: Option<Proven>,
    ) -> Result<(), Contradiction> {
        let settled = stable.as_ref().map_or(Seq(0), |(_, root)| root.seq);
        records.into_iter().try_for_each(|record| self.replay(record, settled))?;
        let slots = self.log.iter().map(|(_, slot)| slot);
        let voted = slots.flat_map(|slot| slot.accepted.as_ref().map(|accepted| accepted.view));
        if voted.max() > Some(self.view) {
            return Err(Contradiction("it has votes in a view that it does not know"));
        }
        self.resume(stable, root);
        Ok(())
    }

    fn fresh(setup: Setup, now: Now, state: State<S>, low: Seq) -> Self {
        Self {
            me: setup.me,
            signer: setup.signer,
            source: setup.source,
            repair: Repair::default(),
            view: View(0),
            views: Views::starting_at(now.mono),
            log: Log::new(low, setup.cluster.window),
            cluster: setup.cluster,
            pool: Pool::default(),
            checkpoints: Checkpoints::default(),
            wants: BTreeMap::new(),
            blocked: BTreeMap::new(),
            transfer: None,
            answers: super::execution::Answers::default(),
            outputs: VecDeque::new(),
            appended: Lsn(0),
            executed_lsn: Lsn(0),
            begun: state.executed(),
            next_seq: state.executed().next(),
            settled: Seq(0),
            barrier: Seq(0),
            started: now.mono,
            last_status: now.mono,
            answered: BTreeMap::new(),
            forgeries: BTreeMap::new(),
            unanswered: BTreeMap::new(),
            astray: BTreeSet::new(),
            awaited: BTreeMap::new(),
            amnesia: None,
            diverged: false,
            now,
            rejects: BTreeMap::new(),
            #[cfg(feature = "faults")]
            fault: None,
            state,
        }
    }

    fn replay(&mut self, record: Record, settled: Seq) -> Result<(), Contradiction> {
        if record.seq().is_some_and(|seq| seq <= self.log.low()) {
            return Ok(());
        }
        match record {
            Record::View(_) if self.broken(Fault::ForgetPromise) => {}
            Record::View(view) => self.view = self.view.max(view),
            Record::NewView(new_view) => {
                self.view = self.view.max(new_view.view);
                self.views.new_view = Some(new_view);
            }
            Record::Recovery(recovery) => self.replay_recovery(recovery),
            // A state that was fetched after the one that is here skipped what the journal has; and
            // what is stable needs no claim.
            Record::Claimed(claim, begun)
                if begun <= self.state.executed() && claim.seq > self.log.low() =>
            {
                self.checkpoints.add(claim);
            }
            Record::Claimed(..) => {}
            Record::Stable(..) => {}
            Record::Reaccepted(vote) => return self.replay_reaccepted(&vote, settled),
            Record::Accepted { view, seq, batch, requests } => {
                return self.replay_accepted(view, seq, batch, requests);
            }
            Record::Prepared { view, seq, digest } => {
                let me = self.me;
                self.barrier = self.barrier.max(seq);
                let slot = self.log.restore(seq);
                if slot.prepared.is_none_or(|(earlier, _)| earlier < view)
                    && slot.commits.add(me, &Vote { view, seq, digest }).is_ok()
                {
                    slot.prepared = Some((view, digest));
                }
            }
            Record::Learned { seq, batch, requests } => {
                self.barrier = self.barrier.max(seq);
                self.restore_bodies(seq, &batch, requests);
                let digest = batch.digest(&self.cluster.id);
                let slot = self.log.restore(seq);
                slot.decided = Some(digest);
                slot.learned = Some(batch);
            }
        }
        Ok(())
    }

    fn replay_accepted(
        &mut self,
        view: View,
        seq: Seq,
        batch: Batch,
        requests: Vec<Request>,
    ) -> Result<(), Contradiction> {
        self.restore_bodies(seq, &batch, requests);
        let digest = batch.digest(&self.cluster.id);
        let (me, backup) = (self.me, self.cluster.primary(view) != self.me);
        let slot = self.log.restore(seq);
        if slot.accepted.as_ref().is_some_and(|accepted| accepted.view >= view) {
            return Ok(());
        }
        slot.accept(Accepted { view, digest, batch });
        if backup && slot.prepares.add(me, &Vote { view, seq, digest }).is_err() {
            return Err(Contradiction("it has two votes for one view and number"));
        }
        Ok(())
    }

    fn replay_reaccepted(&mut self, vote: &Vote, settled: Seq) -> Result<(), Contradiction> {
        let cluster = self.cluster.id;
        let slot = self.log.restore(vote.seq);
        let Some(batch) = slot.batch(&vote.digest, &cluster).cloned() else {
            // It is written only after one that holds the batch. That one may be gone up to a
            // stable checkpoint, which a lost superblock makes this replica's own fall behind.
            let known = vote.seq <= settled;
            return known.then_some(()).ok_or(Contradiction("it lacks a batch that it votes for"));
        };
        self.replay_accepted(vote.view, vote.seq, batch, Vec::new())
    }

    fn restore_bodies(&mut self, seq: Seq, batch: &Batch, requests: Vec<Request>) {
        for (digest, request) in batch.requests.iter().zip(requests) {
            self.pool.restore(*digest, request, seq, self.now.mono);
        }
    }

    /// Executes what is known to be decided. What is only prepared waits for the others' votes.
    fn resume(&mut self, stable: Option<Proven>, own: Option<StateRoot>) {
        let last = self.log.iter().rfind(|(_, slot)| slot.accepted.is_some());
        let accepted = last.map_or(Seq(0), |(seq, _)| seq);
        self.next_seq = self.next_seq.max(accepted.next()).max(self.settled.next());
        if let Some(root) = own.filter(|root| root.seq > self.log.low()) {
            self.claim_checkpoint(&root);
        }
        match stable {
            Some((stable, root)) if root.seq == self.log.low() => {
                self.checkpoints.restore(root, stable);
            }
            Some((stable, _)) => self.learn_of_stable(stable),
            None => {}
        }
        let claimed = self.checkpoints.claimed(self.me).map_or(Seq(0), |claim| claim.seq);
        let executed = self.state.executed().max(claimed);
        if let Some(amnesia) = &self.amnesia {
            self.barrier = amnesia.until.map_or(Seq(u64::MAX), |(seq, _)| seq);
        }
        let seqs: Vec<Seq> = self.log.iter().map(|(seq, _)| seq).collect();
        for seq in seqs.iter().filter(|seq| **seq <= executed) {
            // What the checkpoint holds, or was signed for, was executed as prepared here, or else
            // as a Learned record says. Others may still have to be told.
            if let Some(slot) = self.log.get_mut(*seq) {
                slot.decided = slot.decided.or_else(|| slot.prepared.map(|(_, digest)| digest));
            }
        }
        self.resume_view();
        for seq in seqs {
            self.try_prepare(seq);
            self.try_commit(seq);
        }
        self.execute_ready();
        // What the checkpoint holds is not executed again: nobody waits for it.
        self.pool.settle(|request| self.state.is_done(request));
        self.check_invariants();
    }

    /// Goes on in the view that was promised last, whether or not it has begun.
    fn resume_view(&mut self) {
        let begun = self.views.new_view.as_ref().filter(|new_view| new_view.view == self.view);
        self.views.active = begun.is_some() || self.view == View(0);
        let first_free = begun.map_or(Seq(0), |new_view| self.first_free(new_view));
        self.next_seq = self.next_seq.max(first_free);
        self.requeue_bodies();
        if !self.views.active && self.may_vote() {
            self.testify();
        }
        self.adopt_choice();
    }

    /// Bodies of batches that this view has not got to are to be proposed, if they still are owed.
    fn requeue_bodies(&mut self) {
        self.pool.requeue();
        let executed = self.state.executed();
        for (seq, slot) in self.log.iter() {
            if seq <= executed {
                let done = slot.decided.and_then(|digest| slot.batch(&digest, &self.cluster.id));
                let done = done.into_iter().flat_map(|batch| &batch.requests);
                done.for_each(|digest| self.pool.executed(digest));
            } else if let Some(accepted) = slot.accepted.as_ref().filter(|a| a.view == self.view) {
                accepted.batch.requests.iter().for_each(|digest| self.pool.order(digest, seq));
            }
        }
    }
}

/// The highest stable certificate among the records.
fn last_stable(records: &[Record]) -> Option<Proven> {
    let certificate = |record: &Record| match record {
        Record::Stable(certificate, root) => Some((certificate.clone(), *root)),
        Record::Accepted { .. }
        | Record::Prepared { .. }
        | Record::Learned { .. }
        | Record::Reaccepted(_)
        | Record::Claimed(..)
        | Record::Recovery(_)
        | Record::View(_)
        | Record::NewView(_) => None,
    };
    records.iter().filter_map(certificate).max_by_key(|(_, root)| root.seq)
}
