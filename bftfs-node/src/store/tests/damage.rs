//! Bits that flip, files that are cut or lost, and their repair.

use tokio::sync::mpsc::UnboundedReceiver;

use bftfs_state::Source as _;

use super::*;
use crate::store::superblock::SLOTS;

fn drain(damaged: &mut UnboundedReceiver<Digest>) -> Vec<Digest> {
    std::iter::from_fn(|| damaged.try_recv().ok()).collect()
}

/// All blocks of the trees, as other replicas have them.
fn blocks_of(world: &World) -> BTreeMap<Digest, Block> {
    let trees = world.trees.each_ref().map(Tree::snapshot);
    let blocks = trees.iter().flat_map(|tree| tree.blocks().collect::<Vec<_>>());
    blocks.map(|block| (block.digest, block)).collect()
}

/// Reads every block of the world and mends what is damaged; returns how many those were.
fn mend_all(store: &mut Store, world: &World) -> usize {
    let blocks = blocks_of(world);
    let mut damaged = store.take_damaged().unwrap();
    let handle = store.blocks();
    let mut mended = 0;
    loop {
        // What is below a page that is lost is not known before that page is mended.
        let known = blocks.keys().filter(|digest| store.get(digest).is_ok_and(|b| b.is_some()));
        let known = known.count();
        let found = drain(&mut damaged);
        if found.is_empty() {
            assert_eq!(known, blocks.len(), "all is there or reported");
            break;
        }
        for digest in found {
            let Some(block) = blocks.get(&digest) else { continue };
            let wrong = Block { digest, bytes: Bytes::from_static(b"wrong") };
            assert!(!handle.mend(&wrong), "what is not the block is refused");
            assert!(handle.mend(block));
            assert_eq!(store.get(&digest).unwrap().unwrap(), block.bytes);
            mended += 1;
        }
        store.recount();
    }
    mended
}

#[test]
fn whatever_bit_flips_it_opens_and_is_mended() {
    let (dir, world) = used();
    let whole = image(dir.path());
    let (mut mended, mut harmless) = (0, 0);
    for (path, bytes) in whole.iter().filter(|(path, _)| path.extension().unwrap() == "pack") {
        for at in (0..bytes.len()).step_by(bytes.len() / 120) {
            let mut damaged = whole.clone();
            damaged.get_mut(path).unwrap()[at] ^= 4;
            // Without its list a pack is read header by header.
            if at % 2 == 0 {
                damaged.remove(&path.with_extension("list"));
            }
            restore(dir.path(), &damaged);
            let (mut store, found) = open(dir.path()).unwrap();
            match mend_all(&mut store, &world) {
                0 => harmless += 1,
                _ => mended += 1,
            }
            check(&store, found.as_ref(), world.seq, &world.contents());
            // And what was mended is there after the next checkpoint and a restart.
            let trees = load(&store, &found.unwrap()).try_into().unwrap();
            let mut world = World { trees, seq: world.seq };
            world.change();
            world.write(&mut store).unwrap();
            drop(store);
            let (mut store, found) = open(dir.path()).unwrap();
            check(&store, found.as_ref(), world.seq, &world.contents());
            let damaged = drain(&mut store.take_damaged().unwrap());
            let blocks = blocks_of(&world);
            assert!(!damaged.iter().any(|digest| blocks.contains_key(digest)));
        }
    }
    assert!(mended > 20 && harmless > 5, "{mended} mended, {harmless} harmless");
}

#[test]
fn a_pack_that_is_cut_or_lost_is_missed_and_mended() {
    let (dir, world) = used();
    let whole = image(dir.path());
    let packs = whole.iter().filter(|(path, _)| path.extension().unwrap() == "pack");
    for (path, bytes) in packs {
        for len in [None, Some(0), Some(bytes.len() / 2), Some(bytes.len() - 1)] {
            let mut damaged = whole.clone();
            match len {
                Some(len) => damaged.get_mut(path).unwrap().truncate(len),
                None => drop(damaged.remove(path)),
            }
            restore(dir.path(), &damaged);
            let (mut store, found) = open(dir.path()).unwrap();
            mend_all(&mut store, &world);
            check(&store, found.as_ref(), world.seq, &world.contents());
            let mut after = World::new();
            after.trees = load(&store, &found.unwrap()).try_into().unwrap();
            after.seq = world.seq;
            for _ in 0..3 {
                after.change();
                after.write(&mut store).unwrap();
            }
            drop(store);
            let (store, found) = open(dir.path()).unwrap();
            check(&store, found.as_ref(), after.seq, &after.contents());
        }
    }
}

