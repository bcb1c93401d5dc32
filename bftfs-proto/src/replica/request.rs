//! Requests: admission at every replica, proposals by the primary (OSDI'99 sections 4.1, 4.2).

use alloc::vec::Vec;

use bftfs_state::Digest;

use crate::auth::Reject;
use crate::config::PIPELINE_BATCHES;
use crate::engine::To;
use crate::message::{Answer, Batch, Message, PrePrepare, Request};
use crate::service::Service;
use crate::types::{ClientId, Seq};

use super::state::{Kept, Standing};
use super::{Fault, Replica};

impl<S: Service> Replica<S> {
    /// A request from its own client's link. Accepted iff
    /// - the client is in the cluster;
    /// - it was not executed (else its answer is sent again);
    /// - the client is within its quota.
    ///
    /// The link authenticates it to this replica; its signature is checked before it is proposed
    /// or when it was relayed (`docs/protocol.md`, requests).
    pub(super) fn on_request(&mut self, from: ClientId, request: Request) -> Result<(), Reject> {
        if !self.cluster.clients.contains_key(&from) {
            return Err(Reject::Role);
        }
        match self.state.standing(&request) {
            Standing::Executed(kept) => {
                if !self.broken(Fault::AnswerOnce) {
                    self.answer_again(from, request.tag(), kept);
                }
                return Err(Reject::Stale);
            }
            // Nothing that is ordered can change that, so a primary need not be waited for.
            Standing::Refused(Answer::NoSession)
                if self.state.is_over(&request)
                    && !self.blocked.contains_key(&request.digest(&self.cluster.id)) =>
            {
                self.answer_again(from, request.tag(), Kept::Whole(Answer::NoSession));
                return Err(Reject::Stale);
            }
            // A replica that lags sees numbers and sessions that are still to come.
            Standing::Fresh | Standing::Refused(_) => {}
        }
        let digest = request.digest(&self.cluster.id);
        let room = self.pool.has_room(&request) || self.broken(Fault::NoQuota);
        if !self.blocked.contains_key(&digest) && !room {
            return Err(Reject::Quota);
        }
        self.take_in(digest, request, false)?;
        self.herald(&digest);
        self.propose();
        Ok(())
    }

    /// Puts a body into the pool; what waited for it goes on.
    pub(super) fn take_in(
        &mut self,
        digest: Digest,
        request: Request,
        verified: bool,
    ) -> Result<(), Reject> {
        let executed = self.state.executed();
        self.pool.add(digest, request, verified, self.now.mono, executed)?;
        self.unblock(&digest);
        Ok(())
    }

    /// The primary assigns numbers while the pipeline has room; what comes meanwhile collects
    /// into the next batch. So batches grow with load and nothing waits for a timer.
    pub(super) fn propose(&mut self) {
        if !self.may_propose() {
            return;
        }
        let last = Seq(self.state.executed().0 + PIPELINE_BATCHES).min(self.log.high());
        while self.next_seq <= last {
            let trusting = self.broken(Fault::ProposeUnsigned);
            let (cluster, state) = (&self.cluster, &self.state);
            let requests = self.pool.next_batch(|request, verified| {
                !state.is_done(request) && (verified || trusting || is_signed(cluster, request))
            });
            if requests.is_empty() {
                return;
            }
            self.propose_batch(requests);
        }
    }

    fn may_propose(&self) -> bool {
        let idle = self.transfer.is_none();
        self.is_primary() && self.views.active && idle && self.may_vote()
    }

    fn propose_batch(&mut self, requests: Vec<Digest>) {
        let batch = Batch { requests, time: self.now.wall };
        let (view, seq) = (self.view, self.next_seq);
        self.next_seq = seq.next();
        self.accept(seq, batch.clone());
        let message = Message::PrePrepare(PrePrepare { view, seq, batch });
        self.send(To::Replicas, message);
        self.try_prepare(seq);
    }

    /// Once a STATUS period: goes on with empty batches while a replica that listens needs that to
    /// vote again. It cannot ask for more than the windows it missed.
    pub(super) fn propose_nothing(&mut self) {
        let (low, high) = (self.log.low(), self.log.high());
        let near = Seq(low.0 + 2 * self.cluster.window);
        self.awaited.retain(|_, seq| low < *seq && *seq <= near);
        if self.awaited.is_empty() || !self.may_propose() {
            return;
        }
        let last = Seq(self.state.executed().0 + PIPELINE_BATCHES).min(high);
        while self.next_seq <= last {
            self.propose_batch(Vec::new());
        }
    }
}

/// Whether the request carries its client's signature. A cluster of one needs none.
pub(super) fn is_signed(cluster: &crate::config::Cluster, request: &Request) -> bool {
    let digest = request.digest(&cluster.id);
    cluster.n() == 1
        || cluster
            .clients
            .get(&request.client)
            .is_some_and(|key| (cluster.verify)(key, &digest, &request.signature).is_ok())
}
