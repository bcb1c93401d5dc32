//! Files that are open on one mount and lose their last name through another.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use bftfs_fs::access;
use bftfs_mount::volume::{Error, Mode, OpenHow, Process, Volume};

use crate::double::Double;
use crate::kernel::{MODES, eventually};
use crate::mounted::{Mounted, has_fuse};

/// How often the mounts of these tests ask what was unlinked.
const RENEWAL: Duration = Duration::from_millis(40);

/// Two mounts that attend, and a file that the second has open.
fn two_mounts(double: &Double, mode: Mode) -> (Mounted, Mounted, File) {
    let [here, there] = [(); 2].map(|()| {
        let mount = Mounted::new(double, mode);
        call(|then| mount.volume.keep_session(RENEWAL, then)).expect("attends");
        mount
    });
    fs::write(here.at("f"), b"text").expect("write");
    let open = OpenOptions::new().read(true).write(true).open(there.at("f")).expect("open");
    (here, there, open)
}

fn used(mount: &Mounted) -> u64 {
    rustix::fs::statvfs(mount.path()).map(|stat| stat.f_files - stat.f_ffree).expect("statfs")
}

fn call<T: Send + 'static>(
    ask: impl FnOnce(Box<dyn FnOnce(Result<T, Error>) + Send>),
) -> Result<T, Error> {
    let (sender, receiver) = mpsc::channel();
    ask(Box::new(move |result| sender.send(result).expect("the test waits")));
    receiver.recv_timeout(Duration::from_secs(10)).expect("an answer")
}

#[test]
fn a_file_that_another_mount_unlinks_lives_until_it_is_closed() {
    if !has_fuse() {
        return;
    }
    for mode in MODES {
        let double = Double::default();
        let (here, there, open) = two_mounts(&double, mode);
        let before = used(&here);
        fs::remove_file(here.at("f")).expect("unlink");
        fs::write(here.at("f"), b"another").expect("write");
        for round in 0..8 {
            thread::sleep(RENEWAL);
            open.write_at(&[b'0' + round; 4], 4).expect("write");
            let mut seen = [0; 8];
            open.read_exact_at(&mut seen, 0).expect("read");
            assert_eq!(&seen[..5], [&b"text"[..], &[b'0' + round]].concat(), "{mode}");
        }
        let attributes = open.metadata().expect("fstat");
        assert_eq!((attributes.nlink(), attributes.len()), (0, 8));
        open.set_len(3).expect("ftruncate");
        assert_eq!(fs::read(there.at("f")).expect("read"), b"another");
        assert_eq!(used(&here), before + 1);
        drop(open);
        eventually("its space is free", || used(&here) == before);
    }
}

#[test]
fn a_file_that_another_mount_replaces_lives_until_it_is_closed_on_all() {
    if !has_fuse() {
        return;
    }
    let double = Double::default();
    let (here, there, open) = two_mounts(&double, Mode::Relatime);
    let own = File::open(here.at("f")).expect("open");
    fs::write(there.at("new"), b"new").expect("write");
    let before = used(&here);
    fs::rename(there.at("new"), there.at("f")).expect("rename");
    // The one that unlinked it first.
    for file in [open, own] {
        thread::sleep(4 * RENEWAL);
        assert_eq!(used(&here), before);
        let mut seen = [0; 4];
        file.read_exact_at(&mut seen, 0).expect("read");
        assert_eq!(&seen, b"text");
    }
    eventually("its space is free", || used(&here) == before - 1);
}

#[test]
fn a_file_is_gone_with_the_session_of_the_mount_that_had_it_open() {
    if !has_fuse() {
        return;
    }
    let double = Double::default();
    let (here, there, open) = two_mounts(&double, Mode::RoLookup);
    let before = used(&here);
    fs::remove_file(here.at("f")).expect("unlink");
    thread::sleep(4 * RENEWAL);
    assert_eq!(used(&here), before);
    there.replicas.lose();
    eventually("its space is free", || used(&here) == before - 1);
    let error = open.read_at(&mut [0; 4], 0).expect_err("gone");
    assert_eq!(error.raw_os_error(), Some(Error::STALE.raw_os_error()));
    // The new session attends as the old one did.
    thread::sleep(4 * RENEWAL);
    fs::write(here.at("g"), b"text").expect("write");
    let open = File::open(there.at("g")).expect("open");
    fs::remove_file(here.at("g")).expect("unlink");
    thread::sleep(4 * RENEWAL);
    open.read_exact_at(&mut [0; 4], 0).expect("read");
}

#[test]
fn many_files_unlinked_while_another_mount_attends_are_freed_soon() {
    if !has_fuse() {
        return;
    }
    let double = Double::default();
    let (here, there, open) = two_mounts(&double, Mode::RoLookup);
    let before = used(&here);
    for i in 0..700 {
        fs::write(here.at(&format!("g{i}")), b"").expect("write");
    }
    for i in 0..700 {
        fs::remove_file(there.at(&format!("g{i}"))).expect("unlink");
    }
    eventually("their space is free", || used(&here) == before);
    drop(open);
}

const ROOT: Process = Process { pid: 0, uid: 0, gid: 0 };

#[test]
fn what_is_opened_just_when_another_mount_unlinked_it_is_kept_or_stale() {
    let how = OpenHow { mask: access::READ, truncate: false, exclusive: true };
    let double = Double::default();
    // They ask when they are told to, and once more if there was news.
    let ask = |volume: &Volume<Double>| {
        call(|then| volume.keep_session(Duration::from_secs(1000), then)).expect("attends");
        thread::sleep(4 * RENEWAL);
    };
    let [here, there] = [(); 2].map(|()| Volume::new(double.clone(), Mode::RoLookup));
    ask(&here);
    ask(&there);
    let (file, handle) = call(|then| here.create(ROOT, 1, b"f", 0o644, how, then)).expect("create");
    here.release(handle);
    let ino = file.ino.0;
    call(|then| there.unlink(ROOT, 1, b"f", then)).expect("unlink");
    ask(&here);
    let handle = call(|then| here.open(ROOT, ino, how, then)).expect("it is there yet");
    ask(&there);
    assert_eq!(call(|then| here.read(handle, 0, 4, then)).map(|data| data.len()), Ok(0));
    here.release(handle);
    eventually("it is gone", || call(|then| here.getattr(ROOT, ino, then)).is_err());
    assert_eq!(call(|then| here.open(ROOT, ino, how, then)), Err(Error::STALE));
    assert_eq!(here.open_files(), 0);
}
