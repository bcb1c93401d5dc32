//! One long script of file operations, run on any directory. What it writes down must be the
//! same on a local file system and on a bftfs mount: results, error numbers, attributes, bytes.

pub(crate) mod xattr;

use std::ffi::OsStr;
use std::fmt::Debug;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{
    DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink,
};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, FallocateFlags, RenameFlags, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT,
};

/// Runs the script below `root` and returns what it saw, a line a step.
pub(crate) fn run(root: &Path) -> Vec<String> {
    let mut scribe = Scribe { root: root.to_owned(), lines: Vec::new() };
    directories(&mut scribe);
    files(&mut scribe);
    offsets_and_sizes(&mut scribe);
    ranges(&mut scribe);
    links(&mut scribe);
    renames(&mut scribe);
    attributes(&mut scribe);
    open_while_unlinked(&mut scribe);
    names(&mut scribe);
    special_files(&mut scribe);
    xattr::attributes(&mut scribe);
    large_directory(&mut scribe);
    scribe.tree("");
    scribe.lines
}

struct Scribe {
    root: PathBuf,
    lines: Vec<String>,
}

impl Scribe {
    fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Writes down a result; of an error only its number.
    fn note<T: Debug, E: Into<io::Error>>(&mut self, step: &str, result: Result<T, E>) {
        let line = match result.map_err(Into::into) {
            Ok(value) => format!("{step}: {value:?}"),
            Err(error) => match error.raw_os_error() {
                Some(number) => format!("{step}: errno {number}"),
                None => format!("{step}: {:?}", error.kind()),
            },
        };
        self.lines.push(line);
    }

    /// Writes down what must not depend on the file system. Times are looked at elsewhere.
    fn stat(&mut self, name: &str) {
        let seen = fs::symlink_metadata(self.path(name)).map(|m| {
            let size = if m.is_dir() { 0 } else { m.len() };
            format!(
                "{:o} nlink {} uid {} gid {} size {size}",
                m.mode(),
                m.nlink(),
                m.uid(),
                m.gid()
            )
        });
        self.note(&format!("stat {name}"), seen);
    }

    fn list(&mut self, name: &str) {
        let listed = fs::read_dir(self.path(name)).and_then(|entries| {
            let mut names = Vec::new();
            for entry in entries {
                let entry = entry?;
                names.push((entry.file_name(), entry.file_type()?.is_dir()));
            }
            names.sort();
            Ok(names)
        });
        self.note(&format!("list {name}"), listed);
    }

    fn tree(&mut self, name: &str) {
        self.stat(name);
        let path = self.path(name);
        let Ok(metadata) = fs::symlink_metadata(&path) else { return };
        if metadata.is_file() && metadata.len() < 1 << 20 {
            let sum = fs::read(&path).map(|bytes| checksum(&bytes));
            self.note(&format!("bytes {name}"), sum);
        }
        if !metadata.is_dir() {
            return;
        }
        let mut names: Vec<_> =
            fs::read_dir(&path).expect("listed").map(|e| e.expect("entry").file_name()).collect();
        names.sort();
        for child in names {
            if let Some(child) = child.to_str() {
                self.tree(&Path::new(name).join(child).to_string_lossy());
            }
        }
    }
}

