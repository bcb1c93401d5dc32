//! Locks of ranges of bytes: who holds them, who waits, and how that ends.

use bftfs_fs::{
    Call, Errno, FILE_LOCKS_MAX, Ino, Lock, LockKind, Operation, Outcome, ROOT, Reply,
    SESSION_LOCKS_MAX, SESSION_WAITS_MAX, check, decode_outcome, nudged_file,
};
use bftfs_proto::Tree;
use bftfs_proto::service::Service;
use bftfs_proto::types::SessionId;
use bftfs_state_memory::Memory;

use super::harness::{Host, chmod, create, errno, mkdir, root, unlink, unlink_kept, user};
use LockKind::{Read, Unlock, Write};

const END: u64 = i64::MAX as u64;

/// An owner: the number of its session and its own.
type Owner = (u64, u64);

const A: Owner = (1, 7);
const B: Owner = (1, 8);
/// Another mount may know its owners by the same numbers.
const C: Owner = (2, 7);

fn lock(owner: Owner, kind: LockKind, start: u64, end: u64) -> Lock {
    Lock { start, end, kind, owner: owner.1, pid: 100 }
}

struct Locks {
    host: Host,
    ino: Ino,
}

impl Locks {
    fn new() -> Self {
        let mut host = Host::new();
        let ino = host.make(create(ROOT, "f", 0o644)).ino;
        Self { host, ino }
    }

    fn ask(&mut self, owner: Owner, operation: Operation) -> Outcome {
        self.host.session = SessionId(owner.0);
        self.host.root(operation)
    }

    fn set(&mut self, owner: Owner, kind: LockKind, start: u64, end: u64) -> Outcome {
        let (ino, lock) = (self.ino, lock(owner, kind, start, end));
        self.ask(owner, Operation::SetLock { ino, lock, wait: false })
    }

    fn take(&mut self, owner: Owner, kind: LockKind, start: u64, end: u64) {
        self.set(owner, kind, start, end).expect("nobody is in the way");
    }

    /// The same without looking at the whole state, for when there are many.
    fn order(&mut self, owner: Owner, kind: LockKind, start: u64, end: u64) {
        let operation =
            Operation::SetLock { ino: self.ino, lock: lock(owner, kind, start, end), wait: false };
        self.host.session = SessionId(owner.0);
        let outcome = self.host.execute(&Call { credentials: root(), operation }.encode());
        assert_eq!(decode_outcome(&outcome), Ok(HELD));
    }

    fn wait(&mut self, owner: Owner, kind: LockKind, start: u64, end: u64) -> Outcome {
        let (ino, lock) = (self.ino, lock(owner, kind, start, end));
        self.ask(owner, Operation::SetLock { ino, lock, wait: true })
    }

    fn cancel(&mut self, owner: Owner, kind: LockKind, start: u64, end: u64) -> Outcome {
        let (ino, lock) = (self.ino, lock(owner, kind, start, end));
        self.ask(owner, Operation::CancelLock { ino, lock })
    }

    fn release(&mut self, owner: Owner) {
        let operation = Operation::ReleaseLocks { ino: self.ino, owner: owner.1 };
        assert_eq!(self.ask(owner, operation), Ok(Reply::Done));
    }

    /// The sessions that the last operation nudged, about the file.
    fn nudged(&self) -> Vec<u64> {
        let nudges = self.host.nudges.iter();
        nudges
            .map(|nudge| {
                assert_eq!(nudged_file(&nudge.about), Some(self.ino));
                nudge.session.0
            })
            .collect()
    }

    /// What is in the way of `owner`.
    fn test(&mut self, owner: Owner, kind: LockKind, start: u64, end: u64) -> Option<Lock> {
        let (ino, lock) = (self.ino, lock(owner, kind, start, end));
        match self.ask(owner, Operation::GetLock { ino, lock }) {
            Ok(Reply::Conflict(found)) => found,
            other => panic!("{other:?}"),
        }
    }

