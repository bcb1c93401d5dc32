//! Blocks of the state, from whoever serves a state transfer.

use std::collections::BTreeMap;

use bftfs_state::{Children, Digest, MAX_KEY, Tree, block_children, is_block};
use bytes::Bytes;

use crate::pick::Pick;

/// The keys of the hashes that name blocks. Public: whoever lies about blocks has them too.
const PAGE_KEY: &[u8; 32] = b"bftfs state tree: page, format 1";
const VALUE_KEY: &[u8; 32] = b"bftfs state tree: value format 1";

/// Blocks by their names.
type Blocks = BTreeMap<Digest, Bytes>;

/// A tree that somebody made up, and then one of ours that is worked on.
pub fn run(data: &[u8]) {
    let mut pick = Pick::new(data);
    if pick.flip() {
        let any = pick.rest();
        one_block(any);
        open(page_digest(any), &[(page_digest(any), Bytes::copy_from_slice(any))].into());
    } else if pick.flip() {
        let (root, blocks) = made_up(&mut pick);
        open(root, &blocks);
    } else {
        work(&mut pick);
    }
}

/// The tree that is read back from the blocks of `tree`, as after a state transfer.
#[must_use]
pub fn reopened(tree: &mut Tree) -> Tree {
    let root = tree.seal().root;
    let blocks: Blocks = tree.snapshot().blocks().map(|b| (b.digest, b.bytes)).collect();
    Tree::open(root, &mut |digest| blocks.get(digest).cloned()).expect("a tree opens again")
}

fn page_digest(bytes: &[u8]) -> Digest {
    Digest(*blake3::keyed_hash(PAGE_KEY, bytes).as_bytes())
}

fn value_digest(bytes: &[u8]) -> Digest {
    Digest(*blake3::keyed_hash(VALUE_KEY, bytes).as_bytes())
}

/// Any bytes under their right names, and under a wrong one.
fn one_block(bytes: &[u8]) {
    let (page, value) = (page_digest(bytes), value_digest(bytes));
    assert!(is_block(&page, bytes) && is_block(&value, bytes));
    assert_eq!(
        block_children(&value, bytes),
        Ok(Children::Values(vec![])),
        "a value refers to nothing"
    );
    if let Ok(children) = block_children(&page, bytes) {
        let children = children.into_digests();
        assert!(children.len() * 44 <= bytes.len(), "a reference takes so much");
    }
    let wrong = Digest::of(bytes);
    assert!(!is_block(&wrong, bytes) && block_children(&wrong, bytes).is_err());
}

/// Pages above pages, each well-formed or nearly so, with references that may hold.
fn made_up(pick: &mut Pick<'_>) -> (Digest, Blocks) {
    let mut blocks = Blocks::new();
    // Whole subtrees so far, from left to right: least key, digest, keys below.
    let mut row: Vec<(Vec<u8>, Digest, u64)> = Vec::new();
    for at in 0..1 + pick.below(4) {
        let (bytes, weight) = leaf(pick, at, &mut blocks);
        let digest = page_digest(&bytes);
        blocks.insert(digest, bytes.into());
        row.push((vec![b'0' + pick.byte() % 2 + u8::try_from(at).unwrap_or(0)], digest, weight));
    }
    let mut level = 1;
    while row.len() > 1 || (level < 3 && pick.flip()) {
        let mut page = vec![if pick.rarely(16) { pick.byte() } else { level }];
        let mut sum = 0_u64;
        for (at, (key, digest, weight)) in row.iter().enumerate() {
            let key = if at == 0 && !pick.rarely(8) { &[][..] } else { key };
            let weight = if pick.rarely(16) { pick.word() } else { *weight };
            entry(&mut page, key, u16::MAX, &reference(*digest, weight));
            sum = sum.wrapping_add(weight);
        }
        if pick.rarely(4) {
            page.extend(pick.bytes(8));
        }
        let digest = page_digest(&page);
        blocks.insert(digest, page.into());
        row = vec![(Vec::new(), digest, sum)];
        level += 1;
    }
    (row[0].1, blocks)
}

