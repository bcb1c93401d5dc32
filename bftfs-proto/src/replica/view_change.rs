//! View changes: leaving a view, and beginning the next (OSDI'99 section 4.4, TOCS'02 section 4.5).
//!
//! A view is left when w replicas are against it (`suspicion` says when one is), and for ever: the
//! promise is durable before it is told. A view begins with a NEW-VIEW that holds a quorum of
//! VIEW-CHANGEs whole; every replica computes what follows from them by itself ([`super::choice`]).

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use bftfs_state::Digest;

use crate::auth::{Reject, Signature};
use crate::config::{STATUS_BUSY_NANOS, VIEW_TIMEOUT_NANOS, VIEW_TIMEOUT_NANOS_MAX};
use crate::engine::{Record, To};
use crate::message::{Batch, Checkpoint, Message, NewView, ViewChange, Vote};
use crate::service::Service;
use crate::types::{Mono, ReplicaId, Seq, View};

use super::choice::{Choice, check_change, check_new_view, choose};
use super::log::{Accepted, Slot};
use super::suspicion::Conduct;
use super::{Fault, Replica};

/// What is known of the present view and of those to come.
#[derive(Debug)]
pub(super) struct Views {
    /// The present view has begun here.
    pub(super) active: bool,
    /// When it did, or when this replica left the one before.
    pub(super) since: Mono,
    /// What the last view that was active began with; none for view 0.
    pub(super) new_view: Option<NewView>,
    /// The latest view-change of each replica, for the present view or a later one.
    changes: BTreeMap<ReplicaId, ViewChange>,
    /// When a view-change of each replica was looked at last, and a new-view.
    heard: BTreeMap<(ReplicaId, Proof), Mono>,
    /// Other replicas that suspect the primary of the present view.
    pub(super) suspecting: BTreeSet<ReplicaId>,
    /// This one does.
    pub(super) suspects: bool,
    /// Since when a quorum has been waiting for this view to begin.
    pub(super) waiting: Option<Mono>,
    /// How long a request may wait, and a quorum for a new view, in nanoseconds.
    pub(super) timeout: u64,
    /// How the primary of the present view has served so far.
    pub(super) conduct: Conduct,
    /// Views that this replica left.
    pub(super) left: u64,
}

/// What carries signatures that are to be checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Proof {
    ViewChange,
    NewView,
}

impl Views {
    pub(super) fn starting_at(now: Mono) -> Self {
        Self {
            active: true,
            since: now,
            new_view: None,
            changes: BTreeMap::new(),
            heard: BTreeMap::new(),
            suspecting: BTreeSet::new(),
            suspects: false,
            waiting: None,
            timeout: VIEW_TIMEOUT_NANOS,
            conduct: Conduct::default(),
            left: 0,
        }
    }

    /// View-changes that are held.
    pub(super) fn changes(&self) -> usize {
        self.changes.len()
    }

    /// Work goes on: the next primary need not be given longer than this one needed.
    pub(super) fn relax(&mut self) {
        self.timeout = (self.timeout / 2).max(VIEW_TIMEOUT_NANOS);
    }

    fn turn(&mut self, now: Mono) {
        self.since = now;
        self.suspecting.clear();
        self.suspects = false;
        self.waiting = None;
        self.conduct = Conduct::default();
    }

    /// Checking signatures costs: whoever sends many waits. The next primary's new-view comes soon
    /// after its view-change, and must not wait.
    fn admit(&mut self, from: ReplicaId, what: Proof, now: Mono) -> Result<(), Reject> {
        let soon = |last: &Mono| now < last.after(STATUS_BUSY_NANOS / 4);
        if self.heard.get(&(from, what)).is_some_and(soon) {
            return Err(Reject::Quota);
        }
        self.heard.insert((from, what), now);
        Ok(())
    }
}

