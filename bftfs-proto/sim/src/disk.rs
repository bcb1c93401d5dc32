//! A disk that keeps what was synced, may lose the rest, and may be damaged.
//!
//! It is what `bftfs-node` makes of a real one (`docs/on-disk.md`). The journal is a chain of
//! groups, each with a hash: one that is not intact is the torn tail of a crash if none follows,
//! and is cut; otherwise it had been promised, and the replica does not start again. The store
//! checks blocks against their digests: a damaged one is not served, and comes back from others; a
//! checkpoint whose pages are damaged counts for nothing. Of two superblocks one may be lost.

use std::collections::{BTreeMap, BTreeSet};
use std::mem::take;
use std::sync::Arc;

use bftfs_proto::engine::{Record, Snapshots};
use bftfs_proto::message::{Batch, Request, StateRoot};
use bftfs_proto::replica::{Loaded, Recovery};
use bftfs_proto::types::{Seq, View};
use bftfs_proto::{Digest, codec};
use bftfs_state::{Part, Source};
use bftfs_state_memory::Memory;
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
    /// A value of it is not, while its replica goes on.
    Value,
    /// The newest superblock is no longer intact.
    Superblock,
    /// All is gone.
    All,
}

/// A checkpoint and which blocks it has.
#[derive(Clone, Debug)]
struct Stored {
    root: StateRoot,
    blocks: BTreeSet<Digest>,
    /// Those of them that the replica does not hold in memory.
    away: Vec<Digest>,
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
    /// Blocks, those of checkpoints and others that are not yet part of one.
    blocks: Arc<Memory>,
    /// The last two checkpoints, as the real store keeps them.
    checkpoints: Vec<Stored>,
    /// The superblock that speaks of the newest one is no longer intact.
    superblock_lost: bool,
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
    /// An empty disk whose blocks are in `blocks`.
    #[must_use]
    pub fn over(blocks: Arc<Memory>) -> Self {
        Self { blocks, ..Self::default() }
    }

    /// Whether a block is no longer intact.
    #[must_use]
    pub fn is_rotten(&self, digest: &Digest) -> bool {
        self.blocks.is_damaged(digest)
    }

    /// Blocks that were damaged and came back.
    #[must_use]
    pub fn mended(&self) -> u64 {
        self.blocks.mended()
    }

    /// Power goes: blocks that are not yet part of a checkpoint do not count.
    pub fn crash(&self) {
        self.blocks.retain(|digest| self.checkpoints.iter().any(|c| c.blocks.contains(digest)));
    }

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

    /// Writes a checkpoint. That all of it is there is asserted here: in the checkpoint before it,
    /// among what was added, or kept before.
    pub fn checkpoint(&mut self, snapshots: &Snapshots) {
        let added: BTreeSet<_> = snapshots.added.iter().map(|block| block.digest).collect();
        let before = self.checkpoints.last().filter(|_| !snapshots.rewrite);
        let before = before.map(|stored| stored.blocks.clone());
        let (mut blocks, mut away) = (BTreeSet::new(), Vec::new());
        for part in snapshots.trees.iter().flat_map(bftfs_state::Snapshot::parts) {
            let digest = match part {
                Part::Page(block) | Part::Value(block) => {
                    if added.contains(&block.digest) || snapshots.rewrite {
                        self.blocks.keep(&block);
                    }
                    block.digest
                }
                Part::Away(digest, _) => {
                    away.push(digest);
                    digest
                }
            };
            assert!(self.blocks.holds(&digest), "a checkpoint names a block that was not kept");
            if let Some(before) = &before {
                let known = before.contains(&digest) || added.contains(&digest);
                assert!(known, "a checkpoint is the one before and what was added");
            }
            blocks.insert(digest);
        }
        // The other superblock is overwritten, and is the newest from now on.
        self.superblock_lost = false;
        self.checkpoints.push(Stored { root: snapshots.root, blocks, away });
        if self.checkpoints.len() > 2 {
            self.checkpoints.remove(0);
        }
    }

    /// A block of a stored checkpoint.
    #[must_use]
    pub fn block(&self, digest: &Digest) -> Option<Bytes> {
        let stored = self.checkpoints.iter().any(|stored| stored.blocks.contains(digest));
        self.blocks.get(digest).filter(|_| stored)
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
        let source: Arc<dyn Source> = self.blocks.clone();
        let newest = self.checkpoints.last();
        // The others' state takes the place of one that is damaged.
        let loaded = newest.and_then(|stored| Loaded::open(stored.root, &source).ok());
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
        self.blocks.retain(|_| false);
        *self = Self { batches, accepted, blocks: self.blocks.clone(), ..Self::default() };
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

    /// Something befalls what is on the disk, if there is such a thing on it. Returns the block that
    /// was damaged, if one was.
    pub fn befall(&mut self, rng: &mut Rng, rot: Rot) -> Option<Digest> {
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
            Rot::Block | Rot::Value => {
                let newest = self.checkpoints.last()?;
                let value = rng.choice(&newest.away).filter(|_| rot == Rot::Value);
                let block = value.or_else(|| rng.choice(&newest.blocks)).copied()?;
                self.blocks.damage(block);
                return Some(block);
            }
            Rot::All => self.gone = true,
            Rot::Superblock => self.superblock_lost = !self.checkpoints.is_empty(),
            Rot::Record | Rot::Misdirected => {}
        }
        None
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
            assert_eq!(disk.befall(&mut Rng::with_seed(1), rot), None);
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
