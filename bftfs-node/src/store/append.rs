//! Appending blocks to the current pack.

use std::io;
use std::sync::Arc;

use bftfs_state::Digest;

use super::blocks::Shared;
use super::disk::DiskFile;
use super::index::Pack;
use super::pack::{self, Located};

/// Bytes that are gathered before they are written.
const BUFFER: usize = 1 << 20;

/// The end of the log. Whoever writes blocks holds it.
#[derive(Debug)]
pub(super) struct Appender {
    current: Option<Current>,
    next_id: u32,
    /// Files written to since they were last synced.
    dirty: Vec<Arc<DiskFile>>,
    /// Whether files were made since their names were last synced.
    new_names: bool,
}

/// The pack that is being filled.
#[derive(Debug)]
pub(super) struct Current {
    pub(super) id: u32,
    pub(super) file: Arc<DiskFile>,
    /// Bytes in the file and the buffer.
    pub(super) len: u64,
    /// All of its blocks.
    pub(super) blocks: Vec<Located>,
    /// How many of them are in the file.
    written: usize,
    buffer: Vec<u8>,
}

impl Current {
    pub(super) fn new(id: u32, file: Arc<DiskFile>, len: u64, blocks: Vec<Located>) -> Self {
        let written = blocks.len();
        Self { id, file, len, blocks, written, buffer: Vec::new() }
    }
}

/// What has to be synced before a superblock may speak of it.
pub(super) struct Unsynced {
    pub(super) files: Vec<Arc<DiskFile>>,
    pub(super) new_names: bool,
    /// The packs and how far they are written.
    pub(super) packs: Vec<(u32, u64)>,
}

impl Appender {
    pub(super) fn new(current: Option<Current>, next_id: u32) -> Self {
        let new_names = false;
        Self { current, next_id, dirty: Vec::new(), new_names }
    }

    /// Appends a block. It is in its place when [`Self::flush`] returns.
    pub(super) fn append(
        &mut self,
        shared: &Shared,
        digest: &Digest,
        bytes: &[u8],
    ) -> io::Result<()> {
        let size = (pack::HEADER + bytes.len()) as u64;
        let most = shared.options.pack_bytes;
        if self.current.as_ref().is_some_and(|current| current.len + size > most.max(size)) {
            self.finish_pack(shared)?;
        }
        let current = match &mut self.current {
            Some(current) => current,
            None => self.start_pack(shared)?,
        };
        let at = current.len + pack::HEADER as u64;
        let len = u32::try_from(bytes.len()).map_err(io::Error::other)?;
        pack::put(&mut current.buffer, digest, bytes);
        current.blocks.push(Located { digest: *digest, at, len });
        current.len += size;
        if current.buffer.len() >= BUFFER { self.flush(shared) } else { Ok(()) }
    }

    /// Writes what was gathered; then the blocks are in their places.
    pub(super) fn flush(&mut self, shared: &Shared) -> io::Result<()> {
        let Some(current) = self.current.as_mut().filter(|current| !current.buffer.is_empty())
        else {
            return Ok(());
        };
        let at = current.len - current.buffer.len() as u64;
        shared.disk.write(&current.file, &current.buffer, at)?;
        current.buffer.clear();
        if !self.dirty.iter().any(|file| Arc::ptr_eq(file, &current.file)) {
            self.dirty.push(current.file.clone());
        }
        let mut index = shared.index();
        let pack = index.packs.get_mut(&current.id).expect("it counts while it is written");
        pack.len = current.len;
        for block in &current.blocks[current.written..] {
            index.place(block.digest, current.id, block.at, block.len);
        }
        current.written = current.blocks.len();
        Ok(())
    }

    /// Writes what was gathered, and says what is to be synced then.
    pub(super) fn take_unsynced(&mut self, shared: &Shared) -> io::Result<Unsynced> {
        self.flush(shared)?;
        let packs = shared.index().packs.iter().map(|(id, pack)| (*id, pack.len)).collect();
        let (files, new_names) =
            (std::mem::take(&mut self.dirty), std::mem::take(&mut self.new_names));
        Ok(Unsynced { files, new_names, packs })
    }

    fn start_pack(&mut self, shared: &Shared) -> io::Result<&mut Current> {
        let id = self.next_id;
        self.next_id += 1;
        let file = Arc::new(shared.disk.create(&pack::name(id))?);
        self.new_names = true;
        let pack = Pack { file: file.clone(), len: 0, live: 0, full: false };
        shared.index().packs.insert(id, pack);
        Ok(self.current.insert(Current::new(id, file, 0, Vec::new())))
    }

    /// Goes on to another pack. The list of this one saves reading it at the next start; without
    /// it nothing is lost.
    fn finish_pack(&mut self, shared: &Shared) -> io::Result<()> {
        self.flush(shared)?;
        let Some(Current { id, len, blocks, .. }) = self.current.take() else { return Ok(()) };
        write_list(shared, id, len, &blocks)?;
        if let Some(pack) = shared.index().packs.get_mut(&id) {
            pack.full = true;
        }
        Ok(())
    }
}

pub(super) fn write_list(shared: &Shared, id: u32, len: u64, blocks: &[Located]) -> io::Result<()> {
    let list = pack::encode_list(blocks, len, &shared.seal)?;
    let file = shared.disk.create(&pack::list_name(id))?;
    shared.disk.write(&file, &list, 0)
}
