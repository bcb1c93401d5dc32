//! The same random calls on a local directory and on a mount: every answer is compared, and in the
//! end every byte and attribute of what is there.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, chmodat, chownat,
    linkat, mkdirat, openat, readlinkat, renameat, statat, symlinkat, unlinkat, utimensat,
};
use rustix::io::{self, pread, pwrite};

use crate::transcript::attributes;
use crate::workload::Numbers;

/// Threads that work at once, each in a directory of its own.
const WORKERS: u64 = 3;
/// Every worker makes at least this many calls, however slow they are.
const CALLS_MIN: u32 = 4;
/// Calls set times before this second, and no clock does.
const SET_BEFORE: i64 = 1_000_000_000;
/// Bytes from the beginning of a file that calls write to.
const FILE_BYTES: u64 = 100_000;

/// Works on both directories for about `time`. Returns how many calls were made.
///
/// # Errors
/// If a call is answered otherwise on the mount than locally.
pub(crate) fn work(local: &Path, mounted: &Path, time: Duration) -> Result<u32> {
    let deadline = Instant::now() + time;
    thread::scope(|scope| {
        let workers: Vec<_> = (0..WORKERS)
            .map(|number| scope.spawn(move || work_alone(number, local, mounted, deadline)))
            .collect();
        let calls = workers.into_iter().map(|worker| worker.join().expect("no panic"));
        calls.sum()
    })
}

fn work_alone(number: u64, local: &Path, mounted: &Path, deadline: Instant) -> Result<u32> {
    let place = format!("worker-{number}");
    let places = [local, mounted].map(|dir| dir.join(&place));
    for place in &places {
        fs::create_dir(place).with_context(|| format!("cannot make {}", place.display()))?;
    }
    let mut numbers = Numbers::new(number);
    let mut calls = 0;
    while calls < CALLS_MIN || Instant::now() < deadline {
        let call = Call::any(&mut numbers);
        let [here, there] = places.each_ref().map(|place| call.perform(place));
        ensure!(
            here == there,
            "{place}, call {calls}: {call:?} answers {here:?} locally and {there:?} on the mount"
        );
        calls += 1;
    }
    Ok(calls)
}

/// A call. Names are few, so that many calls meet something there.
#[derive(Debug)]
pub(crate) enum Call {
    Write { file: String, offset: u64, byte: u8, bytes: usize },
    Truncate { file: String, size: u64 },
    Read { file: String, offset: u64, bytes: usize },
    Mkdir(String),
    Remove(String, AtFlags),
    Rename(String, String),
    Link(String, String),
    Symlink(String, String),
    Chmod(String, u32),
    Chown(String, u32, u32),
    SetTimes(String, i64, i64),
    Stat(String),
    List(String),
}

impl Call {
    pub(crate) fn any(numbers: &mut Numbers) -> Self {
        let (path, other) = (path(numbers), path(numbers));
        let (offset, bytes) = (numbers.below(FILE_BYTES), usize::from(numbers.byte()) * 120);
        match numbers.below(24) {
            0..6 => Self::Write { file: path, offset, byte: numbers.byte(), bytes },
            6 => Self::Truncate { file: path, size: offset },
            7..10 => Self::Read { file: path, offset, bytes },
            10..12 => Self::Mkdir(directory(numbers)),
            12 => Self::Remove(path, AtFlags::empty()),
            13 => Self::Remove(directory(numbers), AtFlags::REMOVEDIR),
            14..16 => Self::Rename(path, other),
            16 => Self::Link(path, other),
            17 => Self::Symlink(path, other),
            18 => Self::Chmod(path, 0o400 | numbers.byte() as u32),
            19 => Self::Chown(path, numbers.byte().into(), numbers.byte().into()),
            20 => Self::SetTimes(path, time(numbers), time(numbers)),
            21..23 => Self::Stat(path),
            _ => Self::List(directory(numbers)),
        }
    }

