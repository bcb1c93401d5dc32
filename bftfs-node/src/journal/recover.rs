//! Finding out what a journal has: everything that was written, or a clear refusal.
//!
//! A group that is not intact is a torn one, never acknowledged, if no intact group has a higher
//! number; otherwise something was damaged that had been promised. What is left over from before a
//! segment was reused is intact too, but has lower numbers.

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::path::{Path, PathBuf};

use tracing::warn;

use super::Keep;
use super::group::{self, Group, Hash, Header};
use super::segment::{PAGE, Segment};
use crate::data::{Durability, Error, Seal};

/// What a journal has, read without changing anything.
pub(super) struct Found {
    /// The segments with groups that count, oldest first.
    live: Vec<LiveSegment>,
    /// The others, each with the number of its last group.
    free: Vec<(PathBuf, u64)>,
    /// What a crash left half made.
    leftovers: Vec<PathBuf>,
    pub(super) next_id: u64,
    /// The number of the next group.
    pub(super) number: u64,
    /// The hash of the group before it.
    pub(super) previous: Hash,
    /// The oldest group that counts.
    pub(super) oldest: u64,
    pub(super) latest: BTreeMap<u8, Vec<u8>>,
    pub(super) records: Vec<Vec<u8>>,
}

struct LiveSegment {
    path: PathBuf,
    run: Run,
    ceiling: u64,
}

/// A journal that can be written on.
pub(super) struct Recovered {
    /// The segments with groups that count, oldest first; the last one is to be written next.
    pub(super) live: VecDeque<Segment>,
    pub(super) free: VecDeque<Segment>,
    pub(super) found: Found,
}

/// What is in a segment.
struct Scan {
    path: PathBuf,
    run: Option<Run>,
    /// The highest number of an intact group anywhere in it, zero if there is none.
    highest: u64,
}

/// The groups that follow each other from the start of a segment.
struct Run {
    first: Header,
    last: Header,
    /// The hash of the last group.
    hash: Hash,
    /// Where the next group would be.
    end: usize,
}

/// Reads the journal in `dir`.
pub(super) fn read(dir: &Path, seal: &Seal) -> Result<Found, Error> {
    let (segments, leftovers) = segments(dir)?;
    let Some((last_id, _)) = segments.last() else {
        return Err(Error::damaged(dir, "it has no segments"));
    };
    let next_id = last_id + 1;
    let scans = segments.iter().map(|(_, path)| scan(path, seal));
    let scans = scans.collect::<Result<Vec<Scan>, Error>>()?;

    let newest = scans.iter().filter_map(|scan| scan.run.as_ref()).max_by_key(|r| r.last.number);
    let (number, previous, oldest) =
        newest.map_or((1, [0; 32], 1), |run| (run.last.number + 1, run.hash, run.last.oldest));
    if let Some(scan) = scans.iter().find(|scan| scan.highest >= number) {
        let (at, found) = (scan.run.as_ref().map_or(0, |run| run.end), scan.highest);
        let reason = format!(
            "group {number} cannot be read, but group {found} after it can; what stands at byte \
             {at} is not what was written"
        );
        return Err(Error::damaged(&scan.path, reason));
    }

    let mut found = Found {
        live: Vec::new(),
        free: Vec::new(),
        leftovers,
        next_id,
        number,
        previous,
        oldest,
        latest: BTreeMap::new(),
        records: Vec::new(),
    };
    let mut live = Vec::new();
    for Scan { path, run, highest } in scans {
        match run {
            Some(run) if run.last.number >= oldest => live.push((run, path)),
            _ => found.free.push((path, highest)),
        }
    }
    live.sort_by_key(|(run, _)| run.first.number);
    check_sequence(dir, &live, oldest)?;
    for (run, path) in live {
        found.load(run, path, seal)?;
    }
    Ok(found)
}

/// Makes the files of a journal that was read ready to be written on.
pub(super) fn prepare(mut found: Found, durability: Durability) -> Result<Recovered, Error> {
    for path in found.leftovers.drain(..) {
        fs::remove_file(&path).map_err(Error::io("remove", &path))?;
    }
    let open = |path: &Path| Segment::open(path, durability).map_err(Error::io("open", path));
    let (mut live, mut free) = (VecDeque::new(), VecDeque::new());
    for (path, last) in found.free.drain(..) {
        let mut segment = open(&path)?;
        segment.last = last;
        free.push_back(segment);
    }
    for LiveSegment { path, run, ceiling } in found.live.drain(..) {
        let mut segment = open(&path)?;
        (segment.last, segment.ceiling) = (run.last.number, ceiling);
        segment.resume(run.first.number, run.end).map_err(Error::io("sync", &path))?;
        live.push_back(segment);
    }
    if live.is_empty() {
        let mut first = free.pop_front().expect("a segment is live or free");
        first.restart(found.number);
        live.push_back(first);
    }
    Ok(Recovered { live, free, found })
}

