//! Files that are made once, whole, and with the right mode from the start.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use crate::CertsError;

/// The mode of what everybody may read.
pub(crate) const PUBLIC: u32 = 0o644;
/// The mode of a private key.
pub(crate) const PRIVATE: u32 = 0o600;

fn failed(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CertsError {
    move |error| CertsError::Io { doing, path: path.into(), error }
}

/// Makes a directory and those above it, unless they are there.
pub(crate) fn make_dir(path: &Path) -> Result<(), CertsError> {
    fs::create_dir_all(path).map_err(failed("make the directory", path))
}

/// Reads a whole text file.
pub(crate) fn read(path: &Path) -> Result<String, CertsError> {
    fs::read_to_string(path).map_err(failed("read", path))
}

/// Makes a file that was not there, and sees it to disk.
pub(crate) fn create(path: &Path, text: &str, mode: u32) -> Result<(), CertsError> {
    let opened = OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
    let written = opened.and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()
    });
    written.map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => CertsError::Exists(path.into()),
        _ => failed("create", path)(error),
    })
}

/// Replaces a file's text at once: a reader sees the old or the new, never a part.
pub(crate) fn replace(path: &Path, text: &str) -> Result<(), CertsError> {
    let new = path.with_extension("toml.new");
    // The directory is locked, so such a file is what an interrupted run left.
    if let Err(error) = fs::remove_file(&new)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(failed("remove", &new)(error));
    }
    create(&new, text, PUBLIC)?;
    fs::rename(&new, path).map_err(failed("replace", path))
}

/// Locks a directory against other runs of this program until the lock is dropped.
pub(crate) fn lock(dir: &Path) -> Result<File, CertsError> {
    let opened = File::open(dir).and_then(|file| file.lock().map(|()| file));
    opened.map_err(failed("lock", dir))
}
