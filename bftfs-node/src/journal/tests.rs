//! The journal against a list of what was acknowledged, with crashes at every sector.

use std::fs;
use std::path::PathBuf;

use bftfs_state::Digest;
use tempfile::TempDir;

use super::segment::PAGE;
use super::*;
use crate::data::{self, Durability, Identity};

const SECTOR: usize = 512;
const IDENTITY: Identity = Identity { cluster: Digest([1; 32]), replica: 0 };

fn options() -> Options {
    Options {
        segment_bytes: 16 * PAGE as u64,
        journal_bytes: 64 * 16 * PAGE as u64,
        // A crash of the machine is simulated from the files, so nothing need wait for the disk.
        ..Options::new(Durability::Replicated)
    }
}

fn open(dir: &Path) -> Result<(Journal, Vec<Vec<u8>>), Error> {
    data::open_or_format(dir, &IDENTITY, &options()).map(|opened| (opened.journal, opened.records))
}

/// Record `id` of `len` bytes, to be kept until truncation at `id`.
fn entry(id: u64, len: usize) -> Entry {
    let mut bytes = id.to_le_bytes().to_vec();
    // Unlike any other, so that what was there before is not taken for it.
    bytes.resize(8 + len, id.to_le_bytes()[0]);
    Entry { keep: Keep::Until(id), bytes }
}

fn latest(kind: u8, id: u64) -> Entry {
    Entry { keep: Keep::Latest(kind), ..entry(id, 20) }
}

fn id(record: &[u8]) -> u64 {
    u64::from_le_bytes(*record.first_chunk().unwrap())
}

/// The contents of all segments.
type Image = BTreeMap<PathBuf, Vec<u8>>;

fn image(dir: &Path) -> Image {
    let files = fs::read_dir(dir.join("journal")).unwrap();
    let paths = files.map(|entry| entry.unwrap().path());
    // A spare segment in the making is not a file of the journal yet.
    paths
        .filter(|path| Segment::id(path).is_some())
        .map(|p| (p.clone(), fs::read(p).unwrap()))
        .collect()
}

/// Makes the segments those of the image.
fn restore(dir: &Path, image: &Image) {
    for entry in fs::read_dir(dir.join("journal")).unwrap() {
        fs::remove_file(entry.unwrap().path()).unwrap();
    }
    for (path, bytes) in image {
        fs::write(dir.join("journal").join(path.file_name().unwrap()), bytes).unwrap();
    }
}

/// A copy of the directory, without its segments.
fn copy_of(dir: &Path) -> TempDir {
    let copy = TempDir::new().unwrap();
    for name in ["identity", "store/superblock.0", "store/superblock.1"] {
        let to = copy.path().join(name);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(dir.join(name), to).unwrap();
    }
    fs::create_dir(copy.path().join("journal")).unwrap();
    copy
}

/// What was acknowledged and not truncated, and what was being written at the crash.
#[derive(Clone, Default)]
struct Model {
    kept: Vec<Entry>,
    under_way: Vec<Entry>,
    truncated: u64,
}

impl Model {
    fn acknowledge(&mut self) {
        self.kept.append(&mut self.under_way);
        let kinds: BTreeMap<u8, u64> = self
            .kept
            .iter()
            .filter_map(|entry| match entry.keep {
                Keep::Latest(kind) => Some((kind, id(&entry.bytes))),
                Keep::Until(_) => None,
            })
            .collect();
        let truncated = self.truncated;
        self.kept.retain(|entry| match entry.keep {
            Keep::Until(number) => number > truncated,
            Keep::Latest(kind) => kinds[&kind] == id(&entry.bytes),
        });
    }

