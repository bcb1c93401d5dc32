//! Troubles of single replicas with their disks and clocks.

use bftfs_proto::engine::Input;
use bftfs_proto::types::ReplicaId;

use super::{Event, World};
use crate::clock::Clock;
use crate::disk::Rot;
use crate::faults::{Faulty, MILLI};
use crate::invariants::Violation;
use crate::workload::Workload;

impl<W: Workload> World<W> {
    pub(super) fn schedule_trouble(&mut self, id: ReplicaId) {
        if self.plan.trouble_mean > 0 {
            let at = self.rng.u64(0..=2 * self.plan.trouble_mean);
            self.after(at, Event::Trouble(id));
        }
    }

    /// Something goes wrong with a replica's disk or clock: what may go wrong with any, or with
    /// those that are faulty.
    pub(super) fn trouble(&mut self, id: ReplicaId) -> Result<(), Violation> {
        if !self.rough {
            return Ok(());
        }
        self.troubles += 1;
        self.schedule_trouble(id);
        match (self.cast.faulty.get(&id), self.rng.u8(0..3)) {
            (Some(Faulty::Disk), 0 | 1) => return self.damage(id),
            (Some(Faulty::Clock), _) => {
                let clock = Clock::wild(&mut self.rng);
                self.node_mut(id).set_clock(clock);
            }
            (_, 0) => self.node_mut(id).disk_mut().full = true,
            _ => {
                let clock = Clock::tame(&mut self.rng, self.plan.skew);
                self.node_mut(id).set_clock(clock);
            }
        }
        Ok(())
    }

    /// Damages what is on a disk. Its replica finds out when it starts the next time, soon and
    /// often; of a block by looking through its store, or when it needs the block.
    fn damage(&mut self, id: ReplicaId) -> Result<(), Violation> {
        let all =
            [Rot::Record, Rot::Misdirected, Rot::Block, Rot::Value, Rot::Superblock, Rot::All];
        let rot = all[self.rng.usize(0..all.len())];
        let node = &mut self.nodes[id.0 as usize];
        let block = node.disk_mut().befall(&mut self.rng, rot);
        if self.rng.u8(0..4) > if rot == Rot::Value { 2 } else { 0 } {
            let at = self.rng.u64(0..300 * MILLI);
            self.after(at, Event::Crash(id));
        }
        match block.filter(|_| self.rng.bool()) {
            Some(block) => self.input(id, Input::Damaged(block)),
            None => Ok(()),
        }
    }

    /// Everybody looks through its store: what is damaged there is to be brought back.
    pub(super) fn scrub(&mut self) -> Result<(), Violation> {
        for id in self.correct().collect::<Vec<_>>() {
            for block in self.node(id).rotten() {
                self.input(id, Input::Damaged(block))?;
            }
        }
        Ok(())
    }

    /// A replica that found its disk damaged stays down, or is brought back by its operator as one
    /// that knows nothing (protocol.md, R6.5).
    pub(super) fn on_damaged(&mut self, id: ReplicaId) {
        self.damaged += 1;
        if self.rng.u8(0..3) > 0 {
            let at = self.rng.u64(0..3_000 * MILLI);
            self.after(at, Event::Wipe(id));
        }
    }

    pub(super) fn wipe(&mut self, id: ReplicaId) -> Result<(), Violation> {
        self.wiped += 1;
        self.node_mut(id).wipe();
        self.start(id)
    }

    /// A replica that cannot write what it promised stops; somebody makes room and starts it.
    pub(super) fn stops_for_room(&mut self, id: ReplicaId, life: u64) -> bool {
        if life != self.node(id).life() || !self.node(id).disk().full {
            return false;
        }
        let cluster = self.cluster.id;
        self.node_mut(id).crash(&cluster, 0, false);
        self.stops += 1;
        let down = self.rng.u64(0..=self.plan.down_max);
        self.after(down, Event::Restart(id));
        true
    }

    /// Every disk has room again.
    pub(super) fn make_room(&mut self) {
        self.nodes.iter_mut().for_each(|node| node.disk_mut().full = false);
    }
}
