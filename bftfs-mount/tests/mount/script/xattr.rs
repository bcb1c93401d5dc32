//! Extended attributes and access control lists, as far as every local file system has them.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::process::Command;

use rustix::fs::{
    CWD, FileType, Mode, XattrFlags, getxattr, lgetxattr, listxattr, llistxattr, lremovexattr,
    lsetxattr, mknodat, removexattr, setxattr,
};

use super::Scribe;

const ACCESS: &str = "system.posix_acl_access";
const DEFAULT: &str = "system.posix_acl_default";
const CAPABILITY: &str = "security.capability";
const BASIC: [(u16, u16, u32); 3] = [(1, 7, u32::MAX), (4, 5, u32::MAX), (32, 4, u32::MAX)];

/// An ACL as Linux encodes it, of entries with tag, permissions and id.
pub(crate) fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut bytes = vec![2, 0, 0, 0];
    for (tag, permissions, id) in entries {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(permissions.to_le_bytes());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

impl Scribe {
    fn set(&mut self, name: &str, attribute: &str, value: &[u8], flags: XattrFlags) {
        let set = lsetxattr(self.path(name), attribute, value, flags);
        self.note(&format!("set {attribute:.20} of {name}, {flags:?}"), set);
    }

    fn get(&mut self, name: &str, attribute: &str) {
        let mut room = [0; 4096];
        let got = lgetxattr(self.path(name), attribute, &mut room[..]);
        self.note(&format!("{attribute:.20} of {name}"), got.map(|length| &room[..length]));
    }

    fn list_attributes(&mut self, name: &str) {
        let mut room = [0; 4096];
        let listed = llistxattr(self.path(name), &mut room[..]).map(|length| {
            let names = room[..length].split_inclusive(|byte| *byte == 0);
            let mut names: Vec<_> = names.map(String::from_utf8_lossy).collect();
            names.sort();
            names
        });
        self.note(&format!("attributes of {name}"), listed);
    }

    fn remove_attribute(&mut self, name: &str, attribute: &str) {
        let removed = lremovexattr(self.path(name), attribute);
        self.note(&format!("remove {attribute:.20} of {name}"), removed);
    }
}

pub(super) fn attributes(s: &mut Scribe) {
    s.note("attr", fs::create_dir(s.path("attr")));
    s.note("attr/f", fs::write(s.path("attr/f"), b"contents"));
    s.note("attr/l", symlink("f", s.path("attr/l")));
    let fifo = mknodat(CWD, s.path("attr/p"), FileType::Fifo, Mode::from(0o644), 0);
    s.note("attr/p", fifo);
    for name in ["attr/f", "attr", "attr/l", "attr/p"] {
        for attribute in ["user.a", "trusted.a", "security.a"] {
            s.get(name, attribute);
            for flags in [XattrFlags::REPLACE, XattrFlags::CREATE, XattrFlags::CREATE] {
                s.set(name, attribute, b"value", flags);
            }
            s.set(name, attribute, b"", XattrFlags::empty());
            s.get(name, attribute);
            s.set(name, attribute, &[7; 1000], XattrFlags::empty());
            s.get(name, attribute);
        }
        s.list_attributes(name);
        s.remove_attribute(name, "user.a");
        s.remove_attribute(name, "user.a");
        s.list_attributes(name);
    }
    let long = format!("user.{}", "x".repeat(250));
    for attribute in ["user.", "user", "other.a", "system.a", "", &long, &format!("{long}x")] {
        s.set("attr/f", attribute, b"v", XattrFlags::empty());
        s.get("attr/f", attribute);
        s.remove_attribute("attr/f", attribute);
    }
    s.set("attr/f", "user.b", &vec![0; 65_537], XattrFlags::empty());
    s.set("attr/none", "user.b", b"v", XattrFlags::empty());
    rooms(s);
    capabilities(s);
    access_acls(s);
    default_acls(s);
}

fn rooms(s: &mut Scribe) {
    let file = s.path("attr/l");
    s.note("set through a link", setxattr(&file, "user.r", b"four", XattrFlags::empty()));
    for room in [0, 3, 4, 9] {
        let mut room = vec![0; room];
        s.note(&format!("room {}", room.len()), getxattr(&file, "user.r", &mut room[..]));
        s.note("was filled", Ok::<_, std::io::Error>(room));
    }
    for room in [0, 9, 4096] {
        s.note(&format!("list {room}"), listxattr(&file, &mut vec![0; room][..]));
    }
    s.note("remove through a link", removexattr(&file, "user.r"));
}

fn capabilities(s: &mut Scribe) {
    // VFS_CAP_REVISION_2 with CAP_NET_RAW permitted.
    let capabilities = [&[0, 0, 0, 2, 0, 0x20, 0, 0][..], &[0; 12]].concat();
    let file = s.path("attr/f");
    let changes: [(&str, &dyn Fn() -> std::io::Result<()>); 5] = [
        ("append", &|| OpenOptions::new().append(true).open(&file)?.write_all(b"x")),
        ("truncate", &|| OpenOptions::new().write(true).open(&file)?.set_len(3)),
        ("open and truncate", &|| File::create(&file).map(drop)),
        ("chown", &|| chown(&file, Some(0), None)),
        ("chmod", &|| fs::set_permissions(&file, fs::Permissions::from_mode(0o755))),
    ];
    for (what, change) in changes {
        s.set("attr/f", CAPABILITY, &capabilities, XattrFlags::empty());
        s.get("attr/f", CAPABILITY);
        s.note(what, change());
        s.get("attr/f", CAPABILITY);
    }
    s.remove_attribute("attr/f", CAPABILITY);
}

fn access_acls(s: &mut Scribe) {
    let with = |more: &[(u16, u16, u32)]| {
        let mut entries = [&BASIC[..], more].concat();
        entries.sort_by_key(|(tag, _, id)| (*tag, *id));
        acl(&entries)
    };
    let mask = (16, 6, u32::MAX);
    for name in ["attr/f", "attr", "attr/p", "attr/l"] {
        for value in [
            with(&[]),
            with(&[mask]),
            with(&[(2, 7, 5), (2, 1, 6), (8, 3, 9), mask]),
            with(&[(2, 7, 5)]),
            with(&[(2, 8, 5), mask]),
            with(&[(64, 0, 5)]),
            acl(&[]),
            acl(&BASIC[1..]),
            b"\x02\0\0".to_vec(),
            b"\x01\0\0\0".to_vec(),
            with(&[(2, 7, 5), mask]),
        ] {
            s.set(name, ACCESS, &value, XattrFlags::empty());
            s.get(name, ACCESS);
            s.stat(name);
        }
        s.list_attributes(name);
    }
    for mode in [0o751, 0o4640, 0o7777, 0o400] {
        s.note("chmod", fs::set_permissions(s.path("attr/f"), fs::Permissions::from_mode(mode)));
        s.get("attr/f", ACCESS);
        s.stat("attr/f");
    }
    s.remove_attribute("attr/f", ACCESS);
    s.remove_attribute("attr/f", ACCESS);
    s.get("attr/f", ACCESS);
    s.stat("attr/f");
    s.set("attr/f", DEFAULT, &with(&[]), XattrFlags::empty());
}

const MAKE: &str = "umask 027; touch f; mkdir d d/e; mkfifo p; ln -s f l; cp f g; mkdir -m 711 m";

fn default_acls(s: &mut Scribe) {
    let named = [(1, 7, u32::MAX), (2, 7, 5), (4, 5, u32::MAX), (16, 7, u32::MAX)];
    let named = acl(&[&named[..], &[(32, 5, u32::MAX)]].concat());
    for (place, default) in [("none", None), ("basic", Some(acl(&BASIC))), ("named", Some(named))] {
        let place = format!("attr/{place}");
        s.note(&place, fs::create_dir(s.path(&place)));
        if let Some(default) = default {
            s.set(&place, DEFAULT, &default, XattrFlags::empty());
            s.get(&place, DEFAULT);
            s.stat(&place);
        }
        let made = Command::new("sh").args(["-c", MAKE]).current_dir(s.path(&place)).status();
        s.note("made", made.map(|status| status.code()));
        for name in ["f", "d", "d/e", "p", "l", "g", "m"] {
            let name = format!("{place}/{name}");
            s.stat(&name);
            s.get(&name, ACCESS);
            s.get(&name, DEFAULT);
            s.list_attributes(&name);
        }
        s.remove_attribute(&place, DEFAULT);
        s.get(&place, DEFAULT);
    }
}
