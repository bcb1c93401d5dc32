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
    /// A value or an access control list is too long.
    E2BIG = 7, "argument list too long";
    /// The name of an attribute is empty or too long.
    ERANGE = 34, "numerical result out of range";
    /// The file has no such attribute.
    ENODATA = 61, "no data available";
    /// No file of this kind, or none at all, has such attributes.
    EOPNOTSUPP = 95, "operation not supported";
    /// No data from there on to the end of the file, or beyond the end.
    ENXIO = 6, "no such device or address";
    /// A lock of another owner is in the way.
    EAGAIN = 11, "locked by another";
    /// Whoever holds the lock waits, directly or not, for the one who asks.
    EDEADLK = 35, "deadlock avoided";
    /// The file or the session has as many locks as it can have.
    ENOLCK = 37, "too many locks";
    /// The client may change nothing.
    EROFS = 30, "read-only file system";
    /// The index of names is being built: ask again.
    EBUSY = 16, "not ready yet";
}
