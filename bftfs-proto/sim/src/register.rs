//! A map of registers: how another service runs on the same core.
//!
//! The agreement knows nothing of files. To replicate something else:
//!
//! 1. Say what can be asked and told, and encode both: here [`Ask`] and [`Told`], by `codec`.
//! 2. Implement [`Service`]. Its state is the [`Tree`] that it is handed, and nothing else: what is
//!    in the tree is in checkpoints, and fetched by replicas that fell behind.
//! 3. Be a function of the arguments alone. Time is in the [`Context`]; there is no clock, no
//!    randomness, no file. Limits are the service's own, such as [`VALUE_BYTES_MAX`], never the
//!    machine's. Bytes that make no sense get a result that says so: clients may lie as well.
//! 4. Answer in [`Service::query`] what changes nothing, and only that. It is what lets a client
//!    read without ordering.
//! 5. Let go in [`Service::session_closed`] of what a client's session held, such as locks.
//!
//! Then `Replica::recover` takes the service, and clients submit encoded operations. Run
//! `cargo run -p bftfs-sim --example registers` to see four replicas do it, driven by hand.

use bftfs_proto::Tree;
use bftfs_proto::codec;
use bftfs_proto::service::{Context, Nudge, Service};
use bftfs_proto::types::{SessionId, Wall};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// Bytes of a register's name, at least one.
pub const NAME_BYTES_MAX: usize = 64;
/// Bytes of a register's value.
pub const VALUE_BYTES_MAX: usize = 1 << 16;

/// What can be asked of the registers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ask {
    /// What is in this register? Gives [`Told::Value`].
    Get(Bytes),
    /// Put this into this register. Gives [`Told::Length`].
    Put(Bytes, Bytes),
    /// Append this to what is in this register. Gives [`Told::Length`].
    Append(Bytes, Bytes),
    /// Put `new` into a register if `old` is what is in it. Gives [`Told::Length`], or
    /// [`Told::Value`] if something else is in it.
    Swap {
        /// Which register.
        name: Bytes,
        /// What must be in it.
        old: Option<Bytes>,
        /// What is to be in it.
        new: Bytes,
    },
}

impl Ask {
    /// The bytes to submit.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        codec::encode(self).into()
    }
}

/// The result of an [`Ask`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Told {
    /// What is in the register.
    Value(Option<Bytes>),
    /// The length of what the register now holds.
    Length(u64),
    /// Nothing was done: the name or the value would be too long.
    TooLong,
    /// The bytes were no [`Ask`].
    Malformed,
}

/// The service.
#[derive(Clone, Copy, Debug, Default)]
pub struct Registers;

impl Registers {
    /// What is in a register.
    #[must_use]
    pub fn value(state: &Tree, name: &[u8]) -> Option<Bytes> {
        state.get(name).map(|value| Bytes::copy_from_slice(&value))
    }
}

impl Service for Registers {
    fn genesis(&self, _: &mut Tree) {}

    fn execute(
        &self,
        state: &mut Tree,
        _: &Context,
        operation: &Bytes,
        _: &mut Vec<Nudge>,
    ) -> Bytes {
        let told = match codec::decode(operation) {
            Ok(Ask::Get(name)) => Told::Value(Self::value(state, &name)),
            Ok(Ask::Put(name, value)) => put(state, &name, value.into()),
            Ok(Ask::Append(name, more)) => {
                let mut value = state.get(&name).map(|value| value.to_vec()).unwrap_or_default();
                value.extend_from_slice(&more);
                put(state, &name, value)
            }
            Ok(Ask::Swap { name, old, new }) => match Self::value(state, &name) {
                now if now == old => put(state, &name, new.into()),
                now => Told::Value(now),
            },
            Err(_) => Told::Malformed,
        };
        codec::encode(&told).into()
    }

    fn query(&self, state: &Tree, _: &Context, operation: &Bytes) -> Option<Bytes> {
        match codec::decode(operation) {
            Ok(Ask::Get(name)) => {
                Some(codec::encode(&Told::Value(Self::value(state, &name))).into())
            }
            Ok(Ask::Put(..) | Ask::Append(..) | Ask::Swap { .. }) | Err(_) => None,
        }
    }

    fn session_closed(&self, _: &mut Tree, _: SessionId, _: Wall, _: &mut Vec<Nudge>) {}
}

fn put(state: &mut Tree, name: &[u8], value: Vec<u8>) -> Told {
    if name.is_empty() || name.len() > NAME_BYTES_MAX || value.len() > VALUE_BYTES_MAX {
        return Told::TooLong;
    }
    let length = value.len() as u64;
    state.insert(name, value);
    Told::Length(length)
}
