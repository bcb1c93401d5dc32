//! The tree against a `BTreeMap`, its blocks against a store that counts references.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

use std::sync::Mutex;

use bytes::Bytes;
use proptest::collection::vec as vec_of;
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

use super::node::{Node, page_digest, value_digest};
use super::page::{MAX_INLINE, MAX_PAGE, MIN_PAGE};
use super::*;

/// Blocks with the number of places that refer to them.
#[derive(Clone, Default)]
struct Store(BTreeMap<Digest, (u64, Bytes)>);

impl Store {
    fn apply(&mut self, sealed: &Sealed) {
        for block in &sealed.added {
            self.0.entry(block.digest).or_insert_with(|| (0, block.bytes.clone())).0 += 1;
        }
        for digest in &sealed.freed {
            let (count, _) = self.0.get_mut(digest).expect("only stored blocks are freed");
            *count -= 1;
            if *count == 0 {
                self.0.remove(digest);
            }
        }
    }

    fn open(&self, root: Digest) -> Result<Tree, OpenError> {
        Tree::open(root, &mut |digest| self.0.get(digest).map(|(_, bytes)| bytes.clone()))
    }

    /// Exactly the blocks of the snapshot, each as often as it occurs there.
    fn holds_exactly(&self, snapshot: &Snapshot) -> bool {
        let mut live = Self::default();
        live.apply(&Sealed {
            root: snapshot.root(),
            added: snapshot.blocks().collect(),
            freed: vec![],
        });
        live.0 == self.0
    }
}

/// A source that loses what it is told to lose.
#[derive(Debug, Default)]
struct Kept(Mutex<BTreeMap<Digest, Bytes>>);

impl Kept {
    fn lose(&self, digest: &Digest) -> Bytes {
        self.0.lock().unwrap().remove(digest).expect("it was kept")
    }
}

impl Source for Kept {
    fn get(&self, digest: &Digest) -> Option<Bytes> {
        self.0.lock().unwrap().get(digest).cloned()
    }

    fn keep(&self, block: &Block) {
        self.0.lock().unwrap().insert(block.digest, block.bytes.clone());
    }
}

#[derive(Clone, Debug)]
enum Op {
    Insert(Vec<u8>, usize, u8),
    Upsert(Vec<u8>, usize, u8),
    Update(Vec<u8>, usize, u8),
    Remove(Vec<u8>),
    RemoveBelow(Vec<u8>),
    Seal,
    Snapshot,
    Reopen,
}

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

fn keys() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        6 => (0u16..600).prop_map(|n| n.to_be_bytes().to_vec()),
        2 => (0u16..60).prop_map(|n| [vec![7; 380], n.to_be_bytes().to_vec()].concat()),
        1 => vec_of(any::<u8>(), 1..6),
    ]
}

fn changes() -> impl Strategy<Value = (Vec<u8>, usize, u8)> {
    let len = prop_oneof![6 => 0usize..200, 3 => 400usize..=520, 1 => Just(9000usize)];
    (keys(), len, any::<u8>())
}

fn ops() -> impl Strategy<Value = Op> {
    prop_oneof![
        20 => changes().prop_map(|(key, len, fill)| Op::Insert(key, len, fill)),
        6 => changes().prop_map(|(key, len, fill)| Op::Upsert(key, len, fill)),
        6 => changes().prop_map(|(key, len, fill)| Op::Update(key, len, fill)),
        12 => keys().prop_map(Op::Remove),
        1 => keys().prop_map(Op::RemoveBelow),
        2 => Just(Op::Seal),
        1 => Just(Op::Snapshot),
        1 => Just(Op::Reopen),
    ]
}

/// A tree, what it should hold, and the world around it.
#[derive(Default)]
struct World {
    tree: Tree,
    model: Model,
    store: Store,
    /// Where its long values are, if not in memory.
    source: Option<Arc<Kept>>,
    snapshots: Vec<(Snapshot, Model)>,
}

impl World {
    /// One whose long values are elsewhere.
    fn away() -> Self {
        let source = Arc::<Kept>::default();
        Self { tree: Tree::over(source.clone()), source: Some(source), ..Self::default() }
    }

