//! The volume without a kernel: what it asks of the cluster, and what it does in races.

use std::collections::VecDeque;
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use bftfs_fs::{Call, Operation, Reply, SetAttributes, Sought, access};
use bftfs_mount::volume::{Cluster, Done, Error, Mode, OpenHow, Place, Process, Volume};
use bftfs_proto::client::{Failure, How};
use bytes::Bytes;

use crate::double::Double;

const ROOT: Process = Process { pid: 0, uid: 0, gid: 0 };
const USER: Process = Process { pid: 0, uid: 7, gid: 7 };
const READ: OpenHow = OpenHow { mask: access::READ, truncate: false, exclusive: false };
const BOTH: OpenHow =
    OpenHow { mask: access::READ | access::WRITE, truncate: false, exclusive: true };

/// Holds what it is asked back until it is told to carry it out.
#[derive(Clone, Debug)]
struct Held {
    double: Arc<Double>,
    queue: Arc<Mutex<Queue>>,
}

#[derive(Default)]
struct Queue {
    holding: bool,
    held: VecDeque<(Bytes, How, Done)>,
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queue").field("held", &self.held.len()).finish_non_exhaustive()
    }
}

impl Cluster for Held {
    fn submit(&self, operation: Bytes, how: How, done: Done) {
        let mut queue = self.queue.lock().expect("lock");
        if queue.holding {
            queue.held.push_back((operation, how, done));
        } else {
            drop(queue);
            self.double.submit(operation, how, done);
        }
    }
}

impl Held {
    fn new() -> (Self, Volume<Self>) {
        let held = Self { double: Arc::default(), queue: Arc::default() };
        (held.clone(), Volume::new(held, Mode::RoLookup))
    }

    fn hold(&self, holding: bool) {
        self.queue.lock().expect("lock").holding = holding;
    }

    /// What is held back.
    fn asked(&self) -> Vec<Operation> {
        let queue = self.queue.lock().expect("lock");
        let decode = |(bytes, _, _): &(Bytes, How, Done)| Call::decode(bytes).expect("a call");
        queue.held.iter().map(|held| decode(held).operation).collect()
    }

    /// What is held back, as soon as that is one operation.
    fn wait_for_one(&self) -> Operation {
        let start = Instant::now();
        loop {
            if let [one] = &self.asked()[..] {
                return one.clone();
            }
            assert!(start.elapsed() < Duration::from_secs(10), "nothing comes");
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn take(&self) -> (Bytes, How, Done) {
        self.queue.lock().expect("lock").held.pop_front().expect("something is held")
    }

    /// Carries out the oldest.
    fn carry_out(&self) {
        let (operation, how, done) = self.take();
        self.double.submit(operation, how, done);
    }
}

type Slot<T> = Receiver<Result<T, Error>>;

/// A place for an answer, and what puts it there.
fn slot<T: Send + 'static>() -> (impl FnOnce(Result<T, Error>) + Send, Slot<T>) {
    let (sender, receiver) = mpsc::channel();
    let then = move |result| {
        // A test that failed does not wait.
        let _sent = sender.send(result);
    };
    (then, receiver)
}

fn wait<T>(slot: &Slot<T>) -> Result<T, Error> {
    slot.recv_timeout(Duration::from_secs(10)).expect("an answer")
}

fn call<T: Send + 'static>(
    ask: impl FnOnce(Box<dyn FnOnce(Result<T, Error>) + Send>),
) -> Result<T, Error> {
    let (then, answer) = slot();
    ask(Box::new(then));
    wait(&answer)
}

fn create(volume: &Volume<Held>, name: &[u8]) -> (u64, u64) {
    let (attributes, handle) =
        call(|then| volume.create(ROOT, 1, name, 0o644, BOTH, then)).expect("create");
    (attributes.ino.0, handle)
}

#[test]
fn an_open_that_meets_an_unlink_gets_a_file_that_lives_or_none() {
    let (held, volume) = Held::new();
    let (ino, handle) = create(&volume, b"f");
    volume.release(handle);

    held.hold(true);
    let (then, removed) = slot();
    volume.unlink(ROOT, 1, b"f", then);
    assert!(matches!(held.asked()[..], [Operation::Unlink { keep: false, .. }]));
    let (then, opened) = slot();
    volume.open(ROOT, ino, READ, then);
    assert_eq!(held.asked().len(), 1, "the open waits: the file may go");
    held.hold(false);
    held.carry_out();
    assert_eq!(wait(&removed), Ok(()));
    assert_eq!(wait(&opened), Err(Error::STALE));
    assert_eq!(volume.open_files(), 0);
}