fn checksum(bytes: &[u8]) -> (usize, u64) {
    let mix = |sum: u64, byte: &u8| (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    (bytes.len(), bytes.iter().fold(0xcbf2_9ce4_8422_2325, mix))
}

fn directories(s: &mut Scribe) {
    s.note("mkdir d", fs::create_dir(s.path("d")));
    s.note("mkdir d again", fs::create_dir(s.path("d")));
    s.note("mkdir with mode", fs::DirBuilder::new().mode(0o751).create(s.path("d/mode")));
    s.note("mkdir below nothing", fs::create_dir(s.path("none/d")));
    s.note("mkdir all", fs::create_dir_all(s.path("d/a/b/c")));
    s.stat("d");
    s.stat("d/mode");
    s.note("rmdir full", fs::remove_dir(s.path("d/a")));
    s.note("rmdir nothing", fs::remove_dir(s.path("d/none")));
    s.note("unlink directory", fs::remove_file(s.path("d/a")));
    s.note("rmdir", fs::remove_dir(s.path("d/a/b/c")));
    s.note("rmdir dot", rustix::fs::rmdir(s.path("d/a/.")));
    s.note("rmdir dotdot", rustix::fs::rmdir(s.path("d/a/b/..")));
    s.list("d");
    s.list("d/a/b");
    s.list("d/none");
    s.note("open directory to write", OpenOptions::new().write(true).open(s.path("d")).map(drop));
    s.note("read a directory", File::open(s.path("d")).and_then(|mut f| f.read(&mut [0; 4])));
    s.stat("d");
}

fn files(s: &mut Scribe) {
    s.note("write", fs::write(s.path("f"), b"hello"));
    s.note("read", fs::read_to_string(s.path("f")));
    s.note("shorter", fs::write(s.path("f"), b"hi"));
    s.note("read", fs::read_to_string(s.path("f")));
    s.note("create new", File::create_new(s.path("f")).map(drop));
    s.note("open nothing", File::open(s.path("none")).map(drop));
    s.note("open below a file", File::open(s.path("f/x")).map(drop));
    s.note("mkdir over file", fs::create_dir(s.path("f")));
    s.note("rmdir file", fs::remove_dir(s.path("f")));
    let mode = OpenOptions::new().write(true).create_new(true).mode(0o640).open(s.path("moded"));
    s.note("open with mode", mode.map(drop));
    let all = OpenOptions::new().write(true).create_new(true).mode(0o7777).open(s.path("all"));
    s.note("open with every bit", all.map(drop));
    s.stat("moded");
    s.stat("all");
    append(s);
    s.note("unlink", fs::remove_file(s.path("moded")));
    s.note("unlink again", fs::remove_file(s.path("moded")));
    s.stat("moded");
}

fn append(s: &mut Scribe) {
    let open = || OpenOptions::new().append(true).create(true).open(s.path("log"));
    let (mut one, mut two) = (open().expect("one"), open().expect("two"));
    let mut written = Vec::new();
    for line in ["a\n", "bb\n", "ccc\n"] {
        written.push(one.write(line.as_bytes()).map_err(|e| e.raw_os_error()));
        written.push(two.write(line.as_bytes()).map_err(|e| e.raw_os_error()));
    }
    s.note("append by turns", io::Result::Ok(written));
    s.note("read log", fs::read_to_string(s.path("log")));
    s.note("write only", one.read(&mut [0; 3]));
    let mut reader = File::open(s.path("log")).expect("open");
    s.note("read only", reader.write(b"x"));
}

fn offsets_and_sizes(s: &mut Scribe) {
    let open = OpenOptions::new().read(true).write(true).create_new(true).open(s.path("sparse"));
    let mut file = open.expect("sparse");
    s.note("write far", file.write_at(b"end", (5 << 30) + 7));
    s.note("size", file.metadata().map(|m| m.len()));
    let mut hole = [1; 16];
    s.note("read hole", file.read_at(&mut hole, 4 << 30).map(|n| (n, hole)));
    s.note("read past the end", file.read_at(&mut hole, 6 << 30));
    s.note("read across the end", file.read_at(&mut hole, (5 << 30) + 8).map(|n| (n, hole)));
    s.note("seek end", file.seek(SeekFrom::End(-3)));
    let mut text = String::new();
    s.note("read end", file.read_to_string(&mut text).map(|_| text));
    s.note("truncate", file.set_len(10));
    s.note("grow", file.set_len(20));
    s.note("size", file.metadata().map(|m| m.len()));
    s.note("write at 0", file.write_at(b"abcdefghijklmnop", 0));
    s.note("shrink", file.set_len(3));
    s.note("grow again", file.set_len(6));
    s.note("zeros after growth", fs::read(s.path("sparse")));
    s.note("sync all", file.sync_all());
    s.note("sync data", file.sync_data());
    let big: Vec<u8> = (0..3_000_003_u32).map(|i| (i % 251) as u8).collect();
    s.note("write 3 MB", fs::write(s.path("big"), &big));
    s.note("read 3 MB", fs::read(s.path("big")).map(|bytes| (bytes == big, checksum(&bytes))));
    let file = File::open(s.path("big")).expect("big");
    let mut part = vec![0; 100_000];
    s.note("read in the middle", file.read_at(&mut part, 1_048_000).map(|n| (n, checksum(&part))));
}

/// Holes and copies, as far as they do not depend on the size of a block.
fn ranges(s: &mut Scribe) {
    let data: Vec<u8> = (0..200_000_u32).map(|i| (i % 249) as u8).collect();
    s.note("write", fs::write(s.path("ranges"), &data));
    let open = OpenOptions::new().read(true).write(true).open(s.path("ranges"));
    let mut file = open.expect("ranges");
    let (none, keep) = (FallocateFlags::empty(), FallocateFlags::KEEP_SIZE);
    let (punch, zero) = (FallocateFlags::PUNCH_HOLE, FallocateFlags::ZERO_RANGE);
    for (mode, offset, length) in [
        (punch | keep, 100, 5),
        (punch | keep, 4096, 150_000),
        (punch | keep, 190_000, 1 << 40),
        (punch, 0, 10),
        (zero, 20, 7),
        (zero | keep, 199_990, 100),
        (zero, 199_990, 100),
        (zero | punch | keep, 0, 10),
        (none, 0, 10),
        (none, 200_000, 1000),
        (keep, 500_000, 1000),
        (none, 0, 0),
        (none, u64::MAX, 1),
        (none, 1 << 62, 1 << 62),
    ] {
        let step = format!("fallocate {mode:?} {offset} {length}");
        s.note(&step, rustix::fs::fallocate(&file, mode, offset, length));
        s.note("size", file.metadata().map(|m| m.len()));
        s.note("bytes", fs::read(s.path("ranges")).map(|bytes| checksum(&bytes)));
    }
    s.note(
        "seek to data at the end",
        file.metadata()
            .map(|m| m.len())
            .and_then(|end| Ok(rustix::fs::seek(&file, rustix::fs::SeekFrom::Data(end))?)),
    );
    s.note("position", file.stream_position());
    let reader = File::open(s.path("ranges")).expect("open");
    s.note("fallocate for a reader", rustix::fs::fallocate(&reader, none, 0, 1));
    copies(s, &file, &reader);
}

fn copies(s: &mut Scribe, file: &File, reader: &File) {
    let open = OpenOptions::new().read(true).write(true).create_new(true).open(s.path("copied"));
    let target = open.expect("copied");
    for (from, to, length) in
        [(0, 0, 70_000), (3, 60_001, 80_000), (200_900, 5, 500), (300_000, 0, 9), (7, 400_000, 0)]
    {
        let (mut from, mut to) = (from, to);
        let step = format!("copy {from} {to} {length}");
        let copied =
            rustix::fs::copy_file_range(reader, Some(&mut from), &target, Some(&mut to), length);
        s.note(&step, copied.map(|count| (count, from, to)));
        s.note("bytes", fs::read(s.path("copied")).map(|bytes| checksum(&bytes)));
    }
    for (from, to, length) in [(0, 5, 10), (5, 0, 10), (0, 10, 10), (30, 0, 30)] {
        let (mut from, mut to) = (from, to);
        let step = format!("copy within {from} {to} {length}");
        let copied =
            rustix::fs::copy_file_range(file, Some(&mut from), file, Some(&mut to), length);
        s.note(&step, copied);
        s.note("bytes", fs::read(s.path("ranges")).map(|bytes| checksum(&bytes)));
    }
    let to_reader = rustix::fs::copy_file_range(file, Some(&mut 0), reader, Some(&mut 0), 5);
    s.note("copy to a reader", to_reader);
}

fn links(s: &mut Scribe) {
    s.note("link", fs::hard_link(s.path("f"), s.path("f2")));
    s.stat("f");
    s.note("link over", fs::hard_link(s.path("f"), s.path("log")));
    s.note("link directory", fs::hard_link(s.path("d"), s.path("d2")));
    s.note("link nothing", fs::hard_link(s.path("none"), s.path("none2")));
    s.note("write through the other name", fs::write(s.path("f2"), b"shared"));
    s.note("read", fs::read_to_string(s.path("f")));
    s.note("unlink one name", fs::remove_file(s.path("f")));
    s.stat("f2");
    s.note("symlink", symlink("f2", s.path("l")));
    s.note("symlink again", symlink("f2", s.path("l")));
    s.note("readlink", fs::read_link(s.path("l")));
    s.note("readlink of a file", fs::read_link(s.path("f2")));
    s.note("read through", fs::read_to_string(s.path("l")));
    s.note("dangling", symlink("nowhere", s.path("dangling")));
    s.note("open dangling", File::open(s.path("dangling")).map(drop));
    s.note("create through dangling", fs::write(s.path("dangling"), b"now"));
    s.note("loop", symlink("loop", s.path("loop")));
    s.note("open loop", File::open(s.path("loop")).map(drop));
    s.note(
        "nofollow",
        OpenOptions::new().read(true).custom_flags(0o400_000).open(s.path("l")).map(drop),
    );
    s.note("link to a symlink", fs::hard_link(s.path("l"), s.path("l2")));
    s.stat("l2");
    let long = "x".repeat(4000);
    s.note("long target", symlink(&long, s.path("long")));
    s.note("readlink long", fs::read_link(s.path("long")).map(|p| p.as_os_str().len()));
    s.note("directory link", symlink("d", s.path("dl")));
    s.list("dl");
    s.note("rmdir a link", fs::remove_dir(s.path("dl")));
}

fn renames(s: &mut Scribe) {
    s.note("write", fs::write(s.path("r1"), b"one"));
    s.note("write", fs::write(s.path("r2"), b"two"));
    s.note("rename over", fs::rename(s.path("r1"), s.path("r2")));
    s.note("read", fs::read_to_string(s.path("r2")));
    s.note("rename nothing", fs::rename(s.path("r1"), s.path("r3")));
    s.note("rename to itself", fs::rename(s.path("r2"), s.path("r2")));
    s.note("into directory", fs::rename(s.path("r2"), s.path("d/r2")));
    s.note("file over directory", fs::rename(s.path("d/r2"), s.path("d/a")));
    s.note("directory over file", fs::rename(s.path("d/a"), s.path("d/r2")));
    s.note("mkdir", fs::create_dir_all(s.path("e/full")));
    s.note("mkdir", fs::create_dir(s.path("empty")));
    s.note("directory over full", fs::rename(s.path("empty"), s.path("e")));
    s.note("directory over empty", fs::rename(s.path("e"), s.path("empty")));
    s.note("below itself", fs::rename(s.path("empty"), s.path("empty/full/x")));
    s.note("over its parent", fs::rename(s.path("empty/full"), s.path("empty")));
    s.stat("empty");
    s.stat("");
    s.note("to other parent", fs::rename(s.path("empty/full"), s.path("d/full")));
    s.stat("empty");
    s.stat("d");
    s.note("dotdot moved", fs::metadata(s.path("d/full/../r2")).map(|m| m.len()));
    flagged_renames(s);
    s.note("hard links of one file", fs::hard_link(s.path("f2"), s.path("f3")));
    s.note("rename onto the other name", fs::rename(s.path("f2"), s.path("f3")));
    s.stat("f2");
    s.stat("f3");
}

fn flagged_renames(s: &mut Scribe) {
    let rename = |from: &str, to: &str, flags| {
        rustix::fs::renameat_with(CWD, s.path(from), CWD, s.path(to), flags)
    };
    let kept = rename("log", "f2", RenameFlags::NOREPLACE);
    let moved = rename("d/r2", "d/r3", RenameFlags::NOREPLACE);
    let swapped = rename("d/r3", "d/full", RenameFlags::EXCHANGE);
    let nothing = rename("d/r3", "d/none", RenameFlags::EXCHANGE);
    s.note("no replace", kept);
    s.note("no replace needed", moved);
    s.note("exchange", swapped);
    s.note("exchange with nothing", nothing);
    s.list("d");
    s.stat("d");
}

fn attributes(s: &mut Scribe) {
    s.note("chmod", fs::set_permissions(s.path("f2"), fs::Permissions::from_mode(0o4751)));
    s.stat("f2");
    s.note("chmod none", fs::set_permissions(s.path("f2"), fs::Permissions::from_mode(0o0)));
    s.stat("f2");
    s.note("chown", std::os::unix::fs::chown(s.path("f2"), Some(12), Some(34)));
    s.stat("f2");
    s.note("lchown", std::os::unix::fs::lchown(s.path("l"), Some(5), None));
    s.stat("l");
    s.note("chmod", fs::set_permissions(s.path("f2"), fs::Permissions::from_mode(0o644)));
    let at = |s, ns| Timespec { tv_sec: s, tv_nsec: ns };
    for (label, atime, mtime) in [
        ("both", at(1_234_567_890, 123_456_789), at(987_654_321, 999_999_999)),
        ("atime only", at(1_000, 1), at(0, UTIME_OMIT)),
        ("before 1970", at(-2, 800_000_000), at(-1_000_000, 1)),
        ("after 2038", at(0, UTIME_OMIT), at(1 << 32, 5)),
    ] {
        let times = Timestamps { last_access: atime, last_modification: mtime };
        s.note(label, rustix::fs::utimensat(CWD, s.path("f2"), &times, AtFlags::empty()));
        let seen = fs::metadata(s.path("f2"));
        s.note("times", seen.map(|m| (m.atime(), m.atime_nsec(), m.mtime(), m.mtime_nsec())));
    }
    let now = Timestamps { last_access: at(0, UTIME_NOW), last_modification: at(0, UTIME_NOW) };
    s.note("now", rustix::fs::utimensat(CWD, s.path("f2"), &now, AtFlags::empty()));
    let m = fs::metadata(s.path("f2")).expect("stat");
    let age = m.modified().expect("mtime").elapsed().unwrap_or_default();
    s.note("now is now", io::Result::Ok(age.as_secs() < 60));
    mtime_moves(s);
}

fn mtime_moves(s: &mut Scribe) {
    let times = |name: &str| {
        let m = fs::metadata(s.path(name)).expect("stat");
        ((m.mtime(), m.mtime_nsec()), (m.ctime(), m.ctime_nsec()))
    };
    let pause = || std::thread::sleep(std::time::Duration::from_millis(12));
    let mut moved = Vec::new();
    let mut step = |name: &str, label: &'static str, act: &dyn Fn()| {
        let before = times(name);
        pause();
        act();
        let after = times(name);
        moved.push((label, before.0 < after.0, before.1 < after.1));
    };
    step("log", "write", &|| {
        let mut file = OpenOptions::new().append(true).open(s.path("log")).expect("open");
        file.write_all(b"x").expect("write");
    });
    step("log", "read", &|| drop(fs::read(s.path("log")).expect("read")));
    step("log", "chmod", &|| {
        fs::set_permissions(s.path("log"), fs::Permissions::from_mode(0o600)).expect("chmod");
    });
    step("d", "create in", &|| fs::write(s.path("d/new"), b"").expect("write"));
    step("d", "unlink in", &|| fs::remove_file(s.path("d/new")).expect("unlink"));
    step("log", "truncate to its size", &|| {
        let file = OpenOptions::new().write(true).open(s.path("log")).expect("open");
        file.set_len(file.metadata().expect("stat").len()).expect("truncate");
    });
    step("log", "rename", &|| {
        fs::rename(s.path("log"), s.path("log2")).expect("rename");
        fs::rename(s.path("log2"), s.path("log")).expect("rename back");
    });
    s.note("what moves mtime and ctime", io::Result::Ok(moved));
}

