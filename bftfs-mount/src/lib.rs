//! The client of bftfs: a FUSE file system whose every call is an operation of the cluster.
//!
//! The kernel's requests arrive in [`fuse`], become operations in [`volume`], and leave through a
//! [`volume::Cluster`]; the answer takes the same way back on the cluster's thread. The rest is
//! the command: [`cli`], [`options`], [`mountpoint`], [`daemon`], [`serve`], [`stats`].

pub mod cli;
pub mod daemon;
pub mod fuse;
pub mod mountpoint;
pub mod options;
pub mod run;

pub mod serve;
pub mod socket;
pub mod stats;
pub mod volume;
