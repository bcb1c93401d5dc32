//! Extended attributes.

use bftfs_fs::{Credentials, Errno, FileSystem, FileType, Ino, Operation, ROOT, Reply, XattrMode};
use bftfs_proto::types::SessionId;
use bytes::Bytes;

use super::harness::{
    Host, attributes, chmod, chown, create, errno, getxattr, kept, mkdir, mknod, name, removexattr,
    setxattr, symlink, truncate, unlink, unlink_kept, user, write,
};

/// The most attributes that a file has.
const XATTRS_MAX: usize = 256;

fn list(host: &mut Host, who: &Credentials, ino: Ino) -> Vec<String> {
    match host.call(who, Operation::Listxattr { ino }) {
        Ok(Reply::Data(names)) => {
            let names = names.strip_suffix(b"\0").unwrap_or(&names).split(|byte| *byte == 0);
            names.map(|name| String::from_utf8_lossy(name).into_owned()).collect()
        }
        other => panic!("{other:?}"),
    }
}

fn value(value: impl Into<Bytes>) -> Result<Reply, Errno> {
    Ok(Reply::Data(value.into()))
}

#[test]
fn an_attribute_keeps_its_value() {
    let mut host = Host::new();
    let ino = host.make(create(ROOT, "a", 0o644)).ino;
    let before = host.getattr(ino);
    for bytes in ["", "value", "another"] {
        assert_eq!(host.root(setxattr(ino, "user.a", bytes)), Ok(Reply::Done));
        let now = host.now();
        assert_eq!(host.root(getxattr(ino, "user.a")), value(bytes));
        let after = host.getattr(ino);
        assert_eq!((after.ctime, after.mtime), (now, before.mtime));
    }
    host.root(setxattr(ino, "trusted.b", vec![7; 65_536])).expect("set");
    assert_eq!(host.root(getxattr(ino, "trusted.b")), value(vec![7; 65_536]));
    assert_eq!(list(&mut host, &user(0, 0, &[]), ino), ["trusted.b", "user.a"]);
    host.make(chmod(ino, 0o600));
    host.root(removexattr(ino, "user.a")).expect("removed");
    let now = host.now();
    assert_eq!(host.getattr(ino).ctime, now);
    assert_eq!(errno(host.root(getxattr(ino, "user.a"))), Errno::ENODATA);
    assert_eq!(errno(host.root(removexattr(ino, "user.a"))), Errno::ENODATA);
    assert_eq!(list(&mut host, &user(0, 0, &[]), ino), ["trusted.b"]);
}

#[test]
fn an_attribute_is_made_or_replaced_as_asked_for() {
    let mut host = Host::new();
    let ino = host.make(mkdir(ROOT, "d", 0o755)).ino;
    let set = |mode, value: &'static str| {
        let (name, value) = (name("user.a"), Bytes::from(value));
        Operation::Setxattr { ino, name, value, mode }
    };
    assert_eq!(errno(host.root(set(XattrMode::Replace, "0"))), Errno::ENODATA);
    host.root(set(XattrMode::Create, "1")).expect("made");
    assert_eq!(errno(host.root(set(XattrMode::Create, "2"))), Errno::EEXIST);
    assert_eq!(host.root(getxattr(ino, "user.a")), value("1"));
    host.root(set(XattrMode::Replace, "3")).expect("replaced");
    host.root(set(XattrMode::Set, "4")).expect("replaced");
    assert_eq!(host.root(getxattr(ino, "user.a")), value("4"));
}

