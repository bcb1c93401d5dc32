//! Access control lists, as users of a mount meet them.

use std::fs;
use std::path::Path;

use bftfs_mount::volume::Mode;
use rustix::fs::{XattrFlags, setxattr};

use crate::double::Double;
use crate::kernel::{as_user, chmod};
use crate::mounted::{Mounted, has_fuse};
use crate::script::xattr::acl;

const NO_ID: u32 = u32::MAX;

/// Makes a file or a directory with a file in it, and gives it an ACL that grants `named` to user
/// 1001, `group` to the owning group and `other` to group 2002, all limited by `mask`.
fn grant(path: &Path, [named, group, other, mask]: [u16; 4]) {
    let entries = [
        (1, 7, NO_ID),
        (2, named, 1001),
        (4, group, NO_ID),
        (8, other, 2002),
        (16, mask, NO_ID),
        (32, 0, NO_ID),
    ];
    let set = setxattr(path, "system.posix_acl_access", &acl(&entries), XattrFlags::empty());
    set.expect("the file system has ACLs");
}

fn lay_out(root: &Path) {
    chmod(root, 0o755);
    for (name, permissions) in [
        ("user", [6, 0, 0, 7]),
        ("user-masked", [7, 0, 0, 4]),
        ("user-not", [0, 7, 7, 7]),
        ("all", [7, 7, 7, 7]),
    ] {
        fs::write(root.join(name), b"#!/bin/sh\nexit 7\n").expect("write");
        grant(&root.join(name), permissions);
        let directory = root.join(format!("{name}-dir"));
        fs::create_dir(&directory).expect("mkdir");
        fs::write(directory.join("inside"), b"inside").expect("write");
        grant(&directory, permissions);
    }
    // No entry for the user: the group's counts.
    fs::write(root.join("group"), b"contents").expect("write");
    let entries = [(1, 6, NO_ID), (4, 0, NO_ID), (8, 6, 2002), (16, 4, NO_ID), (32, 0, NO_ID)];
    let set = setxattr(
        root.join("group"),
        "system.posix_acl_access",
        &acl(&entries),
        XattrFlags::empty(),
    );
    set.expect("the file system has ACLs");
}

const SCRIPT: &str = r#"
    try() { "$@" >/dev/null 2>&1; echo "$*: $?"; }
    for name in user user-masked user-not all group; do
        try cat $name; try sh -c "echo x >> $name"; try test -r $name; try test -w $name
        try test -x $name; try ./$name; try truncate -s 100 $name; try touch $name
        try chmod 777 $name; stat -c '%n %a' $name
    done
    for name in user user-masked user-not all; do
        try ls $name-dir; try cat $name-dir/inside; try touch $name-dir/new; try cd $name-dir
        try mkdir $name-dir/new-dir; try mv $name-dir/new $name-dir/moved; try rm $name-dir/moved
        try chmod 777 $name-dir; stat -c '%n %a' $name-dir
    done
"#;

#[test]
fn users_get_what_acls_grant_as_on_a_local_file_system() {
    if !has_fuse() {
        return;
    }
    let local = tempfile::tempdir().expect("temporary directory");
    lay_out(local.path());
    let expected = as_user(local.path(), SCRIPT);
    assert!(expected.lines().count() > 70, "{expected}");
    for (mode, option) in
        [(Mode::Strict, "rw"), (Mode::RoLookup, "rw"), (Mode::RoLookup, "default_permissions")]
    {
        let mount = Mounted::with_option(&Double::default(), mode, option);
        lay_out(mount.path());
        let seen = as_user(mount.path(), SCRIPT);
        for (expected, seen) in expected.lines().zip(seen.lines()) {
            assert_eq!(expected, seen, "left: local file system, right: {mode} mount, {option}");
        }
        assert_eq!(expected.lines().count(), seen.lines().count(), "{seen}");
    }
}
