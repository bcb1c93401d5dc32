//! Making, linking, renaming and removing names.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;

use anyhow::Result;
use rustix::fs::{
    AtFlags, Dir, FileType, Mode, OFlags, RenameFlags, linkat, makedev, mkdirat, mknodat, openat,
    readlinkat, renameat, renameat_with, symlinkat, unlinkat,
};

use super::same_as_local;
use crate::transcript::Script;

const FILE: Mode = Mode::from_bits_retain(0o666);
const DIR: Mode = Mode::from_bits_retain(0o777);

#[test]
fn names_are_made_as_on_a_local_directory() {
    same_as_local(|s| {
        make_directories(s);
        make_nodes(s);
        make_odd_names(s);
        tree(s, ".")
    });
}

#[test]
fn links_are_made_and_followed_as_on_a_local_directory() {
    same_as_local(|s| {
        symbolic_links(s);
        hard_links(s);
        tree(s, ".")
    });
}

#[test]
fn names_are_removed_as_on_a_local_directory() {
    same_as_local(|s| {
        populate(s);
        for (name, flags) in [
            ("file", AtFlags::REMOVEDIR),
            ("dir", AtFlags::empty()),
            ("full", AtFlags::REMOVEDIR),
            ("missing", AtFlags::empty()),
            ("missing", AtFlags::REMOVEDIR),
            ("file/x", AtFlags::empty()),
            ("missing/x", AtFlags::REMOVEDIR),
            ("dir/.", AtFlags::REMOVEDIR),
            ("full/..", AtFlags::REMOVEDIR),
        ] {
            s.run(&format!("unlinkat {name} {flags:?}"), |d| unlinkat(d, name, flags));
        }
        s.moves("unlink", ".", |d| unlinkat(d, "file", AtFlags::empty()));
        s.moves("rmdir", ".", |d| unlinkat(d, "dir", AtFlags::REMOVEDIR));
        s.moves("unlink of one of two links", "file2", |d| {
            unlinkat(d, "file2link", AtFlags::empty())
        });
        s.stat("file2");
        tree(s, ".")
    });
}

#[test]
fn names_are_renamed_as_on_a_local_directory() {
    same_as_local(|s| {
        populate(s);
        for (from, to) in RENAMES {
            s.run(&format!("rename {from} {to}"), |d| renameat(d, *from, d, *to));
        }
        tree(s, ".")?;
        s.moves("rename", ".", |d| renameat(d, "other", d, "another"));
        for (from, to, flags) in [
            ("another", "file2", RenameFlags::NOREPLACE),
            ("another", "fresh", RenameFlags::NOREPLACE),
            ("fresh", "full", RenameFlags::EXCHANGE),
            ("fresh", "missing", RenameFlags::EXCHANGE),
        ] {
            s.run(&format!("renameat2 {from} {to} {flags:?}"), |d| {
                renameat_with(d, from, d, to, flags)
            });
        }
        tree(s, ".")
    });
}

/// In this order, on what [`populate`] makes.
const RENAMES: &[(&str, &str)] = &[
    ("file", "moved"),
    ("missing", "x"),
    ("moved", "missing/x"),
    ("moved", "other"),
    ("other", "dir"),
    ("dir", "other"),
    ("dir", "full"),
    ("full", "full/inner/x"),
    ("full", "dir"),
    ("dir", "dir"),
    ("other", "dir/child/.."),
    ("file2", "file2link"),
    ("dir/child", "full"),
    ("other", "dir/moved-in"),
    ("dir/moved-in", "other"),
    ("dangling", "dangling2"),
    (".", "x"),
];

fn populate(s: &mut Script) {
    for name in ["file", "other", "file2"] {
        s.run(&format!("mknod {name}"), |d| mknodat(d, name, FileType::RegularFile, FILE, 0));
    }
    for name in ["dir", "full", "full/child"] {
        s.run(&format!("mkdir {name}"), |d| mkdirat(d, name, DIR));
    }
    s.run("link", |d| linkat(d, "file2", d, "file2link", AtFlags::empty()));
    s.run("symlink", |d| symlinkat("nowhere", d, "dangling"));
}

fn make_directories(s: &mut Script) {
    for (name, mode) in
        [("a", 0o777), ("a", 0o777), ("a/b", 0o700), ("missing/x", 0o777), ("", 0o777)]
    {
        s.run(&format!("mkdir {name} {mode:o}"), |d| mkdirat(d, name, Mode::from(mode)));
    }
    s.moves("mkdir in a", "a", |d| mkdirat(d, "a/c", Mode::from(0o1777)));
    for name in [".", "..", "a/.", "a/b/.."] {
        s.run(&format!("mkdir {name}"), |d| mkdirat(d, name, DIR));
    }
}