    /// Everything acknowledged is there, in order, and nothing that never was written.
    fn check(&self, records: &[Vec<u8>]) {
        let mut rest = records.iter();
        let mut last = BTreeMap::new();
        for entry in &self.kept {
            match entry.keep {
                Keep::Until(_) => assert!(
                    rest.any(|record| *record == entry.bytes),
                    "record {} is lost",
                    id(&entry.bytes)
                ),
                Keep::Latest(kind) => {
                    last.insert(kind, entry);
                }
            }
        }
        for entry in last.values() {
            assert!(records.contains(&entry.bytes), "record {} is lost", id(&entry.bytes));
        }
        let newest = self.kept.iter().chain(&self.under_way).map(|entry| id(&entry.bytes)).max();
        assert!(records.iter().all(|record| Some(id(record)) <= newest), "made up");
    }
}

/// Appends of many sizes with truncations between, the journal's segments going round.
fn script() -> Vec<(Vec<Entry>, Option<u64>)> {
    let lens = [10, 5000, 0, 9000, 300, 20000, 4096 - 142, 4096 - 143, 1];
    let mut id = 0;
    (0..40_usize)
        .map(|step| {
            let mut entries = Vec::new();
            for part in 0..=step % 3 {
                id += 1;
                entries.push(entry(id, lens[(step + part) % lens.len()]));
            }
            if step % 5 == 0 {
                id += 1;
                entries.push(latest(u8::from(step % 2 == 0), id));
            }
            (entries, (step % 6 == 5).then(|| id - 4))
        })
        .collect()
}

#[test]
fn a_crash_at_any_sector_loses_nothing_that_was_acknowledged() {
    let dir = TempDir::new().unwrap();
    let (mut journal, _) = open(dir.path()).unwrap();
    let copy = copy_of(dir.path());
    let mut model = Model::default();
    let mut crashes = 0;
    for (entries, truncate) in script() {
        let before = image(dir.path());
        model.under_way.clone_from(&entries);
        journal.append(&entries).unwrap();
        let after = image(dir.path());
        for torn in torn_images(&before, &after) {
            restore(copy.path(), &torn);
            let (mut journal, records) = open(copy.path()).unwrap();
            model.check(&records);
            // And it goes on from there, and once more after another restart.
            journal.append(&[entry(u64::MAX, 5)]).unwrap();
            drop(journal);
            let (_, again) = open(copy.path()).unwrap();
            assert_eq!(again.last().map(|record| id(record)), Some(u64::MAX));
            assert!(again.starts_with(&records), "the second restart finds what the first did");
            crashes += 1;
        }
        model.acknowledge();
        if let Some(upto) = truncate {
            journal.truncate(upto);
            model.truncated = upto;
            model.acknowledge();
        }
    }
    assert!(crashes > 300, "{crashes} crashes");
    assert!(journal.next_id > 3 && journal.size() < 8 * options().segment_bytes, "it goes round");
}

#[test]
fn a_segment_is_not_reused_before_that_is_durable() {
    let dir = TempDir::new().unwrap();
    let (mut journal, _) = open(dir.path()).unwrap();
    let copy = copy_of(dir.path());
    // One segment and most of another; none is needed, but no group says so yet.
    for id in 1..=10 {
        journal.append(&[entry(id, 10000)]).unwrap();
    }
    assert_eq!(journal.older.len(), 1);
    journal.truncate(10);
    let before = image(dir.path());
    journal.append(&[entry(11, 10000)]).unwrap();
    for torn in torn_images(&before, &image(dir.path())) {
        restore(copy.path(), &torn);
        open(copy.path()).unwrap();
    }
}

/// The states of the files between two: after each sector that was written, and with the sectors
/// of one group written in the other order.
fn torn_images(before: &Image, after: &Image) -> Vec<Image> {
    let mut images = Vec::new();
    let changed =
        after.iter().filter(|(path, bytes)| before.get(*path).is_some_and(|old| old != *bytes));
    for (path, new) in changed {
        let old = &before[path];
        let sectors: Vec<usize> = (0..new.len())
            .step_by(SECTOR)
            .filter(|&at| old[at..at + SECTOR] != new[at..at + SECTOR])
            .collect();
        let groups =
            sectors.iter().filter(|&&at| at % PAGE == 0 && group::starts(&new[at..])).count();
        let mut torn = |order: &mut dyn Iterator<Item = &usize>| {
            let mut bytes = old.clone();
            for &at in order {
                images.push([(path.clone(), bytes.clone())].into_iter().collect::<Image>());
                bytes[at..at + SECTOR].copy_from_slice(&new[at..at + SECTOR]);
            }
        };
        torn(&mut sectors.iter());
        if groups == 1 {
            torn(&mut sectors.iter().rev());
        }
    }
    for image in &mut images {
        for (path, bytes) in before {
            image.entry(path.clone()).or_insert_with(|| bytes.clone());
        }
    }
    images.push(after.clone());
    images
}

