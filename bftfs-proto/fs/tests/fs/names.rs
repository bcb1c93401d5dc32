//! Directories: names, links, listing, renaming.

use bftfs_fs::{Errno, FileType, Operation, ROOT, RenameMode, Reply, Touch};
use bytes::Bytes;

use super::harness::{
    Host, attributes, chmod, create, errno, kept, link, lookup, mkdir, mknod, name, readdir,
    rename, rmdir, symlink, unlink, user, write,
};

#[test]
fn a_created_file_is_found_with_its_attributes() {
    let mut host = Host::new();
    let alice = user(1, 10, &[]);
    let made = attributes(host.call(&alice, create(ROOT, "a", 0o100_640)));
    assert_eq!((made.kind, made.mode, made.nlink), (FileType::Regular, 0o640, 1));
    assert_eq!((made.uid, made.gid, made.size, made.blocks), (1, 10, 0, 0));
    let now = host.now();
    assert_eq!([made.atime, made.mtime, made.ctime, made.btime], [now; 4]);
    assert_eq!(host.make(lookup(ROOT, "a")), made);
    assert_eq!(errno(host.root(lookup(ROOT, "b"))), Errno::ENOENT);
    assert_eq!((host.getattr(ROOT).mtime, host.getattr(ROOT).size), (now, 1));
}

#[test]
fn create_opens_what_exists_unless_exclusive() {
    let mut host = Host::new();
    let file = host.make(create(ROOT, "a", 0o644));
    host.make(write(file.ino, 0, "hello"));
    assert_eq!(host.make(create(ROOT, "a", 0o600)).ino, file.ino);
    let name = name("a");
    let exclusive = Operation::Create {
        parent: ROOT,
        name: name.clone(),
        mode: 0,
        exclusive: true,
        mask: 0,
        truncate: false,
    };
    assert_eq!(errno(host.root(exclusive)), Errno::EEXIST);
    let cut = |mask| Operation::Create {
        parent: ROOT,
        name: name.clone(),
        mode: 0,
        exclusive: false,
        mask,
        truncate: true,
    };
    assert_eq!(errno(host.call(&user(1, 1, &[]), cut(4))), Errno::EACCES);
    assert_eq!(host.make(cut(2)).size, 0);
    host.make(mkdir(ROOT, "d", 0o755));
    host.make(mknod(ROOT, "p", FileType::Fifo));
    assert_eq!(errno(host.root(create(ROOT, "d", 0o644))), Errno::EISDIR);
    assert_eq!(errno(host.root(create(ROOT, "p", 0o644))), Errno::ESTALE);
}

#[test]
fn names_are_checked() {
    let mut host = Host::new();
    for odd in ["", ".", "..", "a/b", "a\0b"] {
        for operation in [lookup(ROOT, odd), create(ROOT, odd, 0o644), unlink(ROOT, odd)] {
            assert_eq!(errno(host.root(operation)), Errno::EINVAL, "{odd:?}");
        }
    }
    let (long, longer) = ("x".repeat(255), "x".repeat(256));
    host.make(create(ROOT, &long, 0o644));
    assert_eq!(errno(host.root(create(ROOT, &longer, 0o644))), Errno::ENAMETOOLONG);
    // A name is bytes, whatever they mean.
    let name = Bytes::from_static(b"\xff\xfe\n");
    host.make(Operation::Mkdir { parent: ROOT, name: name.clone(), mode: 0o755 });
    assert_eq!(host.names(ROOT), [Bytes::from(long), name]);
}

#[test]
fn inode_numbers_are_never_used_again() {
    let mut host = Host::new();
    let first = host.make(create(ROOT, "a", 0o644)).ino;
    host.root(unlink(ROOT, "a")).expect("removed");
    let second = host.make(create(ROOT, "a", 0o644)).ino;
    assert!(second > first);
    for operation in [Operation::Getattr { ino: first }, write(first, 0, "x")] {
        assert_eq!(errno(host.root(operation)), Errno::ESTALE);
    }
}

