//! What only a primary can do: propose at false times, in a false order, without some client, or
//! without bodies. All backups are told the same.

use bftfs_proto::config::{TIME_BOUND_NANOS, TIME_LAG_NANOS};
use bftfs_proto::message::{Body, Data, Message, PrePrepare};
use bftfs_proto::types::{ClientId, Principal, Wall};
use bytes::Bytes;

use crate::mind::Mind;
use crate::ordering::Shown;
use crate::{Lie, Said};

/// Has each batch proposed to replicas changed by `change`, and all else said as it fits.
fn propose_changed(
    shown: &mut Shown,
    mind: &Mind,
    to: Principal,
    message: Message,
    change: impl FnOnce(&mut PrePrepare),
) -> Vec<Said> {
    match (to, message) {
        (Principal::Replica(to), Message::PrePrepare(mut proposal)) => {
            change(&mut proposal);
            shown.propose(mind, to, proposal)
        }
        (to, message) => shown.say(to, message),
    }
}

/// Proposes times that are just acceptable, not acceptable, or always the same.
#[derive(Debug)]
pub(crate) struct BadTime {
    shown: Shown,
    constant: Option<Wall>,
    /// Chosen anew from time to time: all batches of a while are equally wrong.
    kind: u32,
}

impl BadTime {
    pub(crate) fn new(mind: &mut Mind) -> Self {
        Self { shown: Shown::default(), constant: None, kind: mind.rng.u32(0..7) }
    }

    fn time(&mut self, proposed: Wall) -> Wall {
        let second = 1_000_000_000;
        match self.kind {
            0 => Wall(proposed.0.saturating_add(TIME_BOUND_NANOS / 10 * 9)),
            1 => Wall(proposed.0.saturating_sub(TIME_BOUND_NANOS / 10 * 9)),
            2 => Wall(proposed.0.saturating_add(TIME_BOUND_NANOS + 2 * second)),
            3 => Wall(proposed.0.saturating_sub(TIME_LAG_NANOS + 2 * second)),
            4 => Wall(u64::MAX),
            5 => Wall(0),
            _ => *self.constant.get_or_insert(proposed),
        }
    }
}

impl Lie for BadTime {
    fn say(&mut self, mind: &mut Mind, to: Principal, message: Message) -> Vec<Said> {
        let time = match &message {
            Message::PrePrepare(proposal) => self.time(proposal.batch.time),
            _ => Wall(0),
        };
        propose_changed(&mut self.shown, mind, to, message, |p| p.batch.time = time)
    }

    fn tick(&mut self, mind: &mut Mind) -> Vec<Said> {
        if mind.once_in(20) {
            self.kind = mind.rng.u32(0..7);
        }
        Vec::new()
    }
}

/// Never hears or answers one client, and turns the order within each batch around.
#[derive(Debug)]
pub(crate) struct Starve {
    victim: Option<ClientId>,
    shown: Shown,
}

impl Starve {
    pub(crate) fn new(mind: &mut Mind) -> Self {
        let clients: Vec<ClientId> = mind.cluster.clients.keys().copied().collect();
        Self { victim: mind.rng.choice(clients), shown: Shown::default() }
    }

    fn is_victim(&self, whom: Principal) -> bool {
        matches!(whom, Principal::Client(client) if Some(client) == self.victim)
    }
}

impl Lie for Starve {
    fn hear(&mut self, _: &mut Mind, from: Principal, _: &Message) -> bool {
        !self.is_victim(from)
    }

    fn say(&mut self, mind: &mut Mind, to: Principal, message: Message) -> Vec<Said> {
        if self.is_victim(to) {
            return Vec::new();
        }
        propose_changed(&mut self.shown, mind, to, message, |p| p.batch.requests.reverse())
    }
}

/// Proposes requests that nobody has, ignores half of the FETCHes, and damages what it gives away.
#[derive(Debug, Default)]
pub(crate) struct WithholdBodies {
    shown: Shown,
}

impl Lie for WithholdBodies {
    fn hear(&mut self, mind: &mut Mind, _: Principal, message: &Message) -> bool {
        !matches!(message, Message::Fetch(_)) || mind.once_in(2)
    }

    fn say(&mut self, mind: &mut Mind, to: Principal, message: Message) -> Vec<Said> {
        let message = match message {
            Message::Data(Data::Request(mut request)) => {
                if let Body::Operation(.., operation) = &mut request.body {
                    *operation = Bytes::from_static(b"another body");
                }
                Message::Data(Data::Request(request))
            }
            Message::Data(Data::Batch(mut batch)) => {
                batch.requests.pop();
                Message::Data(Data::Batch(batch))
            }
            other => other,
        };
        propose_changed(&mut self.shown, mind, to, message, |p| {
            if p.seq.0.is_multiple_of(4) {
                p.batch.requests.push(bftfs_proto::Digest::of(&p.seq.0.to_le_bytes()));
            }
        })
    }
}