#[test]
fn damage_is_never_mistaken_for_a_crash() {
    let dir = TempDir::new().unwrap();
    let (mut journal, _) = open(dir.path()).unwrap();
    for id in 1..=30 {
        journal.append(&[entry(id, 3000 + 100 * (usize::try_from(id).unwrap() % 20))]).unwrap();
    }
    drop(journal);
    let whole = image(dir.path());
    let (_, records) = open(dir.path()).unwrap();
    assert_eq!(records.len(), 30);
    let copy = copy_of(dir.path());
    let (mut refused, mut cut) = (0, 0);
    for (path, bytes) in &whole {
        for at in (0..bytes.len()).step_by(331).chain((0..bytes.len()).step_by(PAGE)) {
            let mut damaged = whole.clone();
            damaged.get_mut(path).unwrap()[at] ^= 0x10;
            restore(copy.path(), &damaged);
            match open(copy.path()) {
                Err(Error::Damaged { .. } | Error::Format { .. }) => refused += 1,
                Err(error) => panic!("{error}"),
                Ok((_, found)) if found == records => {}
                Ok((_, found)) => {
                    assert_eq!(found, records[..29], "only the last group looks like a torn one");
                    cut += 1;
                }
            }
        }
    }
    assert!(refused > 200 && cut > 5, "{refused} refused, {cut} cut");
}

#[test]
fn a_lost_segment_is_missed() {
    let dir = TempDir::new().unwrap();
    let (mut journal, _) = open(dir.path()).unwrap();
    for id in 1..=60 {
        journal.append(&[entry(id, 4000)]).unwrap();
    }
    let newest = journal.current.name().to_owned();
    drop(journal);
    let whole = image(dir.path());
    for (path, bytes) in &whole {
        let mut lost = whole.clone();
        lost.remove(path);
        restore(dir.path(), &lost);
        // No one can know of groups after all that are there.
        let counts = bytes.iter().any(|&byte| byte != 0) && *path != newest;
        assert_eq!(open(dir.path()).is_err(), counts, "{}", path.display());
    }
}

#[test]
fn clients_cannot_fake_groups() {
    let dir = TempDir::new().unwrap();
    let (mut journal, _) = open(dir.path()).unwrap();
    journal.append(&[entry(1, 10)]).unwrap();
    // A body whose second page looks like a later group, under a key that its maker can know.
    let mut fake = vec![0; PAGE];
    let header = Header { number: 1000, oldest: 1, previous: [0; 32] };
    let seal = Seal { key: [0; 32], ..journal.seal };
    group::write(&mut fake, &header, &[entry(9, 1)], &seal);
    let mut body = vec![0; PAGE - group::HEADER - group::entry_len(&entry(0, 0)) + 8];
    body.extend_from_slice(&fake);
    body.resize(3 * PAGE, 0);
    journal.append(&[Entry { keep: Keep::Until(2), bytes: body }]).unwrap();
    let path = journal.current.name().to_owned();
    drop(journal);
    let mut bytes = fs::read(&path).unwrap();
    assert!(group::starts(&bytes[2 * PAGE..]), "the fake is where a group could be");
    bytes[PAGE + 200] ^= 1;
    fs::write(&path, bytes).unwrap();
    assert_eq!(open(dir.path()).unwrap().1.len(), 1, "the second group is cut as a torn one");
}

