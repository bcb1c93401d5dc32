//! Files that are open but have no name, and big files that are removed bit by bit.

use bftfs_fs::{Errno, Ino, Operation, RELEASES_MAX, ROOT, RenameMode};
use bftfs_proto::types::SessionId;

use super::harness::{
    Host, create, errno, kept, link, mkdir, name, rename, truncate, unlink, unlink_kept, write,
};

fn release(ino: Ino) -> Operation {
    Operation::Release { inos: vec![ino] }
}

fn exists(host: &mut Host, ino: Ino) -> bool {
    host.root(Operation::Getattr { ino }).is_ok()
}

#[test]
fn a_file_kept_open_lives_until_it_is_released() {
    let mut host = Host::new();
    let ino = host.make(create(ROOT, "a", 0o644)).ino;
    host.make(link(ino, ROOT, "b"));
    assert_eq!(kept(host.root(unlink_kept(ROOT, "a"))), None, "it has a name left");
    assert_eq!(kept(host.root(unlink_kept(ROOT, "b"))), Some(ino));
    assert_eq!(host.make(write(ino, 0, "still here")).nlink, 0);
    assert_eq!(host.read(ino, 0, 20), "still here");
    assert_eq!(errno(host.root(link(ino, ROOT, "c"))), Errno::ENOENT);
    host.session = SessionId(2);
    host.root(release(ino)).expect("ignored");
    assert!(exists(&mut host, ino), "it is another session's");
    host.session = SessionId(1);
    host.root(release(ino)).expect("released");
    assert!(!exists(&mut host, ino));
    host.root(release(ino)).expect("ignored");
    assert_eq!(host.statistics().used_bytes, 0);
}

#[test]
fn a_file_not_kept_is_gone_at_once() {
    let mut host = Host::new();
    let ino = host.make(create(ROOT, "a", 0o644)).ino;
    assert_eq!(kept(host.root(unlink(ROOT, "a"))), None);
    assert!(!exists(&mut host, ino));
}

#[test]
fn the_end_of_a_session_releases_what_it_kept() {
    let mut host = Host::new();
    let mut inos = Vec::new();
    for session in [1, 2, 1] {
        host.session = SessionId(session);
        let ino = host.make(create(ROOT, "a", 0o644)).ino;
        host.make(write(ino, 0, "contents"));
        assert_eq!(kept(host.root(unlink_kept(ROOT, "a"))), Some(ino));
        inos.push(ino);
    }
    host.close(SessionId(3));
    host.close(SessionId(1));
    let alive: Vec<bool> = inos.iter().map(|&ino| exists(&mut host, ino)).collect();
    assert_eq!(alive, [false, true, false]);
    host.close(SessionId(2));
    assert_eq!(host.statistics().used_inodes, 1);
}

#[test]
fn a_session_that_kept_many_files_ends_bit_by_bit() {
    let mut host = Host::new();
    host.checked = false;
    for _ in 0..1000 {
        host.make(create(ROOT, "a", 0o644));
        host.root(unlink_kept(ROOT, "a")).expect("removed");
    }
    host.checked = true;
    host.close(SessionId(1));
    assert!(host.statistics().used_inodes > 700);
    for _ in 0..4 {
        host.root(Operation::Null).expect("done");
    }
    assert_eq!(host.statistics().used_inodes, 1);
}

#[test]
fn a_replaced_file_can_be_kept() {
    let mut host = Host::new();
    let old = host.make(create(ROOT, "a", 0o644)).ino;
    host.make(create(ROOT, "b", 0o644));
    let replace = Operation::Rename {
        parent: ROOT,
        name: name("b"),
        new_parent: ROOT,
        new_name: name("a"),
        mode: RenameMode::Replace,
        keep: true,
    };
    assert_eq!(kept(host.root(replace)), Some(old));
    assert!(exists(&mut host, old));
    assert_eq!(kept(host.root(rename((ROOT, "a"), (ROOT, "c"), RenameMode::Replace))), None);
}

