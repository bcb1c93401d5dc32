//! A disk that keeps what was synced, may lose the rest, and may be damaged.
//!
//! It is what `bftfs-node` makes of a real one (`docs/on-disk.md`). The journal is a chain of
//! groups, each with a hash: one that is not intact is the torn tail of a crash if none follows,
//! and is cut; otherwise it had been promised, and the replica does not start again. The store
//! checks blocks against their digests: a damaged one is not served, and a checkpoint that has one
//! cannot be started from. Of two superblocks one may be lost.

use std::collections::{BTreeMap, BTreeSet};
use std::mem::take;

use bftfs_proto::engine::{Record, Snapshots};
use bftfs_proto::message::{Batch, Request, StateRoot};
use bftfs_proto::replica::{Loaded, Recovery};
use bftfs_proto::types::{Seq, View};
use bftfs_proto::{Digest, Tree, codec};
use bytes::Bytes;
use fastrand::Rng;

/// Groups in a segment of the journal. Space is taken back by the segment.
const SEGMENT_GROUPS: usize = 6;

/// A vote that a replica made durable: the phase, view, number and digest.
pub type DurableVote = (u8, View, Seq, Digest);

/// Why a replica does not start: what it promised or stored is not all there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damaged;

/// What can befall a disk at rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rot {
    /// A group of the journal is no longer intact. The last one is spared: damage to it cannot be
    /// told from a crash, and makes a replica that breaks promises without knowing.
    Record,
    /// The last group was written over another one.
    Misdirected,
    /// A block of the newest checkpoint is no longer intact.
    Block,
    /// The newest superblock is no longer intact.
    Superblock,
    /// All is gone.
    All,
}

/// A checkpoint with its blocks.
#[derive(Clone, Debug)]
struct Stored {
    root: StateRoot,
    blocks: BTreeMap<Digest, Bytes>,
}

/// How a group is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    Intact,
    Damaged,
    /// Intact, but where another one should be.
    Astray,
}

/// One write of the journal.
#[derive(Debug)]
struct Group {
    found: Found,
    records: Vec<Vec<u8>>,
}

/// Groups that are dropped together, and the highest number that one of their records is about.
#[derive(Debug, Default)]
struct Segment {
    groups: Vec<Group>,
    ceiling: Seq,
}

/// One replica's disk: journal and checkpoints.
#[derive(Debug, Default)]
pub struct Disk {
    /// Oldest first.
    journal: Vec<Segment>,
    /// The latest record of each kind that outlives truncation. The first byte tells the kind.
    latest: BTreeMap<Option<u8>, Vec<u8>>,
    /// The last two checkpoints, as the real store keeps them.
    checkpoints: Vec<Stored>,
    /// The superblock that speaks of the newest one is no longer intact.
    superblock_lost: bool,
    /// Blocks that are no longer intact.
    rotten: BTreeSet<Digest>,
    /// Nothing more can be written.
    pub full: bool,
    /// What was on it is gone.
    gone: bool,
    /// Every vote that ever became durable, for the checker.
    pub votes: BTreeSet<DurableVote>,
    /// The highest view that this disk's replica was in or promised to move to.
    pub promised: View,
    /// Every batch that ever became durable with its bodies, and the last accepted for each
    /// number, for the judge.
    batches: BTreeMap<Digest, (Batch, Vec<Request>)>,
    accepted: BTreeMap<Seq, Digest>,
}

impl Disk {
    /// Makes records durable.
    pub fn append(&mut self, cluster: &Digest, records: &[Record]) {
        if self.journal.last().is_none_or(|segment| segment.groups.len() >= SEGMENT_GROUPS) {
            let carried = self.latest.values().cloned().collect();
            self.journal.push(Segment::default());
            self.write(carried);
        }
        let mut group = Vec::with_capacity(records.len());
        for record in records {
            self.note(cluster, record);
            let bytes = codec::encode(record);
            match (record.seq(), self.journal.last_mut()) {
                (Some(seq), Some(segment)) => segment.ceiling = segment.ceiling.max(seq),
                _ => drop(self.latest.insert(bytes.first().copied(), bytes.clone())),
            }
            group.push(bytes);
        }
        self.write(group);
    }