#[test]
fn the_latest_of_each_kind_outlives_truncation() {
    let dir = TempDir::new().unwrap();
    let (mut journal, _) = open(dir.path()).unwrap();
    journal.append(&[latest(1, 1), latest(2, 2), latest(1, 3)]).unwrap();
    for id in 4..400 {
        journal.append(&[entry(id, 4000)]).unwrap();
        journal.truncate(id - 1);
        assert!(journal.size() <= 5 * options().segment_bytes, "it stays small");
    }
    drop(journal);
    let (journal, records) = open(dir.path()).unwrap();
    let ids: Vec<u64> = records.iter().map(|record| id(record)).collect();
    assert!(ids.starts_with(&[3, 2]) && !ids.contains(&1) && ids.ends_with(&[399]), "{ids:?}");
    assert!(image(dir.path()).len() <= 5, "files are deleted");
    drop(journal);
}

#[test]
fn a_long_list_is_written_in_several_groups() {
    let dir = TempDir::new().unwrap();
    let (mut journal, _) = open(dir.path()).unwrap();
    let entries: Vec<Entry> = (1..100).map(|id| entry(id, 3000)).collect();
    journal.append(&entries).unwrap();
    drop(journal);
    let records = open(dir.path()).unwrap().1;
    assert!(records.iter().eq(entries.iter().map(|entry| &entry.bytes)));
}

#[test]
fn a_record_that_is_too_long_stops_it() {
    let dir = TempDir::new().unwrap();
    let (mut journal, _) = open(dir.path()).unwrap();
    let error = journal.append(&[entry(1, 8 * PAGE)]).unwrap_err();
    assert!(error.to_string().contains("too long"), "{error}");
    let error = journal.append(&[entry(1, 1)]).unwrap_err();
    assert!(error.to_string().contains("takes no more"), "{error}");
}

#[test]
fn it_does_not_grow_without_bound() {
    let dir = TempDir::new().unwrap();
    let (mut journal, _) = open(dir.path()).unwrap();
    let error = (1..).find_map(|id| journal.append(&[entry(id, 30000)]).err()).unwrap();
    assert!(error.to_string().contains("no checkpoint has become stable"), "{error}");
    assert!(journal.size() <= options().journal_bytes);
}

#[test]
fn a_full_disk_is_an_error() {
    let dir = TempDir::new().unwrap();
    let (mut journal, _) = open(dir.path()).unwrap();
    let next = Segment::path(&journal.dir, journal.next_id).with_extension("new");
    std::os::unix::fs::symlink("/dev/full", next).unwrap();
    let error = (1..).find_map(|id| journal.append(&[entry(id, 30000)]).err()).unwrap();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull, "{error}");
}

#[test]
fn it_goes_on_beside_free_segments_of_another_size() {
    let dir = TempDir::new().unwrap();
    let (mut journal, _) = open(dir.path()).unwrap();
    (1..=10).for_each(|id| journal.append(&[entry(id, 10000)]).unwrap());
    journal.truncate(10);
    journal.append(&[entry(11, 10)]).unwrap();
    drop(journal);
    let larger = Options { segment_bytes: 2 * options().segment_bytes, ..options() };
    let mut journal = data::open(dir.path(), &IDENTITY, &larger).unwrap().journal;
    assert!(!journal.free.is_empty(), "there is one of the old size");
    (12..=40).for_each(|id| journal.append(&[entry(id, 10000)]).unwrap());
}

#[test]
fn both_durabilities_read_the_same_files() {
    let dir = TempDir::new().unwrap();
    for (round, durability) in
        [Durability::Sync, Durability::Replicated].iter().cycle().take(4).enumerate()
    {
        let options = Options { durability: *durability, ..options() };
        let mut opened = data::open_or_format(dir.path(), &IDENTITY, &options).unwrap();
        assert_eq!(opened.records.len(), round * 20);
        for id in 0..20 {
            opened.journal.append(&[entry(id, 2000)]).unwrap();
        }
    }
}
