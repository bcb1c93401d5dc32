//! Replicas: inputs, outputs, crashes, and what is noted of them for the checkers.

use bftfs_proto::auth::verify;
use bftfs_proto::client::ClientInput;
use bftfs_proto::engine::{Input, Release, To};
use bftfs_proto::message::{Data, Message};
use bftfs_proto::types::{Principal, ReplicaId, Seq, View};
use bftfs_proto::{Digest, replica::Replica};

use crate::clock::Clock;
use crate::faults::{Faulty, Sabotage};
use crate::invariants::Violation;
use crate::rogue::is_rogue;
use crate::workload::Workload;

use super::node::{Deed, Held};
use super::{Event, World};

/// Memory is measured every so many events.
const MEMORY_CHECK_STEPS: u64 = 16;
/// The digest of a state is computed from nothing for every number that this divides: it costs
/// more than all the rest of a step.
const STATE_CHECK_SEQS: u64 = 4;

impl<W: Workload> World<W> {
    pub(super) fn crash(&mut self, id: ReplicaId) {
        if !self.rough || self.node(id).replica().is_none() {
            return;
        }
        self.crashes += 1;
        let cluster = self.cluster.id;
        let torn = self.rng.u64(..);
        let forgets = self.plan.sabotage == Some(Sabotage::Amnesia)
            || self.cast.faulty.get(&id) == Some(&Faulty::Memory);
        self.node_mut(id).crash(&cluster, torn, forgets);
        let down = self.rng.u64(0..=self.plan.down_max);
        self.after(down, Event::Restart(id));
        self.schedule_crash(id);
    }

    pub(super) fn schedule_crash(&mut self, id: ReplicaId) {
        if self.plan.crash_mean > 0 {
            let at = self.rng.u64(0..=2 * self.plan.crash_mean * self.plan.replicas as u64);
            self.after(at, Event::Crash(id));
        }
    }

    pub(super) fn start(&mut self, id: ReplicaId) -> Result<(), Violation> {
        let now = self.clock(id);
        self.node_mut(id).disk_mut().full = false;
        self.node_mut(id).start(now);
        let contradiction = self.node_mut(id).take_contradiction();
        if let Some(contradiction) = contradiction.filter(|_| self.is_correct(id)) {
            return Err(format!("{id:?}, whose disk lost nothing, finds that {contradiction}"));
        }
        if self.node(id).is_damaged() {
            self.on_damaged(id);
        }
        self.pump(id)?;
        self.note(id, None)
    }

    pub(super) fn deliver(
        &mut self,
        from: Principal,
        to: Principal,
        frame: &[u8],
    ) -> Result<(), Violation> {
        let Ok(message) = verify(self.network.key(from, to), from, frame) else {
            return self.on_refused(from, to);
        };
        match (from, to) {
            (_, Principal::Replica(id)) if self.hears(id, from, &message) => {
                self.input(id, Input::Message(from, message))
            }
            (Principal::Replica(replica), Principal::Client(_)) if self.is_rogue(to) => {
                let now = self.clock(replica);
                let hearer = self.rogues.iter_mut().find(|r| Principal::Client(r.id()) == to);
                hearer.into_iter().for_each(|rogue| rogue.hear(now, replica, message.clone()));
                Ok(())
            }
            (Principal::Replica(replica), Principal::Client(id)) => {
                // Whoever mounts with this certificate hears it.
                let mounts = self.clients.keys().filter(|mount| self.client_of(**mount) == id);
                for mount in mounts.copied().collect::<Vec<_>>() {
                    let message = message.clone();
                    self.client_input(mount, ClientInput::Message(replica, message))?;
                }
                Ok(())
            }
            (Principal::Client(_), Principal::Client(_)) | (_, Principal::Replica(_)) => Ok(()),
        }
    }

    fn is_rogue(&self, who: Principal) -> bool {
        is_rogue(who, self.plan.clients)
    }

    fn on_refused(&mut self, from: Principal, to: Principal) -> Result<(), Violation> {
        self.refused += 1;
        let lies = match from {
            Principal::Replica(id) => !self.is_correct(id),
            Principal::Client(_) => self.is_rogue(from),
        };
        if lies {
            Ok(())
        } else {
            Err(format!("a correct sender's frame was refused: {from:?} to {to:?}"))
        }
    }

    pub(super) fn input(&mut self, id: ReplicaId, input: Input) -> Result<(), Violation> {
        let now = self.clock(id);
        let Some(replica) = self.node_mut(id).replica_mut() else { return Ok(()) };
        let (before, transferring) = (replica.executed(), replica.is_transferring());
        replica.handle(now, input);
        self.transfers += u64::from(transferring && !replica.is_transferring());
        self.pump(id)?;
        self.note(id, Some(before))?;
        self.judge_durable(id)
    }

    pub(super) fn on_synced(&mut self, id: ReplicaId, life: u64) -> Result<(), Violation> {
        let cluster = self.cluster.id;
        if !self.node_mut(id).synced(&cluster, life) {
            return Ok(());
        }
        self.pump(id)?;
        self.judge_durable(id)
    }

    pub(super) fn on_stored(&mut self, id: ReplicaId, life: u64) -> Result<(), Violation> {
        match self.node_mut(id).stored(life) {
            Some(seq) => self.input(id, Input::CheckpointDurable(seq)),
            None => Ok(()),
        }
    }

