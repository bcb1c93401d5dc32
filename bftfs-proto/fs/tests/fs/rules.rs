//! What a client's certificate allows, against clients that lie.

use bftfs_fs::registry::{CLIENTS_MAX, client, clients, generation};
use bftfs_fs::{
    Allocation, Call, Client, Credentials, Entry, Errno, FileSystem, FileType, IdRange, Ino, Lock,
    LockKind, Operation, Outcome, RANGES_MAX, ROOT, RenameMode, Reply, Rule, SetAttributes, Sought,
    Touch, XattrMode, decode_outcome,
};
use bftfs_proto::Tree;
use bftfs_proto::auth::{PublicKey, Signer};
use bftfs_proto::service::{Context, Service as _};
use bftfs_proto::types::{ClientId, SessionId, Wall};
use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;

use super::harness::{
    Host, attributes, chmod, chown, create, link, lookup, mkdir, mknod, name, readdir, rename,
    rmdir, root, symlink, truncate, unlink, unlink_kept, user, write,
};

const ADMIN: ClientId = ClientId(9);
/// The client that rules are made for. What the harness does by itself, client 1 does.
const GUEST: ClientId = ClientId(2);

fn host() -> Host {
    let plain = FileSystem::new(1 << 40, 1 << 20);
    Host::with(FileSystem { root_mode: 0o777, administrators: vec![ADMIN], ..plain })
}

/// Orders a call of a client in a session of its own. One that only looks gives the same unordered.
fn ask(host: &mut Host, id: ClientId, who: &Credentials, operation: Operation) -> Outcome {
    let call = Call { credentials: who.clone(), operation }.encode();
    host.time += 1;
    let session = SessionId(u64::from(id.0));
    let context = Context { client: id, session, time: Wall(host.time) };
    let query = host.service.query(&host.tree, &context, &call);
    let outcome = host.service.execute(&mut host.tree, &context, &call, &mut Vec::new());
    if let Some(query) = query {
        assert_eq!(query, outcome);
    }
    assert_eq!(bftfs_fs::check(&host.tree), []);
    decode_outcome(&outcome).unwrap()
}

fn guest(host: &mut Host, operation: Operation) -> Outcome {
    ask(host, GUEST, &root(), operation)
}

fn set(id: ClientId, rule: Rule) -> Operation {
    Operation::SetClient { client: id, record: Client { rule: Some(rule), ..Client::default() } }
}

fn admin(host: &mut Host, operation: Operation) -> Outcome {
    ask(host, ADMIN, &root(), operation)
}

/// Makes a rule for the guest, asking again while the index is built.
fn rule(host: &mut Host, rule: Rule) {
    while admin(host, set(GUEST, rule.clone())) == Err(Errno::EBUSY) {}
    assert_eq!(client(&host.tree, GUEST).unwrap().rule, Some(rule));
}

fn confine(host: &mut Host, top: Ino) {
    rule(host, Rule { subtree: Some(top), ..Rule::default() });
}

fn key(seed: u8) -> PublicKey {
    Signer::from_seed(&[seed; 32]).public()
}

/// Operations that name an inode and change it, or what is in it.
fn changes(ino: Ino) -> Vec<Operation> {
    vec![
        create(ino, "made", 0o666),
        mkdir(ino, "made", 0o777),
        mknod(ino, "made", FileType::Fifo),
        symlink(ino, "made", "t"),
        unlink(ino, "f"),
        rmdir(ino, "d"),
        rename((ino, "f"), (ino, "g"), RenameMode::Replace),
        write(ino, 0, "changed"),
        truncate(ino, 0),
        chmod(ino, 0o777),
        Operation::Open { ino, mask: 4, truncate: true },
        Operation::Setxattr {
            ino,
            name: name("user.made"),
            value: name("v"),
            mode: XattrMode::Set,
        },
        Operation::Removexattr { ino, name: name("user.there") },
        Operation::Allocate { ino, offset: 0, length: 4, how: Allocation::Punch },
        copy(ino, ino, 8),
        Operation::SetLock { ino, lock: lock(LockKind::Write), wait: true },
    ]
}

