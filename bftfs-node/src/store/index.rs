//! What is known of blocks, in memory: where each is, who needs it, and which are yet to be written.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use bftfs_state::Digest;
use bytes::Bytes;

use super::disk::DiskFile;
use super::pack::{self, Located};

/// Stands for the pack of a block that is lost. The first pack has the number 1.
const NOWHERE: u32 = 0;
/// Checkpoints after which a block that was kept for one and never came with any is let go. More
/// than can be on their way at once.
const PIN_CHECKPOINTS: u64 = 64;

/// What is known of a block that something needs: 56 bytes with the digest, so that 20 GiB in
/// blocks of 32 KiB cost 60 MB.
#[derive(Clone, Copy, Debug)]
struct Entry {
    at: u64,
    pack: u32,
    len: u32,
    /// How often the newest checkpoint refers to it.
    references: u32,
    /// The newest checkpoint no longer refers to it, the one before does.
    retiring: bool,
}

// The promise above; a table has at most eight sevenths as many places, to the next power of two.
const _: () = assert!(size_of::<(Digest, Entry)>() == 56);

/// Parts of the table of entries: none is so big that to enlarge it would be felt.
const SHARDS: usize = 64;

/// The entries, by digest.
#[derive(Debug)]
struct Entries([HashMap<Digest, Entry>; SHARDS]);

impl Default for Entries {
    fn default() -> Self {
        Self(std::array::from_fn(|_| HashMap::new()))
    }
}

impl Entries {
    /// Digests are evenly spread.
    fn shard(&self, digest: &Digest) -> &HashMap<Digest, Entry> {
        &self.0[usize::from(digest.0[0]) % SHARDS]
    }

    fn shard_mut(&mut self, digest: &Digest) -> &mut HashMap<Digest, Entry> {
        &mut self.0[usize::from(digest.0[0]) % SHARDS]
    }

    fn get(&self, digest: &Digest) -> Option<&Entry> {
        self.shard(digest).get(digest)
    }

    fn get_mut(&mut self, digest: &Digest) -> Option<&mut Entry> {
        self.shard_mut(digest).get_mut(digest)
    }

    /// The entry of a block; if there is none yet, that of one that is lost.
    fn get_or_lost(&mut self, digest: Digest) -> &mut Entry {
        let lost = Entry { at: 0, pack: NOWHERE, len: 0, references: 0, retiring: false };
        self.shard_mut(&digest).entry(digest).or_insert(lost)
    }

    fn remove(&mut self, digest: &Digest) {
        self.shard_mut(digest).remove(digest);
    }

    fn iter(&self) -> impl Iterator<Item = (&Digest, &Entry)> {
        self.0.iter().flatten()
    }

    fn iter_mut(&mut self) -> impl Iterator<Item = (&Digest, &mut Entry)> {
        self.0.iter_mut().flatten()
    }
}

/// A pack that counts.
#[derive(Debug)]
pub(super) struct Pack {
    pub(super) file: Arc<DiskFile>,
    /// Bytes written to it.
    pub(super) len: u64,
    /// Bytes of blocks that something needs.
    pub(super) live: u64,
    /// Nothing more is written to it.
    pub(super) full: bool,
}

/// A block that left the tree and of which no written checkpoint knows yet.
#[derive(Debug)]
struct Pin {
    /// How often it left.
    count: u32,
    /// The generation when it did last.
    since: u64,
}

/// Where a block is to be read.
pub(super) enum Place {
    /// In memory still.
    Pending(Bytes),
    In(Arc<DiskFile>, u32, u64, u32),
    /// Something needs it, and it is nowhere.
    Lost,
}

/// Behind one lock that is never held while the disk works.
#[derive(Debug, Default)]
pub(super) struct Index {
    entries: Entries,
    pub(super) packs: BTreeMap<u32, Pack>,
    pins: HashMap<Digest, Pin>,
    /// Blocks that are not in a pack, or only a damaged copy is.
    pending: HashMap<Digest, Bytes>,
    /// Those of them that are to be written, oldest first.
    queue: VecDeque<Digest>,
    damaged: HashSet<Digest>,
    /// Blocks that were damaged and have a good copy again.
    pub(super) repaired: u64,
    /// Bytes of blocks that were moved to empty their packs.
    pub(super) moved: u64,
    /// That of the newest superblock.
    pub(super) generation: u64,
    /// Why blocks can no longer be written.
    pub(super) failure: Option<String>,
    pub(super) closing: bool,
}

