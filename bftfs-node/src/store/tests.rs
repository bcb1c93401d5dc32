//! The store against the trees whose checkpoints it was given, with crashes at every write.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use bftfs_state::Tree;
use tempfile::TempDir;

use super::*;
use crate::data::{self, Identity};

const IDENTITY: Identity = Identity { cluster: Digest([1; 32]), replica: 0 };

fn options() -> Options {
    Options { segment_bytes: 4096, dead_bytes: 100_000, ..Options::new(Durability::Replicated) }
}

fn open(dir: &Path) -> Result<(Store, Option<LoadedCheckpoint>), Error> {
    data::open_or_format(dir, &IDENTITY, &options()).map(|opened| (opened.store, opened.checkpoint))
}

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

fn content(tree: &Tree) -> Model {
    tree.prefix(&[]).map(|(key, value)| (key.to_vec(), value.to_vec())).collect()
}

fn load(store: &Store, checkpoint: &LoadedCheckpoint) -> Vec<Tree> {
    let mut fetch = |digest: &Digest| store.get(digest).expect("blocks are intact");
    checkpoint
        .roots
        .iter()
        .map(|root| Tree::open(*root, &mut fetch).expect("none is missing"))
        .collect()
}

/// Two trees, as a replica has, and a store that they are written to.
struct World {
    trees: [Tree; 2],
    seq: u64,
}

impl World {
    fn new() -> Self {
        Self { trees: [Tree::new(), Tree::new()], seq: 0 }
    }

    /// Changes both trees: short values, long ones, equal ones, and removals.
    fn change(&mut self) {
        let (seq, [small, large]) = (self.seq, &mut self.trees);
        for n in 0..40 {
            small.insert(&(seq * 7 + n).to_be_bytes(), vec![1; 30]);
            small.remove(&(seq * 7 + n - n / 2).to_be_bytes());
        }
        for n in 0..3 {
            large.insert(&(seq * 3 + n).to_be_bytes(), vec![(seq % 5) as u8; 9000]);
        }
        large.insert(b"same", seq.to_be_bytes().repeat(300));
        large.remove(&(seq * 3).saturating_sub(12).to_be_bytes());
    }

    fn write(&mut self, store: &mut Store) -> io::Result<()> {
        self.seq += 1;
        let sealed = self.trees.each_mut().map(Tree::seal);
        let added: Vec<Block> = sealed.iter().flat_map(|sealed| sealed.added.clone()).collect();
        let freed: Vec<Digest> = sealed.iter().flat_map(|sealed| sealed.freed.clone()).collect();
        store.write_checkpoint(&Checkpoint {
            seq: self.seq,
            meta: &self.seq.to_be_bytes(),
            added: &added,
            freed: &freed,
            trees: &self.trees.each_ref().map(Tree::snapshot),
            rewrite: false,
        })
    }

    fn contents(&self) -> [Model; 2] {
        self.trees.each_ref().map(content)
    }
}

fn check(store: &Store, found: Option<&LoadedCheckpoint>, seq: u64, contents: &[Model; 2]) {
    let found = found.expect("there is a checkpoint");
    assert_eq!((found.seq, found.meta.as_slice()), (seq, seq.to_be_bytes().as_slice()));
    assert_eq!(load(store, found).iter().map(content).collect::<Vec<_>>(), contents);
}

#[test]
fn each_checkpoint_is_found_again() {
    let dir = TempDir::new().unwrap();
    let mut world = World::new();
    let mut packs = std::collections::BTreeSet::new();
    for round in 1..60 {
        let (mut store, found) = open(dir.path()).unwrap();
        assert_eq!(found.is_none(), round == 1);
        if let Some(found) = found {
            check(&store, Some(&found), world.seq, &world.contents());
            world.trees = load(&store, &found).try_into().unwrap();
        }
        for _ in 0..round % 4 {
            world.change();
            world.write(&mut store).unwrap();
        }
        packs.extend(Pack::list(&store.dir).unwrap());
        let live: u64 = world
            .trees
            .iter()
            .flat_map(|tree| tree.snapshot().blocks().collect::<Vec<_>>())
            .map(|block| block.bytes.len() as u64 + 48)
            .sum();
        assert!(store.size() <= 3 * live + 3 * options().dead_bytes, "{} for {live}", store.size());
    }
    assert!(packs.len() > 3, "it was rewritten {} times", packs.len());
    assert!(Pack::list(&dir.path().join("store")).unwrap().len() <= 2);
}

/// The contents of all files of the store.
type Image = BTreeMap<PathBuf, Vec<u8>>;

fn image(dir: &Path) -> Image {
    let paths = fs::read_dir(dir.join("store")).unwrap().map(|entry| entry.unwrap().path());
    paths.map(|path| (path.clone(), fs::read(path).unwrap())).collect()
}