    /// The names that it may change.
    pub(crate) fn names(&self) -> Vec<&str> {
        match self {
            Self::Write { file, .. } | Self::Truncate { file, .. } | Self::Read { file, .. } => {
                vec![file]
            }
            Self::Rename(from, to) | Self::Link(from, to) => vec![from, to],
            Self::Symlink(_, name)
            | Self::Mkdir(name)
            | Self::Remove(name, _)
            | Self::Chmod(name, _)
            | Self::Chown(name, ..)
            | Self::SetTimes(name, ..)
            | Self::Stat(name)
            | Self::List(name) => vec![name],
        }
    }

    /// Makes the call below `place`; the answer holds all that has to be the same everywhere.
    pub(crate) fn perform(&self, place: &Path) -> io::Result<String> {
        let at = |name: &str| place.join(name);
        match self {
            Self::Write { file, offset, byte, bytes } => {
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC;
                let file = openat(CWD, at(file), flags, Mode::from(0o644))?;
                let written = pwrite(file, &vec![*byte; *bytes], *offset)?;
                return Ok(format!("{written} bytes"));
            }
            Self::Truncate { file, size } => {
                let flags = OFlags::WRONLY | OFlags::CLOEXEC;
                rustix::fs::ftruncate(openat(CWD, at(file), flags, Mode::empty())?, *size)?;
            }
            Self::Read { file, offset, bytes } => {
                let file = openat(CWD, at(file), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
                let mut buffer = vec![0; *bytes];
                let read = pread(file, &mut buffer, *offset)?;
                return Ok(digest(&buffer[..read]));
            }
            Self::Mkdir(name) => mkdirat(CWD, at(name), Mode::from(0o755))?,
            Self::Remove(name, flags) => unlinkat(CWD, at(name), *flags)?,
            Self::Rename(from, to) => renameat(CWD, at(from), CWD, at(to))?,
            Self::Link(from, to) => linkat(CWD, at(from), CWD, at(to), AtFlags::empty())?,
            Self::Symlink(target, name) => symlinkat(target, CWD, at(name))?,
            Self::Chmod(name, mode) => chmodat(CWD, at(name), Mode::from(*mode), AtFlags::empty())?,
            Self::Chown(name, uid, gid) => {
                let (uid, gid) = (Some(Uid::from_raw(*uid)), Some(Gid::from_raw(*gid)));
                chownat(CWD, at(name), uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
            }
            Self::SetTimes(name, atime, mtime) => {
                utimensat(CWD, at(name), &times(*atime, *mtime), AtFlags::SYMLINK_NOFOLLOW)?;
            }
            Self::Stat(name) => {
                let stat = statat(CWD, at(name), AtFlags::SYMLINK_NOFOLLOW)?;
                return Ok(attributes(&stat));
            }
            Self::List(name) => return list(&at(name)).map(|names| format!("{names:?}")),
        }
        Ok("done".to_owned())
    }
}

/// What is to be seen at a path: that nothing is there, or all that has to be the same everywhere.
pub(crate) fn look(path: &Path) -> Result<String> {
    match statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(format!("{}{}", attributes(&stat), contents(path, &stat)?)),
        Err(error) => Ok(format!("{error:?}")),
    }
}

fn directory(numbers: &mut Numbers) -> String {
    format!("dir-{}", numbers.below(3))
}

fn path(numbers: &mut Numbers) -> String {
    let name = format!("name-{}", numbers.below(6));
    if numbers.below(2) == 0 { name } else { directory(numbers) + "/" + &name }
}

fn time(numbers: &mut Numbers) -> i64 {
    i64::try_from(numbers.below(SET_BEFORE as u64)).expect("it is below")
}

fn times(atime: i64, mtime: i64) -> Timestamps {
    let at = |tv_sec| Timespec { tv_sec, tv_nsec: tv_sec % 1000 };
    Timestamps { last_access: at(atime), last_modification: at(mtime) }
}

fn list(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let listed = || -> std::io::Result<Vec<PathBuf>> {
        fs::read_dir(dir)?.map(|entry| Ok(entry?.file_name().into())).collect()
    };
    let mut names = listed().map_err(|error| {
        io::Errno::from_io_error(&error).expect("the kernel says why a directory is not read")
    })?;
    names.sort();
    Ok(names)
}

fn digest(bytes: &[u8]) -> String {
    let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
    });
    format!("{} bytes, {hash:016x}", bytes.len())
}

