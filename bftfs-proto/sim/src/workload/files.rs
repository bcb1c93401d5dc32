//! The file service under many clients, compared with the reference file system.

use bftfs_fs::{
    Allocation, Attributes, Call, Credentials, FileSystem, FileType, GROUPS_MAX, Ino, Lock,
    LockKind, Operation, ROOT, RenameMode, Reply, SetAttributes, SetTime, Sought, Time, Touch,
    XattrMode, decode_outcome, encode_outcome,
};
use bftfs_fs_reference::{Circumstances, Reference, looks};
use bftfs_proto::Tree;
use bftfs_proto::client::How;
use bftfs_proto::config::RESULT_CACHED_BYTES_MAX;
use bftfs_proto::service::{Context, Service};
use bftfs_proto::types::{ClientId, SessionId, Wall};
use bytes::Bytes;
use fastrand::Rng;

use super::Workload;
use crate::invariants::Violation;
use crate::linear::{Calls, Marked, Model, mark};
use crate::order::Order;

/// Files that clients remember having been told of.
const KNOWN_MAX: usize = 24;

/// Bytes of a read whose result replicas keep in any case.
const KEPT_MAX: usize = RESULT_CACHED_BYTES_MAX - 64;

/// Attributes that files get.
const XATTRS: [&str; 4] =
    ["user.a", "security.capability", "system.posix_acl_access", "system.posix_acl_default"];

/// Any operation on few files, so that clients meet.
#[derive(Debug)]
pub struct FilesLoad {
    service: FileSystem,
    /// Whether reads and writes of many kilobytes are among them.
    large: bool,
    calls: Calls,
    known: Vec<(FileType, Ino)>,
}

impl FilesLoad {
    /// The load of a seed: on a file system that is soon full, or has room for all.
    #[must_use]
    pub fn of(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let service = if rng.u8(0..4) == 0 {
            FileSystem::new(rng.u64(1000..100_000), rng.u64(4..20))
        } else {
            FileSystem::new(1 << 30, 1 << 20)
        };
        let service = FileSystem { root_mode: 0o777, ..service };
        let known = vec![(FileType::Directory, ROOT)];
        Self { service, large: rng.u8(0..4) == 0, calls: Calls::default(), known }
    }

    fn reference(&self) -> Reference {
        let FileSystem { capacity_bytes, capacity_inodes, .. } = self.service;
        Reference::new(capacity_bytes, capacity_inodes, 0o777)
    }

    fn operation(&self, rng: &mut Rng) -> Operation {
        Chooser { rng, load: self }.operation()
    }

    /// Remembers a file that an answer speaks of.
    fn learn(&mut self, file: &Attributes) {
        let found = (file.kind, file.ino);
        if !self.known.contains(&found) {
            if self.known.len() == KNOWN_MAX {
                self.known.remove(1);
            }
            self.known.push(found);
        }
    }
}

impl Workload for FilesLoad {
    type Service = Marked<FileSystem>;

    fn service(&self) -> Self::Service {
        Marked(self.service.clone())
    }

    fn ask(&mut self, rng: &mut Rng, ticket: u64) -> (Bytes, How) {
        let credentials = anybody(rng);
        let operation = self.operation(rng);
        // Now and then a read is ordered, and what changes something asked for as a read.
        let reads = operation.is_read_only() || operation.touch() == Touch::Relative;
        let how = match (reads, rng.u8(0..20)) {
            (true, 0..14) | (false, 0) => How::Read,
            _ => How::Ordered,
        };
        (self.calls.ask(ticket, Call { credentials, operation }.encode()), how)
    }

    /// Anything at all; sometimes no call.
    fn rogue_operation(&self, rng: &mut Rng) -> Bytes {
        let call = Call { credentials: anybody(rng), operation: self.operation(rng) }.encode();
        let cut = if rng.u8(0..8) == 0 { rng.usize(0..call.len()) } else { call.len() };
        mark(rng.u64(..), &call[..cut])
    }

    fn told(&mut self, ticket: u64, result: &Bytes) -> Result<(), Violation> {
        match decode_outcome(result) {
            Ok(Ok(Reply::Attributes(file) | Reply::Written { attributes: file, .. })) => {
                self.learn(&file);
            }
            Ok(Ok(Reply::Entries { entries, .. })) => {
                let files = entries.iter().filter_map(|entry| entry.attributes.as_ref());
                files.for_each(|file| self.learn(file));
            }
            Ok(_) => {}
            Err(_) => return Err(format!("I10: {ticket} was told what is no outcome")),
        }
        self.calls.told(ticket, result)
    }