#[test]
fn names_and_values_are_checked() {
    let mut host = Host::new();
    let ino = host.make(create(ROOT, "a", 0o644)).ino;
    let long = format!("user.{}", "x".repeat(250));
    host.root(setxattr(ino, &long, "v")).expect("255 bytes");
    for (name, refusal) in [
        ("", Errno::ERANGE),
        (&format!("{long}x"), Errno::ERANGE),
        ("user.a\0b", Errno::EINVAL),
        ("user.", Errno::EINVAL),
        ("user", Errno::EOPNOTSUPP),
        ("system.a", Errno::EOPNOTSUPP),
        ("other.a", Errno::EOPNOTSUPP),
    ] {
        for operation in [setxattr(ino, name, "v"), getxattr(ino, name), removexattr(ino, name)] {
            assert_eq!(errno(host.root(operation)), refusal, "{name:?}");
        }
    }
    assert_eq!(errno(host.root(setxattr(ino, "user.a", vec![0; 65_537]))), Errno::E2BIG);
    assert_eq!(list(&mut host, &user(0, 0, &[]), ino), [long]);
}

#[test]
fn each_namespace_has_its_rule() {
    let mut host = Host::new();
    let (alice, bob) = (user(1, 10, &[]), user(2, 20, &[]));
    let ino = attributes(host.call(&alice, create(ROOT, "a", 0o640))).ino;
    for name in ["user.a", "trusted.a", "security.a"] {
        host.root(setxattr(ino, name, "v")).expect("the superuser may");
    }
    // Set, read and removed by the owner, then by somebody else.
    let tries = |host: &mut Host, who: &Credentials, name| {
        let operations = [setxattr(ino, name, "w"), getxattr(ino, name), removexattr(ino, name)];
        operations.map(|operation| host.call(who, operation).err())
    };
    let (eperm, eacces) = (Some(Errno::EPERM), Some(Errno::EACCES));
    assert_eq!(tries(&mut host, &bob, "user.a"), [eacces, eacces, eacces]);
    assert_eq!(tries(&mut host, &alice, "user.a"), [None, None, None]);
    for who in [&alice, &bob] {
        assert_eq!(tries(&mut host, who, "trusted.a"), [eperm, Some(Errno::ENODATA), eperm]);
        assert_eq!(tries(&mut host, who, "security.a"), [eperm, None, eperm]);
        assert_eq!(list(&mut host, who, ino), ["security.a"]);
    }
    assert_eq!(list(&mut host, &user(0, 0, &[]), ino), ["security.a", "trusted.a"]);
}

#[test]
fn users_attributes_are_for_files_and_directories() {
    let mut host = Host::new();
    let link = host.make(symlink(ROOT, "l", "target")).ino;
    let fifo = host.make(mknod(ROOT, "f", FileType::Fifo)).ino;
    for ino in [link, fifo] {
        assert_eq!(errno(host.root(setxattr(ino, "user.a", "v"))), Errno::EPERM);
        assert_eq!(errno(host.root(getxattr(ino, "user.a"))), Errno::ENODATA);
        host.root(setxattr(ino, "trusted.a", "v")).expect("set");
        assert_eq!(host.root(getxattr(ino, "trusted.a")), value("v"));
    }
    let alice = user(1, 10, &[]);
    let dir = host.make(mkdir(ROOT, "d", 0o1777)).ino;
    assert_eq!(errno(host.call(&alice, setxattr(dir, "user.a", "v"))), Errno::EPERM, "sticky");
    host.make(chmod(dir, 0o777));
    host.call(&alice, setxattr(dir, "user.a", "v")).expect("writable");
}

#[test]
fn a_program_that_changes_loses_its_capabilities() {
    let mut host = Host::new();
    let ino = host.make(create(ROOT, "a", 0o777)).ino;
    let dir = host.make(mkdir(ROOT, "d", 0o777)).ino;
    let set = setxattr(ino, "security.capability", "caps");
    for operation in [write(ino, 0, "code"), truncate(ino, 2), chown(ino, Some(0), None)] {
        host.root(set.clone()).expect("set");
        host.make(chmod(ino, 0o755));
        host.root(setxattr(ino, "user.a", "v")).expect("set");
        assert_eq!(host.root(getxattr(ino, "security.capability")), value("caps"));
        host.make(operation);
        assert_eq!(errno(host.root(getxattr(ino, "security.capability"))), Errno::ENODATA);
    }
    assert_eq!(host.root(getxattr(ino, "user.a")), value("v"));
    host.root(setxattr(dir, "security.capability", "caps")).expect("set");
    host.make(chown(dir, Some(1), None));
    assert_eq!(host.root(getxattr(dir, "security.capability")), value("caps"), "no program");
}

