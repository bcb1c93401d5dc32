//! Modes, owners, sizes and times.

use anyhow::Result;
use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, Uid,
    chmodat, chownat, fchmod, fchown, fstat, ftruncate, futimens, mkdirat, mknodat, openat, statat,
    symlinkat, utimensat,
};
use rustix::io::{pread, pwrite};

use super::same_as_local;
use crate::lab::{MODES, with_cluster};
use crate::transcript::Script;

#[test]
fn modes_and_owners_change_as_on_a_local_directory() {
    same_as_local(|s| {
        populate(s);
        for mode in [0o000, 0o600, 0o7777, 0o4755, 0o2755, 0o1777, 0o644] {
            for name in ["file", "dir"] {
                s.run(&format!("chmod {name} {mode:o}"), |d| {
                    chmodat(d, name, Mode::from(mode), AtFlags::empty())
                });
                s.stat(name);
            }
        }
        s.moves("chmod", "file", |d| chmodat(d, "file", Mode::from(0o640), AtFlags::empty()));
        s.run("chmod through a link", |d| chmodat(d, "link", Mode::from(0o600), AtFlags::empty()));
        s.run("chmod missing", |d| chmodat(d, "missing", Mode::from(0o600), AtFlags::empty()));
        owners(s)
    });
}

#[test]
fn sizes_change_as_on_a_local_directory() {
    same_as_local(|s| {
        populate(s);
        let file = s.open("open file", |d| openat(d, "file", OFlags::RDWR, Mode::empty()))?;
        s.run("write", |_| pwrite(&file, b"hello, world", 0));
        for size in [5, 20, 0, 1 << 20, (1 << 32) + 7, 12] {
            s.moves(&format!("ftruncate {size}"), "file", |_| ftruncate(&file, size));
            s.stat("file");
        }
        let mut bytes = [0xff; 32];
        s.run("read what was cut and grown", |_| pread(&file, &mut bytes, 0));
        s.note("it is", bytes);
        s.moves("a truncate to the same size", "file", |_| ftruncate(&file, 12));
        let reader = s.open("open", |d| openat(d, "file", OFlags::RDONLY, Mode::empty()))?;
        s.run("ftruncate of a reader", |_| ftruncate(&reader, 1));
        for name in ["file", "dir", "missing", "link"] {
            let flags = OFlags::WRONLY | OFlags::TRUNC;
            s.try_open(&format!("open {name} to truncate"), |d| {
                openat(d, name, flags, Mode::empty())
            });
            s.stat(name);
        }
        Ok(())
    });
}

#[test]
fn times_are_set_to_the_nanosecond_as_on_a_local_directory() {
    same_as_local(|s| {
        populate(s);
        let times = [
            (0, 0),
            (1_000_000_000, 123_456_789),
            (1_700_000_000, 999_999_999),
            (2_147_483_648, 1),
            (-1, 500_000_000),
        ];
        for (tv_sec, tv_nsec) in times {
            let time = Timespec { tv_sec, tv_nsec };
            let both = Timestamps { last_access: time, last_modification: time };
            for (name, flags) in [
                ("file", AtFlags::empty()),
                ("dir", AtFlags::empty()),
                ("link", AtFlags::SYMLINK_NOFOLLOW),
            ] {
                s.run(&format!("utimensat {name} {tv_sec}.{tv_nsec}"), |d| {
                    utimensat(d, name, &both, flags)?;
                    let stat = statat(d, name, AtFlags::SYMLINK_NOFOLLOW)?;
                    Ok((stat.st_atime, stat.st_atime_nsec, stat.st_mtime, stat.st_mtime_nsec))
                });
            }
        }
        omitted_and_current_times(s)
    });
}

#[test]
fn reads_move_atime_as_the_mode_says() {
    with_cluster(4, |lab| {
        for mode in MODES {
            let mount = lab.mount(mode.name(), mode)?;
            let path = mount.point().join(format!("file-{}", mode.name()));
            std::fs::write(&path, "x")?;
            let past = Timespec { tv_sec: 1_000_000_000, tv_nsec: 1 };
            let both = Timestamps { last_access: past, last_modification: past };
            utimensat(CWD, &path, &both, AtFlags::empty())?;
            assert_eq!(std::fs::read(&path)?, b"x");
            let stat = rustix::fs::stat(&path)?;
            let moved = (stat.st_atime, stat.st_atime_nsec) != (past.tv_sec, 1);
            assert_eq!(moved, mode != bftfs_dev::Mode::RoLookup, "{mode:?}");
            assert_eq!(std::fs::read(&path)?, b"x");
            let again = rustix::fs::stat(&path)?;
            let moved =
                (again.st_atime, again.st_atime_nsec) != (stat.st_atime, stat.st_atime_nsec);
            assert_eq!(moved, mode == bftfs_dev::Mode::Strict, "{mode:?}: read since");
            assert_eq!(stat.st_mtime, past.tv_sec, "a read does not modify");
            mount.unmount()?;
        }
        Ok(())
    });
}

fn populate(s: &mut Script) {
    s.run("mknod file", |d| mknodat(d, "file", FileType::RegularFile, Mode::from(0o644), 0));
    s.run("mkdir dir", |d| mkdirat(d, "dir", Mode::from(0o755)));
    s.run("symlink link", |d| symlinkat("file", d, "link"));
}

fn owners(s: &mut Script) -> Result<()> {
    let (uid, gid) = (Some(Uid::from_raw(1234)), Some(Gid::from_raw(4321)));
    for (name, owner, group) in
        [("file", uid, gid), ("file", None, Some(Gid::from_raw(5))), ("dir", uid, None)]
    {
        s.run("chmod 6755", |d| chmodat(d, name, Mode::from(0o6755), AtFlags::empty()));
        s.run(&format!("chown {name} {owner:?} {group:?}"), |d| {
            chownat(d, name, owner, group, AtFlags::empty())
        });
        s.stat(name);
    }
    s.moves("chown", "file", |d| chownat(d, "file", uid, gid, AtFlags::empty()));
    s.run("lchown", |d| chownat(d, "link", uid, gid, AtFlags::SYMLINK_NOFOLLOW));
    s.stat("link");
    let file = s.open("open file", |d| openat(d, "file", OFlags::RDWR, Mode::empty()))?;
    s.run("fchmod", |_| fchmod(&file, Mode::from(0o604)));
    s.run("fchown", |_| fchown(&file, Some(Uid::ROOT), Some(Gid::ROOT)));
    s.stat("file");
    s.run("fstat", |_| fstat(&file).map(|stat| (stat.st_mode, stat.st_uid, stat.st_gid)));
    Ok(())
}

fn omitted_and_current_times(s: &mut Script) -> Result<()> {
    let past = Timespec { tv_sec: 1_000_000_000, tv_nsec: 42 };
    let omit = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
    let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
    let file = s.open("open file", |d| openat(d, "file", OFlags::RDWR, Mode::empty()))?;
    for (what, last_access, last_modification) in [
        ("both to the past", past, past),
        ("mtime now", omit, now),
        ("atime to the past", past, omit),
        ("atime now", now, omit),
        ("mtime to the past", omit, past),
        ("neither", omit, omit),
    ] {
        s.run(what, |_| {
            futimens(&file, &Timestamps { last_access, last_modification })?;
            let stat = fstat(&file)?;
            // Whether a time is the one of the past or one of today.
            Ok((stat.st_atime == past.tv_sec, stat.st_mtime == past.tv_sec))
        });
    }
    Ok(())
}
