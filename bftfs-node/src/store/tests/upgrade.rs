//! Directories of format 1, made here as the program of that time made them.

use super::*;
use crate::data::{Blob, open_identity_for_tests};
use crate::store::superblock::{SLOTS, StoredV1, SuperblockV1};

/// An entry of a pack of format 1.
fn entry(kind: u8, digest: &Digest, bytes: &[u8]) -> Vec<u8> {
    let mut header = vec![0; 48];
    header[0] = kind;
    header[4..8].copy_from_slice(&u32::try_from(bytes.len()).unwrap().to_le_bytes());
    header[8..40].copy_from_slice(&digest.0);
    let hash = blake3::hash(&header[..40]);
    header[40..].copy_from_slice(&hash.as_bytes()[..8]);
    [&header, bytes].concat()
}

/// Checkpoints as format 1 wrote them, all to one pack.
struct Old {
    dir: TempDir,
    seal: Seal,
    pack: Vec<u8>,
    known: std::collections::HashSet<Digest>,
    generation: u64,
    world: World,
    contents: Vec<[Contents; 2]>,
}

impl Old {
    fn new(checkpoints: u64) -> Self {
        let dir = TempDir::new().unwrap();
        data::format(dir.path(), &IDENTITY, &options(), &[]).unwrap();
        let (seal, known, world) = (rewrite_identity(dir.path()), <_>::default(), World::new());
        let (pack, contents) = (Vec::new(), Vec::new());
        let mut old = Self { dir, seal, pack, known, generation: 1, world, contents };
        (0..2).for_each(|generation| old.superblock(generation, None));
        (0..checkpoints).for_each(|_| old.checkpoint());
        old
    }

    fn superblock(&self, generation: u64, newest: Option<StoredV1>) {
        let payload = postcard::to_allocvec(&SuperblockV1 { generation, newest }).unwrap();
        let bytes = Blob::encode_as(1, b"bftfs-SB", &self.seal, &payload, 1 << 20).unwrap();
        let slot = SLOTS[usize::from(generation % 2 == 1)];
        fs::write(self.dir.path().join("store").join(slot), bytes).unwrap();
    }

    fn checkpoint(&mut self) {
        self.world.change();
        let sealed = self.world.seal();
        for block in &sealed.added {
            let new = self.known.insert(block.digest);
            let bytes: &[u8] = if new { &block.bytes } else { &[] };
            self.pack.extend(entry(if new { 1 } else { 2 }, &block.digest, bytes));
        }
        for digest in &sealed.freed {
            self.pack.extend(entry(3, digest, &[]));
        }
        fs::write(self.dir.path().join("store/0000000001.pack"), &self.pack).unwrap();
        self.generation += 1;
        let (seq, roots) = (self.world.seq, sealed.roots.to_vec());
        let checkpoint = LoadedCheckpoint { seq, meta: seq.to_be_bytes().to_vec(), roots };
        let len = self.pack.len() as u64;
        self.superblock(self.generation, Some(StoredV1 { checkpoint, pack: 1, len }));
        self.contents.push(self.world.contents());
    }

    fn check(&self) -> Store {
        let (store, found) = open(self.dir.path()).unwrap();
        check(&store, found.as_ref(), self.world.seq, &self.world.contents());
        let before = store.before.clone().expect("there are two");
        let trees: Vec<_> = load(&store, &before).iter().map(contents_of).collect();
        assert_eq!(trees, self.contents[self.contents.len() - 2]);
        store
    }
}

/// Gives the identity format 1 and returns the seal that it makes.
fn rewrite_identity(dir: &Path) -> Seal {
    let (payload, seal) = open_identity_for_tests(dir);
    let bytes = Blob::encode_as(1, b"bftfs-ID", &Seal::OPEN, &payload, 1 << 20).unwrap();
    fs::write(dir.join("identity"), bytes).unwrap();
    seal
}

fn format_of(path: &Path) -> u8 {
    fs::read(path).unwrap()[8]
}

#[test]
fn a_directory_of_format_1_is_upgraded_and_goes_on() {
    let mut old = Old::new(7);
    let mut store = old.check();
    assert_eq!(format_of(&old.dir.path().join("identity")), 2);
    let keys = old.world.contents().map(|tree| tree.into_keys().collect::<Vec<_>>());
    for (tree, keys) in old.world.trees.iter_mut().zip(keys) {
        keys.iter().for_each(|key| assert!(tree.remove(key)));
    }
    for round in 0..12_u8 {
        (0..4).for_each(|n| old.world.trees[0].insert(&[n], vec![round; 3000 + usize::from(n)]));
        old.world.write(&mut store).unwrap();
        old.contents.push(old.world.contents());
    }
    drop(store);
    drop(old.check());
    assert!(!old.dir.path().join("store/0000000001.pack").exists(), "the old pack is cleaned");
}

#[test]
fn an_empty_directory_of_format_1_is_upgraded() {
    let old = Old::new(0);
    let (store, found) = open(old.dir.path()).unwrap();
    assert!(found.is_none());
    drop(store);
    assert_eq!(format_of(&old.dir.path().join("identity")), 2);
}

#[test]
fn a_crash_within_an_upgrade_leaves_what_can_be_upgraded() {
    let whole = Old::new(6);
    let store_dir = whole.dir.path().join("store");
    let before = image(whole.dir.path());
    let identity = fs::read(whole.dir.path().join("identity")).unwrap();
    drop(whole.check());
    let after = image(whole.dir.path());
    let slot =
        SLOTS.iter().find(|slot| after[&store_dir.join(slot)] != before[&store_dir.join(slot)]);
    let slot = store_dir.join(slot.expect("one was written"));
    for len in 0..=after[&slot].len() {
        let mut torn = before.clone();
        let file = torn.get_mut(&slot).unwrap();
        file.splice(..len.min(file.len()), after[&slot][..len].to_vec());
        restore(whole.dir.path(), &torn);
        fs::write(whole.dir.path().join("identity"), &identity).unwrap();
        // What a crash left of the new identity.
        fs::write(whole.dir.path().join("identity.new"), [7; 300]).unwrap();
        let (store, found) = open(whole.dir.path()).unwrap();
        check(&store, found.as_ref(), whole.world.seq, &whole.world.contents());
        drop(store);
        assert_eq!(format_of(&whole.dir.path().join("identity")), 2);
    }
}
