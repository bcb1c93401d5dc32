//! Checking all of a store, without changing it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bftfs_state::Tree;
use serde::Serialize;

use super::disk::Disk;
use super::pack;
use super::superblock::{SLOTS, Superblock};
use super::{LoadedCheckpoint, Store, open};
use crate::data::{Error, Lock, Options, Seal};

/// Blocks after which the progress is told.
const STEP: usize = 256;

/// Something in a data directory that is not as it was written.
#[derive(Clone, Debug, Serialize)]
pub struct Damage {
    /// Where.
    pub file: PathBuf,
    /// At which byte, if that is known.
    pub offset: Option<u64>,
    /// What is wrong, and what it means.
    pub what: String,
    /// What to do.
    pub remedy: String,
}

impl Damage {
    pub(crate) fn new(file: &Path, offset: Option<u64>, what: String, remedy: &str) -> Self {
        Self { file: file.to_owned(), offset, what, remedy: remedy.to_owned() }
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(offset) = self.offset {
            write!(f, " at byte {offset}")?;
        }
        write!(f, ": {}; {}", self.what, self.remedy)
    }
}

const REPAIR: &str = "start the replica: it fetches this from the others";
const NOTHING: &str = "nothing is to be done: it is written again when the replica runs";
const RECOVER: &str = "move the data directory away and bring the replica back with `bftfs-node \
                       recover`";

/// Checks superblocks, packs and lists, every block of both checkpoints, and their trees.
pub(crate) fn verify(
    dir: &Path,
    seal: Seal,
    options: Options,
    lock: Lock,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Vec<Damage>, Error> {
    let mut damages = Vec::new();
    for slot in SLOTS.map(|slot| dir.join(slot)) {
        if let Err(error) = Superblock::read(&slot, &seal) {
            let what = format!("{}; the other superblock counts", reason(&error));
            damages.push(Damage::new(&slot, None, what, NOTHING));
        }
    }
    let Ok(((newest, _), _)) = Superblock::newest(dir, &seal) else {
        let what = "neither superblock can be read, so no checkpoint is known".to_owned();
        damages.push(Damage::new(dir, None, what, RECOVER));
        return Ok(damages);
    };
    check_packs(dir, &seal, &options, &newest, &mut damages)?;
    let (store, _) = Store::look(dir, seal, options, lock)?;
    check_blocks(&store, &mut damages, progress);
    for digest in store.shared.index().lost() {
        let what = format!("block {digest} of the newest checkpoint is in no pack");
        damages.push(Damage::new(dir, None, what, REPAIR));
    }
    for checkpoint in newest.newest.iter().chain(&newest.before) {
        check_trees(&store, dir, checkpoint, &mut damages);
    }
    Ok(damages)
}

/// What an error says, without the advice for those who start a replica.
fn reason(error: &Error) -> String {
    match error {
        Error::Damaged { reason, .. } => reason.clone(),
        other => other.to_string(),
    }
}

fn check_packs(
    dir: &Path,
    seal: &Seal,
    options: &Options,
    superblock: &Superblock,
    damages: &mut Vec<Damage>,
) -> Result<(), Error> {
    let disk = Disk::new(dir, options.durability);
    let found = open::read(&disk, seal, superblock)?;
    let last = superblock.packs.last().map(|(id, _)| *id);
    for &(id, len) in &superblock.packs {
        let (path, list) = (disk.path(&pack::name(id)), disk.path(&pack::list_name(id)));
        let Some(pack) = found.get(&id) else {
            damages.push(Damage::new(&path, None, "the pack is lost".to_owned(), REPAIR));
            continue;
        };
        if pack.actual < len {
            let what = format!("the pack has {} bytes of {len}", pack.actual);
            damages.push(Damage::new(&path, Some(pack.actual), what, REPAIR));
        }
        for at in &pack.bad {
            let what = "the header of a block is damaged".to_owned();
            damages.push(Damage::new(&path, Some(*at), what, REPAIR));
        }
        // That of the last pack may be of a life in which it went on otherwise.
        if !pack.listed && list.exists() && Some(id) != last {
            let what = "the list of the blocks of a pack is damaged".to_owned();
            damages.push(Damage::new(&list, None, what, NOTHING));
        }
    }
    Ok(())
}

fn check_blocks(store: &Store, damages: &mut Vec<Damage>, progress: &mut dyn FnMut(u64, u64)) {
    let shared = &store.shared;
    let blocks = shared.index().blocks();
    let total = blocks.iter().map(|(_, block)| pack::size(block.len)).sum();
    let mut done = 0;
    for (n, (id, block)) in blocks.into_iter().enumerate() {
        let file = shared.index().packs.get(&id).map(|pack| pack.file.clone());
        let Some(file) = file else { continue };
        if pack::read_block(&file, block.at, block.len, &block.digest).is_err() {
            let what = format!("block {} of a checkpoint is damaged", block.digest);
            damages.push(Damage::new(file.path(), Some(block.at), what, REPAIR));
        }
        done += pack::size(block.len);
        if n % STEP == 0 {
            progress(done, total);
        }
    }
    progress(total, total);
}

/// Checks the shape of trees. Blocks that are missing or damaged have been told of.
fn check_trees(
    store: &Store,
    dir: &Path,
    checkpoint: &LoadedCheckpoint,
    damages: &mut Vec<Damage>,
) {
    for root in &checkpoint.roots {
        match Tree::open_over(*root, Arc::new(store.blocks())) {
            Err(bftfs_state::OpenError::Malformed { digest, reason }) => {
                let what = format!(
                    "block {digest} of checkpoint {} is intact and malformed: {reason}",
                    checkpoint.seq
                );
                damages.push(Damage::new(dir, None, what, RECOVER));
            }
            Ok(_) => {}
            Err(error) if damages.is_empty() => {
                let what = format!("checkpoint {}: {error}", checkpoint.seq);
                damages.push(Damage::new(dir, None, what, REPAIR));
            }
            Err(_) => {}
        }
    }
}
