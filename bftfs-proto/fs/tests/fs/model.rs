//! Random operations, on the file service and on the model of it.

mod unnamed;

use bftfs_fs::{
    Allocation, Call, Credentials, FileSystem, FileType, Ino, Lock, LockKind, Operation, ROOT,
    RenameMode, SetAttributes, SetTime, Sought, Time, Touch, XattrMode, encode_outcome, masked,
};
use bftfs_fs_reference::{Circumstances, Reference, looks};
use bftfs_proto::Tree;
use bftfs_proto::types::SessionId;
use bytes::Bytes;
use proptest::collection::vec;
use proptest::option::weighted;
use proptest::prelude::*;
use proptest::sample::select;

use super::harness::{Host, acl_bytes, root, user};

const CAPACITY_BYTES: u64 = 100_000;
const CAPACITY_INODES: u64 = 9;
/// Attributes that files get, mostly.
const XATTRS: [&str; 6] = [
    "user.a",
    "user.b",
    "trusted.a",
    "security.capability",
    "system.posix_acl_access",
    "system.posix_acl_default",
];
const DAY_NANOS: u64 = 24 * 3600 * 1_000_000_000;

#[derive(Clone, Debug)]
enum Step {
    Call {
        who: Credentials,
        session: u64,
        operation: Operation,
    },
    /// A session ends.
    Close(u64),
    /// A checkpoint is taken, and nobody should notice.
    Seal,
    /// A day goes by.
    Day,
}

fn anybody() -> impl Strategy<Value = Credentials> {
    prop_oneof![
        4 => Just(root()),
        3 => Just(user(1, 10, &[])),
        2 => Just(user(2, 20, &[30, 10])),
        1 => Just(user(3, 30, &[])),
    ]
}

/// Which of the files there are then, see [`aim`].
fn ino() -> impl Strategy<Value = Ino> {
    (0..240_u64).prop_map(Ino)
}

/// Points an operation at files that exist, mostly of the kind that it is for.
fn aim(operation: &mut Operation, model: &Reference) {
    let all = model.inos(|_| true);
    let directories = model.inos(|kind| kind == FileType::Directory);
    let regular = model.inos(|kind| kind == FileType::Regular);
    let choose = |ino: &mut Ino, wanted: &[Ino]| {
        let among = if ino.0.is_multiple_of(8) || wanted.is_empty() { &all } else { wanted };
        if !ino.0.is_multiple_of(30) {
            *ino = among[usize::try_from(ino.0 / 8).unwrap() % among.len()];
        }
    };
    match operation {
        Operation::Lookup { parent, .. }
        | Operation::Create { parent, .. }
        | Operation::Mknod { parent, .. }
        | Operation::Mkdir { parent, .. }
        | Operation::Symlink { parent, .. }
        | Operation::Unlink { parent, .. }
        | Operation::Rmdir { parent, .. }
        | Operation::Readdir { ino: parent, .. } => choose(parent, &directories),
        Operation::Rename { parent, new_parent, .. } => {
            choose(parent, &directories);
            choose(new_parent, &directories);
        }
        Operation::Link { ino, parent, .. } => {
            choose(ino, &regular);
            choose(parent, &directories);
        }
        Operation::Readlink { ino, .. } => {
            choose(ino, &model.inos(|kind| kind == FileType::Symlink));
        }
        Operation::Read { ino, .. }
        | Operation::Write { ino, .. }
        | Operation::Seek { ino, .. }
        | Operation::Allocate { ino, .. }
        | Operation::SetLock { ino, .. }
        | Operation::GetLock { ino, .. }
        | Operation::CancelLock { ino, .. }
        | Operation::ReleaseLocks { ino, .. } => choose(ino, &regular),
        Operation::Copy { ino, target, .. } => {
            choose(ino, &regular);
            choose(target, &regular);
        }
        Operation::Getattr { ino }
        | Operation::Access { ino, .. }
        | Operation::Open { ino, .. }
        | Operation::Setattr { ino, .. }
        | Operation::Setxattr { ino, .. }
        | Operation::Getxattr { ino, .. }
        | Operation::Listxattr { ino }
        | Operation::Removexattr { ino, .. } => choose(ino, &all),
        Operation::Release { inos } | Operation::Hold { inos } => {
            inos.iter_mut().for_each(|ino| choose(ino, &all));
        }
        Operation::Null
        | Operation::Statfs
        | Operation::Attend { .. }
        | Operation::SetClient { .. }
        | Operation::RevokeClient { .. }
        | Operation::ListClients { .. } => {}
    }
}

