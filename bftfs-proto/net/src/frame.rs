//! Frames within a QUIC stream: a length, then a MAC and an encoded message.

use bftfs_proto::auth::{MAC_BYTES, MacKey, Reject};
use bftfs_proto::config::MESSAGE_BYTES_MAX;
use bytes::{Buf as _, Bytes, BytesMut};

/// Bytes of the length that precedes a frame, little-endian.
pub(crate) const LENGTH_BYTES: usize = 4;
/// Bytes that an encoded message grows by on the wire.
pub(crate) const OVERHEAD_BYTES: usize = LENGTH_BYTES + MAC_BYTES;

/// A message on its way out, for one peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    /// What precedes it on the wire: its length and its MAC.
    pub header: [u8; OVERHEAD_BYTES],
    /// The encoded message.
    pub encoded: Bytes,
}

impl Frame {
    /// The frame of an encoded message under the key of a connection.
    pub(crate) fn seal(key: &MacKey, encoded: Bytes) -> Self {
        let mut header = [0; OVERHEAD_BYTES];
        let bytes = MAC_BYTES + encoded.len();
        let length = u32::try_from(bytes).expect("our own messages are far below 4 GiB");
        let (front, mac) = header.split_at_mut(LENGTH_BYTES);
        front.copy_from_slice(&length.to_le_bytes());
        mac.copy_from_slice(&key.tag(&encoded));
        Self { header, encoded }
    }

    /// Its bytes on the wire.
    pub(crate) fn len(&self) -> usize {
        OVERHEAD_BYTES + self.encoded.len()
    }
}

/// Cuts what arrives into frames.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    buffer: BytesMut,
}

impl Decoder {
    /// Takes what arrived. Call [`Self::next`] until it is empty before the next push.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole frame, MAC and message.
    ///
    /// A length over the cap is refused before anything is kept for it.
    pub(crate) fn next(&mut self) -> Result<Option<Bytes>, Reject> {
        let Some((length, rest)) = self.buffer.split_first_chunk::<LENGTH_BYTES>() else {
            return Ok(None);
        };
        let length = u32::from_le_bytes(*length) as usize;
        if length > MAC_BYTES + MESSAGE_BYTES_MAX {
            return Err(Reject::Size);
        }
        if rest.len() < length {
            return Ok(None);
        }
        self.buffer.advance(LENGTH_BYTES);
        Ok(Some(self.buffer.split_to(length).freeze()))
    }
}

#[cfg(test)]
mod tests {
    use bftfs_proto::Digest;
    use bftfs_proto::types::{ClientId, Principal, ReplicaId};

    use super::*;

    fn key() -> MacKey {
        let (from, to) = (Principal::Client(ClientId(1)), Principal::Replica(ReplicaId(0)));
        MacKey::derive(&[1; 32], &Digest::ZERO, from, to)
    }

    #[test]
    fn frames_survive_any_cutting() {
        let messages: [&'static [u8]; 3] = [b"one", b"", &[7; 5000]];
        let mut wire = Vec::new();
        for message in messages {
            let frame = Frame::seal(&key(), Bytes::from_static(message));
            wire.extend_from_slice(&frame.header);
            wire.extend_from_slice(&frame.encoded);
            assert_eq!(frame.len(), OVERHEAD_BYTES + message.len());
        }
        for size in [1, 3, 19, 20, 4096, wire.len()] {
            let mut decoder = Decoder::default();
            let mut frames = Vec::new();
            for piece in wire.chunks(size) {
                decoder.push(piece);
                while let Some(frame) = decoder.next().unwrap() {
                    frames.push(frame);
                }
            }
            let expected = messages.map(|message| Bytes::from(key().seal(message)));
            assert_eq!(frames, expected, "cut into {size}");
        }
    }

    #[test]
    fn an_oversized_frame_is_refused_by_its_length() {
        let most = u32::try_from(MAC_BYTES + MESSAGE_BYTES_MAX).unwrap();
        for (length, refused) in [(most, false), (most + 1, true), (u32::MAX, true)] {
            let mut decoder = Decoder::default();
            decoder.push(&length.to_le_bytes());
            assert_eq!(decoder.next().is_err(), refused, "{length}");
        }
    }
}
