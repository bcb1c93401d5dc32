//! Extended attributes and access control lists.

use anyhow::Result;
use rustix::fs::{
    Access, AtFlags, FileType, Mode, OFlags, XattrFlags, accessat, chmodat, fgetxattr, flistxattr,
    fremovexattr, fsetxattr, mkdirat, mknodat, openat, unlinkat,
};
use rustix::io::{self, write};

use super::same_as_local;
use crate::transcript::Script;

const USER: u32 = 4242;
const GROUP: u32 = 4343;
const ACCESS: &str = "system.posix_acl_access";
const DEFAULT: &str = "system.posix_acl_default";
const NO_ID: u32 = u32::MAX;

/// An ACL as Linux encodes it, of entries with tag, permissions and id.
fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let entry = |(tag, permissions, id): &(u16, u16, u32)| {
        [&tag.to_le_bytes()[..], &permissions.to_le_bytes(), &id.to_le_bytes()].concat()
    };
    [vec![2, 0, 0, 0], entries.iter().flat_map(entry).collect()].concat()
}

/// Grants `named` to the user and `group` to the owning group, limited by `mask`.
fn granting(named: u16, group: u16, mask: u16) -> Vec<u8> {
    acl(&[(1, 6, NO_ID), (2, named, USER), (4, group, NO_ID), (16, mask, NO_ID), (32, 0, NO_ID)])
}

fn set(s: &mut Script, name: &str, attribute: &str, value: &[u8], flags: XattrFlags) {
    s.run(&format!("set {attribute} of {name} {flags:?}"), |d| {
        let file = openat(d, name, OFlags::RDONLY, Mode::empty())?;
        fsetxattr(file, attribute, value, flags)
    });
}

fn get(s: &mut Script, name: &str, attribute: &str) {
    s.run(&format!("{attribute} of {name}"), |d| {
        let file = openat(d, name, OFlags::RDONLY, Mode::empty())?;
        let mut room = [0; 256];
        let length = fgetxattr(file, attribute, &mut room[..])?;
        io::Result::Ok(room[..length].to_vec())
    });
}

fn list(s: &mut Script, name: &str) {
    s.run(&format!("attributes of {name}"), |d| {
        let file = openat(d, name, OFlags::RDONLY, Mode::empty())?;
        let mut room = [0; 256];
        let length = flistxattr(file, &mut room[..])?;
        let names = room[..length].split_inclusive(|byte| *byte == 0);
        let mut names: Vec<_> = names.map(<[u8]>::to_vec).collect();
        names.sort();
        io::Result::Ok(names)
    });
}

fn populate(s: &mut Script) {
    s.run("mkdir", |d| mkdirat(d, "dir", Mode::from(0o755)));
    s.run("mknod", |d| mknodat(d, "file", FileType::RegularFile, Mode::from(0o664), 0));
}

#[test]
fn attributes_are_kept_as_on_a_local_directory() {
    same_as_local(|s| {
        populate(s);
        for name in ["file", "dir"] {
            for attribute in ["user.a", "trusted.a", "security.a", "other.a"] {
                set(s, name, attribute, b"v", XattrFlags::REPLACE);
                set(s, name, attribute, b"v", XattrFlags::CREATE);
                set(s, name, attribute, b"v", XattrFlags::CREATE);
                set(s, name, attribute, b"value", XattrFlags::empty());
                get(s, name, attribute);
            }
            list(s, name);
            s.moves("set", name, |d| {
                let file = openat(d, name, OFlags::RDONLY, Mode::empty())?;
                fsetxattr(file, "user.a", b"moves", XattrFlags::empty())
            });
            s.moves("remove", name, |d| {
                let file = openat(d, name, OFlags::RDONLY, Mode::empty())?;
                fremovexattr(file, "user.a")
            });
            get(s, name, "user.a");
        }
        s.as_user(USER, GROUP, |s| {
            for attribute in ["user.a", "trusted.a", "security.a", ACCESS] {
                set(s, "file", attribute, b"v", XattrFlags::empty());
                get(s, "file", attribute);
            }
            list(s, "file");
            Ok(())
        })
    });
}

#[test]
fn access_lists_grant_what_they_grant_on_a_local_directory() {
    same_as_local(|s| {
        populate(s);
        for (named, group, mask) in [(6, 0, 7), (6, 7, 4), (0, 7, 7), (7, 0, 1)] {
            for name in ["file", "dir"] {
                set(s, name, ACCESS, &granting(named, group, mask), XattrFlags::empty());
                get(s, name, ACCESS);
                s.stat(name);
            }
            s.as_user(USER, GROUP, tries)?;
        }
        for mode in [0o640, 0o604, 0o777] {
            s.run("chmod", |d| chmodat(d, "file", Mode::from(mode), AtFlags::empty()));
            get(s, "file", ACCESS);
            s.stat("file");
        }
        handed_down(s)
    });
}

fn tries(s: &mut Script) -> Result<()> {
    for access in [Access::READ_OK, Access::WRITE_OK, Access::EXEC_OK] {
        for name in ["file", "dir"] {
            s.run(&format!("access {name} {access:?}"), |d| {
                accessat(d, name, access, AtFlags::empty())
            });
        }
    }
    for flags in [OFlags::RDONLY, OFlags::WRONLY, OFlags::RDWR] {
        let file =
            s.try_open(&format!("open {flags:?}"), |d| openat(d, "file", flags, Mode::empty()));
        if let Some(file) = file {
            s.run("write", |_| write(&file, b"x"));
        }
    }
    s.run("mkdir", |d| mkdirat(d, "dir/sub", Mode::from(0o755)));
    s.run("rmdir", |d| unlinkat(d, "dir/sub", AtFlags::REMOVEDIR));
    Ok(())
}

fn handed_down(s: &mut Script) -> Result<()> {
    set(s, "dir", DEFAULT, &granting(7, 7, 7), XattrFlags::empty());
    set(s, "file", DEFAULT, &granting(7, 7, 7), XattrFlags::empty());
    s.run("mkdir", |d| mkdirat(d, "dir/sub", Mode::from(0o777)));
    s.open("create", |d| openat(d, "dir/file", OFlags::CREATE | OFlags::RDWR, Mode::from(0o666)))?;
    s.run("mknod", |d| mknodat(d, "dir/fifo", FileType::Fifo, Mode::from(0o666), 0));
    s.stat("dir/fifo");
    for name in ["dir/sub", "dir/file"] {
        s.stat(name);
        get(s, name, ACCESS);
        get(s, name, DEFAULT);
        list(s, name);
    }
    Ok(())
}
