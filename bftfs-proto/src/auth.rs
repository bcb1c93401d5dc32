//! Who said it: MACs for one receiver, signatures for whoever is shown them.
//!
//! Every normal-case message carries a BLAKE3 keyed MAC under a key of its link (OSDI'99 section
//! 5.2; here one receiver, so one MAC and not a vector). What is passed on in another's name
//! carries an Ed25519 signature: client requests, checkpoints, view-changes and new-views.

use alloc::vec::Vec;
use core::fmt;
use core::ops::Deref;

use bftfs_state::Digest;
use ed25519_dalek::{Signer as _, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};

use crate::codec;
use crate::config::MESSAGE_BYTES_MAX;
use crate::message::Message;
use crate::types::Principal;

/// Names the protocol and its version in every key, signature and digest.
const PROTOCOL: &str = "bftfs/1";
/// Bytes of a MAC.
pub const MAC_BYTES: usize = 16;

/// Why a message from outside was not used. One variant per rule, so that counters speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reject {
    /// Longer than any message may be, or too short to hold a MAC.
    Size,
    /// The MAC is not the link's.
    Mac,
    /// Not an encoding of a message.
    Malformed,
    /// Within an encoding, a count or length over its cap.
    Shape,
    /// The sender may not send this kind of message.
    Role,
    /// A signature does not verify.
    Signature,
    /// Of another view.
    View,
    /// Outside the watermarks.
    Watermark,
    /// Another digest was accepted for this view and sequence number.
    Conflict,
    /// The proposed time is too far from the local clock.
    Time,
    /// Over the sender's quota of pending requests.
    Quota,
    /// Already known, executed or superseded.
    Stale,
    /// What is needed for an answer is damaged here.
    Damaged,
    /// Content does not hash to the name it came under.
    Hash,
    /// Nobody asked for it.
    Unasked,
    /// A view-change that contradicts itself, or lacks its proof.
    Testimony,
    /// A new-view that does not follow from its view-changes.
    Choice,
}

/// A digest over `fields`, each preceded by its length, under a kind and a cluster.
///
/// The encoding is injective, so two different field lists never share a digest by construction.
#[must_use]
pub fn digest_of(kind: &str, cluster: &Digest, fields: &[&[u8]]) -> Digest {
    let mut hasher = blake3::Hasher::new();
    let mut field = |bytes: &[u8]| {
        hasher.update(&(bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    };
    field(PROTOCOL.as_bytes());
    field(kind.as_bytes());
    field(&cluster.0);
    fields.iter().for_each(|bytes| field(bytes));
    Digest(*hasher.finalize().as_bytes())
}

/// An Ed25519 public key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PublicKey(pub [u8; 32]);

impl PublicKey {
    /// Whether it is the key of somebody: a point of the curve, and none that anybody can sign for.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        VerifyingKey::from_bytes(&self.0).is_ok_and(|key| !key.is_weak())
    }

    /// Verifies a signature over a digest, by the one rule all replicas share: `verify_strict`.
    ///
    /// # Errors
    /// [`Reject::Signature`] if the key or the signature is not valid.
    pub fn verify(&self, digest: &Digest, signature: &Signature) -> Result<(), Reject> {
        let key = VerifyingKey::from_bytes(&self.0).map_err(|_| Reject::Signature)?;
        let signature = ed25519_dalek::Signature::from_bytes(&signature.bytes());
        key.verify_strict(&digest.0, &signature).map_err(|_| Reject::Signature)
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "key {:?}", Digest(self.0))
    }
}

/// An Ed25519 signature.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Signature([u8; 32], [u8; 32]);

impl Signature {
    /// Stands where none is needed: a cluster of one has nobody to convince.
    pub const NONE: Self = Self([0; 32], [0; 32]);

    fn new(bytes: &[u8; 64]) -> Self {
        let mut parts = Self::NONE;
        let (low, high) = bytes.split_at(32);
        parts.0.copy_from_slice(low);
        parts.1.copy_from_slice(high);
        parts
    }

    fn bytes(&self) -> [u8; 64] {
        let mut bytes = [0; 64];
        let (low, high) = bytes.split_at_mut(32);
        low.copy_from_slice(&self.0);
        high.copy_from_slice(&self.1);
        bytes
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "signature {:?}", Digest(self.0))
    }
}

/// A principal's own Ed25519 key.
#[derive(Clone)]
pub struct Signer(SigningKey);

impl Signer {
    /// The signer of a 32-byte Ed25519 seed.
    #[must_use]
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(seed))
    }

    /// The key that others verify with.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key().to_bytes())
    }

    /// Signs a digest made by [`digest_of`].
    #[must_use]
    pub fn sign(&self, digest: &Digest) -> Signature {
        Signature::new(&self.0.sign(&digest.0).to_bytes())
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "signer of {:?}", self.public())
    }
}

/// The key of one direction of one link, from the TLS exporter of its connection.
#[derive(Clone)]
pub struct MacKey([u8; 32]);

impl MacKey {
    /// Derives the key for messages `from` → `to` from the secret that both ends of a link share.
    ///
    /// The directions differ, so a message cannot be reflected to its sender.
    #[must_use]
    pub fn derive(secret: &[u8; 32], cluster: &Digest, from: Principal, to: Principal) -> Self {
        let ends = codec::encode(&(from, to));
        Self(digest_of("link key", cluster, &[secret, &ends]).0)
    }

    /// The MAC of an encoded message.
    #[must_use]
    pub fn tag(&self, encoded: &[u8]) -> [u8; MAC_BYTES] {
        let mut tag = [0; MAC_BYTES];
        let hash = blake3::keyed_hash(&self.0, encoded);
        tag.iter_mut().zip(hash.as_bytes()).for_each(|(to, from)| *to = *from);
        tag
    }

    /// A frame: the MAC, then the encoded message.
    #[must_use]
    pub fn seal(&self, encoded: &[u8]) -> Vec<u8> {
        let mut frame = Vec::with_capacity(MAC_BYTES + encoded.len());
        frame.extend_from_slice(&self.tag(encoded));
        frame.extend_from_slice(encoded);
        frame
    }
}

impl fmt::Debug for MacKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MacKey(..)")
    }
}

/// Something whose sender and shape have been checked. Only [`verify`] makes one.
#[derive(Clone, Debug)]
pub struct Verified<T>(T);

impl<T> Verified<T> {
    /// The checked value.
    pub fn into_inner(self) -> T {
        self.0
    }
}

impl<T> Deref for Verified<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

/// Checks a frame that came over the link with key `key` from `from`: size, MAC, encoding, shape
/// and whether such a principal may say such a thing.
///
/// Signatures inside are checked by the core, which knows the keys and when a check is needed.
///
/// # Errors
/// The [`Reject`] that names the first rule broken. The frame is then to be dropped and counted.
pub fn verify(key: &MacKey, from: Principal, frame: &[u8]) -> Result<Verified<Message>, Reject> {
    if frame.len() > MAC_BYTES + MESSAGE_BYTES_MAX {
        return Err(Reject::Size);
    }
    let (mac, encoded) = frame.split_at_checked(MAC_BYTES).ok_or(Reject::Size)?;
    // A `blake3::Hash` compares in constant time only whole; ours is half of one.
    let expected = key.tag(encoded);
    let difference = mac.iter().zip(&expected).fold(0, |all, (a, b)| all | (a ^ b));
    if difference != 0 {
        return Err(Reject::Mac);
    }
    let message: Message = codec::decode(encoded).map_err(|_| Reject::Malformed)?;
    message.check(from)?;
    Ok(Verified(message))
}