fn name() -> impl Strategy<Value = Bytes> {
    let odd = ["", ".", "..", "a/b", "a\0"].map(Bytes::from).to_vec();
    let long = [255, 256].map(|len| Bytes::from(vec![b'x'; len])).to_vec();
    prop_oneof![
        40 => select(["a", "b", "c", "dd"].map(Bytes::from).to_vec()),
        1 => select(odd),
        1 => select(long),
    ]
}

fn mode() -> impl Strategy<Value = u32> {
    let modes = [0o777, 0o755, 0o700, 0o1777, 0o2775, 0o4755, 0o6711, 0o2644, 0o640, 0, 0o107_511];
    let umask = prop_oneof![2 => Just(0), 1 => select(vec![0o022, 0o077])];
    (select(modes.to_vec()), umask).prop_map(|(mode, umask)| masked(mode, umask))
}

fn offset() -> impl Strategy<Value = u64> {
    let far = [1 << 40, i64::MAX as u64 - 5, i64::MAX as u64, u64::MAX];
    prop_oneof![
        6 => select(vec![0, 1, 100, 32767, 32768, 32769, 65536]),
        3 => 0..100_000_u64,
        1 => select(far.to_vec()),
    ]
}

fn data() -> impl Strategy<Value = Bytes> {
    let length = prop_oneof![Just(0), 1..40_usize, Just(32768), 32_000..70_000_usize];
    (length, any::<u8>()).prop_map(|(length, byte)| vec![byte; length].into())
}

fn set_time() -> impl Strategy<Value = Option<SetTime>> {
    let time = (-5..5_i64, select(vec![0, 7, 999_999_999, 1_000_000_000]));
    let time = time.prop_map(|(sec, nsec)| SetTime::At(Time { sec, nsec }));
    weighted(0.4, prop_oneof![Just(SetTime::Now), time])
}

fn set() -> impl Strategy<Value = SetAttributes> {
    let owner = weighted(0.2, 0..4_u32);
    let group = weighted(0.2, select(vec![0, 10, 20, 30]));
    let size = weighted(0.4, offset());
    (weighted(0.4, mode()), owner, group, size, set_time(), set_time())
        .prop_map(|(mode, uid, gid, size, atime, mtime)| SetAttributes {
            mode,
            uid,
            gid,
            size,
            atime,
            mtime,
        })
        .boxed()
}

fn kind() -> impl Strategy<Value = FileType> {
    select(vec![
        FileType::Regular,
        FileType::Fifo,
        FileType::Socket,
        FileType::CharDevice,
        FileType::BlockDevice,
        FileType::Directory,
        FileType::Symlink,
    ])
}

fn looking() -> BoxedStrategy<Operation> {
    let touch = || select(vec![Touch::Never, Touch::Always, Touch::Relative, Touch::Relative]);
    let cookie = prop_oneof![Just(0), 0..20_u64];
    let room = prop_oneof![Just(4096_u32), 0..700_u32];
    prop_oneof![
        (ino(), name()).prop_map(|(parent, name)| Operation::Lookup { parent, name }),
        (ino(), 0..9_u8).prop_map(|(ino, mask)| Operation::Access { ino, mask }),
        (ino(), touch()).prop_map(|(ino, touch)| Operation::Readlink { ino, touch }),
        (ino(), offset(), 0..70_000_u32, touch()).prop_map(|(ino, offset, length, touch)| {
            Operation::Read { ino, offset, length, touch }
        }),
        (ino(), cookie, room, any::<bool>(), touch()).prop_map(
            |(ino, cookie, bytes_max, plus, touch)| {
                Operation::Readdir { ino, cookie, bytes_max, plus, touch }
            }
        ),
        (ino(), 0..9_u8, any::<bool>())
            .prop_map(|(ino, mask, truncate)| { Operation::Open { ino, mask, truncate } }),
        Just(Operation::Statfs),
        Just(Operation::Null),
    ]
    .boxed()
}

fn making() -> BoxedStrategy<Operation> {
    let target =
        prop_oneof![9 => Just("a/b"), 1 => Just(""), 1 => Just("\0")].prop_map(Bytes::from);
    prop_oneof![
        2 => (ino(), name(), mode(), any::<bool>(), 0..8_u8, any::<bool>()).prop_map(
            |(parent, name, mode, exclusive, mask, truncate)| Operation::Create {
                parent,
                name,
                mode,
                exclusive,
                mask,
                truncate
            }
        ),
        1 => (ino(), name(), kind(), mode(), any::<u32>()).prop_map(
            |(parent, name, kind, mode, rdev)| Operation::Mknod { parent, name, kind, mode, rdev }
        ),
        3 => (ino(), name(), mode())
            .prop_map(|(parent, name, mode)| { Operation::Mkdir { parent, name, mode } }),
        1 => (ino(), name(), target)
            .prop_map(|(parent, name, target)| { Operation::Symlink { parent, name, target } }),
        1 => (ino(), ino(), name())
            .prop_map(|(ino, parent, name)| { Operation::Link { ino, parent, name } }),
    ]
    .boxed()
}

