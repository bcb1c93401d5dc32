//! A disk that keeps what was synced and may lose the rest.

use std::collections::{BTreeMap, BTreeSet};

use bftfs_proto::engine::{Record, Snapshots};
use bftfs_proto::message::StateRoot;
use bftfs_proto::replica::Loaded;
use bftfs_proto::types::{Seq, View};
use bftfs_proto::{Digest, Tree, codec};
use bytes::Bytes;

/// A vote that a replica made durable: the phase, view, number and digest.
pub type DurableVote = (u8, View, Seq, Digest);

/// A checkpoint with its blocks.
#[derive(Clone, Debug)]
struct Stored {
    root: StateRoot,
    blocks: BTreeMap<Digest, Bytes>,
}

/// One replica's disk: journal and checkpoints.
#[derive(Debug, Default)]
pub struct Disk {
    journal: Vec<(Option<Seq>, Vec<u8>)>,
    /// The last two checkpoints, as the real store keeps them.
    checkpoints: Vec<Stored>,
    /// Every vote that ever became durable, for the checker.
    pub votes: BTreeSet<DurableVote>,
    /// The highest view that this disk's replica was in or promised to move to.
    pub promised: View,
}

impl Disk {
    /// Makes records durable.
    pub fn append(&mut self, cluster: &Digest, records: &[Record]) {
        for record in records {
            self.votes.extend(vote_of(cluster, record));
            if let Record::View(view) = record {
                self.promised = self.promised.max(*view);
            }
            self.journal.push((record.seq(), codec::encode(record)));
        }
    }

    /// Loses the last records although they were synced.
    pub fn forget(&mut self, records: usize) {
        self.journal.truncate(self.journal.len().saturating_sub(records));
    }

    /// Drops records up to `seq`, as far as they are about a number.
    pub fn truncate(&mut self, seq: Seq) {
        self.journal.retain(|(of, _)| of.is_none_or(|of| of > seq));
        // Of those without a number the latest of each kind stays: the first byte tells the kind.
        let mut kinds = BTreeSet::new();
        let mut kept: Vec<_> = core::mem::take(&mut self.journal);
        kept.reverse();
        kept.retain(|(of, bytes)| of.is_some() || kinds.insert(bytes.first().copied()));
        kept.reverse();
        self.journal = kept;
    }

    /// Writes a checkpoint. Whole, from the snapshots: that the increments add up to the same is
    /// asserted here.
    pub fn checkpoint(&mut self, snapshots: &Snapshots) {
        let trees = snapshots.trees.iter().flat_map(bftfs_proto::Snapshot::blocks);
        let blocks: BTreeMap<_, _> = trees.map(|block| (block.digest, block.bytes)).collect();
        if let (Some(last), false) = (self.checkpoints.last(), snapshots.rewrite) {
            let added: BTreeSet<_> = snapshots.added.iter().map(|block| block.digest).collect();
            let known =
                |digest: &Digest| last.blocks.contains_key(digest) || added.contains(digest);
            assert!(blocks.keys().all(known), "a checkpoint is the one before and what was added");
        }
        self.checkpoints.push(Stored { root: snapshots.root, blocks });
        if self.checkpoints.len() > 2 {
            self.checkpoints.remove(0);
        }
    }

    /// A block of a stored checkpoint.
    #[must_use]
    pub fn block(&self, digest: &Digest) -> Option<Bytes> {
        self.checkpoints.iter().find_map(|stored| stored.blocks.get(digest).cloned())
    }

    /// What a restarting replica finds.
    #[must_use]
    pub fn load(&self) -> (Option<Loaded>, Vec<Record>) {
        let loaded = self.checkpoints.last().map(|stored| {
            let mut fetch = |digest: &Digest| stored.blocks.get(digest).cloned();
            let sessions = Tree::open(stored.root.sessions, &mut fetch);
            let service = Tree::open(stored.root.service, &mut fetch);
            let (Ok(sessions), Ok(service)) = (sessions, service) else {
                panic!("a stored checkpoint opens again");
            };
            Loaded { root: stored.root, sessions, service }
        });
        let records = self.journal.iter().filter_map(|(_, bytes)| codec::decode(bytes).ok());
        (loaded, records.collect())
    }
}

fn vote_of(cluster: &Digest, record: &Record) -> Option<DurableVote> {
    match record {
        Record::Accepted { view, seq, batch, .. } => Some((0, *view, *seq, batch.digest(cluster))),
        Record::Prepared { view, seq, digest } => Some((1, *view, *seq, *digest)),
        Record::Reaccepted(vote) => Some((0, vote.view, vote.seq, vote.digest)),
        Record::Learned { .. }
        | Record::Claimed(_)
        | Record::Recovery(_)
        | Record::Stable(..)
        | Record::View(_)
        | Record::NewView(_) => None,
    }
}