impl<S: Service> Replica<S> {
    /// Leaves the present view for `target` and says what it stands by.
    fn leave_view(&mut self, target: View) {
        assert!(target > self.view, "views only go forward");
        self.view = target;
        self.views.left += 1;
        self.views.active = false;
        self.views.timeout = self.views.timeout.saturating_mul(2).min(VIEW_TIMEOUT_NANOS_MAX);
        self.views.turn(self.now.mono);
        self.append(Record::View(target));
        self.forget_proposals();
        self.testify();
        self.views.changes.retain(|_, change| change.view >= target);
        self.gather();
    }

    /// Says what it stands by, once its promise is durable.
    pub(super) fn testify(&mut self) {
        let change = self.view_change();
        self.views.changes.insert(self.me, change.clone());
        self.send(To::Replicas, Message::ViewChange(change));
    }

    /// What this replica stands by on its way to the present view.
    fn view_change(&self) -> ViewChange {
        // A certificate of a later checkpoint than the own one is as good: the state is agreed.
        let ahead = &self.checkpoints.ahead;
        let certificate = if ahead.is_empty() { &self.checkpoints.stable } else { ahead };
        let stable = certificate.first().map_or(Seq(0), |claim| claim.seq);
        let last = Seq(stable.0 + self.cluster.window);
        let open = self.log.iter().filter(|(seq, _)| (stable.next()..=last).contains(seq));
        let (mut prepared, mut accepted) = (Vec::new(), Vec::new());
        for (seq, slot) in open {
            let vote = |(view, digest)| Vote { view, seq, digest };
            prepared.extend(slot.prepared.map(vote));
            let all = slot.accepted.iter().chain(&slot.earlier);
            accepted.extend(all.map(|a| vote((a.view, a.digest))));
        }
        accepted.sort_unstable_by_key(|vote| (vote.seq, vote.digest));
        prepared.retain(|_| !self.broken(Fault::DropPrepared));
        let (certificate, signature) = (certificate.clone(), Signature::NONE);
        let (replica, view) = (self.me, self.view);
        ViewChange { replica, view, stable, certificate, prepared, accepted, signature }
            .sign(&self.cluster.id, &self.signer)
    }

    /// A view-change is stored iff it is for a view that has not begun here, later than its
    /// sender's last, and valid ([`check_change`]).
    pub(super) fn on_view_change(
        &mut self,
        from: ReplicaId,
        change: ViewChange,
    ) -> Result<(), Reject> {
        let known = self.views.changes.get(&from).is_some_and(|known| known.view >= change.view);
        if change.view < self.view || known {
            return Err(Reject::Stale);
        }
        if change.view == self.view && self.views.active {
            self.show_new_view(from);
            return Err(Reject::Stale);
        }
        self.views.admit(from, Proof::ViewChange, self.now.mono)?;
        check_change(&change, &self.cluster)?;
        self.views.changes.insert(from, change);
        self.consider_leaving();
        self.gather();
        Ok(())
    }

    /// Leaves the view when w replicas are against it: one of them is correct. If w have left for
    /// later ones, goes as far as one correct replica has gone.
    pub(super) fn consider_leaving(&mut self) {
        if !self.may_vote() {
            return;
        }
        let view = self.view;
        let beyond = self.views.changes.values().map(|change| change.view);
        let mut beyond: Vec<View> = beyond.filter(|to| *to > view).collect();
        beyond.sort_unstable_by(|a, b| b.cmp(a));
        let enough = if self.broken(Fault::FollowOne) { 1 } else { self.cluster.weak() };
        if let Some(target) = beyond.get(enough - 1) {
            self.leave_view(*target);
            return;
        }
        let gone = |id: &ReplicaId| self.views.changes.get(id).is_some_and(|c| c.view > view);
        let against = |id: &ReplicaId| gone(id) || self.views.suspecting.contains(id);
        let others = self.cluster.ids().filter(against).count();
        if others + usize::from(self.views.suspects) >= self.cluster.weak() {
            self.leave_view(view.next());
        }
    }

