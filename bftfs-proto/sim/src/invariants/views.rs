//! View changes: what may have been decided is chosen again, and nobody moves for a liar's sake.

use std::collections::{BTreeMap, BTreeSet};

use bftfs_proto::Digest;
use bftfs_proto::config::Cluster;
use bftfs_proto::message::{Batch, NewView};
use bftfs_proto::types::{ReplicaId, Seq, View};

use super::{History, Violation};

/// What may have been decided, and what new views made of it.
#[derive(Debug)]
pub(super) struct Views {
    /// So many correct replicas' COMMITs may be all that a decision has of them.
    enough: usize,
    null: Digest,
    commits: BTreeMap<(View, Seq, Digest), BTreeSet<ReplicaId>>,
    /// The digest that some number is bound to, from the first view that bound it.
    bound: BTreeMap<Seq, (View, Digest)>,
    accepted: BTreeMap<(View, Vec<Digest>), NewView>,
}

impl Views {
    pub(super) fn new(cluster: &Cluster, liars: usize) -> Self {
        Self {
            enough: cluster.quorum().saturating_sub(liars).max(1),
            null: Batch::null().digest(&cluster.id),
            commits: BTreeMap::new(),
            bound: BTreeMap::new(),
            accepted: BTreeMap::new(),
        }
    }
}

impl History {
    /// A correct replica said COMMIT. With enough of them, liars could make it a decision.
    pub(super) fn prepared_by(
        &mut self,
        id: ReplicaId,
        view: View,
        seq: Seq,
        digest: Digest,
    ) -> Result<(), Violation> {
        let by = self.views.commits.entry((view, seq, digest)).or_default();
        by.insert(id);
        if by.len() < self.views.enough {
            return Ok(());
        }
        let bound = self.views.bound.entry(seq).or_insert((view, digest));
        if bound.1 == digest {
            bound.0 = bound.0.min(view);
        }
        self.views.accepted.values().try_for_each(|new_view| self.respects(new_view, seq))
    }

    /// I6 (section 4.4, TOCS'02): a new view that a correct replica accepted chooses for every
    /// number above its checkpoint what an earlier view may have decided.
    ///
    /// # Errors
    /// The violation.
    pub fn new_view(&mut self, new_view: &NewView) -> Result<(), Violation> {
        let key = (new_view.view, new_view.chosen.clone());
        if self.views.accepted.contains_key(&key) {
            return Ok(());
        }
        self.views.accepted.insert(key, new_view.clone());
        self.views.bound.keys().try_for_each(|seq| self.respects(new_view, *seq))
    }

    fn respects(&self, new_view: &NewView, seq: Seq) -> Result<(), Violation> {
        let Some((view, digest)) = self.views.bound.get(&seq) else { return Ok(()) };
        if *view >= new_view.view || seq <= new_view.stable {
            return Ok(());
        }
        let place = usize::try_from(seq.0 - new_view.stable.0 - 1).unwrap_or(usize::MAX);
        // Null batches at the end are left out.
        let chosen = new_view.chosen.get(place).unwrap_or(&self.views.null);
        if chosen == digest {
            return Ok(());
        }
        let chosen_in = new_view.view;
        Err(format!(
            "I6: {chosen_in:?} chose {chosen:?} for {seq:?}, which {view:?} had bound to {digest:?}"
        ))
    }

    /// I14 (section 4.5.2): while nothing fails but what Byzantine *backups* and clients do, no
    /// correct replica leaves its view.
    ///
    /// # Errors
    /// The violation.
    pub fn undisturbed(&self, id: ReplicaId, view: View) -> Result<(), Violation> {
        if view == View(0) {
            Ok(())
        } else {
            Err(format!("I14: {id:?} left for {view:?}, though only backups and clients lie"))
        }
    }
}
