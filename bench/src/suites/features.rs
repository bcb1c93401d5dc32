//! What a mount offers, asked of itself: suites do not know what is there yet.

use std::fs::{self, File};
use std::path::Path;

use anyhow::{Context as _, Result};
use rustix::fs::{FlockOperation, XattrFlags, fcntl_lock, setxattr};
use rustix::io::{self, Errno};
use serde::Serialize;

/// Something that a workload needs and not every mount has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) enum Feature {
    /// Extended attributes of users.
    #[serde(rename = "extended attributes")]
    Xattrs,
    /// POSIX access control lists.
    #[serde(rename = "ACLs")]
    Acls,
    /// Locks that other mounts see.
    #[serde(rename = "locks across mounts")]
    Locks,
}

/// `user::rw- user:1:r-- group::r-- mask::r-- other::r--` as the kernel takes it
/// (`linux/posix_acl_xattr.h`).
const ACL: [u8; 44] = [
    2, 0, 0, 0, //
    0x01, 0, 6, 0, 0xff, 0xff, 0xff, 0xff, //
    0x02, 0, 4, 0, 1, 0, 0, 0, //
    0x04, 0, 4, 0, 0xff, 0xff, 0xff, 0xff, //
    0x10, 0, 4, 0, 0xff, 0xff, 0xff, 0xff, //
    0x20, 0, 4, 0, 0xff, 0xff, 0xff, 0xff, //
];

impl Feature {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Xattrs => "extended attributes",
            Self::Acls => "ACLs",
            Self::Locks => "locks across mounts",
        }
    }

    /// Whether the file system has it whose directory is seen as `one` and, through another mount,
    /// as `two`.
    ///
    /// # Errors
    /// If it says neither yes nor no.
    pub(super) fn is_offered(self, one: &Path, two: &Path) -> Result<bool> {
        let name = "feature";
        let file = File::create(one.join(name))?;
        let answer = match self {
            Self::Xattrs => setxattr(one.join(name), "user.bftfs", b"x", XattrFlags::empty()),
            Self::Acls => {
                setxattr(one.join(name), "system.posix_acl_access", &ACL, XattrFlags::empty())
            }
            Self::Locks => locks_exclude(&file, &File::options().write(true).open(two.join(name))?),
        };
        drop(file);
        fs::remove_file(one.join(name))?;
        match answer {
            Ok(()) => Ok(true),
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::NOLCK) => Ok(false),
            Err(error) => Err(error).with_context(|| format!("asked for {}", self.name())),
        }
    }
}

/// Fails as what is not supported if two locks on one file are granted at once.
fn locks_exclude(one: &File, two: &File) -> io::Result<()> {
    fcntl_lock(one, FlockOperation::NonBlockingLockExclusive)?;
    match fcntl_lock(two, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Err(Errno::NOLCK),
        Err(Errno::AGAIN | Errno::ACCESS) => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locks_of_one_process_on_one_file_exclude_nobody() {
        let dir = tempfile::tempdir().expect("a folder");
        // fcntl(2): a process does not wait for itself.
        let answer = Feature::Locks.is_offered(dir.path(), dir.path());
        assert!(!answer.expect("a local file system answers"));
        assert_eq!(fs::read_dir(dir.path()).expect("it is there").count(), 0, "nothing is left");
    }
}
