//! What is asked of every file when the model and the file service are compared as a whole.

use bftfs_fs::{Ino, Operation, Touch};

/// Most bytes of a directory's listing.
const LISTING_BYTES_MAX: u32 = 1 << 20;

/// All that can be seen of a file without its name: the first `length` bytes of its contents, and
/// the attributes with these names among the rest. Some of it is refused, depending on its kind.
pub fn looks<'a>(
    ino: Ino,
    length: u32,
    xattrs: &'a [&'static str],
) -> impl Iterator<Item = Operation> + use<'a> {
    let (touch, bytes_max) = (Touch::Never, LISTING_BYTES_MAX);
    let looks = [
        Operation::Getattr { ino },
        Operation::Read { ino, offset: 0, length, touch },
        Operation::Readlink { ino, touch },
        Operation::Listxattr { ino },
        Operation::Readdir { ino, cookie: 0, bytes_max, plus: true, touch },
    ];
    let values = xattrs.iter().map(move |&name| Operation::Getxattr { ino, name: name.into() });
    looks.into_iter().chain(values)
}
