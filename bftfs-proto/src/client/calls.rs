//! The calls under way, by tag and by when they are due.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use bftfs_state::Digest;
use bytes::Bytes;

use crate::message::{Message, Tag};
use crate::types::{Mono, ReplicaId};

use super::RETRY_NANOS;
use super::tally::Tally;

/// An operation on its way.
#[derive(Debug)]
pub(super) struct Call {
    /// The user's name for it; `None` once the user was told that the deadline passed, and for the
    /// opening of a session. An ordered request goes on all the same: its slot is not free before.
    pub(super) ticket: Option<u64>,
    pub(super) operation: Bytes,
    pub(super) deadline: Option<Mono>,
    pub(super) tag: Tag,
    pub(super) message: Message,
    pub(super) tally: Tally,
    /// A quorum agrees on this digest, and the whole answer is still to come.
    pub(super) agreed: Option<Digest>,
    /// How often all were asked for it.
    pub(super) asks: u32,
    pub(super) pause: u64,
    pub(super) retry_at: Mono,
    /// When this call stands in the index of due times.
    indexed: Mono,
}

impl Call {
    /// An operation that was not sent yet.
    pub(super) fn new(ticket: u64, operation: Bytes, deadline: Mono, now: Mono) -> Self {
        // The tag and message are set when it is sent.
        let mut call = Self::opening(Tag::Open(0), Message::Ask(Tag::Open(0)), now);
        call.ticket = Some(ticket);
        call.operation = operation;
        call.deadline = Some(deadline);
        call
    }

    /// The opening of a session: nobody waits for it but the queue.
    pub(super) fn opening(tag: Tag, message: Message, now: Mono) -> Self {
        Self {
            ticket: None,
            operation: Bytes::new(),
            deadline: None,
            tag,
            message,
            tally: Tally::default(),
            agreed: None,
            asks: 0,
            pause: 0,
            retry_at: now.after(RETRY_NANOS),
            indexed: now,
        }
    }

    pub(super) fn sent(&mut self, tag: Tag, message: Message) {
        self.tag = tag;
        self.message = message;
    }

    /// Forgets what was answered: the operation is to be sent in another way.
    pub(super) fn reset(&mut self) {
        self.tally = Tally::default();
        self.agreed = None;
        self.asks = 0;
        self.pause = 0;
    }

    /// Who is to send the whole of a large answer.
    pub(super) fn replier(&self) -> Option<ReplicaId> {
        match &self.message {
            Message::Request(request) => Some(request.replier),
            Message::Read(read) => Some(read.replier),
            _ => None,
        }
    }

    fn due(&self) -> Mono {
        self.deadline.map_or(self.retry_at, |deadline| deadline.min(self.retry_at))
    }
}

/// All calls under way.
#[derive(Debug, Default)]
pub(super) struct Calls {
    by_tag: BTreeMap<Tag, Call>,
    by_due: BTreeSet<(Mono, Tag)>,
}

impl Calls {
    pub(super) fn insert(&mut self, call: Call) {
        let tag = call.tag;
        self.by_tag.insert(tag, call);
        self.reschedule(tag);
    }

    pub(super) fn get_mut(&mut self, tag: &Tag) -> Option<&mut Call> {
        self.by_tag.get_mut(tag)
    }

    pub(super) fn remove(&mut self, tag: &Tag) -> Option<Call> {
        let call = self.by_tag.remove(tag)?;
        self.by_due.remove(&(call.indexed, *tag));
        Some(call)
    }

    /// To be called when a call's `retry_at` or deadline has changed.
    pub(super) fn reschedule(&mut self, tag: Tag) {
        if let Some(call) = self.by_tag.get_mut(&tag) {
            self.by_due.remove(&(call.indexed, tag));
            call.indexed = call.due();
            self.by_due.insert((call.indexed, tag));
        }
    }

    /// When the next call is due.
    pub(super) fn due(&self) -> Option<Mono> {
        self.by_due.first().map(|(due, _)| *due)
    }

    /// A call that is to be tried again by `now`.
    pub(super) fn next_due(&self, now: Mono) -> Option<Tag> {
        self.by_due.first().filter(|(due, _)| *due <= now).map(|(_, tag)| *tag)
    }

    /// Gives up those whose deadline has passed and returns their tickets. A read is forgotten; an
    /// ordered request goes on without its user.
    pub(super) fn expire(&mut self, now: Mono) -> Vec<u64> {
        let late = |call: &Call| call.deadline.is_some_and(|deadline| deadline <= now);
        let due = self.by_due.iter().take_while(|(due, _)| *due <= now);
        let tags: Vec<Tag> = due.map(|(_, tag)| *tag).collect();
        let mut tickets = Vec::new();
        for tag in tags {
            let Some(call) = self.by_tag.get_mut(&tag).filter(|call| late(call)) else { continue };
            tickets.extend(call.ticket.take());
            call.deadline = None;
            if matches!(tag, Tag::Read(..)) {
                self.remove(&tag);
            } else {
                self.reschedule(tag);
            }
        }
        tickets
    }

    /// Takes out all calls of the session.
    pub(super) fn drain_ordered(&mut self) -> Vec<Call> {
        let ordered = self.by_tag.keys().filter(|tag| matches!(tag, Tag::Ordered(..)));
        let tags: Vec<Tag> = ordered.copied().collect();
        tags.iter().filter_map(|tag| self.remove(tag)).collect()
    }

    /// The messages of all calls.
    pub(super) fn messages(&self) -> Vec<Message> {
        self.by_tag.values().map(|call| call.message.clone()).collect()
    }
}