fn restore(dir: &Path, image: &Image) {
    fs::remove_dir_all(dir.join("store")).unwrap();
    fs::create_dir(dir.join("store")).unwrap();
    for (path, bytes) in image {
        fs::write(dir.join("store").join(path.file_name().unwrap()), bytes).unwrap();
    }
}

/// The states of the files between two: the packs grow first, then a superblock is overwritten,
/// then a pack is removed. With each, whether the later checkpoint may be found in it.
fn torn_images(before: &Image, after: &Image) -> Vec<(Image, bool)> {
    let mut images = Vec::new();
    let mut now = before.clone();
    for (path, bytes) in after.iter().filter(|(path, _)| path.extension().unwrap() == "pack") {
        let old = before.get(path).map_or(0, Vec::len);
        for len in (old..bytes.len()).step_by((bytes.len() - old) / 12 + 1) {
            now.insert(path.clone(), bytes[..len].to_vec());
            images.push((now.clone(), false));
        }
        now.insert(path.clone(), bytes.clone());
    }
    let slots = after.iter().filter(|(path, _)| path.extension().unwrap() != "pack");
    let (path, bytes) = slots.clone().find(|(path, bytes)| before[*path] != **bytes).unwrap();
    let old = &before[path];
    for len in 0..bytes.len() {
        let torn = [&bytes[..len], old.get(len..).unwrap_or_default()].concat();
        now.insert(path.clone(), torn);
        images.push((now.clone(), true));
    }
    now.insert(path.clone(), bytes.clone());
    images.push((now, true));
    images.push((after.clone(), true));
    images
}

#[test]
fn a_crash_at_any_write_leaves_this_checkpoint_or_the_one_before() {
    let dir = TempDir::new().unwrap();
    let copy = TempDir::new().unwrap();
    let (mut store, _) = open(dir.path()).unwrap();
    fs::create_dir_all(copy.path().join("journal")).unwrap();
    for file in ["identity", "journal/0000000000.segment", "store"] {
        if file == "store" {
            fs::create_dir(copy.path().join(file)).unwrap();
        } else {
            fs::copy(dir.path().join(file), copy.path().join(file)).unwrap();
        }
    }
    let mut world = World::new();
    let mut found_both = [0; 2];
    for round in 0..14 {
        let (old_seq, old) = (world.seq, world.contents());
        let before = image(dir.path());
        world.change();
        world.write(&mut store).unwrap();
        let after = image(dir.path());
        let images = torn_images(&before, &after);
        let last = images.len() - 1;
        for (at, (image, may_be_new)) in images.iter().enumerate() {
            restore(copy.path(), image);
            let (mut store, found) = open(copy.path()).unwrap();
            let is_new = found.as_ref().is_some_and(|found| found.seq == world.seq);
            assert!(if is_new { *may_be_new } else { at < last - 1 }, "{at} of {last}");
            found_both[usize::from(is_new)] += 1;
            if is_new {
                check(&store, found.as_ref(), world.seq, &world.contents());
            } else if round > 0 {
                check(&store, found.as_ref(), old_seq, &old);
            }
            // And it goes on from what was found.
            if at % 10 == 0
                && let Some(found) = found
            {
                let trees = load(&store, &found).try_into().unwrap();
                let mut world = World { trees, seq: found.seq };
                world.change();
                world.write(&mut store).unwrap();
                drop(store);
                let (store, found) = open(copy.path()).unwrap();
                check(&store, found.as_ref(), world.seq, &world.contents());
            }
        }
    }
    assert!(found_both[0] > 500 && found_both[1] > 20, "{found_both:?}");
}

/// A store after some checkpoints, two of them rewrites.
fn used() -> (TempDir, World) {
    after(12)
}

fn after(checkpoints: u64) -> (TempDir, World) {
    let dir = TempDir::new().unwrap();
    let (mut store, _) = open(dir.path()).unwrap();
    let mut world = World::new();
    for _ in 0..checkpoints {
        world.change();
        world.write(&mut store).unwrap();
    }
    (dir, world)
}

