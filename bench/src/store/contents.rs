//! How much memory a replica takes while its files take more and more room.

use anyhow::Result;
use serde::Serialize;

use super::site::{Memory, Site};
use crate::bytes::Bytes;
use crate::fill::{self, CHUNK_BYTES};
use crate::interrupt;

/// Times that memory is looked at.
const STEPS: usize = 10;

/// What was measured.
#[derive(Debug, Serialize)]
pub(super) struct Contents {
    /// From the empty file system on.
    pub(super) points: Vec<Point>,
    /// Why there are no more of them, if it ended before time.
    pub(super) stopped: Option<String>,
}

#[derive(Debug, Serialize)]
pub(super) struct Point {
    /// Bytes of files.
    pub(super) contents: Bytes,
    pub(super) memory: Memory,
}

/// Fills a new file system with so much.
pub(super) fn measure(site: &Site, contents: Bytes) -> Result<Contents> {
    let files = usize::try_from(contents.0)?.div_ceil(CHUNK_BYTES);
    let client = site.client()?;
    let mut measured = Contents { points: Vec::new(), stopped: None };
    let mut there = 0;
    for step in 0..=STEPS {
        let wanted = files * step / STEPS;
        let label = format!("step {step} of {STEPS}, files of 1 MiB");
        let filled = fill::chunk_files(&label, site.point(), there..wanted, site.room());
        if let Err(error) = filled {
            interrupt::check()?;
            if measured.points.len() < 2 {
                return Err(error);
            }
            // What was reached is worth telling.
            measured.stopped = Some(format!("{error:#}"));
            return Ok(measured);
        }
        there = wanted;
        site.settle(&client)?;
        let memory = site.memory()?;
        let contents = Bytes((there * CHUNK_BYTES) as u64);
        eprintln!("{contents} of contents: {} resident", memory.resident);
        measured.points.push(Point { contents, memory });
    }
    Ok(measured)
}
