//! Parts of files: seeking data and holes, allocating, punching, zeroing, copying.

use bftfs_fs::{
    Allocation, COPY_BYTES_MAX, Errno, FileSystem, FileType, Ino, Operation, Outcome, ROOT, Reply,
    SetAttributes, Sought, Touch,
};

use super::harness::{
    Host, chmod, create, errno, mkdir, mknod, root, setattr, truncate, user, write,
};

const BLOCK: u64 = 32 << 10;
const MOST: u64 = i64::MAX as u64;
const RESERVE: Allocation = Allocation::Reserve { keep_size: false };
const ZERO: Allocation = Allocation::Zero { keep_size: false };

fn seek(ino: Ino, offset: u64, sought: Sought) -> Operation {
    Operation::Seek { ino, offset, sought }
}

fn allocate(ino: Ino, offset: u64, length: u64, how: Allocation) -> Operation {
    Operation::Allocate { ino, offset, length, how }
}

fn copy((ino, offset): (Ino, u64), (target, target_offset): (Ino, u64), length: u64) -> Operation {
    Operation::Copy { ino, offset, target, target_offset, length, touch: Touch::Never }
}

fn count(outcome: Outcome) -> u32 {
    match outcome {
        Ok(Reply::Written { count, .. }) => count,
        other => panic!("{other:?}"),
    }
}

/// A file with these contents.
fn file(host: &mut Host, name: &str, contents: &[u8]) -> Ino {
    let ino = host.make(create(ROOT, name, 0o644)).ino;
    host.make(write(ino, 0, contents.to_vec()));
    ino
}

#[test]
fn data_and_holes_are_found() {
    use Sought::{Data, Hole};
    let mut host = Host::new();
    let ino = host.make(create(ROOT, "a", 0o644)).ino;
    host.make(write(ino, BLOCK + 100, vec![1; 10]));
    host.make(write(ino, 5 * BLOCK, vec![1; 70_000]));
    host.make(truncate(ino, 1 << 40));
    let last = 5 * BLOCK + 70_000;
    for (offset, data, hole) in [
        (0, BLOCK, 0),
        (BLOCK, BLOCK, BLOCK + 110),
        (BLOCK + 109, BLOCK + 109, BLOCK + 110),
        (BLOCK + 110, 5 * BLOCK, BLOCK + 110),
        (5 * BLOCK + 1, 5 * BLOCK + 1, last),
        (6 * BLOCK, 6 * BLOCK, last),
    ] {
        assert_eq!(host.root(seek(ino, offset, Data)), Ok(Reply::Found(data)), "from {offset}");
        assert_eq!(host.root(seek(ino, offset, Hole)), Ok(Reply::Found(hole)), "from {offset}");
    }
    assert_eq!(errno(host.root(seek(ino, last, Data))), Errno::ENXIO, "holes up to the end");
    for offset in [1 << 40, MOST, u64::MAX] {
        for sought in [Data, Hole] {
            assert_eq!(errno(host.root(seek(ino, offset, sought))), Errno::ENXIO);
        }
    }
    host.make(truncate(ino, 7 * BLOCK));
    assert_eq!(host.root(seek(ino, 5 * BLOCK, Hole)), Ok(Reply::Found(7 * BLOCK)), "the end");
    assert_eq!(errno(host.root(seek(ROOT, 0, Data))), Errno::EISDIR);
    let fifo = host.make(mknod(ROOT, "p", FileType::Fifo)).ino;
    assert_eq!(errno(host.root(seek(fifo, 0, Data))), Errno::EINVAL);
    for (mode, allowed) in [(0o600, false), (0o604, true), (0o602, true)] {
        host.make(chmod(ino, mode));
        let found = host.call(&user(9, 9, &[]), seek(ino, 0, Hole));
        assert_eq!(found, if allowed { Ok(Reply::Found(0)) } else { Err(Errno::EACCES) });
    }
}