/// Operations that name an inode and look at it.
fn looks(ino: Ino) -> Vec<Operation> {
    vec![
        lookup(ino, "f"),
        Operation::Getattr { ino },
        Operation::Access { ino, mask: 4 },
        Operation::Readlink { ino, touch: Touch::Always },
        Operation::Read { ino, offset: 0, length: 100, touch: Touch::Always },
        Operation::Readdir { ino, cookie: 0, bytes_max: 4096, plus: true, touch: Touch::Always },
        Operation::Open { ino, mask: 4, truncate: false },
        Operation::Getxattr { ino, name: name("user.there") },
        Operation::Listxattr { ino },
        Operation::Seek { ino, offset: 0, sought: Sought::Data },
        Operation::GetLock { ino, lock: lock(LockKind::Write) },
    ]
}

fn lock(kind: LockKind) -> Lock {
    Lock { start: 0, end: 9, kind, owner: 5, pid: 7 }
}

/// A copy of four bytes from the start of a file.
fn copy(ino: Ino, target: Ino, target_offset: u64) -> Operation {
    Operation::Copy { ino, offset: 0, target, target_offset, length: 4, touch: Touch::Never }
}

#[test]
fn clients_without_a_rule_may_do_everything_but_administer() {
    let mut host = host();
    let made = attributes(guest(&mut host, mkdir(ROOT, "d", 0o700))).ino;
    attributes(guest(&mut host, create(made, "f", 0o600)));
    for operation in [
        set(GUEST, Rule { admin: true, ..Rule::default() }),
        Operation::RevokeClient { client: ADMIN },
        Operation::ListClients { after: None },
    ] {
        assert_eq!(guest(&mut host, operation), Err(Errno::EPERM));
    }
    assert_eq!(generation(&Host::new().tree), 0);
}

#[test]
fn a_read_only_client_changes_nothing_not_even_atime() {
    let mut host = host();
    let dir = host.make(mkdir(ROOT, "dir", 0o777)).ino;
    let file = host.make(create(dir, "f", 0o666)).ino;
    host.make(write(file, 0, "text"));
    host.make(mkdir(dir, "d", 0o777));
    rule(&mut host, Rule { read_only: true, ..Rule::default() });
    let before = host.tree.seal().root;
    for ino in [dir, file] {
        for operation in changes(ino) {
            let said = guest(&mut host, operation.clone());
            assert_eq!(said, Err(Errno::EROFS), "{operation:?}");
        }
        let mask = 2;
        assert_eq!(guest(&mut host, Operation::Access { ino, mask }), Err(Errno::EROFS));
        let write_open = Operation::Open { ino, mask, truncate: false };
        assert_eq!(guest(&mut host, write_open), Err(Errno::EROFS));
        for operation in looks(ino) {
            let _ = guest(&mut host, operation);
        }
    }
    let read = Operation::Read { ino: file, offset: 0, length: 9, touch: Touch::Always };
    assert_eq!(guest(&mut host, read), Ok(Reply::Data("text".into())));
    assert_eq!(guest(&mut host, link(file, dir, "g")), Err(Errno::EROFS));
    assert_eq!(host.tree.seal().root, before);
}