    fn write(&mut self, records: Vec<Vec<u8>>) {
        if let (Some(segment), false) = (self.journal.last_mut(), records.is_empty()) {
            segment.groups.push(Group { found: Found::Intact, records });
        }
    }

    /// Remembers for the checkers what became durable.
    fn note(&mut self, cluster: &Digest, record: &Record) {
        let vote = match record {
            Record::Accepted { view, seq, batch, requests } => {
                let digest = batch.digest(cluster);
                self.accepted.insert(*seq, digest);
                self.batches.entry(digest).or_insert_with(|| (batch.clone(), requests.clone()));
                (0, *view, *seq, digest)
            }
            Record::Learned { batch, requests, .. } => {
                let digest = batch.digest(cluster);
                self.batches.entry(digest).or_insert_with(|| (batch.clone(), requests.clone()));
                return;
            }
            Record::Prepared { view, seq, digest } => (1, *view, *seq, *digest),
            Record::Reaccepted(vote) => (0, vote.view, vote.seq, vote.digest),
            Record::View(view) => {
                self.promised = self.promised.max(*view);
                return;
            }
            Record::Claimed(..) | Record::Recovery(_) | Record::Stable(..) | Record::NewView(_) => {
                return;
            }
        };
        self.votes.insert(vote);
    }

    /// A batch that became durable here, with its bodies.
    #[must_use]
    pub fn batch(&self, digest: &Digest) -> Option<&(Batch, Vec<Request>)> {
        self.batches.get(digest)
    }

    /// What was accepted last for a number.
    #[must_use]
    pub fn accepted(&self, seq: Seq) -> Option<Digest> {
        self.accepted.get(&seq).copied()
    }

    /// Loses the last groups although they were synced.
    pub fn forget(&mut self, groups: usize) {
        for _ in 0..groups {
            if let Some(segment) = self.journal.iter_mut().rfind(|s| !s.groups.is_empty()) {
                segment.groups.pop();
            }
        }
    }

    /// Drops segments all of whose records are about numbers up to `seq`, but the newest.
    pub fn truncate(&mut self, seq: Seq) {
        let old = |segment: &Segment| segment.ceiling <= seq;
        let newest = self.journal.len().saturating_sub(1);
        let dropped = self.journal[..newest].iter().take_while(|segment| old(segment)).count();
        self.journal.drain(..dropped);
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
        // What is written whole, or again, is intact.
        self.rotten.retain(|digest| blocks.contains_key(digest) && !snapshots.rewrite);
        // The other superblock is overwritten, and is the newest from now on.
        self.superblock_lost = false;
        self.checkpoints.push(Stored { root: snapshots.root, blocks });
        if self.checkpoints.len() > 2 {
            self.checkpoints.remove(0);
        }
    }

    /// A block of a stored checkpoint.
    #[must_use]
    pub fn block(&self, digest: &Digest) -> Option<Bytes> {
        if self.rotten.contains(digest) {
            return None;
        }
        self.checkpoints.iter().find_map(|stored| stored.blocks.get(digest).cloned())
    }

    /// What a restarting replica finds.
    ///
    /// # Errors
    /// If it must not start.
    pub fn load(&mut self) -> Result<(Option<Loaded>, Vec<Record>), Damaged> {
        if self.gone {
            return Err(Damaged);
        }
        self.cut_torn()?;
        if take(&mut self.superblock_lost) {
            self.checkpoints.pop();
        }
        let newest = self.checkpoints.last();
        let loaded = newest.map(|stored| {
            let fetch = |digest: &Digest| stored.blocks.get(digest).cloned();
            let mut fetch =
                |digest: &Digest| fetch(digest).filter(|_| !self.rotten.contains(digest));
            let sessions = Tree::open(stored.root.sessions, &mut fetch).map_err(|_| Damaged)?;
            let service = Tree::open(stored.root.service, &mut fetch).map_err(|_| Damaged)?;
            Ok(Loaded { root: stored.root, sessions, service })
        });
        let loaded = loaded.transpose()?;
        let groups = self.journal.iter().flat_map(|segment| &segment.groups);
        let records = groups.flat_map(|group| &group.records).map(|bytes| codec::decode(bytes));
        let records: Vec<Record> = records.collect::<Result<_, _>>().map_err(|_| Damaged)?;
        // A checkpoint is stored when it is stable: the journal lost what says so.
        let stable = |seq: Seq| records.iter().any(|record| proves(record, seq));
        match &loaded {
            Some(loaded) if !stable(loaded.root.seq) => Err(Damaged),
            Some(_) | None => Ok((loaded, records)),
        }
    }