#[test]
fn a_search_for_a_hole_is_bounded_and_goes_on() {
    let mut host = Host::new();
    let ino = host.make(create(ROOT, "a", 0o644)).ino;
    for index in 0..65_u64 {
        host.order(write(ino, index << 20, vec![1; 1 << 20])).expect("written");
    }
    let found = host.root(seek(ino, 5, Sought::Hole));
    assert_eq!(found, Ok(Reply::Reached(64 << 20)));
    assert_eq!(host.root(seek(ino, 64 << 20, Sought::Hole)), Ok(Reply::Found(65 << 20)));
    host.make(truncate(ino, 64 << 20));
    let found = host.root(seek(ino, 5, Sought::Hole));
    assert_eq!(found, Ok(Reply::Found(64 << 20)), "the end, just at the bound");
}

#[test]
fn an_allocation_grows_the_file_and_sets_nothing_aside() {
    let mut host = Host::with(FileSystem { root_mode: 0o777, ..FileSystem::new(100_000, 9) });
    let ino = file(&mut host, "a", b"data");
    let used = host.statistics().used_bytes;
    let keep = Allocation::Reserve { keep_size: true };
    host.root(allocate(ino, 2, 90_000, keep)).expect("there is room");
    assert_eq!(host.getattr(ino).size, 4);
    host.root(allocate(ino, 2, 90_000, RESERVE)).expect("there is room");
    assert_eq!(host.getattr(ino).size, 90_002);
    host.root(allocate(ino, 0, 100, RESERVE)).expect("there is room");
    assert_eq!(host.getattr(ino).size, 90_002, "never shorter");
    assert_eq!(host.read(ino, 0, 8), &b"data\0\0\0\0"[..]);
    assert_eq!(host.statistics().used_bytes, used);
    for how in [RESERVE, keep, ZERO] {
        assert_eq!(errno(host.root(allocate(ino, 0, 100_000, how))), Errno::ENOSPC);
        assert_eq!(errno(host.root(allocate(ino, 0, 0, how))), Errno::EINVAL);
        assert_eq!(errno(host.root(allocate(ROOT, 0, 1, how))), Errno::EISDIR);
    }
    assert_eq!(host.getattr(ino).size, 90_002, "refused whole");
}

#[test]
fn ranges_end_at_the_largest_size() {
    let mut host = Host::new();
    let ino = file(&mut host, "a", b"data");
    for how in [RESERVE, Allocation::Punch, ZERO] {
        for (offset, length) in [(MOST, 1), (1, MOST), (u64::MAX, u64::MAX)] {
            assert_eq!(errno(host.root(allocate(ino, offset, length, how))), Errno::EFBIG);
        }
    }
    host.root(allocate(ino, 0, MOST, Allocation::Punch)).expect("punched");
    assert_eq!((host.getattr(ino).size, host.getattr(ino).blocks), (4, 0));
    let from = file(&mut host, "b", b"data");
    assert_eq!(errno(host.root(copy((from, 0), (ino, MOST), 1))), Errno::EFBIG);
    assert_eq!(count(host.root(copy((from, 0), (ino, MOST - 1), 4))), 1);
    assert_eq!(host.read(ino, MOST - 1, 9), "d");
}

#[test]
fn a_punched_hole_is_zeros_and_takes_no_space() {
    let mut host = Host::new();
    let contents = vec![7; 3 * 32_768 + 1000];
    let size = contents.len() as u64;
    for (offset, end, held) in [
        (10, 20, size),
        (0, BLOCK, size - BLOCK),
        (100, BLOCK, size - BLOCK + 100),
        (BLOCK - 5, 2 * BLOCK + 5, size - BLOCK - 5),
        (5, size - 5, 5 + 1000),
        (3 * BLOCK, size + 99, 3 * BLOCK),
        (3 * BLOCK + 9, MOST, 3 * BLOCK + 9),
        (0, 9 * BLOCK, 0),
        (size, size + 1, size),
    ] {
        let ino = file(&mut host, "a", &contents);
        let before = host.statistics().used_bytes;
        host.root(allocate(ino, offset, end - offset, Allocation::Punch)).expect("punched");
        let (now, after) = (host.now(), host.getattr(ino));
        assert_eq!(after.size, size);
        assert_eq!(before - host.statistics().used_bytes, size - held, "{offset}..{end}");
        assert_eq!((after.mtime, after.ctime), (now, now));
        let mut expected = contents.clone();
        let at = |offset: u64| usize::try_from(offset.min(size)).expect("small");
        expected[at(offset)..at(end)].fill(0);
        assert_eq!(host.read(ino, 0, 1 << 20), expected, "{offset}..{end}");
    }
}