#[test]
fn a_client_acts_as_the_users_of_its_rule_whatever_it_says() {
    let mut host = host();
    let secret = host.make(create(ROOT, "secret", 0o640)).ino;
    host.make(chown(secret, Some(5), Some(50)));
    let ids = |first, last| IdRange { first, last };
    let uids = vec![ids(1000, 1009), ids(7, 7)];
    rule(&mut host, Rule { uids, gids: vec![ids(10, 20)], ..Rule::default() });
    let read = |host: &mut Host, who: Credentials| {
        ask(host, GUEST, &who, Operation::Access { ino: secret, mask: 4 })
    };
    for who in [root(), user(5, 10, &[]), user(999, 10, &[]), user(1010, 10, &[])] {
        assert_eq!(read(&mut host, who), Err(Errno::EPERM));
    }
    assert_eq!(read(&mut host, user(1000, 50, &[])), Err(Errno::EPERM), "a group of others");
    assert_eq!(read(&mut host, user(1000, 10, &[50])), Err(Errno::EACCES), "left out");
    let made = attributes(ask(&mut host, GUEST, &user(7, 20, &[]), create(ROOT, "f", 0o600)));
    assert_eq!((made.uid, made.gid), (7, 20));
    // What asks for nobody's rights is not refused for whom it names.
    assert!(guest(&mut host, Operation::Statfs).is_ok());
    assert!(guest(&mut host, Operation::Release { inos: vec![secret] }).is_ok());
}

#[test]
fn a_squashed_root_is_nobody_and_its_group_too() {
    let mut host = host();
    let own = host.make(create(ROOT, "own", 0o660)).ino;
    let ids = vec![IdRange { first: 1000, last: 1000 }];
    let squash = Some((65534, 65533));
    rule(&mut host, Rule { squash, uids: ids.clone(), gids: ids, ..Rule::default() });
    assert_eq!(guest(&mut host, Operation::Access { ino: own, mask: 4 }), Err(Errno::EACCES));
    assert_eq!(guest(&mut host, chown(own, Some(1), None)), Err(Errno::EPERM));
    let made = attributes(guest(&mut host, create(ROOT, "f", 0o600)));
    assert_eq!((made.uid, made.gid), (65534, 65533));
    let group = user(1000, 0, &[0]);
    let made = attributes(ask(&mut host, GUEST, &group, create(ROOT, "g", 0o600)));
    assert_eq!((made.uid, made.gid), (1000, 65533));
    let own_group = ask(&mut host, GUEST, &group, Operation::Access { ino: own, mask: 4 });
    assert_eq!(own_group, Err(Errno::EACCES), "the superuser's group is not had either");
}

/// A subtree with something in it, and the same beside it.
struct Place {
    top: Ino,
    dir: Ino,
    file: Ino,
    outside: [Ino; 2],
}

fn place(host: &mut Host) -> Place {
    let half = |host: &mut Host, at: &str| {
        let top = host.make(mkdir(ROOT, at, 0o777)).ino;
        let dir = host.make(mkdir(top, "dir", 0o777)).ino;
        let file = host.make(create(dir, "f", 0o666)).ino;
        host.make(write(file, 0, "text"));
        host.make(mkdir(dir, "d", 0o777));
        (top, dir, file)
    };
    let (_, outer, other) = half(host, "beside");
    let (top, dir, file) = half(host, "top");
    confine(host, top);
    Place { top, dir, file, outside: [outer, other] }
}

