//! What other users may do. The replicas decide it, unless the kernel is asked to as well.

use anyhow::Result;
use rustix::fs::{
    Access, AtFlags, Dir, FileType, Gid, Mode, OFlags, Timespec, Timestamps, UTIME_NOW, Uid,
    accessat, chmodat, chownat, linkat, mkdirat, mknodat, openat, renameat, statat, symlinkat,
    unlinkat, utimensat,
};
use rustix::io::write;

use super::same_as_local;
use crate::transcript::Script;

/// A user, and a group that is not root's.
const USER: u32 = 4242;
const GROUP: u32 = 4343;
/// Owner and group of a file, and its mode.
type Owned = (&'static str, u32, u32, u32);

const DIRS: &[Owned] = &[
    ("open", 0, 0, 0o777),
    ("closed", 0, 0, 0o755),
    ("hidden", 0, 0, 0o700),
    ("own", USER, GROUP, 0o700),
    ("groups", 0, GROUP, 0o770),
    ("search", 0, 0, 0o711),
    ("list", 0, 0, 0o744),
    ("sticky", 0, 0, 0o1777),
    ("setgid", 0, 12, 0o2777),
];
const FILES: &[Owned] = &[
    ("closed/roots", 0, 0, 0o600),
    ("closed/public", 0, 0, 0o644),
    ("closed/own", USER, GROUP, 0o640),
    ("closed/own-unreadable", USER, GROUP, 0o044),
    ("closed/groups", 0, GROUP, 0o060),
    ("closed/others", 0, 0, 0o006),
    ("hidden/file", USER, GROUP, 0o666),
    ("search/file", 0, 0, 0o644),
    ("list/file", 0, 0, 0o644),
    ("sticky/roots", 0, 0, 0o666),
    ("sticky/own", USER, GROUP, 0o600),
    ("open/roots", 0, 0, 0o644),
    ("open/suid", USER, GROUP, 0o6777),
];

#[test]
fn other_users_read_and_write_what_they_may() {
    same_as_local(|s| {
        populate(s)?;
        s.as_user(USER, GROUP, |s| {
            for (name, ..) in DIRS.iter().chain(FILES) {
                for flags in [OFlags::RDONLY, OFlags::WRONLY, OFlags::RDWR] {
                    s.try_open(&format!("open {name} {flags:?}"), |d| {
                        openat(d, *name, flags, Mode::empty())
                    });
                }
                for access in [Access::READ_OK, Access::WRITE_OK, Access::EXEC_OK] {
                    s.run(&format!("access {name} {access:?}"), |d| {
                        accessat(d, *name, access, AtFlags::empty())
                    });
                }
                s.run(&format!("stat {name}"), |d| {
                    statat(d, *name, AtFlags::empty()).map(|stat| stat.st_mode)
                });
            }
            listings(s);
            let suid = s.open("open suid", |d| openat(d, "open/suid", OFlags::RDWR, FILE))?;
            s.run("a write takes the set-user-id bit", |_| write(&suid, b"x"));
            s.stat("open/suid");
            Ok(())
        })
    });
}

#[test]
fn other_users_change_directories_that_they_may() {
    same_as_local(|s| {
        populate(s)?;
        s.as_user(USER, GROUP, |s| {
            for (dir, ..) in DIRS {
                let (file, sub, link) =
                    (format!("{dir}/new"), format!("{dir}/sub"), format!("{dir}/link"));
                s.run(&format!("mknod in {dir}"), |d| {
                    mknodat(d, file.as_str(), FileType::RegularFile, FILE, 0)
                });
                s.run(&format!("mkdir in {dir}"), |d| mkdirat(d, sub.as_str(), Mode::from(0o755)));
                s.run(&format!("symlink in {dir}"), |d| symlinkat("x", d, link.as_str()));
                s.stat(&file);
                s.stat(&sub);
            }
            // Of others the kernel may allow fewer (fs.protected_hardlinks), if it is asked at all.
            for file in ["closed/own", "sticky/own", "sticky/roots", "hidden/file", "open/none"] {
                s.run(&format!("link of {file}"), |d| {
                    linkat(d, file, d, "open/hard", AtFlags::empty())
                });
                s.run("and away", |d| unlinkat(d, "open/hard", AtFlags::empty()));
            }
            for (file, ..) in FILES {
                let moved =
                    s.run(&format!("rename of {file}"), |d| renameat(d, *file, d, "open/moved"));
                if moved.is_some() {
                    s.run("and back", |d| renameat(d, "open/moved", d, *file));
                }
                s.run(&format!("unlink of {file}"), |d| unlinkat(d, *file, AtFlags::empty()));
            }
            s.run("rmdir", |d| unlinkat(d, "sticky/sub", AtFlags::REMOVEDIR));
            s.run("rename of a directory", |d| renameat(d, "own/sub", d, "open/taken"));
            s.run("rename over a root's", |d| renameat(d, "sticky/new", d, "sticky/roots"));
            Ok(())
        })
    });
}

#[test]
fn other_users_change_attributes_of_their_own_files_only() {
    same_as_local(|s| {
        populate(s)?;
        let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
        let past = Timespec { tv_sec: 1_000_000_000, tv_nsec: 5 };
        s.as_user(USER, GROUP, |s| {
            for name in ["closed/own", "closed/public", "sticky/roots", "own", "open", "open/suid"]
            {
                s.run(&format!("chmod {name}"), |d| {
                    chmodat(d, name, Mode::from(0o2750), AtFlags::empty())
                });
                for (uid, gid) in
                    [(Some(USER), None), (Some(0), None), (None, Some(GROUP)), (None, Some(0))]
                {
                    s.run(&format!("chown {name} {uid:?} {gid:?}"), |d| {
                        let (uid, gid) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
                        chownat(d, name, uid, gid, AtFlags::empty())
                    });
                    s.stat(name);
                }
                for (what, time) in [("now", now), ("the past", past)] {
                    let both = Timestamps { last_access: time, last_modification: time };
                    s.run(&format!("times of {name} to {what}"), |d| {
                        utimensat(d, name, &both, AtFlags::empty())
                    });
                }
                s.try_open(&format!("cut {name}"), |d| {
                    openat(d, name, OFlags::WRONLY | OFlags::TRUNC, Mode::empty())
                });
            }
            Ok(())
        })
    });
}

const FILE: Mode = Mode::from_bits_retain(0o644);

fn populate(s: &mut Script) -> Result<()> {
    for (name, ..) in DIRS {
        mkdirat(s.dir(), *name, Mode::from(0o755))?;
    }
    for (name, ..) in FILES {
        mknodat(s.dir(), *name, FileType::RegularFile, FILE, 0)?;
    }
    for (name, uid, gid, mode) in FILES.iter().chain(DIRS) {
        let (uid, gid) = (Uid::from_raw(*uid), Gid::from_raw(*gid));
        chownat(s.dir(), *name, Some(uid), Some(gid), AtFlags::empty())?;
        chmodat(s.dir(), *name, Mode::from(*mode), AtFlags::empty())?;
    }
    Ok(())
}

fn listings(s: &mut Script) {
    for (name, ..) in DIRS {
        s.run(&format!("list {name}"), |d| {
            let dir = openat(d, *name, OFlags::DIRECTORY, Mode::empty())?;
            let mut names = Vec::new();
            // Reading the directory itself needs no search permission.
            for entry in Dir::new(dir)? {
                names.push(entry?.file_name().to_owned());
            }
            names.sort();
            Ok(names)
        });
    }
}
