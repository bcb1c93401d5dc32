//! Links of a replica that lies. What its core says can be taken from it, and frames can be put on
//! the wire that no correct replica would send.

use bftfs_proto::auth::{MAC_BYTES, MacKey};
use bftfs_proto::engine::To;
use bftfs_proto::message::Message;
use bftfs_proto::types::Principal;
use bytes::Bytes;
use tokio::sync::mpsc;

use super::Links;
use crate::frame::{Frame, LENGTH_BYTES};

/// What no correct replica sends.
#[derive(Clone, Debug)]
pub enum Forged {
    /// Bytes that may be no message, with the MAC that is right for them.
    Sealed(Bytes),
    /// An encoded message with a MAC that is wrong for it.
    BadMac(Bytes),
    /// A whole frame: MAC and message, or whatever is in their place.
    Raw(Bytes),
}

impl Forged {
    fn frame(&self, key: &MacKey) -> Frame {
        match self {
            Self::Sealed(bytes) => Frame::seal(key, bytes.clone()),
            Self::BadMac(bytes) => {
                let mut frame = Frame::seal(key, bytes.clone());
                frame.header[LENGTH_BYTES] ^= 1;
                frame
            }
            Self::Raw(bytes) => raw(bytes),
        }
    }
}

/// Cuts a frame where a MAC would end. One too short for a MAC says so in its length; what fills
/// it up is never read as part of it.
fn raw(bytes: &Bytes) -> Frame {
    let mut frame = Frame { header: Default::default(), encoded: Bytes::new() };
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    frame.header[..LENGTH_BYTES].copy_from_slice(&length.to_le_bytes());
    let mac = bytes.len().min(MAC_BYTES);
    frame.header[LENGTH_BYTES..][..mac].copy_from_slice(&bytes[..mac]);
    frame.encoded = bytes.slice(mac..);
    frame
}

impl Links {
    /// A handle to the same links whose messages come out of the receiver, and go nowhere else.
    #[must_use]
    pub fn diverted(&self) -> (Self, mpsc::UnboundedReceiver<(To, Message)>) {
        let (diversion, said) = mpsc::unbounded_channel();
        (Self { diversion: Some(diversion), ..self.clone() }, said)
    }

    /// Queues what is no message for whoever is connected.
    pub fn send_forged(&self, to: Principal, forged: &Forged) {
        self.enqueue(To::One(to), None, "forged", |connection| {
            connection.enqueue_frame(forged.frame(&connection.key_out))
        });
    }

    /// Takes a message if this handle's go elsewhere.
    pub(super) fn divert(&self, to: To, message: &Message) -> bool {
        let Some(diversion) = &self.diversion else { return false };
        // Whoever took them may have ended, with the process.
        let _ = diversion.send((to, message.clone()));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::Decoder;

    #[test]
    fn a_raw_frame_arrives_as_it_is() {
        for length in [0, 1, MAC_BYTES - 1, MAC_BYTES, MAC_BYTES + 1, 1000] {
            let bytes: Bytes = (0..=255).cycle().take(length).collect::<Vec<u8>>().into();
            let frame = raw(&bytes);
            let mut decoder = Decoder::default();
            decoder.push(&frame.header);
            decoder.push(&frame.encoded);
            assert_eq!(decoder.next(), Ok(Some(bytes)), "{length} bytes");
        }
    }
}