    fn may_be_lost(&self, ticket: u64) -> bool {
        let call = self.calls.get(ticket).and_then(|call| Call::decode(&call.operation).ok());
        let operation = call.map(|call| call.operation);
        matches!(operation, Some(Operation::Read { length, .. }) if length as usize > KEPT_MAX)
    }

    fn judge(&self, order: &Order, state: &Tree) -> Result<(), Violation> {
        let mut files = Files { model: self.reference(), time: Wall(0) };
        self.calls.judge(&mut files, order)?;
        match bftfs_fs::check(state).first() {
            Some(damage) => Err(format!("I7: the file system is damaged: {damage:?}")),
            None => files.same(&self.service, state),
        }
    }
}

/// The file service without replicas.
struct Files {
    model: Reference,
    /// Of the last operation.
    time: Wall,
}

impl Model for Files {
    fn perform(&mut self, context: &Context, operation: &Bytes) -> Bytes {
        self.time = context.time;
        let outcome = match parse(operation) {
            Some(Call { credentials, operation }) => {
                let (session, now) = (context.session.0, context.time.into());
                self.model.perform(Circumstances { who: &credentials, session, now }, &operation)
            }
            None => Err(bftfs_fs::Errno::EINVAL),
        };
        encode_outcome(&outcome)
    }

    fn query(&mut self, operation: &Bytes) -> Option<Bytes> {
        let Call { credentials, operation } = parse(operation)?;
        let at = Circumstances { who: &credentials, session: 0, now: self.time.into() };
        self.model.query(at, &operation).as_ref().map(encode_outcome)
    }

    fn close(&mut self, session: SessionId) {
        self.model.close(session.0);
    }

    fn show(result: &Bytes) -> String {
        decode_outcome(result).map_or_else(|_| format!("{result:?}"), |told| format!("{told:?}"))
    }
}

fn parse(operation: &Bytes) -> Option<Call> {
    let call = Call::decode(operation).ok();
    call.filter(|call| call.credentials.groups.len() <= GROUPS_MAX)
}

fn nobody() -> Context {
    Context { client: ClientId(0), session: SessionId(0), time: Wall(0) }
}

impl Files {
    /// Compares every file of the model with what the replicas have at the end.
    fn same(&mut self, service: &FileSystem, state: &Tree) -> Result<(), Violation> {
        let inos = self.model.inos(|_| true).into_iter();
        let all = inos.flat_map(|ino| looks(ino, 1 << 20, &XATTRS)).chain([Operation::Statfs]);
        for operation in all {
            let call = Call { credentials: Credentials::default(), operation }.encode();
            let found = service.query(state, &nobody(), &call);
            let expected = self.query(&call);
            if found != expected {
                let show = |told: Option<Bytes>| told.as_ref().map(Self::show);
                let (found, expected) = (show(found), show(expected));
                return Err(format!("I7: {call:?} gives {found:?}, the model says {expected:?}"));
            }
        }
        Ok(())
    }
}

fn anybody(rng: &mut Rng) -> Credentials {
    match rng.u8(0..6) {
        0..4 => Credentials::default(),
        4 => Credentials { uid: 1, gid: 10, groups: vec![] },
        _ => Credentials { uid: 2, gid: 20, groups: vec![30, 10] },
    }
}

/// Draws operations.
struct Chooser<'a> {
    rng: &'a mut Rng,
    load: &'a FilesLoad,
}

