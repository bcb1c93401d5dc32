//! When a replica is against its primary: it waited too long, or is served too slowly or unfairly
//! (TOCS'02 section 4.5; Aardvark, NSDI'09, for the latter two).
//!
//! A suspicion is only told, in STATUS. A view is left when w replicas suspect: so no replica can
//! bring a view change about by itself, nor lock itself out of a view in which all others work.

use bftfs_state::Digest;

use crate::auth::Reject;
use crate::config::PIPELINE_BATCHES;
use crate::message::{Answer, Data, Message};
use crate::service::Service;
use crate::types::{Mono, ReplicaId, Seq, View};

use super::log::Slot;
use super::request::is_signed;
use super::state::Standing;
use super::{Fault, Replica};

/// A request that is not executed after this time is shown to the primary: perhaps it has not got
/// it. Only from then on it counts against the primary.
const RELAY_NANOS: u64 = 100_000_000;
/// Requests that are shown to the primary in one STATUS period. It takes twice as many.
const SHOWN_MAX: usize = 8;
/// How long a client may get no place in any of [`NEGLECT_BATCHES`] before that is unfair.
const NEGLECT_NANOS: u64 = 300_000_000;
/// Batches without a request of a client that waits, before that is unfair.
const NEGLECT_BATCHES: u64 = 64;
/// Batches without a request of a client that waits, before it seems to be overlooked.
const OVERLOOKED_BATCHES: u64 = 2 * PIPELINE_BATCHES;
/// How long a request may lie there while the pipeline has room, before it seems to be overlooked.
const OVERLOOKED_NANOS: u64 = 20_000_000;
/// How long a proposal at a time that cannot be right counts against its primary.
const UNTIMELY_NANOS: u64 = 1_000_000_000;
/// How long a new primary is not measured.
const GRACE_NANOS: u64 = 2_000_000_000;
/// Batches that are measured before the mean counts.
const MEASURED_MIN: u64 = 16;
/// How long a primary may let requests wait in the mean, whatever the rest takes.
const SLOW_NANOS: u64 = 20_000_000;
/// How many times as long as the rest of the protocol it may.
const SLOW_FACTOR: u64 = 4;
/// How many times as long as it may let requests wait one of them counts, at most: three within
/// eight batches are too many, and one never is.
const HICCUP_FACTOR: u64 = 4;
/// A request that takes this part of the time that it may take, in the mean, takes little.
const BRISK_PART: u64 = 8;

/// How the primary of a view has served so far, as one backup sees it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Conduct {
    /// The mean time from a request's arrival to its pre-prepare's, in nanoseconds.
    waited: u64,
    /// The mean time from there to the execution, in nanoseconds: that is not the primary's doing.
    rest: u64,
    measured: u64,
    /// It signed something false, or its operator wants it gone.
    condemned: bool,
    /// When it proposed a time last that is too far from this replica's clock.
    untimely: Option<Mono>,
    /// Until when its pipeline was full, as far as this replica saw: it had to wait itself.
    full_until: Mono,
}

impl Conduct {
    /// It is to go.
    pub(super) fn condemn(&mut self) {
        self.condemned = true;
    }

    fn measure(&mut self, waited: u64, rest: u64) {
        let mean = |old: u64, new: u64| old - old / 8 + new / 8;
        // One hiccup is nobody's fault, however long it was.
        self.waited = mean(self.waited, waited.min(self.slow().saturating_mul(HICCUP_FACTOR)));
        self.rest = mean(self.rest, rest);
        self.measured += 1;
    }

    /// Every so many batches: half of `timeout` would have been plenty.
    fn is_brisk(&self, timeout: u64) -> bool {
        self.measured.is_multiple_of(MEASURED_MIN)
            && self.waited.saturating_add(self.rest) < timeout / BRISK_PART
    }

    fn is_slow(&self) -> bool {
        self.measured >= MEASURED_MIN && self.waited > self.slow()
    }

    /// What it may let requests wait in the mean.
    fn slow(&self) -> u64 {
        SLOW_NANOS.max(self.rest.saturating_mul(SLOW_FACTOR))
    }
}

impl<S: Service> Replica<S> {
    /// When this replica will suspect the primary if nothing happens.
    pub(super) fn suspicion_due(&self) -> Option<Mono> {
        let views = &self.views;
        if views.suspects || self.cluster.n() == 1 || !self.may_vote() {
            return None;
        }
        if self.is_to_go() {
            return Some(views.since);
        }
        if self.is_catching_up() {
            return None;
        }
        if views.active {
            let rest = views.timeout.saturating_sub(RELAY_NANOS);
            self.pool.owed().map(|owed| owed.since.after(rest))
        } else {
            views.waiting.map(|since| since.after(views.timeout))
        }
    }

    /// Whoever lags cannot tell whether the primary serves.
    fn is_catching_up(&self) -> bool {
        let next = self.log.get(self.state.executed().next());
        self.transfer.is_some()
            || !self.checkpoints.ahead.is_empty()
            || next.is_some_and(|slot| slot.decided.is_some())
    }