#[test]
fn directories_count_links_and_entries() {
    let mut host = Host::new();
    let dir = host.make(mkdir(ROOT, "d", 0o7755));
    assert_eq!((dir.nlink, dir.mode, dir.size), (2, 0o1755, 0));
    host.make(mkdir(dir.ino, "x", 0o755));
    host.make(create(dir.ino, "y", 0o644));
    let dir = host.getattr(dir.ino);
    assert_eq!((dir.nlink, dir.size), (3, 2));
    assert_eq!(errno(host.root(rmdir(ROOT, "d"))), Errno::ENOTEMPTY);
    assert_eq!(errno(host.root(rmdir(dir.ino, "y"))), Errno::ENOTDIR);
    assert_eq!(errno(host.root(unlink(dir.ino, "x"))), Errno::EISDIR);
    host.root(unlink(dir.ino, "y")).expect("removed");
    host.root(rmdir(dir.ino, "x")).expect("removed");
    assert_eq!(host.getattr(dir.ino).nlink, 2);
    host.root(rmdir(ROOT, "d")).expect("removed");
    assert_eq!(errno(host.root(Operation::Getattr { ino: dir.ino })), Errno::ESTALE);
    assert_eq!(host.statistics().used_inodes, 1);
}

#[test]
fn a_file_has_up_to_65000_names() {
    let mut host = Host::new();
    let file = host.make(create(ROOT, "first", 0o644));
    assert_eq!(host.make(link(file.ino, ROOT, "second")).nlink, 2);
    host.root(unlink(ROOT, "first")).expect("removed");
    assert_eq!(host.make(lookup(ROOT, "second")).nlink, 1);
    host.checked = false;
    let dir = host.make(mkdir(ROOT, "d", 0o755)).ino;
    assert_eq!(errno(host.root(link(dir, ROOT, "e"))), Errno::EPERM);
    for count in 2..=65_000 {
        host.make(link(file.ino, dir, &format!("{count}")));
    }
    assert_eq!(errno(host.root(link(file.ino, dir, "more"))), Errno::EMLINK);
    assert_eq!(bftfs_fs::check(&host.tree), []);
}

#[test]
fn a_symbolic_link_keeps_its_target() {
    let mut host = Host::new();
    let made = host.make(symlink(ROOT, "l", "../some where"));
    assert_eq!((made.kind, made.mode, made.size), (FileType::Symlink, 0o777, 13));
    let readlink = |ino| Operation::Readlink { ino, touch: Touch::Never };
    assert_eq!(host.root(readlink(made.ino)), Ok(Reply::Target("../some where".into())));
    assert_eq!(errno(host.root(readlink(ROOT))), Errno::EINVAL);
    assert_eq!(errno(host.root(symlink(ROOT, "m", ""))), Errno::ENOENT);
    assert_eq!(errno(host.root(symlink(ROOT, "m", &"x".repeat(4096)))), Errno::ENAMETOOLONG);
    host.make(symlink(ROOT, "m", &"x".repeat(4095)));
    host.root(unlink(ROOT, "m")).expect("removed");
}

#[test]
fn special_files_keep_their_device() {
    let mut host = Host::new();
    for (kind, rdev) in [
        (FileType::Fifo, 0),
        (FileType::Socket, 0),
        (FileType::CharDevice, 0x0102),
        (FileType::BlockDevice, 0x0102),
    ] {
        let made = host.make(mknod(ROOT, &format!("{kind:?}"), kind));
        assert_eq!((made.kind, made.rdev), (kind, rdev));
        let read = Operation::Read { ino: made.ino, offset: 0, length: 1, touch: Touch::Never };
        assert_eq!(errno(host.root(read)), Errno::EINVAL);
    }
    let alice = user(1, 1, &[]);
    assert_eq!(errno(host.call(&alice, mknod(ROOT, "c", FileType::CharDevice))), Errno::EPERM);
    attributes(host.call(&alice, mknod(ROOT, "p", FileType::Fifo)));
    assert_eq!(errno(host.root(mknod(ROOT, "d", FileType::Directory))), Errno::EPERM);
    assert_eq!(errno(host.root(mknod(ROOT, "s", FileType::Symlink))), Errno::EINVAL);
}

#[test]
fn cookies_are_stable_while_the_directory_changes() {
    let mut host = Host::new();
    for count in 0..100 {
        host.make(create(ROOT, &format!("f{count}"), 0o644));
    }
    let Ok(Reply::Entries { entries, end: false }) = host.root(readdir(ROOT, 0, 9000)) else {
        panic!("a part of the directory fits");
    };
    assert_eq!((&entries[0].name[..], entries[0].ino), (&b"."[..], ROOT));
    assert_eq!((&entries[1].name[..], entries[1].ino), (&b".."[..], ROOT));
    let seen = entries.len() - 2;
    let cookie = entries.last().expect("some fit").cookie;
    // What was listed goes away, and names come and go elsewhere.
    for count in 0..seen {
        host.root(unlink(ROOT, &format!("f{count}"))).expect("removed");
    }
    host.make(create(ROOT, "f0", 0o644));
    host.root(unlink(ROOT, "f99")).expect("removed");
    let rest: Vec<Bytes> = host.list(ROOT, cookie).into_iter().map(|entry| entry.name).collect();
    let mut expected: Vec<Bytes> = (seen..99).map(|count| format!("f{count}").into()).collect();
    expected.push("f0".into());
    assert_eq!(rest, expected);
}

