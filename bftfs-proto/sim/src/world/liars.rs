//! Byzantine replicas: correct ones whose every word goes through an adversary.

use bftfs_adversary::{Adversary, Said, Utterance};
use bftfs_proto::engine::To;
use bftfs_proto::message::Message;
use bftfs_proto::types::{Principal, ReplicaId};

use crate::faults::MILLI;
use crate::workload::Workload;

use super::{Event, FAULTS_NANOS, World, signer};

/// The pause between two lies that nobody asked for, in nanoseconds.
const TICK_NANOS: u64 = 50 * MILLI;

impl<W: Workload> World<W> {
    /// Gives every Byzantine replica its first role and sets the times of its others.
    pub(super) fn cast_liars(&mut self) {
        for (id, roles) in self.cast.liars.clone() {
            for _ in roles.iter().skip(1) {
                let at = self.rng.u64(0..FAULTS_NANOS);
                self.after(at, Event::Turn(id));
            }
            self.take_role(id);
            self.after(TICK_NANOS, Event::Tick(id));
        }
        for index in 0..self.rogues.len() {
            self.after(TICK_NANOS, Event::Rogue(index));
        }
    }

    fn take_role(&mut self, id: ReplicaId) {
        let Some(role) = self.cast.liars.get(&id).and_then(|roles| roles.first()) else { return };
        let cluster = self.cluster.clone();
        let liar = Adversary::new(*role, cluster, id, signer(0, id.0), self.rng.u64(..));
        self.liars.insert(id, liar);
    }

    /// The replica takes up its next role; the one that it had comes last.
    pub(super) fn turn_liar(&mut self, id: ReplicaId) {
        if let Some(roles) = self.cast.liars.get_mut(&id) {
            roles.rotate_left(1);
        }
        self.take_role(id);
    }

    pub(super) fn tick_liar(&mut self, id: ReplicaId) {
        let now = self.clock(id);
        let up = self.node(id).replica().is_some();
        if let (Some(liar), true) = (self.liars.get_mut(&id), up) {
            let said = liar.tick(now);
            self.utter(id, said);
        }
        self.after(TICK_NANOS, Event::Tick(id));
    }

    /// Whether the inner replica of a Byzantine one gets to hear `message`.
    pub(super) fn hears(&mut self, id: ReplicaId, from: Principal, message: &Message) -> bool {
        let now = self.clock(id);
        self.liars.get_mut(&id).is_none_or(|liar| liar.hear(now, from, message))
    }

    /// A replica says something; a Byzantine one, something else.
    pub(super) fn speak(&mut self, id: ReplicaId, to: To, message: &Message) {
        let now = self.clock(id);
        match self.liars.get_mut(&id) {
            Some(liar) => {
                let said = liar.say(now, to, message);
                self.utter(id, said);
            }
            None => self.send(Principal::Replica(id), to, message),
        }
    }

    fn utter(&mut self, id: ReplicaId, said: Vec<Said>) {
        let from = Principal::Replica(id);
        for Said { to, delay_nanos, what } in said {
            let key = self.network.key(from, to);
            let frame = match what {
                Utterance::Message(message) => key.seal(&message.encode()),
                Utterance::Sealed(bytes) => key.seal(&bytes),
                Utterance::Raw(bytes) => bytes,
                Utterance::BadMac(message) => {
                    let mut frame = key.seal(&message.encode());
                    frame[0] ^= 1;
                    frame
                }
            };
            self.put_on_link(from, to, delay_nanos, &frame);
        }
    }

    /// Whether nothing fails in this run but what Byzantine backups and clients do: then nobody
    /// has a reason to leave the first view.
    pub(super) fn is_undisturbed(&self) -> bool {
        let plan = &self.plan;
        let sound = plan.stalls + plan.trouble_mean == 0 && self.cast.faulty.is_empty();
        let calm = sound && plan.loss + plan.crash_mean + plan.partition_mean == 0;
        let first = self.cluster.primary(bftfs_proto::types::View(0));
        let tolerated = self.cast.liars.len() <= self.cluster.f();
        calm && tolerated && plan.sabotage.is_none() && self.rough && self.is_correct(first)
    }
}
