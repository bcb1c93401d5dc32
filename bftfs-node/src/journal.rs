//! The journal: what the replica must not forget, on disk before anybody is told.
//!
//! Records are written in groups, one write each, every group on pages of its own, so that nothing
//! that is durable is ever written again while it counts. The files (segments) are written full of
//! zeros beforehand and reused, since overwriting is faster than appending. Groups are numbered
//! and each holds the hash of the one before it.

mod group;
mod recover;
mod segment;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};

use tracing::warn;

use self::group::{Hash, Header};
use self::segment::Segment;
use crate::data::{Error, Lock, Options, Seal, exists};

/// Free segments that are kept to be written again; others are deleted.
const MAX_FREE: usize = 2;

/// Until when a record counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// Until [`Journal::truncate`] is told this number or a higher one.
    Until(u64),
    /// Until there is another record of this kind: such records outlive every truncation.
    Latest(u8),
}

/// A record, opaque to the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Until when it counts.
    pub keep: Keep,
    /// The record.
    pub bytes: Vec<u8>,
}

/// The journal of one replica.
#[derive(Debug)]
pub struct Journal {
    dir: PathBuf,
    options: Options,
    seal: Seal,
    /// What is written now.
    current: Segment,
    /// What still counts, oldest first.
    older: VecDeque<Segment>,
    /// What no longer counts, to be written again.
    free: VecDeque<Segment>,
    /// A segment being made, for when no free one is left.
    spare: Option<JoinHandle<io::Result<Segment>>>,
    next_id: u64,
    /// The number of the next group.
    number: u64,
    /// The hash of the group before it.
    previous: Hash,
    /// The oldest group that counts, according to the newest group that is durable.
    durable_oldest: u64,
    latest: BTreeMap<u8, Vec<u8>>,
    buffer: Vec<u8>,
    failed: bool,
    /// Released last, when nothing more is written.
    _lock: Lock,
}

/// Makes an empty journal.
pub(crate) fn create(dir: &Path, options: &Options) -> Result<(), Error> {
    std::fs::create_dir_all(dir).map_err(Error::io("create the directory", dir))?;
    if exists(&Segment::path(dir, 0))? {
        return recover::check_unused(dir);
    }
    Segment::create(dir, 0, options).map(drop).map_err(Error::io("write a new segment in", dir))
}

/// The records of a journal, oldest first. Nothing is changed.
pub(crate) fn read(dir: &Path, seal: &Seal) -> Result<Vec<Vec<u8>>, Error> {
    Ok(recover::read(dir, seal)?.records)
}

impl Journal {
    pub(crate) fn open(
        dir: &Path,
        seal: Seal,
        options: Options,
        lock: Lock,
    ) -> Result<(Self, Vec<Vec<u8>>), Error> {
        let found = recover::read(dir, &seal)?;
        let mut recovered = recover::prepare(found, options.durability)?;
        let current = recovered.live.pop_back().expect("there is always one to write");
        let mut journal = Self {
            dir: dir.to_owned(),
            options,
            seal,
            current,
            next_id: recovered.found.next_id,
            number: recovered.found.number,
            previous: recovered.found.previous,
            durable_oldest: recovered.found.oldest,
            latest: recovered.found.latest,
            older: recovered.live,
            free: recovered.free,
            spare: None,
            buffer: Vec::new(),
            failed: false,
            _lock: lock,
        };
        journal.prepare_spare();
        Ok((journal, recovered.found.records))
    }

    /// Writes records; when this returns they are kept, as far as the durability asked for goes.
    ///
    /// Blocks for one write, rarely for two or for the making of a file.
    ///
    /// # Errors
    /// When the disk fails or is full, when the journal would exceed its greatest size, or when a
    /// record is longer than half a segment. The journal then takes no more records: what is on
    /// disk is not known, so the replica must stop.
    pub fn append(&mut self, entries: &[Entry]) -> io::Result<()> {
        if self.failed {
            return Err(io::Error::other("the journal failed before and takes no more records"));
        }
        self.failed = true;
        let mut rest = entries;
        while !rest.is_empty() {
            let (group, after) = rest.split_at(self.group_len(rest)?);
            self.append_group(group)?;
            rest = after;
        }
        self.failed = false;
        Ok(())
    }

    /// Lets go of the records that were to be kept until `upto` or any number below it. They may
    /// still be there after a restart.
    pub fn truncate(&mut self, upto: u64) {
        while let Some(segment) = self.older.pop_front_if(|segment| segment.ceiling <= upto) {
            self.free.push_back(segment);
        }
    }

