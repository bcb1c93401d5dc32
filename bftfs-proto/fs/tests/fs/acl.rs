//! Access control lists.

use bftfs_fs::{
    Credentials, Errno, FileType, Ino, Operation, ROOT, RenameMode, Reply, Touch, XattrMode, masked,
};
use bytes::Bytes;

use super::harness::{
    Host, acl_bytes, attributes, chmod, chown, create, errno, getxattr, lookup, mkdir, mknod, name,
    readdir, removexattr, rename, setxattr, symlink, unlink, user, write,
};

const ACCESS: &str = "system.posix_acl_access";
const DEFAULT: &str = "system.posix_acl_default";
const NO_ID: u32 = u32::MAX;

type Ace = (u16, u16, u32);

fn owner(permissions: u16) -> Ace {
    (1, permissions, NO_ID)
}
fn named_user(uid: u32, permissions: u16) -> Ace {
    (2, permissions, uid)
}
fn group(permissions: u16) -> Ace {
    (4, permissions, NO_ID)
}
fn named_group(gid: u32, permissions: u16) -> Ace {
    (8, permissions, gid)
}
fn mask(permissions: u16) -> Ace {
    (16, permissions, NO_ID)
}
fn others(permissions: u16) -> Ace {
    (32, permissions, NO_ID)
}

fn set(host: &mut Host, ino: Ino, at: &str, aces: &[Ace]) {
    host.root(setxattr(ino, at, acl_bytes(aces))).expect("set");
}

fn get(host: &mut Host, ino: Ino, at: &str) -> Option<Bytes> {
    match host.root(getxattr(ino, at)) {
        Ok(Reply::Data(acl)) => Some(acl),
        other => {
            assert_eq!(other, Err(Errno::ENODATA));
            None
        }
    }
}

/// A file of user 1 and group 10.
fn owned(host: &mut Host, name: &str, mode: u32) -> Ino {
    attributes(host.call(&user(1, 10, &[]), create(ROOT, name, mode))).ino
}

/// What somebody is granted, as the bits of access(2).
fn granted(host: &mut Host, who: &Credentials, ino: Ino) -> Vec<u8> {
    let may = |mask: &u8| host.call(who, Operation::Access { ino, mask: *mask }).is_ok();
    (1..8).filter(may).collect()
}

#[test]
fn an_acl_grants_what_acl_5_says() {
    let mut host = Host::new();
    let ino = owned(&mut host, "a", 0o604);
    let acl = [
        owner(6),
        named_user(2, 7),
        named_user(3, 0),
        group(4),
        named_group(20, 2),
        named_group(30, 1),
        mask(6),
        others(1),
    ];
    set(&mut host, ino, ACCESS, &acl);
    for (who, expected) in [
        (user(1, 20, &[]), &[2, 4, 6][..]),
        (user(2, 30, &[]), &[2, 4, 6]),
        (user(3, 10, &[20]), &[]),
        (user(4, 10, &[]), &[4]),
        // Each of the groups is asked for all that is wanted.
        (user(4, 5, &[10, 20]), &[2, 4]),
        // The mask takes it, and others do not count.
        (user(4, 30, &[]), &[]),
        (user(4, 5, &[]), &[1]),
    ] {
        assert_eq!(granted(&mut host, &who, ino), expected, "{who:?}");
    }
    assert_eq!(granted(&mut host, &user(0, 0, &[]), ino), [1, 2, 3, 4, 5, 6, 7]);
    // Even if the mask is empty: it takes all that Linux leaves to others then.
    host.make(chmod(ino, 0o607));
    assert_eq!(granted(&mut host, &user(2, 30, &[]), ino), []);
}

#[test]
fn an_acl_holds_for_every_kind_of_call() {
    let mut host = Host::new();
    let (bob, eve) = (user(2, 20, &[]), user(3, 30, &[]));
    let dir = host.make(mkdir(ROOT, "d", 0o700)).ino;
    let file = host.make(create(dir, "f", 0o600)).ino;
    for (ino, permissions) in [(dir, 7), (file, 6)] {
        let acl = [owner(7), named_user(2, permissions), group(0), mask(7), others(0)];
        set(&mut host, ino, ACCESS, &acl);
    }
    let read = Operation::Read { ino: file, offset: 0, length: 9, touch: Touch::Never };
    for operation in [
        lookup(dir, "f"),
        read,
        write(file, 0, "text"),
        readdir(dir, 0, 4096),
        setxattr(file, "user.a", "v"),
        getxattr(file, "user.a"),
        create(dir, "g", 0o644),
        rename((dir, "g"), (dir, "h"), RenameMode::Replace),
        unlink(dir, "h"),
    ] {
        assert_eq!(errno(host.call(&eve, operation.clone())), Errno::EACCES, "{operation:?}");
        host.call(&bob, operation).expect("granted");
    }
}

