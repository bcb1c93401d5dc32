//! An ext4 file system of our own, which may be mounted read-only and back.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use rustix::mount::UnmountFlags;

use super::limited::run_well;

/// Bytes of the file system. The file behind it is sparse.
const BYTES: u64 = 1 << 30;
/// Time that making or mounting it may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// ext4 on a loop device. Dropping it unmounts.
#[derive(Debug)]
pub(super) struct Ext4 {
    point: PathBuf,
}

impl Ext4 {
    /// Makes one on `point`, an empty directory; its image lies beside it.
    ///
    /// # Errors
    /// If this machine has no mkfs.ext4(8), no loop devices, or does not let us mount.
    pub(super) fn mount(point: &Path) -> Result<Self> {
        let (image, log) = (point.with_extension("image"), point.with_extension("log"));
        File::create(&image)?.set_len(BYTES)?;
        run_well(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&image), &log, PATIENCE)?;
        let mut mount = Command::new("mount");
        mount.args(["-t", "ext4", "-o", "loop"]).arg(&image).arg(point);
        run_well(&mut mount, &log, PATIENCE)?;
        Ok(Self { point: point.to_owned() })
    }
}

impl Drop for Ext4 {
    fn drop(&mut self) {
        if let Err(error) = rustix::mount::unmount(&self.point, UnmountFlags::DETACH) {
            eprintln!("cannot unmount {}: {error}", self.point.display());
        }
    }
}
