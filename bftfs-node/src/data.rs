//! The data directory of one replica.
//!
//! It holds `identity` (whose it is), `journal/` and `store/`. The identity is written last when
//! the directory is made, so whatever is missing later was lost, not never there: a replica that
//! forgot what it promised must not go on as if it were new.

mod blob;
#[cfg(test)]
mod tests;

use std::fmt;
use std::fs::{self, File, TryLockError};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bftfs_state::Digest;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tracing::info;

pub(crate) use self::blob::Blob;
use crate::journal::{self, Entry, Journal};
use crate::store::{self, LoadedCheckpoint, Store};

/// The version of the data directory. One of format 1 is upgraded when it is opened.
pub const FORMAT: u32 = 2;

/// Whose data directory it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The name of the cluster, for example the digest of its configuration at birth.
    pub cluster: Digest,
    /// The replica's number in it.
    pub replica: u32,
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "replica {} of cluster {:?}", self.replica, self.cluster)
    }
}

/// When what is written counts as kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// When the disk has it: it survives a power cut of all replicas at once.
    Sync,
    /// When the kernel has it: it survives the process, and a power cut of f replicas.
    Replicated,
}

/// How to keep the data.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// When what is written counts as kept.
    pub durability: Durability,
    /// Size of a new segment of the journal, in bytes; a multiple of 4096. No record can be longer
    /// than half of it.
    pub segment_bytes: u64,
    /// The size that the journal must not exceed, in bytes.
    pub journal_bytes: u64,
    /// Bytes of blocks that no longer count that the store may have beside as many as count.
    pub dead_bytes: u64,
    /// Size of a pack of the store, in bytes, at which the next one is begun.
    pub pack_bytes: u64,
    /// Bytes of blocks that a checkpoint moves out of packs that are mostly dead, beside twice as
    /// many as it adds and lets go.
    pub clean_bytes: u64,
    /// Bytes of blocks that were read or written last and are kept in memory.
    pub cache_bytes: u64,
    /// Bytes of blocks that are read each second to look for damage; 0 to do that only when asked.
    pub scrub_bytes_per_second: u64,
    /// The data are only looked at: damage is not logged and nobody is asked for repairs.
    pub quiet: bool,
}

impl Options {
    /// Segments of 32 MiB, a journal of at most 2 GiB, 64 MiB of dead blocks, packs of 64 MiB,
    /// 16 MiB moved at a time, a cache of 128 MiB, and 16 MiB a second looked through.
    #[must_use]
    pub fn new(durability: Durability) -> Self {
        Self {
            durability,
            segment_bytes: 32 << 20,
            journal_bytes: 2 << 30,
            dead_bytes: 64 << 20,
            pack_bytes: 64 << 20,
            clean_bytes: 16 << 20,
            cache_bytes: 128 << 20,
            scrub_bytes_per_second: 16 << 20,
            quiet: false,
        }
    }
}

/// A data directory, opened and locked.
#[derive(Debug)]
pub struct Opened {
    /// Where to write records.
    pub journal: Journal,
    /// The records that the journal has, oldest first. Those that were truncated may be among
    /// them, and those to be kept until they are replaced may occur more than once.
    pub records: Vec<Vec<u8>>,
    /// Where to write checkpoints.
    pub store: Store,
    /// The newest checkpoint that the store has.
    pub checkpoint: Option<LoadedCheckpoint>,
}

