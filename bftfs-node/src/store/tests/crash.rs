//! Crashes at every single change of a file.

use std::collections::BTreeMap;

use bftfs_state::Source as _;

use super::record::{self, Change, Fate, Model};
use super::*;

/// Small packs, so that several are begun, cleaned and removed.
fn small() -> Options {
    Options {
        segment_bytes: 4096,
        dead_bytes: 10_000,
        pack_bytes: 20_000,
        clean_bytes: 20_000,
        cache_bytes: 1 << 16,
        ..Options::new(Durability::Sync)
    }
}

/// The trees of the checkpoints that were written, by their numbers.
type History = BTreeMap<u64, [Contents; 2]>;

/// A workload: values that are kept early, changes, removals, cleaning, restarts.
fn workload(dir: &Path) -> History {
    let store_dir = dir.join("store");
    let mut history = History::new();
    let mut world = World::new();
    let mut store = data::open(dir, &IDENTITY, &small()).unwrap().store;
    let blocks = store.blocks();
    let (mut values, mut moved) = (Vec::new(), 0);
    for round in 0..20_u64 {
        if round % 9 == 8 {
            drop(store);
            store = data::open(dir, &IDENTITY, &small()).unwrap().store;
        }
        world.change();
        // What stays among what goes, so that packs have to be emptied.
        world.trees[1].insert(&[9, round.to_be_bytes()[7]], vec![round.to_be_bytes()[7]; 900]);
        for n in 0..4 {
            world.trees[1].insert(&[8, n], [round.to_be_bytes(), [n; 8]].concat().repeat(200));
        }
        let sealed = world.seal();
        if round < 8 {
            // The early thread races with the checkpoint, as it does in a replica.
            for block in sealed.added.iter().filter(|block| block.bytes.len() > 4096) {
                blocks.keep(block);
                values.push(block.digest);
            }
        }
        record::mark(&store_dir, world.seq, false);
        world.write_sealed(&mut store, &sealed, round == 13).unwrap();
        record::mark(&store_dir, world.seq, true);
        history.insert(world.seq, world.contents());
        moved += u64::from(store.contents().moved_bytes > 0);
    }
    assert!(!values.is_empty() && moved > 3, "blocks are kept early, and moved {moved} times");
    history
}

/// The workload with every change of a file, and a directory to rebuild what a crash leaves.
struct Recorded {
    _dir: TempDir,
    copy: TempDir,
    /// The files as they were before the first change.
    model: Model,
    changes: Vec<Change>,
    history: History,
}

impl Recorded {
    fn new() -> Self {
        let (dir, copy) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        data::format(dir.path(), &IDENTITY, &small(), &[]).unwrap();
        copy_rest(dir.path(), copy.path());
        let store_dir = dir.path().join("store");
        let model = Model::of(&store_dir);
        record::start(&store_dir);
        let history = workload(dir.path());
        let changes = record::take(&store_dir);
        Self { _dir: dir, copy, model, changes, history }
    }
}

/// Opens what a crash left and checks that it is what it must be; returns the checkpoint found.
fn check_crash(
    dir: &Path,
    files: &BTreeMap<PathBuf, Vec<u8>>,
    (durable, under_way): (u64, u64),
    history: &History,
) -> u64 {
    restore_files(dir, files);
    // What is looked at once need not be synced.
    let options = Options { durability: Durability::Replicated, ..small() };
    let opened = data::open(dir, &IDENTITY, &options);
    let Opened { mut store, checkpoint, .. } =
        opened.unwrap_or_else(|error| panic!("after {durable}: {error}"));
    let seq = checkpoint.as_ref().map_or(0, |found| found.seq);
    assert!(seq == durable || seq == under_way, "found {seq}, not {durable} or {under_way}");
    assert!(store.take_damaged().unwrap().try_recv().is_err(), "no crash damages anything");
    if let Some(found) = &checkpoint {
        check(&store, Some(found), seq, &history[&seq]);
    }
    if let Some(before) = store.before.clone() {
        let trees = load(&store, &before);
        assert_eq!(trees.iter().map(contents_of).collect::<Vec<_>>(), history[&before.seq]);
    }
    seq
}

