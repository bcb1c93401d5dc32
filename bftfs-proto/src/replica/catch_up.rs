//! Asking for what is missing and giving what others lack. Driven by state, not by connections:
//! each replica says where it is (STATUS), and its peers send again what it has not (TOCS'02, 5.2).

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use bftfs_state::Digest;

use crate::auth::Reject;
use crate::config::{BATCH_REQUESTS_MAX, FETCH_BLOCK_PAUSE_NANOS, FETCH_PAUSE_NANOS};
use crate::config::{STATUS_BUSY_NANOS, STATUS_IDLE_NANOS};
use crate::engine::{Output, To};
use crate::message::{
    Batch, Data, Decided, Fetch, Message, PrePrepare, Request, SlotStatus, Status, Vote,
};
use crate::service::Service;
use crate::types::{Mono, Principal, ReplicaId, Seq};

use super::log::Slot;
use super::request::is_signed;
use super::state::Standing;
use super::{Fault, Replica};

/// Sequence numbers for which votes are sent again in answer to one STATUS.
const RESEND_SEQS_MAX: usize = 32;

/// Requests that no client signed and that one backup may show its primary in one STATUS period.
const FORGERIES_MAX: u32 = 16;

/// How often in a row a replica may fail to give what it is asked for, and be asked like others.
const UNANSWERED_MAX: u32 = 3;

/// Something asked for.
#[derive(Clone, Debug)]
pub(super) struct Want {
    /// When it is asked for next.
    pub(super) due: Mono,
    /// How often it was asked for: each time of another replica.
    attempts: u32,
    /// Who was asked since all were, the last one last.
    asked: Vec<ReplicaId>,
}

impl<S: Service> Replica<S> {
    /// Asks for `what` after a pause, in which it may come by itself.
    pub(super) fn want(&mut self, what: Fetch) {
        let due = match what {
            Fetch::Request(_) => self.now.mono.after(FETCH_PAUSE_NANOS),
            Fetch::Batch(_) | Fetch::Stable(_) | Fetch::Block(_) => self.now.mono,
        };
        self.wants.entry(what).or_insert(Want { due, attempts: 0, asked: Vec::new() });
    }

    pub(super) fn on_timeout(&mut self) {
        self.ask();
        self.review_primary();
        if self.now.mono >= self.status_due() {
            self.forgeries.clear();
            self.consider_transfer();
            self.observe_primary();
            self.propose_nothing();
            self.try_awake();
            self.send_status();
        }
    }

    pub(super) fn status_due(&self) -> Mono {
        let open = self.log.iter().next_back().is_some_and(|(seq, _)| seq > self.state.executed());
        let listens = self.amnesia.is_some() || !self.awaited.is_empty();
        let waits = !self.views.active || !self.pool.is_idle() || listens;
        let lags = self.transfer.is_some() || !self.checkpoints.ahead.is_empty();
        let busy = open || waits || lags || !self.wants.is_empty();
        self.last_status.after(if busy { STATUS_BUSY_NANOS } else { STATUS_IDLE_NANOS })
    }

    /// Asks for everything that is due, each thing of one replica at a time, in turn.
    fn ask(&mut self) {
        let now = self.now.mono;
        let due = self.wants.iter().filter(|(_, want)| want.due <= now);
        let due: Vec<Fetch> = due.map(|(what, _)| *what).collect();
        let mut wanted: BTreeMap<ReplicaId, Vec<Fetch>> = BTreeMap::new();
        let mut silent = BTreeSet::new();
        for what in due {
            let Some(mut want) = self.wants.remove(&what) else { continue };
            silent.extend(want.asked.last().copied());
            if self.is_given_up(&what, want.attempts) {
                continue;
            }
            want.attempts += 1;
            // A replica alone has nobody to ask.
            if let Some(next) = self.whom_to_ask(&what, &mut want.asked) {
                want.asked.push(next);
                wanted.entry(next).or_default().push(what);
                let besides = self.proposer(&what).filter(|id| want.attempts == 1 && *id != next);
                besides.into_iter().for_each(|id| wanted.entry(id).or_default().push(what));
            }
            let pause = match what {
                Fetch::Block(_) => FETCH_BLOCK_PAUSE_NANOS,
                Fetch::Request(_) | Fetch::Batch(_) | Fetch::Stable(_) => FETCH_PAUSE_NANOS,
            };
            want.due = now.after(pause.saturating_mul(u64::from(want.attempts.min(16))));
            self.wants.insert(what, want);
        }
        for id in silent {
            let times = self.unanswered.entry(id).or_default();
            *times = times.saturating_add(1);
        }
        for (id, wanted) in wanted {
            for part in wanted.chunks(BATCH_REQUESTS_MAX) {
                self.send_to(id, Message::Fetch(part.to_vec()));
            }
        }
    }

