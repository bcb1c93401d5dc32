//! The check finds damage; elsewhere it is only seen to find none.

use bftfs_fs::{Client, FileSystem, Lock, LockKind, Operation, ROOT, Reply, Rule, check};
use bftfs_proto::types::{ClientId, SessionId};

use super::harness::{Host, acl_bytes, create, mkdir, setxattr, symlink, unlink_kept, write};

/// A file system with something in every table.
fn full() -> Host {
    let administrators = vec![ClientId(1)];
    let service =
        FileSystem { root_mode: 0o777, administrators, ..FileSystem::new(1 << 40, 1 << 20) };
    let mut host = Host::with(service);
    let dir = host.make(mkdir(ROOT, "d", 0o755)).ino;
    let file = host.make(create(dir, "f", 0o644)).ino;
    host.make(write(file, 0, vec![1; 40_000]));
    host.make(symlink(ROOT, "l", "target"));
    host.root(setxattr(dir, "user.a", "v")).expect("set");
    let acl = acl_bytes(&[(1, 7, 0), (2, 7, 5), (4, 5, 0), (16, 7, 0), (32, 5, 0)]);
    host.root(setxattr(file, "system.posix_acl_access", acl)).expect("set");
    host.make(create(ROOT, "o", 0o644));
    host.root(unlink_kept(ROOT, "o")).expect("removed");
    let lock = Lock { start: 0, end: 9, kind: LockKind::Write, owner: 5, pid: 7 };
    let set = Operation::SetLock { ino: file, lock, wait: true };
    assert_eq!(host.root(set.clone()), Ok(Reply::Locked { any: true }));
    host.session = SessionId(2);
    assert_eq!(host.root(set), Ok(Reply::Waiting));
    let rule = Some(Rule { subtree: Some(dir), ..Rule::default() });
    let record = Client { rule, ..Client::default() };
    host.root(Operation::SetClient { client: ClientId(2), record }).expect("confined");
    host.make(create(dir, "u", 0o644));
    for session in [1, 2] {
        host.session = SessionId(session);
        host.root(Operation::Attend { seen: 0 }).expect("attends");
    }
    host.root(unlink_kept(dir, "u")).expect("removed");
    host
}

#[test]
fn a_missing_key_is_found_whichever_it_is() {
    let host = full();
    let keys: Vec<Vec<u8>> = host.tree.prefix(&[]).map(|(key, _)| key.into()).collect();
    let tables: std::collections::BTreeSet<u8> = keys.iter().map(|key| key[0]).collect();
    assert_eq!(tables, (1..=16).filter(|table| *table != 8).collect());
    for key in keys {
        let mut tree = host.tree.clone();
        tree.remove(&key);
        assert_ne!(check(&tree), [], "without {key:02x?}");
    }
}

#[test]
fn a_changed_byte_of_a_name_is_found_and_others_do_no_harm() {
    let host = full();
    let keys: Vec<Vec<u8>> = host.tree.prefix(&[]).map(|(key, _)| key.into()).collect();
    // Each byte of a name or slot matters.
    for key in keys.iter().filter(|key| [3, 4].contains(&key[0])) {
        for at in 0..host.tree.get(key).expect("there").len() {
            let mut tree = host.tree.clone();
            tree.update(key, |record| record[at] ^= 1);
            assert_ne!(check(&tree), [], "byte {at} of {key:02x?}");
        }
    }
    // Whatever the bytes are, the check ends without a panic.
    for key in keys {
        for at in 0..host.tree.get(&key).expect("there").len().min(100) {
            for bits in [1, 0x40, 0xff] {
                let mut tree = host.tree.clone();
                tree.update(&key, |record| record[at] ^= bits);
                for damage in check(&tree) {
                    assert!(!damage.to_string().is_empty());
                }
            }
        }
    }
}

#[test]
fn keys_of_no_table_and_malformed_records_are_found() {
    for (key, record) in [
        (&[9_u8, 1][..], &[][..]),
        (&[0], &[]),
        (&[1], &[]),
        (&[1, 0], &[0]),
        (&[2, 0, 0, 0, 0, 0, 0, 0, 1, 0], &[0]),
        (&[5; 17], &[]),
        (&[7; 16], &[]),
        (&[8; 10], &[]),
        (&[9; 9], &[]),
        (b"\x09\0\0\0\0\0\0\0\x01user.a", &[]),
        (b"\x09\0\0\0\0\0\0\0\x63user.a", &[]),
        (b"\x09\0\0\0\0\0\0\0\x03system.posix_acl_access", &[]),
        (&[10; 9], &[0]),
        (&[11; 9], &[0]),
        (&[11; 17], &[]),
        (&[12, 0, 0, 0, 3], &[]),
        (&[12; 4], &[0, 0, 0]),
        (&[13; 25], &[]),
        (&[13], &[]),
        (&[14; 9], &[0, 0]),
        (&[14; 10], &[0, 0]),
        (&[15; 9], &[2, 0]),
        (&[15; 8], &[2, 0]),
        (&[16; 9], &[1, 0]),
        (&[16; 9], &[]),
    ] {
        let mut host = full();
        host.tree.insert(key, record);
        assert_ne!(check(&host.tree), [], "{key:02x?}");
    }
}

#[test]
fn attributes_that_contradict_their_inode_are_found() {
    let host = full();
    let xattrs: Vec<Vec<u8>> = host.tree.prefix(&[9]).map(|(key, _)| key.into()).collect();
    let access = xattrs.iter().find(|key| key.ends_with(b"posix_acl_access")).expect("there");
    let value = Vec::from(&host.tree.get(access).expect("there")[..]);
    // Another attribute of the same size, so that only the mark is wrong.
    let mut tree = host.tree.clone();
    tree.remove(access);
    tree.insert(&[&access[..9], b"user.", &[b'x'; 18]].concat(), &value[..]);
    assert_ne!(check(&tree), []);
    // Byte 6 has the owner's permissions, and the last entry's tag is no longer that of others.
    for (at, bits) in [(6, 1), (value.len() - 8, 2)] {
        let mut tree = host.tree.clone();
        tree.update(access, |acl| acl[at] ^= bits);
        assert_ne!(check(&tree), [], "byte {at}");
    }
}
