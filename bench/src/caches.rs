//! The state of caches before a measurement.

use std::fs;

use anyhow::{Context as _, Result};

use crate::target::Target;

/// Asks the kernel to drop page cache, dentries and inodes (proc_sys_vm(5)).
const DROP_CACHES: &str = "/proc/sys/vm/drop_caches";

/// Drops all of the kernel's caches, once nothing in them waits for a disk. Tells whether this
/// process may: that takes root.
pub(crate) fn drop_kernels() -> bool {
    rustix::fs::sync();
    fs::write(DROP_CACHES, "3").is_ok()
}

/// Which caches a phase finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Caches {
    /// As the phase before left them.
    Warm,
    /// Our mounts mounted afresh, and all of the kernel's caches dropped.
    Cold,
    /// Our mounts mounted afresh; the kernel's caches stay, for want of the right to drop them.
    Remounted,
}

impl Caches {
    /// The caches that can be had: cold ones need root.
    pub(crate) fn choose(cold: bool) -> Self {
        match cold {
            false => Self::Warm,
            true if fs::write(DROP_CACHES, "3").is_ok() => Self::Cold,
            true => Self::Remounted,
        }
    }

    /// For people: what these caches are.
    pub(crate) fn describe(self) -> &'static str {
        match self {
            Self::Warm => "warm",
            Self::Cold => "cold: remounted and the kernel's caches dropped before each phase",
            Self::Remounted => {
                "remounted before each phase, but the kernel's caches kept: dropping needs root"
            }
        }
    }

    /// Brings the caches into this state; tells whether anything was cooled.
    pub(crate) fn cool(self, target: &mut Target) -> Result<bool> {
        if self == Self::Warm {
            return Ok(false);
        }
        target
            .backing
            .remount()
            .with_context(|| format!("target {}: cannot mount again", target.name))?;
        if self == Self::Cold {
            rustix::fs::sync();
            fs::write(DROP_CACHES, "3").with_context(|| format!("cannot write {DROP_CACHES}"))?;
        }
        Ok(true)
    }
}