    /// Once a quorum has left for this view, its primary has to begin it, in time.
    pub(super) fn gather(&mut self) {
        if self.views.active || !self.may_vote() {
            return;
        }
        let here = self.views.changes.values().filter(|change| change.view >= self.view);
        if here.count() >= self.cluster.quorum() && self.views.waiting.is_none() {
            self.views.waiting = Some(self.now.mono);
        }
        if self.is_primary() {
            self.try_new_view();
        }
    }

    /// The primary begins its view once the view-changes suffice for a choice and it holds all
    /// that was chosen. Else it might not be able to testify in the next view change to what it
    /// proposed in this one: a liar could help one backup to prepare that, and then lack of
    /// witnesses would keep every later view from beginning.
    fn try_new_view(&mut self) {
        let view = self.view;
        let changes = self.views.changes.values().filter(|change| change.view == view);
        let changes: Vec<ViewChange> = changes.cloned().collect();
        let Some(choice) = choose(&self.cluster, &self.misread(changes.clone())) else { return };
        self.on_stable(certificate_of(&changes, choice.stable));
        if self.diverged || !self.obtain(&choice) {
            return;
        }
        let (stable, chosen, signature) = (choice.stable, choice.chosen, Signature::NONE);
        let new_view = NewView { view, changes, stable, chosen, signature };
        let new_view = new_view.sign(&self.cluster.id, &self.signer);
        self.enter_view(new_view);
    }

    /// Whether all that was chosen is here with its bodies. What is not is asked for.
    fn obtain(&mut self, choice: &Choice) -> bool {
        let (view, mut whole) = (self.view, true);
        for (seq, digest) in (choice.stable.0 + 1..).map(Seq).zip(choice.chosen.iter().copied()) {
            if seq <= self.log.low() {
                continue;
            }
            let Ok(slot) = self.log.slot(seq) else { return false };
            slot.chosen = Some((view, digest));
            self.pursue(seq);
            let batch = self.log.get(seq).and_then(|slot| self.find_batch(slot, &digest));
            whole &= batch.is_some_and(|batch| self.missing_of(&batch).is_empty());
        }
        whole
    }

    /// A new-view is accepted iff its view has not begun here and is not over, and it is valid
    /// ([`check_new_view`]). Whoever signs one that is not is no primary to wait for.
    pub(super) fn on_new_view(&mut self, from: ReplicaId, new_view: NewView) -> Result<(), Reject> {
        let view = new_view.view;
        if view < self.view || (view == self.view && self.views.active) || view == View(0) {
            return Err(Reject::Stale);
        }
        self.views.admit(from, Proof::NewView, self.now.mono)?;
        let primary = self.cluster.primary(view);
        let key = self.cluster.replicas.get(primary.0 as usize).ok_or(Reject::Role)?;
        new_view.verify(&self.cluster, key)?;
        let known = |change: &ViewChange| {
            let known = self.views.changes.get(&change.replica) == Some(change);
            known || self.broken(Fault::UnsignedTestimony)
        };
        let checked = check_new_view(&new_view, &self.cluster, known);
        let credulous = self.broken(Fault::AnyChoice) || self.broken(Fault::TrustTestimony);
        if checked.is_err() && !credulous {
            if view == self.view {
                self.views.conduct.condemn();
                self.review_primary();
            }
            return checked;
        }
        self.enter_view(new_view);
        Ok(())
    }

    /// The view begins here. That is durable before any vote in it.
    fn enter_view(&mut self, new_view: NewView) {
        let (view, stable) = (new_view.view, new_view.stable);
        assert!(view >= self.view, "views only go forward");
        self.append(Record::NewView(new_view.clone()));
        self.view = view;
        self.views.active = false;
        self.views.turn(self.now.mono);
        self.views.changes.retain(|_, change| change.view > view);
        self.forget_proposals();
        let free = self.first_free(&new_view).max(self.settled.next());
        self.next_seq = free.max(self.state.executed().next());
        let certificate = certificate_of(&new_view.changes, stable);
        self.views.new_view = Some(new_view.clone());
        self.on_stable(certificate);
        if !self.broken(Fault::LoseRequests) {
            self.pool.requeue();
        }
        self.views.active = true;
        self.adopt_choice();
        // Said when what it chose is durable here, too.
        if self.is_primary() {
            self.send(To::Replicas, Message::NewView(new_view));
        }
        self.execute_ready();
    }