#[test]
fn a_removed_directory_can_be_kept_but_not_filled() {
    let mut host = Host::new();
    let dir = host.make(mkdir(ROOT, "d", 0o755)).ino;
    host.make(create(ROOT, "f", 0o644));
    host.make(mkdir(ROOT, "e", 0o755));
    let removed = host.root(Operation::Rmdir { parent: ROOT, name: name("d"), keep: true });
    assert_eq!(kept(removed), Some(dir));
    assert_eq!(host.getattr(dir).nlink, 0);
    for operation in [
        create(dir, "x", 0o644),
        mkdir(dir, "x", 0o755),
        rename((ROOT, "f"), (dir, "x"), RenameMode::Replace),
        rename((ROOT, "e"), (dir, "x"), RenameMode::Replace),
    ] {
        assert_eq!(errno(host.root(operation)), Errno::ENOENT);
    }
    assert_eq!(host.list(dir, 0).len(), 2);
    host.root(release(dir)).expect("released");
    assert!(!exists(&mut host, dir));
}

#[test]
fn releases_are_bounded() {
    let mut host = Host::new();
    let inos = vec![Ino(5); RELEASES_MAX];
    host.root(Operation::Release { inos }).expect("ignored");
    let inos = vec![Ino(5); RELEASES_MAX + 1];
    assert_eq!(errno(host.root(Operation::Release { inos })), Errno::EINVAL);
}

/// A file of 1000 blocks, one byte each, and the number of keys without them.
fn big(host: &mut Host) -> (Ino, u64) {
    let ino = host.make(create(ROOT, "big", 0o644)).ino;
    let keys = host.tree.len();
    host.checked = false;
    for index in 0..1000 {
        host.make(write(ino, index << 15, "x"));
    }
    host.checked = true;
    (ino, keys)
}

#[test]
fn a_big_file_is_removed_bit_by_bit() {
    let mut host = Host::new();
    let (ino, _) = big(&mut host);
    host.root(unlink(ROOT, "big")).expect("removed");
    assert!(!exists(&mut host, ino));
    assert_eq!(host.statistics().used_bytes, 0, "its space is free at once");
    assert!(host.tree.len() > 700, "{}", host.tree.len());
    for _ in 0..4 {
        host.root(Operation::Null).expect("done");
    }
    assert_eq!(host.tree.len(), 2, "superblock and root");
}

#[test]
fn a_big_file_is_cut_bit_by_bit_and_can_be_written_at_once() {
    let mut host = Host::new();
    let (ino, keys) = big(&mut host);
    assert_eq!(host.make(truncate(ino, 0)).blocks, 0);
    assert!(host.tree.len() > 700);
    host.make(write(ino, 5 << 15, "new"));
    assert_eq!(host.read(ino, (5 << 15) - 1, 10), &b"\0new"[..]);
    assert_eq!(host.make(truncate(ino, 1000 << 15)).size, 1000 << 15);
    assert_eq!(host.read(ino, 999 << 15, 2), &b"\0\0"[..]);
    for _ in 0..4 {
        host.root(Operation::Null).expect("done");
    }
    assert_eq!(host.tree.len(), keys + 1);
}

#[test]
fn a_big_file_cut_to_its_start_keeps_it() {
    let mut host = Host::new();
    let (ino, keys) = big(&mut host);
    let cut = host.make(truncate(ino, (100 << 15) + 1));
    assert_eq!((cut.size, cut.blocks), ((100 << 15) + 1, 1));
    assert_eq!(host.read(ino, 100 << 15, 10), "x");
    assert!(host.tree.len() > 700);
    for _ in 0..4 {
        host.root(Operation::Null).expect("done");
    }
    assert_eq!(host.tree.len(), keys + 101);
    let (ino, keys) = big_again(&mut host);
    host.make(truncate(ino, 500 << 15));
    assert_eq!(host.tree.len(), keys + 500, "much stays and much goes: at once");
}

fn big_again(host: &mut Host) -> (Ino, u64) {
    host.root(unlink(ROOT, "big")).expect("removed");
    host.root(Operation::Null).expect("done");
    big(host)
}
