//! A second, tiny service on the same core: a map of lists to which clients append.
//!
//! It is the smallest example of a [`Service`], and the one whose histories are easiest to judge:
//! a list shows in which order appends took place, and whether one took place twice.

use bftfs_proto::Tree;
use bftfs_proto::codec;
use bftfs_proto::service::{Context, Service};
use bftfs_proto::types::{SessionId, Wall};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// What can be asked of the lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ask {
    /// Append this number to this list; the result is the list's new length.
    Append(u8, u64),
    /// The whole of this list.
    Get(u8),
}

/// The result of an [`Ask`], or `Malformed`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Told {
    /// The length after an append.
    Length(u64),
    /// A list.
    List(Vec<u64>),
    /// The bytes were no [`Ask`].
    Malformed,
}

/// The service.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lists;

impl Lists {
    /// The list under `key`.
    #[must_use]
    pub fn list(state: &Tree, key: u8) -> Vec<u64> {
        state.get(&[key]).and_then(|bytes| codec::decode(bytes).ok()).unwrap_or_default()
    }
}

impl Service for Lists {
    fn genesis(&self, _: &mut Tree) {}

    fn execute(&self, state: &mut Tree, context: &Context, operation: &Bytes) -> Bytes {
        let told = match codec::decode(operation) {
            Ok(Ask::Append(key, number)) => {
                let mut list = Self::list(state, key);
                list.push(number);
                state.insert(&[key], codec::encode(&list));
                Told::Length(list.len() as u64)
            }
            Ok(Ask::Get(_)) => return self.query(state, context, operation).unwrap_or_default(),
            Err(_) => Told::Malformed,
        };
        codec::encode(&told).into()
    }

    fn query(&self, state: &Tree, _: &Context, operation: &Bytes) -> Option<Bytes> {
        match codec::decode(operation) {
            Ok(Ask::Get(key)) => Some(codec::encode(&Told::List(Self::list(state, key))).into()),
            Ok(Ask::Append(..)) | Err(_) => None,
        }
    }

    fn session_closed(&self, _: &mut Tree, _: SessionId, _: Wall) {}
}
