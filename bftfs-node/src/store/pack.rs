//! A pack: a log of blocks, and the index to it in memory.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, ErrorKind, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bftfs_state::{Block, Digest, MAX_VALUE, is_block};
use bytes::Bytes;

use crate::data::Error;

/// Bytes before a block: kind: u8, zeros: 3, length: u32, digest: 32, check: 8, which is the
/// beginning of the BLAKE3 hash of the rest of these.
const HEADER: usize = 48;
const CHECKED: usize = HEADER - 8;
/// Bytes that are gathered before they are written.
const BUFFER: usize = 1 << 20;

/// A block that was not there before; its bytes follow.
const ADD: u8 = 1;
/// One more place refers to a block that is there.
const REFER: u8 = 2;
/// One place less refers to it.
const FREE: u8 = 3;

#[derive(Debug)]
pub(super) struct Pack {
    id: u64,
    path: Arc<Path>,
    file: Arc<File>,
    index: HashMap<Digest, Slot>,
    /// Bytes in the file and the buffer.
    len: u64,
    /// Bytes of the blocks that some place refers to.
    live: u64,
    buffer: Vec<u8>,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    at: u64,
    len: u32,
    references: u32,
}

impl Slot {
    fn size(self) -> u64 {
        HEADER as u64 + u64::from(self.len)
    }
}

/// Where a block is.
pub(super) struct Place {
    path: Arc<Path>,
    file: Arc<File>,
    at: u64,
    len: u32,
}

impl Place {
    pub(super) fn read(&self, digest: &Digest) -> io::Result<Bytes> {
        let mut bytes = vec![0; self.len as usize];
        self.file.read_exact_at(&mut bytes, self.at)?;
        if !is_block(digest, &bytes) {
            let (path, at) = (self.path.display(), self.at);
            let reason = format!("the block at byte {at} of {path} is damaged");
            return Err(io::Error::new(ErrorKind::InvalidData, reason));
        }
        Ok(bytes.into())
    }
}

impl Pack {
    pub(super) fn path(dir: &Path, id: u64) -> PathBuf {
        dir.join(format!("{id:010}.pack"))
    }

    /// The packs in a directory, with the numbers in their names.
    pub(super) fn list(dir: &Path) -> Result<Vec<(u64, PathBuf)>, Error> {
        let mut packs = Vec::new();
        for entry in fs::read_dir(dir).map_err(Error::io("list", dir))? {
            let path = entry.map_err(Error::io("list", dir))?.path();
            let is_pack = path.extension().is_some_and(|extension| extension == "pack");
            let stem = path.file_stem().filter(|_| is_pack).and_then(|stem| stem.to_str());
            if let Some(id) = stem.and_then(|stem| stem.parse().ok()) {
                packs.push((id, path));
            }
        }
        Ok(packs)
    }

    pub(super) fn create(dir: &Path, id: u64) -> io::Result<Self> {
        let path = Self::path(dir, id);
        let file =
            File::options().read(true).write(true).create(true).truncate(true).open(&path)?;
        Ok(Self::new(id, &path, file))
    }

    /// Opens a pack that counts up to `len` bytes; what is after them was never part of a
    /// checkpoint and is cut off.
    pub(super) fn open(dir: &Path, id: u64, len: u64) -> Result<Self, Error> {
        let path = Self::path(dir, id);
        let file = OpenOptions::new().read(true).write(true).open(&path);
        let file = file.map_err(Error::io("open", &path))?;
        let actual = file.metadata().map_err(Error::io("look at", &path))?.len();
        if actual < len {
            let reason = format!("it has {actual} bytes of {len}");
            return Err(Error::damaged(&path, reason));
        }
        file.set_len(len).map_err(Error::io("cut the end off", &path))?;
        let mut pack = Self::new(id, &path, file);
        let file = pack.file();
        let mut reader = BufReader::new(&*file);
        while pack.len < len {
            pack.scan(&mut reader, len)?;
        }
        Ok(pack)
    }

    fn new(id: u64, path: &Path, file: File) -> Self {
        let (path, file) = (path.into(), Arc::new(file));
        Self { id, path, file, index: HashMap::new(), len: 0, live: 0, buffer: Vec::new() }
    }

    pub(super) fn id(&self) -> u64 {
        self.id
    }