    /// All locks, as somebody without any sees them.
    fn all(&mut self) -> Vec<(LockKind, u64, u64)> {
        let (mut found, mut from) = (Vec::new(), 0);
        while let Some(lock) = self.test((1, 99), Write, from, END) {
            found.push((lock.kind, lock.start, lock.end));
            let Some(next) = lock.end.checked_add(1).filter(|next| *next <= END) else { break };
            from = next;
        }
        found
    }
}

/// The owner has it, and so has some lock of the file.
const HELD: Outcome = Ok(Reply::Locked { any: true });

#[test]
fn locks_to_read_share_and_locks_to_write_exclude() {
    let mut locks = Locks::new();
    locks.take(A, Read, 0, 9);
    for other in [B, C] {
        locks.take(other, Read, 5, 20);
        assert_eq!(errno(locks.set(other, Write, 9, 30)), Errno::EAGAIN);
        locks.take(other, Write, 21, 30);
        assert_eq!(errno(locks.set(A, Read, 21, 21)), Errno::EAGAIN);
        locks.release(other);
    }
    locks.take(A, Write, 0, END);
    assert_eq!(errno(locks.set(C, Read, 100, 100)), Errno::EAGAIN);
    assert_eq!(locks.set(A, Read, 0, END), HELD, "nobody is in his own way");
    locks.take(C, Read, 100, 100);
}

#[test]
fn an_owner_has_one_kind_of_lock_at_each_byte() {
    let mut locks = Locks::new();
    locks.take(A, Write, 10, 19);
    locks.take(A, Write, 20, 29);
    assert_eq!(locks.all(), [(Write, 10, 29)], "what touches is one lock");
    locks.take(A, Read, 15, 17);
    assert_eq!(locks.all(), [(Write, 10, 14), (Read, 15, 17), (Write, 18, 29)]);
    locks.take(A, Write, 15, 17);
    assert_eq!(locks.all(), [(Write, 10, 29)]);
    assert_eq!(locks.set(A, Unlock, 20, 22), HELD, "there is more");
    assert_eq!(locks.all(), [(Write, 10, 19), (Write, 23, 29)]);
    locks.take(A, Read, 0, END);
    assert_eq!(locks.all(), [(Read, 0, END)]);
    assert_eq!(locks.set(A, Unlock, 0, END), Ok(Reply::Locked { any: false }));
    assert_eq!(locks.all(), []);
    assert_eq!(locks.set(A, Unlock, 0, END), Ok(Reply::Locked { any: false }), "twice is fine");
}

#[test]
fn the_first_lock_in_the_way_is_told() {
    let mut locks = Locks::new();
    locks.take(B, Write, 20, 29);
    locks.take(A, Read, 10, 15);
    assert_eq!(locks.test(B, Write, 0, 100), Some(lock(A, Read, 10, 15)));
    assert_eq!(locks.test(B, Read, 0, 100), None, "two may read");
    let strange = Lock { owner: 0, pid: 0, ..lock(A, Read, 10, 15) };
    assert_eq!(locks.test(C, Write, 0, 100), Some(strange), "numbers mean nothing elsewhere");
    assert_eq!(locks.test(C, Write, 16, 19), None);
    assert_eq!(locks.test(A, Unlock, 0, 100), Some(lock(A, Read, 10, 15)), "the own that would go");
    assert_eq!(locks.test(C, Unlock, 0, 100), None);
}

#[test]
fn who_waits_is_served_in_order_when_others_let_go() {
    let mut locks = Locks::new();
    locks.take(A, Write, 0, 9);
    assert_eq!(locks.wait(B, Read, 5, 5), Ok(Reply::Waiting));
    assert_eq!(locks.wait(C, Write, 0, 9), Ok(Reply::Waiting));
    assert_eq!(locks.wait((2, 9), Read, 9, 9), Ok(Reply::Waiting));
    assert_eq!(locks.wait(B, Read, 5, 5), Ok(Reply::Waiting), "it keeps its place");
    locks.take(A, Unlock, 0, 9);
    assert_eq!(locks.all(), [(Read, 5, 5), (Read, 9, 9)], "whoever fits passes one who does not");
    assert_eq!(locks.wait(B, Read, 5, 5), HELD, "asking again tells");
    assert_eq!(locks.wait(C, Write, 0, 9), Ok(Reply::Waiting));
    locks.release(B);
    locks.take((2, 9), Unlock, 9, 9);
    assert_eq!(locks.wait(C, Write, 0, 9), HELD);
    assert_eq!(locks.all(), [(Write, 0, 9)]);
}