fn open_while_unlinked(s: &mut Scribe) {
    let path = s.path("ghost");
    let mut file =
        OpenOptions::new().read(true).write(true).create_new(true).open(&path).expect("ghost");
    s.note("write", file.write_all(b"still "));
    s.note("unlink open", fs::remove_file(&path));
    s.stat("ghost");
    s.note("write on", file.write_all(b"here"));
    s.note("nlink of a ghost", file.metadata().map(|m| (m.nlink(), m.len())));
    s.note("seek", file.seek(SeekFrom::Start(0)));
    let mut text = String::new();
    s.note("read on", file.read_to_string(&mut text).map(|_| text));
    s.note("chmod a ghost", file.set_permissions(fs::Permissions::from_mode(0o600)));
    s.note("truncate a ghost", file.set_len(2));
    s.note("new file, old name", fs::write(&path, b"new"));
    s.note("size of the ghost", file.metadata().map(|m| m.len()));
    let second = File::open(&path).expect("second");
    s.note(
        "rename over open",
        fs::write(s.path("over"), b"over").and_then(|()| fs::rename(s.path("over"), &path)),
    );
    let mut text = String::new();
    s.note("the replaced file", (&second).read_to_string(&mut text).map(|_| text));
    s.note("the replacing file", fs::read_to_string(&path));
}

