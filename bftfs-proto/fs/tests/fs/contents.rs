//! Contents: reading, writing, holes, sizes, times of contents.

use bftfs_fs::{
    Errno, FileSystem, Ino, Operation, ROOT, Reply, SetAttributes, SetTime, Time, Touch,
};
use bytes::Bytes;

use super::harness::{
    Host, attributes, create, errno, link, mkdir, setattr, symlink, truncate, unlink, user, write,
};

#[test]
fn reads_what_was_written_across_blocks() {
    let mut host = Host::new();
    let ino = host.make(create(ROOT, "a", 0o644)).ino;
    let data: Vec<u8> =
        (0..100_000_u32).map(|at| at.to_le_bytes()[0] ^ at.to_le_bytes()[1]).collect();
    let written = host.root(write(ino, 5000, data.clone()));
    assert!(matches!(written, Ok(Reply::Written { count: 100_000, .. })));
    assert_eq!(attributes(written).size, 105_000);
    assert_eq!(host.read(ino, 5000, 100_000), data);
    assert_eq!(host.read(ino, 0, 5000), vec![0; 5000]);
    assert_eq!(host.read(ino, 40_000, 10), data[35_000..35_010]);
    assert_eq!(host.read(ino, 104_990, 100), data[99_990..], "short at the end");
    assert_eq!(host.read(ino, 105_000, 100), "", "nothing behind it");
    assert_eq!(host.read(ino, u64::MAX, 100), "");
    host.make(write(ino, 32_760, vec![7; 20]));
    assert_eq!(host.read(ino, 32_759, 22)[1..21], [7; 20]);
    assert_eq!(host.getattr(ino).size, 105_000);
}

#[test]
fn a_write_and_a_read_of_a_mebibyte() {
    let mut host = Host::new();
    let ino = host.make(create(ROOT, "a", 0o644)).ino;
    let data = Bytes::from(vec![5; 1 << 20]);
    host.make(write(ino, 1, data.clone()));
    assert_eq!(host.read(ino, 1, 1 << 20), data);
    assert_eq!(host.read(ino, 0, u32::MAX).len(), 1 << 20, "more is not given at once");
    assert_eq!(errno(host.root(write(ino, 0, vec![5; (1 << 20) + 1]))), Errno::EINVAL);
    let call = |operation| bftfs_fs::Call { credentials: super::harness::root(), operation };
    let request = call(write(ino, 0, data)).encode();
    assert!(request.len() <= bftfs_proto::config::OPERATION_BYTES_MAX);
    let read =
        call(Operation::Read { ino, offset: 0, length: 1 << 20, touch: Touch::Never }).encode();
    let result = host.query(&read).expect("it only looks");
    assert!(result.len() <= bftfs_proto::config::RESULT_BYTES_MAX);
}

#[test]
fn holes_are_zeros_and_take_no_space() {
    let mut host = Host::new();
    let ino = host.make(create(ROOT, "a", 0o644)).ino;
    let far = (5 << 40) + 123;
    host.make(write(ino, far, "end"));
    let attributes = host.getattr(ino);
    assert_eq!(attributes.size, far + 3);
    assert_eq!(attributes.blocks, 1);
    assert_eq!(host.read(ino, 1 << 35, 8), vec![0; 8]);
    assert_eq!(host.read(ino, far - 2, 9), &b"\0\0end"[..]);
}

#[test]
fn sizes_end_at_the_largest_signed_number() {
    let mut host = Host::new();
    let ino = host.make(create(ROOT, "a", 0o644)).ino;
    let most = i64::MAX as u64;
    assert_eq!(host.make(truncate(ino, most)).size, most);
    assert_eq!(errno(host.root(truncate(ino, most + 1))), Errno::EFBIG);
    host.make(write(ino, most - 1, "x"));
    for (offset, data) in [(most, "x"), (most - 1, "xy"), (u64::MAX, "x")] {
        assert_eq!(errno(host.root(write(ino, offset, data))), Errno::EFBIG);
    }
    assert_eq!(host.read(ino, most - 2, 5), &b"\0x"[..]);
}

