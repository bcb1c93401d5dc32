//! Everything that comes from outside, told to the code that has to bear it.
//!
//! Each module is a target: a function of any bytes that panics when a rule is broken. The same
//! functions run under libFuzzer for as long as one likes (`scripts/fuzz`, the binaries in
//! `fuzz_targets/`) and in a fixed amount of work with every test (`tests/smoke.rs`).
//!
//! | target | who may say it | what must hold |
//! |---|---|---|
//! | [`message`] | a peer | what is accepted has one meaning and keeps its caps |
//! | [`handle`] | peers, clients, time, crashes | no promise is broken, nothing leaves undurable |
//! | [`client`] | replicas, users, time | a quorum stands behind every result |
//! | [`fs`] | clients | the file system stays sound and deterministic |
//! | [`tree`] | whoever serves state | a tree that opens is one that we could have made |
//! | [`journal`], [`store`] | a disk | what was kept is there, or the loss is noticed |
//! | [`cluster_file`] | a person | what is accepted is written and read as the same |

#![forbid(unsafe_code)]

pub mod cast;
pub mod client;
pub mod cluster_file;
pub mod disk;
pub mod fs;
pub mod handle;
pub mod journal;
pub mod message;
pub mod pick;
pub mod store;
pub mod tree;

/// A target: its name and what it does with any bytes.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: [Target; 8] = [
    ("client", client::run),
    ("cluster_file", cluster_file::run),
    ("fs", fs::run),
    ("handle", handle::run),
    ("journal", journal::run),
    ("message", message::run),
    ("store", store::run),
    ("tree", tree::run),
];