#[test]
fn the_top_of_a_subtree_is_its_clients_root() {
    let mut host = host();
    let Place { top, dir, file, .. } = place(&mut host);
    assert_eq!(attributes(guest(&mut host, Operation::Getattr { ino: ROOT })).ino, ROOT);
    assert_eq!(attributes(guest(&mut host, lookup(ROOT, "dir"))).ino, dir);
    assert_eq!(guest(&mut host, lookup(ROOT, "beside")), Err(Errno::ENOENT));
    let dots = |host: &mut Host, ino| -> Vec<Ino> {
        let Ok(Reply::Entries { entries, .. }) = guest(host, readdir(ino, 0, 4096)) else {
            panic!("a listing")
        };
        let same = |entry: &Entry| entry.attributes.is_some_and(|found| found.ino == entry.ino);
        assert!(entries.iter().all(same), "{entries:?}");
        entries.iter().take(2).map(|entry| entry.ino).collect()
    };
    assert_eq!(dots(&mut host, ROOT), [ROOT, ROOT]);
    assert_eq!(dots(&mut host, dir), [dir, ROOT]);
    let after_self = Operation::Readdir {
        ino: ROOT,
        cookie: 1,
        bytes_max: 160,
        plus: true,
        touch: Touch::Never,
    };
    let Ok(Reply::Entries { entries, .. }) = guest(&mut host, after_self) else { panic!("one") };
    let up = entries[0].attributes.unwrap();
    assert_eq!((up.ino, up.btime), (ROOT, host.getattr(top).btime), "its own attributes");
    let read = Operation::Read { ino: file, offset: 0, length: 9, touch: Touch::Never };
    assert_eq!(guest(&mut host, read), Ok(Reply::Data("text".into())));
    let whole = host.root(Operation::Statfs);
    assert_eq!(guest(&mut host, Operation::Statfs), whole);
    let made = attributes(guest(&mut host, create(ROOT, "made", 0o600))).ino;
    assert_eq!(host.names(top), ["dir", "made"].map(name));
    attributes(guest(&mut host, write(made, 0, "mine")));
    assert_eq!(
        guest(&mut host, rename((ROOT, "dir"), (dir, "d"), RenameMode::Replace)),
        Err(Errno::EINVAL)
    );
}

#[test]
fn guessed_inodes_outside_of_a_subtree_are_stale() {
    let mut host = host();
    let Place { outside: [dir, file], .. } = place(&mut host);
    let before = host.tree.seal().root;
    for ino in [dir, file] {
        for operation in looks(ino).into_iter().chain(changes(ino)) {
            let said = guest(&mut host, operation.clone());
            assert_eq!(said, Err(Errno::ESTALE), "{operation:?}");
        }
    }
    assert_eq!(host.tree.seal().root, before);
}

#[test]
fn nothing_is_linked_or_renamed_over_the_border_of_a_subtree() {
    let mut host = host();
    let Place { dir, file, outside: [outer, other], .. } = place(&mut host);
    for operation in [
        link(other, dir, "stolen"),
        link(file, outer, "given"),
        rename((outer, "f"), (dir, "g"), RenameMode::Replace),
        rename((dir, "f"), (outer, "g"), RenameMode::Replace),
        rename((dir, "f"), (outer, "f"), RenameMode::Exchange),
    ] {
        assert_eq!(guest(&mut host, operation), Err(Errno::ESTALE));
    }
}

#[test]
fn a_file_lies_where_any_of_its_names_does() {
    let mut host = host();
    let Place { dir, file, outside: [outer, other], .. } = place(&mut host);
    let look = |host: &mut Host, ino| guest(host, Operation::Getattr { ino }).map(drop);
    host.make(link(other, dir, "shared"));
    assert_eq!(look(&mut host, other), Ok(()), "somebody shared it");
    host.root(rename((dir, "shared"), (outer, "back"), RenameMode::Replace)).unwrap();
    assert_eq!(look(&mut host, other), Err(Errno::ESTALE));
    host.root(rename((outer, "back"), (dir, "f"), RenameMode::Exchange)).unwrap();
    assert_eq!((look(&mut host, other), look(&mut host, file)), (Ok(()), Err(Errno::ESTALE)));
    host.root(unlink(dir, "f")).unwrap();
    assert_eq!(look(&mut host, other), Err(Errno::ESTALE));
    // A whole directory that is moved takes along what is in it.
    host.root(rename((ROOT, "beside"), (dir, "all"), RenameMode::Replace)).unwrap();
    assert_eq!([outer, other, file].map(|ino| look(&mut host, ino)), [Ok(()); 3]);
}

