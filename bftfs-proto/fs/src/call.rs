//! A call and its outcome as bytes.
//!
//! ```text
//! call     postcard(Call), then the raw bytes of Operation::Write
//! outcome  postcard(Outcome), then the raw bytes of Reply::Data
//! ```
//! Contents stand raw behind the rest so that they are neither copied nor scanned when decoded.

use alloc::vec::Vec;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::operation::{Operation, Outcome, Reply};

/// Most supplementary groups of a caller; a call with more is refused.
pub const GROUPS_MAX: usize = 1024;

/// On whose behalf an operation is done.
///
/// The client's certificate vouches for these as far as its [`Rule`](crate::Rule) goes: within it, a
/// mount is trusted with the users of its machine, as with NFS's `AUTH_SYS`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credentials {
    /// The user; 0 is the superuser.
    pub uid: u32,
    /// The group, which new files get.
    pub gid: u32,
    /// Supplementary groups, at most [`GROUPS_MAX`].
    pub groups: Vec<u32>,
}

/// An operation and on whose behalf it is done: the body of a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    /// Who asks.
    pub credentials: Credentials,
    /// What for.
    pub operation: Operation,
}

/// Bytes that are no encoding of what was expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed encoding of a file operation")]
pub struct Malformed;

impl Call {
    /// The bytes to send.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        match &self.operation {
            Operation::Write { data, .. } => encode_before(self, data),
            _ => encode_before(self, &[]),
        }
    }

    /// Reads a call that came from elsewhere; written data is shared with `bytes`.
    ///
    /// # Errors
    /// If the bytes are not the whole encoding of a call.
    pub fn decode(bytes: &Bytes) -> Result<Self, Malformed> {
        let (mut call, rest): (Self, _) =
            postcard::take_from_bytes(bytes).map_err(|_| Malformed)?;
        match &mut call.operation {
            Operation::Write { data, .. } => *data = bytes.slice_ref(rest),
            _ if rest.is_empty() => {}
            _ => return Err(Malformed),
        }
        Ok(call)
    }
}

/// The bytes of an outcome to send.
#[must_use]
pub fn encode_outcome(outcome: &Outcome) -> Bytes {
    match outcome {
        Ok(Reply::Data(data)) => encode_before(outcome, data),
        _ => encode_before(outcome, &[]),
    }
}

/// Reads an outcome that came from elsewhere; read data is shared with `bytes`.
///
/// # Errors
/// If the bytes are not the whole encoding of an outcome.
pub fn decode_outcome(bytes: &Bytes) -> Result<Outcome, Malformed> {
    let (mut outcome, rest): (Outcome, _) =
        postcard::take_from_bytes(bytes).map_err(|_| Malformed)?;
    match &mut outcome {
        Ok(Reply::Data(data)) => *data = bytes.slice_ref(rest),
        _ if rest.is_empty() => {}
        _ => return Err(Malformed),
    }
    Ok(outcome)
}

fn encode_before<T: Serialize>(value: &T, contents: &[u8]) -> Bytes {
    let bytes = Vec::with_capacity(192 + contents.len());
    let mut bytes = postcard::to_extend(value, bytes).expect("our own types serialise to memory");
    bytes.extend_from_slice(contents);
    bytes.into()
}
