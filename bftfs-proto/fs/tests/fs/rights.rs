//! Who may do what.

use bftfs_fs::{
    Credentials, Errno, FileType, GROUPS_MAX, Ino, Operation, ROOT, RenameMode, Reply,
    SetAttributes, SetTime, Time, Touch,
};

use super::harness::{
    Host, attributes, chmod, chown, create, errno, link, lookup, mkdir, mknod, readdir, rename,
    rmdir, setattr, truncate, unlink, user, write,
};

fn access(ino: Ino, mask: u8) -> Operation {
    Operation::Access { ino, mask }
}

fn read(ino: Ino) -> Operation {
    Operation::Read { ino, offset: 0, length: 10, touch: Touch::Never }
}

fn owned(host: &mut Host, name: &str, mode: u32) -> Ino {
    attributes(host.call(&user(1, 10, &[]), create(ROOT, name, mode))).ino
}

#[test]
fn the_first_class_that_applies_decides() {
    let mut host = Host::new();
    let ino = owned(&mut host, "a", 0o754);
    let who = [user(1, 99, &[]), user(2, 10, &[]), user(2, 20, &[5, 10]), user(3, 30, &[])];
    for (who, granted) in who.iter().zip([7, 5, 5, 4]) {
        for mask in 0..8 {
            let expected = if mask & !granted == 0 { Ok(Reply::Done) } else { Err(Errno::EACCES) };
            assert_eq!(host.call(who, access(ino, mask)), expected, "{who:?} {mask}");
        }
    }
    host.make(chmod(ino, 0o077));
    assert_eq!(errno(host.call(&who[0], access(ino, 4))), Errno::EACCES, "the owner has less");
    assert_eq!(errno(host.root(access(ino, 8))), Errno::EINVAL);
}

#[test]
fn the_superuser_may_all_but_execute_what_nobody_may() {
    let mut host = Host::new();
    let ino = owned(&mut host, "a", 0);
    assert_eq!(host.root(access(ino, 6)), Ok(Reply::Done));
    assert_eq!(errno(host.root(access(ino, 1))), Errno::EACCES);
    host.make(chmod(ino, 0o001));
    assert_eq!(host.root(access(ino, 7)), Ok(Reply::Done));
    let dir = host.make(mkdir(ROOT, "d", 0)).ino;
    assert_eq!(host.root(access(dir, 7)), Ok(Reply::Done));
}

#[test]
fn a_directory_must_be_searchable_and_writable() {
    let mut host = Host::new();
    let dir = host.make(mkdir(ROOT, "d", 0o755)).ino;
    let file = host.make(create(dir, "f", 0o666)).ino;
    host.make(mkdir(dir, "s", 0o777));
    let bob = user(2, 20, &[]);
    for operation in [
        create(dir, "n", 0o644),
        mkdir(dir, "n", 0o755),
        mknod(dir, "n", FileType::Fifo),
        unlink(dir, "f"),
        rmdir(dir, "s"),
        link(file, dir, "n"),
        rename((dir, "f"), (ROOT, "n"), RenameMode::Replace),
    ] {
        assert_eq!(errno(host.call(&bob, operation)), Errno::EACCES);
    }
    assert_eq!(attributes(host.call(&bob, lookup(dir, "f"))).ino, file);
    host.make(chmod(dir, 0o744));
    assert_eq!(errno(host.call(&bob, lookup(dir, "f"))), Errno::EACCES);
    assert!(host.call(&bob, readdir(dir, 0, 4096)).is_ok());
    host.make(chmod(dir, 0o711));
    assert!(host.call(&bob, lookup(dir, "f")).is_ok());
    assert_eq!(errno(host.call(&bob, readdir(dir, 0, 4096))), Errno::EACCES);
}

#[test]
fn a_directory_that_moves_must_be_writable() {
    let mut host = Host::new();
    let (alice, bob) = (user(1, 10, &[]), user(2, 20, &[]));
    host.make(mkdir(ROOT, "d", 0o777));
    let dir = host.make(lookup(ROOT, "d")).ino;
    attributes(host.call(&alice, mkdir(ROOT, "s", 0o755)));
    let away = rename((ROOT, "s"), (dir, "s"), RenameMode::Replace);
    assert_eq!(errno(host.call(&bob, away.clone())), Errno::EACCES);
    host.call(&bob, rename((ROOT, "s"), (ROOT, "t"), RenameMode::Replace)).expect("same parent");
    host.call(&bob, rename((ROOT, "t"), (ROOT, "s"), RenameMode::Replace)).expect("same parent");
    host.call(&alice, away).expect("moved");
}

