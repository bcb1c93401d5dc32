//! What a Byzantine replica says: a library of lies, one for each way to be faulty.
//!
//! An [`Adversary`] stands between a correct inner replica and the world. It decides what that
//! replica gets to hear, and tampers with what it wants to say. It owns its own signing key and
//! nobody else's: it can lie, but not forge. Seeded, it is as deterministic as the core.
//!
//! The roles are those of a test oracle for PBFT with two left out: a Byzantine *client* is not a
//! replica (the simulator has its own), and *dispersal* of wrong fragments cannot be played,
//! because bodies are not dispersed here.
//!
//! Release builds hold none of this: a node plays a role only if it was built for tests.

mod mind;
mod ordering;
mod proposals;
mod reads;
mod role;
mod silence;
mod state;
mod views;
mod wire;

use std::fmt;

use bftfs_proto::auth::Signer;
use bftfs_proto::config::Cluster;
use bftfs_proto::engine::To;
use bftfs_proto::message::Message;
use bftfs_proto::types::{Now, Principal, ReplicaId};

pub use role::{Role, UnknownRole};

use mind::Mind;

/// What is put on a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Utterance {
    /// A message with its MAC, as any.
    Message(Message),
    /// A message with a MAC that is not the link's.
    BadMac(Message),
    /// Bytes that may be no message, with the MAC that is right for them.
    Sealed(Vec<u8>),
    /// A whole frame: these bytes are where MAC and message should be.
    Raw(Vec<u8>),
}

/// Something that is really said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// To whom.
    pub to: Principal,
    /// How much later than now it is to leave, in nanoseconds.
    pub delay_nanos: u64,
    /// What.
    pub what: Utterance,
}

impl Said {
    fn now(to: impl Into<Receiver>, message: Message) -> Self {
        Self { to: to.into().0, delay_nanos: 0, what: Utterance::Message(message) }
    }
}

/// Replica ids and principals alike name a receiver.
struct Receiver(Principal);

impl From<Principal> for Receiver {
    fn from(to: Principal) -> Self {
        Self(to)
    }
}

impl From<ReplicaId> for Receiver {
    fn from(to: ReplicaId) -> Self {
        Self(Principal::Replica(to))
    }
}

/// One way to lie. What it leaves as it is, the inner replica's truth, is the default.
trait Lie: fmt::Debug + Send {
    /// Whether the inner replica gets to hear this.
    fn hear(&mut self, _: &mut Mind, _: Principal, _: &Message) -> bool {
        true
    }

    /// What is said to one receiver in place of `message`.
    fn say(&mut self, _: &mut Mind, to: Principal, message: Message) -> Vec<Said> {
        vec![Said::now(to, message)]
    }

    /// What is said unprompted.
    fn tick(&mut self, _: &mut Mind) -> Vec<Said> {
        Vec::new()
    }
}

/// A faulty replica's will, around a correct replica.
#[derive(Debug)]
pub struct Adversary {
    role: Role,
    mind: Mind,
    lie: Box<dyn Lie>,
}

impl Adversary {
    /// Replica `me` of `cluster` plays `role`; `seed` decides all that it leaves to chance.
    #[must_use]
    pub fn new(role: Role, cluster: Cluster, me: ReplicaId, signer: Signer, seed: u64) -> Self {
        let mut mind = Mind::new(cluster, me, signer, seed);
        let lie = lie_of(role, &mut mind);
        Self { role, mind, lie }
    }

    /// What it plays.
    #[must_use]
    pub fn role(&self) -> Role {
        self.role
    }

    /// A checked message arrived. `false`: the inner replica is not to get it.
    pub fn hear(&mut self, now: Now, from: Principal, message: &Message) -> bool {
        self.mind.now = now;
        self.lie.hear(&mut self.mind, from, message)
    }

    /// What is really said where the inner replica wants to say `message` to `to`.
    pub fn say(&mut self, now: Now, to: To, message: &Message) -> Vec<Said> {
        self.mind.now = now;
        self.mind.notice(message);
        let receivers = match to {
            To::One(one) => vec![one],
            To::Replicas => self.mind.others().map(Principal::Replica).collect(),
        };
        let lie = |to| self.lie.say(&mut self.mind, to, message.clone());
        let mut said: Vec<Said> = receivers.into_iter().flat_map(lie).collect();
        said.append(&mut self.mind.whispers);
        said
    }

    /// What is said unprompted. To be called about every 50 ms.
    pub fn tick(&mut self, now: Now) -> Vec<Said> {
        self.mind.now = now;
        let mut said = self.lie.tick(&mut self.mind);
        said.append(&mut self.mind.whispers);
        said
    }
}

fn lie_of(role: Role, mind: &mut Mind) -> Box<dyn Lie> {
    match role {
        Role::Equivocate => Box::new(ordering::Equivocate::new(mind)),
        Role::Silent => Box::new(silence::Silent),
        Role::SilentToOne => Box::new(silence::SilentToOne::new(mind)),
        Role::Slow => Box::new(silence::Slow),
        Role::WrongVotes => Box::new(ordering::WrongVotes),
        Role::BadAuth => Box::new(wire::BadAuth::new(mind)),
        Role::Replay => Box::new(wire::Replay::default()),
        Role::Garbage => Box::new(wire::Garbage),
        Role::WithholdBodies => Box::new(proposals::WithholdBodies::default()),
        Role::VcLies => Box::new(views::VcLies),
        Role::BadNewView => Box::new(views::BadNewView::new(mind)),
        Role::BadCheckpoint => Box::new(state::BadCheckpoint::default()),
        Role::PoisonTransfer => Box::new(state::PoisonTransfer::default()),
        Role::WrongReads => Box::new(reads::WrongReads::default()),
        Role::BadTime => Box::new(proposals::BadTime::new(mind)),
        Role::Starve => Box::new(proposals::Starve::new(mind)),
    }
}