    /// Comes to suspect the primary, and tells at once.
    pub(super) fn review_primary(&mut self) {
        let now = self.now.mono;
        let due = |replica: &Self| replica.suspicion_due().is_some_and(|due| due <= now);
        while due(self) {
            if self.views.active
                && !self.is_to_go()
                && let Some(owed) = self.pool.owed()
                && !self.is_owed(&owed.digest)
            {
                continue;
            }
            self.suspect();
        }
    }

    fn suspect(&mut self) {
        self.views.suspects = true;
        self.send_status();
        self.consider_leaving();
    }

    /// Once a STATUS period: takes a suspicion back if the primary serves after all; relays what
    /// it may not have got; looks at how it served.
    pub(super) fn observe_primary(&mut self) {
        if self.cluster.n() == 1 || !self.may_vote() {
            return;
        }
        if self.views.suspects {
            self.views.suspects = false;
            let due = self.suspicion_due().is_some_and(|due| due <= self.now.mono);
            self.views.suspects = due || self.is_served_badly();
        } else if self.is_served_badly() {
            self.suspect();
        }
        self.show_late();
    }

    fn is_served_badly(&mut self) -> bool {
        let now = self.now.mono;
        if !self.views.active || self.is_catching_up() || self.is_primary() {
            return false;
        }
        let untimely = self.views.conduct.untimely.is_some_and(|at| now < at.after(UNTIMELY_NANOS));
        untimely || self.is_unfair()
    }

    /// What the primary did suffices, whether or not a request waits.
    fn is_to_go(&self) -> bool {
        let (views, now) = (&self.views, self.now.mono);
        let settled = views.active && now >= views.since.after(GRACE_NANOS);
        let judges = settled && !self.is_primary() && !self.is_catching_up();
        views.conduct.condemned || (judges && views.conduct.is_slow())
    }

    /// The primary proposed a time that this replica cannot accept: its clock is wrong, or this one.
    /// Nothing is to be waited for; if w replicas say so, it is the primary's.
    pub(super) fn blame_for_time(&mut self) {
        self.views.conduct.untimely = Some(self.now.mono);
        if !self.views.suspects && self.may_vote() && !self.is_catching_up() {
            self.suspect();
        }
    }

    /// A client waits while many batches pass without it.
    fn is_unfair(&mut self) -> bool {
        let now = self.now.mono;
        while let Some((served, owed)) = self.pool.neglected() {
            let batches = self.state.executed().0.saturating_sub(served.0);
            let late = owed.since.after(NEGLECT_NANOS) <= now;
            if batches <= NEGLECT_BATCHES || !late {
                return false;
            }
            if self.is_owed(&owed.digest) {
                return true;
            }
        }
        false
    }

    /// Whether a request that waits is one that the primary owes an answer: signed by its client,
    /// and the next of its slot. If it is not, it is forgotten, or looked at again later.
    ///
    /// The signature is checked only here: a client whose request is bad must not be able to
    /// depose a primary that rightly ignores it.
    fn is_owed(&mut self, digest: &Digest) -> bool {
        let Some(body) = self.pool.get(digest) else { return false };
        match self.state.standing(&body.request) {
            Standing::Executed(_) => self.pool.executed(digest),
            Standing::Refused(answer) if !self.broken(Fault::SuspectRefused) => {
                if answer == Answer::Forgotten {
                    self.pool.executed(digest);
                } else {
                    self.pool.postpone(digest, self.now.mono);
                }
            }
            Standing::Fresh | Standing::Refused(_)
                if body.verified
                    || self.broken(Fault::SuspectUnsigned)
                    || is_signed(&self.cluster, &body.request) =>
            {
                self.pool.mark_verified(digest);
                return true;
            }
            Standing::Fresh | Standing::Refused(_) => {
                *self.rejects.entry(Reject::Signature).or_default() += 1;
                self.pool.discard(digest);
            }
        }
        false
    }

    /// Shows the primary what it may not have got, a few of each client; and again what it has had
    /// longest, which may have been lost.
    fn show_late(&mut self) {
        let now = self.now.mono;
        if !self.views.active || now < self.views.since.after(RELAY_NANOS) {
            return;
        }
        self.pool.owed().into_iter().for_each(|owed| self.relay(&owed.digest));
        let until = Mono(now.0.saturating_sub(RELAY_NANOS));
        for digest in self.pool.unshown(until, SHOWN_MAX) {
            if self.is_owed(&digest) {
                self.relay(&digest);
                self.pool.show(&digest, now);
                self.consider_overlooked(&digest);
            }
        }
    }

    /// A request has waited though the pipeline had room, or though others were served: its client
    /// is one that the primary does not hear.
    fn consider_overlooked(&mut self, digest: &Digest) {
        let Some(body) = self.pool.get(digest) else { return };
        let (client, lay) = (body.request.client, body.lay(self.free(), self.now.mono));
        let executed = self.state.executed();
        let served = self.pool.served(client).unwrap_or(executed);
        if lay > OVERLOOKED_NANOS || executed.0.saturating_sub(served.0) > OVERLOOKED_BATCHES {
            self.pool.herald(client);
        }
    }

