//! The same calls on two directories, and whether they answer the same.

use std::fmt::{Debug, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use bftfs_dev::Mode;
use rustix::fs::{AtFlags, CWD, FileType, Mode as Bits, OFlags, Stat, StatxFlags};
use rustix::io;
use rustix::thread::{set_thread_gid, set_thread_groups, set_thread_uid};

use crate::lab::Lab;

/// Longer than any file system's clock ticks.
const CLOCK_TICK: Duration = Duration::from_millis(15);

/// Calls in one directory, and what they answered, a line each.
#[derive(Debug)]
pub(crate) struct Script {
    dir: OwnedFd,
    lines: Vec<String>,
}

/// Makes the same calls on a mount and on a local directory, and compares every answer.
pub(crate) fn compare(
    lab: &Lab,
    modes: &[Mode],
    script: impl Fn(&mut Script) -> Result<()>,
) -> Result<()> {
    let local = record(&lab.directory("local")?, &script).context("on the local directory")?;
    for mode in modes {
        let mount = lab.mount(mode.name(), *mode)?;
        let place = mount.point().join(mode.name());
        std::fs::create_dir(&place)?;
        let mounted =
            record(&place, &script).with_context(|| format!("mounted {}", mode.name()))?;
        mount.unmount()?;
        let differences = differences(&local, &mounted);
        if !differences.is_empty() {
            bail!("{} answers otherwise than the local directory:\n{differences}", mode.name());
        }
    }
    Ok(())
}

fn record(place: &Path, script: &impl Fn(&mut Script) -> Result<()>) -> Result<Vec<String>> {
    rustix::process::umask(Bits::from(0o022));
    let dir = rustix::fs::openat(CWD, place, OFlags::DIRECTORY | OFlags::CLOEXEC, Bits::empty())?;
    let mut recorder = Script { dir, lines: Vec::new() };
    script(&mut recorder)?;
    Ok(recorder.lines)
}

fn differences(local: &[String], mounted: &[String]) -> String {
    let mut text = String::new();
    for (line, (a, b)) in local.iter().zip(mounted).enumerate() {
        if a != b {
            let _ = writeln!(text, "  line {line}\n    local:   {a}\n    mounted: {b}");
        }
    }
    if local.len() != mounted.len() {
        let _ = writeln!(text, "  {} lines locally, {} mounted", local.len(), mounted.len());
    }
    text
}

impl Script {
    /// The directory.
    pub(crate) fn dir(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    /// Makes one call and writes down what it answers; returns that if it succeeds.
    pub(crate) fn run<T: Debug>(
        &mut self,
        what: &str,
        call: impl FnOnce(BorrowedFd<'_>) -> io::Result<T>,
    ) -> Option<T> {
        let answer = call(self.dir.as_fd());
        self.lines.push(format!("{what}: {answer:?}"));
        answer.ok()
    }

    /// The same for a call that returns a descriptor, whose number means nothing.
    pub(crate) fn open(
        &mut self,
        what: &str,
        call: impl FnOnce(BorrowedFd<'_>) -> io::Result<OwnedFd>,
    ) -> Result<OwnedFd> {
        self.try_open(what, call).with_context(|| format!("{what} has to succeed"))
    }

    /// The same where the call may fail.
    pub(crate) fn try_open(
        &mut self,
        what: &str,
        call: impl FnOnce(BorrowedFd<'_>) -> io::Result<OwnedFd>,
    ) -> Option<OwnedFd> {
        let answer = call(self.dir.as_fd());
        self.lines.push(format!("{what}: {:?}", answer.as_ref().map(|_| ())));
        answer.ok()
    }

    /// Writes something down.
    pub(crate) fn note(&mut self, what: &str, answer: impl Debug) {
        self.lines.push(format!("{what}: {answer:?}"));
    }

    /// Writes down the attributes of a name, not following a link.
    pub(crate) fn stat(&mut self, name: &str) {
        self.run(&format!("lstat {name}"), |dir| {
            rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).map(|stat| attributes(&stat))
        });
    }

    /// Writes down which of mtime and ctime of `name` a call moves.
    pub(crate) fn moves<T>(
        &mut self,
        what: &str,
        name: &str,
        call: impl FnOnce(BorrowedFd<'_>) -> io::Result<T>,
    ) {
        let before = self.times(name);
        thread::sleep(CLOCK_TICK);
        let answer = call(self.dir.as_fd()).map(|_| ());
        let after = self.times(name);
        let moved = before.and_then(|(mtime, ctime)| {
            after.map(|(later_m, later_c)| (later_m > mtime, later_c > ctime))
        });
        self.lines.push(format!("{what}: {answer:?}, mtime and ctime of {name} move: {moved:?}"));
    }

    /// Runs a part of the script as another user, in no further groups.
    pub(crate) fn as_user(
        &mut self,
        uid: u32,
        gid: u32,
        part: impl FnOnce(&mut Self) -> Result<()> + Send,
    ) -> Result<()> {
        self.lines.push(format!("as user {uid}, group {gid}:"));
        // Only this thread becomes the other user.
        let done = thread::scope(|scope| {
            let other = scope.spawn(|| {
                set_thread_groups(&[])?;
                set_thread_gid(rustix::fs::Gid::from_raw(gid))?;
                set_thread_uid(rustix::fs::Uid::from_raw(uid))?;
                part(self)
            });
            other.join()
        });
        self.lines.push("as root again:".to_owned());
        done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    fn times(&self, name: &str) -> io::Result<((i64, u32), (i64, u32))> {
        let wanted = StatxFlags::MTIME | StatxFlags::CTIME;
        let statx = rustix::fs::statx(&self.dir, name, AtFlags::SYMLINK_NOFOLLOW, wanted)?;
        let pair = |t: rustix::fs::StatxTimestamp| (t.tv_sec, t.tv_nsec);
        Ok((pair(statx.stx_mtime), pair(statx.stx_ctime)))
    }
}

/// What every file system must agree on. The links and the size of a directory are its own affair.
pub(crate) fn attributes(stat: &Stat) -> String {
    let kind = FileType::from_raw_mode(stat.st_mode);
    let mode = stat.st_mode & 0o7777;
    let mut text = format!("{kind:?} {mode:04o} {}:{}", stat.st_uid, stat.st_gid);
    if kind != FileType::Directory {
        let _ = write!(text, " nlink {} size {}", stat.st_nlink, stat.st_size);
    }
    if matches!(kind, FileType::CharacterDevice | FileType::BlockDevice) {
        let _ = write!(text, " rdev {:#x}", stat.st_rdev);
    }
    text
}
