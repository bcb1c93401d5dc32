//! Bounded postcard encoding, the only one on the wire and in the journal.

use alloc::vec::Vec;

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Bytes that are no encoding of what was expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed encoding")]
pub struct Malformed;

/// The encoding of a value of ours.
///
/// # Panics
/// Never for the types of this workspace: serialising them into memory cannot fail.
#[must_use]
pub fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    #[expect(clippy::expect_used, reason = "our own types have no failing serialiser")]
    postcard::to_allocvec(value).expect("our own types serialise into memory")
}

/// Decodes exactly `bytes`. Trailing bytes are refused.
///
/// Lengths are checked against what is there before anything is allocated for them, so memory
/// stays within a small factor of `bytes`.
///
/// # Errors
/// [`Malformed`] if the bytes are not a whole encoding of a `T`.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Malformed> {
    match postcard::take_from_bytes(bytes) {
        Ok((value, [])) => Ok(value),
        _ => Err(Malformed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trailing_bytes_and_lying_lengths_are_refused() {
        let bytes = encode(&(7_u32, alloc::vec![1_u8, 2, 3]));
        assert_eq!(decode::<(u32, Vec<u8>)>(&bytes), Ok((7, alloc::vec![1, 2, 3])));
        let mut longer = bytes.clone();
        longer.push(0);
        assert_eq!(decode::<(u32, Vec<u8>)>(&longer), Err(Malformed));
        assert_eq!(decode::<Vec<u64>>(&[0xff, 0xff, 0xff, 0xff, 0x0f]), Err(Malformed));
    }
}
