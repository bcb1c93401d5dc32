//! Why an operation was refused.

use serde::{Deserialize, Serialize};

macro_rules! errno {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $text:literal;)*) => {
        /// Why an operation was refused, named and numbered as on Linux (errno(3)).
        #[derive(
            Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, thiserror::Error,
        )]
        pub enum Errno {
            $($(#[$doc])* #[error($text)] $name,)*
        }

        impl Errno {
            /// The number that Linux gives it on most machines (asm-generic/errno.h).
            #[must_use]
            pub const fn code(self) -> i32 {
                match self {
                    $(Self::$name => $code,)*
                }
            }
        }
    };
}

errno! {
    /// Only the owner or the superuser may do that.
    EPERM = 1, "operation not permitted";
    /// There is no such name, or the directory itself is removed.
    ENOENT = 2, "no such file or directory";
    /// The permission bits forbid it.
    EACCES = 13, "permission denied";
    /// There is such a name already.
    EEXIST = 17, "file exists";
    /// A directory was needed.
    ENOTDIR = 20, "not a directory";
    /// Anything but a directory was needed.
    EISDIR = 21, "is a directory";
    /// An argument that no operation has, or an operation that is none.
    EINVAL = 22, "invalid argument";
    /// Beyond the greatest size of a file.
    EFBIG = 27, "file too large";
    /// The agreed quota of bytes or inodes is used up.
    ENOSPC = 28, "no space left";
    /// The file has as many links as it can have.
    EMLINK = 31, "too many links";
    /// A name or a symbolic link's target is too long.
    ENAMETOOLONG = 36, "file name too long";
    /// The directory has entries.
    ENOTEMPTY = 39, "directory not empty";
    /// Directories are nested too deep.
    ELOOP = 40, "too many levels";
    /// There is no such inode any more.
    ESTALE = 116, "stale file handle";
    /// The client may change nothing.
    EROFS = 30, "read-only file system";
    /// The index of names is being built: ask again.
    EBUSY = 16, "not ready yet";
}