#[test]
fn what_is_too_far_from_the_top_is_not_found() {
    let mut host = host();
    let Place { top, file, .. } = place(&mut host);
    host.checked = false;
    let (mut at, mut chain) = (top, Vec::new());
    for _ in 0..4097 {
        at = host.make(mkdir(at, "d", 0o777)).ino;
        chain.push(at);
    }
    let service = host.service.clone();
    let mut look = |ino| {
        let call = Call { credentials: root(), operation: Operation::Getattr { ino } }.encode();
        let context = Context { client: GUEST, session: SessionId(2), time: Wall(host.time) };
        let outcome = service.execute(&mut host.tree, &context, &call, &mut Vec::new());
        decode_outcome(&outcome).unwrap().map(drop)
    };
    assert_eq!([look(chain[4095]), look(chain[4096])], [Ok(()), Err(Errno::ESTALE)]);
    assert_eq!(look(file), Ok(()));
}

#[test]
fn what_a_confined_session_keeps_open_is_its_own_and_no_other_sessions() {
    let mut host = host();
    let Place { dir, file, .. } = place(&mut host);
    guest(&mut host, unlink_kept(dir, "f")).unwrap();
    let read = Operation::Read { ino: file, offset: 0, length: 9, touch: Touch::Never };
    assert_eq!(guest(&mut host, read.clone()), Ok(Reply::Data("text".into())));
    // A read that is not ordered may name any session: it is not answered.
    let call = Call { credentials: root(), operation: read.clone() }.encode();
    let time = Wall(host.time);
    let claimed = Context { client: GUEST, session: SessionId(u64::from(GUEST.0)), time };
    assert_eq!(host.service.query(&host.tree, &claimed, &call), None);
    let other = Context { session: SessionId(77), ..claimed };
    let outcome = host.service.execute(&mut host.tree, &other, &call, &mut Vec::new());
    assert_eq!(decode_outcome(&outcome), Ok(Err(Errno::ESTALE)));
    guest(&mut host, Operation::Release { inos: vec![file] }).unwrap();
    assert_eq!(guest(&mut host, read), Err(Errno::ESTALE));
}

#[test]
fn the_index_is_built_bit_by_bit_while_files_change() {
    let mut host = host();
    host.checked = false;
    let top = host.make(mkdir(ROOT, "top", 0o777)).ino;
    let mut files: Vec<Ino> = Vec::new();
    for number in 0..2500 {
        files.push(host.make(create(top, &format!("f{number:04}"), 0o666)).ino);
    }
    let confined = set(GUEST, Rule { subtree: Some(top), ..Rule::default() });
    assert_eq!(admin(&mut host, confined.clone()), Err(Errno::EBUSY));
    assert_eq!(client(&host.tree, GUEST), None, "not before it can be held");
    // On both sides of where the index has got to.
    for (from, to) in [("f0001", "f2499"), ("f2498", "f0002"), ("f0003", "a"), ("a", "z")] {
        host.root(rename((top, from), (top, to), RenameMode::Replace)).unwrap();
        assert_eq!(bftfs_fs::check(&host.tree), []);
    }
    let mut asked = 0;
    while admin(&mut host, confined.clone()) == Err(Errno::EBUSY) {
        asked += 1;
        assert!(asked < 3, "1024 at a time");
    }
    assert!(guest(&mut host, Operation::Getattr { ino: files[1] }).is_ok());
}

#[test]
fn a_revoked_client_is_refused_everything_at_once() {
    let mut host = host();
    let file = attributes(guest(&mut host, create(ROOT, "f", 0o666))).ino;
    admin(&mut host, Operation::RevokeClient { client: GUEST }).unwrap();
    for operation in looks(file).into_iter().chain(changes(ROOT)) {
        assert_eq!(guest(&mut host, operation), Err(Errno::EACCES));
    }
    let context = Context { client: GUEST, session: SessionId(2), time: Wall(host.time) };
    let refused = host.service.query(&host.tree, &context, &Bytes::from_static(b"\xff"));
    assert_eq!(decode_outcome(&refused.unwrap()), Ok(Err(Errno::EACCES)));
    rule(&mut host, Rule::default());
    assert!(guest(&mut host, Operation::Getattr { ino: file }).is_ok());
}

