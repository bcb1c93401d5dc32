//! Files that lose their last name while another session may have them open.

use bftfs_fs::{
    Client, Errno, FileSystem, Ino, Lock, LockKind, Operation, RELEASES_MAX, ROOT, RenameMode,
    Reply, Rule,
};
use bftfs_proto::types::{ClientId, SessionId};
use bytes::Bytes;

use super::harness::{
    Host, create, errno, kept, link, mkdir, rename, rmdir, truncate, unlink, unlink_kept, write,
};

const SECOND: u64 = 1_000_000_000;
/// Files that one operation tells of, or frees.
const PAGE: usize = 256;

/// What a session hears: the number to say next, files, and whether there is more.
type Heard = (u64, Vec<Ino>, bool);

fn by(host: &mut Host, session: u64) -> &mut Host {
    host.session = SessionId(session);
    host
}

fn attend(host: &mut Host, session: u64, seen: u64) -> Heard {
    match by(host, session).root(Operation::Attend { seen }) {
        Ok(Reply::Unlinked { seen, inos, more }) => (seen, inos, more),
        other => panic!("{other:?}"),
    }
}

fn hold(host: &mut Host, session: u64, inos: &[Ino]) -> Vec<Ino> {
    match by(host, session).root(Operation::Hold { inos: inos.into() }) {
        Ok(Reply::Held { inos }) => inos,
        other => panic!("{other:?}"),
    }
}

fn release(host: &mut Host, session: u64, ino: Ino) {
    by(host, session).root(Operation::Release { inos: vec![ino] }).expect("released");
}

fn exists(host: &mut Host, ino: Ino) -> bool {
    host.root(Operation::Getattr { ino }).is_ok()
}

/// A file system to which some sessions attend, and a file of four bytes in it.
fn attended(sessions: &[u64]) -> (Host, Ino) {
    let mut host = Host::new();
    for session in sessions {
        assert_eq!(attend(&mut host, *session, u64::MAX), (0, vec![], false));
    }
    let ino = by(&mut host, 1).make(create(ROOT, "f", 0o644)).ino;
    host.make(write(ino, 0, "text"));
    (host, ino)
}

#[test]
fn whoever_attends_alone_frees_at_once() {
    let (mut host, ino) = attended(&[1]);
    let keys = host.tree.len();
    assert_eq!(kept(host.root(unlink(ROOT, "f"))), None);
    assert!(!exists(&mut host, ino));
    assert_eq!(host.tree.len(), keys - 4, "inode, name, slot and block");
    assert_eq!(attend(&mut host, 1, 0), (0, vec![], false));
}

#[test]
fn a_file_lives_until_all_who_attend_have_heard_that_it_has_no_name() {
    let (mut host, ino) = attended(&[1, 2, 3]);
    assert_eq!(kept(host.root(unlink(ROOT, "f"))), None);
    assert_eq!(by(&mut host, 2).make(write(ino, 4, " more")).nlink, 0);
    assert_eq!(host.read(ino, 0, 20), "text more");
    host.make(truncate(ino, 4));
    let lock = Lock { start: 0, end: 9, kind: LockKind::Write, owner: 5, pid: 7 };
    let locked = host.root(Operation::SetLock { ino, lock, wait: false });
    assert_eq!(locked, Ok(Reply::Locked { any: true }));
    assert_eq!(errno(host.root(link(ino, ROOT, "g"))), Errno::ENOENT);
    for session in [1, 2, 3] {
        assert_eq!(attend(&mut host, session, 0), (1, vec![ino], false), "told until it says so");
    }
    for session in [3, 1] {
        assert_eq!(attend(&mut host, session, 1), (1, vec![], false));
        assert!(exists(&mut host, ino));
    }
    assert_eq!(attend(&mut host, 2, 1), (1, vec![], false));
    assert!(!exists(&mut host, ino));
    assert_eq!((host.statistics().used_inodes, host.statistics().used_bytes), (1, 0));
}

#[test]
fn a_file_held_by_several_sessions_lives_until_the_last_lets_go_or_ends() {
    let (mut host, ino) = attended(&[1, 2, 3]);
    assert_eq!(kept(host.root(unlink_kept(ROOT, "f"))), Some(ino));
    assert_eq!(hold(&mut host, 2, &[ROOT, ino, Ino(77)]), [ino], "others are ignored");
    assert_eq!(hold(&mut host, 2, &[ino]), [ino], "once is enough");
    for session in [1, 2, 3] {
        attend(&mut host, session, 1);
    }
    assert_eq!(hold(&mut host, 3, &[ino]), [ino], "also when it is in limbo no more");
    release(&mut host, 1, ino);
    release(&mut host, 1, ino);
    assert_eq!(by(&mut host, 4).read(ino, 0, 9), "text");
    host.close(SessionId(3));
    assert!(exists(&mut host, ino));
    release(&mut host, 2, ino);
    assert!(!exists(&mut host, ino));
    assert_eq!(hold(&mut host, 2, &[ino]), []);
    assert_eq!(host.statistics().used_inodes, 1);
}

