//! The passthrough file system gives what the directory below gives.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(5);

/// A mounted passthrough; unmounted by SIGTERM.
struct Mount {
    // Ends before the directory is removed.
    child: Child,
    dir: TempDir,
}

impl Mount {
    /// `None` without FUSE, where the person knows that.
    fn new() -> Option<Self> {
        if !crate::has_fuse() {
            return None;
        }
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (data, point) = (dir.path().join("data"), dir.path().join("mnt"));
        fs::create_dir(&data).expect("mkdir");
        fs::create_dir(&point).expect("mkdir");
        let child = command(&data, &point).spawn().expect("the program runs");
        let mut mount = Self { child, dir };
        let deadline = Instant::now() + PATIENCE;
        while device(&mount.point()) == device(&mount.data()) {
            let ended = mount.child.try_wait().expect("a status");
            assert!(ended.is_none(), "it ended: {ended:?}");
            assert!(Instant::now() < deadline, "not mounted after {PATIENCE:?}");
            thread::sleep(POLL);
        }
        Some(mount)
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn point(&self) -> PathBuf {
        self.dir.path().join("mnt")
    }

    fn terminate(&mut self) -> ExitStatus {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("a signal");
        self.child.wait().expect("a status")
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.terminate();
        }
    }
}

fn command(data: &Path, point: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bftfs-bench"));
    command.arg("passthrough").args([data, point]);
    command
}

fn device(path: &Path) -> u64 {
    fs::metadata(path).expect("attributes").dev()
}

#[test]
fn files_and_directories_pass_both_ways() {
    let Some(mount) = Mount::new() else { return };
    let (data, point) = (mount.data(), mount.point());

    fs::create_dir(point.join("dir")).expect("mkdir");
    fs::write(point.join("dir/file"), "hello").expect("write");
    assert_eq!(fs::read(data.join("dir/file")).expect("read below"), b"hello");
    fs::write(data.join("dir/file"), "changed below").expect("write below");
    assert_eq!(fs::read(point.join("dir/file")).expect("read"), b"changed below");

    let mut file = OpenOptions::new().append(true).open(point.join("dir/file")).expect("open");
    file.write_all(b", and above").expect("append");
    file.sync_all().expect("fsync");
    assert_eq!(fs::read(data.join("dir/file")).expect("read"), b"changed below, and above");

    fs::rename(point.join("dir/file"), point.join("moved")).expect("rename");
    fs::hard_link(point.join("moved"), point.join("link")).expect("link");
    let (moved, link) = (point.join("moved"), point.join("link"));
    assert_eq!(fs::metadata(&moved).expect("stat").nlink(), 2);
    assert_eq!(inode(&moved), inode(&link));
    symlink("moved", point.join("soft")).expect("symlink");
    assert_eq!(fs::read_link(point.join("soft")).expect("readlink"), Path::new("moved"));
    assert_eq!(names(&point), ["dir", "link", "moved", "soft"]);
    assert_eq!(names(&point), names(&data));

    fs::remove_file(&moved).expect("unlink");
    assert_eq!(fs::metadata(&link).expect("stat").nlink(), 1);
    fs::remove_dir(point.join("dir")).expect("rmdir");
    let missing = fs::metadata(point.join("dir")).expect_err("it is gone");
    assert_eq!(missing.kind(), std::io::ErrorKind::NotFound);
}

fn inode(path: &Path) -> u64 {
    fs::metadata(path).expect("attributes").ino()
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(dir)
        .expect("a listing")
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8"))
        .collect();
    names.sort();
    names
}

#[test]
fn attributes_pass_both_ways() {
    let Some(mount) = Mount::new() else { return };
    let path = mount.point().join("file");
    let below = mount.data().join("file");
    let file = File::create_new(&path).expect("create");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("chmod");
    chown(&path, Some(12), Some(34)).expect("chown; the test runs as root");
    file.set_len(5 << 30).expect("a sparse file of 5 GiB");
    file.write_all_at(b"end", (5 << 30) - 3).expect("write");
    let time = SystemTime::UNIX_EPOCH + Duration::new(1_000_000_000, 123_456_789);
    file.set_modified(time).expect("utimens");
    for path in [&path, &below] {
        let found = fs::metadata(path).expect("attributes");
        assert_eq!(found.mode() & 0o7777, 0o640);
        assert_eq!((found.uid(), found.gid(), found.len()), (12, 34, 5 << 30));
        assert_eq!(found.modified().expect("a time"), time);
        assert!(found.blocks() < 1000, "{} blocks of a sparse file", found.blocks());
    }
    drop(file);
    let statfs = rustix::fs::statvfs(mount.point()).expect("statfs");
    assert!(statfs.f_blocks > 0 && statfs.f_namemax == 255);
}

#[test]
fn a_file_that_is_open_survives_its_name() {
    let Some(mount) = Mount::new() else { return };
    let path = mount.point().join("file");
    fs::write(&path, "before").expect("write");
    let file = OpenOptions::new().read(true).write(true).open(&path).expect("open");
    fs::remove_file(&path).expect("unlink");
    file.write_all_at(b"AFTER!", 0).expect("write");
    let mut buffer = [0; 6];
    file.read_exact_at(&mut buffer, 0).expect("read");
    assert_eq!(&buffer, b"AFTER!");
    assert_eq!(file.metadata().expect("attributes").nlink(), 0);
}

#[test]
fn a_long_listing_is_whole() {
    let Some(mount) = Mount::new() else { return };
    let wanted: Vec<String> = (0..3000).map(|index| format!("entry-{index:04}")).collect();
    for name in &wanted {
        File::create_new(mount.data().join(name)).expect("create below");
    }
    assert_eq!(names(&mount.point()), wanted);
}

#[test]
fn sigterm_unmounts_and_a_second_mount_works() {
    let Some(mut mount) = Mount::new() else { return };
    fs::write(mount.point().join("file"), "kept").expect("write");
    assert!(mount.terminate().success());
    assert_eq!(device(&mount.point()), device(&mount.data()));
    assert_eq!(names(&mount.point()), [""; 0]);
    assert_eq!(fs::read(mount.data().join("file")).expect("read"), b"kept");
}

#[test]
fn a_mount_point_that_is_missing_or_not_empty_is_refused() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    fs::write(dir.path().join("file"), "").expect("write");
    for (point, wanted) in [(dir.path().join("none"), "cannot find"), (dir.path().into(), "empty")]
    {
        let output = command(dir.path(), &point).output().expect("the program runs");
        assert!(!output.status.success());
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(message.contains(wanted), "{message}");
    }
}
