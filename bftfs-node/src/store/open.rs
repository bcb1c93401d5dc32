//! Opening a store: first everything is read, then the files are made ready to be written.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::thread;

use tokio::sync::mpsc::unbounded_channel;
use tracing::{info, warn};

use super::append::{Appender, Current, write_list};
use super::blocks::Shared;
use super::disk::{Disk, DiskFile};
use super::index::{Index, Pack};
use super::pack::{self, Located};
use super::superblock::Superblock;
use super::{LoadedCheckpoint, Store, Unsure, scrub};
use crate::data::{Error, Lock, Options, Seal};

/// A pack as it was found.
pub(super) struct Found {
    pub(super) file: Arc<DiskFile>,
    /// Bytes of it that count.
    pub(super) len: u64,
    /// Bytes that it has.
    pub(super) actual: u64,
    pub(super) blocks: Vec<Located>,
    /// Where its headers are damaged.
    pub(super) bad: Vec<u64>,
    /// Its list was good.
    pub(super) listed: bool,
}

impl Found {
    fn is_whole(&self) -> bool {
        self.actual >= self.len && self.bad.is_empty()
    }
}

/// Reads what a superblock speaks of. Damage does not stop it: blocks can be repaired.
pub(super) fn read(
    disk: &Disk,
    seal: &Seal,
    superblock: &Superblock,
) -> Result<BTreeMap<u32, Found>, Error> {
    let mut found = BTreeMap::new();
    for &(id, len) in &superblock.packs {
        let path = disk.path(&pack::name(id));
        let file = match disk.open(&pack::name(id)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                warn!("{} is lost; other replicas have its blocks", path.display());
                continue;
            }
            Err(error) => return Err(Error::io("open", &path)(error)),
        };
        let actual = file.len().map_err(Error::io("look at", &path))?;
        let (mut scan, listed) = pack::blocks(disk, &file, id, len, seal);
        scan.blocks.retain(|block| block.at + u64::from(block.len) <= actual);
        if actual < len {
            warn!("{} has {actual} bytes of {len}", path.display());
        }
        for at in &scan.bad {
            warn!("the header at byte {at} of {} is damaged", path.display());
        }
        let (file, blocks, bad) = (Arc::new(file), scan.blocks, scan.bad);
        found.insert(id, Found { file, len, actual, blocks, bad, listed });
    }
    Ok(found)
}

/// The index of what was read. Of equal blocks the last one counts: it is the one that was mended.
pub(super) fn index(found: &BTreeMap<u32, Found>, generation: u64) -> Index {
    let mut index = Index::default();
    index.generation = generation;
    for (id, Found { file, len, blocks, .. }) in found {
        let pack = Pack { file: file.clone(), len: *len, live: 0, full: true };
        index.packs.insert(*id, pack);
        for block in blocks {
            index.place(block.digest, *id, block.at, block.len);
        }
    }
    index
}

impl Store {
    /// Reads a store and changes nothing. It takes no checkpoints.
    pub(crate) fn look(
        dir: &Path,
        seal: Seal,
        options: Options,
        lock: Lock,
    ) -> Result<(Self, Option<LoadedCheckpoint>), Error> {
        let disk = Disk::new(dir, options.durability);
        let ((newest, _), _) = Superblock::newest(dir, &seal)?;
        let index = index(&read(&disk, &seal, &newest)?, newest.generation);
        let (sender, _) = unbounded_channel();
        let shared = Shared::new(disk, seal, options, index, Appender::new(None, 0), sender);
        let mut store = Self::new(Arc::new(shared), &newest, Vec::new(), lock);
        store.failed = true;
        store.recount();
        Ok((store, newest.newest))
    }

    fn new(shared: Arc<Shared>, newest: &Superblock, doomed: Vec<u32>, lock: Lock) -> Self {
        Self {
            shared,
            threads: Vec::new(),
            newest: newest.newest.clone(),
            before: newest.before.clone(),
            retiring: Vec::new(),
            released: 0,
            doomed,
            unsure: Unsure::Newest,
            failed: false,
            damaged: None,
            _lock: lock,
        }
    }

