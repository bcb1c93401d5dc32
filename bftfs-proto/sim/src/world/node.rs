//! A replica with its disk, its outbox and its clock.

use std::collections::VecDeque;
use std::sync::Arc;

use bftfs_proto::Digest;
use bftfs_proto::engine::{Outbox, Output, Record, Release, Snapshots};
use bftfs_proto::message::{Batch, NewView};
use bftfs_proto::replica::{Contradiction, Fault, Loaded, Replica, Setup};
use bftfs_proto::service::Service;
use bftfs_proto::types::{Lsn, Mono, Now, Seq, Wall};
use bftfs_state_memory::Memory;

use crate::clock::Clock;
use crate::disk::Disk;

/// Checkpoints on their way to disk above which a replica hears nothing new, as in the real driver.
const STORING_MAX: usize = 3;

/// Something that a replica did, to be judged.
#[derive(Clone, Debug)]
pub(super) enum Deed {
    /// It took this digest as the decision for a number.
    Decided(Seq, Digest),
    /// Its state has this digest after a number.
    Reached(Seq, Digest),
    /// It began a view.
    Entered(NewView),
}

/// A batch that a replica stands by.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) digest: Digest,
    pub(super) time: Wall,
    pub(super) requests: Vec<Digest>,
}

impl Held {
    fn new(cluster: &Digest, batch: &Batch) -> Self {
        let (digest, time) = (batch.digest(cluster), batch.time);
        Self { digest, time, requests: batch.requests.clone() }
    }
}

/// A machine: it may be up or down, its disk stays.
#[derive(Debug)]
pub(super) struct Node<S> {
    setup: Setup,
    /// The rule of the core that it breaks.
    #[cfg(feature = "faults")]
    fault: Option<Fault>,
    service: S,
    replica: Option<Replica<S>>,
    outbox: Outbox,
    disk: Disk,
    /// Counts starts, so that what belongs to an earlier life is not taken for this one's.
    life: u64,
    syncing: Option<(Vec<Record>, Lsn)>,
    storing: Vec<Snapshots>,
    /// What was done, and the record that it depends on.
    deeds: VecDeque<(Lsn, Deed)>,
    armed: Option<Mono>,
    clock: Clock,
    /// It does not start as it is: what it promised is lost.
    damaged: bool,
    /// Its records are none that a correct replica writes.
    contradiction: Option<Contradiction>,
}

impl<S: Service + Clone> Node<S> {
    pub(super) fn new(
        setup: Setup,
        blocks: Arc<Memory>,
        service: S,
        clock: Clock,
        fault: Option<Fault>,
    ) -> Self {
        assert!(fault.is_none() || cfg!(feature = "faults"), "built without faults");
        Self {
            setup,
            #[cfg(feature = "faults")]
            fault,
            service,
            replica: None,
            outbox: Outbox::default(),
            disk: Disk::over(blocks),
            life: 0,
            syncing: None,
            storing: Vec::new(),
            deeds: VecDeque::new(),
            armed: None,
            clock,
            damaged: false,
            contradiction: None,
        }
    }

    /// Starts the replica, unless its disk is found to be damaged.
    pub(super) fn start(&mut self, now: Now) {
        assert!(self.replica.is_none(), "a node starts when it is down");
        self.life += 1;
        let Ok((loaded, records)) = self.disk.load() else {
            self.damaged = true;
            return;
        };
        match self.recover(now, loaded, records) {
            Ok(replica) => self.replica = Some(replica),
            Err(contradiction) => {
                self.damaged = true;
                self.contradiction = Some(contradiction);
            }
        }
    }

    fn recover(
        &self,
        now: Now,
        loaded: Option<Loaded>,
        records: Vec<Record>,
    ) -> Result<Replica<S>, Contradiction> {
        let (setup, service) = (self.setup.clone(), self.service.clone());
        #[cfg(feature = "faults")]
        if let Some(fault) = self.fault {
            return Replica::recover_breaking(fault, setup, service, now, loaded, records);
        }
        Replica::recover(setup, service, now, loaded, records)
    }

    /// Power goes. Of the records being written, some number of the first are on the disk.
    pub(super) fn crash(&mut self, cluster: &Digest, torn: u64, forgets: bool) {
        if let Some((records, _)) = self.syncing.take() {
            let kept = usize::try_from(torn).unwrap_or(usize::MAX) % (records.len() + 1);
            let kept = records.get(..kept).unwrap_or_default();
            self.disk.append(cluster, kept);
        }
        if forgets {
            self.disk.forget(3);
        }
        self.disk.crash();
        self.storing.clear();
        self.deeds.clear();
        self.outbox = Outbox::default();
        self.replica = None;
        self.armed = None;
        self.life += 1;
    }

    /// Moves the replica's outputs to the outbox, and returns the batches that it now stands by.
    pub(super) fn poll(&mut self) -> Vec<Held> {
        let cluster = self.setup.cluster.id;
        let mut held = Vec::new();
        while let Some(output) = self.replica.as_mut().and_then(Replica::poll_output) {
            let mut deed = None;
            if let Output::Append(record) = &output {
                match record {
                    Record::Accepted { batch, .. } | Record::Learned { batch, .. } => {
                        held.push(Held::new(&cluster, batch));
                    }
                    Record::NewView(new_view) => deed = Some(Deed::Entered(new_view.clone())),
                    _ => {}
                }
            }
            self.outbox.push(output);
            self.note(deed.into_iter().collect());
        }
        held
    }

