//! Lies about checkpoints, and pieces of state that are not what they are called.

use bftfs_proto::Digest;
use bftfs_proto::message::{Checkpoint, Data, Message, StateRoot};
use bftfs_proto::types::{Principal, ReplicaId, Seq, Wall};
use bytes::Bytes;

use crate::mind::Mind;
use crate::{Lie, Said};

/// Claims signed for states that are not, certificates signed by itself in all names, and an old
/// certificate again and again.
#[derive(Debug, Default)]
pub(crate) struct BadCheckpoint {
    stale: Option<(Vec<Checkpoint>, StateRoot)>,
}

impl BadCheckpoint {
    fn flood(mind: &mut Mind, to: ReplicaId) -> Vec<Said> {
        let interval = mind.cluster.checkpoint_interval;
        let claim = |k: u64| {
            let seq = Seq(mind.stable.0 + k * interval);
            let state = mind.digest();
            let claim = Checkpoint::sign(&mind.cluster.id, &mind.signer, mind.me, seq, state);
            Said::now(to, Message::Checkpoint(claim))
        };
        (1..=8).chain([1 << 20, 1 << 40]).map(claim).collect()
    }

    /// All claims of it bear this liar's signature.
    fn forged(mind: &mut Mind) -> Message {
        let seq = Seq(mind.stable.0 + mind.cluster.checkpoint_interval);
        let (sessions, service) = (mind.digest(), mind.digest());
        let root = StateRoot { seq, time: Wall(1), sessions, service };
        let state = root.digest(&mind.cluster.id);
        let sign = |id| Checkpoint::sign(&mind.cluster.id, &mind.signer, id, seq, state);
        let certificate = mind.cluster.ids().map(sign).collect();
        Message::Data(Data::Stable(certificate, root))
    }

    /// One replica's claim as often as a quorum needs claims.
    fn repeated(mind: &mut Mind) -> Message {
        let seq = Seq(mind.stable.0 + mind.cluster.checkpoint_interval);
        let (sessions, service) = (mind.digest(), mind.digest());
        let root = StateRoot { seq, time: Wall(1), sessions, service };
        let state = root.digest(&mind.cluster.id);
        let claim = Checkpoint::sign(&mind.cluster.id, &mind.signer, mind.me, seq, state);
        Message::Data(Data::Stable(vec![claim; mind.cluster.quorum()], root))
    }
}

impl Lie for BadCheckpoint {
    fn hear(&mut self, _: &mut Mind, _: Principal, message: &Message) -> bool {
        if let (Message::Data(Data::Stable(certificate, root)), None) = (message, &self.stale) {
            self.stale = Some((certificate.clone(), *root));
        }
        true
    }

    fn say(&mut self, mind: &mut Mind, to: Principal, message: Message) -> Vec<Said> {
        let message = match message {
            Message::Checkpoint(claim) => {
                let state = mind.digest();
                let (cluster, me) = (mind.cluster.id, mind.me);
                Message::Checkpoint(Checkpoint::sign(&cluster, &mind.signer, me, claim.seq, state))
            }
            Message::Data(Data::Stable(certificate, root)) => {
                let (certificate, root) = self.stale.get_or_insert((certificate, root)).clone();
                Message::Data(Data::Stable(certificate, root))
            }
            other => other,
        };
        vec![Said::now(to, message)]
    }

    fn tick(&mut self, mind: &mut Mind) -> Vec<Said> {
        let to = mind.someone();
        match mind.rng.u32(0..4) {
            0 => Self::flood(mind, to),
            1 => vec![Said::now(to, Self::forged(mind))],
            2 => vec![Said::now(to, Self::repeated(mind))],
            _ => {
                let stale = self.stale.clone();
                let again = stale.map(|(c, root)| Message::Data(Data::Stable(c, root)));
                again.into_iter().map(|message| Said::now(to, message)).collect()
            }
        }
    }
}

/// Blocks that are served honestly before this liar stops serving any.
const STALL_AFTER_BLOCKS: u32 = 24;
/// Bytes of a block that nobody asked for.
const JUNK_BYTES: usize = 16 << 10;

/// Serves wrong leaves, wrong inner nodes and junk, and stalls when most is through.
#[derive(Debug, Default)]
pub(crate) struct PoisonTransfer {
    served: u32,
    last: Bytes,
}

impl PoisonTransfer {
    fn poisoned(&mut self, mind: &mut Mind, bytes: Bytes) -> Option<Bytes> {
        self.served += 1;
        let other = std::mem::replace(&mut self.last, bytes.clone());
        match mind.rng.u32(0..5) {
            _ if self.served > STALL_AFTER_BLOCKS => None,
            0 => Some(other),
            1 => {
                let mut wrong = bytes.to_vec();
                wrong.iter_mut().rev().take(1).for_each(|byte| *byte ^= 1);
                Some(wrong.into())
            }
            2 => Some([&bytes[..], &[0; JUNK_BYTES]].concat().into()),
            3 => Some(bytes.slice(..bytes.len() / 2)),
            _ => Some(bytes),
        }
    }
}

impl Lie for PoisonTransfer {
    fn say(&mut self, mind: &mut Mind, to: Principal, message: Message) -> Vec<Said> {
        let message = match message {
            Message::Data(Data::Block(digest, bytes)) => {
                let Some(bytes) = self.poisoned(mind, bytes) else { return Vec::new() };
                Message::Data(Data::Block(digest, bytes))
            }
            Message::Data(Data::Stable(certificate, mut root)) if mind.once_in(2) => {
                root.service = mind.digest();
                Message::Data(Data::Stable(certificate, root))
            }
            other => other,
        };
        vec![Said::now(to, message)]
    }

    fn tick(&mut self, mind: &mut Mind) -> Vec<Said> {
        let digest = Digest::of(&[0; JUNK_BYTES]);
        let junk = Message::Data(Data::Block(digest, Bytes::from(vec![0; JUNK_BYTES])));
        vec![Said::now(mind.someone(), junk)]
    }
}