#[test]
fn attributes_count_against_the_quota() {
    let mut host = Host::with(FileSystem { root_mode: 0o777, ..FileSystem::new(1000, 9) });
    let ino = host.make(create(ROOT, "a", 0o644)).ino;
    host.root(setxattr(ino, "user.a", vec![1; 800])).expect("set");
    assert_eq!(host.statistics().used_bytes, 65 + 64 + 6 + 800, "64 bytes, name and value");
    assert_eq!(host.getattr(ino).blocks, 2);
    assert_eq!(errno(host.root(setxattr(ino, "user.b", ""))), Errno::ENOSPC);
    assert_eq!(errno(host.root(setxattr(ino, "user.a", vec![1; 866]))), Errno::ENOSPC);
    assert_eq!(host.root(getxattr(ino, "user.a")), value(vec![1; 800]));
    host.root(setxattr(ino, "user.a", vec![1; 865])).expect("fits");
    host.root(setxattr(ino, "user.a", "")).expect("less");
    assert_eq!(host.statistics().used_bytes, 65 + 64 + 6);
    host.root(unlink(ROOT, "a")).expect("removed");
    assert_eq!(host.statistics().used_bytes, 0);
}

#[test]
fn a_big_file_with_attributes_is_cut_and_keeps_them() {
    let mut host = Host::new();
    let ino = host.make(create(ROOT, "a", 0o644)).ino;
    host.root(setxattr(ino, "user.a", "v")).expect("set");
    for block in 0..1000 {
        host.make(write(ino, block << 15, "x"));
    }
    host.make(truncate(ino, 20 << 15));
    assert_eq!(host.statistics().used_bytes, 65 + 64 + 6 + 1 + 20);
    assert_eq!(host.root(getxattr(ino, "user.a")), value("v"));
}

#[test]
fn a_file_has_up_to_256_attributes() {
    let mut host = Host::new();
    let ino = host.make(create(ROOT, "a", 0o644)).ino;
    host.checked = false;
    let names: Vec<String> = (0..XATTRS_MAX).map(|i| format!("user.{i:0>250}")).collect();
    for name in &names {
        host.root(setxattr(ino, name, "v")).expect("set");
    }
    host.checked = true;
    assert_eq!(errno(host.root(setxattr(ino, "user.more", ""))), Errno::ENOSPC);
    host.root(setxattr(ino, &names[7], "other")).expect("replaced");
    assert_eq!(list(&mut host, &user(0, 0, &[]), ino), names);
    host.root(removexattr(ino, &names[7])).expect("removed");
    host.root(setxattr(ino, "user.more", "")).expect("room");
}

#[test]
fn attributes_of_many_files_are_removed_bit_by_bit() {
    let mut host = Host::new();
    host.checked = false;
    let keys = |host: &Host| host.tree.prefix(&[9]).count();
    let mut inos = Vec::new();
    for _ in 0..5 {
        let ino = host.make(create(ROOT, "a", 0o644)).ino;
        for i in 0..XATTRS_MAX - 6 {
            host.root(setxattr(ino, &format!("user.{i}"), "v")).expect("set");
        }
        inos.extend(kept(host.root(unlink_kept(ROOT, "a"))));
    }
    host.checked = true;
    assert_eq!(keys(&host), 1250);
    host.root(Operation::Release { inos }).expect("released");
    let statistics = host.statistics();
    assert_eq!((statistics.used_bytes, statistics.used_inodes), (0, 1), "free at once");
    assert_eq!(keys(&host), 1250 - 256, "a bit with the release");
    for left in [738, 482, 226, 0] {
        host.root(Operation::Null).expect("done");
        assert_eq!(keys(&host), left);
    }
    host.close(SessionId(1));
}