impl Chooser<'_> {
    fn operation(&mut self) -> Operation {
        match self.rng.u8(0..11) {
            0..3 => self.looking(),
            3..6 => self.making(),
            6..8 => self.contents(),
            8 => self.attribute(),
            9 => self.locking(),
            _ => self.changing(),
        }
    }

    /// A file, mostly one of this kind; it may be gone.
    fn ino(&mut self, kind: FileType) -> Ino {
        let known = &self.load.known;
        let wanted: Vec<Ino> = known.iter().filter(|(of, _)| *of == kind).map(|f| f.1).collect();
        match self.rng.u8(0..12) {
            0 => Ino(self.rng.u64(0..40)),
            1 => self.rng.choice(known).map_or(ROOT, |(_, ino)| *ino),
            _ => self.rng.choice(wanted).unwrap_or(ROOT),
        }
    }

    fn dir(&mut self) -> Ino {
        self.ino(FileType::Directory)
    }

    fn file(&mut self) -> Ino {
        self.ino(FileType::Regular)
    }

    fn name(&mut self) -> Bytes {
        let names: [&[u8]; 7] = [b"a", b"b", b"c", b"dd", b"e", b"..", b"x/y"];
        let odd = self.rng.u8(0..30) == 0;
        let name = self.rng.usize(0..if odd { names.len() } else { 5 });
        Bytes::from_static(names[name])
    }

    fn mode(&mut self) -> u32 {
        [0o777, 0o755, 0o700, 0o1777, 0o2775, 0o4755, 0o640, 0][self.rng.usize(0..8)]
    }

    fn mask(&mut self) -> u8 {
        self.rng.u8(0..8)
    }

    fn offset(&mut self) -> u64 {
        match self.rng.u8(0..12) {
            0 if self.load.large => self.rng.u64(32_000..70_000),
            1 => i64::MAX as u64 - 5,
            2 => 5000,
            _ => self.rng.u64(0..100),
        }
    }

    fn length(&mut self) -> u32 {
        match self.rng.u8(0..12) {
            0 if self.load.large => self.rng.u32(30_000..70_000),
            1 => self.rng.u32(900..4000),
            _ => self.rng.u32(0..150),
        }
    }

    fn data(&mut self) -> Bytes {
        let (length, byte) = (self.length(), self.rng.u8(..));
        vec![byte; length as usize].into()
    }

    fn looking(&mut self) -> Operation {
        let truncate = self.rng.u8(0..6) == 0;
        let touch = match self.rng.u8(0..6) {
            0 => Touch::Always,
            1 | 2 => Touch::Relative,
            _ => Touch::Never,
        };
        match self.rng.u8(0..16) {
            0..3 => Operation::Lookup { parent: self.dir(), name: self.name() },
            3..6 => Operation::Getattr { ino: self.file() },
            6..9 => {
                let (ino, offset, length) = (self.file(), self.offset(), self.length());
                Operation::Read { ino, offset, length, touch }
            }
            9..12 => {
                let cookie = if self.rng.bool() { 0 } else { self.rng.u64(0..9) };
                let (plus, bytes_max) = (self.rng.bool(), [4096, 400][self.rng.usize(0..2)]);
                Operation::Readdir { ino: self.dir(), cookie, bytes_max, plus, touch }
            }
            12 => Operation::Readlink { ino: self.ino(FileType::Symlink), touch },
            13 => Operation::Access { ino: self.file(), mask: self.mask() },
            14 => Operation::Open { ino: self.file(), mask: self.mask(), truncate },
            _ => Operation::Statfs,
        }
    }

    fn making(&mut self) -> Operation {
        let (parent, name, mode) = (self.dir(), self.name(), self.mode());
        match self.rng.u8(0..8) {
            0..3 => {
                let (exclusive, truncate) = (self.rng.u8(0..4) == 0, self.rng.u8(0..4) == 0);
                let mask = if self.rng.bool() { 6 } else { self.mask() };
                Operation::Create { parent, name, mode, exclusive, mask, truncate }
            }
            3..5 => Operation::Mkdir { parent, name, mode },
            5 => Operation::Symlink { parent, name, target: Bytes::from_static(b"a/b") },
            6 => {
                let kind = [FileType::Fifo, FileType::CharDevice][self.rng.usize(0..2)];
                Operation::Mknod { parent, name, kind, mode, rdev: 7 }
            }
            _ => Operation::Link { ino: self.file(), parent, name },
        }
    }

    fn contents(&mut self) -> Operation {
        let (ino, append) = (self.file(), self.rng.bool());
        let (offset, length) = (self.offset(), self.length().into());
        let keep_size = self.rng.bool();
        match self.rng.u8(0..12) {
            0 => return Operation::Seek { ino, offset, sought: Sought::Data },
            1 => return Operation::Seek { ino, offset, sought: Sought::Hole },
            2 => return Operation::Allocate { ino, offset, length, how: Allocation::Punch },
            3 => {
                let how = Allocation::Zero { keep_size };
                return Operation::Allocate { ino, offset, length, how };
            }
            4 | 5 => {
                let (target, target_offset) = (self.file(), self.offset());
                let touch = Touch::Relative;
                return Operation::Copy { ino, offset, target, target_offset, length, touch };
            }
            _ => {}
        }
        Operation::Write { ino, offset: self.offset(), append, data: self.data() }
    }

    fn attribute(&mut self) -> Operation {
        let ino = if self.rng.bool() { self.file() } else { self.dir() };
        let name = XATTRS[self.rng.usize(0..XATTRS.len())];
        match self.rng.u8(0..8) {
            0 => Operation::Listxattr { ino },
            1 => Operation::Getxattr { ino, name: name.into() },
            2 => Operation::Removexattr { ino, name: name.into() },
            kind => {
                let acl = name.starts_with("system.");
                let value = if acl { self.acl() } else { self.data() };
                let value = value.slice(..value.len().min(KEPT_MAX));
                let modes = [XattrMode::Create, XattrMode::Replace, XattrMode::Set];
                let mode = modes[usize::from(kind % 4).min(2)];
                Operation::Setxattr { ino, name: name.into(), value, mode }
            }
        }
    }

    /// An access control list with an entry for user 1 and one for group 30.
    fn acl(&mut self) -> Bytes {
        let mut acl = vec![2, 0, 0, 0];
        for (tag, id) in [(1, 255), (2, 1), (4, 255), (8, 30), (16, 255), (32, 255)] {
            let rest = if id == 255 { 255 } else { 0 };
            acl.extend([tag, 0, self.rng.u8(0..8), 0, id, rest, rest, rest]);
        }
        acl.into()
    }

    fn changing(&mut self) -> Operation {
        let keep = self.rng.u8(0..4) == 0;
        let (parent, name) = (self.dir(), self.name());
        match self.rng.u8(0..10) {
            0..2 => Operation::Unlink { parent, name, keep },
            2 => Operation::Rmdir { parent, name, keep },
            3..6 => {
                let (new_parent, new_name) = (self.dir(), self.name());
                let modes = [RenameMode::Replace, RenameMode::NoReplace, RenameMode::Exchange];
                let mode = modes[self.rng.usize(0..3)];
                Operation::Rename { parent, name, new_parent, new_name, mode, keep }
            }
            6 => Operation::Release { inos: vec![self.file(), self.file()] },
            _ => Operation::Setattr { ino: self.file(), set: self.attributes(), open: keep },
        }
    }

    /// Few owners and places, so that locks meet. Which lock is in the way depends on who asks, and
    /// a read is judged without that.
    fn locking(&mut self) -> Operation {
        let (ino, owner, start) = (self.file(), self.rng.u64(0..2), self.rng.u64(0..6));
        let kinds = [LockKind::Read, LockKind::Write, LockKind::Write, LockKind::Unlock];
        let kind = kinds[self.rng.usize(0..4)];
        let lock = Lock { start, end: start + self.rng.u64(0..6), kind, owner, pid: 7 };
        match self.rng.u8(0..8) {
            0 => Operation::CancelLock { ino, lock },
            1 => Operation::ReleaseLocks { ino, owner },
            _ => Operation::SetLock { ino, lock, wait: self.rng.bool() },
        }
    }

    fn attributes(&mut self) -> SetAttributes {
        let times = [SetTime::Now, SetTime::At(Time { sec: -3, nsec: 7 })];
        let mut time = || Some(times[self.rng.usize(0..2)]).filter(|_| self.rng.u8(0..3) == 0);
        let (atime, mtime) = (time(), time());
        SetAttributes {
            mode: self.rng.bool().then(|| self.mode()),
            uid: (self.rng.u8(0..5) == 0).then(|| self.rng.u32(0..3)),
            gid: (self.rng.u8(0..5) == 0).then(|| 10 * self.rng.u32(0..4)),
            size: self.rng.bool().then(|| self.offset()),
            atime,
            mtime,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn most_operations_do_something() {
        let mut load = FilesLoad::of(2);
        let mut rng = Rng::with_seed(1);
        let mut files = Files { model: load.reference(), time: Wall(0) };
        let mut done = 0;
        for ticket in 0..1000 {
            load.ask(&mut rng, ticket);
            let asked = load.calls.get(ticket).expect("just asked").operation.clone();
            let result = files.perform(&nobody(), &asked);
            let outcome = decode_outcome(&result).expect("an outcome");
            done += usize::from(outcome.is_ok());
            load.told(ticket, &result).expect("told once");
        }
        assert!(done > 500, "{done} of 1000 were not refused");
    }
}