#[test]
fn cutting_and_growing_again_shows_zeros() {
    let mut host = Host::new();
    let ino = host.make(create(ROOT, "a", 0o644)).ino;
    host.make(write(ino, 0, vec![9; 70_000]));
    assert_eq!(host.make(truncate(ino, 40_000)).blocks, 79);
    host.make(truncate(ino, 70_000));
    assert_eq!(host.read(ino, 39_999, 3), vec![9, 0, 0]);
    assert_eq!(host.read(ino, 69_000, 1000), vec![0; 1000]);
    assert_eq!(host.make(truncate(ino, 0)).blocks, 0);
    let dir = host.make(mkdir(ROOT, "d", 0o755)).ino;
    assert_eq!(errno(host.root(truncate(dir, 0))), Errno::EISDIR);
    let link = host.make(symlink(ROOT, "l", "a")).ino;
    assert_eq!(errno(host.root(truncate(link, 0))), Errno::EINVAL);
    assert_eq!(errno(host.root(write(dir, 0, "x"))), Errno::EISDIR);
}

#[test]
fn appends_go_to_the_end_wherever_it_is() {
    let mut host = Host::new();
    let ino = host.make(create(ROOT, "a", 0o644)).ino;
    for part in ["one ", "two"] {
        let data = Bytes::from(part);
        host.make(Operation::Write { ino, offset: 0, append: true, data });
    }
    assert_eq!(host.read(ino, 0, 10), "one two");
}

#[test]
fn every_change_of_contents_moves_mtime_and_ctime() {
    let mut host = Host::new();
    let ino = host.make(create(ROOT, "a", 0o644)).ino;
    let mut last = host.getattr(ino).mtime;
    let operations = [
        write(ino, 0, "x"),
        write(ino, 0, "x"),
        truncate(ino, 5),
        truncate(ino, 5),
        truncate(ino, 0),
    ];
    for operation in operations {
        let attributes = host.make(operation);
        assert!(attributes.mtime > last);
        assert_eq!(attributes.mtime, attributes.ctime);
        last = attributes.mtime;
    }
    assert_eq!(host.make(write(ino, 0, "")).mtime, last, "nothing was written");
}

#[test]
fn atime_moves_when_asked_for() {
    let mut host = Host::new();
    let ino = host.make(create(ROOT, "a", 0o644)).ino;
    let link = host.make(symlink(ROOT, "l", "a")).ino;
    let read = |length, touch| Operation::Read { ino, offset: 0, length, touch };
    let list =
        |touch| Operation::Readdir { ino: ROOT, cookie: 0, bytes_max: 99, plus: false, touch };
    for (ino, operation, moves) in [
        (ino, read(1, Touch::Always), true),
        (ino, read(0, Touch::Always), false),
        (ino, read(1, Touch::Never), false),
        (link, Operation::Readlink { ino: link, touch: Touch::Always }, true),
        (link, Operation::Readlink { ino: link, touch: Touch::Never }, false),
        (ROOT, list(Touch::Never), false),
        (ROOT, list(Touch::Always), true),
    ] {
        let before = host.getattr(ino);
        host.root(operation).expect("read");
        let now = host.now();
        let after = host.getattr(ino);
        assert_eq!(after.atime, if moves { now } else { before.atime });
        assert_eq!((after.mtime, after.ctime), (before.mtime, before.ctime));
    }
}