#[test]
fn a_crash_at_any_change_leaves_a_checkpoint_that_was_reported_or_is_under_way() {
    let Recorded { copy, mut model, changes, history, .. } = Recorded::new();
    let removed = changes.iter().filter(|change| matches!(change, Change::Remove(_))).count();
    let created = changes.iter().filter(|change| matches!(change, Change::Create(_))).count();
    assert!(created > 8 && removed > 4, "{created} files made, {removed} removed");
    let (mut durable, mut under_way, mut crashes, mut ahead) = (0, 0, 0_u64, 0);
    for (at, change) in changes.iter().enumerate() {
        model.apply(change);
        match change {
            Change::Mark(seq, false) => under_way = *seq,
            Change::Mark(seq, true) => durable = *seq,
            _ => {}
        }
        for fate in [Fate::Lost, Fate::Kept, Fate::Torn(at as u64), Fate::Torn(!at as u64)] {
            let files = model.crash(fate);
            let seq = check_crash(copy.path(), &files, (durable, under_way), &history);
            ahead += u64::from(seq > durable);
            crashes += 1;
        }
    }
    assert!(crashes > 500 && ahead > 20, "{crashes} crashes, {ahead} before the report");
}

#[test]
fn after_a_crash_it_goes_on() {
    let Recorded { copy, mut model, changes, .. } = Recorded::new();
    for (at, change) in changes.iter().enumerate() {
        model.apply(change);
        if at % 13 != 0 {
            continue;
        }
        restore_files(copy.path(), &model.crash(Fate::Torn(at as u64)));
        let Opened { mut store, checkpoint, .. } =
            data::open(copy.path(), &IDENTITY, &small()).unwrap();
        let Some(found) = checkpoint else { continue };
        let mut world = World { trees: load(&store, &found).try_into().unwrap(), seq: found.seq };
        for _ in 0..3 {
            world.change();
            world.write(&mut store).unwrap();
        }
        drop(store);
        let opened = data::open(copy.path(), &IDENTITY, &small()).unwrap();
        check(&opened.store, opened.checkpoint.as_ref(), world.seq, &world.contents());
    }
}

#[test]
fn a_disk_that_fails_any_change_ends_the_store_and_loses_nothing_that_was_reported() {
    let mut failures = 0;
    for changes in 0.. {
        let dir = TempDir::new().unwrap();
        data::format(dir.path(), &IDENTITY, &small(), &[]).unwrap();
        let mut store = data::open(dir.path(), &IDENTITY, &small()).unwrap().store;
        let store_dir = dir.path().join("store");
        record::fail_after(&store_dir, changes);
        let (mut world, mut history) = (World::new(), History::new());
        let (mut reported, mut failed) = (0, false);
        for _ in 0..6 {
            world.change();
            let sealed = world.seal();
            history.insert(world.seq, world.contents());
            match world.write_sealed(&mut store, &sealed, false) {
                Ok(()) => {
                    assert!(!failed, "after a failure it takes no more checkpoints");
                    reported = world.seq;
                }
                Err(_) => failed = true,
            }
        }
        drop(store);
        if !record::has_failed(&store_dir) {
            assert!(failures > 20, "{failures} changes could fail");
            return;
        }
        // Only what is no longer needed may fail to be removed without more ado.
        failures += u64::from(failed);
        let opened = data::open(dir.path(), &IDENTITY, &small()).unwrap();
        let found = opened.checkpoint.as_ref().map_or(0, |found| found.seq);
        assert!(found == reported || failed && found == reported + 1, "{found}, not {reported}");
        if found > 0 {
            check(&opened.store, opened.checkpoint.as_ref(), found, &history[&found]);
        }
    }
}