#[test]
fn the_last_administrator_stays_and_may_name_others() {
    let mut host = host();
    for operation in [Operation::RevokeClient { client: ADMIN }, set(ADMIN, Rule::default())] {
        assert_eq!(admin(&mut host, operation), Err(Errno::EPERM));
    }
    rule(&mut host, Rule { admin: true, ..Rule::default() });
    guest(&mut host, Operation::RevokeClient { client: ADMIN }).unwrap();
    assert_eq!(admin(&mut host, set(ADMIN, Rule::default())), Err(Errno::EACCES));
    assert_eq!(guest(&mut host, Operation::RevokeClient { client: GUEST }), Err(Errno::EPERM));
}

#[test]
fn records_are_bounded_and_checked() {
    let mut host = host();
    host.checked = false;
    let dir = host.make(mkdir(ROOT, "d", 0o777)).ino;
    let file = host.make(create(dir, "f", 0o666)).ino;
    let ids = |count| vec![IdRange { first: 1, last: 1 }; count];
    let wrong = [
        Rule { uids: ids(RANGES_MAX + 1), ..Rule::default() },
        Rule { gids: vec![IdRange { first: 2, last: 1 }], ..Rule::default() },
        Rule { admin: true, subtree: Some(dir), ..Rule::default() },
    ];
    for rule in wrong {
        assert_eq!(admin(&mut host, set(GUEST, rule)), Err(Errno::EINVAL));
    }
    let at = |ino| set(GUEST, Rule { subtree: Some(ino), ..Rule::default() });
    assert_eq!(admin(&mut host, at(file)), Err(Errno::ENOTDIR));
    assert_eq!(admin(&mut host, at(Ino(999))), Err(Errno::ESTALE));
    let record = |id: u32, name: &str, key| Operation::SetClient {
        client: ClientId(id),
        record: Client { name: name.into(), key: Some(key), rule: Some(Rule::default()) },
    };
    assert_eq!(admin(&mut host, record(3, "a b", key(1))), Err(Errno::EINVAL));
    assert_eq!(admin(&mut host, record(3, "a", PublicKey([0; 32]))), Err(Errno::EINVAL));
    admin(&mut host, record(3, "a", key(1))).unwrap();
    assert_eq!(admin(&mut host, record(4, "b", key(1))), Err(Errno::EEXIST));
    admin(&mut host, record(3, "a", key(1))).unwrap();
    assert_eq!(client(&host.tree, ClientId(4)), None);
}

#[test]
fn the_registry_is_listed_in_pages_and_ends() {
    let mut host = host();
    let context = |time| Context { client: ADMIN, session: SessionId(9), time: Wall(time) };
    let revoke = |id| Operation::RevokeClient { client: ClientId(id) };
    let mut last = Ok(Reply::Done);
    for id in 10..10 + CLIENTS_MAX {
        let call = Call { credentials: root(), operation: revoke(id) }.encode();
        let bytes =
            host.service.execute(&mut host.tree, &context(u64::from(id)), &call, &mut Vec::new());
        last = decode_outcome(&bytes).unwrap();
        assert_eq!(last.is_ok(), id < 9 + CLIENTS_MAX);
    }
    assert_eq!(last, Err(Errno::ENOSPC));
    assert_eq!(generation(&host.tree), u64::from(CLIENTS_MAX));
    let (mut listed, mut after) = (Vec::new(), None);
    loop {
        let Ok(Reply::Clients { clients, end }) =
            admin(&mut host, Operation::ListClients { after })
        else {
            panic!("a list")
        };
        listed.extend(clients);
        after = listed.last().map(|(id, _)| *id);
        if end {
            break;
        }
    }
    assert_eq!(listed, clients(&host.tree).collect::<Vec<_>>());
    let beyond = Operation::ListClients { after: Some(ClientId(u32::MAX)) };
    assert_eq!(admin(&mut host, beyond), Ok(Reply::Clients { clients: vec![], end: true }));
}

