//! File operations through a mount of four replicas, answer by answer as on a local directory.

mod attributes;
mod data;
mod directories;
mod names;
mod permissions;
mod xattr;

use anyhow::Result;

use crate::lab::{MODES, with_cluster};
use crate::transcript::{Script, compare};

/// Compares all modes on four replicas with a local directory.
fn same_as_local(script: impl Fn(&mut Script) -> Result<()>) {
    with_cluster(4, |lab| compare(lab, &MODES, script));
}