#[test]
fn a_listing_is_bounded_and_tells_its_end() {
    let mut host = Host::new();
    host.make(mkdir(ROOT, "d", 0o755));
    assert_eq!(errno(host.root(readdir(ROOT, 2, 100))), Errno::EINVAL, "not even one fits");
    let Ok(Reply::Entries { entries, end: true }) = host.root(readdir(ROOT, 2, 160)) else {
        panic!("one fits");
    };
    let attributes = host.make(lookup(ROOT, "d"));
    assert_eq!(entries[0].attributes, Some(attributes));
    assert_eq!(host.list(ROOT, entries[0].cookie), []);
    assert_eq!(host.list(ROOT, u64::MAX), []);
    let file = host.make(create(ROOT, "f", 0o644)).ino;
    assert_eq!(errno(host.root(readdir(file, 0, 4096))), Errno::ENOTDIR);
}

#[test]
fn a_directory_of_100000_names_is_listed_while_it_changes() {
    const NAMES: u64 = 100_000;
    let mut host = Host::new();
    host.checked = false;
    let dir = host.make(mkdir(ROOT, "d", 0o755)).ino;
    for count in 0..NAMES {
        host.order(create(dir, &format!("f{count}"), 0o644)).expect("made");
    }
    // While it is read, one name goes and one comes for each part, before and behind the reader.
    let (mut cookie, mut seen, mut gone) = (0, Vec::new(), Vec::new());
    for part in 0.. {
        let list = Operation::Readdir {
            ino: dir,
            cookie,
            bytes_max: 64 << 10,
            plus: false,
            touch: Touch::Never,
        };
        let Ok(Reply::Entries { entries, end }) = host.order(list) else {
            panic!("a part of the directory");
        };
        assert!(
            entries.len() <= (64 << 10) / 32
                && entries.windows(2).all(|e| e[0].cookie < e[1].cookie)
        );
        cookie = entries.last().map_or(cookie, |entry| entry.cookie);
        seen.extend(entries.into_iter().map(|entry| entry.name));
        if end {
            break;
        }
        let victim = format!("f{}", part * 7919 % NAMES);
        host.order(unlink(dir, &victim)).expect("removed");
        host.order(create(dir, &format!("n{part}"), 0o644)).expect("made");
        gone.push(Bytes::from(victim));
    }
    let distinct: std::collections::BTreeSet<Bytes> = seen.iter().cloned().collect();
    assert_eq!(distinct.len(), seen.len(), "no name comes twice");
    let stayed = (0..NAMES).map(|count| Bytes::from(format!("f{count}")));
    for name in stayed.filter(|name| !gone.contains(name)) {
        assert!(distinct.contains(&name), "{name:?} was there all along");
    }
    assert!(gone.len() > 40, "it changed {} times", gone.len());
    assert_eq!(bftfs_fs::check(&host.tree), []);
}

#[test]
fn the_longest_listing_fits_a_result() {
    let mut host = Host::new();
    host.checked = false;
    for count in 0..6000 {
        host.make(create(ROOT, &format!("{count:0255}"), 0o644));
    }
    let call = bftfs_fs::Call {
        credentials: bftfs_fs::Credentials::default(),
        operation: readdir(ROOT, 0, u32::MAX),
    };
    let result = host.query(&call.encode()).expect("it only looks");
    assert!(result.len() <= bftfs_proto::config::RESULT_BYTES_MAX, "{}", result.len());
    assert!(result.len() > 500_000, "{}", result.len());
}