    fn step(&mut self, op: &Op) {
        match op {
            Op::Insert(key, len, fill) => {
                self.tree.insert(key, vec![*fill; *len]);
                self.model.insert(key.clone(), vec![*fill; *len]);
            }
            Op::Upsert(key, len, fill) => {
                self.tree.upsert(key, |value| value.resize(*len, *fill));
                self.model.entry(key.clone()).or_default().resize(*len, *fill);
            }
            Op::Update(key, len, fill) => {
                let found = self.tree.update(key, |value| value.resize(*len, *fill));
                let model = self.model.get_mut(key);
                assert_eq!(found, model.is_some());
                model.into_iter().for_each(|value| value.resize(*len, *fill));
            }
            Op::Remove(key) => {
                assert_eq!(self.tree.remove(key), self.model.remove(key).is_some());
            }
            Op::RemoveBelow(key) => {
                let above = self.model.split_off(key);
                core::mem::replace(&mut self.model, above).keys().for_each(|key| {
                    assert!(self.tree.remove(key));
                });
            }
            Op::Seal => self.seal(),
            Op::Snapshot => {
                self.seal();
                self.snapshots.push((self.tree.snapshot(), self.model.clone()));
            }
            Op::Reopen => {
                self.seal();
                let root = self.tree.snapshot().root();
                let reopened = match &self.source {
                    Some(source) => Tree::open_over(root, source.clone()),
                    None => self.store.open(root),
                };
                self.tree = reopened.expect("the store has the tree");
            }
        }
    }

    fn seal(&mut self) {
        let sealed = self.tree.seal();
        assert_eq!(sealed.root, self.tree.digest_from_scratch());
        assert_eq!(self.tree.digest(), Some(sealed.root));
        self.store.apply(&sealed);
        if let Some(source) = &self.source {
            sealed.added.iter().for_each(|block| source.keep(block));
            let held = |part| matches!(part, Part::Value(_));
            assert!(!self.tree.snapshot().parts().any(held), "a long value is still in memory");
        }
        assert!(self.store.holds_exactly(&self.tree.snapshot()), "a block is missing or leaked");
    }
}

fn assert_equal(tree: &Tree, model: &Model) {
    let pairs = tree.range(&[], &[u8::MAX; 8]);
    assert!(read(pairs).eq(model.iter().map(|(k, v)| (k.as_slice(), v.clone()))));
    assert_eq!(tree.len(), model.len() as u64);
    for (key, value) in model {
        assert_eq!(tree.get(key).as_deref(), Some(value.as_slice()));
        assert_eq!(tree.entry(key).map(|entry| entry.len()), Some(value.len()));
    }
    assert_eq!(tree.missed(), None);
}

fn read<'a>(range: Range<'a>) -> impl Iterator<Item = (&'a [u8], Vec<u8>)> {
    range.map(|(key, entry)| (key, entry.read().to_vec()))
}

