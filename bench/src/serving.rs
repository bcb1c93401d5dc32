//! What the FUSE file systems here have in common: what the kernel refers to, what it has open, how it
//! is answered, and how they are mounted.

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use fuser::{
    Config, Errno, FileAttr, FileHandle, FileType, Filesystem, Generation, INodeNo, MountOption,
    ReplyAttr, ReplyDirectory, ReplyEmpty, ReplyEntry, Session, SessionUnmounter,
};
use rustix::mount::UnmountFlags;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// Neither names nor attributes are cached by the kernel.
const TTL: Duration = Duration::ZERO;
/// A number is not used anew while the kernel knows it, or is told apart from what it was.
const GENERATION: Generation = Generation(0);
/// Threads that take requests from the kernel: enough that one fsync does not stop the rest.
const THREADS: usize = 4;
/// How long open files may keep a detached mount alive before the process ends all the same.
const DETACH_GRACE: Duration = Duration::from_secs(1);

/// Mounts and serves until SIGINT, SIGTERM, SIGHUP or an unmount.
///
/// # Errors
/// If FUSE is missing or fails.
pub(crate) fn serve(
    filesystem: impl Filesystem + 'static,
    mount_point: &Path,
    config: &Config,
) -> Result<()> {
    let mut session = Session::new(filesystem, mount_point, config).with_context(|| {
        format!("cannot mount on {}; is /dev/fuse there, and fusermount3?", mount_point.display())
    })?;
    let unmounter = session.unmount_callable();
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    let mount_point = mount_point.to_owned();
    thread::spawn(move || {
        if signals.forever().next().is_some() {
            leave(unmounter, &mount_point);
        }
    });
    session.run().context("the FUSE session failed")
}

/// A mount that is told by the name `name`.
pub(crate) fn config(name: &str) -> Config {
    let mut config = Config::default();
    config.mount_options = vec![MountOption::FSName(name.to_owned())];
    config.n_threads = Some(THREADS);
    config
}

/// Unmounts; a busy mount is detached, so that nothing stale stays behind.
fn leave(mut unmounter: SessionUnmounter, mount_point: &Path) {
    if unmounter.unmount().is_ok() {
        return;
    }
    eprintln!("{} is busy: detaching it", mount_point.display());
    if let Err(error) = rustix::mount::unmount(mount_point, UnmountFlags::DETACH) {
        eprintln!("cannot detach {}: {error}", mount_point.display());
    }
    thread::sleep(DETACH_GRACE);
    std::process::exit(1);
}

/// What the kernel refers to by number, each with how often it does (fuse(4) lookups).
#[derive(Debug)]
pub(crate) struct References<N>(Mutex<HashMap<u64, (Arc<N>, u64)>>);

impl<N> Default for References<N> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<N> References<N> {
    /// What the kernel means by `ino`.
    pub(crate) fn get(&self, ino: INodeNo) -> Option<Arc<N>> {
        lock(&self.0).get(&ino.0).map(|(node, _)| Arc::clone(node))
    }

    /// Counts one more reference. What is known stays if it `is_same` as what was found now.
    pub(crate) fn refer(&self, ino: INodeNo, found: N, is_same: impl FnOnce(&N, &N) -> bool) {
        let mut known = lock(&self.0);
        let found = Arc::new(found);
        let (node, references) = known.entry(ino.0).or_insert_with(|| (Arc::clone(&found), 0));
        *references += 1;
        if !is_same(node, &found) {
            *node = found;
        }
    }

    /// Forgets `count` references, and the rest with the last.
    pub(crate) fn forget(&self, ino: INodeNo, count: u64) {
        let mut known = lock(&self.0);
        if let Some((_, references)) = known.get_mut(&ino.0) {
            *references = references.saturating_sub(count);
            if *references == 0 {
                known.remove(&ino.0);
            }
        }
    }
}

/// A directory as it was when its reading began.
pub(crate) type Listing = Vec<(INodeNo, FileType, OsString)>;

/// Answers one reading of a directory; `list` is asked when it begins anew.
pub(crate) fn listed(
    mut reply: ReplyDirectory,
    listing: &Mutex<Listing>,
    offset: u64,
    list: impl FnOnce() -> Result<Listing, Errno>,
) {
    let mut listing = lock(listing);
    if offset == 0 {
        match list() {
            Ok(fresh) => *listing = fresh,
            Err(error) => return reply.error(error),
        }
    }
    for (index, (ino, kind, name)) in (1..).zip(listing.iter()).skip_while(|(i, _)| *i <= offset) {
        if reply.add(*ino, index, *kind, name) {
            break;
        }
    }
    reply.ok();
}

/// Answers with a name's file.
pub(crate) fn entry(reply: ReplyEntry, result: Result<FileAttr, Errno>) {
    match result {
        Ok(attributes) => reply.entry(&TTL, &attributes, GENERATION),
        Err(error) => reply.error(error),
    }
}

/// Answers with attributes.
pub(crate) fn attr(reply: ReplyAttr, result: Result<FileAttr, Errno>) {
    match result {
        Ok(attributes) => reply.attr(&TTL, &attributes),
        Err(error) => reply.error(error),
    }
}

/// Answers that it is done.
pub(crate) fn empty(reply: ReplyEmpty, result: Result<(), Errno>) {
    match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(error),
    }
}

/// Answers with a new file that is open.
pub(crate) fn created(
    reply: fuser::ReplyCreate,
    result: Result<(FileAttr, FileHandle), Errno>,
    flags: fuser::FopenFlags,
) {
    match result {
        Ok((attributes, handle)) => reply.created(&TTL, &attributes, GENERATION, handle, flags),
        Err(error) => reply.error(error),
    }
}

/// Things that are open, by the handle that the kernel was given.
#[derive(Debug)]
pub(crate) struct Handles<T> {
    open: Mutex<HashMap<u64, Arc<T>>>,
    next: AtomicU64,
}

impl<T> Default for Handles<T> {
    fn default() -> Self {
        Self { open: Mutex::default(), next: AtomicU64::new(1) }
    }
}

impl<T> Handles<T> {
    /// Keeps `thing` until [`Self::close`].
    pub(crate) fn open(&self, thing: T) -> FileHandle {
        let handle = self.next.fetch_add(1, Ordering::Relaxed);
        lock(&self.open).insert(handle, Arc::new(thing));
        FileHandle(handle)
    }

    /// What `handle` stands for.
    pub(crate) fn get(&self, handle: FileHandle) -> rustix::io::Result<Arc<T>> {
        lock(&self.open).get(&handle.0).cloned().ok_or(rustix::io::Errno::BADF)
    }

    /// Forgets `handle`.
    pub(crate) fn close(&self, handle: FileHandle) {
        lock(&self.open).remove(&handle.0);
    }
}

/// No holder of these locks can panic halfway through a change.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
