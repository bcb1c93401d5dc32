//! The directory that is mounted on: whether it will do, how to mount there and how to let go of it.

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use fuser::{Filesystem, Session};
use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;

use crate::options::Options;
use crate::volume::Mode;

/// Why a directory cannot be mounted on, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum MountPointError {
    /// Nothing has this name.
    #[error("mount point {0} does not exist: create it first, for example with `mkdir -p {0}`")]
    Missing(String),
    /// It is a file or something else.
    #[error("mount point {0} is not a directory")]
    NotDirectory(String),
    /// Mounting would hide what is in it.
    #[error("mount point {0} is not empty: mounting would hide what is in it; choose another")]
    NotEmpty(String),
    /// Something is mounted on it.
    #[error("something is mounted on {0} already: unmount it first, for example with `umount {0}`")]
    AlreadyMounted(String),
    /// A FUSE mount whose process is gone.
    #[error(
        "mount point {0} is a stale mount, left behind by a process that is gone: \
         clear it with `fusermount3 -u {0}` (if it is in use, `fusermount3 -uz {0}`)"
    )]
    Stale(String),
    /// The system refused to look at it.
    #[error("cannot look at mount point {0}: {1}")]
    System(String, Errno),
}

/// Checks that `path` is an empty directory and no mount, and returns its absolute path.
///
/// # Errors
/// What is wrong with it.
pub fn check(path: &Path) -> Result<PathBuf, MountPointError> {
    let name = path.display().to_string();
    let attributes = rustix::fs::statx(CWD, path, AtFlags::empty(), StatxFlags::TYPE);
    let attributes = match attributes {
        Ok(attributes) => attributes,
        Err(Errno::NOENT) => return Err(MountPointError::Missing(name)),
        Err(Errno::NOTCONN) => return Err(MountPointError::Stale(name)),
        Err(Errno::NOTDIR) => return Err(MountPointError::NotDirectory(name)),
        Err(other) => return Err(MountPointError::System(name, other)),
    };
    if rustix::fs::FileType::from_raw_mode(attributes.stx_mode.into())
        != rustix::fs::FileType::Directory
    {
        return Err(MountPointError::NotDirectory(name));
    }
    if attributes.stx_attributes.contains(StatxAttributes::MOUNT_ROOT) {
        return Err(MountPointError::AlreadyMounted(name));
    }
    let system = |error: io::Error| {
        let errno = error.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error);
        MountPointError::System(name.clone(), errno)
    };
    if path.read_dir().map_err(system)?.next().is_some() {
        return Err(MountPointError::NotEmpty(name));
    }
    path.canonicalize().map_err(system)
}

/// Mounts on `path` and returns the session, whose first request has been answered.
///
/// The superuser mounts directly: fuser would leave out the subtype. Others need `fusermount3`,
/// which fuser knows how to use.
///
/// # Errors
/// The system's error, or what `fusermount3` said.
pub fn mount<F: Filesystem>(
    path: &Path,
    options: &Options,
    mode: Mode,
    serve: F,
) -> io::Result<Session<F>> {
    let config = options.to_fuser(mode);
    let device = match mount_directly(path, options, mode) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            return Session::new(serve, path, &config);
        }
        device => device?,
    };
    Session::from_fd(serve, device.into(), config.acl, config).inspect_err(|_| {
        // The first error is the one to tell.
        let _unmounted = unmount(path);
    })
}

fn mount_directly(path: &Path, options: &Options, mode: Mode) -> io::Result<File> {
    let device = OpenOptions::new().read(true).write(true).open("/dev/fuse")?;
    let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    let data = CString::new(options.data(device.as_raw_fd(), uid, gid))?;
    let kind = format!("fuse.{}", options.subtype);
    let flags = options.flags(mode);
    rustix::mount::mount(&options.fsname, path, kind, flags, Some(data.as_c_str()))?;
    Ok(device)
}

/// How an unmount went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unmounted {
    /// Nothing used it any more.
    Cleanly,
    /// It was in use: it is out of the tree, and ends when the last user closes.
    Lazily,
}

/// Unmounts `path`; if it is in use, lazily. Without privilege through `fusermount3`.
///
/// # Errors
/// The system's error, or what `fusermount3` said.
pub fn unmount(path: &Path) -> io::Result<Unmounted> {
    match rustix::mount::unmount(path, UnmountFlags::empty()) {
        Ok(()) => Ok(Unmounted::Cleanly),
        Err(Errno::BUSY) => {
            rustix::mount::unmount(path, UnmountFlags::DETACH)?;
            Ok(Unmounted::Lazily)
        }
        Err(Errno::PERM) => fusermount(path),
        Err(other) => Err(other.into()),
    }
}

/// Unmounts `path` if nobody serves it any more, and tells whether that was so.
#[must_use]
pub fn clear_stale(path: &Path) -> bool {
    let seen = rustix::fs::statx(CWD, path, AtFlags::empty(), StatxFlags::TYPE);
    matches!(seen, Err(Errno::NOTCONN)) && unmount(path).is_ok()
}

fn fusermount(path: &Path) -> io::Result<Unmounted> {
    let run = |flags: &str| {
        Command::new("fusermount3").arg(flags).arg("--").arg(path).stdin(Stdio::null()).output()
    };
    if run("-u")?.status.success() {
        return Ok(Unmounted::Cleanly);
    }
    let lazily = run("-uz")?;
    if lazily.status.success() {
        return Ok(Unmounted::Lazily);
    }
    Err(io::Error::other(String::from_utf8_lossy(&lazily.stderr).trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_empty_directory_will_do() {
        let root = tempfile::tempdir().expect("temporary directory");
        let empty = root.path().join("empty");
        std::fs::create_dir(&empty).expect("mkdir");
        let file = root.path().join("file");
        std::fs::write(&file, b"x").expect("write");

        assert_eq!(check(&empty).expect("empty"), empty.canonicalize().expect("path"));
        assert!(matches!(check(root.path()), Err(MountPointError::NotEmpty(_))));
        assert!(matches!(check(&file), Err(MountPointError::NotDirectory(_))));
        assert!(matches!(check(&file.join("x")), Err(MountPointError::NotDirectory(_))));
        let missing = check(&root.path().join("none")).expect_err("missing");
        assert!(missing.to_string().contains("mkdir -p"), "{missing}");
        assert!(matches!(check(Path::new("/proc")), Err(MountPointError::AlreadyMounted(_))));
    }
}