fn make_nodes(s: &mut Script) {
    for (name, kind) in [
        ("regular", FileType::RegularFile),
        ("fifo", FileType::Fifo),
        ("socket", FileType::Socket),
        ("device", FileType::CharacterDevice),
        ("block", FileType::BlockDevice),
        ("regular", FileType::Fifo),
        ("regular/x", FileType::RegularFile),
        ("missing/x", FileType::RegularFile),
    ] {
        let device = match kind {
            FileType::CharacterDevice | FileType::BlockDevice => makedev(7, 300),
            _ => 0,
        };
        s.run(&format!("mknod {name} {kind:?}"), |d| mknodat(d, name, kind, FILE, device));
    }
    s.run("mkdir under a file", |d| mkdirat(d, "regular/x", DIR));
    let create = OFlags::CREATE | OFlags::WRONLY;
    for (name, flags) in [
        ("created", create | OFlags::EXCL),
        ("created", create | OFlags::EXCL),
        ("created", create),
        ("missing/x", create),
        ("regular/x", create),
        ("a", create),
    ] {
        s.try_open(&format!("open {name} {flags:?}"), |d| openat(d, name, flags, FILE));
    }
}

fn make_odd_names(s: &mut Script) {
    let longest = "n".repeat(255);
    let too_long = "n".repeat(256);
    let names: [&[u8]; 7] = [
        longest.as_bytes(),
        too_long.as_bytes(),
        b"with space",
        b"line\nend",
        "\u{fc}nic\u{f6}de \u{1f980}".as_bytes(),
        b"not \xff\xfe utf-8",
        b"...",
    ];
    for name in names {
        let name = OsStr::from_bytes(name);
        s.run(&format!("mknod {name:?}"), |d| mknodat(d, name, FileType::RegularFile, FILE, 0));
    }
}

fn symbolic_links(s: &mut Script) {
    s.run("mknod file", |d| mknodat(d, "file", FileType::RegularFile, FILE, 0));
    s.run("mkdir dir", |d| mkdirat(d, "dir", DIR));
    let longest = "t".repeat(4095);
    let too_long = "t".repeat(4096);
    for (target, name) in [
        ("file", "to-file"),
        ("dir", "to-dir"),
        ("nowhere", "to-nothing"),
        ("loop", "loop"),
        ("../weird//./target", "weird"),
        (&longest, "longest"),
        (&too_long, "too-long"),
        ("", "empty"),
        ("file", "to-file"),
        ("file", "missing/x"),
    ] {
        s.run(&format!("symlink {name}"), |d| symlinkat(target, d, name));
    }
    for name in ["to-file", "to-nothing", "weird", "longest", "file", "dir", "missing"] {
        s.run(&format!("readlink {name}"), |d| readlinkat(d, name, Vec::new()));
        s.stat(name);
    }
    for name in ["to-file", "to-dir", "to-nothing", "loop", "to-dir/x", "to-file/x"] {
        s.try_open(&format!("open {name}"), |d| openat(d, name, OFlags::RDONLY, Mode::empty()));
    }
    let no_follow = OFlags::RDONLY | OFlags::NOFOLLOW;
    s.try_open("open a link, not following", |d| openat(d, "to-file", no_follow, Mode::empty()));
    s.run("mkdir through a link", |d| mkdirat(d, "to-dir/made", DIR));
    s.stat("dir/made");
}

fn hard_links(s: &mut Script) {
    s.run("mknod one", |d| mknodat(d, "one", FileType::RegularFile, FILE, 0));
    s.moves("link", "one", |d| linkat(d, "one", d, "two", AtFlags::empty()));
    s.stat("one");
    s.stat("two");
    for (from, to) in
        [("one", "two"), ("missing", "x"), ("dir", "x"), ("one", "missing/x"), ("to-nothing", "y")]
    {
        s.run(&format!("link {from} {to}"), |d| linkat(d, from, d, to, AtFlags::empty()));
    }
    s.run("link of what a link names", |d| {
        linkat(d, "to-file", d, "file-too", AtFlags::SYMLINK_FOLLOW)
    });
    s.stat("file");
    s.stat("to-nothing");
    s.run("rename of one link over the other", |d| renameat(d, "one", d, "two"));
    s.stat("one");
    s.stat("two");
}

/// Writes down every name below `dir` and its attributes.
fn tree(s: &mut Script, dir: &str) -> Result<()> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY;
    let open = openat(s.dir(), dir, flags, Mode::empty())?;
    let mut names = Vec::new();
    for entry in Dir::read_from(open)? {
        let entry = entry?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes()).to_owned();
        if name != "." && name != ".." {
            names.push((name, entry.file_type()));
        }
    }
    names.sort_by(|(a, _), (b, _)| a.cmp(b));
    for (name, kind) in names {
        s.note(&format!("in {dir}"), (&name, kind));
        let Some(name) = name.to_str() else { continue };
        let path = format!("{dir}/{name}");
        s.stat(&path);
        if kind == FileType::Directory {
            tree(s, &path)?;
        }
    }
    Ok(())
}