fn changing() -> BoxedStrategy<Operation> {
    let how = prop_oneof![
        4 => Just(RenameMode::Replace),
        1 => Just(RenameMode::NoReplace),
        2 => Just(RenameMode::Exchange),
    ];
    prop_oneof![
        2 => (ino(), name(), any::<bool>()).prop_map(|(parent, name, keep)| {
            Operation::Unlink { parent, name, keep }
        }),
        1 => (ino(), name(), any::<bool>()).prop_map(|(parent, name, keep)| {
            Operation::Rmdir { parent, name, keep }
        }),
        5 => (ino(), name(), ino(), name(), how, any::<bool>()).prop_map(
            |(parent, name, new_parent, new_name, mode, keep)| Operation::Rename {
                parent,
                name,
                new_parent,
                new_name,
                mode,
                keep
            }
        ),
        3 => (ino(), offset(), any::<bool>(), data()).prop_map(|(ino, offset, append, data)| {
            Operation::Write { ino, offset, append, data }
        }),
        3 => (ino(), set(), any::<bool>()).prop_map(|(ino, set, open)| {
            Operation::Setattr { ino, set, open }
        }),
        1 => vec(ino(), 0..8).prop_map(|inos| Operation::Release { inos }),
        1 => vec(ino(), 0..8).prop_map(|inos| Operation::Hold { inos }),
        1 => prop_oneof![0..9_u64, Just(u64::MAX)].prop_map(|seen| Operation::Attend { seen }),
    ]
    .boxed()
}

fn xattr() -> impl Strategy<Value = Bytes> {
    let odd = ["", "user.", "system.else", "trusted.\0"].map(Bytes::from).to_vec();
    let long = [255, 256].map(|len| Bytes::from([b"user.", &vec![b'x'; len - 5][..]].concat()));
    prop_oneof![
        10 => select(XATTRS.map(Bytes::from).to_vec()),
        1 => select(odd),
        1 => select(long.to_vec()),
    ]
}

fn acl() -> impl Strategy<Value = Bytes> {
    let id = || select(vec![1_u32, 2, 10, 30, u32::MAX]);
    let any = (select(vec![1_u16, 2, 4, 8, 16, 32, 64]), 0..9_u16, id());
    let named = vec((select(vec![2_u16, 8]), 0..8_u16, id()), 0..4);
    let basic = (0..8_u16, 0..8_u16, 0..8_u16, weighted(0.8, 0..8_u16));
    let entries = (basic, named, weighted(0.1, any)).prop_map(|(basic, named, any)| {
        let (owner, group, others, mask) = basic;
        let basic = [(1, Some(owner)), (4, Some(group)), (16, mask), (32, Some(others))];
        let basic = basic.into_iter().filter_map(|(tag, bits)| Some((tag, bits?, u32::MAX)));
        named.into_iter().chain(basic).chain(any).collect::<Vec<_>>()
    });
    let ordered = entries.prop_shuffle().prop_map(|entries| acl_bytes(&entries));
    prop_oneof![20 => ordered, 1 => data()]
}

fn attributes() -> BoxedStrategy<Operation> {
    let mode = || {
        let modes = [XattrMode::Set, XattrMode::Set, XattrMode::Create, XattrMode::Replace];
        select(modes.to_vec())
    };
    let length = prop_oneof![9 => 0..40_usize, 1 => select(vec![9_000, 65_536, 65_537])];
    let value = (length, any::<u8>()).prop_map(|(length, byte)| Bytes::from(vec![byte; length]));
    let acls = select(["system.posix_acl_access", "system.posix_acl_default"].to_vec());
    prop_oneof![
        4 => (ino(), xattr(), value, mode()).prop_map(|(ino, name, value, mode)| {
            Operation::Setxattr { ino, name, value, mode }
        }),
        4 => (ino(), acls, acl(), mode()).prop_map(|(ino, name, value, mode)| {
            Operation::Setxattr { ino, name: Bytes::from(name), value, mode }
        }),
        2 => (ino(), xattr()).prop_map(|(ino, name)| Operation::Getxattr { ino, name }),
        1 => ino().prop_map(|ino| Operation::Listxattr { ino }),
        2 => (ino(), xattr()).prop_map(|(ino, name)| Operation::Removexattr { ino, name }),
    ]
    .boxed()
}

