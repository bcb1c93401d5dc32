//! A replica: the agreement of `bftfs-proto` over the links of `bftfs-net`, with a disk.
//!
//! [`data::open`] opens a replica's data directory: the journal of what it has promised, and the
//! store of its checkpoints. The format of both is drawn in `docs/on-disk.md`. [`startup`] makes a
//! replica of what is there, [`driver`] runs it.

mod admin;
mod archive;
#[cfg(feature = "byzantine")]
mod byzantine;
pub mod cli;
pub mod data;
pub mod driver;
pub mod journal;
pub mod startup;
pub mod status;
pub mod store;
pub mod tools;
mod writer;