/// A leaf of keys that begin with the digit `at`, long enough to stand below another page.
fn leaf(pick: &mut Pick<'_>, at: u64, blocks: &mut Blocks) -> (Vec<u8>, u64) {
    let mut page = vec![0];
    let mut weight = 0;
    let first = b'0' + u8::try_from(at).unwrap_or(0);
    for number in 0..pick.below(8) {
        let key = [&[first, u8::try_from(number).unwrap_or(0)][..], &pick.bytes(4)].concat();
        if pick.rarely(4) {
            let value = vec![pick.byte(); 500 + pick.index(100)];
            let len = if pick.rarely(8) { pick.word() } else { value.len() as u64 };
            entry(&mut page, &key, u16::MAX, &reference(value_digest(&value), len));
            blocks.insert(value_digest(&value), value.into());
        } else {
            let value = vec![pick.byte(); 200 + pick.index(400)];
            entry(&mut page, &key, u16::try_from(value.len()).unwrap_or(0), &value);
        }
        weight += 1;
    }
    (page, weight)
}

fn reference(digest: Digest, weight: u64) -> Vec<u8> {
    [&digest.0[..], &weight.to_le_bytes()].concat()
}

fn entry(page: &mut Vec<u8>, key: &[u8], tag: u16, payload: &[u8]) {
    page.extend_from_slice(&u16::try_from(key.len()).unwrap_or(0).to_le_bytes());
    page.extend_from_slice(&tag.to_le_bytes());
    page.extend_from_slice(key);
    page.extend_from_slice(payload);
}

/// What opens is sound: all keys in order, the digest that of its contents, fit to be changed.
fn open(root: Digest, blocks: &Blocks) {
    blocks.values().for_each(|bytes| one_block(bytes));
    let Ok(mut tree) = Tree::open(root, &mut |digest| blocks.get(digest).cloned()) else {
        return;
    };
    assert_eq!(tree.digest_from_scratch(), root);
    let pairs: Vec<_> = tree.prefix(&[]).map(|(k, v)| (k.to_vec(), v.read().to_vec())).collect();
    assert_eq!(tree.len(), pairs.len() as u64);
    assert!(pairs.is_sorted_by(|(one, _), (next, _)| one < next), "keys ascend");
    for (key, value) in &pairs {
        assert_eq!(tree.get(key).as_deref(), Some(&value[..]));
    }
    tree.insert(b"0", vec![1; 600]);
    for (key, _) in &pairs {
        tree.update(key, |value| value.push(0));
    }
    assert_eq!(tree.seal().root, tree.digest_from_scratch());
    pairs.iter().for_each(|(key, _)| assert!(tree.remove(key) || key == b"0"));
    assert_eq!(tree.seal().root, tree.digest_from_scratch());
}

/// Operations on a tree and on a map; the tree is sealed, shared and read back in between.
fn work(pick: &mut Pick<'_>) {
    let (mut tree, mut model) = (Tree::new(), BTreeMap::new());
    let mut kept = Vec::new();
    while !pick.is_empty() {
        let most = if pick.rarely(4) { MAX_KEY } else { 4 };
        let key = vec![pick.byte() % 64; 1 + pick.index(most)];
        match pick.below(8) {
            0..=2 => {
                let len = if pick.rarely(8) { pick.index(5000) } else { pick.index(600) };
                let value = vec![pick.byte(); len];
                tree.insert(&key, value.clone());
                model.insert(key, value);
            }
            3..=4 => assert_eq!(tree.remove(&key), model.remove(&key).is_some()),
            5 => {
                let changed = tree.update(&key, |value| value.truncate(100));
                let in_model = model.get_mut(&key).map(|value: &mut Vec<u8>| value.truncate(100));
                assert_eq!(changed, in_model.is_some());
            }
            6 => tree = reopened(&mut tree),
            _ => {
                tree.seal();
                kept.push((tree.snapshot(), model.clone()));
            }
        }
        assert_eq!(tree.len(), model.len() as u64);
    }
    tree.seal();
    kept.push((tree.snapshot(), model));
    for (snapshot, model) in kept {
        let pairs = snapshot.tree().prefix(&[]);
        let pairs = pairs.map(|(key, value)| (key.to_vec(), value.read().to_vec()));
        assert!(pairs.eq(model), "a snapshot is what the tree was");
        assert_eq!(snapshot.root(), snapshot.tree().digest_from_scratch());
    }
}