/// What is about parts of files.
fn ranges() -> BoxedStrategy<Operation> {
    let sought = select(vec![Sought::Data, Sought::Hole]);
    let length =
        || prop_oneof![4 => 0..100_000_u64, 2 => select(vec![1, 32768, 65536]), 1 => offset()];
    let how = any::<bool>().prop_flat_map(|keep_size| {
        let (reserve, zero) = (Allocation::Reserve { keep_size }, Allocation::Zero { keep_size });
        select(vec![reserve, Allocation::Punch, Allocation::Punch, zero])
    });
    let touch = select(vec![Touch::Never, Touch::Always, Touch::Relative]);
    prop_oneof![
        (ino(), offset(), sought)
            .prop_map(|(ino, offset, sought)| { Operation::Seek { ino, offset, sought } }),
        (ino(), offset(), length(), how).prop_map(|(ino, offset, length, how)| {
            Operation::Allocate { ino, offset, length, how }
        }),
        (ino(), offset(), ino(), offset(), length(), touch).prop_map(
            |(ino, offset, target, target_offset, length, touch)| {
                Operation::Copy { ino, offset, target, target_offset, length, touch }
            }
        ),
    ]
    .boxed()
}

/// Few owners, places and processes, so that locks meet.
fn lock() -> impl Strategy<Value = Lock> {
    let kind = prop_oneof![
        2 => Just(LockKind::Read),
        4 => Just(LockKind::Write),
        1 => Just(LockKind::Unlock),
    ];
    let end = prop_oneof![9 => 0..9_u64, 1 => Just(i64::MAX as u64), 1 => Just(u64::MAX)];
    (0..9_u64, end, kind, 1..3_u64, 7..9_u32).prop_map(|(start, end, kind, owner, pid)| Lock {
        start,
        end,
        kind,
        owner,
        pid,
    })
}

fn locking() -> BoxedStrategy<Operation> {
    prop_oneof![
        6 => (ino(), lock(), any::<bool>()).prop_map(|(ino, lock, wait)| {
            Operation::SetLock { ino, lock, wait }
        }),
        1 => (ino(), lock()).prop_map(|(ino, lock)| Operation::GetLock { ino, lock }),
        1 => (ino(), lock()).prop_map(|(ino, lock)| Operation::CancelLock { ino, lock }),
        1 => (ino(), 1..3_u64).prop_map(|(ino, owner)| Operation::ReleaseLocks { ino, owner }),
    ]
    .boxed()
}

fn step() -> impl Strategy<Value = Step> {
    let operation = prop_oneof![
        2 => looking(), 4 => making(), 4 => changing(), 3 => attributes(), 3 => ranges(), 4 => locking()
    ];
    prop_oneof![
        30 => (anybody(), 1..3_u64, operation).prop_map(|(who, session, operation)| {
            Step::Call { who, session, operation }
        }),
        1 => (1..3_u64).prop_map(Step::Close),
        1 => Just(Step::Seal),
        1 => Just(Step::Day),
    ]
}

