//! The store of checkpoints, when its disk did not keep what was written.

use bftfs_node::data::Opened;
use bftfs_node::store::{Checkpoint, LoadedCheckpoint, Reader, Store};
use bftfs_state::{Block, Digest, Tree};

use crate::disk::Disk;
use crate::pick::Pick;

/// The state of a replica, and the checkpoints of it that were written.
struct World {
    trees: [Tree; 2],
    written: Vec<(LoadedCheckpoint, [Tree; 2])>,
}

/// Checkpoints, restarts, then damage. What is read is a checkpoint as it was written, or not used.
pub fn run(data: &[u8]) {
    let (disk, mut pick) = (Disk::new(), Pick::new(data));
    let mut world = World { trees: [Tree::new(), Tree::new()], written: Vec::new() };
    let mut store = disk.open().expect("a new store opens").store;
    for _ in 0..pick.below(12) {
        match pick.byte() % 16 {
            0..=11 => world.change(&mut pick),
            12..=14 => world.write(&mut store, pick.rarely(4)),
            _ => {
                drop(store);
                let opened = disk.open().expect("what is whole opens");
                world.check(&opened, true);
                store = opened.store;
            }
        }
    }
    drop(store);
    let mut intact = true;
    while !pick.is_empty() {
        disk.damage("store", &mut pick);
        intact = false;
    }
    let Ok(mut opened) = disk.open() else {
        assert!(!intact, "what is whole opens");
        return;
    };
    world.check(&opened, intact);
    // A store that opened keeps what is written to it from now on.
    world.write(&mut opened.store, true);
    drop(opened);
    world.check(&disk.open().expect("what was written opens"), true);
}

impl World {
    fn change(&mut self, pick: &mut Pick<'_>) {
        let tree = &mut self.trees[pick.index(2)];
        for _ in 0..pick.below(64) {
            let key = [pick.byte() % 32, 0, 1];
            if pick.rarely(4) {
                tree.remove(&key);
            } else {
                let len = if pick.rarely(4) { 2000 } else { 200 };
                tree.insert(&key, vec![pick.byte(); len]);
            }
        }
    }

    fn write(&mut self, store: &mut Store, rewrite: bool) {
        let sealed = self.trees.each_mut().map(Tree::seal);
        let added: Vec<Block> = sealed.iter().flat_map(|sealed| sealed.added.clone()).collect();
        let freed: Vec<Digest> = sealed.iter().flat_map(|sealed| sealed.freed.clone()).collect();
        let trees = self.trees.each_ref().map(Tree::snapshot);
        let (seq, meta) = (1 + self.written.len() as u64, b"meta");
        let (added, freed) = (&added[..], &freed[..]);
        let checkpoint = Checkpoint { seq, meta, added, freed, trees: &trees, rewrite };
        store.write_checkpoint(&checkpoint).expect("a checkpoint that leads on is written");
        let roots = sealed.map(|sealed| sealed.root).to_vec();
        let loaded = LoadedCheckpoint { seq, meta: meta.to_vec(), roots };
        self.written.push((loaded, self.trees.clone()));
    }

    fn check(&self, opened: &Opened, whole: bool) {
        let newest = self.written.last().map(|(checkpoint, _)| checkpoint);
        assert!(opened.checkpoint.as_ref() == newest || !whole, "the newest is found");
        let Some(found) = &opened.checkpoint else { return };
        let written = self.written.iter().find(|(checkpoint, _)| checkpoint == found);
        let (_, trees) = written.expect("nothing is found that was not written");
        for (root, tree) in found.roots.iter().zip(trees) {
            let read = read(&opened.store.reader(), *root);
            let all = |tree: &Tree| -> Vec<(Vec<u8>, Vec<u8>)> {
                tree.prefix(&[]).map(|(key, value)| (key.to_vec(), value.read().to_vec())).collect()
            };
            let same = |read: &Tree| all(read) == all(tree);
            assert!(read.as_ref().map_or(!whole, same), "what is read is what was written");
        }
    }
}

/// The tree of this root, unless a block is lost or damaged.
fn read(reader: &Reader, root: Digest) -> Option<Tree> {
    Tree::open(root, &mut |digest| reader.get(digest).ok().flatten()).ok()
}
