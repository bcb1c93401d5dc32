//! The store against the trees whose checkpoints it was given.

mod crash;
mod damage;
pub(super) mod record;
mod upgrade;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use bftfs_state::Tree;
use tempfile::TempDir;

use super::*;
use crate::data::{self, Identity, Opened, Options};

const IDENTITY: Identity = Identity { cluster: Digest([1; 32]), replica: 0 };

fn options() -> Options {
    Options {
        segment_bytes: 4096,
        dead_bytes: 20_000,
        pack_bytes: 30_000,
        clean_bytes: 50_000,
        ..Options::new(Durability::Replicated)
    }
}

fn open(dir: &Path) -> Result<(Store, Option<LoadedCheckpoint>), Error> {
    data::open_or_format(dir, &IDENTITY, &options()).map(|opened| (opened.store, opened.checkpoint))
}

type Contents = BTreeMap<Vec<u8>, Vec<u8>>;

fn contents_of(tree: &Tree) -> Contents {
    tree.prefix(&[]).map(|(key, value)| (key.to_vec(), value.read().to_vec())).collect()
}

fn load(store: &Store, checkpoint: &LoadedCheckpoint) -> Vec<Tree> {
    let mut fetch = |digest: &Digest| store.get(digest).expect("blocks are intact");
    checkpoint
        .roots
        .iter()
        .map(|root| Tree::open(*root, &mut fetch).expect("none is missing"))
        .collect()
}

/// What both trees changed since they were sealed last.
struct Sealed {
    added: Vec<Block>,
    freed: Vec<Digest>,
    roots: [Digest; 2],
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

    fn seal(&mut self) -> Sealed {
        self.seq += 1;
        let sealed = self.trees.each_mut().map(Tree::seal);
        Sealed {
            added: sealed.iter().flat_map(|sealed| sealed.added.clone()).collect(),
            freed: sealed.iter().flat_map(|sealed| sealed.freed.clone()).collect(),
            roots: sealed.map(|sealed| sealed.root),
        }
    }

    fn write_sealed(&self, store: &mut Store, sealed: &Sealed, rewrite: bool) -> io::Result<()> {
        store.write_checkpoint(&Checkpoint {
            seq: self.seq,
            meta: &self.seq.to_be_bytes(),
            added: if rewrite { &[] } else { &sealed.added },
            freed: if rewrite { &[] } else { &sealed.freed },
            trees: &self.trees.each_ref().map(Tree::snapshot),
            rewrite,
        })
    }

    fn write(&mut self, store: &mut Store) -> io::Result<()> {
        let sealed = self.seal();
        self.write_sealed(store, &sealed, false)
    }

    /// Bytes that the packs must have for the present trees.
    fn live(&self) -> u64 {
        let trees = self.trees.each_ref().map(Tree::snapshot);
        let blocks: BTreeMap<Digest, u64> = trees
            .iter()
            .flat_map(|tree| tree.blocks().collect::<Vec<_>>())
            .map(|block| (block.digest, block.bytes.len() as u64 + 48))
            .collect();
        blocks.values().sum()
    }

    fn contents(&self) -> [Contents; 2] {
        self.trees.each_ref().map(contents_of)
    }
}

fn check(store: &Store, found: Option<&LoadedCheckpoint>, seq: u64, contents: &[Contents; 2]) {
    let found = found.expect("there is a checkpoint");
    assert_eq!((found.seq, found.meta.as_slice()), (seq, seq.to_be_bytes().as_slice()));
    assert_eq!(load(store, found).iter().map(contents_of).collect::<Vec<_>>(), contents);
}

/// Bytes of all files in the store.
fn disk_use(dir: &Path) -> u64 {
    let files = fs::read_dir(dir.join("store")).unwrap();
    files.map(|file| file.unwrap().metadata().unwrap().len()).sum()
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
        packs.extend(pack::files(&dir.path().join("store")).unwrap());
    }
    assert!(packs.len() > 10, "{} packs and lists", packs.len());
    assert!(pack::files(&dir.path().join("store")).unwrap().len() <= 20);
}