    /// Something else came than was asked for: another replica is asked at once, if it was this
    /// one that was to answer.
    pub(super) fn ask_another(&mut self, from: ReplicaId, what: &Fetch) {
        let now = self.now.mono;
        if let Some(want) = self.wants.get_mut(what).filter(|want| want.asked.last() == Some(&from))
        {
            want.due = now;
        }
    }

    /// Who is asked for this first whatever it answered before: the primary for what it proposed.
    /// With a client that sends to it alone, and a backup that is mute, asking elsewhere can take
    /// until an honest primary is suspected.
    fn proposer(&self, what: &Fetch) -> Option<ReplicaId> {
        let proposed = matches!(what, Fetch::Request(_)) && !self.is_primary();
        proposed.then(|| self.cluster.primary(self.view))
    }

    /// Whom to ask next: all in turn, first who has most likely got it, and last whoever does not
    /// answer of late: a liar that leaves a replica out must not cost it a pause for each thing.
    fn whom_to_ask(&self, what: &Fetch, asked: &mut Vec<ReplicaId>) -> Option<ReplicaId> {
        let n = u32::try_from(self.cluster.n()).unwrap_or(u32::MAX);
        let next = ReplicaId((self.me.0 + 1) % n);
        let first = match what {
            Fetch::Request(_) => self.proposer(what).unwrap_or(next),
            // Others stand by it; the primary of all may leave this replica out.
            Fetch::Batch(_) => ReplicaId((self.cluster.primary(self.view).0 + 1) % n),
            // So that one replica need not give a whole state.
            Fetch::Block(digest) => ReplicaId(u32::from(digest.0[0]) % n),
            Fetch::Stable(_) => next,
        };
        if asked.len() + 1 >= self.cluster.n() {
            asked.clear();
        }
        let others = (0..n).map(|step| ReplicaId((first.0 + step) % n));
        let others = others.filter(|id| *id != self.me && !asked.contains(id));
        let silence = |id: &ReplicaId| {
            let times = self.unanswered.get(id).copied().unwrap_or(0);
            if times < UNANSWERED_MAX { 0 } else { times }
        };
        others.min_by_key(silence)
    }

    pub(super) fn send_status(&mut self) {
        self.last_status = self.now.mono;
        let executed = self.state.executed();
        let last = self.log.iter().next_back().map_or(executed, |(seq, _)| seq);
        let slots =
            (executed.0 + 1..=last.0).take(usize::try_from(self.cluster.window).unwrap_or(0));
        let view = self.view;
        let status = |seq| self.log.get(Seq(seq)).map_or(SlotStatus::Empty, |s| s.status(view));
        let slots = slots.map(status).collect();
        let status = Status {
            view: self.view,
            active: self.views.active,
            suspects: self.views.suspects,
            awaits: self.awaited(),
            stable: self.log.low(),
            executed,
            slots,
        };
        self.send(To::Replicas, Message::Status(status));
    }

    /// A peer says where it is: it gets what it lacks, at most once a STATUS period.
    pub(super) fn on_status(&mut self, from: ReplicaId, status: &Status) -> Result<(), Reject> {
        // What this very message brings about is told to all anyway.
        let view = self.view;
        self.listen(from, status);
        match status.awaits {
            Some(seq) => self.awaited.insert(from, seq),
            None => self.awaited.remove(&from),
        };
        if status.view == view && status.active {
            self.astray.remove(&from);
        } else {
            self.astray.insert(from);
        }
        self.on_suspicion(from, status.view, status.suspects);
        let now = self.now.mono;
        let soon = |last: &Mono| now < last.after(STATUS_BUSY_NANOS / 2);
        if self.answered.get(&from).is_some_and(soon) {
            return Err(Reject::Quota);
        }
        self.answered.insert(from, now);
        if status.view < view || (status.view == view && !status.active) {
            self.show_view(from);
        }
        if status.stable < self.log.low() {
            self.send_stable(from);
        }
        self.resend_claims(from, status.stable);
        self.send_decided(from, status.executed);
        self.resend_votes(from, status);
        Ok(())
    }