    /// The number after those that the new view chose batches for.
    pub(super) fn first_free(&self, new_view: &NewView) -> Seq {
        Seq(new_view.stable.0 + 1 + new_view.chosen.len() as u64)
    }

    /// Takes what the view chose as its primary's proposals, as far as it lies between the
    /// watermarks: also what is executed already, for others may need the votes.
    pub(super) fn adopt_choice(&mut self) {
        let Some(new_view) = self
            .views
            .new_view
            .as_ref()
            .filter(|new_view| self.views.active && new_view.view == self.view)
        else {
            return;
        };
        let first = new_view.stable.0 + 1;
        let chosen: Vec<(Seq, Digest)> =
            (first..).map(Seq).zip(new_view.chosen.iter().copied()).collect();
        for (seq, digest) in chosen {
            let view = self.view;
            let Ok(slot) = self.log.slot(seq) else { continue };
            if slot.known_in(view).is_some() {
                continue;
            }
            if slot.decided.is_some_and(|decided| decided != digest) {
                // A quorum's word against a quorum's word: more than f replicas lie.
                self.fall_silent();
                return;
            }
            slot.chosen = Some((view, digest));
            self.pursue(seq);
        }
    }

    /// Gets hold of the batch that is to be accepted on others' word, and accepts it.
    pub(super) fn pursue(&mut self, seq: Seq) {
        let Some(slot) = self.log.get(seq) else { return };
        let Some((view, digest)) = slot.chosen.filter(|(view, _)| *view == self.view) else {
            return;
        };
        if slot.proposal.is_some() {
            return;
        }
        match self.find_batch(slot, &digest) {
            Some(batch) => {
                if let Some(slot) = self.log.get_mut(seq) {
                    slot.proposal = Some(Accepted { view, digest, batch });
                }
                self.try_accept(seq);
            }
            None if self.broken(Fault::LoseBatch) => {}
            None => self.want(crate::message::Fetch::Batch(digest)),
        }
    }

    fn find_batch(&self, slot: &Slot, digest: &Digest) -> Option<Batch> {
        let null = Batch::null();
        if null.digest(&self.cluster.id) == *digest {
            return Some(null);
        }
        slot.batch(digest, &self.cluster.id).cloned()
    }

    /// What was proposed and not accepted in the view that is over is no longer waited for.
    fn forget_proposals(&mut self) {
        self.log.forget_proposals();
        self.blocked.clear();
        self.wants.retain(|what, _| {
            use crate::message::Fetch;
            matches!(what, Fetch::Stable(_) | Fetch::Block(_))
        });
    }

    /// Shows a replica that lags how the present view began; or, if it has not, what this one
    /// stands by.
    pub(super) fn show_view(&mut self, to: ReplicaId) {
        if self.views.active {
            self.show_new_view(to);
        } else if let Some(change) = self.views.changes.get(&self.me).cloned() {
            self.send_to(to, Message::ViewChange(change));
        }
    }

    fn show_new_view(&mut self, to: ReplicaId) {
        if let Some(new_view) =
            self.views.new_view.clone().filter(|_| !self.broken(Fault::HideNewView))
        {
            self.send_to(to, Message::NewView(new_view));
        }
    }
}

/// The proof of a stable checkpoint that a view begins from; nothing for the beginning.
fn certificate_of(changes: &[ViewChange], stable: Seq) -> Vec<Checkpoint> {
    let proof = changes.iter().find(|change| change.stable == stable);
    proof.map(|change| change.certificate.clone()).unwrap_or_default()
}