#[test]
fn an_unlink_that_meets_an_open_keeps_the_file_until_it_is_closed() {
    let (held, volume) = Held::new();
    let (ino, handle) = create(&volume, b"f");
    volume.release(handle);

    held.hold(true);
    let (then, opened) = slot();
    volume.open(ROOT, ino, READ, then);
    let (then, removed) = slot();
    volume.unlink(ROOT, 1, b"f", then);
    assert!(matches!(
        held.asked()[..],
        [Operation::Open { .. }, Operation::Unlink { keep: true, .. }]
    ));
    held.hold(false);
    held.carry_out();
    let handle = wait(&opened).expect("open");
    held.carry_out();
    assert_eq!(wait(&removed), Ok(()));
    assert_eq!(call(|then| volume.read(handle, 0, 10, then)), Ok(Bytes::new()));
    held.hold(true);
    volume.release(handle);
    assert!(matches!(&held.asked()[..], [Operation::Release { inos }] if inos.len() == 1));
    held.hold(false);
    held.carry_out();
    let gone = call(|then| volume.getattr(ROOT, ino, then));
    assert_eq!(gone.map(|_| ()), Err(Error::STALE));
}

#[test]
fn what_was_kept_for_nothing_is_released_together() {
    let (held, volume) = Held::new();
    let (_, _open) = create(&volume, b"open");
    for name in [b"a", b"b", b"c"] {
        let (_, handle) = create(&volume, name);
        volume.release(handle);
    }
    held.hold(true);
    let removed = [b"a", b"b", b"c"].map(|name| {
        let (then, removed) = slot();
        volume.unlink(ROOT, 1, name, then);
        removed
    });
    for removed in &removed {
        held.carry_out();
        assert_eq!(wait(removed), Ok(()));
    }
    for count in [1, 2] {
        let releases = held.wait_for_one();
        assert!(matches!(&releases, Operation::Release { inos } if inos.len() == count));
        held.carry_out();
    }
}

#[test]
fn a_sync_waits_for_writes_under_way() {
    let (held, volume) = Held::new();
    let (_, handle) = create(&volume, b"f");
    held.hold(true);
    let (then, written) = slot();
    volume.write(handle, Place::At(0), b"data", then);
    let (then, synced) = slot();
    volume.fsync(handle, then);
    assert!(synced.recv_timeout(Duration::from_millis(20)).is_err(), "not yet");
    held.hold(false);
    held.carry_out();
    assert_eq!(wait(&written), Ok(4));
    assert_eq!(wait(&synced), Ok(()));
    assert_eq!(call(|then| volume.fsync(handle, then)), Ok(()));
}

#[test]
fn failures_of_the_cluster_are_errors_of_calls() {
    let (held, volume) = Held::new();
    held.hold(true);
    for (failure, error) in [
        (Failure::Deadline, Error::TIMEDOUT),
        (Failure::SessionLost, Error::IO),
        (Failure::ResultLost, Error::IO),
    ] {
        let (then, answer) = slot();
        volume.mkdir(ROOT, 1, b"d", 0o755, then);
        let (_, how, done) = held.take();
        assert_eq!(how, How::Ordered);
        done(Err(failure));
        assert_eq!(wait(&answer).map(|_| ()), Err(error));
    }
    let (then, answer) = slot();
    volume.getattr(ROOT, 1, then);
    (held.take().2)(Ok(Bytes::from_static(b"\xff\xff\xff")));
    assert_eq!(wait(&answer).map(|_| ()), Err(Error::IO), "nonsense is no answer");
    assert!(volume.wait_idle(Duration::ZERO));
}

#[test]
fn an_open_file_is_used_with_the_rights_of_who_opened_it() {
    let (_, volume) = Held::new();
    let (ino, handle) = create(&volume, b"f");
    let cut = SetAttributes { size: Some(3), ..SetAttributes::default() };
    let refused = call(|then| volume.setattr(USER, ino, None, cut, then));
    assert_eq!(refused.map(|_| ()), Err(Error::ACCESS));
    let through = call(|then| volume.setattr(USER, ino, Some(handle), cut, then));
    assert_eq!(through.expect("ftruncate").size, 3);
    assert_eq!(call(|then| volume.open(USER, ino, BOTH, then)), Err(Error::ACCESS));
    assert!(call(|then| volume.open(USER, ino, READ, then)).is_ok());
}