/// Every file of the model, as the file service shows it.
fn compare(host: &mut Host, model: &mut Reference) {
    let who = root();
    let session = host.session.0;
    // An owner who has no locks sees those of all others.
    let lock = |start| Lock { start, end: start, kind: LockKind::Write, owner: 99, pid: 0 };
    let all = |ino| {
        let locks = [0, 1, 3, 5, 7, 8, 9].map(|at| Operation::GetLock { ino, lock: lock(at) });
        locks.into_iter().chain(looks(ino, 80_000, &XATTRS))
    };
    let operations = model.inos(|_| true).into_iter().flat_map(all).chain([Operation::Statfs]);
    for operation in operations {
        let now = host.now();
        let expected = model.perform(Circumstances { who: &who, session, now }, &operation);
        let call = Call { credentials: who.clone(), operation }.encode();
        let found = host.query(&call).map(|bytes| bftfs_fs::decode_outcome(&bytes));
        assert_eq!(found, Some(Ok(expected)));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn does_what_the_model_does(steps in vec(step(), 1..80)) {
        let service = FileSystem { root_mode: 0o777, ..FileSystem::new(CAPACITY_BYTES, CAPACITY_INODES) };
        let mut host = Host::with(service.clone());
        let mut other = Host::with(service);
        let mut model = Reference::new(CAPACITY_BYTES, CAPACITY_INODES, 0o777);
        for step in steps {
            match step {
                Step::Call { who, session, mut operation } => {
                    aim(&mut operation, &model);
                    host.session = SessionId(session);
                    other.session = SessionId(session);
                    let call = Call { credentials: who.clone(), operation };
                    other.execute(&call.encode());
                    let at = Circumstances { who: &who, session, now: host.now() };
                    let query = model.query(at, &call.operation).as_ref().map(encode_outcome);
                    prop_assert_eq!(host.query(&call.encode()), query);
                    let Call { operation, .. } = call;
                    let found = host.call(&who, operation.clone());
                    let at = Circumstances { who: &who, session, now: host.now() };
                    prop_assert_eq!(found, model.perform(at, &operation), "{:?}", operation);
                }
                Step::Close(session) => {
                    host.close(SessionId(session));
                    other.close(SessionId(session));
                    model.close(session);
                }
                Step::Seal => drop(host.tree.seal()),
                Step::Day => [&mut host, &mut other].iter_mut().for_each(|host| host.time += DAY_NANOS),
            }
            compare(&mut host, &mut model);
        }
        // However often it was sealed on the way, the same operations give the same state.
        prop_assert_eq!(host.tree.seal().root, other.tree.seal().root);
        let reopened = reopen(&mut other.tree);
        prop_assert_eq!(reopened.digest(), host.tree.digest());
    }

    #[test]
    fn locks_are_those_of_the_model(steps in vec((1..3_u64, 0..2_u64, locking(), 0..60_u8), 1..80)) {
        let mut host = Host::new();
        let mut model = Reference::new(1 << 40, 1 << 20, 0o777);
        let who = root();
        let make = ["a", "b"].map(|name| super::harness::create(ROOT, name, 0o644));
        let locks = steps.into_iter().map(|(session, file, mut operation, close)| {
            match &mut operation {
                Operation::SetLock { ino, .. }
                | Operation::GetLock { ino, .. }
                | Operation::CancelLock { ino, .. }
                | Operation::ReleaseLocks { ino, .. } => *ino = Ino(ROOT.0 + 1 + file),
                other => panic!("{other:?} is not about locks"),
            }
            (session, operation, close == 0)
        });
        for (session, operation, close) in make.map(|make| (1, make, false)).into_iter().chain(locks) {
            host.session = SessionId(session);
            let found = host.call(&who, operation.clone());
            let at = Circumstances { who: &who, session, now: host.now() };
            prop_assert_eq!(found, model.perform(at, &operation), "{:?}", operation);
            if close {
                host.close(SessionId(session));
                model.close(session);
            }
            compare(&mut host, &mut model);
        }
    }

    #[test]
    fn hostile_bytes_get_an_answer(bytes in vec(any::<u8>(), 0..200), cut in 0..60_usize, step in step()) {
        let mut host = Host::new();
        let mut tries = vec![bytes.clone()];
        if let Step::Call { who, operation, .. } = step {
            let call = Call { credentials: who, operation }.encode();
            let mut mangled = call.to_vec();
            let at = cut % mangled.len();
            mangled[at] ^= bytes.first().copied().unwrap_or(1);
            tries.extend([call.slice(..at).to_vec(), mangled, [&call[..], &bytes[..]].concat()]);
        }
        for bytes in tries.into_iter().map(Bytes::from) {
            let outcome = host.execute(&bytes);
            prop_assert!(bftfs_fs::decode_outcome(&outcome).is_ok());
            if Call::decode(&bytes).is_err() {
                prop_assert_eq!(host.query(&bytes), Some(outcome));
            }
        }
    }

    #[test]
    fn hostile_outcomes_are_refused_or_read(bytes in vec(any::<u8>(), 0..200)) {
        let bytes = Bytes::from(bytes);
        if let Ok(outcome) = bftfs_fs::decode_outcome(&bytes) {
            let again = encode_outcome(&outcome);
            prop_assert_eq!(bftfs_fs::decode_outcome(&again), Ok(outcome));
        }
    }
}

/// The tree as a replica has it that fetched it block by block.
fn reopen(tree: &mut Tree) -> Tree {
    let snapshot = {
        tree.seal();
        tree.snapshot()
    };
    let blocks: std::collections::BTreeMap<_, _> =
        snapshot.blocks().map(|block| (block.digest, block.bytes)).collect();
    let root = tree.digest().expect("sealed");
    Tree::open(root, &mut |digest| blocks.get(digest).cloned()).expect("whole")
}
