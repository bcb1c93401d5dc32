//! Execution in order of sequence numbers, answers, and fast reads (OSDI'99 sections 4.2, 5.1).

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use bftfs_state::Digest;

use crate::auth::Reject;
use crate::config::{NUDGE_BYTES_MAX, RESULT_CACHED_BYTES_MAX, RESULT_INLINE_BYTES_MAX};
use crate::engine::{Record, To};
use crate::message::{Answer, Batch, Fetch, Message, Read, Reply, Request, Tag};
use crate::service::{Nudge, Service};
use crate::types::{ClientId, Lsn, Principal, ReplicaId, Seq, Wall};

use super::state::Kept;
use super::{AnswerKey, Fault, Replica};

/// Bytes of large answers that a replica keeps for clients that ask again.
const ANSWERS_BYTES_MAX: usize = 64 << 20;

/// Large answers of late, oldest first out.
#[derive(Debug, Default)]
pub(super) struct Answers {
    by_tag: BTreeMap<AnswerKey, (u64, Answer)>,
    by_age: BTreeMap<u64, AnswerKey>,
    counter: u64,
    bytes: usize,
}

impl Answers {
    pub(super) fn get(&self, key: &AnswerKey) -> Option<Answer> {
        self.by_tag.get(key).map(|(_, answer)| answer.clone())
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    fn keep(&mut self, key: AnswerKey, answer: Answer) {
        self.bytes += answer.bytes();
        self.counter += 1;
        self.by_age.insert(self.counter, key);
        if let Some((age, old)) = self.by_tag.insert(key, (self.counter, answer)) {
            self.by_age.remove(&age);
            self.bytes -= old.bytes();
        }
        while self.bytes > ANSWERS_BYTES_MAX
            && let Some((_, key)) = self.by_age.pop_first()
        {
            if let Some((_, answer)) = self.by_tag.remove(&key) {
                self.bytes -= answer.bytes();
            }
        }
    }
}

impl<S: Service> Replica<S> {
    /// Executes every batch that is decided, next in order, and here with its bodies.
    pub(super) fn execute_ready(&mut self) {
        while self.transfer.is_none()
            && self.repair.stalled.is_none()
            && !self.diverged
            && let Some((seq, batch)) = self.next_decided()
        {
            let missing = self.missing_of(&batch);
            if !missing.is_empty() {
                self.block(seq, &missing);
                return;
            }
            self.execute(seq, &batch);
        }
        self.propose();
    }

    /// The batch after the last executed one, if it is decided. Asks for it if it is not here.
    fn next_decided(&mut self) -> Option<(Seq, Batch)> {
        let seq = self.state.executed().next();
        let slot = self.log.get(seq)?;
        let digest = slot.decided?;
        let batch = slot.batch(&digest, &self.cluster.id).cloned();
        if batch.is_none() {
            self.want(Fetch::Batch(digest));
        }
        Some((seq, batch?))
    }

    fn execute(&mut self, seq: Seq, batch: &Batch) {
        let body = |digest| self.pool.get(digest).map(|body| body.request.clone());
        let requests: Vec<Request> = batch.requests.iter().filter_map(body).collect();
        assert!(requests.len() == batch.requests.len(), "a batch is executed with its bodies");
        let answers = match self.run(seq, batch, &requests) {
            Ok(answers) => answers,
            Err(damaged) => return self.stall_for(damaged),
        };
        self.executed_lsn = self.executed_mark(seq, batch, &requests);
        for (request, answer) in requests.iter().zip(answers) {
            if let Some(answer) = answer {
                self.answer(request.client, request.tag(), request.replier, answer);
            }
        }
        self.nudge();
        self.tell_astray(seq);
        self.measure_primary(seq);
        for digest in &batch.requests {
            self.pool.order(digest, seq);
            self.pool.executed(digest);
        }
        self.next_seq = self.next_seq.max(seq.next());
        if seq.0.is_multiple_of(self.cluster.checkpoint_interval) {
            self.pool.shed();
            self.take_checkpoint();
        }
    }

    /// Tells clients that what they wait for may have come.
    fn nudge(&mut self) {
        for (client, Nudge { session, about }) in self.state.nudged() {
            assert!(about.len() <= NUDGE_BYTES_MAX, "a nudge is a word");
            let to = To::One(Principal::Client(client));
            self.send_after(self.executed_lsn, to, Message::Nudge(session, about));
        }
    }