#[test]
fn a_release_before_all_have_heard_frees_nothing_that_others_may_have_open() {
    let (mut host, ino) = attended(&[1, 2]);
    host.root(unlink_kept(ROOT, "f")).expect("removed");
    release(&mut host, 1, ino);
    assert!(exists(&mut host, ino));
    attend(&mut host, 1, 1);
    assert_eq!(attend(&mut host, 2, 0).1, [ino]);
    assert_eq!(hold(&mut host, 2, &[ino]), [ino]);
    attend(&mut host, 2, 1);
    assert!(exists(&mut host, ino));
    release(&mut host, 2, ino);
    assert!(!exists(&mut host, ino));
}

#[test]
fn nobody_waits_for_a_session_that_ended_or_began_later() {
    let (mut host, ino) = attended(&[1, 2]);
    host.root(unlink(ROOT, "f")).expect("removed");
    assert_eq!(attend(&mut host, 3, u64::MAX), (1, vec![], false), "it cannot have it open");
    attend(&mut host, 1, 1);
    assert!(exists(&mut host, ino));
    host.close(SessionId(2));
    assert!(!exists(&mut host, ino));
    let ino = by(&mut host, 1).make(create(ROOT, "f", 0o644)).ino;
    host.close(SessionId(3));
    by(&mut host, 1).root(unlink(ROOT, "f")).expect("removed");
    assert!(!exists(&mut host, ino), "alone again");
}

#[test]
fn a_session_that_attends_anew_hears_of_what_is_in_limbo_yet() {
    let (mut host, ino) = attended(&[1, 2]);
    host.root(unlink(ROOT, "f")).expect("removed");
    host.close(SessionId(1));
    assert_eq!(attend(&mut host, 3, 0), (1, vec![ino], false));
    assert_eq!(hold(&mut host, 3, &[ino]), [ino]);
    host.close(SessionId(2));
    attend(&mut host, 3, 1);
    assert!(exists(&mut host, ino));
}

#[test]
fn replaced_files_too_but_no_directories_and_no_special_files() {
    let (mut host, ino) = attended(&[1, 2]);
    host.make(create(ROOT, "g", 0o644));
    host.root(rename((ROOT, "g"), (ROOT, "f"), RenameMode::Replace)).expect("replaced");
    let dir = host.make(mkdir(ROOT, "d", 0o755)).ino;
    host.root(rmdir(ROOT, "d")).expect("removed");
    let symlink = host.make(super::harness::symlink(ROOT, "l", "to")).ino;
    host.root(unlink(ROOT, "l")).expect("removed");
    assert_eq!([ino, dir, symlink].map(|ino| exists(&mut host, ino)), [true, false, false]);
    assert_eq!(attend(&mut host, 2, 0), (1, vec![ino], false));
}

#[test]
fn many_files_leave_limbo_page_by_page_and_bit_by_bit() {
    let (mut host, _) = attended(&[1, 2]);
    host.checked = false;
    for _ in 0..2 * PAGE + 9 {
        host.order(create(ROOT, "a", 0o644)).expect("made");
        host.order(unlink(ROOT, "a")).expect("removed");
    }
    host.checked = true;
    let mut seen = 0;
    for (count, more) in [(PAGE, true), (PAGE, true), (9, false)] {
        let heard = attend(&mut host, 2, seen);
        assert_eq!((heard.1.len(), heard.2), (count, more));
        seen = heard.0;
    }
    attend(&mut host, 2, seen);
    let used = |host: &mut Host| usize::try_from(host.statistics().used_inodes).expect("few");
    assert_eq!(used(&mut host), 2 * PAGE + 9 + 2, "the other has heard of none");
    assert_eq!(attend(&mut host, 1, seen), (seen, vec![], true), "there is more to do");
    assert_eq!(used(&mut host), PAGE + 9 + 2);
    host.root(Operation::Null).expect("done");
    assert_eq!(used(&mut host), 9 + 2);
    assert_eq!(attend(&mut host, 1, seen), (seen, vec![], false));
    assert_eq!(used(&mut host), 2);
}

#[test]
fn who_does_not_listen_delays_for_90_seconds_and_an_outage_delays_nobody() {
    let (mut host, ino) = attended(&[1, 2]);
    host.root(unlink(ROOT, "f")).expect("removed");
    attend(&mut host, 1, 1);
    // For an hour nobody could be heard.
    host.time += 3600 * SECOND;
    for _ in 0..6 {
        assert_eq!(attend(&mut host, 2, 0).1, [ino], "told again");
        host.time += 10 * SECOND;
        attend(&mut host, 1, 1);
    }
    assert!(!exists(&mut host, ino), "30 s for the hour, and then 60");
}

