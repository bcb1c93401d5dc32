//! The real world of the agreement: QUIC links with mutual TLS, and the cluster file.
//!
//! [`ClusterFile`] says who the members are, [`Identity`] who I am; [`Links`] carries messages
//! between them; [`ClientHandle`] drives the client core over links.

pub mod client;
pub mod clock;
pub mod cluster_file;
pub mod counters;
mod frame;
pub mod identity;
pub mod links;
mod members;
pub mod tls;

pub use client::ClientHandle;
pub use clock::Clock;
pub use cluster_file::{ClusterFile, Durability};
pub use identity::Identity;
#[cfg(feature = "byzantine")]
pub use links::Forged;
pub use links::{Event, Links};
pub use members::Standing;