    /// Begins to write what is to be written, unless a write is under way.
    pub(super) fn sync(&mut self) -> bool {
        if self.syncing.is_some() {
            return false;
        }
        let (records, lsn) = self.outbox.take_records();
        if records.is_empty() {
            return false;
        }
        self.syncing = Some((records, lsn));
        true
    }

    pub(super) fn synced(&mut self, cluster: &Digest, life: u64) -> bool {
        if life != self.life {
            return false;
        }
        let Some((records, lsn)) = self.syncing.take() else { return false };
        self.disk.append(cluster, &records);
        self.outbox.durable(lsn.max(self.outbox.durable_to()));
        true
    }

    pub(super) fn note(&mut self, deeds: Vec<Deed>) {
        let lsn = self.outbox.appended();
        self.deeds.extend(deeds.into_iter().map(|deed| (lsn, deed)));
    }

    /// What was done and can no longer be undone by a crash.
    pub(super) fn durable_deeds(&mut self) -> Vec<Deed> {
        let durable = self.outbox.durable_to();
        let mut deeds = Vec::new();
        while let Some((_, deed)) = self.deeds.pop_front_if(|(lsn, _)| *lsn <= durable) {
            deeds.push(deed);
        }
        deeds
    }

    /// Whether it hears nothing new until its disk has caught up.
    pub(super) fn is_deaf(&self) -> bool {
        self.storing.len() > STORING_MAX
    }

    pub(super) fn store(&mut self, snapshots: Snapshots) {
        self.storing.push(snapshots);
    }

    /// The oldest checkpoint being written is on the disk.
    pub(super) fn stored(&mut self, life: u64) -> Option<Seq> {
        if life != self.life || self.storing.is_empty() {
            return None;
        }
        let snapshots = self.storing.remove(0);
        self.disk.checkpoint(&snapshots);
        Some(snapshots.root.seq)
    }

    pub(super) fn truncate(&mut self, seq: Seq) {
        self.disk.truncate(seq);
    }

    /// What may leave; everything, if this world is one in which nothing waits for the disk.
    pub(super) fn release(&mut self, early: bool) -> Vec<Release> {
        if early {
            self.outbox.durable(self.outbox.appended());
        }
        self.outbox.release()
    }

    /// The delay to the timer to set, if a new one is due earlier than the one that is set.
    pub(super) fn arm(&mut self, now: u64) -> Option<u64> {
        let due = self.replica.as_ref()?.poll_timeout()?;
        if self.armed.is_some_and(|armed| armed <= due) {
            return None;
        }
        let at = Mono(due.0.max(now + 1));
        self.armed = Some(at);
        Some(at.0 - now)
    }

    /// Whether the replica's timeout is due now.
    pub(super) fn on_timer(&mut self, life: u64, now: u64) -> bool {
        // One that was set later, for earlier, has taken this one's place.
        life == self.life && self.armed.take_if(|at| at.0 == now).is_some()
    }

    pub(super) fn replica(&self) -> Option<&Replica<S>> {
        self.replica.as_ref()
    }

    /// The last number executed, if nothing of it can be undone by a crash any more.
    pub(super) fn executed(&self) -> Option<Seq> {
        self.replica().filter(|_| self.deeds.is_empty()).map(Replica::executed)
    }

    pub(super) fn replica_mut(&mut self) -> Option<&mut Replica<S>> {
        self.replica.as_mut()
    }

    /// Values of its state that are damaged.
    pub(super) fn rotten(&self) -> Vec<Digest> {
        let values = self.replica().into_iter().flat_map(|replica| replica.tree().prefix(&[]));
        let away = values.filter_map(|(_, value)| value.away());
        away.filter(|digest| self.disk.is_rotten(digest)).collect()
    }

    pub(super) fn disk(&self) -> &Disk {
        &self.disk
    }

    pub(super) fn life(&self) -> u64 {
        self.life
    }

    pub(super) fn disk_mut(&mut self) -> &mut Disk {
        &mut self.disk
    }

    /// What its wall clock shows.
    pub(super) fn wall(&self, now: u64) -> Wall {
        self.clock.wall(now)
    }

    pub(super) fn set_clock(&mut self, clock: Clock) {
        self.clock = clock;
    }

    /// The operator gives up what is on a damaged disk.
    pub(super) fn wipe(&mut self) {
        self.disk.wipe(&self.setup.cluster.id);
        self.damaged = false;
    }

    /// It is down, and may be started.
    pub(super) fn is_down(&self) -> bool {
        self.replica.is_none() && !self.damaged
    }

    pub(super) fn is_damaged(&self) -> bool {
        self.damaged
    }

    /// What was wrong with its records at its last start.
    pub(super) fn take_contradiction(&mut self) -> Option<Contradiction> {
        self.contradiction.take()
    }

    pub(super) fn stable(&self) -> Option<u64> {
        self.replica.as_ref().map(|replica| replica.stable().0)
    }

    pub(super) fn describe(&self) -> String {
        self.replica.as_ref().map_or_else(
            || if self.damaged { "damaged" } else { "down" }.into(),
            |replica| format!("{:?}", replica.status()),
        )
    }
}
