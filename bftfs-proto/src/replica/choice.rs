//! What a new view begins with: a pure function of the view-changes (OSDI'99 section 4.4, with the
//! sets P and Q of TOCS'02 section 4.5).
//!
//! Prepares carry MACs, so a view-change cannot prove what it says; it testifies. A batch is chosen
//! if a quorum did not prepare anything later (A1) and w replicas, one of them correct, accepted it
//! (A2). Nothing is chosen if a quorum prepared nothing (B). If a batch was committed in some view,
//! q-f correct replicas say that they prepared it, one of them is in every quorum, and neither B
//! nor another batch can win.

use alloc::collections::BTreeSet;
use alloc::vec::Vec;

use bftfs_state::Digest;

use crate::auth::Reject;
use crate::config::{Cluster, VIEW_MAX};
use crate::message::{Batch, NewView, ViewChange, Vote};
use crate::types::{Seq, View};

use super::checkpoint::is_certificate;

/// What a new view begins with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The stable checkpoint to begin from (h*).
    pub stable: Seq,
    /// The batches of the numbers after it, without trailing null batches.
    pub chosen: Vec<Digest>,
}

/// The choice that follows from `changes`, valid and of distinct replicas; `None` if more are
/// needed. Every replica computes the same from the same set.
#[must_use]
pub fn choose(cluster: &Cluster, changes: &[ViewChange]) -> Option<Choice> {
    if changes.len() < cluster.quorum() {
        return None;
    }
    let stable = changes.iter().map(|change| change.stable).max()?;
    let null = Batch::null().digest(&cluster.id);
    let mut chosen = Vec::new();
    for seq in stable.0 + 1..=stable.0 + cluster.window {
        chosen.push(choose_at(cluster, changes, Seq(seq), null)?);
    }
    let used = chosen.iter().rposition(|digest| *digest != null).map_or(0, |last| last + 1);
    chosen.truncate(used);
    Some(Choice { stable, chosen })
}

fn choose_at(cluster: &Cluster, changes: &[ViewChange], seq: Seq, null: Digest) -> Option<Digest> {
    let mut candidates: Vec<&Vote> = changes.iter().filter_map(|c| prepared(c, seq)).collect();
    // The latest view first; the digest decides where liars left a tie, so that all decide alike.
    candidates.sort_by_key(|vote| (core::cmp::Reverse(vote.view), vote.digest));
    let best = candidates.iter().find(|vote| {
        let behind = changes.iter().filter(|change| change.stable < seq);
        let agree = behind.filter(|change| {
            let other = prepared(change, seq);
            other.is_none_or(|o| {
                o.view < vote.view || (o.view, o.digest) == (vote.view, vote.digest)
            })
        });
        let accepted = changes.iter().filter(|change| has_accepted(change, vote));
        agree.count() >= cluster.quorum() && accepted.count() >= cluster.weak()
    });
    if let Some(vote) = best {
        return Some(vote.digest);
    }
    let nothing = changes.iter().filter(|c| c.stable < seq && prepared(c, seq).is_none());
    (nothing.count() >= cluster.quorum()).then_some(null)
}

fn prepared(change: &ViewChange, seq: Seq) -> Option<&Vote> {
    let at = change.prepared.binary_search_by_key(&seq, |vote| vote.seq).ok()?;
    change.prepared.get(at)
}

/// Whether the replica accepted the batch in that view or later. What it prepared it accepted.
fn has_accepted(change: &ViewChange, vote: &Vote) -> bool {
    let key = (vote.seq, vote.digest);
    let found = change.accepted.binary_search_by_key(&key, |other| (other.seq, other.digest));
    let accepted = found.ok().and_then(|at| change.accepted.get(at));
    let witness = |other: &Vote| other.digest == vote.digest && other.view >= vote.view;
    accepted.is_some_and(witness) || prepared(change, vote.seq).is_some_and(witness)
}

/// A view-change counts iff
/// - its signature is its replica's;
/// - its stable checkpoint is proven by q claims, or the beginning;
/// - P has one entry for a number, Q one for a number and digest, in order;
/// - every entry is of an earlier view and between its watermarks.
pub(super) fn check_change(change: &ViewChange, cluster: &Cluster) -> Result<(), Reject> {
    let key = cluster.replicas.get(change.replica.0 as usize).ok_or(Reject::Role)?;
    change.verify(cluster, key)?;
    let within = |vote: &Vote| {
        let above = vote.seq.0.checked_sub(change.stable.0);
        vote.view < change.view && above.is_some_and(|above| (1..=cluster.window).contains(&above))
    };
    let entries = change.prepared.iter().chain(&change.accepted);
    let ordered = change.prepared.is_sorted_by(|a, b| a.seq < b.seq)
        && change.accepted.is_sorted_by(|a, b| (a.seq, a.digest) < (b.seq, b.digest));
    let named = (View(1)..=VIEW_MAX).contains(&change.view);
    if !ordered || !entries.into_iter().all(within) || !named {
        return Err(Reject::Testimony);
    }
    match change.certificate.first() {
        None if change.stable == Seq(0) => Ok(()),
        Some(first)
            if first.seq == change.stable && is_certificate(&change.certificate, cluster) =>
        {
            Ok(())
        }
        Some(_) | None => Err(Reject::Testimony),
    }
}

/// A new-view counts iff
/// - its signature is the primary's of its view;
/// - it holds view-changes of at least q distinct replicas for that view, each valid (`known` says
///   which were checked before);
/// - what it chooses is what follows from them.
pub(super) fn check_new_view(
    new_view: &NewView,
    cluster: &Cluster,
    known: impl Fn(&ViewChange) -> bool,
) -> Result<(), Reject> {
    let senders: BTreeSet<_> = new_view.changes.iter().map(|change| change.replica).collect();
    let of_view = new_view.changes.iter().all(|change| change.view == new_view.view);
    if senders.len() != new_view.changes.len() || senders.len() < cluster.quorum() || !of_view {
        return Err(Reject::Choice);
    }
    for change in new_view.changes.iter().filter(|change| !known(change)) {
        check_change(change, cluster)?;
    }
    let claimed = Choice { stable: new_view.stable, chosen: new_view.chosen.clone() };
    if choose(cluster, &new_view.changes) == Some(claimed) { Ok(()) } else { Err(Reject::Choice) }
}
