//! Files that reports are written to.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};

/// Says before the measurements, not after them, that a report cannot be written.
pub(crate) fn check_writable(file: &Path) -> Result<()> {
    let parent = file.parent().filter(|dir| !dir.as_os_str().is_empty());
    let dir = parent.unwrap_or_else(|| Path::new("."));
    ensure!(dir.is_dir(), "cannot write {}: {} is not a directory", file.display(), dir.display());
    ensure!(!file.is_dir(), "cannot write {}: it is a directory", file.display());
    Ok(())
}

/// Writes a report, and says where it is.
pub(crate) fn write(file: &Path, text: &str) -> Result<()> {
    fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))?;
    eprintln!("written: {}", file.display());
    Ok(())
}