#[test]
fn the_sessions_that_get_what_they_waited_for_are_nudged() {
    let mut locks = Locks::new();
    locks.take(A, Write, 0, 9);
    for owner in [B, C, (2, 9)] {
        assert_eq!(locks.wait(owner, Read, 0, 4), Ok(Reply::Waiting));
    }
    assert_eq!(locks.wait((3, 7), Write, 0, 9), Ok(Reply::Waiting));
    assert_eq!(locks.nudged(), [], "nobody got anything");
    locks.take(A, Unlock, 5, 9);
    assert_eq!(locks.nudged(), []);
    locks.take(A, Read, 0, 4);
    assert_eq!(locks.nudged(), [1, 2], "each session once, the own one too: others of it wait");
    assert_eq!(locks.wait(C, Read, 0, 4), HELD);
    assert_eq!(locks.nudged(), [], "who asks is answered");
    locks.host.close(SessionId(1));
    assert_eq!(locks.nudged(), [], "others hold it");
    locks.host.close(SessionId(2));
    assert_eq!(locks.nudged(), [3], "the end of a session lets go");
    assert_eq!(locks.wait(C, Write, 0, 0), Ok(Reply::Waiting));
    assert_eq!(locks.cancel(C, Write, 0, 0), Ok(Reply::Done));
    locks.release((3, 7));
    assert_eq!(locks.nudged(), [], "who gave up does not wait");
}

#[test]
fn a_lock_to_write_that_becomes_one_to_read_lets_readers_in() {
    let mut locks = Locks::new();
    locks.take(A, Write, 0, 9);
    assert_eq!(locks.wait(C, Read, 0, 9), Ok(Reply::Waiting));
    locks.take(A, Read, 0, 9);
    assert_eq!(locks.wait(C, Read, 0, 9), HELD);
}

#[test]
fn one_that_is_granted_may_let_in_who_came_before() {
    let mut locks = Locks::new();
    locks.take(C, Write, 0, 7);
    assert_eq!(locks.wait(A, Write, 7, 9), Ok(Reply::Waiting));
    assert_eq!(locks.wait(B, Read, 0, 7), Ok(Reply::Waiting));
    assert_eq!(locks.wait(A, Read, 0, 9), Ok(Reply::Waiting));
    // A gets its lock to write, which keeps B out, and then the one to read in its place.
    locks.release(C);
    assert_eq!(locks.cancel(B, Read, 0, 7), HELD, "nobody is in its way any more");
}

#[test]
fn whoever_gives_up_waiting_gets_nothing_unless_he_has_it() {
    let mut locks = Locks::new();
    locks.take(A, Write, 0, 9);
    for owner in [B, C] {
        assert_eq!(locks.wait(owner, Write, 0, 4), Ok(Reply::Waiting));
    }
    assert_eq!(locks.cancel(B, Write, 0, 4), Ok(Reply::Done));
    assert_eq!(locks.cancel(B, Write, 0, 4), Ok(Reply::Done), "twice is fine");
    locks.release(A);
    assert_eq!(locks.all(), [(Write, 0, 4)]);
    assert_eq!(locks.cancel(C, Write, 0, 4), HELD, "it was granted before");
    assert_eq!(locks.all(), [(Write, 0, 4)]);
    locks.release(C);
    assert_eq!(locks.cancel(C, Write, 0, 4), Ok(Reply::Done));
}

