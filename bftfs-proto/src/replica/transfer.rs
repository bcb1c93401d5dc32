//! State transfer: a replica whose log does not reach back far enough fetches the stable state
//! (OSDI'99 section 4.3; TOCS'02 section 5.3).
//!
//! The certificate proves the root. From there every block is checked against the digest by which
//! its parent names it, so one honest source is enough and a liar wastes one answer at a time.
//! Blocks that this replica has already are not fetched. All of them are in its source: here is
//! only which ones are missing.

use alloc::boxed::Box;
use alloc::collections::BTreeSet;
use alloc::vec::Vec;

use bftfs_state::{Block, Children, Digest, OpenError, Source, block_children};
use bytes::Bytes;

use crate::auth::Reject;
use crate::config::{FETCH_BLOCKS_MAX, STATUS_BUSY_NANOS};
use crate::engine::{Output, Record};
use crate::message::{Checkpoint, Fetch, Request, StateRoot, Tag};
use crate::service::Service;
use crate::types::{ClientId, Mono, ReplicaId, Seq};

use super::checkpoint::is_certificate;
use super::state::{Kept, Standing};
use super::{Fault, Loaded, Replica};

/// A state on its way here.
#[derive(Debug)]
pub(super) struct Transfer {
    certificate: Vec<Checkpoint>,
    root: StateRoot,
    /// Blocks of the new state that are not here.
    missing: BTreeSet<Digest>,
    /// When the last piece came.
    progress: Mono,
}

impl Transfer {
    /// Whether this block of the new state is not here.
    pub(super) fn misses(&self, digest: &Digest) -> bool {
        self.missing.contains(digest)
    }

    /// Goes down from the page `digest` as far as blocks are here and notes where they end.
    fn walk(&mut self, source: &dyn Source, digest: Digest) {
        let mut pages = Vec::from([digest]);
        while let Some(digest) = pages.pop() {
            match source.get(&digest).map(|bytes| block_children(&digest, &bytes)) {
                Some(Ok(children)) => pages.extend(self.pages_of(source, children)),
                Some(Err(_)) | None => {
                    self.missing.insert(digest);
                }
            }
        }
    }

    /// The pages among the children of a block; of values it notes those that are not here.
    fn pages_of(&mut self, source: &dyn Source, children: Children) -> Vec<Digest> {
        match children {
            Children::Pages(pages) => pages,
            Children::Values(values) => {
                self.missing.extend(values.into_iter().filter(|digest| !source.has(digest)));
                Vec::new()
            }
        }
    }
}

impl<S: Service> Replica<S> {
    /// The others are stable at a checkpoint that this replica has not reached. It notes that; if
    /// a STATUS period later it has still not got there by its log, it fetches the state.
    pub(super) fn learn_of_stable(&mut self, certificate: Vec<Checkpoint>) {
        let seq = |certificate: &[Checkpoint]| certificate.first().map_or(Seq(0), |c| c.seq);
        if seq(&certificate) > seq(&self.checkpoints.ahead) {
            self.checkpoints.ahead = certificate;
            self.checkpoints.ahead_since = self.state.executed();
        }
    }

    /// Called once a STATUS period.
    pub(super) fn consider_transfer(&mut self) {
        let Some(ahead) = self.checkpoints.ahead.first().map(|claim| claim.seq) else { return };
        let executed = self.state.executed();
        if executed >= ahead {
            self.checkpoints.ahead.clear();
        } else if executed == self.checkpoints.ahead_since && self.transfer.is_none() {
            self.want(Fetch::Stable(ahead));
        }
        self.checkpoints.ahead_since = executed;
    }

    /// A stable checkpoint with its certificate. Used iff the certificate holds, and the root is
    /// what it certifies.
    pub(super) fn on_stable_data(
        &mut self,
        certificate: Vec<Checkpoint>,
        root: &StateRoot,
    ) -> Result<(), Reject> {
        if root.seq <= self.log.low() {
            return Err(Reject::Stale);
        }
        let claim = certificate.first().ok_or(Reject::Shape)?;
        if claim.seq != root.seq || claim.state != root.digest(&self.cluster.id) {
            return Err(Reject::Hash);
        }
        if !is_certificate(&certificate, &self.cluster) && !self.broken(Fault::AnyCertificate) {
            return Err(Reject::Signature);
        }
        // Whoever lags takes any later state: the one asked for may be known to nobody else.
        let asked = |what: &Fetch| matches!(what, Fetch::Stable(_));
        // Peers keep two checkpoints: the one that is being fetched may be gone.
        let now = self.now.mono;
        let stalled =
            |t: &Transfer| t.root.seq < root.seq && t.progress.after(STATUS_BUSY_NANOS) < now;
        let wanted = match &self.transfer {
            Some(transfer) => stalled(transfer),
            None => self.wants.keys().any(asked),
        };
        if !wanted || root.seq <= self.state.executed() {
            if self.transfer.is_none() {
                self.on_stable(certificate);
            }
            return Ok(());
        }
        self.wants.retain(|what, _| !asked(what));
        self.start_transfer(certificate, *root);
        Ok(())
    }