#[test]
fn flipped_bits_are_found() {
    let (dir, world) = used();
    let whole = image(dir.path());
    let (mut refused, mut noticed, mut harmless) = (0, 0, 0);
    for (path, bytes) in whole.iter().filter(|(path, _)| path.extension().unwrap() == "pack") {
        for at in (0..bytes.len()).step_by(bytes.len() / 400) {
            let mut damaged = whole.clone();
            damaged.get_mut(path).unwrap()[at] ^= 4;
            restore(dir.path(), &damaged);
            let Ok((store, found)) = open(dir.path()) else {
                refused += 1;
                continue;
            };
            let found = found.unwrap();
            let mut failed = None;
            let mut fetch = |digest: &Digest| {
                store.get(digest).unwrap_or_else(|error| {
                    failed = Some(error);
                    None
                })
            };
            let trees: Vec<_> =
                found.roots.iter().map(|root| Tree::open(*root, &mut fetch)).collect();
            if let Some(error) = failed {
                assert_eq!(error.kind(), io::ErrorKind::InvalidData);
                assert!(error.to_string().contains("damaged"));
                noticed += 1;
            } else {
                let found: Vec<Model> =
                    trees.iter().map(|tree| content(tree.as_ref().unwrap())).collect();
                assert_eq!(found, world.contents(), "only what is dead was hit");
                harmless += 1;
            }
        }
    }
    assert!(
        refused > 5 && noticed > 20,
        "{refused} refused, {noticed} noticed, {harmless} harmless"
    );
}

#[test]
fn without_one_superblock_the_other_counts() {
    let damage = |image: &mut Image, dir: &TempDir, slot: &str| {
        image.get_mut(&dir.path().join("store").join(slot)).unwrap()[70] ^= 1;
    };
    for checkpoints in 2..14 {
        let (dir, world) = after(checkpoints);
        // To open it removes only what no superblock speaks of.
        drop(open(dir.path()).unwrap());
        let whole = image(dir.path());
        let mut seqs = SLOTS.map(|slot| {
            let mut damaged = whole.clone();
            damage(&mut damaged, &dir, slot);
            restore(dir.path(), &damaged);
            let (store, found) = open(dir.path()).unwrap();
            let found = found.unwrap();
            assert_eq!(load(&store, &found).len(), 2);
            found.seq
        });
        seqs.sort_unstable();
        assert_eq!(seqs, [world.seq - 1, world.seq]);

        let mut damaged = whole;
        SLOTS.iter().for_each(|slot| damage(&mut damaged, &dir, slot));
        restore(dir.path(), &damaged);
        assert!(matches!(open(dir.path()), Err(Error::Damaged { .. })));
    }
}

#[test]
fn a_pack_that_is_cut_or_lost_is_missed() {
    let (dir, _) = used();
    let whole = image(dir.path());
    let newest = whole.keys().rfind(|path| path.extension().unwrap() == "pack").unwrap().clone();
    let mut cut = whole.clone();
    cut.get_mut(&newest).unwrap().pop();
    restore(dir.path(), &cut);
    assert!(matches!(open(dir.path()), Err(Error::Damaged { .. })));
    let mut lost = whole;
    lost.remove(&newest);
    restore(dir.path(), &lost);
    assert!(open(dir.path()).is_err());
}

#[test]
fn a_full_disk_is_an_error() {
    let dir = TempDir::new().unwrap();
    let (mut store, _) = open(dir.path()).unwrap();
    std::os::unix::fs::symlink("/dev/full", Pack::path(&store.dir, store.next_pack)).unwrap();
    let mut world = World::new();
    world.change();
    let error = world.write(&mut store).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull, "{error}");
    assert!(world.write(&mut store).unwrap_err().to_string().contains("takes no more"));
}

#[test]
fn changes_that_do_not_lead_to_the_checkpoint_are_refused() {
    let (dir, mut world) = used();
    let (mut store, _) = open(dir.path()).unwrap();
    world.change();
    world.trees.each_mut().into_iter().for_each(|tree| drop(tree.seal()));
    let error = world.write(&mut store).unwrap_err();
    assert!(error.to_string().contains("was not added"), "{error}");

    let (dir, mut world) = used();
    let (mut store, _) = open(dir.path()).unwrap();
    let trees = world.trees.each_mut().map(|tree| {
        tree.seal();
        tree.snapshot()
    });
    let freed = [Digest([3; 32])];
    let checkpoint =
        Checkpoint { seq: 1, meta: &[], added: &[], freed: &freed, trees: &trees, rewrite: false };
    let error = store.write_checkpoint(&checkpoint).unwrap_err();
    assert!(error.to_string().contains("more often than added"), "{error}");
}

#[test]
fn blocks_are_read_while_a_checkpoint_is_written() {
    let (dir, mut world) = used();
    let (mut store, found) = open(dir.path()).unwrap();
    let reader = store.reader();
    let (newest, done) = (Mutex::new(found.unwrap().roots[1]), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            loop {
                // While the lock is held there can be one newer checkpoint at most.
                let root = newest.lock().unwrap();
                assert!(reader.get(&root).unwrap().is_some());
                assert!(reader.get(&Digest([3; 32])).unwrap().is_none());
                if done.load(Ordering::Relaxed) {
                    break;
                }
            }
        });
        for _ in 0..30 {
            world.change();
            world.write(&mut store).unwrap();
            *newest.lock().unwrap() = world.trees[1].snapshot().root();
        }
        done.store(true, Ordering::Relaxed);
    });
}