    fn send_stable(&mut self, to: ReplicaId) {
        if self.broken(Fault::HideStable) {
            return;
        }
        let root = self.checkpoints.own(self.log.low()).copied();
        if let (Some(root), false) = (root, self.checkpoints.stable.is_empty()) {
            let certificate = self.checkpoints.stable.clone();
            self.send_to(to, Message::Data(Data::Stable(certificate, root)));
        }
    }

    fn send_decided(&mut self, to: ReplicaId, executed: Seq) {
        let decided = |(seq, slot): (Seq, &Slot)| Some((seq, slot.decided?));
        let after = self.log.iter().filter(|(seq, _)| *seq > executed);
        let batches: Vec<(Seq, Digest)> = after.filter_map(decided).collect();
        if !batches.is_empty() && !self.broken(Fault::HideDecided) {
            self.send_to(to, Message::Decided(Decided { batches }));
        }
    }

    /// Whoever left the view alone, as one liar can bring it to, is told at once what the others
    /// decide: their clients may need its answers, for the liar need not give any.
    pub(super) fn tell_astray(&mut self, seq: Seq) {
        let decided = self.log.get(seq).and_then(|slot| slot.decided);
        let told = self.views.active && !self.broken(Fault::HideDecided);
        let Some(digest) = decided.filter(|_| told) else { return };
        for id in self.astray.clone() {
            self.send_to(id, Message::Decided(Decided { batches: alloc::vec![(seq, digest)] }));
        }
    }

    fn resend_votes(&mut self, to: ReplicaId, status: &Status) {
        if status.view != self.view || !status.active || !self.views.active {
            return;
        }
        let theirs = |seq: Seq| {
            let index = seq.0.checked_sub(status.executed.0)?.checked_sub(1)?;
            Some(*status.slots.get(usize::try_from(index).ok()?).unwrap_or(&SlotStatus::Empty))
        };
        let mut messages = Vec::new();
        let open = self.log.iter().filter_map(|(seq, slot)| Some((seq, slot, theirs(seq)?)));
        for (seq, slot, theirs) in open.take(RESEND_SEQS_MAX) {
            let Some(accepted) = slot.accepted.as_ref().filter(|a| a.view == self.view) else {
                continue;
            };
            let (view, digest) = (accepted.view, accepted.digest);
            let vote = Vote { view, seq, digest };
            if theirs == SlotStatus::Empty && self.is_primary() {
                let batch = accepted.batch.clone();
                messages.push(Message::PrePrepare(PrePrepare { view, seq, batch }));
            }
            if theirs <= SlotStatus::Accepted && !self.is_primary() {
                messages.push(Message::Prepare(vote));
            }
            if theirs <= SlotStatus::Prepared && slot.prepared == Some((view, digest)) {
                messages.push(Message::Commit(vote));
            }
        }
        messages.into_iter().for_each(|message| self.send_to(to, message));
    }

    /// Claims of w replicas decide: one of them is correct, and it says that the batch committed.
    pub(super) fn on_decided(&mut self, from: ReplicaId, decided: &Decided) -> Result<(), Reject> {
        let weak = if self.broken(Fault::BelieveOne) { 1 } else { self.cluster.weak() };
        for (seq, digest) in &decided.batches {
            if *seq <= self.state.executed() {
                continue;
            }
            let slot = self.log.slot(*seq)?;
            slot.claims.insert(from, *digest);
            let matching = slot.claims.values().filter(|claim| *claim == digest).count();
            if matching >= weak && slot.decided.is_none() {
                self.decide(*seq, *digest);
            }
        }
        Ok(())
    }