#[test]
fn a_wait_that_would_never_end_is_refused() {
    let mut locks = Locks::new();
    let files = ["g", "h"].map(|name| locks.host.make(create(ROOT, name, 0o644)).ino);
    let on = [locks.ino, files[0], files[1]];
    let owners = [A, B, C];
    for (ino, owner) in on.into_iter().zip(owners) {
        locks.ino = ino;
        locks.take(owner, Write, 0, 0);
    }
    // A waits for B, and B for C, over two sessions and three files.
    locks.ino = on[1];
    assert_eq!(locks.wait(A, Read, 0, 0), Ok(Reply::Waiting));
    locks.ino = on[2];
    assert_eq!(locks.wait(B, Write, 0, 0), Ok(Reply::Waiting));
    locks.ino = on[0];
    assert_eq!(errno(locks.wait(C, Write, 0, 0)), Errno::EDEADLK);
    assert_eq!(
        errno(locks.set(C, Write, 0, 0)),
        Errno::EAGAIN,
        "who does not wait is in no circle"
    );
    assert_eq!(locks.wait((2, 9), Write, 0, 0), Ok(Reply::Waiting), "a stranger may wait for A");
    locks.ino = on[2];
    locks.release(C);
    assert_eq!(locks.wait(B, Write, 0, 0), HELD, "the circle is none any more");
}

#[test]
fn a_circle_that_closes_while_one_waits_is_found_when_he_asks_again() {
    let mut locks = Locks::new();
    let other = locks.host.make(create(ROOT, "g", 0o644)).ino;
    let first = locks.ino;
    // Two threads of A: one waits for B, while the other gets what C had and B waits for.
    locks.take(B, Write, 0, 0);
    locks.ino = other;
    locks.take(C, Write, 0, 0);
    assert_eq!(locks.wait(A, Write, 0, 0), Ok(Reply::Waiting));
    assert_eq!(locks.wait(B, Write, 0, 0), Ok(Reply::Waiting));
    locks.ino = first;
    assert_eq!(locks.wait(A, Write, 0, 0), Ok(Reply::Waiting));
    locks.ino = other;
    locks.release(C);
    assert_eq!(errno(locks.wait(B, Write, 0, 0)), Errno::EDEADLK);
    locks.release(A);
    assert_eq!(locks.all(), [], "B does not wait any more");
}

#[test]
fn the_end_of_a_session_lets_go_of_its_locks_and_waits() {
    let mut locks = Locks::new();
    locks.take(A, Write, 0, 9);
    assert_eq!(locks.wait(C, Write, 0, 0), Ok(Reply::Waiting));
    assert_eq!(locks.wait(B, Write, 0, 0), Ok(Reply::Waiting));
    locks.host.close(SessionId(3));
    assert_eq!(locks.all(), [(Write, 0, 9)]);
    locks.host.close(SessionId(1));
    assert_eq!(locks.all(), [(Write, 0, 0)]);
    assert_eq!(locks.wait(C, Write, 0, 0), HELD);
    locks.host.close(SessionId(2));
    assert_eq!(locks.host.tree.len(), 5, "superblock, root and the file with its two keys");
}

#[test]
fn a_session_with_locks_on_many_files_ends_bit_by_bit_but_at_once_for_the_first() {
    let mut locks = Locks::new();
    locks.host.checked = false;
    let files: Vec<Ino> = (0..200)
        .map(|file| {
            locks.ino = locks.host.make(create(ROOT, &format!("f{file}"), 0o644)).ino;
            locks.take(A, Write, 0, 9);
            locks.ino
        })
        .collect();
    locks.host.checked = true;
    locks.host.close(SessionId(1));
    let free = |locks: &mut Locks| {
        let free = files.iter().filter(|ino| {
            locks.ino = **ino;
            locks.all().is_empty()
        });
        free.count()
    };
    // To look changes nothing, so nothing is swept by it.
    let first = free(&mut locks);
    assert!((10..100).contains(&first), "{first}");
    for _ in 0..8 {
        locks.host.root(Operation::Null).expect("done");
    }
    assert_eq!(free(&mut locks), 200);
}