#[test]
fn rename_moves_replaces_and_exchanges() {
    use RenameMode::{Exchange, NoReplace, Replace};
    let mut host = Host::new();
    let (a, b) = (host.make(create(ROOT, "a", 0o644)).ino, host.make(create(ROOT, "b", 0o644)).ino);
    let dir = host.make(mkdir(ROOT, "d", 0o755)).ino;
    assert_eq!(errno(host.root(rename((ROOT, "a"), (ROOT, "b"), NoReplace))), Errno::EEXIST);
    assert_eq!(errno(host.root(rename((ROOT, "a"), (ROOT, "x"), Exchange))), Errno::ENOENT);
    assert_eq!(errno(host.root(rename((ROOT, "x"), (ROOT, "a"), Replace))), Errno::ENOENT);
    host.root(rename((ROOT, "a"), (ROOT, "b"), Exchange)).expect("exchanged");
    assert_eq!([host.make(lookup(ROOT, "a")).ino, host.make(lookup(ROOT, "b")).ino], [b, a]);
    host.root(rename((ROOT, "a"), (dir, "a"), NoReplace)).expect("moved");
    let now = host.now();
    assert_eq!(host.getattr(b).ctime, now);
    host.root(rename((ROOT, "b"), (dir, "a"), Replace)).expect("replaced");
    assert_eq!(host.make(lookup(dir, "a")).ino, a);
    assert_eq!(errno(host.root(Operation::Getattr { ino: b })), Errno::ESTALE);
    assert_eq!(host.names(ROOT), ["d"]);

    // Two names of one file: nothing happens.
    host.make(link(a, ROOT, "a"));
    assert_eq!(kept(host.root(rename((ROOT, "a"), (dir, "a"), Replace))), None);
    assert_eq!(host.getattr(a).nlink, 2);
}

#[test]
fn rename_keeps_the_tree_a_tree() {
    use RenameMode::{Exchange, Replace};
    let mut host = Host::new();
    let outer = host.make(mkdir(ROOT, "outer", 0o755)).ino;
    let inner = host.make(mkdir(outer, "inner", 0o755)).ino;
    for mode in [Replace, Exchange] {
        host.root(lookup(inner, "x")).expect_err("nothing there yet");
        let error = errno(host.root(rename((ROOT, "outer"), (inner, "x"), mode)));
        assert_eq!(error, if mode == Replace { Errno::EINVAL } else { Errno::ENOENT });
        let error = errno(host.root(rename((ROOT, "outer"), (outer, "inner"), mode)));
        assert_eq!(error, Errno::EINVAL);
        let error = errno(host.root(rename((outer, "inner"), (ROOT, "outer"), mode)));
        assert_eq!(error, if mode == Replace { Errno::ENOTEMPTY } else { Errno::EINVAL });
    }
    let file = host.make(create(ROOT, "file", 0o644)).ino;
    assert_eq!(errno(host.root(rename((ROOT, "file"), (outer, "inner"), Replace))), Errno::EISDIR);
    assert_eq!(errno(host.root(rename((outer, "inner"), (ROOT, "file"), Replace))), Errno::ENOTDIR);
    host.root(rename((outer, "inner"), (ROOT, "file"), Exchange)).expect("exchanged");
    assert_eq!(host.make(lookup(ROOT, "file")).ino, inner);
    assert_eq!(host.make(lookup(outer, "inner")).ino, file);
    assert_eq!((host.getattr(ROOT).nlink, host.getattr(outer).nlink), (4, 2));
    assert_eq!(host.list(inner, 1)[0].ino, ROOT, "its parent changed");
}

#[test]
fn directories_nest_deep_but_move_no_deeper_than_16384() {
    let mut host = Host::new();
    host.checked = false;
    let mut dir = ROOT;
    for _ in 0..16_383 {
        dir = host.make(mkdir(dir, "d", 0o755)).ino;
    }
    host.make(mkdir(ROOT, "e", 0o755));
    host.root(rename((ROOT, "e"), (dir, "e"), RenameMode::Replace)).expect("moved");
    let deeper = host.make(lookup(dir, "e")).ino;
    host.make(mkdir(ROOT, "f", 0o755));
    let error = errno(host.root(rename((ROOT, "f"), (deeper, "f"), RenameMode::Replace)));
    assert_eq!(error, Errno::ELOOP);
}

#[test]
fn a_file_is_no_directory() {
    let mut host = Host::new();
    let file = host.make(create(ROOT, "f", 0o777)).ino;
    for operation in [lookup(file, "x"), create(file, "x", 0o644), mkdir(file, "x", 0o755)] {
        assert_eq!(errno(host.root(operation)), Errno::ENOTDIR);
    }
    host.make(chmod(file, 0o600));
    let error = errno(host.root(rename((ROOT, "f"), (file, "g"), RenameMode::Replace)));
    assert_eq!(error, Errno::ENOTDIR);
}