#[test]
fn a_copy_between_files_of_two_users_is_left_to_the_kernel() {
    let (_, volume) = Held::new();
    let (ino, handle) = create(&volume, b"f");
    let theirs = call(|then| volume.open(USER, ino, READ, then)).expect("open");
    let copied = call(|then| volume.copy((theirs, 0), (handle, 0), 1, then));
    assert_eq!(copied, Err(Error::XDEV));
}

#[test]
fn a_call_in_steps_ends_if_the_cluster_does_not_get_on() {
    let (held, volume) = Held::new();
    let (_, handle) = create(&volume, b"f");
    held.hold(true);
    let (then, found) = slot();
    volume.seek(handle, 5, Sought::Hole, then);
    let reached = |offset| Ok(bftfs_fs::encode_outcome(&Ok(Reply::Reached(offset))));
    (held.take().2)(reached(9));
    assert!(matches!(held.asked()[..], [Operation::Seek { offset: 9, .. }]));
    assert!(!volume.wait_idle(Duration::ZERO), "it is still inside the gate");
    (held.take().2)(reached(9));
    assert_eq!(wait(&found), Err(Error::IO));
    assert!(volume.wait_idle(Duration::from_secs(1)));
}

#[test]
fn what_the_kernel_does_not_know_is_refused() {
    let (_, volume) = Held::new();
    assert_eq!(call(|then| volume.read(99, 0, 1, then)), Err(Error::BADF));
    assert_eq!(call(|then| volume.write(99, Place::End, b"x", then)), Err(Error::BADF));
    assert_eq!(call(|then| volume.readdir(99, 0, then)), Err(Error::BADF));
    assert_eq!(call(|then| volume.fsync(99, then)), Err(Error::BADF));
    let whiteout = call(|then| volume.rename(ROOT, (1, b"a"), (1, b"b"), 4, then));
    assert_eq!(whiteout, Err(Error::INVAL));
    let directory = call(|then| volume.mknod(ROOT, 1, b"d", 0o040_755, 0, then));
    assert_eq!(directory.map(|_| ()), Err(Error::INVAL));
    volume.release(99);
    volume.releasedir(99);
}

#[test]
fn a_listing_is_read_ahead_and_anew_after_a_rewind() {
    for mode in [Mode::Strict, Mode::RoLookup] {
        let double = Double::default();
        let volume = Volume::new(double.clone(), mode);
        for i in 0..3000 {
            let name = format!("{i:016}");
            call(|then| volume.mknod(ROOT, 1, name.as_bytes(), 0o644, 0, then)).expect("mknod");
        }
        let handle = call(|then| volume.opendir(ROOT, 1, then)).expect("opendir");
        let all = || {
            let (mut seen, mut cookie) = (Vec::new(), 0);
            loop {
                let part = call(|then| volume.readdir(handle, cookie, then)).expect("readdir");
                // The kernel's buffer holds fewer than were fetched.
                let Some(last) = part.entries().iter().take(100).last() else { return seen };
                cookie = last.cookie;
                seen.extend(part.entries().iter().take(100).map(|entry| entry.name.clone()));
            }
        };
        let before = double.counts();
        assert_eq!(all().len(), 3002);
        let after = double.counts();
        let spent = (after.0 - before.0) + (after.1 - before.1);
        assert!(spent <= 3, "{mode}: {spent} operations for one listing");
        call(|then| volume.mkdir(ROOT, 1, b"new", 0o755, then)).expect("mkdir");
        assert_eq!(all().len(), 3003, "a rewind shows what is new");
        volume.releasedir(handle);
    }
}

#[test]
fn a_mount_says_from_time_to_time_that_it_is_there() {
    let (held, volume) = Held::new();
    let before = held.double.counts().0;
    volume.keep_session(Duration::from_millis(5), drop);
    let end = Instant::now() + Duration::from_secs(10);
    while held.double.counts().0 < before + 3 {
        assert!(Instant::now() < end, "an idle session is renewed");
        thread::sleep(Duration::from_millis(1));
    }
}