#[test]
fn sticky_directories_protect_their_files() {
    let mut host = Host::new();
    host.make(mkdir(ROOT, "tmp", 0o1777));
    let tmp = host.make(lookup(ROOT, "tmp")).ino;
    let (alice, bob) = (user(1, 10, &[]), user(2, 20, &[]));
    for name in ["a", "b", "c"] {
        attributes(host.call(&alice, create(tmp, name, 0o666)));
    }
    attributes(host.call(&bob, create(tmp, "bobs", 0o666)));
    for operation in [
        unlink(tmp, "a"),
        rename((tmp, "a"), (tmp, "z"), RenameMode::Replace),
        rename((tmp, "bobs"), (tmp, "a"), RenameMode::Replace),
        rename((tmp, "bobs"), (tmp, "a"), RenameMode::Exchange),
    ] {
        assert_eq!(errno(host.call(&bob, operation)), Errno::EPERM);
    }
    host.call(&alice, unlink(tmp, "a")).expect("her own");
    host.make(chown(tmp, Some(2), None));
    host.call(&bob, unlink(tmp, "b")).expect("his directory");
    host.root(unlink(tmp, "c")).expect("the superuser");
}

#[test]
fn set_group_id_directories_hand_down_their_group() {
    let mut host = Host::new();
    host.make(mkdir(ROOT, "d", 0o777));
    let dir = host.make(lookup(ROOT, "d")).ino;
    host.make(chown(dir, None, Some(77)));
    host.make(chmod(dir, 0o2777));
    let alice = user(1, 10, &[]);
    let sub = attributes(host.call(&alice, mkdir(dir, "s", 0o755)));
    assert_eq!((sub.gid, sub.mode), (77, 0o2755));
    let file = attributes(host.call(&alice, create(dir, "f", 0o2755)));
    assert_eq!((file.gid, file.mode), (77, 0o755), "not a member: no program of the group");
    let file = attributes(host.call(&user(1, 10, &[77]), create(dir, "g", 0o2755)));
    assert_eq!(file.mode, 0o2755);
    assert_eq!(attributes(host.call(&alice, mkdir(ROOT, "e", 0o2755))).mode, 0o755);
}

#[test]
fn chmod_is_for_owners_and_set_group_id_for_members() {
    let mut host = Host::new();
    let ino = owned(&mut host, "a", 0o644);
    assert_eq!(errno(host.call(&user(2, 10, &[]), chmod(ino, 0o777))), Errno::EPERM);
    let alice = user(1, 10, &[]);
    assert_eq!(attributes(host.call(&alice, chmod(ino, 0o6755))).mode, 0o6755);
    host.make(chown(ino, None, Some(77)));
    assert_eq!(attributes(host.call(&alice, chmod(ino, 0o6755))).mode, 0o4755);
    assert_eq!(host.make(chmod(ino, 0o106_755)).mode, 0o6755);
}

#[test]
fn chown_is_for_the_superuser_and_groups_for_members() {
    let mut host = Host::new();
    let ino = owned(&mut host, "a", 0o644);
    let alice = user(1, 10, &[30]);
    assert_eq!(errno(host.call(&alice, chown(ino, Some(2), None))), Errno::EPERM);
    assert_eq!(errno(host.call(&alice, chown(ino, None, Some(77)))), Errno::EPERM);
    assert_eq!(errno(host.call(&user(2, 30, &[]), chown(ino, None, Some(30)))), Errno::EPERM);
    let given = attributes(host.call(&alice, chown(ino, Some(1), Some(30))));
    assert_eq!((given.uid, given.gid), (1, 30));
    let given = host.make(chown(ino, Some(2), Some(77)));
    assert_eq!((given.uid, given.gid), (2, 77));
}

#[test]
fn programs_lose_their_rights_with_their_owner() {
    let mut host = Host::new();
    let ino = host.make(create(ROOT, "a", 0o755)).ino;
    host.make(chmod(ino, 0o6755));
    assert_eq!(host.make(chown(ino, Some(1), None)).mode, 0o755, "even by the superuser");
    host.make(chmod(ino, 0o2745));
    assert_eq!(host.make(chown(ino, None, Some(5))).mode, 0o2745, "not a program of its group");
    host.make(mkdir(ROOT, "d", 0o755));
    let dir = host.make(lookup(ROOT, "d")).ino;
    host.make(chmod(dir, 0o2755));
    assert_eq!(host.make(chown(dir, None, Some(5))).mode, 0o2755);
}