/// Whatever is outside of a subtree: each record with an inode there, contents too.
fn seen_outside(tree: &Tree, service: &FileSystem, inos: &[Ino]) -> Vec<Option<Bytes>> {
    let context = Context { client: ClientId(1), session: SessionId(1), time: Wall(0) };
    let looks = |ino| {
        [
            Operation::Getattr { ino },
            Operation::Read { ino, offset: 0, length: 1000, touch: Touch::Never },
            Operation::Readlink { ino, touch: Touch::Never },
            Operation::Readdir {
                ino,
                cookie: 0,
                bytes_max: 1 << 16,
                plus: false,
                touch: Touch::Never,
            },
        ]
    };
    let operations = inos.iter().flat_map(|ino| looks(*ino));
    let calls = operations.map(|operation| Call { credentials: root(), operation }.encode());
    calls.map(|call| service.query(tree, &context, &call)).collect()
}

/// Anything that a liar may send, about inodes that are mostly there.
fn anything() -> impl Strategy<Value = Operation> {
    let ino = || (1..24_u64).prop_map(Ino);
    let at = || prop::sample::select(vec!["f", "d", "l", "dir", "x"]);
    let one = (ino(), at(), any::<usize>()).prop_map(|(ino, at, which)| {
        let all: Vec<_> = changes(ino).into_iter().chain(looks(ino)).collect();
        let mut operation = all[which % all.len()].clone();
        if let Operation::Create { name: n, .. }
        | Operation::Mkdir { name: n, .. }
        | Operation::Unlink { name: n, .. }
        | Operation::Rmdir { name: n, .. } = &mut operation
        {
            *n = name(at);
        }
        operation
    });
    let how = prop::sample::select(vec![
        RenameMode::Replace,
        RenameMode::NoReplace,
        RenameMode::Exchange,
    ]);
    prop_oneof![
        4 => one,
        2 => (ino(), at(), ino(), at(), how)
            .prop_map(|(from, a, to, b, how)| rename((from, a), (to, b), how)),
        2 => (ino(), ino(), at()).prop_map(|(ino, parent, at)| link(ino, parent, at)),
        1 => (ino(), at()).prop_map(|(parent, at)| unlink_kept(parent, at)),
        1 => (ino(), ino()).prop_map(|(ino, target)| copy(ino, target, 8)),
        1 => vec(ino(), 0..4).prop_map(|inos| Operation::Release { inos }),
        1 => (ino(), 0..3_u32, 0..3_u32).prop_map(|(ino, uid, gid)| Operation::Setattr {
            ino,
            set: SetAttributes { uid: Some(uid), gid: Some(gid), ..SetAttributes::default() },
            open: true,
        }),
        1 => (0..10_u32).prop_map(|id| Operation::RevokeClient { client: ClientId(id) }),
        1 => Just(set(GUEST, Rule { admin: true, ..Rule::default() })),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, ..ProptestConfig::default() })]

    #[test]
    fn a_liar_changes_nothing_outside_of_its_subtree(operations in vec(anything(), 1..60), lies in 0..3_u32) {
        let mut host = host();
        let Place { top, outside, .. } = place(&mut host);
        let [outer, other] = outside;
        let beside = attributes(host.root(lookup(ROOT, "beside"))).ino;
        let deep = attributes(host.root(lookup(outer, "d"))).ino;
        let inos = [ROOT, beside, outer, other, deep];
        let before = seen_outside(&host.tree, &host.service, &inos);
        let registry: Vec<_> = clients(&host.tree).collect();
        let who = user(lies, lies, &[0]);
        for operation in operations {
            let _ = ask(&mut host, GUEST, &who, operation);
        }
        prop_assert_eq!(seen_outside(&host.tree, &host.service, &inos), before);
        prop_assert_eq!(clients(&host.tree).collect::<Vec<_>>(), registry);
        prop_assert!(host.getattr(top).nlink >= 2);
    }
}