    /// The bytes of all files of the journal.
    #[must_use]
    pub fn size(&self) -> u64 {
        let segments = self.older.iter().chain(&self.free).chain([&self.current]);
        segments.map(|segment| segment.size as u64).sum()
    }

    /// How many of the entries fit in one group: half a segment at most, so that what must be
    /// kept for ever fits beside it.
    fn group_len(&self, entries: &[Entry]) -> io::Result<usize> {
        let most = self.segment_size() / 2;
        let mut size = group::HEADER;
        let fits = entries.iter().take_while(|entry| {
            size += group::entry_len(entry);
            size <= most
        });
        match fits.count() {
            0 => Err(io::Error::other(format!(
                "a record of {} bytes is too long for the journal's segments of {} bytes",
                entries[0].bytes.len(),
                self.segment_size(),
            ))),
            count => Ok(count),
        }
    }

    fn append_group(&mut self, entries: &[Entry]) -> io::Result<()> {
        if !self.current.has_room(group::padded_len(entries)) {
            self.next_segment()?;
            let latest = self.latest.iter();
            let carried: Vec<Entry> = latest
                .map(|(kind, bytes)| Entry { keep: Keep::Latest(*kind), bytes: bytes.clone() })
                .collect();
            if !carried.is_empty() {
                self.write(&carried)?;
            }
        }
        self.write(entries)
    }

    fn write(&mut self, entries: &[Entry]) -> io::Result<()> {
        let oldest = self.older.front().map_or(self.current.first, |segment| segment.first);
        let header = Header { number: self.number, oldest, previous: self.previous };
        let len = group::padded_len(entries);
        if !self.current.has_room(len) {
            return Err(io::Error::other("the records to keep for ever do not fit in a segment"));
        }
        self.buffer.resize(len, 0);
        let hash = group::write(&mut self.buffer, &header, entries, &self.seal);
        self.current.append(&self.buffer)?;
        self.current.note(self.number, entries);
        for entry in entries {
            if let Keep::Latest(kind) = entry.keep {
                self.latest.insert(kind, entry.bytes.clone());
            }
        }
        self.number += 1;
        self.previous = hash;
        self.durable_oldest = oldest;
        self.delete_surplus();
        Ok(())
    }

    /// Goes on to a segment without anything that counts.
    fn next_segment(&mut self) -> io::Result<()> {
        let count = 2 + self.older.len() as u64;
        if count * self.options.segment_bytes > self.options.journal_bytes {
            return Err(io::Error::other(format!(
                "the journal would exceed {} bytes: no checkpoint has become stable for too long",
                self.options.journal_bytes,
            )));
        }
        let mut next = match self.take_free() {
            Some(segment) => segment,
            None => self.take_spare()?,
        };
        next.restart(self.number);
        self.older.push_back(std::mem::replace(&mut self.current, next));
        self.prepare_spare();
        Ok(())
    }

    /// A free segment that a crash in the middle of writing to it would not make us miss: the
    /// newest durable group must already say that it does not count.
    fn take_free(&mut self) -> Option<Segment> {
        let (oldest, size) = (self.durable_oldest, self.segment_size());
        let fit = |segment: &Segment| segment.last < oldest && segment.size == size;
        let at = self.free.iter().position(fit)?;
        self.free.remove(at)
    }

    fn take_spare(&mut self) -> io::Result<Segment> {
        self.make_spare();
        let spare = self.spare.take().expect("made just now if there was none");
        spare.join().map_err(|_| io::Error::other("the thread that makes segments panicked"))?
    }

    /// Has a segment made, if there may be none to go on with.
    fn prepare_spare(&mut self) {
        if self.free.is_empty() {
            self.make_spare();
        }
    }

    fn make_spare(&mut self) {
        if self.spare.is_some() {
            return;
        }
        let (dir, id, options) = (self.dir.clone(), self.next_id, self.options);
        self.next_id += 1;
        self.spare = Some(thread::spawn(move || Segment::create(&dir, id, &options)));
    }

    fn delete_surplus(&mut self) {
        while self.free.len() > MAX_FREE && self.free[0].last < self.durable_oldest {
            let segment = self.free.pop_front().expect("there are several");
            if let Err(error) = segment.delete() {
                warn!(%error, "a segment that is no longer needed cannot be deleted");
            }
        }
    }

    fn segment_size(&self) -> usize {
        usize::try_from(self.options.segment_bytes).expect("segments fit in the address space")
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        // The thread must not write to the directory when it is no longer locked.
        if let Some(spare) = self.spare.take() {
            drop(spare.join());
        }
    }
}
