//! File operations, from clients that may send any bytes.

use bftfs_fs::{
    Allocation, Call, Credentials, FileSystem, FileType, Ino, Lock, LockKind, Operation, Outcome,
    ROOT, RenameMode, Reply, SetAttributes, SetTime, Sought, Time, Touch, XattrMode, check,
    decode_outcome, masked,
};
use bftfs_proto::config::RESULT_BYTES_MAX;
use bftfs_proto::service::{Context, Service};
use bftfs_proto::types::{ClientId, SessionId, Wall};
use bftfs_state::Tree;
use bytes::Bytes;

use crate::pick::Pick;
use crate::tree::reopened;

/// Names: usual ones first, then the longest, and those that are refused.
const NAMES: [&[u8]; 12] = [
    b"a",
    b"b",
    b"c",
    b"d",
    b"\xff\xfe",
    &[b'n'; 255],
    &[b'n'; 256],
    b".",
    b"..",
    b"",
    b"x/y",
    b"nul\0",
];
/// Attributes: some of each namespace first, then those that are refused.
const XATTRS: [&[u8]; 11] = [
    b"system.posix_acl_access",
    b"system.posix_acl_default",
    b"security.capability",
    b"user.a",
    b"user.b",
    b"trusted.a",
    b"user.",
    b"other.a",
    b"",
    b"user.nul\0",
    &[b'n'; 256],
];
/// Bytes of a block of the file system: edges are there.
const BLOCK: u64 = 32 << 10;

/// Two replicas' file systems, of which one is now and then read back from its blocks.
struct Pair {
    service: FileSystem,
    trees: [Tree; 2],
    time: u64,
    /// What was ever made.
    inos: Vec<Ino>,
}

/// Calls, well-formed and not. The state stays sound, and equal on both replicas.
pub fn run(data: &[u8]) {
    let mut pick = Pick::new(data);
    let small = pick.flip();
    let (bytes, inodes) = if small { (1 << 18, 12) } else { (1 << 40, 1 << 20) };
    let service = FileSystem { root_mode: 0o777, ..FileSystem::new(bytes, inodes) };
    let mut trees = [Tree::new(), Tree::new()];
    trees.iter_mut().for_each(|tree| service.genesis(tree));
    let mut pair = Pair { service, trees, time: 1_700_000_000_000_000_000, inos: vec![ROOT] };
    while !pick.is_empty() {
        pair.step(&mut pick);
    }
    pair.compare();
}

impl Pair {
    fn step(&mut self, pick: &mut Pick<'_>) {
        let session = SessionId(1 + pick.below(3));
        self.time = self.time.saturating_add(pick.number(1).max(1));
        match pick.byte() {
            0..=7 => self.close(session),
            8..=15 => self.trees[1] = reopened(&mut self.trees[1]),
            16..=31 => {
                let bytes = pick.bytes(64);
                self.order(session, &bytes.into());
            }
            _ => {
                let operation = operation(pick, &self.inos);
                let credentials = credentials(pick);
                let read_only = operation.is_read_only();
                let call = Call { credentials, operation }.encode();
                let query = self.query(session, &call);
                assert!(query.is_some() || !read_only, "what only looks need not be ordered");
                let result = self.order(session, &call);
                assert!(query.is_none_or(|query| query == result), "read and ordered are equal");
                self.learn(&result);
            }
        }
    }

    fn context(&self, session: SessionId) -> Context {
        Context { client: ClientId(1), session, time: Wall(self.time) }
    }

    fn query(&self, session: SessionId, call: &Bytes) -> Option<Bytes> {
        self.service.query(&self.trees[0], &self.context(session), call)
    }

    fn order(&mut self, session: SessionId, call: &Bytes) -> Bytes {
        let (service, context) = (self.service.clone(), self.context(session));
        let [first, second] = self
            .trees
            .each_mut()
            .map(|tree| service.execute(tree, &context, call, &mut Vec::new()));
        assert_eq!(first, second, "a result is a function of the operations");
        assert!(first.len() <= RESULT_BYTES_MAX);
        self.check();
        first
    }

    fn close(&mut self, session: SessionId) {
        let (service, time) = (self.service.clone(), Wall(self.time));
        self.trees
            .iter_mut()
            .for_each(|tree| service.session_closed(tree, session, time, &mut Vec::new()));
        self.check();
    }

    fn check(&self) {
        assert_eq!(check(&self.trees[0]), []);
    }

    fn learn(&mut self, result: &Bytes) {
        let outcome: Outcome = decode_outcome(result).expect("outcomes are well-formed");
        if let Ok(Reply::Attributes(attributes)) = outcome
            && !self.inos.contains(&attributes.ino)
        {
            self.inos.push(attributes.ino);
        }
    }

    fn compare(&mut self) {
        let [first, second] = self.trees.each_mut().map(|tree| tree.seal().root);
        assert_eq!(first, second, "states are a function of the operations");
        assert_eq!(first, self.trees[0].digest_from_scratch());
    }
}

