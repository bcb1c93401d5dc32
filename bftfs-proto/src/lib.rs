//! The agreement: everything that correct replicas and clients must do alike.
//!
//! Nothing in this crate touches a clock, a source of randomness, a socket, a file or a task: time
//! is an argument and outputs are data. `no_std` proves it. The same code runs under tokio and
//! quinn (`bftfs-net`) and under the simulator (`bftfs-sim`).
//!
//! Read in this order: [`types`], [`config`], [`message`], [`auth`], [`engine`], [`service`],
//! [`replica`], [`client`].
#![no_std]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod auth;
pub mod client;
pub mod codec;
pub mod config;
pub mod engine;
pub mod message;
pub mod replica;

pub mod service;
pub mod types;

pub use bftfs_state::{Block, Digest, Snapshot, Tree};