/// The sizes that the module promises, and levels that all end in leaves.
fn assert_shape(node: &Node, is_root: bool) {
    let size = node.bytes().len();
    assert!(size <= MAX_PAGE && (is_root || size >= MIN_PAGE), "a page of {size} bytes");
    if let Node::Inner(page) = node {
        assert!(page.len() > 1);
        for at in 0..page.len() {
            assert_eq!(page.link(at).bytes()[0] + 1, page.level());
            assert_shape(page.link(at), false);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn behaves_as_a_map(
        ops in vec_of(ops(), 1..400),
        bounds in vec_of((keys(), keys()), 8),
    ) {
        let mut twin = World::default();
        let mut worlds = [World::default(), World::away()];
        for world in &mut worlds {
            for op in &ops {
                world.step(op);
                assert_shape(&world.tree.root, true);
            }
            assert_equal(&world.tree, &world.model);
            for (from, below) in &bounds {
                check_walks(&world.tree, &world.model, from, below)?;
            }
            world.seal();
            for (snapshot, model) in &world.snapshots {
                assert_equal(snapshot.tree(), model);
                prop_assert_eq!(snapshot.root(), snapshot.tree().digest_from_scratch());
            }
        }

        // Where its values are and where it was sealed, reopened or kept has no part in the shape.
        let changes = ops.iter().filter(|op| !matches!(op, Op::Seal | Op::Snapshot | Op::Reopen));
        changes.for_each(|op| twin.step(op));
        let root = twin.tree.seal().root;
        prop_assert!(worlds.iter_mut().all(|world| world.tree.seal().root == root));
    }

    #[test]
    fn refuses_hostile_pages(
        level in 0u8..3,
        bytes in vec_of(any::<u8>(), 0..300),
        small in vec_of(0u8..4, 0..60),
    ) {
        for tail in [bytes, small] {
            let page = [vec![level], tail].concat();
            let digest = page_digest(&page);
            let children = block_children(&digest, &page);
            let tree = Tree::open(digest, &mut |asked| {
                (*asked == digest).then(|| Bytes::from(page.clone()))
            });
            // What is accepted is what a tree would have written.
            match tree {
                Ok(tree) => prop_assert_eq!(tree.digest_from_scratch(), digest),
                Err(OpenError::Missing(_)) => prop_assert_ne!(children.unwrap(), Children::Values(vec![])),
                Err(OpenError::Malformed { .. }) => {},
                Err(error) => prop_assert!(false, "{}", error),
            }
        }
    }
}

fn check_walks(tree: &Tree, model: &Model, from: &[u8], below: &[u8]) -> Result<(), TestCaseError> {
    let expected =
        model.iter().filter(|(key, _)| (from..below).contains(&key.as_slice())).map(pair);
    prop_assert!(read(tree.range(from, below)).eq(expected));
    let expected = model.iter().filter(|(key, _)| key.starts_with(&from[..1])).map(pair);
    prop_assert!(read(tree.prefix(&from[..1])).eq(expected));
    let expected = model.iter().find(|(key, _)| key.as_slice() >= from).map(pair);
    let first = tree.first_at_or_after(from).map(|(key, entry)| (key, entry.read().to_vec()));
    prop_assert_eq!(first, expected);
    Ok(())
}

fn pair<'a>((key, value): (&'a Vec<u8>, &'a Vec<u8>)) -> (&'a [u8], Vec<u8>) {
    (key, value.clone())
}

/// A tree of three levels with long values among its leaves.
fn sample() -> (Tree, Store) {
    let (mut tree, mut store) = (Tree::new(), Store::default());
    for n in 0u32..6000 {
        tree.insert(&n.wrapping_mul(0x9e37_79b9).to_be_bytes(), vec![1; (n % 90) as usize]);
    }
    tree.insert(b"long", vec![2; 32 << 10]);
    tree.insert(b"long too", vec![2; 32 << 10]);
    store.apply(&tree.seal());
    assert_eq!(tree.root.bytes()[0], 2);
    (tree, store)
}

#[test]
fn an_empty_tree_has_a_fixed_digest() {
    let mut tree = Tree::new();
    assert_eq!(tree.digest(), None);
    let empty = tree.seal().root;
    assert_eq!(empty, page_digest(&[0]));
    tree.insert(b"a", b"b");
    tree.remove(b"a");
    assert_eq!(tree.seal().root, empty);
}

#[test]
fn format_is_fixed() {
    let (tree, _) = sample();
    let digest = alloc::format!("{}", tree.snapshot().root());
    // A change of this digest is a change of the format: replicas of both would disagree.
    assert_eq!(digest, "9520d202f8a56dbe29f419ca31e6afdd86b6dedd4d9f7c0e6a7f09cccb270f83");
}

#[test]
fn removing_everything_leaves_one_empty_page() {
    let (mut tree, mut store) = sample();
    let keys: Vec<Vec<u8>> = tree.prefix(&[]).map(|(key, _)| key.to_vec()).collect();
    for (n, key) in keys.iter().enumerate() {
        assert!(tree.remove(key));
        if n % 500 == 0 {
            assert_shape(&tree.root, true);
        }
    }
    store.apply(&tree.seal());
    assert_eq!(store.0.len(), 1);
    assert!(tree.is_empty());
}

#[test]
fn a_change_seals_one_path() {
    let (mut tree, _) = sample();
    let before = tree.snapshot();
    tree.update(b"long", |value| value[5] = 9);
    let sealed = tree.seal();
    assert_eq!(sealed.added.len(), 4, "value, leaf, inner, root");
    assert_eq!(sealed.freed.len(), 4);
    assert_eq!(before.tree().get(b"long").map(|value| value[5]), Some(2));
    assert!(tree.seal().added.is_empty());
}

#[test]
fn a_value_that_the_source_lost_is_told_of_and_can_be_brought_back() {
    let mut world = World::away();
    world.tree.insert(b"long", vec![2; 32 << 10]);
    world.tree.insert(b"short", vec![3; 32]);
    world.model.insert(b"long".to_vec(), vec![2; 32 << 10]);
    world.model.insert(b"short".to_vec(), vec![3; 32]);
    world.seal();
    let (tree, source) = (&mut world.tree, world.source.as_ref().expect("values are away"));
    let digest = tree.entry(b"long").and_then(|entry| entry.away()).expect("it is a block");
    let bytes = source.lose(&digest);
    assert_eq!(tree.entry(b"long").map(|entry| entry.len()), Some(32 << 10));
    assert_eq!((tree.get(b"short").as_deref(), tree.missed()), (Some(&[3; 32][..]), None));
    assert_eq!((tree.get(b"long").as_deref(), tree.missed()), (Some(&[][..]), Some(digest)));
    assert_eq!(tree.missed(), None, "it tells once");
    let before = tree.clone();
    tree.update(b"long", |value| value.push(1));
    assert_eq!(tree.missed(), Some(digest));
    *tree = before;
    source.keep(&Block { digest, bytes });
    assert_equal(tree, &world.model);
}

#[test]
fn an_open_value_is_changed_in_place() {
    let (mut tree, _) = sample();
    tree.update(b"long", |value| value[0] = 1);
    let address = tree.get(b"long").unwrap().as_ptr();
    tree.update(b"long", |value| value[1] = 1);
    assert_eq!(tree.get(b"long").unwrap().as_ptr(), address);
}

#[test]
fn equal_values_are_counted() {
    let (mut tree, mut store) = sample();
    let digest = value_digest(&vec![2; 32 << 10]);
    assert_eq!(store.0[&digest].0, 2);
    tree.remove(b"long");
    store.apply(&tree.seal());
    assert_eq!(store.0[&digest].0, 1);
    assert!(store.open(tree.snapshot().root()).is_ok());
}

#[test]
fn a_leak_or_a_loss_is_seen() {
    let (mut tree, store) = sample();
    tree.remove(b"long");
    let sealed = tree.seal();
    let check = |sealed: &Sealed| {
        let mut store = store.clone();
        store.apply(sealed);
        store.holds_exactly(&tree.snapshot())
    };
    assert!(check(&sealed));
    let mut leak = sealed.clone();
    leak.freed.pop();
    assert!(!check(&leak));
    let mut loss = sealed;
    loss.added.pop();
    assert!(!check(&loss));
}

#[test]
fn values_of_every_length_around_the_limits() {
    let mut tree = Tree::new();
    for len in [0, 1, MAX_INLINE - 1, MAX_INLINE, MAX_INLINE + 1, MAX_VALUE] {
        tree.upsert(b"key", |value| value.resize(len, 3));
        assert_eq!(tree.get(b"key").as_deref(), Some(vec![3; len].as_slice()));
        let mut store = Store::default();
        let root = tree.seal().root;
        tree.snapshot().blocks().for_each(|block| {
            store.0.insert(block.digest, (1, block.bytes));
        });
        assert_eq!(store.open(root).unwrap().entry(b"key").map(|entry| entry.len()), Some(len));
    }
}

#[test]
#[should_panic(expected = "out of bounds")]
fn an_empty_key_is_a_fault_of_the_caller() {
    Tree::new().insert(b"", b"");
}

#[test]
#[should_panic(expected = "over the limit")]
fn a_huge_value_is_a_fault_of_the_caller() {
    Tree::new().insert(b"a", vec![0; MAX_VALUE + 1]);
}

#[test]
fn missing_and_changed_blocks_are_found() {
    let (tree, store) = sample();
    let root = tree.snapshot().root();
    for digest in store.0.keys() {
        let mut broken = store.clone();
        broken.0.remove(digest);
        assert_eq!(broken.open(root).unwrap_err(), OpenError::Missing(*digest));

        let mut bytes = store.0[digest].1.to_vec();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        assert_eq!(block_children(digest, &bytes), Err(OpenError::Mismatch(*digest)));
        broken.0.insert(*digest, (1, bytes.into()));
        assert_eq!(broken.open(root).unwrap_err(), OpenError::Mismatch(*digest));
    }
}

#[test]
fn children_lead_to_every_block() {
    let (tree, mut store) = sample();
    let mut pending = vec![tree.snapshot().root()];
    while let Some(digest) = pending.pop() {
        if let Some((_, bytes)) = store.0.remove(&digest) {
            pending.extend(block_children(&digest, &bytes).unwrap().into_digests());
        }
    }
    assert!(store.0.is_empty());
}

#[test]
fn a_value_is_never_a_page() {
    let (tree, store) = sample();
    let root = tree.snapshot().root();
    let page = store.0[&root].1.clone();
    assert_eq!(block_children(&value_digest(&page), &page), Ok(Children::Values(vec![])));
    assert!(is_block(&root, &page) && is_block(&value_digest(&page), &page));
    assert!(!is_block(&root, &page[1..]));
    assert!(Tree::open(value_digest(&page), &mut |_| Some(page.clone())).is_err());
}

/// An entry of a page, as a forger would write it.
fn entry(key: &[u8], reference: Option<(Digest, u64)>) -> Vec<u8> {
    let tag = if reference.is_some() { u16::MAX } else { 0 };
    let len = u16::try_from(key.len()).unwrap();
    let mut bytes = [&len.to_le_bytes(), &tag.to_le_bytes(), key].concat();
    if let Some((digest, weight)) = reference {
        bytes.extend_from_slice(&digest.0);
        bytes.extend_from_slice(&weight.to_le_bytes());
    }
    bytes
}

/// Opens a tree whose blocks have their digests but were not made by a tree.
fn forge(pages: &[Vec<u8>], root: usize) -> Result<Tree, OpenError> {
    let blocks: BTreeMap<Digest, Bytes> =
        pages.iter().map(|page| (page_digest(page), page.clone().into())).collect();
    Tree::open(page_digest(&pages[root]), &mut |digest| blocks.get(digest).cloned())
}

fn reason(result: Result<Tree, OpenError>) -> &'static str {
    match result {
        Err(OpenError::Malformed { reason, .. }) => reason,
        other => panic!("not refused as malformed: {other:?}"),
    }
}