fn credentials(pick: &mut Pick<'_>) -> Credentials {
    let uid = if pick.flip() { 0 } else { u32::from(pick.byte() % 3) };
    let groups = if pick.rarely(32) { vec![1; 1025] } else { vec![u32::from(pick.byte() % 3)] };
    Credentials { uid, gid: uid, groups }
}

fn ino(pick: &mut Pick<'_>, known: &[Ino]) -> Ino {
    if pick.rarely(32) {
        return Ino(pick.word());
    }
    pick.one(known).copied().unwrap_or(ROOT)
}

fn name(pick: &mut Pick<'_>) -> Bytes {
    let usual = pick.index(8) < 7;
    let of = if usual { &NAMES[..4] } else { &NAMES[..] };
    Bytes::from_static(pick.one(of).copied().unwrap_or_default())
}

/// A place in a file: near the edge of a block, as a rule one of the first.
fn place(pick: &mut Pick<'_>) -> u64 {
    let blocks = if pick.rarely(8) { pick.number(1 << 16) } else { pick.below(4) };
    let edge = blocks.saturating_mul(BLOCK);
    let off = u64::from(pick.byte() % 8);
    if pick.flip() { edge.saturating_add(off) } else { edge.saturating_sub(off) }
}

fn mode(pick: &mut Pick<'_>) -> u32 {
    let mode = u32::from(pick.byte()) << 5 | u32::from(pick.byte());
    if pick.flip() { 0o777 } else { masked(mode, if pick.flip() { 0 } else { 0o022 }) }
}

fn set(pick: &mut Pick<'_>) -> SetAttributes {
    let mut set = SetAttributes::default();
    let which = pick.byte();
    let time = |pick: &mut Pick<'_>| match pick.flip() {
        true => SetTime::Now,
        false => {
            let nsec = u32::from(pick.byte()) << 24;
            SetTime::At(Time { sec: i64::from_ne_bytes(pick.word().to_ne_bytes()), nsec })
        }
    };
    set.size = (which & 1 != 0).then(|| place(pick));
    set.mode = (which & 2 != 0).then(|| mode(pick));
    set.uid = (which & 4 != 0).then(|| u32::from(pick.byte() % 3));
    set.gid = (which & 8 != 0).then(|| u32::from(pick.byte() % 3));
    set.atime = (which & 16 != 0).then(|| time(pick));
    set.mtime = (which & 32 != 0).then(|| time(pick));
    set
}

fn touch(pick: &mut Pick<'_>) -> Touch {
    [Touch::Never, Touch::Always, Touch::Relative][pick.index(3)]
}

fn kind(pick: &mut Pick<'_>) -> FileType {
    let kinds = [
        FileType::Regular,
        FileType::Fifo,
        FileType::CharDevice,
        FileType::Socket,
        FileType::BlockDevice,
        FileType::Symlink,
        FileType::Directory,
    ];
    kinds[pick.index(kinds.len())]
}

/// A well-formed operation on `known` inodes, which need not be one that may succeed.
fn operation(pick: &mut Pick<'_>, known: &[Ino]) -> Operation {
    match pick.below(28) {
        22..=25 => locking(pick, known),
        26 => Operation::Attend { seen: pick.number(8) },
        27 => {
            let count = pick.index(4);
            Operation::Hold { inos: (0..count).map(|_| ino(pick, known)).collect() }
        }
        0..=9 => change(pick, known),
        10 => Operation::Null,
        11 => Operation::Lookup { parent: ino(pick, known), name: name(pick) },
        12 => Operation::Getattr { ino: ino(pick, known) },
        13 => Operation::Access { ino: ino(pick, known), mask: pick.byte() % 9 },
        14 => Operation::Readlink { ino: ino(pick, known), touch: touch(pick) },
        15 => {
            let length = u32::try_from(pick.number(2 * BLOCK)).unwrap_or(u32::MAX);
            let (ino, offset) = (ino(pick, known), place(pick));
            Operation::Read { ino, offset, length, touch: touch(pick) }
        }
        16 => {
            let bytes_max = u32::try_from(pick.number(4096)).unwrap_or(u32::MAX);
            let (ino, cookie, plus) = (ino(pick, known), pick.number(8), pick.flip());
            Operation::Readdir { ino, cookie, bytes_max, plus, touch: touch(pick) }
        }
        17 => Operation::Statfs,
        18 => {
            let (mask, truncate) = (pick.byte() % 9, pick.flip());
            Operation::Open { ino: ino(pick, known), mask, truncate }
        }
        19 => {
            let most = if pick.rarely(16) { 1100 } else { 4 };
            let count = pick.index(most);
            Operation::Release { inos: (0..count).map(|_| ino(pick, known)).collect() }
        }
        _ => attribute(pick, known),
    }
}

