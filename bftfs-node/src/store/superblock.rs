//! Superblocks: which checkpoints count, and how much of each pack.

use std::path::Path;

use serde::{Deserialize, Serialize};
use tracing::warn;

use super::LoadedCheckpoint;
use super::disk::{Disk, DiskFile};
use crate::data::{Blob, Error, Seal};

const MAGIC: [u8; 8] = *b"bftfs-SB";
pub(super) const SLOTS: [&str; 2] = ["superblock.0", "superblock.1"];
/// Longest payload, in bytes: two checkpoints of half a MiB, and a quarter of a million packs.
const MAX: usize = 4 << 20;

/// What a superblock says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Superblock {
    /// One more than the superblock before it.
    pub(super) generation: u64,
    pub(super) newest: Option<LoadedCheckpoint>,
    /// The checkpoint before the newest.
    pub(super) before: Option<LoadedCheckpoint>,
    /// The packs in ascending order, each with how far it counts, in bytes.
    pub(super) packs: Vec<(u32, u64)>,
}

/// What a superblock of format 1 says.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct SuperblockV1 {
    pub(super) generation: u64,
    pub(super) newest: Option<StoredV1>,
}

/// A checkpoint and the one pack that has all of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct StoredV1 {
    pub(super) checkpoint: LoadedCheckpoint,
    pub(super) pack: u64,
    pub(super) len: u64,
}

impl SuperblockV1 {
    fn upgrade(self) -> Option<Superblock> {
        let Self { generation, newest } = self;
        let Some(StoredV1 { checkpoint, pack, len }) = newest else {
            return Some(Superblock { generation, ..Superblock::default() });
        };
        let packs = [(u32::try_from(pack).ok()?, len)].to_vec();
        Some(Superblock { generation, newest: Some(checkpoint), before: None, packs })
    }
}

impl Superblock {
    /// Overwrites the slot that is its turn. It is durable when that file is.
    pub(super) fn write(&self, disk: &Disk, seal: &Seal) -> std::io::Result<()> {
        match disk.reopen(self.slot()) {
            Ok(file) => self.write_to(&file, disk, seal),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                // Somebody removed it: the other one has led here.
                self.create(disk, seal)?;
                disk.sync_names()
            }
            Err(error) => Err(error),
        }
    }

    /// Makes the slot that is its turn.
    pub(super) fn create(&self, disk: &Disk, seal: &Seal) -> std::io::Result<()> {
        let file = disk.create(self.slot())?;
        self.write_to(&file, disk, seal)
    }

    fn write_to(&self, file: &DiskFile, disk: &Disk, seal: &Seal) -> std::io::Result<()> {
        let payload = postcard::to_allocvec(self).map_err(std::io::Error::other)?;
        disk.write(file, &Blob::encode(&MAGIC, seal, &payload, MAX)?, 0)?;
        disk.sync(file)
    }

    fn slot(&self) -> &'static str {
        SLOTS[usize::from(self.generation % 2 == 1)]
    }

    /// Reads a slot; with it, its format.
    pub(super) fn read(path: &Path, seal: &Seal) -> Result<(Self, u32), Error> {
        let (payload, format) = Blob::read(path, &MAGIC, seal, MAX)?;
        let superblock = if format == 1 {
            postcard::from_bytes(&payload).ok().and_then(SuperblockV1::upgrade)
        } else {
            postcard::from_bytes(&payload).ok().filter(Self::is_ordered)
        };
        let superblock =
            superblock.ok_or_else(|| Error::damaged(path, "its contents cannot be read"))?;
        Ok((superblock, format))
    }

    fn is_ordered(&self) -> bool {
        self.packs.is_sorted_by(|(a, _), (b, _)| a < b)
            && self.packs.first().is_none_or(|(id, _)| *id > 0)
    }

    /// The newest one with its format, and the one before it if that is intact as well.
    pub(super) fn newest(dir: &Path, seal: &Seal) -> Result<((Self, u32), Option<Self>), Error> {
        let [first, second] = SLOTS.map(|slot| Self::read(&dir.join(slot), seal));
        let (newest, other) = match (first, second) {
            (Ok(first), Ok(second)) if first.0.generation > second.0.generation => {
                return Ok((first, Some(second.0)));
            }
            (Ok(first), Ok(second)) => return Ok((second, Some(first.0))),
            (Ok(one), Err(error)) | (Err(error), Ok(one)) => (one, error),
            (Err(error), Err(_)) => return Err(error),
        };
        // A crash while it was written, or damage; the other one is a checkpoint older at most.
        warn!("going on from the other superblock, of generation {}: {other}", newest.0.generation);
        Ok((newest, None))
    }

    pub(super) fn mentions(&self, pack: u32) -> bool {
        self.packs.binary_search_by_key(&pack, |(id, _)| *id).is_ok()
    }
}

/// Turns the superblocks of a store of format 1 into one of format 2. The older one is overwritten,
/// so that a crash leaves the newer.
pub(super) fn upgrade(disk: &Disk, dir: &Path, seal: &Seal) -> Result<(), Error> {
    let ((newest, format), other) = Superblock::newest(dir, seal)?;
    if format > 1 {
        // A crash came after this and before the identity was rewritten.
        return Ok(());
    }
    let other = other.unwrap_or_default();
    let mut packs = newest.packs;
    for (id, len) in other.packs {
        match packs.iter_mut().find(|(known, _)| *known == id) {
            Some((_, known)) => *known = len.max(*known),
            None => packs.push((id, len)),
        }
    }
    packs.sort_unstable();
    let generation = newest.generation + 1;
    let superblock = Superblock { generation, newest: newest.newest, before: other.newest, packs };
    superblock.create(disk, seal).map_err(Error::io("write a superblock in", dir))
}