impl Index {
    pub(super) fn find(&self, digest: &Digest) -> Option<Place> {
        if let Some(bytes) = self.pending.get(digest) {
            return Some(Place::Pending(bytes.clone()));
        }
        let entry = self.entries.get(digest)?;
        let pack = self.packs.get(&entry.pack);
        Some(pack.map_or(Place::Lost, |pack| {
            Place::In(pack.file.clone(), entry.pack, entry.at, entry.len)
        }))
    }

    /// Whether the block should be there.
    pub(super) fn has(&self, digest: &Digest) -> bool {
        self.pending.contains_key(digest) || self.entries.get(digest).is_some()
    }

    /// Whether it can be read, as far as is known.
    pub(super) fn is_here(&self, digest: &Digest) -> bool {
        self.pending.contains_key(digest) || self.is_placed(digest)
    }

    /// Whether a copy stands in a pack that is not known to be damaged.
    pub(super) fn is_placed(&self, digest: &Digest) -> bool {
        self.entries.get(digest).is_some_and(|entry| entry.pack != NOWHERE)
            && !self.damaged.contains(digest)
    }

    /// Whether it is this copy that counts.
    pub(super) fn is_at(&self, digest: &Digest, pack: u32, at: u64) -> bool {
        self.entries.get(digest).is_some_and(|entry| (entry.pack, entry.at) == (pack, at))
    }

    /// Notes that a good copy of a block stands there.
    pub(super) fn place(&mut self, digest: Digest, pack: u32, at: u64, len: u32) {
        let entry = self.entries.get_or_lost(digest);
        let before = *entry;
        *entry = Entry { at, pack, len, ..before };
        self.bury(before);
        if let Some(pack) = self.packs.get_mut(&pack) {
            pack.live += pack::size(len);
        }
        self.pending.remove(&digest);
        if self.damaged.remove(&digest) {
            self.repaired += 1;
        }
    }

    /// Takes a copy that no longer counts off the live bytes of its pack.
    fn bury(&mut self, entry: Entry) {
        if let Some(pack) = self.packs.get_mut(&entry.pack) {
            pack.live -= pack::size(entry.len);
        }
    }

    /// Begins to count anew.
    pub(super) fn forget_references(&mut self) {
        for (_, entry) in self.entries.iter_mut() {
            (entry.references, entry.retiring) = (0, false);
        }
    }

    /// One more place of the newest checkpoint refers to it.
    pub(super) fn refer(&mut self, digest: Digest) {
        let entry = self.entries.get_or_lost(digest);
        entry.references = entry.references.saturating_add(1);
    }

    /// One place less refers to it; `None` if none did, else whether it was the last.
    pub(super) fn drop_reference(&mut self, digest: &Digest) -> Option<bool> {
        let entry = self.entries.get_mut(digest).filter(|entry| entry.references > 0)?;
        entry.references -= 1;
        Some(entry.references == 0)
    }

    pub(super) fn is_referred_to(&self, digest: &Digest) -> bool {
        self.entries.get(digest).is_some_and(|entry| entry.references > 0)
    }

    /// The checkpoint before the newest needs it; true if that was not known.
    pub(super) fn retire(&mut self, digest: Digest) -> bool {
        let entry = self.entries.get_or_lost(digest);
        !std::mem::replace(&mut entry.retiring, true) && entry.references == 0
    }

    /// The checkpoint before the newest does not need it.
    pub(super) fn unretire(&mut self, digest: &Digest) {
        if let Some(entry) = self.entries.get_mut(digest) {
            entry.retiring = false;
        }
    }

    /// Replaces all counts; returns the blocks that were referred to and are no longer.
    pub(super) fn recount(&mut self, mut counts: HashMap<Digest, u32>) -> Vec<Digest> {
        let mut retired = Vec::new();
        for (digest, entry) in self.entries.iter_mut() {
            let now = counts.remove(digest).unwrap_or(0);
            if now == 0 && entry.references > 0 {
                retired.push(*digest);
            }
            entry.references = now;
        }
        for (digest, count) in counts {
            self.entries.get_or_lost(digest).references = count;
        }
        retired
    }