#[test]
fn a_big_hole_is_punched_bit_by_bit() {
    let mut host = Host::new();
    let ino = host.make(create(ROOT, "a", 0o644)).ino;
    host.checked = false;
    for index in 0..1000 {
        host.order(write(ino, index * BLOCK, "xyz")).expect("written");
    }
    host.checked = true;
    let (end, mut from, mut steps) = (1000 * BLOCK, 1, Vec::new());
    loop {
        match host.root(allocate(ino, from, end - from, ZERO)) {
            Ok(Reply::Reached(reached)) => steps.push(reached / BLOCK),
            other => break assert_eq!(other, Ok(Reply::Done)),
        }
        from = steps.last().expect("one came") * BLOCK;
        let kept = host.read(ino, from, 3);
        assert_eq!(kept, "xyz", "not yet");
    }
    assert_eq!(steps, [257, 513, 769]);
    assert_eq!(host.read(ino, 0, 5), &b"x\0\0\0\0"[..]);
    assert_eq!((host.getattr(ino).size, host.getattr(ino).blocks), (end, 1));
}

#[test]
fn a_zeroed_range_grows_the_file_unless_told_not_to() {
    let mut host = Host::new();
    let ino = file(&mut host, "a", b"0123456789");
    host.root(allocate(ino, 3, 4, ZERO)).expect("zeroed");
    assert_eq!(host.read(ino, 0, 20), &b"012\0\0\0\x00789"[..]);
    host.root(allocate(ino, 8, 10, Allocation::Zero { keep_size: true })).expect("zeroed");
    assert_eq!(host.read(ino, 0, 20), &b"012\0\0\0\x007\0\0"[..]);
    host.root(allocate(ino, 8, 4, ZERO)).expect("zeroed");
    assert_eq!(host.read(ino, 0, 20), &b"012\0\0\0\x007\0\0\0\0"[..]);
}

#[test]
fn a_copy_is_what_was_there_holes_included() {
    let mut host = Host::new();
    let from = host.make(create(ROOT, "from", 0o644)).ino;
    host.make(write(from, 100, vec![1; 40_000]));
    host.make(write(from, 5 * BLOCK, vec![2; 10]));
    let size = host.getattr(from).size;
    let whole = host.read(from, 0, 1 << 20);
    for shift in [0, 1, 5000, BLOCK - 1, BLOCK] {
        let to = file(&mut host, &format!("to-{shift}"), &vec![9; 300_000]);
        assert_eq!(u64::from(count(host.root(copy((from, 0), (to, shift), MOST)))), size);
        let mut expected = vec![9; 300_000];
        let at = usize::try_from(shift).expect("small");
        expected[at..at + whole.len()].copy_from_slice(&whole);
        assert_eq!(host.read(to, 0, 1 << 20), expected, "shifted by {shift}");
    }
    let to = host.make(create(ROOT, "exact", 0o6777)).ino;
    host.root(copy((from, 0), (to, 0), size)).expect("copied");
    let now = host.now();
    let (source, target) = (host.getattr(from), host.getattr(to));
    assert_eq!((target.size, target.blocks), (source.size, source.blocks), "as sparse");
    assert_eq!((target.mtime, target.ctime), (now, now));
}