    /// Changes the state by a batch, or not at all if a block that it needs is damaged.
    fn run(
        &mut self,
        seq: Seq,
        batch: &Batch,
        requests: &[Request],
    ) -> Result<Vec<Option<Answer>>, Digest> {
        let before = self.state.mark();
        let proposed = if self.broken(Fault::LocalTime) { self.now.wall } else { batch.time };
        let first = self.state.begin(seq, proposed, requests.len());
        let mut answers = Vec::with_capacity(requests.len());
        for (k, request) in (0_u64..).zip(requests) {
            let time = Wall(first.0.saturating_add(k));
            answers.push(self.state.execute(&self.cluster.id, request, time));
        }
        match self.state.missed() {
            Some(damaged) => {
                self.state.undo(before);
                Err(damaged)
            }
            None => Ok(answers),
        }
    }

    /// The record that keeps this execution from being forgotten: the own COMMIT, or else a mark
    /// with the batch. Nothing is answered before it is durable.
    fn executed_mark(&mut self, seq: Seq, batch: &Batch, requests: &[Request]) -> Lsn {
        let slot = self.log.get(seq);
        let own = slot.filter(|slot| slot.prepared.map(|(_, digest)| digest) == slot.decided);
        if let Some(slot) = own {
            return slot.prepared_lsn.max(self.executed_lsn);
        }
        self.append(Record::Learned { seq, batch: batch.clone(), requests: requests.to_vec() });
        self.appended
    }

    fn answer(&mut self, client: ClientId, tag: Tag, replier: ReplicaId, answer: Answer) {
        let digest = answer.digest(&self.cluster.id);
        let bytes = answer.bytes();
        let whole = bytes <= RESULT_INLINE_BYTES_MAX || replier == self.me;
        if bytes > RESULT_CACHED_BYTES_MAX && !matches!(tag, Tag::Read(..)) {
            self.answers.keep((client, tag), answer.clone());
        }
        self.reply(client, tag, digest, whole.then_some(answer));
    }

    fn reply(&mut self, client: ClientId, tag: Tag, digest: Digest, answer: Option<Answer>) {
        let reply = Message::Reply(Reply { tag, view: self.view, digest, answer });
        self.send_after(self.executed_lsn, To::One(Principal::Client(client)), reply);
    }

    /// Answers a request that was executed before: whole, if that is still here.
    pub(super) fn answer_again(&mut self, client: ClientId, tag: Tag, kept: Kept) {
        match (kept, self.answers.get(&(client, tag))) {
            (Kept::Whole(answer), _) | (Kept::Digest(_), Some(answer)) => {
                let digest = answer.digest(&self.cluster.id);
                self.reply(client, tag, digest, Some(answer));
            }
            (Kept::Digest(digest), None) => self.reply(client, tag, digest, None),
        }
    }

    /// A fast read is answered iff
    /// - the client is in the cluster;
    /// - this replica has executed again all that it had executed before a restart;
    /// - the operation changes nothing as the state is, says the service (else the answer says so).
    pub(super) fn on_read(&mut self, from: ClientId, read: &Read) -> Result<(), Reject> {
        if !self.cluster.clients.contains_key(&from) {
            return Err(Reject::Role);
        }
        let early = self.state.executed() < self.barrier && !self.broken(Fault::NoBarrier);
        if early || self.transfer.is_some() {
            return Err(Reject::Stale);
        }
        let answer = self.state.query(from, read.session, &read.operation);
        let answer = answer.map_err(|damaged| {
            self.lack(damaged);
            Reject::Damaged
        })?;
        self.answer(from, Tag::Read(read.session, read.number), read.replier, answer);
        Ok(())
    }

    /// A client asks for a whole answer that it has the digest of.
    pub(super) fn on_ask(&mut self, from: ClientId, tag: Tag) -> Result<(), Reject> {
        let recent = self.answers.get(&(from, tag));
        let answer = recent.or_else(|| self.state.kept(from, tag)).ok_or(Reject::Stale)?;
        self.reply(from, tag, answer.digest(&self.cluster.id), Some(answer));
        Ok(())
    }
}