    /// A peer asks for content by its hash.
    pub(super) fn on_fetch(&mut self, from: ReplicaId, wanted: &[Fetch]) -> Result<(), Reject> {
        for what in wanted {
            match what {
                Fetch::Request(digest) => {
                    if let Some(body) = self.pool.get(digest) {
                        let request = body.request.clone();
                        self.send_to(from, Message::Data(Data::Request(request)));
                    }
                }
                Fetch::Batch(digest) => {
                    let cluster = self.cluster.id;
                    let found = self.log.iter().find_map(|(_, slot)| slot.batch(digest, &cluster));
                    if let Some(batch) = found.cloned() {
                        self.send_to(from, Message::Data(Data::Batch(batch)));
                    }
                }
                Fetch::Stable(seq) if self.log.low() >= *seq => self.send_stable(from),
                Fetch::Stable(_) => {}
                Fetch::Block(digest) => {
                    let to = Principal::Replica(from);
                    self.outputs.push_back(Output::Serve(to, *digest));
                }
            }
        }
        Ok(())
    }

    /// Content came. It is used iff it was asked for and hashes to the name it was asked by.
    pub(super) fn on_data(&mut self, from: ReplicaId, data: Data) -> Result<(), Reject> {
        // A certificate comes unasked, too.
        let answers = !matches!(data, Data::Stable(..));
        match data {
            Data::Request(request) => self.on_request_body(from, request),
            Data::Batch(batch) => self.on_batch(&batch),
            Data::Stable(certificate, root) => self.on_stable_data(certificate, &root),
            Data::Block(digest, bytes) => self.on_block(from, digest, bytes),
        }?;
        if answers {
            self.unanswered.remove(&from);
        }
        Ok(())
    }

    /// A batch that was decided or chosen, and was not here.
    fn on_batch(&mut self, batch: &Batch) -> Result<(), Reject> {
        let digest = batch.digest(&self.cluster.id);
        self.wants.remove(&Fetch::Batch(digest)).ok_or(Reject::Unasked)?;
        let awaited = |slot: &Slot| {
            slot.decided == Some(digest) || slot.chosen.is_some_and(|(_, d)| d == digest)
        };
        let open = self.log.iter().filter(|(_, slot)| awaited(slot));
        let seqs: Vec<Seq> = open.map(|(seq, _)| seq).collect();
        for seq in seqs {
            if let Some(slot) = self.log.get_mut(seq) {
                slot.learned = Some(batch.clone());
            }
            self.pursue(seq);
        }
        self.gather();
        self.execute_ready();
        Ok(())
    }

    /// A relayed request is used iff
    /// - a batch here waits for it, or a backup shows it to its primary, and showed few bad ones in
    ///   this STATUS period;
    /// - its client signed it, or a correct replica is known to have accepted it.
    fn on_request_body(&mut self, from: ReplicaId, request: Request) -> Result<(), Reject> {
        let digest = request.digest(&self.cluster.id);
        let vouched = |seq: &Seq| {
            let slot = self.log.get(*seq);
            slot.is_some_and(|slot| slot.decided.is_some() || slot.chosen.is_some())
        };
        match self.blocked.get(&digest) {
            Some(seqs) if seqs.iter().any(vouched) => return self.take_in(digest, request, false),
            Some(_) => {}
            None => self.admit_relay(from, &digest, &request)?,
        }
        if !is_signed(&self.cluster, &request) {
            *self.forgeries.entry(from).or_default() += 1;
            return Err(Reject::Signature);
        }
        self.take_in(digest, request, true)?;
        self.propose();
        Ok(())
    }

    fn admit_relay(
        &mut self,
        from: ReplicaId,
        digest: &Digest,
        request: &Request,
    ) -> Result<(), Reject> {
        if !self.is_primary() || !self.views.active {
            return Err(Reject::Unasked);
        }
        let known = self.pool.get(digest).is_some_and(|body| body.verified);
        if known || !matches!(self.state.standing(request), Standing::Fresh) {
            return Err(Reject::Stale);
        }
        let forged = self.forgeries.get(&from).is_some_and(|forged| *forged >= FORGERIES_MAX);
        if forged || !self.pool.has_room(request) {
            return Err(Reject::Quota);
        }
        Ok(())
    }
}