    pub(crate) fn open(
        dir: &Path,
        seal: Seal,
        options: Options,
        lock: Lock,
    ) -> Result<(Self, Option<LoadedCheckpoint>), Error> {
        raise_file_limit();
        let disk = Disk::new(dir, options.durability);
        let ((newest, _), other) = Superblock::newest(dir, &seal)?;
        let mut found = read(&disk, &seal, &newest)?;
        let mut index = index(&found, newest.generation);

        let other = other.unwrap_or_default();
        let next_id = clear(&disk, dir, &newest, &other)?;
        let current = resume(&disk, dir, &options, &mut found, &mut index)?;
        let (sender, damaged) = unbounded_channel();
        let appender = Appender::new(current, next_id);
        let shared = Arc::new(Shared::new(disk, seal, options, index, appender, sender));
        for (id, pack) in found.iter().filter(|(_, pack)| !pack.listed && pack.is_whole()) {
            let path = shared.disk.path(&pack::list_name(*id));
            write_list(&shared, *id, pack.len, &pack.blocks).map_err(Error::io("write", &path))?;
        }
        drop(found);

        let mentioned = other.packs.into_iter().map(|(id, _)| id);
        let doomed = mentioned.filter(|id| !newest.mentions(*id)).collect();
        let mut store = Self::new(shared.clone(), &newest, doomed, lock);
        store.damaged = Some(damaged);
        store.recount();
        let (early, scrubbed) = (shared.clone(), shared);
        let threads = [
            thread::Builder::new().name("early".into()).spawn(move || early.write_early()),
            thread::Builder::new().name("scrub".into()).spawn(move || scrub::run(&scrubbed)),
        ];
        for started in threads {
            store.threads.push(started.map_err(Error::io("start a thread for", dir))?);
        }
        Ok((store, newest.newest))
    }
}

/// Removes what was never part of a checkpoint. Returns a number above those of all packs.
fn clear(disk: &Disk, dir: &Path, newest: &Superblock, other: &Superblock) -> Result<u32, Error> {
    let mut next_id = 1 + newest.packs.last().map_or(0, |(id, _)| *id);
    let mut removed = false;
    for (id, path) in pack::files(dir)? {
        next_id = next_id.max(id.saturating_add(1));
        if !newest.mentions(id) && !other.mentions(id) {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            disk.remove(name).map_err(Error::io("clear", dir))?;
            removed = true;
        }
    }
    // A number may be used again after another restart: no old list may come back then.
    if removed {
        disk.sync_names().map_err(Error::io("sync", dir))?;
    }
    Ok(next_id)
}

/// Makes the last pack ready to be written on, if it has room and is whole. What is after the bytes
/// that count was never part of a checkpoint and is cut off.
fn resume(
    disk: &Disk,
    dir: &Path,
    options: &Options,
    found: &mut BTreeMap<u32, Found>,
    index: &mut Index,
) -> Result<Option<Current>, Error> {
    let Some((id, last)) = found.pop_last() else { return Ok(None) };
    if last.len >= options.pack_bytes || !last.is_whole() {
        found.insert(id, last);
        return Ok(None);
    }
    let open = || -> io::Result<DiskFile> {
        let file = disk.reopen(&pack::name(id))?;
        if last.actual > last.len {
            disk.truncate(&file, last.len)?;
        }
        // It may be of a life in which the pack went on otherwise.
        let list = pack::list_name(id);
        if disk.path(&list).try_exists()? {
            disk.remove(&list)?;
            disk.sync_names()?;
        }
        Ok(file)
    };
    let file = Arc::new(open().map_err(Error::io("go on with the last pack in", dir))?);
    let pack = index.packs.get_mut(&id).expect("it was found");
    (pack.file, pack.full) = (file.clone(), false);
    Ok(Some(Current::new(id, file, last.len, last.blocks)))
}

/// Every pack is an open file: allow as many as the system does.
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if limit.current < limit.maximum || limit.maximum.is_none() {
        let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
        if let Err(error) = setrlimit(Resource::Nofile, raised) {
            info!("the limit of open files stays at {:?}: {error}", limit.current);
        }
    }
}
