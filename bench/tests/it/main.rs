//! The benchmarks as a person runs them.

use std::env;
use std::path::Path;

mod andrew;
mod micro;
mod passthrough;

/// Whether FUSE is there. Without it, a test that needs it fails, unless `BFTFS_SKIP_FUSE=1` says
/// that this is known.
fn has_fuse() -> bool {
    let there = Path::new("/dev/fuse").exists();
    let known = env::var_os("BFTFS_SKIP_FUSE").is_some_and(|value| value == "1");
    assert!(there || known, "/dev/fuse is missing: load fuse, or set BFTFS_SKIP_FUSE=1");
    if !there {
        eprintln!("NOT RUN: /dev/fuse is missing, and BFTFS_SKIP_FUSE=1");
    }
    there
}