    /// What clients wait for that others executed: it came with the state.
    fn answers_due(&self) -> Vec<(ClientId, Tag, Kept)> {
        let due = |request: &Request| match self.state.standing(request) {
            Standing::Executed(kept) => Some((request.client, request.tag(), kept)),
            Standing::Fresh | Standing::Refused(_) => None,
        };
        self.pool.pending().filter_map(due).collect()
    }

    fn start_transfer(&mut self, certificate: Vec<Checkpoint>, root: StateRoot) {
        if let Some(stalled) = self.transfer.take() {
            let of_it = |what: &Fetch| match what {
                Fetch::Block(digest) => stalled.missing.contains(digest),
                _ => false,
            };
            self.wants.retain(|what, _| !of_it(what));
        }
        let (missing, progress) = (BTreeSet::new(), self.now.mono);
        let mut transfer = Transfer { certificate, root, missing, progress };
        transfer.walk(&*self.source, root.sessions);
        transfer.walk(&*self.source, root.service);
        self.transfer = Some(transfer);
        self.continue_transfer();
    }

    /// A block of the state. Used iff it was asked for and its content has that digest.
    pub(super) fn on_block(
        &mut self,
        from: ReplicaId,
        digest: Digest,
        bytes: Bytes,
    ) -> Result<(), Reject> {
        let taken = self.take_block(digest, bytes);
        if taken == Err(Reject::Hash) {
            self.ask_another(from, &Fetch::Block(digest));
        }
        taken
    }

    fn take_block(&mut self, digest: Digest, bytes: Bytes) -> Result<(), Reject> {
        let credulous = self.broken(Fault::AnyBlock);
        let transfer = self.transfer.as_mut().filter(|t| t.missing.contains(&digest));
        let Some(transfer) = transfer else { return self.mend(digest, bytes) };
        let children = match block_children(&digest, &bytes) {
            Ok(children) => children,
            Err(_) if credulous => Children::Values(Vec::new()),
            Err(_) => return Err(Reject::Hash),
        };
        transfer.progress = self.now.mono;
        transfer.missing.remove(&digest);
        self.wants.remove(&Fetch::Block(digest));
        self.source.keep(&Block { digest, bytes });
        let pages = transfer.pages_of(&*self.source, children);
        pages.into_iter().for_each(|page| transfer.walk(&*self.source, page));
        self.continue_transfer();
        Ok(())
    }

    fn continue_transfer(&mut self) {
        let Some(transfer) = &self.transfer else { return };
        if transfer.missing.is_empty() {
            self.finish_transfer();
            return;
        }
        let asked = self.wants.keys().filter(|what| matches!(what, Fetch::Block(_))).count();
        let room = FETCH_BLOCKS_MAX.saturating_sub(asked);
        let next = transfer.missing.iter().map(|digest| Fetch::Block(*digest));
        let next = next.filter(|what| !self.wants.contains_key(what)).take(room);
        let next: Vec<Fetch> = next.collect();
        next.into_iter().for_each(|what| self.want(what));
    }

    fn finish_transfer(&mut self) {
        let Some(mut transfer) = self.transfer.take() else { return };
        let (root, seq) = (transfer.root, transfer.root.seq);
        let Loaded { sessions, service, .. } = match Loaded::open(root, &self.source) {
            Ok(loaded) => loaded,
            Err(OpenError::Missing(digest) | OpenError::Mismatch(digest)) => {
                // It was here a moment ago: this disk damages what it holds.
                transfer.missing.insert(digest);
                self.transfer = Some(transfer);
                self.continue_transfer();
                return;
            }
            Err(OpenError::Malformed { .. }) => {
                // A quorum certified a root below which no tree stands: more than f replicas lie.
                self.fall_silent();
                return;
            }
        };
        self.repair.drop_all();
        self.state.install(&root, sessions, service);
        self.append(Record::Stable(transfer.certificate.clone(), root));
        self.executed_lsn = self.appended;
        self.begun = seq;
        self.checkpoints.install(root, transfer.certificate);
        self.cut_log(seq);
        for (client, tag, kept) in self.answers_due() {
            self.answer_again(client, tag, kept);
        }
        self.pool.discard_if(|request| self.state.is_done(request));
        let mut snapshots = self.state.seal();
        snapshots.rewrite = true;
        self.outputs.push_back(Output::Checkpoint(Box::new(snapshots)));
        self.adopt_choice();
        self.execute_ready();
    }
}
