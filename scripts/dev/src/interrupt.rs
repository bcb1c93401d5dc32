//! Stops clusters when the process that owns them is interrupted.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use anyhow::{Context as _, Result};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use signal_hook::low_level::emulate_default_handler;

use crate::cluster::stop_all;

static OWNED: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

/// From now on SIGINT, SIGTERM and SIGHUP first stop and unmount every cluster that this process
/// owns, and then end the process.
///
/// A program that handles these signals itself, and so drops its clusters, does not need this.
///
/// # Errors
/// If the signals cannot be handled.
pub fn stop_clusters_on_signals() -> Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).context("cannot handle signals")?;
    thread::spawn(move || {
        for signal in signals.forever() {
            // The lock is kept to the end, so that nothing is started any more.
            let owned = lock();
            for dir in owned.iter() {
                if let Err(error) = stop_all(dir) {
                    eprintln!("cannot stop the cluster in {}: {error:#}", dir.display());
                }
            }
            if let Err(error) = emulate_default_handler(signal) {
                eprintln!("cannot end by signal {signal}: {error}");
            }
        }
    });
    Ok(())
}

/// Nothing is stopped by a signal while this is held.
pub(crate) fn hold() -> impl Drop {
    lock()
}

pub(crate) fn own(dir: &Path) {
    lock().insert(dir.to_owned());
}

pub(crate) fn disown(dir: &Path) {
    lock().remove(dir);
}

fn lock() -> MutexGuard<'static, BTreeSet<PathBuf>> {
    OWNED.lock().unwrap_or_else(PoisonError::into_inner)
}