/// A leaf of the keys `from..from + 60`, long enough to be no root.
fn leaf(from: u8) -> Vec<u8> {
    let keys = (from..from + 60).map(|key| entry(&[&[key], [0; 20].as_slice()].concat(), None));
    [vec![0], keys.collect::<Vec<_>>().concat()].concat()
}

#[test]
fn forged_structure_is_refused() {
    let (left, right) = (leaf(1), leaf(100));
    let to = |page: &[u8], weight| Some((page_digest(page), weight));
    let root = |level: u8, entries: &[Vec<u8>]| [vec![level], entries.concat()].concat();
    let open = |root: Vec<u8>| forge(&[left.clone(), right.clone(), root], 2);
    let (l, r) = (entry(b"", to(&left, 60)), entry(&[100], to(&right, 60)));

    assert_eq!(open(root(1, &[l.clone(), r.clone()])).unwrap().len(), 120, "the honest one");
    let cases = [
        (root(2, &[l.clone(), r.clone()]), "level is not the one below"),
        (root(25, &[l.clone(), r.clone()]), "level is too high"),
        (root(1, core::slice::from_ref(&l)), "less than two children"),
        (root(1, &[r.clone(), l.clone()]), "not in ascending order"),
        (root(1, &[l.clone(), l.clone()]), "not in ascending order"),
        (root(1, &[l.clone(), entry(&[100], to(&right, 61))]), "number of keys"),
        (root(1, &[l.clone(), entry(&[101], to(&right, 60))]), "outside the bounds"),
        (root(1, &[l.clone(), entry(&[59], to(&right, 60))]), "outside the bounds"),
        (root(1, &[entry(&[1], to(&left, 60)), r.clone()]), "outside the bounds"),
        (root(1, &[l.clone(), entry(&[100], to(&left, 60))]), "outside the bounds"),
        (root(1, &[l.clone(), entry(&[100], None)]), "an inner page has a value"),
        (root(0, &[l.clone(), r.clone()]), "a key is empty"),
        (root(0, core::slice::from_ref(&r)), "length of a value"),
        (root(1, &[l, r])[..80].to_vec(), "cut short"),
        (root(0, &[entry(&[1; MAX_KEY + 1], None)]), "a key is too long"),
        (root(0, &[]).repeat(MAX_PAGE + 1), "it is too long"),
        (Vec::new(), "it is empty"),
    ];
    for (page, expected) in cases {
        let reason = reason(open(page));
        assert!(reason.contains(expected), "{reason:?} instead of {expected:?}");
    }
}

#[test]
fn a_short_page_below_the_root_is_refused() {
    let (left, right) = (leaf(1), [vec![0], entry(&[100], None)].concat());
    let to = |page: &[u8], weight| Some((page_digest(page), weight));
    let entries = [entry(b"", to(&left, 60)), entry(&[100], to(&right, 1))];
    let root = [vec![1], entries.concat()].concat();
    assert!(reason(forge(&[left, right, root], 2)).contains("too short"));
}

#[test]
fn trees_and_snapshots_cross_threads() {
    fn is_sent<T: Send + 'static>() {}
    is_sent::<Tree>();
    is_sent::<Snapshot>();
}