    pub(super) fn file(&self) -> Arc<File> {
        self.file.clone()
    }

    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Whether so many more bytes of it are dead than alive.
    pub(super) fn is_wasteful(&self, dead_bytes: u64) -> bool {
        self.len - self.live > self.live + dead_bytes
    }

    /// Whether some place refers to this block.
    pub(super) fn contains(&self, digest: &Digest) -> bool {
        self.index.get(digest).is_some_and(|slot| slot.references > 0)
    }

    pub(super) fn find(&self, digest: &Digest) -> Option<Place> {
        let slot = self.index.get(digest)?;
        let (path, file) = (self.path.clone(), self.file.clone());
        Some(Place { path, file, at: slot.at, len: slot.len })
    }

    /// One more place refers to this block.
    pub(super) fn add(&mut self, block: &Block) -> io::Result<()> {
        let digest = block.digest;
        if self.index.contains_key(&digest) {
            self.put(REFER, &digest, &[])
        } else {
            self.put(ADD, &digest, &block.bytes)
        }
    }

    /// One place less refers to this block.
    pub(super) fn free(&mut self, digest: &Digest) -> io::Result<()> {
        self.put(FREE, digest, &[])
    }

    /// Writes what was gathered.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.file.write_all_at(&self.buffer, self.len - self.buffer.len() as u64)?;
        self.buffer.clear();
        Ok(())
    }

    fn put(&mut self, kind: u8, digest: &Digest, bytes: &[u8]) -> io::Result<()> {
        let len = u32::try_from(bytes.len()).map_err(io::Error::other)?;
        let header = encode(kind, len, digest);
        self.buffer.extend_from_slice(&header);
        self.buffer.extend_from_slice(bytes);
        if !self.note(kind, len, digest) {
            return Err(io::Error::other(format!("block {digest} is freed more often than added")));
        }
        if self.buffer.len() >= BUFFER { self.flush() } else { Ok(()) }
    }

    /// Reads the next entry of the file.
    fn scan(&mut self, reader: &mut BufReader<&File>, end: u64) -> Result<(), Error> {
        let at = self.len;
        let mut header = [0; HEADER];
        reader.read_exact(&mut header).map_err(Error::io("read", &self.path))?;
        let damaged = |path: &Path| Error::damaged(path, format!("the entry at byte {at} is bad"));
        let (kind, len, digest) = decode(&header).ok_or_else(|| damaged(&self.path))?;
        if len as usize > MAX_VALUE || at + HEADER as u64 + u64::from(len) > end {
            return Err(damaged(&self.path));
        }
        reader.seek_relative(len.into()).map_err(Error::io("read", &self.path))?;
        if self.note(kind, len, &digest) { Ok(()) } else { Err(damaged(&self.path)) }
    }

    /// Counts an entry that was written or read; false if it makes no sense.
    fn note(&mut self, kind: u8, len: u32, digest: &Digest) -> bool {
        let at = self.len + HEADER as u64;
        self.len = at + u64::from(len);
        match (kind, self.index.entry(*digest)) {
            (ADD, Entry::Vacant(entry)) => {
                let slot = entry.insert(Slot { at, len, references: 1 });
                self.live += slot.size();
                true
            }
            (REFER, Entry::Occupied(mut entry)) => {
                let slot = entry.get_mut();
                if slot.references == 0 {
                    self.live += slot.size();
                }
                slot.references = slot.references.saturating_add(1);
                true
            }
            (FREE, Entry::Occupied(mut entry)) if entry.get().references > 0 => {
                let slot = entry.get_mut();
                slot.references -= 1;
                if slot.references == 0 {
                    self.live -= slot.size();
                }
                true
            }
            _ => false,
        }
    }
}

fn encode(kind: u8, len: u32, digest: &Digest) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[0] = kind;
    header[4..8].copy_from_slice(&len.to_le_bytes());
    header[8..CHECKED].copy_from_slice(&digest.0);
    let hash = blake3::hash(&header[..CHECKED]);
    header[CHECKED..].copy_from_slice(&hash.as_bytes()[..HEADER - CHECKED]);
    header
}

fn decode(header: &[u8; HEADER]) -> Option<(u8, u32, Digest)> {
    let len = u32::from_le_bytes(*header[4..].first_chunk()?);
    let digest = Digest(*header[8..].first_chunk()?);
    let kind = header[0];
    (encode(kind, len, &digest) == *header).then_some((kind, len, digest))
}