#[test]
fn mode_and_acl_say_the_same() {
    let mut host = Host::new();
    let ino = owned(&mut host, "a", 0o4640);
    let acl = |owned, group_class, other| {
        let named = [named_user(2, 7), group(4)];
        acl_bytes(&[&[owner(owned)], &named[..], &[mask(group_class), others(other)]].concat())
    };
    host.root(setxattr(ino, ACCESS, acl(7, 5, 1))).expect("set");
    let now = host.now();
    let after = host.getattr(ino);
    assert_eq!(after.mode, 0o4751, "the mask is what the group class may at most");
    assert_eq!(after.ctime, now);
    host.make(chmod(ino, 0o1620));
    assert_eq!(get(&mut host, ino, ACCESS), Some(acl(6, 2, 0)));
    assert_eq!(host.getattr(ino).mode, 0o1620);
    host.make(chown(ino, Some(5), None));
    assert_eq!(get(&mut host, ino, ACCESS), Some(acl(6, 2, 0)));
    host.root(removexattr(ino, ACCESS)).expect("removed");
    assert_eq!((host.getattr(ino).mode, get(&mut host, ino, ACCESS)), (0o1620, None));
    assert_eq!(host.root(removexattr(ino, ACCESS)), Ok(Reply::Done), "nothing to remove");
}

#[test]
fn an_acl_that_permission_bits_can_say_is_not_kept() {
    let mut host = Host::new();
    let ino = owned(&mut host, "a", 0o640);
    let used = host.statistics().used_bytes;
    set(&mut host, ino, ACCESS, &[owner(7), named_user(2, 7), group(4), mask(5), others(1)]);
    assert_eq!(host.statistics().used_bytes, used + 64 + 23 + 4 + 5 * 8);
    set(&mut host, ino, ACCESS, &[owner(6), group(5), others(4)]);
    assert_eq!((host.getattr(ino).mode, get(&mut host, ino, ACCESS)), (0o654, None));
    assert_eq!(host.statistics().used_bytes, used);
    let listed = host.root(Operation::Listxattr { ino });
    assert_eq!(listed, Ok(Reply::Data(Bytes::new())));
}

#[test]
fn acls_are_checked_and_sorted() {
    let mut host = Host::new();
    let ino = host.make(mkdir(ROOT, "d", 0o755)).ino;
    let basic = [owner(7), group(5), others(5)];
    let with = |more: &[Ace]| acl_bytes(&[&basic[..], more].concat());
    let many = |count: u32| {
        let users = (0..count).map(|uid| named_user(uid, 7));
        with(&users.chain([mask(7)]).collect::<Vec<_>>())
    };
    let odd = Bytes::from([&with(&[])[..], &[0]].concat());
    for (acl, refusal) in [
        (Bytes::new(), Errno::EINVAL),
        (Bytes::from_static(&[1, 0, 0, 0]), Errno::EOPNOTSUPP),
        (odd, Errno::EINVAL),
        (acl_bytes(&[]), Errno::EINVAL),
        (acl_bytes(&basic[1..]), Errno::EINVAL),
        (acl_bytes(&basic[..2]), Errno::EINVAL),
        (acl_bytes(&[owner(7), others(5)]), Errno::EINVAL),
        (with(&[owner(7)]), Errno::EINVAL),
        (with(&[mask(7), mask(7)]), Errno::EINVAL),
        (with(&[named_user(1, 7)]), Errno::EINVAL),
        (with(&[named_group(1, 7)]), Errno::EINVAL),
        (with(&[named_user(1, 7), named_user(1, 6), mask(7)]), Errno::EINVAL),
        (with(&[named_user(NO_ID, 7), mask(7)]), Errno::EINVAL),
        (with(&[mask(8)]), Errno::EINVAL),
        (with(&[(64, 7, NO_ID)]), Errno::EINVAL),
        (many(508), Errno::E2BIG),
    ] {
        for at in [ACCESS, DEFAULT] {
            assert_eq!(errno(host.root(setxattr(ino, at, acl.clone()))), refusal, "{acl:?}");
        }
    }
    assert_eq!(host.root(setxattr(ino, ACCESS, many(507))), Ok(Reply::Done), "511 entries");
    let named = [others(5), named_group(3, 1), mask(7), named_user(9, 2), named_user(4, 3)];
    set(&mut host, ino, ACCESS, &[&named[..], &[(4, 5, 77), owner(7)]].concat());
    let [a, b, c, d, e] = named;
    let sorted = acl_bytes(&[owner(7), e, d, group(5), b, c, a]);
    assert_eq!(get(&mut host, ino, ACCESS), Some(sorted));
    let create = XattrMode::Create;
    let again =
        Operation::Setxattr { ino, name: name(ACCESS), value: acl_bytes(&basic), mode: create };
    assert_eq!(errno(host.root(again)), Errno::EEXIST);
}