#[test]
fn its_size_stays_within_twice_what_is_alive_and_a_constant() {
    let dir = TempDir::new().unwrap();
    let (mut store, _) = open(dir.path()).unwrap();
    let mut world = World::new();
    let options = options();
    // What may be dead, the current pack, and those that the other superblock still speaks of.
    let constant = options.dead_bytes + 8 * options.pack_bytes;
    let (mut written, mut most) = (0, 0);
    for round in 0..400_u64 {
        let (phase, tree) = (round / 100, &mut world.trees[1]);
        for n in 0..6 {
            let key = ((round * 7919 + n * 104_729) % 300).to_be_bytes();
            // It grows, is overwritten, shrinks to a tenth, and is overwritten again.
            if phase == 2 {
                for n in 0..3 {
                    tree.remove(&((round % 100) * 3 + n).to_be_bytes());
                }
            } else {
                tree.insert(&key, [round.to_be_bytes(), n.to_be_bytes()].concat().repeat(500));
            }
        }
        let sealed = world.seal();
        written += sealed.added.iter().map(|block| block.bytes.len() as u64).sum::<u64>();
        world.write_sealed(&mut store, &sealed, false).unwrap();
        let (used, live) = (disk_use(dir.path()), world.live());
        assert!(used <= 2 * live + constant, "round {round}: {used} for {live}");
        most = most.max(used);
    }
    assert!(written > 3 * most, "{written} bytes were written, {most} used at most");
    drop(store);
    let (store, found) = open(dir.path()).unwrap();
    check(&store, found.as_ref(), world.seq, &world.contents());
}

/// The contents of all files of the store.
type Image = BTreeMap<PathBuf, Vec<u8>>;

fn image(dir: &Path) -> Image {
    let paths = fs::read_dir(dir.join("store")).unwrap().map(|entry| entry.unwrap().path());
    paths.map(|path| (path.clone(), fs::read(path).unwrap())).collect()
}

fn restore(dir: &Path, image: &Image) {
    restore_files(dir, image);
}

/// Puts these files in the place of those of the store in `dir`.
fn restore_files(dir: &Path, files: &Image) {
    fs::remove_dir_all(dir.join("store")).unwrap();
    fs::create_dir(dir.join("store")).unwrap();
    for (path, bytes) in files {
        fs::write(dir.join("store").join(path.file_name().unwrap()), bytes).unwrap();
    }
}

/// Copies what a data directory has beside the store.
fn copy_rest(from: &Path, to: &Path) {
    for dir in ["journal", "store"] {
        fs::create_dir_all(to.join(dir)).unwrap();
    }
    for file in ["identity", "journal/0000000000.segment"] {
        fs::copy(from.join(file), to.join(file)).unwrap();
    }
}

/// A store after some checkpoints.
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
fn a_full_disk_is_an_error() {
    let dir = TempDir::new().unwrap();
    let (mut store, _) = open(dir.path()).unwrap();
    let pack = dir.path().join("store").join(pack::name(1));
    std::os::unix::fs::symlink("/dev/full", pack).unwrap();
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

#[test]
fn what_is_imported_is_a_whole_tree_and_nothing_else() {
    type Change = fn(&mut Vec<Block>);
    let import = |change: Change| -> Result<(), String> {
        let dir = TempDir::new().unwrap();
        let (mut store, _) = open(dir.path()).unwrap();
        let mut world = World::new();
        (0..5).for_each(|_| world.change());
        let sealed = world.seal();
        let mut blocks = sealed.added;
        change(&mut blocks);
        let meta = world.seq.to_be_bytes().to_vec();
        let checkpoint = LoadedCheckpoint { seq: world.seq, meta, roots: sealed.roots.to_vec() };
        store.import(checkpoint, blocks.into_iter().map(Ok)).map_err(|error| error.to_string())?;
        drop(store);
        let (store, found) = open(dir.path()).unwrap();
        check(&store, found.as_ref(), world.seq, &world.contents());
        Ok(())
    };
    assert_eq!(import(|_| {}), Ok(()));
    assert_eq!(import(|blocks| blocks.reverse()), Ok(()), "the order means nothing");
    let refused: [(Change, &str); 3] = [
        (|blocks| drop(blocks.remove(0)), "is missing"),
        (|blocks| drop(blocks.pop()), "is missing"),
        (
            |blocks| {
                let mut other = Tree::new();
                other.insert(b"other", vec![77; 2000]);
                blocks.extend(other.seal().added);
            },
            "is not part of it",
        ),
    ];
    for (change, what) in refused {
        let error: String = import(change).unwrap_err();
        assert!(error.contains(what), "{error}");
    }
}