    /// The operator replaces what is on it by the word that the replica lost what it promised.
    pub fn wipe(&mut self, cluster: &Digest) {
        let (batches, accepted) = (take(&mut self.batches), take(&mut self.accepted));
        *self = Self { batches, accepted, ..Self::default() };
        self.append(cluster, &[Record::Recovery(Recovery::Begun)]);
    }

    /// Cuts off what is not intact at the end of the journal.
    fn cut_torn(&mut self) -> Result<(), Damaged> {
        let mut cut = false;
        for group in self.journal.iter().flat_map(|segment| &segment.groups) {
            cut |= group.found != Found::Intact;
            if cut && group.found != Found::Damaged {
                return Err(Damaged);
            }
        }
        for segment in &mut self.journal {
            segment.groups.retain(|group| group.found == Found::Intact);
        }
        Ok(())
    }

    /// Something befalls what is on the disk, if there is such a thing on it.
    pub fn befall(&mut self, rng: &mut Rng, rot: Rot) {
        let mut groups: Vec<_> = self.journal.iter_mut().flat_map(|s| &mut s.groups).collect();
        match rot {
            Rot::Record if groups.len() > 1 => {
                let victim = rng.usize(0..groups.len() - 1);
                groups[victim].found = Found::Damaged;
            }
            Rot::Misdirected if groups.len() > 1 => {
                let last = groups.len() - 1;
                groups[rng.usize(0..last)].found = Found::Damaged;
                groups[last].found = Found::Astray;
            }
            Rot::Block => {
                let newest = self.checkpoints.last();
                let block = newest.and_then(|stored| rng.choice(stored.blocks.keys()));
                self.rotten.extend(block);
            }
            Rot::All => self.gone = true,
            Rot::Superblock => self.superblock_lost = !self.checkpoints.is_empty(),
            Rot::Record | Rot::Misdirected => {}
        }
    }
}

/// Whether a record says that a checkpoint at `seq` or later is stable.
fn proves(record: &Record, seq: Seq) -> bool {
    matches!(record, Record::Stable(_, root) if root.seq >= seq)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A journal of some groups, two records each.
    fn disk(groups: u64) -> Disk {
        let mut disk = Disk::default();
        for view in 0..groups {
            let prepared =
                Record::Prepared { view: View(view), seq: Seq(view), digest: Digest::ZERO };
            disk.append(&Digest::ZERO, &[Record::View(View(view)), prepared]);
        }
        disk
    }

    fn views(disk: &mut Disk) -> Option<Vec<u64>> {
        let view = |record: &Record| match record {
            Record::View(view) => Some(view.0),
            _ => None,
        };
        disk.load().ok().map(|(_, records)| records.iter().filter_map(view).collect())
    }

    #[test]
    fn a_journal_gives_back_what_was_written() {
        assert_eq!(views(&mut disk(4)), Some(vec![0, 1, 2, 3]));
    }

    #[test]
    fn segments_are_dropped_whole_and_the_latest_of_a_kind_stays() {
        let mut disk = disk(14);
        disk.truncate(Seq(100));
        let left = views(&mut disk).expect("intact");
        assert!(left.len() < 14, "{left:?}");
        assert_eq!(left.last(), Some(&13));
    }

    #[test]
    fn damage_before_something_intact_is_refused() {
        for rot in [Rot::Record, Rot::Misdirected] {
            let mut disk = disk(4);
            disk.befall(&mut Rng::with_seed(1), rot);
            assert_eq!(views(&mut disk), None, "{rot:?}");
        }
    }

    #[test]
    fn a_torn_tail_is_cut() {
        let mut disk = disk(4);
        disk.journal[0].groups[3].found = Found::Damaged;
        assert_eq!(views(&mut disk), Some(vec![0, 1, 2]));
    }
}