/// Compares all that is below two directories: names, kinds, contents, attributes, links, and the
/// times that calls have set.
pub(crate) fn compare(local: &Path, mounted: &Path) -> Result<()> {
    let [here, there] = [local, mounted].map(describe);
    let (here, there) = (here?, there?);
    let mut differences = String::new();
    for path in here.keys().chain(there.keys().filter(|path| !here.contains_key(*path))) {
        let (here, there) = (here.get(path), there.get(path));
        if here != there {
            let _ = writeln!(differences, "  {}\n    {here:?}\n    {there:?}", path.display());
        }
    }
    ensure!(differences.is_empty(), "local directory and mount differ:\n{differences}");
    ensure!(!here.is_empty(), "there is nothing to compare in {}", local.display());
    Ok(())
}

/// What is below `root`, by path.
fn describe(root: &Path) -> Result<BTreeMap<PathBuf, String>> {
    let mut described = BTreeMap::new();
    let mut inodes = BTreeMap::new();
    let mut open = vec![PathBuf::new()];
    while let Some(dir) = open.pop() {
        let names = list(&root.join(&dir)).with_context(|| format!("{}", dir.display()))?;
        for path in names.iter().map(|name| dir.join(name)) {
            let stat = statat(CWD, root.join(&path), AtFlags::SYMLINK_NOFOLLOW)?;
            let first = inodes.entry(stat.st_ino).or_insert_with(|| path.clone());
            let mut text = format!("{} of {}", attributes(&stat), first.display());
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                open.push(path.clone());
            }
            text += &contents(&root.join(&path), &stat)?;
            described.insert(path, text);
        }
    }
    Ok(described)
}

/// What is in a file, a link or a directory, and the time that a call has set.
fn contents(path: &Path, stat: &Stat) -> Result<String> {
    let mut text = String::new();
    if stat.st_mtime < SET_BEFORE {
        let _ = write!(text, ", modified at {}.{:09}", stat.st_mtime, stat.st_mtime_nsec);
    }
    let _ = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => write!(text, ", {:?}", list(path)?),
        FileType::Symlink => {
            let target = readlinkat(CWD, path, Vec::new())?;
            let target = PathBuf::from(std::ffi::OsString::from_vec(target.into_bytes()));
            write!(text, ", to {}", target.display())
        }
        _ => write!(text, ", {}", digest(&fs::read(path)?)),
    };
    Ok(text)
}

#[test]
fn every_difference_is_found() {
    let dir = tempfile::tempdir().expect("a folder");
    let [local, other] = ["local", "other"].map(|name| dir.path().join(name));
    for place in [&local, &other] {
        fs::create_dir(place).expect("a folder");
    }
    assert!(compare(&local, &other).is_err(), "nothing is no evidence");
    work(&local, &other, Duration::from_millis(100)).expect("both are local");
    compare(&local, &other).expect("they are equal");
    let changes: [fn(&Path) -> io::Result<()>; 4] = [
        |file| chownat(CWD, file, Some(Uid::from_raw(7)), None, AtFlags::empty()),
        |file| utimensat(CWD, file, &times(1, 2), AtFlags::empty()),
        |file| fs::write(file, "x").map_err(|_| io::Errno::IO),
        |file| unlinkat(CWD, file, AtFlags::empty()),
    ];
    for (number, change) in changes.into_iter().enumerate() {
        let name = format!("file-{number}");
        for place in [&local, &other] {
            fs::write(place.join(&name), "a").expect("a file");
        }
        compare(&local, &other).expect("they are equal");
        change(&other.join(&name)).expect("it can be changed");
        let error = compare(&local, &other).expect_err("they differ").to_string();
        assert!(error.contains(&name), "change {number}: {error}");
        fs::copy(local.join(&name), other.join(&name)).expect("a copy");
        fs::remove_file(local.join(&name))
            .and_then(|()| fs::remove_file(other.join(&name)))
            .expect("both are removed");
    }
}