    /// Notes what a replica's step did. It counts once it is durable: before, a crash may undo it,
    /// and nobody was told. `before`: what it had executed; none at a start.
    fn note(&mut self, id: ReplicaId, before: Option<Seq>) -> Result<(), Violation> {
        if !self.is_correct(id) {
            return Ok(());
        }
        let node = &self.nodes[id.0 as usize];
        let Some(replica) = node.replica() else { return Ok(()) };
        let (executed, view) = (replica.executed(), replica.view());
        if replica.is_diverged() {
            return Err(format!("I7: {id:?} found that its state differs from a quorum's"));
        }
        // One that knows nothing has to catch up with its promises before it votes.
        if !replica.is_listening() {
            self.history.progress(id, view, replica.stable())?;
        }
        if view > View(0) && self.is_undisturbed() {
            self.history.undisturbed(id, view)?;
        }
        if self.steps.is_multiple_of(MEMORY_CHECK_STEPS) {
            self.history.memory(id, &self.cluster, replica.stable(), &replica.sizes())?;
        }
        if before == Some(executed) {
            return Ok(());
        }
        self.history.order(id, executed, before.is_none())?;
        let replica = self.node(id).replica();
        let deeds = replica.map(|replica| self.deeds(id, replica, before.unwrap_or_default()));
        self.node_mut(id).note(deeds.unwrap_or_default());
        Ok(())
    }

    fn deeds(&self, id: ReplicaId, replica: &Replica<W::Service>, before: Seq) -> Vec<Deed> {
        let executed = replica.executed();
        let decided = |seq| replica.decided(seq).map(|digest| Deed::Decided(seq, digest));
        let decided = (before.0 + 1..=executed.0).map(Seq).filter_map(decided);
        let mut deeds: Vec<Deed> = decided.collect();
        let drifts = self.plan.sabotage == Some(Sabotage::StateDrift) && id.0 == 0;
        if drifts && executed.0 > 20 {
            deeds.push(Deed::Reached(executed, Digest::ZERO));
        } else if executed.0.is_multiple_of(STATE_CHECK_SEQS) {
            deeds.push(Deed::Reached(executed, replica.digest_from_scratch()));
        }
        deeds
    }

    /// I7 at the end of a run, between those that have executed the same.
    pub(super) fn judge_states(&mut self) -> Result<(), Violation> {
        for id in self.correct().collect::<Vec<_>>() {
            let replica = self.node(id).replica();
            let state = replica.map(|r| (r.executed(), r.digest_from_scratch()));
            if let Some((seq, digest)) = state {
                self.history.equal_states(id, seq, digest)?;
            }
        }
        Ok(())
    }

    fn judge_durable(&mut self, id: ReplicaId) -> Result<(), Violation> {
        for deed in self.node_mut(id).durable_deeds() {
            match deed {
                Deed::Decided(seq, digest) => self.history.agreement(id, seq, digest)?,
                Deed::Reached(seq, digest) => self.history.equal_states(id, seq, digest)?,
                Deed::Entered(new_view) => self.history.new_view(&new_view)?,
            }
        }
        Ok(())
    }

    /// Does what a driver does: outputs to the outbox, records to the journal, messages out.
    fn pump(&mut self, id: ReplicaId) -> Result<(), Violation> {
        let life = self.node(id).life();
        for held in self.node_mut(id).poll() {
            self.judge_held(id, &held)?;
        }
        if self.node_mut(id).sync() {
            let takes = self.plan.sync_time(&mut self.rng);
            self.after(takes, Event::Synced(id, life));
        }
        let early = self.plan.sabotage == Some(Sabotage::EarlySend);
        for release in self.node_mut(id).release(early) {
            match release {
                // Nobody here waits for one, and nothing is decided by one.
                Release::Send(_, Message::Nudge(..)) => {}
                Release::Send(to, message) => {
                    if self.is_correct(id) {
                        let node = &self.nodes[id.0 as usize];
                        self.history.said(id, &message, node.disk())?;
                    }
                    self.speak(id, to, &message);
                }
                Release::Checkpoint(snapshots) => {
                    self.node_mut(id).store(*snapshots);
                    let takes = self.plan.store_time(&mut self.rng);
                    self.after(takes, Event::Stored(id, life));
                }
                Release::Truncate(seq) => self.node_mut(id).truncate(seq),
                Release::Serve(to, digest) => {
                    if let Some(bytes) = self.node(id).disk().block(&digest) {
                        let message = Message::Data(Data::Block(digest, bytes));
                        self.speak(id, To::One(to), &message);
                    }
                }
            }
        }
        let now = self.now;
        if let Some(delay) = self.node_mut(id).arm(now) {
            self.after(delay, Event::Timer(id, life));
        }
        Ok(())
    }

    /// A replica stands by a batch from now on.
    fn judge_held(&mut self, id: ReplicaId, held: &Held) -> Result<(), Violation> {
        if !self.is_correct(id) {
            return Ok(());
        }
        self.history.stood_by(held.digest, &held.requests);
        if self.cast.faulty.get(&id) == Some(&Faulty::Clock) {
            return Ok(());
        }
        self.history.time(id, held.time, Clock::latest(self.now))
    }
}