fn names(s: &mut Scribe) {
    let longest = "n".repeat(255);
    s.note("longest name", fs::write(s.path(&longest), b"x"));
    s.note("name too long", fs::write(s.path(&"n".repeat(256)), b"x"));
    s.note("mkdir too long", fs::create_dir(s.path(&"n".repeat(256))));
    let odd = OsStr::from_bytes(b"odd \xff\xfe \n name");
    s.note("odd name", fs::write(s.root.join(odd), b"odd"));
    s.note("odd name back", fs::read(s.root.join(odd)));
    s.note("trailing slash", fs::write(s.path("slash/"), b"x"));
    s.list("");
    s.note("unlink odd", fs::remove_file(s.root.join(odd)));
    s.note("unlink longest", fs::remove_file(s.path(&longest)));
}

fn special_files(s: &mut Scribe) {
    use rustix::fs::{FileType, Mode, mknodat};
    let make = |name: &str, kind, device| {
        mknodat(CWD, s.path(name), kind, Mode::from_raw_mode(0o644), device)
    };
    let made = [
        ("fifo", make("fifo", FileType::Fifo, 0)),
        ("socket", make("socket", FileType::Socket, 0)),
        ("plain", make("plain", FileType::RegularFile, 0)),
        ("device", make("device", FileType::CharacterDevice, rustix::fs::makedev(1, 3))),
        ("fifo again", make("fifo", FileType::Fifo, 0)),
    ];
    for (label, result) in made {
        s.note(label, result);
    }
    for name in ["fifo", "socket", "plain", "device"] {
        s.stat(name);
    }
    s.note("device number", fs::metadata(s.path("device")).map(|m| m.rdev()));
}

fn large_directory(s: &mut Scribe) {
    s.note("mkdir", fs::create_dir(s.path("many")));
    for i in 0..1000 {
        fs::write(s.path(&format!("many/file-{i:04}")), b"").expect("create");
    }
    let mut seen = Vec::new();
    for (i, entry) in fs::read_dir(s.path("many")).expect("open").enumerate() {
        let name = entry.expect("entry").file_name();
        if i % 2 == 0 {
            // Unlinking while reading must not make others disappear or come twice.
            fs::remove_file(s.path("many").join(&name)).expect("unlink");
        }
        seen.push(name);
    }
    seen.sort();
    seen.dedup();
    s.note("each seen once", io::Result::Ok(seen.len()));
    let left = fs::read_dir(s.path("many")).map(Iterator::count);
    s.note("half is left", left);
    s.note("remove all", fs::remove_dir_all(s.path("many")));
    s.stat("many");
}
