//! What each column promises, so that like is compared with like, and whether its disk shows it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

use crate::target::Target;
use crate::{interrupt, procstat};

/// Files that are written, and times that one of them is synced.
const CALLS: u32 = 50;
/// How wide a table with sentences in it is.
const WIDTH: u16 = 170;
/// What is written each time.
const BLOCK: [u8; 4096] = [7; 4096];

/// What may be lost, and what may be stale.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Nature {
    /// What is where when a call returns.
    pub returned: String,
    /// What is where when fsync(2) has returned.
    pub synced: String,
    /// What a mount may have cached, and for how long.
    pub stale: String,
}

impl Nature {
    /// Three answers.
    pub(crate) fn new(returned: &str, synced: &str, stale: &str) -> Self {
        let [returned, synced, stale] = [returned, synced, stale].map(str::to_owned);
        Self { returned, synced, stale }
    }
}

/// A column's nature, and how often the disk was flushed.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Promise {
    /// What it says of itself.
    #[serde(flatten)]
    pub nature: Nature,
    /// What was seen; `None` where the disk does not count.
    pub flushes: Option<Flushes>,
}

/// Flushes of the disk per call, by whomever: the kernel's journal flushes every few seconds, too.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Flushes {
    /// A file of 4 KiB made, written and closed.
    pub per_file: f64,
    /// 4 KiB overwritten, and fsync(2).
    pub per_fsync: f64,
}

/// Every column's promise, the flushes counted on the disk of `dir`.
///
/// # Errors
/// If a target cannot be written to, or the person asked to stop.
pub(crate) fn check(
    targets: &[Target],
    mut natures: BTreeMap<String, Nature>,
    dir: &Path,
) -> Result<BTreeMap<String, Promise>> {
    let mut promises = BTreeMap::new();
    for target in targets {
        interrupt::check()?;
        let flushes = count(&target.dir, dir)
            .with_context(|| format!("target {}: cannot count flushes", target.name))?;
        let nature = natures.remove(&target.name).unwrap_or_default();
        promises.insert(target.name.clone(), Promise { nature, flushes });
    }
    Ok(promises)
}

fn count(target: &Path, disk: &Path) -> Result<Option<Flushes>> {
    let scratch = tempfile::Builder::new().prefix("flushes-").tempdir_in(target)?;
    let file = File::create(scratch.path().join("synced"))?;
    file.write_all_at(&BLOCK, 0)?;
    file.sync_all()?;
    // What others have left to write is not this column's.
    rustix::fs::sync();
    let begin = procstat::disk_flushes(disk);
    for number in 0..CALLS {
        fs::write(scratch.path().join(format!("file-{number}")), BLOCK)?;
    }
    let written = procstat::disk_flushes(disk);
    for _ in 0..CALLS {
        file.write_all_at(&BLOCK, 0)?;
        file.sync_all()?;
    }
    let synced = procstat::disk_flushes(disk);
    drop(file);
    scratch.close()?;
    let per_call = |before: u64, after: u64| after.saturating_sub(before) as f64 / f64::from(CALLS);
    Ok(begin.zip(written).zip(synced).map(|((begin, written), synced)| Flushes {
        per_file: per_call(begin, written),
        per_fsync: per_call(written, synced),
    }))
}

/// The promises as rows of a table, in the order of the columns.
pub(crate) fn rows(order: &[String], promises: &BTreeMap<String, Promise>) -> Vec<Vec<String>> {
    let known = order.iter().filter_map(|name| Some((name, promises.get(name)?)));
    let seen = |flushes: Option<Flushes>, value: fn(Flushes) -> f64| {
        flushes.map_or_else(|| "–".to_owned(), |flushes| format!("{:.1}", value(flushes)))
    };
    known
        .map(|(name, Promise { nature, flushes })| {
            vec![
                name.clone(),
                nature.returned.clone(),
                nature.synced.clone(),
                seen(*flushes, |flushes| flushes.per_file),
                seen(*flushes, |flushes| flushes.per_fsync),
                nature.stale.clone(),
            ]
        })
        .collect()
}

/// Draws them: sentences are broken, unlike numbers.
pub(crate) fn draw(rows: &[Vec<String>]) -> String {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header(TITLES);
    table.add_rows(rows.to_vec());
    table.set_content_arrangement(ContentArrangement::Dynamic).set_width(WIDTH);
    table.to_string()
}

/// The titles above [`rows`].
pub(crate) const TITLES: [&str; 6] = [
    "column",
    "when a call returns",
    "when fsync returns",
    "disk flushes per file written",
    "per write and fsync",
    "what may be stale",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fsync_of_a_disk_is_seen() {
        let dir = tempfile::tempdir_in("/var/tmp").expect("a temporary directory");
        let counted = count(dir.path(), dir.path()).expect("it can be written");
        // A file system in memory, and some virtual disks, count nothing.
        if let Some(flushes) = counted.filter(|flushes| flushes.per_fsync > 0.0) {
            assert!(flushes.per_fsync >= 0.5, "{flushes:?}");
        }
        assert_eq!(fs::read_dir(dir.path()).expect("a listing").count(), 0);
    }

    #[test]
    fn a_column_without_a_count_has_a_dash() {
        let nature = Nature::new("memory", "disk", "nothing");
        let promises = BTreeMap::from([("a".to_owned(), Promise { nature, flushes: None })]);
        let rows = rows(&["a".to_owned(), "b".to_owned()], &promises);
        assert_eq!(rows, [["a", "memory", "disk", "–", "–", "nothing"]]);
    }
}