fn attribute(pick: &mut Pick<'_>, known: &[Ino]) -> Operation {
    let (ino, name) = (ino(pick, known), Bytes::from_static(XATTRS[pick.index(XATTRS.len())]));
    match pick.below(8) {
        0 => Operation::Getxattr { ino, name },
        1 => Operation::Listxattr { ino },
        2 => Operation::Removexattr { ino, name },
        kind => {
            let value = match kind {
                3..=5 => acl(pick),
                _ if pick.rarely(16) => vec![0; 64 << 10],
                _ => pick.bytes(64),
            };
            let modes = [XattrMode::Set, XattrMode::Create, XattrMode::Replace];
            let mode = modes[pick.index(modes.len())];
            Operation::Setxattr { ino, name, value: value.into(), mode }
        }
    }
}

/// An access control list: the entries that each has, and any.
fn acl(pick: &mut Pick<'_>) -> Vec<u8> {
    let mut acl = vec![2, 0, 0, 0];
    for tag in [1, 4, 16, 32] {
        acl.extend([tag, 0, pick.byte() % 8, 0, 0xff, 0xff, 0xff, 0xff]);
    }
    for _ in 0..pick.index(4) {
        let tag = if pick.rarely(8) { pick.byte() } else { 2 << (2 * pick.below(2)) };
        acl.extend([tag, 0, pick.byte() % 8, 0, pick.byte() % 3, 0, 0, 0]);
    }
    acl
}

/// Few owners and places, so that locks meet; now and then a range that is none.
fn locking(pick: &mut Pick<'_>, known: &[Ino]) -> Operation {
    let kinds = [LockKind::Write, LockKind::Read, LockKind::Unlock];
    let (ino, owner, kind) = (ino(pick, known), pick.below(3), kinds[pick.index(kinds.len())]);
    let (start, length) = (pick.below(8), pick.below(8));
    let end = if pick.rarely(16) { pick.word() } else { start + length };
    let lock = Lock { start, end, kind, owner, pid: 7 };
    match pick.below(8) {
        0 => Operation::GetLock { ino, lock },
        1 => Operation::CancelLock { ino, lock },
        2 => Operation::ReleaseLocks { ino, owner },
        _ => Operation::SetLock { ino, lock, wait: pick.flip() },
    }
}

fn change(pick: &mut Pick<'_>, known: &[Ino]) -> Operation {
    let (parent, name, keep) = (ino(pick, known), name(pick), pick.flip());
    match pick.below(13) {
        0 => {
            let (mode, mask, flags) = (mode(pick), pick.byte() % 9, pick.byte());
            let (exclusive, truncate) = (flags & 1 != 0, flags & 2 != 0);
            Operation::Create { parent, name, mode, exclusive, mask, truncate }
        }
        1 => Operation::Mknod { parent, name, kind: kind(pick), mode: mode(pick), rdev: 7 },
        2 => Operation::Mkdir { parent, name, mode: mode(pick) },
        3 => {
            let target = vec![b't'; pick.index(5000)];
            Operation::Symlink { parent, name, target: target.into() }
        }
        4 => Operation::Link { ino: ino(pick, known), parent, name },
        5 => Operation::Unlink { parent, name, keep },
        6 => Operation::Rmdir { parent, name, keep },
        7 => {
            let modes = [RenameMode::Replace, RenameMode::NoReplace, RenameMode::Exchange];
            let mode = modes[pick.index(modes.len())];
            let (new_parent, new_name) = (ino(pick, known), self::name(pick));
            Operation::Rename { parent, name, new_parent, new_name, mode, keep }
        }
        8 => {
            let len = if pick.rarely(8) { place(pick) % (3 * BLOCK) } else { pick.below(64) };
            let data = vec![pick.byte(); usize::try_from(len).unwrap_or(0)];
            let (ino, offset, append) = (ino(pick, known), place(pick), pick.rarely(4));
            Operation::Write { ino, offset, append, data: data.into() }
        }
        9 => Operation::Setattr { ino: ino(pick, known), set: set(pick), open: pick.flip() },
        _ => ranges(pick, known),
    }
}

/// Operations on parts of files.
fn ranges(pick: &mut Pick<'_>, known: &[Ino]) -> Operation {
    let (ino, offset, length) = (ino(pick, known), place(pick), place(pick));
    match pick.below(4) {
        0 => Operation::Seek { ino, offset, sought: [Sought::Data, Sought::Hole][pick.index(2)] },
        1 | 2 => {
            let keep_size = pick.flip();
            let zero = Allocation::Zero { keep_size };
            let how = [Allocation::Punch, zero, Allocation::Reserve { keep_size }][pick.index(3)];
            Operation::Allocate { ino, offset, length, how }
        }
        _ => {
            let (target, target_offset) = (self::ino(pick, known), place(pick));
            Operation::Copy { ino, offset, target, target_offset, length, touch: touch(pick) }
        }
    }
}