#[test]
fn locks_go_with_their_file() {
    let mut locks = Locks::new();
    let keys = locks.host.tree.len();
    locks.take(A, Write, 0, 9);
    assert_eq!(locks.wait(C, Write, 0, 0), Ok(Reply::Waiting));
    locks.host.session = SessionId(2);
    locks.host.root(unlink_kept(ROOT, "f")).expect("removed");
    assert_eq!(locks.all(), [(Write, 0, 9)], "it is still open");
    locks.host.close(SessionId(2));
    assert_eq!(errno(locks.wait(C, Write, 0, 0)), Errno::ESTALE);
    assert_eq!(locks.cancel(C, Write, 0, 0), Ok(Reply::Done));
    locks.release(A);
    assert_eq!(locks.host.tree.len(), keys - 3, "nothing is left of it");
    let gone = locks.host.make(create(ROOT, "g", 0o644)).ino;
    locks.ino = gone;
    locks.take(A, Read, 0, 0);
    locks.host.root(unlink(ROOT, "g")).expect("removed");
    assert_eq!(locks.host.tree.len(), keys - 3);
}

#[test]
fn only_those_who_may_use_a_file_lock_it() {
    let mut locks = Locks::new();
    let (ino, lock) = (locks.ino, lock(A, Write, 0, 0));
    let set = Operation::SetLock { ino, lock, wait: false };
    let get = Operation::GetLock { ino, lock };
    let private = locks.host.make(create(ROOT, "private", 0o600)).ino;
    let stranger = user(7, 7, &[]);
    assert_eq!(locks.host.call(&stranger, set.clone()), HELD, "whoever may read it");
    assert_eq!(locks.host.call(&stranger, get), Ok(Reply::Conflict(None)));
    for operation in [
        Operation::SetLock { ino: private, lock, wait: true },
        Operation::GetLock { ino: private, lock },
    ] {
        assert_eq!(errno(locks.host.call(&stranger, operation)), Errno::EACCES);
    }
    let back = Lock { kind: Unlock, ..lock };
    let unlock = Operation::SetLock { ino, lock: back, wait: false };
    locks.host.make(chmod(ino, 0o600));
    assert_eq!(errno(locks.host.call(&stranger, set)), Errno::EACCES, "a right that was taken");
    let none = Ok(Reply::Locked { any: false });
    assert_eq!(locks.host.call(&stranger, unlock), none, "but whoever has one may give it back");
}

#[test]
fn what_is_no_lock_is_refused() {
    let mut locks = Locks::new();
    for (start, end) in [(5, 4), (0, END + 1), (u64::MAX, u64::MAX)] {
        for kind in [Read, Write, Unlock] {
            assert_eq!(errno(locks.set(A, kind, start, end)), Errno::EINVAL);
        }
        let (ino, lock) = (locks.ino, lock(A, Read, start, end));
        assert_eq!(errno(locks.ask(A, Operation::GetLock { ino, lock })), Errno::EINVAL);
        assert_eq!(locks.cancel(A, Read, start, end), Ok(Reply::Done));
    }
    assert_eq!(errno(locks.cancel(A, Unlock, 0, 0)), Errno::EINVAL, "nobody waits to unlock");
    locks.ino = locks.host.make(mkdir(ROOT, "d", 0o755)).ino;
    assert_eq!(errno(locks.set(A, Read, 0, 0)), Errno::EISDIR);
    locks.ino = Ino(99);
    assert_eq!(errno(locks.set(A, Read, 0, 0)), Errno::ESTALE);
    assert_eq!(errno(locks.set(A, Unlock, 0, 0)), Errno::ESTALE);
    locks.release(A);
}