/// Why a data directory cannot be used.
#[derive(Debug, Error)]
pub enum Error {
    /// The operating system refused something.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Another process has it.
    #[error(
        "the data directory {} is in use by another process; stop that one first, or give each \
         replica a directory of its own", .0.display()
    )]
    Locked(PathBuf),
    /// No replica ever wrote there, or all that it wrote is gone.
    #[error(
        "there is no data of {expected} in {}. If the cluster is new, make it with `bftfs-node \
         format`. If the replica had data and lost it, `bftfs-node recover` brings it back: it must \
         not begin anew, for it has promised what it does not know", path.display()
    )]
    Missing {
        /// The directory.
        path: PathBuf,
        /// Whose it should be.
        expected: Identity,
    },
    /// There is something to lose.
    #[error(
        "{} holds the data of a replica already: to give it up, move it away first", .0.display()
    )]
    Taken(PathBuf),
    /// Written by another version of this program.
    #[error(
        "{} has format {found}, this program knows format {known}; use the program that wrote it",
        path.display()
    )]
    Format {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// The newest that is known here.
        known: u32,
    },
    /// Written by another replica.
    #[error(
        "the data directory {} belongs to {found}, not to {expected}; check the paths in the \
         configuration", path.display()
    )]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// Whose it is.
        found: Identity,
        /// Whose it should be.
        expected: Identity,
    },
    /// Not what was written.
    #[error(
        "{} is damaged: {reason}. The replica may have forgotten what it promised, so it must not \
         go on with this data: restore the file, or move the whole directory away and have the \
         replica admitted anew", path.display()
    )]
    Damaged {
        /// The file or directory.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

impl Error {
    pub(crate) fn damaged(path: &Path, reason: impl Into<String>) -> Self {
        Self::Damaged { path: path.to_owned(), reason: reason.into() }
    }

    /// Says what was tried when an I/O operation fails.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }
}

/// What marks bytes as written here: by this replica into this directory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seal {
    /// Unknown to clients, so that no data of theirs can look like ours.
    pub(crate) key: [u8; 32],
    /// Tells a file of another directory from a damaged one.
    pub(crate) tag: [u8; 16],
}

impl Seal {
    /// For the identity itself, which says who reads the rest.
    pub(crate) const OPEN: Self = Self { key: [0; 32], tag: [0; 16] };

    fn new(secret: &[u8; 32]) -> Self {
        let mut tag = [0; 16];
        blake3::Hasher::new_derive_key("bftfs data directory tag v1")
            .update(secret)
            .finalize_xof()
            .fill(&mut tag);
        Self { key: blake3::derive_key("bftfs data directory key v1", secret), tag }
    }
}

/// Holds the lock on a data directory until it is dropped.
#[derive(Clone, Debug)]
pub(crate) struct Lock(#[expect(dead_code, reason = "held, not used")] Arc<File>);

#[derive(Serialize, Deserialize)]
struct IdentityFile {
    identity: Identity,
    secret: [u8; 32],
}

const IDENTITY_MAGIC: [u8; 8] = *b"bftfs-ID";
/// Bytes of an identity, at most.
const IDENTITY_MAX: usize = 1 << 10;

impl IdentityFile {
    /// Reads that of the data directory `path`, which must be this one; with it, its format.
    fn read(path: &Path, expected: &Identity) -> Result<(Self, u32), Error> {
        let file = path.join("identity");
        let (blob, format) = Blob::read(&file, &IDENTITY_MAGIC, &Seal::OPEN, IDENTITY_MAX)?;
        let kept: Self = postcard::from_bytes(&blob)
            .map_err(|_| Error::damaged(&file, "its contents cannot be read"))?;
        if kept.identity != *expected {
            let (found, expected) = (kept.identity, *expected);
            return Err(Error::Foreign { path: path.to_owned(), found, expected });
        }
        Ok((kept, format))
    }

    /// Replaces `identity` in the data directory `path`, as a whole.
    fn write(&self, path: &Path) -> Result<(), Error> {
        let bytes = postcard::to_allocvec(self).expect("an identity can be encoded");
        let (new, file) = (path.join("identity.new"), path.join("identity"));
        // What a crash left there may be longer.
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(Error::io("remove", &new)(error));
            }
            Ok(()) | Err(_) => {}
        }
        Blob::write(&new, &IDENTITY_MAGIC, &Seal::OPEN, &bytes, IDENTITY_MAX, Durability::Sync)
            .map_err(Error::io("write", &new))?;
        fs::rename(&new, &file).map_err(Error::io("write", &file))?;
        sync_directory(path)
    }
}