#[test]
fn relative_atime_moves_once_after_a_change_and_once_a_day() {
    const HOUR: u64 = 3600 * 1_000_000_000;
    let mut host = Host::new();
    let ino = host.make(create(ROOT, "a", 0o644)).ino;
    let dir = host.make(mkdir(ROOT, "d", 0o755)).ino;
    let symlink = host.make(symlink(ROOT, "l", "a")).ino;
    let touch = Touch::Relative;
    let read = Operation::Read { ino, offset: 0, length: 9, touch };
    let list = Operation::Readdir { ino: dir, cookie: 0, bytes_max: 99, plus: false, touch };
    let moves = |host: &mut Host, ino, operation: &Operation| {
        let before = host.getattr(ino);
        host.root(operation.clone()).expect("read");
        let (now, after) = (host.now(), host.getattr(ino));
        assert_eq!((before.mtime, before.ctime), (after.mtime, after.ctime));
        assert!(after.atime == before.atime || after.atime == now);
        after.atime != before.atime
    };
    let changed = setattr(ino, SetAttributes { mode: Some(0o600), ..SetAttributes::default() });
    for (ino, operation, change) in [
        (ino, read.clone(), write(ino, 0, "x")),
        (ino, read.clone(), changed),
        (dir, list, create(dir, "new", 0o644)),
        (symlink, Operation::Readlink { ino: symlink, touch }, link(symlink, ROOT, "l2")),
    ] {
        host.make(change);
        assert!(moves(&mut host, ino, &operation), "{operation:?}: not read since it changed");
        assert!(!moves(&mut host, ino, &operation), "{operation:?}: read since");
        host.time += 23 * HOUR;
        assert!(!moves(&mut host, ino, &operation), "{operation:?}: a day has not gone by");
        host.time += HOUR;
        assert!(moves(&mut host, ino, &operation), "{operation:?}: a day has gone by");
    }
    host.make(write(ino, 0, "y"));
    let nothing = Operation::Read { ino, offset: 0, length: 0, touch };
    assert!(!moves(&mut host, ino, &nothing), "nothing was read");
    assert_eq!(errno(host.call(&user(9, 9, &[]), read.clone())), Errno::EACCES);
    assert!(moves(&mut host, ino, &read), "a read that is refused moves nothing");
}

#[test]
fn operations_of_older_mounts_mean_the_same() {
    for (touch, byte) in [(Touch::Never, 0), (Touch::Always, 1), (Touch::Relative, 2)] {
        let operation = Operation::Readlink { ino: Ino(7), touch };
        let call = bftfs_fs::Call { credentials: super::harness::root(), operation };
        assert_eq!(&call.encode()[..], [0, 0, 0, 4, 7, byte], "`touch` was a boolean");
    }
}

#[test]
fn times_are_kept_to_the_nanosecond_also_before_1970() {
    let mut host = Host::new();
    let ino = host.make(create(ROOT, "a", 0o644)).ino;
    let old = Time { sec: -1, nsec: 999_999_999 };
    let set = SetAttributes {
        atime: Some(SetTime::Now),
        mtime: Some(SetTime::At(old)),
        ..SetAttributes::default()
    };
    let attributes = host.make(setattr(ino, set));
    assert_eq!((attributes.atime, attributes.mtime), (host.now(), old));
    assert_eq!(attributes.ctime, host.now());
    let odd = Some(SetTime::At(Time { sec: 0, nsec: 1_000_000_000 }));
    let set = SetAttributes { atime: odd, ..SetAttributes::default() };
    assert_eq!(errno(host.root(setattr(ino, set))), Errno::EINVAL);
}

#[test]
fn the_agreed_quota_is_kept() {
    let small = FileSystem { root_mode: 0o777, ..FileSystem::new(100_000, 4) };
    let mut host = Host::with(small);
    let a = host.make(create(ROOT, "a", 0o644)).ino;
    assert_eq!(host.statistics().used_bytes, 65, "a name is 64 bytes and its own");
    assert_eq!(errno(host.root(write(a, 0, vec![1; 99_936]))), Errno::ENOSPC);
    assert_eq!(host.getattr(a).size, 0, "all or nothing");
    host.make(write(a, 0, vec![1; 99_935]));
    assert_eq!(host.statistics().used_bytes, 100_000);
    host.make(write(a, 0, vec![2; 99_935]));
    assert_eq!(errno(host.root(create(ROOT, "b", 0o644))), Errno::ENOSPC);
    host.make(truncate(a, 1 << 50));
    host.make(truncate(a, 10));
    host.make(create(ROOT, "b", 0o644));
    host.make(symlink(ROOT, "c", "target"));
    assert_eq!(errno(host.root(create(ROOT, "d", 0o644))), Errno::ENOSPC, "no inode left");
    for name in ["a", "b", "c"] {
        host.root(unlink(ROOT, name)).expect("removed");
    }
    let statistics = host.statistics();
    assert_eq!((statistics.used_bytes, statistics.used_inodes), (0, 1));
    assert_eq!((statistics.capacity_bytes, statistics.capacity_inodes), (100_000, 4));
}
