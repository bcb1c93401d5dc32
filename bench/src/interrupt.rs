//! Ctrl-C ends a benchmark between two steps, so that everything is cleaned up on the way out.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use anyhow::{Context as _, Result, bail};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

static REQUESTED: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// From now on SIGINT, SIGTERM and SIGHUP make [`check`] fail instead of ending the process.
pub(crate) fn install() -> Result<()> {
    let flag = REQUESTED.get_or_init(Arc::default);
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(flag))
            .with_context(|| format!("cannot handle signal {signal}"))?;
    }
    Ok(())
}

/// Fails once the person has asked to stop.
pub(crate) fn check() -> Result<()> {
    if REQUESTED.get().is_some_and(|flag| flag.load(Ordering::Relaxed)) {
        bail!("interrupted: the measurements of this run are not reported");
    }
    Ok(())
}