/// Makes the data directory of a replica at `path`, with these records in its journal.
///
/// # Errors
/// When there is one already, or it cannot be written.
pub fn format(
    path: &Path,
    identity: &Identity,
    options: &Options,
    records: &[Entry],
) -> Result<(), Error> {
    format_with(path, identity, options, records, None)
}

/// Writes to a store that was just made.
pub(crate) type Fill<'a> = &'a mut dyn FnMut(&mut Store) -> io::Result<()>;

/// The same, with a store that `fill` has written to.
///
/// # Errors
/// As [`format()`], or what `fill` fails with.
pub(crate) fn format_with(
    path: &Path,
    identity: &Identity,
    options: &Options,
    records: &[Entry],
    fill: Option<Fill<'_>>,
) -> Result<(), Error> {
    let lock = lock(path)?;
    if exists(&path.join("identity"))? {
        return Err(Error::Taken(path.to_owned()));
    }
    create(path, identity, options, records, fill, lock)
}

/// Opens the data directory at `path`.
///
/// # Errors
/// When there is none, when another process has it, when it is another replica's or another version's, and when
/// anything that was kept is lost or damaged. A write that was under way at a crash is neither.
///
/// # Panics
/// When the size of a segment is not a multiple of 4096 bytes.
pub fn open(path: &Path, identity: &Identity, options: &Options) -> Result<Opened, Error> {
    assert!(options.segment_bytes > 0 && options.segment_bytes.is_multiple_of(4096), "whole pages");
    let lock = lock(path)?;
    let file = path.join("identity");
    if !exists(&file)? {
        return Err(Error::Missing { path: path.to_owned(), expected: *identity });
    }
    let (kept, format) = IdentityFile::read(path, identity)?;
    let seal = Seal::new(&kept.secret);
    if format < FORMAT {
        // The identity is last: until it is rewritten, all of this is done again.
        store::upgrade(&path.join("store"), &seal)?;
        kept.write(path)?;
        info!("{} was upgraded from format {format} to {FORMAT}", path.display());
    }
    let (store, checkpoint) = Store::open(&path.join("store"), seal, *options, lock.clone())?;
    let (journal, records) = Journal::open(&path.join("journal"), seal, *options, lock)?;
    Ok(Opened { journal, records, store, checkpoint })
}

/// A data directory that is only looked at.
#[derive(Debug)]
pub struct Look {
    /// Its format.
    pub format: u32,
    /// The records that the journal has, oldest first.
    pub records: Result<Vec<Vec<u8>>, Error>,
    store: PathBuf,
    seal: Seal,
    options: Options,
    lock: Lock,
}

impl Look {
    /// The store, to be read only, and the newest checkpoint in it.
    ///
    /// # Errors
    /// When it cannot be read, or both superblocks are damaged.
    pub fn store(&self) -> Result<(Store, Option<LoadedCheckpoint>), Error> {
        Store::look(&self.store, self.seal, self.options, self.lock.clone())
    }

