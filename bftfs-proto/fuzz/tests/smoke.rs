//! A fixed amount of fuzzing: every input of the corpora, and as many seeded mutations of them.
//!
//! An input that fails is kept in `artifacts/`, for `scripts/fuzz --input FILE TARGET`.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use bftfs_fuzz::TARGETS;
use fastrand::Rng;

/// Inputs are cut to this many bytes when they are mutated.
const INPUT_BYTES_MAX: usize = 4096;

fn smoke(name: &str, mutations: usize) {
    let (_, run) = TARGETS.into_iter().find(|(target, _)| *target == name).expect("a target");
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut corpus = corpus(&here.join("corpus").join(name));
    assert!(!corpus.is_empty(), "{name} has a corpus");
    let attempt = |input: &[u8]| {
        if catch_unwind(AssertUnwindSafe(|| run(input))).is_err() {
            let artifacts = here.join("artifacts").join(name);
            let kept = artifacts.join("smoke");
            fs::create_dir_all(&artifacts).and_then(|()| fs::write(&kept, input)).expect("room");
            panic!("{name} fails with the input in {}", kept.display());
        }
    };
    corpus.iter().for_each(|input| attempt(input));
    corpus.push(Vec::new());
    let mut rng = Rng::with_seed(7);
    for _ in 0..mutations {
        let mut input = corpus[rng.usize(..corpus.len())].clone();
        for _ in 0..rng.usize(1..6) {
            let other = &corpus[rng.usize(..corpus.len())];
            mutate(&mut input, other, &mut rng);
        }
        attempt(&input);
    }
}

/// The inputs in a folder, in order.
fn corpus(folder: &Path) -> Vec<Vec<u8>> {
    let entries = fs::read_dir(folder).expect("the folder is in git");
    let mut files: Vec<_> = entries.map(|entry| entry.expect("readable").path()).collect();
    files.sort();
    files.iter().map(|file| fs::read(file).expect("readable")).collect()
}

fn mutate(input: &mut Vec<u8>, other: &[u8], rng: &mut Rng) {
    let at = rng.usize(..=input.len());
    let end = rng.usize(at..=input.len()).min(at + 32);
    match rng.u8(..8) {
        0 | 1 if at < input.len() => input[at] ^= 1 << rng.u8(..8),
        2 if at < input.len() => input[at] = rng.u8(..),
        3 => input.splice(at..at, (0..rng.usize(1..16)).map(|_| rng.u8(..))).for_each(drop),
        4 => input.drain(at..end).for_each(drop),
        5 => input.extend_from_within(at..end),
        6 => {
            let from = rng.usize(..=other.len());
            input.truncate(at);
            input.extend_from_slice(&other[from..]);
        }
        _ => input.extend((0..rng.usize(1..64)).map(|_| rng.u8(..))),
    }
    input.truncate(INPUT_BYTES_MAX);
}

macro_rules! smoke {
    ($($name:ident: $mutations:literal),* $(,)?) => {
        $(#[test]
        fn $name() {
            smoke(stringify!($name), $mutations);
        })*

        #[test]
        fn every_target_is_here() {
            assert_eq!([$(stringify!($name)),*], TARGETS.map(|(name, _)| name));
        }
    };
}

smoke! {
    client: 800,
    cluster_file: 20_000,
    fs: 10_000,
    handle: 1_500,
    journal: 5_000,
    message: 60_000,
    store: 5_000,
    tree: 10_000,
}
