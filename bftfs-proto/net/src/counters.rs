//! What went over the links, and what was refused.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bftfs_proto::message::Message;
use bftfs_proto::types::Principal;
use serde::Serialize;

/// Messages of one kind and their bytes, MAC and length included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// How many.
    pub messages: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Tally {
    fn add(&mut self, bytes: usize) {
        self.messages += 1;
        self.bytes += bytes as u64;
    }
}

/// All counters at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CounterReport {
    /// Messages sent, by kind.
    pub sent: BTreeMap<&'static str, Tally>,
    /// Messages received and verified, by kind.
    pub received: BTreeMap<&'static str, Tally>,
    /// What was refused, by who sent it and why. Handshakes that fail are `nobody`'s.
    pub rejects: BTreeMap<String, u64>,
    /// Messages that were not sent because the peer's queue was full or it was not connected.
    pub unsent: BTreeMap<String, u64>,
}

impl CounterReport {
    /// All that was sent.
    #[must_use]
    pub fn total_sent(&self) -> Tally {
        total(&self.sent)
    }

    /// All that was received and verified.
    #[must_use]
    pub fn total_received(&self) -> Tally {
        total(&self.received)
    }
}

fn total(tallies: &BTreeMap<&'static str, Tally>) -> Tally {
    tallies.values().fold(Tally::default(), |sum, tally| Tally {
        messages: sum.messages + tally.messages,
        bytes: sum.bytes + tally.bytes,
    })
}

#[derive(Debug, Default)]
struct Counts {
    sent: BTreeMap<&'static str, Tally>,
    received: BTreeMap<&'static str, Tally>,
    rejects: BTreeMap<(Option<Principal>, String), u64>,
    unsent: BTreeMap<Principal, u64>,
}

/// Counters that every task of the links shares. Members and reasons are few, so they are bounded.
#[derive(Debug, Default)]
pub(crate) struct Counters(Mutex<Counts>);

impl Counters {
    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn sent(&self, kind: &'static str, bytes: usize) {
        self.counts().sent.entry(kind).or_default().add(bytes);
    }

    pub(crate) fn received(&self, kind: &'static str, bytes: usize) {
        self.counts().received.entry(kind).or_default().add(bytes);
    }

    pub(crate) fn reject(&self, peer: Option<Principal>, reason: impl Into<String>) {
        *self.counts().rejects.entry((peer, reason.into())).or_default() += 1;
    }

    pub(crate) fn unsent(&self, peer: Principal, messages: u64) {
        *self.counts().unsent.entry(peer).or_default() += messages;
    }

    pub(crate) fn report(&self) -> CounterReport {
        let counts = self.counts();
        let who = |peer: &Option<Principal>| {
            peer.map_or_else(|| "nobody".to_owned(), |peer| peer.to_string())
        };
        let reject = |((peer, why), n): (&(Option<Principal>, String), &u64)| {
            (format!("{}: {why}", who(peer)), *n)
        };
        CounterReport {
            sent: counts.sent.clone(),
            received: counts.received.clone(),
            rejects: counts.rejects.iter().map(reject).collect(),
            unsent: counts.unsent.iter().map(|(peer, n)| (peer.to_string(), *n)).collect(),
        }
    }
}

/// The name of a message's kind.
pub(crate) fn kind(message: &Message) -> &'static str {
    match message {
        Message::Request(_) => "request",
        Message::Read(_) => "read",
        Message::Ask(_) => "ask",
        Message::Reply(_) => "reply",
        Message::PrePrepare(_) => "pre-prepare",
        Message::Prepare(_) => "prepare",
        Message::Commit(_) => "commit",
        Message::Checkpoint(_) => "checkpoint",
        Message::ViewChange(_) => "view-change",
        Message::NewView(_) => "new-view",
        Message::Status(_) => "status",
        Message::Decided(_) => "decided",
        Message::Fetch(_) => "fetch",
        Message::Data(_) => "data",
        Message::Nudge(..) => "nudge",
    }
}