    /// Checks all that the store has; `progress` is told how many bytes of how many were read.
    ///
    /// # Errors
    /// When it cannot be checked.
    pub fn verify_store(
        &self,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Vec<store::Damage>, Error> {
        store::verify(&self.store, self.seal, self.options, self.lock.clone(), progress)
    }
}

/// Locks the data directory at `path` and reads it. Nothing is changed.
///
/// # Errors
/// As [`open`], but damage to the journal and the store is told of later.
pub fn look(path: &Path, identity: &Identity) -> Result<Look, Error> {
    let file = path.join("identity");
    if !exists(&file)? {
        return Err(Error::Missing { path: path.to_owned(), expected: *identity });
    }
    // What is there is locked: nothing is made.
    let lock = path.join("lock");
    let lock = if exists(&lock)? { lock } else { path.to_owned() };
    let lock = lock_file(path, File::open(&lock).map_err(Error::io("open", &lock))?)?;
    let (kept, format) = IdentityFile::read(path, identity)?;
    let seal = Seal::new(&kept.secret);
    let options = Options { quiet: true, ..Options::new(Durability::Sync) };
    let records = journal::read(&path.join("journal"), &seal);
    Ok(Look { format, records, store: path.join("store"), seal, options, lock })
}

/// Opens the data directory at `path`, made if there is none: for tests.
#[cfg(test)]
pub(crate) fn open_or_format(
    path: &Path,
    identity: &Identity,
    options: &Options,
) -> Result<Opened, Error> {
    match format(path, identity, options, &[]) {
        Ok(()) | Err(Error::Taken(_)) => open(path, identity, options),
        Err(error) => Err(error),
    }
}

/// The payload of the identity in `path`, and the seal that it makes: for tests.
#[cfg(test)]
pub(crate) fn open_identity_for_tests(path: &Path) -> (Vec<u8>, Seal) {
    let file = path.join("identity");
    let (payload, _) = Blob::read(&file, &IDENTITY_MAGIC, &Seal::OPEN, IDENTITY_MAX).unwrap();
    let kept: IdentityFile = postcard::from_bytes(&payload).unwrap();
    (payload, Seal::new(&kept.secret))
}

fn lock(path: &Path) -> Result<Lock, Error> {
    fs::create_dir_all(path).map_err(Error::io("create the directory", path))?;
    let file = path.join("lock");
    lock_file(path, File::create(&file).map_err(Error::io("create", &file))?)
}

fn lock_file(path: &Path, file: File) -> Result<Lock, Error> {
    match file.try_lock() {
        Ok(()) => Ok(Lock(Arc::new(file))),
        Err(TryLockError::WouldBlock) => Err(Error::Locked(path.to_owned())),
        Err(TryLockError::Error(source)) => Err(Error::io("lock", path)(source)),
    }
}

fn create(
    path: &Path,
    identity: &Identity,
    options: &Options,
    records: &[Entry],
    fill: Option<Fill<'_>>,
    lock: Lock,
) -> Result<(), Error> {
    let mut secret = [0; 32];
    let random = Path::new("/dev/urandom");
    File::open(random)
        .and_then(|mut file| file.read_exact(&mut secret))
        .map_err(Error::io("read", random))?;
    journal::create(&path.join("journal"), options)?;
    let seal = Seal::new(&secret);
    store::create(&path.join("store"), &seal)?;
    if let Some(fill) = fill {
        create_filled(path, seal, *options, &lock, fill)?;
    }
    if !records.is_empty() {
        let (mut journal, _) = Journal::open(&path.join("journal"), seal, *options, lock)?;
        journal.append(records).map_err(Error::io("write the journal in", path))?;
    }

    IdentityFile { identity: *identity, secret }.write(path)
}

/// Replaces an empty store by one that `fill` writes to.
fn create_filled(
    path: &Path,
    seal: Seal,
    options: Options,
    lock: &Lock,
    fill: Fill<'_>,
) -> Result<(), Error> {
    let (new, dir) = (path.join("store.new"), path.join("store"));
    if exists(&new)? {
        // Left half made by an earlier attempt.
        fs::remove_dir_all(&new).map_err(Error::io("remove", &new))?;
    }
    store::create(&new, &seal)?;
    let (mut store, _) = Store::open(&new, seal, options, lock.clone())?;
    let filled = fill(&mut store);
    drop(store);
    if let Err(error) = filled {
        fs::remove_dir_all(&new).map_err(Error::io("remove", &new))?;
        return Err(Error::io("fill the store in", path)(error));
    }
    fs::remove_dir_all(&dir).map_err(Error::io("replace", &dir))?;
    fs::rename(&new, &dir).map_err(Error::io("replace", &dir))?;
    sync_directory(path)
}

/// Makes the names in a directory durable.
pub(crate) fn sync_directory(path: &Path) -> Result<(), Error> {
    File::open(path).and_then(|dir| dir.sync_all()).map_err(Error::io("sync", path))
}

pub(crate) fn exists(path: &Path) -> Result<bool, Error> {
    path.try_exists().map_err(Error::io("look at", path))
}