#[test]
fn a_copy_ends_with_the_source_or_after_a_mebibyte() {
    let mut host = Host::new();
    let from = file(&mut host, "from", b"0123456789");
    let to = host.make(create(ROOT, "to", 0o644)).ino;
    let before = host.getattr(to);
    for offset in [10, 11, u64::MAX] {
        assert_eq!(count(host.root(copy((from, offset), (to, 0), 5))), 0, "nothing behind it");
    }
    assert_eq!(count(host.root(copy((from, 0), (to, 0), 0))), 0);
    assert_eq!(host.getattr(to), before, "nothing was copied");
    assert_eq!(count(host.root(copy((from, 7), (to, 2), 9))), 3);
    assert_eq!(host.read(to, 0, 9), &b"\0\x00789"[..]);
    host.make(truncate(from, 1 << 40));
    assert_eq!(u64::from(count(host.root(copy((from, 0), (to, 0), 1 << 40)))), COPY_BYTES_MAX);
}

#[test]
fn a_copy_within_a_file_does_not_overlap() {
    let mut host = Host::new();
    let ino = file(&mut host, "a", b"0123456789");
    for (offset, target, length) in [(0, 3, 4), (3, 0, 4), (2, 2, 1), (0, 9, 99)] {
        let error = errno(host.root(copy((ino, offset), (ino, target), length)));
        assert_eq!(error, Errno::EINVAL, "{offset} to {target}");
    }
    assert_eq!(count(host.root(copy((ino, 6), (ino, 2), 99))), 4);
    assert_eq!(host.read(ino, 0, 20), "0167896789");
    assert_eq!(count(host.root(copy((ino, 0), (ino, 10), 10))), 10);
    assert_eq!(host.read(ino, 0, 30), "01678967890167896789");
}

#[test]
fn a_copy_needs_room_and_rights() {
    let mut host = Host::with(FileSystem { root_mode: 0o777, ..FileSystem::new(100_000, 9) });
    let from = file(&mut host, "from", &[1; 60_000]);
    let to = file(&mut host, "to", &[2; 100]);
    assert_eq!(errno(host.root(copy((from, 0), (to, 0), 60_000))), Errno::ENOSPC);
    assert_eq!(host.read(to, 0, 200), vec![2; 100], "all or nothing");
    let alice = user(1, 1, &[]);
    for (source, target, allowed) in
        [(0o604, 0o602, true), (0o600, 0o602, false), (0o604, 0o604, false)]
    {
        host.make(chmod(from, source));
        host.make(chmod(to, target));
        let outcome = host.call(&alice, copy((from, 0), (to, 0), 9));
        assert_eq!(outcome.is_ok(), allowed, "{source:o} {target:o}: {outcome:?}");
    }
    let dir = host.make(mkdir(ROOT, "d", 0o777)).ino;
    assert_eq!(errno(host.root(copy((dir, 0), (to, 0), 1))), Errno::EISDIR);
    assert_eq!(errno(host.root(copy((from, 0), (dir, 0), 1))), Errno::EISDIR);
    let read = |touch| Operation::Copy {
        ino: from,
        offset: 0,
        target: to,
        target_offset: 0,
        length: 9,
        touch,
    };
    for (touch, moves) in [
        (Touch::Never, false),
        (Touch::Relative, true),
        (Touch::Relative, false),
        (Touch::Always, true),
    ] {
        host.root(read(touch)).expect("copied");
        let now = host.now();
        assert_eq!(host.getattr(from).atime == now, moves, "{touch:?}");
    }
}

#[test]
fn programs_lose_their_rights_when_parts_change() {
    let mut host = Host::new();
    let alice = user(1, 1, &[]);
    let ino = file(&mut host, "a", b"contents");
    let from = file(&mut host, "b", b"contents");
    let cause = [
        allocate(ino, 0, 1, RESERVE),
        allocate(ino, 0, 1, Allocation::Punch),
        allocate(ino, 0, 1, ZERO),
        copy((from, 0), (ino, 0), 1),
    ];
    for operation in cause {
        for (who, mode) in [(&root(), 0o6777), (&alice, 0o777)] {
            host.make(setattr(
                ino,
                SetAttributes { mode: Some(0o6777), ..SetAttributes::default() },
            ));
            host.call(who, operation.clone()).expect("changed");
            assert_eq!(host.getattr(ino).mode, mode, "{operation:?}");
        }
        host.make(chmod(ino, 0o644));
        assert_eq!(errno(host.call(&alice, operation)), Errno::EACCES);
    }
}