#[test]
fn acls_are_set_by_owners() {
    let mut host = Host::new();
    let ino = owned(&mut host, "a", 0o2674);
    let acl = acl_bytes(&[owner(7), named_user(2, 7), group(7), mask(7), others(7)]);
    for operation in [setxattr(ino, ACCESS, acl.clone()), removexattr(ino, ACCESS)] {
        assert_eq!(errno(host.call(&user(2, 10, &[]), operation)), Errno::EPERM);
    }
    host.call(&user(1, 10, &[]), setxattr(ino, ACCESS, acl.clone())).expect("the owner");
    assert_eq!(host.getattr(ino).mode, 0o2777);
    let anybody = user(9, 90, &[]);
    assert_eq!(host.call(&anybody, getxattr(ino, ACCESS)), Ok(Reply::Data(acl.clone())));
    host.call(&user(1, 11, &[]), setxattr(ino, ACCESS, acl.clone())).expect("the owner");
    assert_eq!(host.getattr(ino).mode, 0o777, "no member: no program of the group");
    assert_eq!(errno(host.root(setxattr(ino, DEFAULT, acl.clone()))), Errno::EACCES);
    let link = host.make(symlink(ROOT, "l", "a")).ino;
    for operation in [setxattr(link, ACCESS, acl), getxattr(link, ACCESS)] {
        assert_eq!(errno(host.root(operation)), Errno::EOPNOTSUPP);
    }
}

#[test]
fn a_default_acl_is_handed_down() {
    let mut host = Host::new();
    let alice = user(1, 10, &[]);
    let dir = attributes(host.call(&alice, mkdir(ROOT, "d", 0o755))).ino;
    let acl = |group_class| {
        [owner(7), named_user(2, 7), group(5), named_group(9, 6), mask(group_class), others(4)]
    };
    set(&mut host, dir, DEFAULT, &acl(7));
    assert_eq!(host.getattr(dir).mode, 0o755, "it is not about the directory itself");
    // The mode limits it, the umask does not.
    let file = attributes(host.call(&alice, create(dir, "f", masked(0o666, 0o077))));
    assert_eq!(file.mode, 0o664);
    let mut expected = acl(6);
    (expected[0], expected[5]) = (owner(6), others(4));
    assert_eq!(get(&mut host, file.ino, ACCESS), Some(acl_bytes(&expected)));
    assert_eq!(get(&mut host, file.ino, DEFAULT), None);
    let fifo = Operation::Mknod {
        parent: dir,
        name: name("p"),
        kind: FileType::Fifo,
        mode: masked(0o600, 0o777),
        rdev: 0,
    };
    assert_eq!(host.make(fifo).mode, 0o600);
    let sub = attributes(host.call(&alice, mkdir(dir, "s", masked(0o750, 0o022))));
    assert_eq!(sub.mode, 0o750);
    assert_eq!(get(&mut host, sub.ino, DEFAULT), Some(acl_bytes(&acl(7))));
    let mut expected = acl(5);
    expected[5] = others(0);
    assert_eq!(get(&mut host, sub.ino, ACCESS), Some(acl_bytes(&expected)));
    let link = host.make(symlink(dir, "l", "f"));
    assert_eq!((link.mode, host.root(Operation::Listxattr { ino: link.ino })), {
        (0o777, Ok(Reply::Data(Bytes::new())))
    });
}

#[test]
fn a_default_acl_of_three_entries_takes_the_place_of_the_umask() {
    let mut host = Host::new();
    let dir = host.make(mkdir(ROOT, "d", 0o755)).ino;
    set(&mut host, dir, DEFAULT, &[owner(7), group(7), others(0)]);
    let file = host.make(create(dir, "f", masked(0o666, 0o022)));
    assert_eq!((file.mode, get(&mut host, file.ino, ACCESS)), (0o660, None));
    host.root(removexattr(dir, DEFAULT)).expect("removed");
    assert_eq!(host.make(create(dir, "g", masked(0o666, 0o022))).mode, 0o644);
}

#[test]
fn the_umask_leaves_other_bits_alone() {
    let mut host = Host::new();
    for (mode, umask, expected) in [(0o4777, 0o022, 0o4755), (0o100_640, 0o7777, 0), (0o7, 0, 0o7)]
    {
        assert_eq!(host.make(create(ROOT, "a", masked(mode, umask))).mode, expected);
        host.root(unlink(ROOT, "a")).expect("removed");
    }
    assert_eq!(host.make(mknod(ROOT, "f", FileType::Fifo)).mode, 0o644);
}

#[test]
fn inherited_acls_count_against_the_quota() {
    let mut host = Host::with(bftfs_fs::FileSystem::new(600, 9));
    let dir = host.make(mkdir(ROOT, "d", 0o755)).ino;
    set(&mut host, dir, DEFAULT, &[owner(7), named_user(2, 7), group(7), mask(7), others(0)]);
    assert_eq!(host.statistics().used_bytes, 65 + 64 + 24 + 44);
    host.make(mkdir(dir, "s", 0o777));
    let used = 2 * (65 + 64 + 24 + 44) + 64 + 23 + 44;
    assert_eq!(host.statistics().used_bytes, used);
    assert_eq!(errno(host.root(create(dir, "f", 0o666))), Errno::ENOSPC);
    assert_eq!(host.statistics().used_bytes, used, "all or nothing");
}
