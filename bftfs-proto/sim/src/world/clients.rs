//! Clients: what they ask for, and the Byzantine ones among them.

use bftfs_proto::client::{ClientInput, ClientOutput, Failure};
use bftfs_proto::config::SESSION_NANOS;
use bftfs_proto::engine::To;
use bftfs_proto::message::Message;
use bftfs_proto::types::{ClientId, Mono, Now, Principal, Wall};

use crate::clock::EPOCH;
use crate::faults::MILLI;
use crate::invariants::Violation;
use crate::workload::Workload;

use super::{Event, Mount, World};

/// The pause between two requests of a Byzantine client, in nanoseconds.
const ROGUE_NANOS: u64 = 50 * MILLI;

impl<W: Workload> World<W> {
    pub(super) fn client_of(&self, mount: Mount) -> ClientId {
        ClientId(1 + mount.0 % self.plan.clients)
    }

    fn client_clock(&self) -> Now {
        Now { mono: Mono(self.now), wall: Wall(EPOCH + self.now) }
    }

    pub(super) fn client_input(&mut self, id: Mount, input: ClientInput) -> Result<(), Violation> {
        let now = self.client_clock();
        if let Some((client, _)) = self.clients.get_mut(&id) {
            client.handle(now, input);
        }
        self.drain_client(id)?;
        self.feed(id)
    }

    pub(super) fn on_client_timer(&mut self, id: Mount) -> Result<(), Violation> {
        let Some((client, armed)) = self.clients.get_mut(&id) else { return Ok(()) };
        // One that was set later, for earlier, has taken this one's place.
        if armed.take_if(|at| *at == self.now).is_none() {
            return Ok(());
        }
        if client.poll_timeout().is_some_and(|due| due.0 <= self.now) {
            return self.client_input(id, ClientInput::Timeout);
        }
        self.arm_client(id);
        Ok(())
    }

    pub(super) fn drain_client(&mut self, id: Mount) -> Result<(), Violation> {
        while let Some(output) = self.clients.get_mut(&id).and_then(|(c, _)| c.poll_output()) {
            match output {
                ClientOutput::Send { to, message } => {
                    self.note_issued(&message);
                    self.send(Principal::Client(self.client_of(id)), to, &message);
                }
                // None is carried.
                ClientOutput::Nudge { .. } => {}
                ClientOutput::Complete { ticket, result } => {
                    self.outstanding.remove(&ticket);
                    match result {
                        Ok(result) => self.workload.told(ticket, &result)?,
                        Err(Failure::ResultLost) if self.workload.may_be_lost(ticket) => {}
                        // It may have been carried out.
                        Err(Failure::SessionLost) if self.sessions_are_short() => {}
                        Err(why) => return Err(format!("I13: {ticket} failed: {why}")),
                    }
                }
            }
        }
        self.arm_client(id);
        Ok(())
    }

    fn sessions_are_short(&self) -> bool {
        self.cluster.session_nanos < SESSION_NANOS
    }

    fn note_issued(&mut self, message: &Message) {
        if let Message::Request(request) = message {
            self.history.issued(request.digest(&self.cluster.id));
        }
    }

    fn arm_client(&mut self, id: Mount) {
        let Some((client, armed)) = self.clients.get_mut(&id) else { return };
        let Some(due) = client.poll_timeout() else { return };
        if armed.is_none_or(|at| due.0 < at) {
            let at = due.0.max(self.now + 1);
            *armed = Some(at);
            self.after(at - self.now, Event::ClientTimer(id));
        }
    }

    /// Has a client ask until it has as much outstanding as it may.
    pub(super) fn feed(&mut self, id: Mount) -> Result<(), Violation> {
        loop {
            let asked = self.asked.entry(id).or_default();
            let mine = self.outstanding.values().filter(|of| **of == id).count() as u64;
            if *asked >= self.plan.operations || mine >= self.plan.outstanding {
                return Ok(());
            }
            *asked += 1;
            let ticket = (u64::from(id.0) + 1) * 1_000_000 + *asked;
            self.outstanding.insert(ticket, id);
            let (operation, how) = self.workload.ask(&mut self.rng, ticket);
            let deadline = Mono(u64::MAX);
            let now = self.client_clock();
            if let Some((client, _)) = self.clients.get_mut(&id) {
                client.handle(now, ClientInput::Submit { ticket, operation, how, deadline });
            }
            self.drain_client(id)?;
        }
    }

    pub(super) fn tick_rogue(&mut self, index: usize) {
        let now = self.client_clock();
        let workload = &self.workload;
        let Some(rogue) = self.rogues.get_mut(index) else { return };
        let from = Principal::Client(rogue.id());
        let said = rogue.tick(now, |rng| workload.rogue_operation(rng));
        for (to, message) in said {
            self.note_issued(&message);
            self.send(from, To::One(Principal::Replica(to)), &message);
        }
        self.after(ROGUE_NANOS, Event::Rogue(index));
    }
}