#[test]
fn programs_lose_their_rights_when_written() {
    let mut host = Host::new();
    let ino = host.make(create(ROOT, "a", 0o777)).ino;
    let bob = user(2, 20, &[]);
    for operation in [write(ino, 0, "x"), truncate(ino, 0)] {
        host.make(chmod(ino, 0o6777));
        assert_eq!(attributes(host.call(&bob, operation.clone())).mode, 0o777);
        host.make(chmod(ino, 0o6777));
        assert_eq!(host.make(operation).mode, 0o6777, "the superuser is trusted");
    }
}

#[test]
fn times_are_set_by_owners_and_touched_by_writers() {
    let mut host = Host::new();
    let ino = owned(&mut host, "a", 0o646);
    let set =
        |atime, mtime| setattr(ino, SetAttributes { atime, mtime, ..SetAttributes::default() });
    let (now, then) = (Some(SetTime::Now), Some(SetTime::At(Time::default())));
    let (alice, writer, reader) = (user(1, 1, &[]), user(3, 30, &[]), user(2, 10, &[]));
    attributes(host.call(&alice, set(then, then)));
    attributes(host.call(&writer, set(now, now)));
    assert_eq!(errno(host.call(&reader, set(now, now))), Errno::EACCES);
    for odd in [set(now, None), set(then, None), set(now, then)] {
        assert_eq!(errno(host.call(&writer, odd)), Errno::EPERM);
    }
    let cut = SetAttributes { size: Some(0), mtime: now, ..SetAttributes::default() };
    attributes(host.call(&writer, setattr(ino, cut)));
}

#[test]
fn an_owner_may_use_what_is_open_whatever_the_mode() {
    let mut host = Host::new();
    let ino = owned(&mut host, "a", 0);
    let (alice, bob) = (user(1, 10, &[]), user(2, 20, &[]));
    attributes(host.call(&alice, write(ino, 0, "mine")));
    assert!(host.call(&alice, read(ino)).is_ok());
    let set = SetAttributes { size: Some(1), ..SetAttributes::default() };
    attributes(host.call(&alice, Operation::Setattr { ino, set, open: true }));
    assert_eq!(errno(host.call(&alice, setattr(ino, set))), Errno::EACCES, "by its name");
    for mask in [4, 2] {
        let open = Operation::Open { ino, mask, truncate: false };
        assert_eq!(errno(host.call(&alice, open)), Errno::EACCES);
    }
    let open_set = Operation::Setattr { ino, set, open: true };
    for operation in [write(ino, 0, "x"), read(ino), open_set] {
        assert_eq!(errno(host.call(&bob, operation)), Errno::EACCES);
    }
    host.make(chmod(ino, 0o001));
    assert!(host.call(&bob, read(ino)).is_ok(), "what may be run may be read");
}

#[test]
fn open_checks_what_is_wanted() {
    let mut host = Host::new();
    let ino = owned(&mut host, "a", 0o640);
    let open = |ino, mask, truncate| Operation::Open { ino, mask, truncate };
    let member = user(2, 10, &[]);
    assert_eq!(attributes(host.call(&member, open(ino, 4, false))).ino, ino);
    assert_eq!(errno(host.call(&member, open(ino, 6, false))), Errno::EACCES);
    assert_eq!(errno(host.call(&member, open(ino, 4, true))), Errno::EACCES);
    attributes(host.call(&user(1, 1, &[]), write(ino, 0, "text")));
    assert_eq!(attributes(host.call(&user(1, 1, &[]), open(ino, 2, true))).size, 0);
    assert_eq!(errno(host.root(open(ROOT, 2, false))), Errno::EISDIR);
    assert_eq!(errno(host.root(open(ROOT, 4, true))), Errno::EISDIR);
    assert!(host.root(open(ROOT, 4, false)).is_ok());
}

#[test]
fn callers_have_up_to_1024_groups() {
    let mut host = Host::new();
    let ino = owned(&mut host, "a", 0o040);
    let groups = |count: u32| (100..99 + count).chain([10]).collect::<Vec<u32>>();
    let most = u32::try_from(GROUPS_MAX).expect("small");
    let member = Credentials { uid: 2, gid: 2, groups: groups(most) };
    assert!(host.call(&member, access(ino, 4)).is_ok());
    let member = Credentials { uid: 2, gid: 2, groups: groups(most + 1) };
    assert_eq!(errno(host.call(&member, access(ino, 4))), Errno::EINVAL);
}