    /// The primary proposes these: those that it was not shown say whether it hears their clients.
    pub(super) fn observe_service(&mut self, requests: &[Digest]) {
        let (free, now) = (self.free(), self.now.mono);
        for digest in requests {
            let Some(body) = self.pool.get(digest).filter(|body| !body.is_shown()) else {
                continue;
            };
            let (client, lay) = (body.request.client, body.lay(free, now));
            if lay > OVERLOOKED_NANOS { self.pool.herald(client) } else { self.pool.trust(client) }
        }
    }

    /// Since when the primary can have proposed what is not proposed yet.
    fn free(&self) -> Mono {
        if self.is_full_after(self.state.executed()) {
            return self.now.mono;
        }
        self.views.conduct.full_until.max(self.views.since)
    }

    /// Whether the pipeline was full when `executed` had been executed.
    fn is_full_after(&self, executed: Seq) -> bool {
        let last = self.log.iter().next_back();
        last.is_some_and(|(last, _)| last.0 >= executed.0 + PIPELINE_BATCHES)
    }

    /// Shows the primary a request that just came, if it does not hear that client.
    pub(super) fn herald(&mut self, digest: &Digest) {
        let backup = self.views.active && !self.is_primary() && self.may_vote();
        if backup && self.pool.is_heralded(digest) && self.is_owed(digest) {
            self.relay(digest);
            self.pool.show(digest, self.now.mono);
        }
    }

    fn relay(&mut self, digest: &Digest) {
        let waiting = self.pool.get(digest).filter(|body| body.is_waiting());
        if let (Some(body), false) = (waiting, self.is_primary()) {
            let message = Message::Data(Data::Request(body.request.clone()));
            self.send_to(self.cluster.primary(self.view), message);
        }
    }

    /// A batch of this view was executed: what came before its pre-prepare is the primary's doing.
    pub(super) fn measure_primary(&mut self, seq: Seq) {
        let view = self.view;
        if self.is_full_after(Seq(seq.0 - 1)) {
            self.views.conduct.full_until = self.now.mono;
        }
        let here = |slot: &&Slot| slot.accepted.as_ref().is_some_and(|a| a.view == view);
        let Some(slot) = self.log.get(seq).filter(here) else { return };
        if let Some((proposed, waited)) = slot.proposed {
            let rest = self.now.mono.0.saturating_sub(proposed.0);
            self.views.conduct.measure(waited, rest);
            if self.views.conduct.is_brisk(self.views.timeout) {
                self.views.relax();
            }
        }
    }

    /// Another replica says whether it suspects the primary of this view.
    pub(super) fn on_suspicion(&mut self, from: ReplicaId, view: View, suspects: bool) {
        if view == self.view && suspects {
            if self.views.suspecting.insert(from) {
                self.consider_leaving();
            }
        } else {
            self.views.suspecting.remove(&from);
        }
    }

    /// How long the primary has had the requests of a batch, and could have proposed them.
    pub(super) fn waited(&self, requests: &[Digest]) -> u64 {
        let bodies = requests.iter().filter_map(|digest| self.pool.get(digest));
        bodies.map(|body| body.waited(self.free(), self.now.mono)).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::*;

    /// Every one of so many batches takes this long: after which is the patience halved?
    fn halvings(batches: u64, waited: u64, rest: u64, timeout: u64) -> Vec<u64> {
        let mut conduct = Conduct::default();
        let mut halves = || {
            conduct.measure(waited, rest);
            conduct.is_brisk(timeout)
        };
        (1..=batches).filter(|_| halves()).collect()
    }

    #[test]
    fn a_view_that_works_well_shortens_the_patience_that_others_lengthened() {
        assert_eq!(halvings(50, 10, 80, 1000), [16, 32, 48]);
        assert_eq!(halvings(50, 100, 80, 1000), [0; 0], "the primary takes too long");
        assert_eq!(halvings(50, 10, 180, 1000), [0; 0], "all that follows takes too long");
        assert_eq!(halvings(15, 0, 0, 1000), [0; 0], "it has not shown it yet");
    }

    /// Whether a primary is slow that lets so many of the last batches wait for `waited`.
    fn is_slow_after(hiccups: usize, waited: u64) -> bool {
        let mut conduct = Conduct::default();
        (0..64).for_each(|_| conduct.measure(1_000_000, 2_000_000));
        (0..hiccups).for_each(|_| conduct.measure(waited, 2_000_000));
        conduct.is_slow()
    }

    #[test]
    fn a_primary_is_slow_that_lets_requests_wait_again_and_again_but_not_for_one_hiccup() {
        assert!(!is_slow_after(1, 3_600_000_000_000), "a whole hour");
        assert!(is_slow_after(3, 100_000_000));
        assert!(!is_slow_after(64, SLOW_NANOS), "as long as it may");
        assert!(is_slow_after(64, SLOW_NANOS * 2));
    }
}