impl Found {
    /// Reads the records of a run.
    fn load(&mut self, run: Run, path: PathBuf, seal: &Seal) -> Result<(), Error> {
        let bytes = read_file(&path)?;
        let (mut at, mut ceiling) = (0, 0);
        while at < run.end {
            let group = group::read(&bytes[at..], seal)
                .ok_or_else(|| Error::damaged(&path, "it changed while it was read"))?;
            let number = group.header.number;
            let entries = group.entries().ok_or_else(|| {
                Error::damaged(&path, format!("the records of group {number} are malformed"))
            })?;
            for entry in entries {
                match entry.keep {
                    Keep::Until(upto) => ceiling = upto.max(ceiling),
                    Keep::Latest(kind) => drop(self.latest.insert(kind, entry.bytes.clone())),
                }
                self.records.push(entry.bytes);
            }
            at += group.len;
        }
        let next = bytes.get(at..).unwrap_or_default();
        if group::starts(next) && group::number(next) == self.number {
            let (number, path) = (self.number, path.display());
            warn!("group {number} in {path} was cut short by a crash and is dropped");
        }
        self.live.push(LiveSegment { path, run, ceiling });
        Ok(())
    }
}

/// Refuses a journal that has something, where there should be none.
pub(super) fn check_unused(dir: &Path) -> Result<(), Error> {
    for (_, path) in segments(dir)?.0 {
        if read_file(&path)?.iter().any(|&byte| byte != 0) {
            let reason = "it has records, but the file `identity` that belongs to it is missing";
            return Err(Error::damaged(dir, reason));
        }
    }
    Ok(())
}

/// The groups that count must follow each other without a gap.
fn check_sequence(dir: &Path, live: &[(Run, PathBuf)], oldest: u64) -> Result<(), Error> {
    let lost = |number: u64| Error::damaged(dir, format!("group {number} is lost"));
    if live.first().is_some_and(|(run, _)| run.first.number != oldest) {
        return Err(lost(oldest));
    }
    let mut pairs = live.iter().zip(live.iter().skip(1));
    match pairs.find(|((run, _), (next, _))| next.first.previous != run.hash) {
        Some(((run, _), _)) => Err(lost(run.last.number + 1)),
        None => Ok(()),
    }
}

fn scan(path: &Path, seal: &Seal) -> Result<Scan, Error> {
    let bytes = read_file(path)?;
    if group::starts(&bytes) {
        let found = group::format(&bytes);
        if found != group::FORMAT {
            let known = group::FORMAT;
            return Err(Error::Format { path: path.to_owned(), found, known });
        }
        if group::foreign(&bytes, seal) {
            return Err(Error::damaged(path, "it comes from another data directory"));
        }
    }
    let mut run: Option<Run> = None;
    let mut at = 0;
    while let Some(group) = bytes.get(at..).and_then(|rest| group::read(rest, seal)) {
        if run.as_ref().is_some_and(|run| !run.is_followed_by(&group)) {
            break;
        }
        at += group.len;
        let first = run.map_or(group.header, |run| run.first);
        run = Some(Run { first, last: group.header, hash: group.hash, end: at });
    }
    let rest = bytes.get(at..).unwrap_or_default();
    let others = (0..rest.len()).step_by(PAGE).filter_map(|at| group::read(&rest[at..], seal));
    let last = run.as_ref().map_or(0, |run| run.last.number);
    let highest = others.map(|group| group.header.number).fold(last, u64::max);
    Ok(Scan { path: path.to_owned(), run, highest })
}

impl Run {
    fn is_followed_by(&self, group: &Group<'_>) -> bool {
        group.header.number == self.last.number + 1 && group.header.previous == self.hash
    }
}

/// Segments by the numbers in their names, and what a crash left half made.
type Files = (Vec<(u64, PathBuf)>, Vec<PathBuf>);

fn segments(dir: &Path) -> Result<Files, Error> {
    let entries = fs::read_dir(dir).map_err(Error::io("list", dir))?;
    let (mut segments, mut leftovers) = (Vec::new(), Vec::new());
    for entry in entries {
        let path = entry.map_err(Error::io("list", dir))?.path();
        if path.extension().is_some_and(|extension| extension == "new") {
            leftovers.push(path);
        } else if let Some(id) = Segment::id(&path) {
            segments.push((id, path));
        }
    }
    segments.sort();
    Ok((segments, leftovers))
}

fn read_file(path: &Path) -> Result<Vec<u8>, Error> {
    fs::read(path).map_err(Error::io("read", path))
}