#[test]
fn who_was_not_there_for_90_seconds_attends_no_more_until_it_comes_again() {
    let (mut host, ino) = attended(&[1, 2]);
    host.root(unlink(ROOT, "f")).expect("removed");
    for _ in 0..10 {
        host.time += 10 * SECOND;
        attend(&mut host, 1, 1);
    }
    assert!(!exists(&mut host, ino));
    let ino = host.make(create(ROOT, "f", 0o644)).ino;
    host.root(unlink(ROOT, "f")).expect("removed");
    assert!(!exists(&mut host, ino), "nobody else attends");
    assert_eq!(attend(&mut host, 2, 0), (0, vec![], false));
    let ino = by(&mut host, 1).make(create(ROOT, "f", 0o644)).ino;
    host.root(unlink(ROOT, "f")).expect("removed");
    assert!(exists(&mut host, ino), "it is there again");
}

#[test]
fn holds_are_bounded() {
    let mut host = Host::new();
    assert_eq!(hold(&mut host, 1, &[Ino(5); RELEASES_MAX]), []);
    let inos = vec![Ino(5); RELEASES_MAX + 1];
    assert_eq!(errno(host.root(Operation::Hold { inos })), Errno::EINVAL);
}

/// A host with a client confined to a directory, and files within and without.
fn confined(read_only: bool) -> (Host, [Ino; 2]) {
    let administrators = vec![ClientId(1)];
    let service =
        FileSystem { root_mode: 0o777, administrators, ..FileSystem::new(1 << 40, 1 << 20) };
    let mut host = Host::with(service);
    let top = host.make(mkdir(ROOT, "top", 0o755)).ino;
    let dir = host.make(mkdir(top, "d", 0o755)).ino;
    let inos = [(dir, "in"), (ROOT, "out")].map(|(dir, name)| {
        let ino = host.make(create(dir, name, 0o644)).ino;
        host.make(write(ino, 0, "text"));
        ino
    });
    let rule = Some(Rule { subtree: Some(top), read_only, ..Rule::default() });
    let record = Client { rule, ..Client::default() };
    host.root(Operation::SetClient { client: ClientId(2), record }).expect("confined");
    attend(&mut host, 1, u64::MAX);
    as_guest(&mut host, |host| drop(attend(host, 2, u64::MAX)));
    by(&mut host, 1).root(unlink(dir, "in")).expect("removed");
    host.root(rmdir(top, "d")).expect("removed");
    host.root(unlink(ROOT, "out")).expect("removed");
    (host, inos)
}

fn as_guest<T>(host: &mut Host, ask: impl FnOnce(&mut Host) -> T) -> T {
    let client = std::mem::replace(&mut host.client, ClientId(2));
    host.session = SessionId(2);
    let told = ask(host);
    host.client = client;
    host.session = SessionId(1);
    told
}

#[test]
fn a_confined_client_hears_of_what_lay_in_its_subtree_and_keeps_nothing_else() {
    for read_only in [false, true] {
        let (mut host, [within, without]) = confined(read_only);
        let read = |host: &mut Host, ino| {
            let touch = bftfs_fs::Touch::Never;
            host.root(Operation::Read { ino, offset: 0, length: 9, touch })
        };
        as_guest(&mut host, |host| {
            assert_eq!(attend(host, 2, 0), (2, vec![within], false));
            assert_eq!(read(host, within), Ok(Reply::Data(Bytes::from("text"))));
            assert_eq!(read(host, without), Err(Errno::ESTALE));
            assert_eq!(hold(host, 2, &[without, within]), [within]);
            attend(host, 2, 2);
        });
        attend(&mut host, 1, 2);
        assert_eq!([within, without].map(|ino| exists(&mut host, ino)), [true, false]);
        // Now it is known by the session that keeps it.
        as_guest(&mut host, |host| {
            host.session = SessionId(3);
            assert_eq!(hold(host, 3, &[within]), []);
            release(host, 2, within);
        });
        assert!(!exists(&mut host, within));
    }
}

#[test]
fn what_sessions_of_another_cluster_held_nobody_holds_in_a_new_one() {
    let (mut host, ino) = attended(&[1, 2]);
    let locked = by(&mut host, 2).make(create(ROOT, "locked", 0o644)).ino;
    let lock = Lock { start: 0, end: 9, kind: LockKind::Write, owner: 5, pid: 7 };
    let take = |host: &mut Host| host.root(Operation::SetLock { ino: locked, lock, wait: false });
    assert_eq!(take(&mut host), Ok(Reply::Locked { any: true }));
    host.root(unlink_kept(ROOT, "f")).expect("removed");
    assert!(take(by(&mut host, 1)).is_err(), "it is another session's");
    host.begin_anew();
    assert!(!exists(by(&mut host, 1), ino), "the session of that number has never seen it");
    assert_eq!(take(&mut host), Ok(Reply::Locked { any: true }));
    let again = by(&mut host, 1).make(create(ROOT, "f", 0o644)).ino;
    host.root(unlink(ROOT, "f")).expect("removed");
    assert!(!exists(&mut host, again), "nobody attends");
}
