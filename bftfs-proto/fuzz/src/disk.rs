//! A data directory in memory, made after `docs/on-disk.md`, and what may befall its files.

use std::fs;
use std::path::{Path, PathBuf};

use bftfs_node::data::{self, Durability, Error, Identity, Opened, Options};
use bftfs_state::Digest;
use tempfile::TempDir;

use crate::pick::Pick;

/// Bytes of a page of the journal.
pub const PAGE: usize = 4096;
/// Pages of a segment: few, so that short inputs fill several.
const SEGMENT_PAGES: u64 = 8;
const IDENTITY: Identity = Identity { cluster: Digest([1; 32]), replica: 0 };
/// Random in the real world. Here fixed, so that a run can be repeated.
const SECRET: [u8; 32] = [2; 32];

/// A data directory of a replica that has just been made.
#[derive(Debug)]
pub struct Disk(TempDir);

impl Disk {
    /// A directory with an empty journal and an empty store.
    #[must_use]
    pub fn new() -> Self {
        let memory = Path::new("/dev/shm");
        let parent = if memory.is_dir() { memory.into() } else { std::env::temp_dir() };
        let dir = TempDir::with_prefix_in("bftfs-fuzz-", parent).expect("there is room");
        let disk = Self(dir);
        for name in ["journal", "store"] {
            fs::create_dir(disk.0.path().join(name)).expect("a new directory takes names");
        }
        let identity = [&IDENTITY.cluster.0[..], &[0], &SECRET].concat();
        disk.write("identity", &blob(b"bftfs-ID", &[0; 32], [0; 16], &identity));
        for (name, generation) in [("store/superblock.0", 0), ("store/superblock.1", 1)] {
            disk.write(name, &blob(b"bftfs-SB", &key(), tag(), &[generation, 0]));
        }
        disk.write("journal/0000000000.segment", &vec![0; PAGE * 8]);
        disk
    }

    /// What the replica finds.
    ///
    /// # Errors
    /// Why it must not use it.
    pub fn open(&self) -> Result<Opened, Error> {
        let options = Options {
            segment_bytes: SEGMENT_PAGES * PAGE as u64,
            journal_bytes: 32 * SEGMENT_PAGES * PAGE as u64,
            dead_bytes: 4096,
            ..Options::new(Durability::Replicated)
        };
        data::open(self.0.path(), &IDENTITY, &options)
    }

    /// Replaces a file.
    pub fn write(&self, name: &str, bytes: &[u8]) {
        fs::write(self.0.path().join(name), bytes).expect("there is room");
    }

    /// An identity of this payload with the right hash: anybody can make one.
    pub fn forge_identity(&self, payload: &[u8]) {
        self.write("identity", &blob(b"bftfs-ID", &[0; 32], [0; 16], payload));
    }

    /// The files in `folder`, in order.
    #[must_use]
    pub fn files(&self, folder: &str) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.0.path().join(folder)).expect("the folder is there");
        let mut files: Vec<_> = entries.filter_map(|e| Some(e.ok()?.path())).collect();
        files.retain(|path| path.is_file());
        files.sort();
        files
    }

    /// One misfortune of the files in `folder`.
    pub fn damage(&self, folder: &str, pick: &mut Pick<'_>) {
        let files = self.files(folder);
        let (Some(path), Some(other)) = (pick.one(&files), pick.one(&files)) else { return };
        let mut bytes = fs::read(path).expect("the file is there");
        let from = fs::read(other).expect("the file is there");
        let kind = pick.byte() % 16;
        // Near something, as a rule: files begin with what is read first.
        let start = pick.index(bytes.len().div_ceil(PAGE).max(1)) * PAGE;
        let near = if pick.flip() { 256 } else { PAGE };
        let at = (start + pick.index(near)).min(bytes.len());
        let page = start.min(bytes.len())..(start + PAGE).min(bytes.len());
        match kind {
            0..=5 if at < bytes.len() => bytes[at] ^= 1 << (pick.byte() % 8),
            6 if at < bytes.len() => bytes[at] = pick.byte(),
            7..=8 => bytes[page].fill(0),
            // A misdirected write: the page of another place.
            9..=10 => {
                let source = pick.index(from.len().div_ceil(PAGE).max(1)) * PAGE;
                let source = from.get(source..source + page.len()).unwrap_or_default();
                bytes[page.start..page.start + source.len()].copy_from_slice(source);
            }
            11 => bytes.truncate(at),
            12 => bytes.extend(pick.bytes(PAGE)),
            13 => bytes = pick.bytes(PAGE),
            14 => return fs::remove_file(path).expect("the file is there"),
            15 => bytes = from,
            _ => {}
        }
        fs::write(path, bytes).expect("there is room");
    }
}

impl Default for Disk {
    fn default() -> Self {
        Self::new()
    }
}

fn key() -> [u8; 32] {
    blake3::derive_key("bftfs data directory key v1", &SECRET)
}

fn tag() -> [u8; 16] {
    let hash =
        blake3::Hasher::new_derive_key("bftfs data directory tag v1").update(&SECRET).finalize();
    *hash.as_bytes().first_chunk().expect("a hash is longer")
}

/// A small file as the document draws it.
fn blob(magic: &[u8; 8], key: &[u8; 32], tag: [u8; 16], payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).expect("payloads are short");
    let mut bytes = [&magic[..], &1_u32.to_le_bytes(), &len.to_le_bytes(), &tag].concat();
    let hash = blake3::Hasher::new_keyed(key).update(&bytes).update(payload).finalize();
    bytes.extend_from_slice(hash.as_bytes());
    bytes.extend_from_slice(payload);
    bytes
}