    /// Lets go of a block unless something needs it; returns the bytes that are dead now.
    pub(super) fn release(&mut self, digest: &Digest) -> u64 {
        let Some(entry) = self.entries.get(digest).copied() else { return 0 };
        if entry.references > 0 || entry.retiring || self.pins.contains_key(digest) {
            return 0;
        }
        self.bury(entry);
        self.entries.remove(digest);
        self.damaged.remove(digest);
        pack::size(entry.len)
    }

    /// Blocks that no checkpoint refers to; pinned ones may be among them.
    pub(super) fn idle(&self) -> Vec<Digest> {
        let idle = |(digest, entry): (&Digest, &Entry)| {
            (entry.references == 0 && !entry.retiring).then_some(*digest)
        };
        self.entries.iter().filter_map(idle).collect()
    }

    /// Lets go of all blocks that nothing needs.
    pub(super) fn sweep(&mut self) {
        for digest in self.idle() {
            self.release(&digest);
        }
    }

    /// All blocks that are in packs, in the order in which they stand there.
    pub(super) fn blocks(&self) -> Vec<(u32, Located)> {
        let placed = self.entries.iter().filter(|(_, entry)| entry.pack != NOWHERE);
        let located = placed.map(|(digest, entry)| {
            (entry.pack, Located { digest: *digest, at: entry.at, len: entry.len })
        });
        let mut blocks: Vec<_> = located.collect();
        blocks.sort_unstable_by_key(|(pack, block)| (*pack, block.at));
        blocks
    }

    /// Blocks that something needs and that are nowhere.
    pub(super) fn lost(&self) -> Vec<Digest> {
        let lost = self.entries.iter().filter(|(_, e)| e.pack == NOWHERE && e.references > 0);
        lost.map(|(digest, _)| *digest).collect()
    }

    /// Holds a block until a checkpoint comes with it.
    pub(super) fn pin(&mut self, digest: Digest) {
        let since = self.generation;
        let pin = self.pins.entry(digest).or_insert(Pin { count: 0, since });
        (pin.count, pin.since) = (pin.count.saturating_add(1), since);
    }

    /// A checkpoint came with it.
    pub(super) fn unpin(&mut self, digest: &Digest) {
        if let Some(pin) = self.pins.get_mut(digest) {
            pin.count -= 1;
            if pin.count == 0 {
                self.pins.remove(digest);
            }
        }
    }

    /// Lets go of what was kept for checkpoints that never came, such as those that a fetched
    /// state overtook.
    pub(super) fn expire_pins(&mut self) {
        let generation = self.generation;
        let old = |pin: &Pin| pin.since + PIN_CHECKPOINTS <= generation;
        let expired: Vec<Digest> =
            self.pins.iter().filter(|(_, pin)| old(pin)).map(|(digest, _)| *digest).collect();
        for digest in expired {
            self.pins.remove(&digest);
            self.release(&digest);
        }
    }

    /// Has a block written early, by the thread that waits for such.
    pub(super) fn enqueue(&mut self, digest: Digest, bytes: Bytes) {
        if self.pending.insert(digest, bytes).is_none() {
            self.queue.push_back(digest);
        }
    }

    /// How many blocks are to be written early.
    pub(super) fn queued(&self) -> usize {
        self.queue.len()
    }

    /// The next block to be written that is not in a pack already.
    pub(super) fn next_queued(&mut self) -> Option<(Digest, Bytes)> {
        loop {
            let digest = self.queue.pop_front()?;
            if let Some(bytes) = self.pending.get(&digest) {
                return Some((digest, bytes.clone()));
            }
        }
    }

    /// Notes that the copy that counts is damaged; true if that was not known.
    pub(super) fn note_damage(&mut self, digest: Digest) -> bool {
        self.damaged.insert(digest)
    }

    pub(super) fn is_damaged(&self, digest: &Digest) -> bool {
        self.damaged.contains(digest)
    }

    /// How many blocks are damaged or lost.
    pub(super) fn damaged(&self) -> usize {
        self.damaged.len()
    }

    /// Bytes of all packs, and how many of them something needs.
    pub(super) fn bytes(&self) -> (u64, u64) {
        let packs = self.packs.values();
        packs.fold((0, 0), |(len, live), pack| (len + pack.len, live + pack.live))
    }
}