#[test]
fn locks_are_bounded_for_each_file_and_session() {
    let mut locks = Locks::new();
    locks.host.checked = false;
    let files = SESSION_LOCKS_MAX / FILE_LOCKS_MAX;
    for file in 0..files {
        locks.ino = locks.host.make(create(ROOT, &format!("f{file}"), 0o644)).ino;
        // Each but the first adds two: itself, and what it splits off.
        locks.order(A, Write, 0, END - 1);
        for at in 1..FILE_LOCKS_MAX as u64 / 2 {
            locks.order(A, Read, 10 * at, 10 * at + 5);
        }
        locks.take(B, Write, END, END);
        assert_eq!(errno(locks.set(C, Read, 10, 10)), Errno::ENOLCK, "the file is full");
        assert_eq!(errno(locks.wait(C, Read, 0, 0)), Errno::ENOLCK);
        assert_eq!(errno(locks.set(A, Unlock, 2, 3)), Errno::ENOLCK, "one would become two");
        locks.take(A, Unlock, 0, 1);
    }
    locks.ino = locks.host.make(create(ROOT, "one more", 0o644)).ino;
    assert_eq!(errno(locks.set(A, Read, 0, 0)), Errno::ENOLCK, "the session is full");
    locks.take(C, Read, 0, 0);
    locks.host.checked = true;
    locks.release(C);
}

#[test]
fn locks_that_the_store_has_damaged_are_missed_and_nobody_panics() {
    let memory = Memory::new();
    let mut locks = Locks::new();
    locks.host.tree = Tree::over(memory.clone());
    locks.host.service.genesis(&mut locks.host.tree);
    locks.ino = locks.host.make(create(ROOT, "f", 0o644)).ino;
    locks.host.checked = false;
    locks.order(A, Read, 0, END);
    for number in 0..300 {
        assert_eq!(locks.wait((2, number), Write, 0, END), Ok(Reply::Waiting));
    }
    locks.host.tree.seal();
    assert_eq!(check(&locks.host.tree), [], "long records are read for that");
    let away: Vec<_> = [11, 10]
        .into_iter()
        .flat_map(|table| locks.host.tree.prefix(&[table]))
        .filter_map(|(_, entry)| entry.away())
        .collect();
    assert_eq!(away.len(), 2, "the waits of session 2, and the file's locks");
    let (ino, claim) = (locks.ino, lock((2, 7), Write, 0, END));
    for digest in away {
        memory.damage(digest);
        for operation in [
            Operation::CancelLock { ino, lock: claim },
            Operation::ReleaseLocks { ino, owner: claim.owner },
            Operation::SetLock { ino, lock: Lock { owner: 999, ..claim }, wait: true },
        ] {
            let mut host = Host { tree: locks.host.tree.clone(), ..Host::new() };
            (host.checked, host.session) = (false, SessionId(2));
            host.execute(&Call { credentials: root(), operation: operation.clone() }.encode());
            assert!(host.tree.missed().is_some(), "{operation:?}");
        }
        let mut host = Host { tree: locks.host.tree.clone(), ..Host::new() };
        host.checked = false;
        host.close(SessionId(2));
        assert!(host.tree.missed().is_some());
    }
}

#[test]
fn waits_are_bounded_for_each_session() {
    let mut locks = Locks::new();
    let [one, two] = ["one", "two"].map(|name| locks.host.make(create(ROOT, name, 0o644)).ino);
    locks.host.checked = false;
    for ino in [one, two] {
        locks.ino = ino;
        locks.take(A, Write, 0, 0);
    }
    for number in 0..SESSION_WAITS_MAX as u64 {
        locks.ino = if number < 600 { one } else { two };
        assert_eq!(locks.wait((2, number), Write, 0, 0), Ok(Reply::Waiting));
    }
    assert_eq!(errno(locks.wait((2, 9999), Write, 0, 0)), Errno::ENOLCK);
    assert_eq!(locks.wait((3, 9999), Write, 0, 0), Ok(Reply::Waiting), "another session may");
    locks.host.checked = true;
    locks.release(A);
    assert_eq!(locks.wait((2, 600), Write, 0, 0), HELD);
}