#[test]
fn without_its_lists_it_is_the_same() {
    let (dir, world) = used();
    let mut whole = image(dir.path());
    let lists: Vec<_> =
        whole.keys().filter(|path| path.extension().unwrap() == "list").cloned().collect();
    assert!(!lists.is_empty());
    for (n, list) in lists.iter().enumerate() {
        if n % 2 == 0 {
            whole.remove(list);
        } else {
            whole.get_mut(list).unwrap()[100] ^= 1;
        }
    }
    restore(dir.path(), &whole);
    let (store, found) = open(dir.path()).unwrap();
    check(&store, found.as_ref(), world.seq, &world.contents());
    drop(store);
    let again = image(dir.path());
    for list in &lists {
        let bytes = &again[list];
        assert!(!bytes.is_empty() && whole.get(list) != Some(bytes), "it is written again");
    }
}

#[test]
fn without_one_superblock_the_other_counts() {
    let damage = |image: &mut Image, dir: &TempDir, slot: &str| {
        image.get_mut(&dir.path().join("store").join(slot)).unwrap()[70] ^= 1;
    };
    for checkpoints in (2..14).chain([40]) {
        let (dir, world) = after(checkpoints);
        // To open it removes only what no superblock speaks of.
        drop(open(dir.path()).unwrap());
        let whole = image(dir.path());
        let mut seqs = SLOTS.map(|slot| {
            let mut damaged = whole.clone();
            damage(&mut damaged, &dir, slot);
            restore(dir.path(), &damaged);
            if checkpoints % 2 == 0 {
                // Or it is not there at all.
                fs::remove_file(dir.path().join("store").join(slot)).unwrap();
            }
            let (mut store, found) = open(dir.path()).unwrap();
            let found = found.unwrap();
            // And it goes on from there.
            let mut world =
                World { trees: load(&store, &found).try_into().unwrap(), seq: found.seq };
            for _ in 0..3 {
                world.change();
                world.write(&mut store).unwrap();
            }
            drop(store);
            let (store, newest) = open(dir.path()).unwrap();
            check(&store, newest.as_ref(), world.seq, &world.contents());
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
fn a_value_that_is_kept_is_there_until_a_checkpoint_comes_with_it() {
    let dir = TempDir::new().unwrap();
    let (mut store, _) = open(dir.path()).unwrap();
    let mut world = World::new();
    let blocks = store.blocks();
    (0..9_u8).for_each(|n| world.trees[0].insert(&[n, n], vec![n + 100; 3000]));
    let sealed = world.seal();
    for block in &sealed.added {
        blocks.keep(block);
        assert_eq!(blocks.get(&block.digest).unwrap(), block.bytes);
    }
    // Other checkpoints come first, and clean.
    let mut other = World::new();
    for _ in 0..40 {
        other.change();
        other.write(&mut store).unwrap();
    }
    for block in &sealed.added {
        assert!(blocks.has(&block.digest));
        assert_eq!(store.reader().get(&block.digest).unwrap().unwrap(), block.bytes);
    }
    assert!(!blocks.has(&Digest([3; 32])));
    assert!(blocks.get(&Digest([3; 32])).is_none());
    assert_eq!(drain(&mut store.take_damaged().unwrap()), [], "it is not ours to miss");
}

#[test]
fn a_rewrite_replaces_what_is_damaged() {
    let (dir, mut world) = used();
    let whole = image(dir.path());
    let mut replaced = 0;
    for (path, bytes) in whole.iter().filter(|(path, _)| path.extension().unwrap() == "pack") {
        for at in (0..bytes.len()).step_by(bytes.len() / 20) {
            let mut damaged = whole.clone();
            damaged.get_mut(path).unwrap()[at] ^= 1;
            restore(dir.path(), &damaged);
            let (mut store, _) = open(dir.path()).unwrap();
            // The same state again, as if it had been fetched.
            let sealed = world.seal();
            world.write_sealed(&mut store, &sealed, true).unwrap();
            replaced += store.contents().repaired;
            drop(store);
            let (store, found) = open(dir.path()).unwrap();
            check(&store, found.as_ref(), world.seq, &world.contents());
        }
    }
    assert!(replaced > 5, "{replaced} blocks were damaged");
}
