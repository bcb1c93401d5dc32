//! Lies below the protocol: MACs, signatures, bytes, and the past.

use bftfs_proto::Digest;
use bftfs_proto::auth::Signature;
use bftfs_proto::codec;
use bftfs_proto::config::{BATCH_REQUESTS_MAX, MESSAGE_BYTES_MAX, WINDOW_SEQS};
use bftfs_proto::message::{
    Batch, Body, Checkpoint, Data, Decided, Fetch, Message, PrePrepare, Request, SlotStatus,
    Status, Vote,
};
use bftfs_proto::types::{ClientId, Principal, Seq, View, Wall};

use crate::mind::Mind;
use crate::{Lie, Said, Utterance};

/// Wrong MACs for one half of the replicas, and wrong signatures wherever there is one.
#[derive(Debug)]
pub(crate) struct BadAuth {
    /// Whether MACs are wrong for the second half, or signatures for all.
    macs: bool,
}

impl BadAuth {
    pub(crate) fn new(mind: &mut Mind) -> Self {
        Self { macs: mind.rng.bool() }
    }

    fn badly_signed(mind: &mut Mind, message: Message) -> Message {
        let (cluster, signer) = (mind.cluster.id, mind.false_signer());
        match message {
            Message::Checkpoint(Checkpoint { replica, seq, state, .. }) => {
                Message::Checkpoint(Checkpoint::sign(&cluster, &signer, replica, seq, state))
            }
            Message::ViewChange(change) => Message::ViewChange(change.sign(&cluster, &signer)),
            Message::NewView(new_view) => Message::NewView(new_view.sign(&cluster, &signer)),
            Message::Data(Data::Request(mut request)) => {
                request.signature = signer.sign(&request.digest(&cluster));
                Message::Data(Data::Request(request))
            }
            Message::Data(Data::Stable(mut certificate, root)) => {
                certificate.iter_mut().for_each(|claim| claim.signature = Signature::NONE);
                Message::Data(Data::Stable(certificate, root))
            }
            other => other,
        }
    }
}

impl Lie for BadAuth {
    fn say(&mut self, mind: &mut Mind, to: Principal, message: Message) -> Vec<Said> {
        match to {
            Principal::Replica(id) if self.macs && mind.in_second_half(id) => {
                vec![Said { to, delay_nanos: 0, what: Utterance::BadMac(message) }]
            }
            _ => vec![Said::now(to, Self::badly_signed(mind, message))],
        }
    }

    fn tick(&mut self, _: &mut Mind) -> Vec<Said> {
        self.macs = !self.macs;
        Vec::new()
    }
}

/// Messages of the past that are kept.
const PAST_MAX: usize = 64;

/// Says old things again, others' votes as its own, and votes under other views.
#[derive(Debug, Default)]
pub(crate) struct Replay {
    past: Vec<Message>,
    seen: u64,
}

impl Replay {
    /// Every message has the same chance to be kept, however long ago it was.
    fn keep(&mut self, mind: &mut Mind, message: &Message) {
        self.seen += 1;
        if self.past.len() < PAST_MAX {
            self.past.push(message.clone());
        } else if let Some(place) = usize::try_from(mind.rng.u64(0..self.seen)).ok()
            && let Some(kept) = self.past.get_mut(place)
        {
            *kept = message.clone();
        }
    }

    /// The same vote in a view near by.
    fn shifted(mind: &mut Mind, message: Message) -> Message {
        let up = mind.rng.bool();
        let shift = |vote: Vote| {
            let view = if up { vote.view.next() } else { View(vote.view.0.saturating_sub(1)) };
            Vote { view, ..vote }
        };
        match message {
            Message::Prepare(vote) => Message::Prepare(shift(vote)),
            Message::Commit(vote) => Message::Commit(shift(vote)),
            other => other,
        }
    }
}

impl Lie for Replay {
    fn hear(&mut self, mind: &mut Mind, from: Principal, message: &Message) -> bool {
        if matches!(from, Principal::Replica(_)) {
            self.keep(mind, message);
        }
        true
    }

    fn say(&mut self, mind: &mut Mind, to: Principal, message: Message) -> Vec<Said> {
        if matches!(to, Principal::Replica(_)) {
            self.keep(mind, &message);
        }
        vec![Said::now(to, message)]
    }

    fn tick(&mut self, mind: &mut Mind) -> Vec<Said> {
        let mut said = Vec::new();
        for _ in 0..4 {
            let Some(message) = mind.rng.choice(&self.past).cloned() else { break };
            let message = if mind.rng.bool() { Self::shifted(mind, message) } else { message };
            let old_key = mind.once_in(8);
            let what =
                if old_key { Utterance::BadMac(message) } else { Utterance::Message(message) };
            said.push(Said { to: Principal::Replica(mind.someone()), delay_nanos: 0, what });
        }
        said
    }
}

/// Frames that are no messages, or messages that no replica may send.
#[derive(Debug)]
pub(crate) struct Garbage;

impl Garbage {
    fn noise(mind: &mut Mind) -> Vec<u8> {
        let mut bytes = vec![0; mind.rng.usize(0..200)];
        mind.rng.fill(&mut bytes);
        bytes
    }

    fn cut(mind: &mut Mind, message: &Message) -> Vec<u8> {
        let mut bytes = message.encode().to_vec();
        bytes.truncate(mind.rng.usize(0..bytes.len().max(1)));
        bytes
    }

    /// One bit of the message is another.
    fn bent(mind: &mut Mind, message: &Message) -> Vec<u8> {
        let mut bytes = message.encode().to_vec();
        let place = mind.rng.usize(0..bytes.len().max(1));
        if let Some(byte) = bytes.get_mut(place) {
            *byte ^= 1 << mind.rng.u32(0..8);
        }
        bytes
    }

    /// A FETCH of four thousand million things, none of which follows.
    fn lying_length() -> Vec<u8> {
        let mut bytes = codec::encode(&Message::Fetch(Vec::new()));
        bytes.pop();
        bytes.extend_from_slice(&[0xff, 0xff, 0xff, 0xff, 0x0f]);
        bytes
    }

    /// More than any message of its kind may hold.
    fn huge_count(mind: &mut Mind) -> Message {
        let (view, stable, executed) = (mind.view, mind.stable, mind.executed);
        let many = BATCH_REQUESTS_MAX + 1;
        let slots: Vec<SlotStatus> = (0..=WINDOW_SEQS).map(|_| SlotStatus::Empty).collect();
        match mind.rng.u32(0..4) {
            0 => {
                let (active, suspects) = (true, true);
                let awaits = None;
                Message::Status(Status { view, active, suspects, awaits, stable, executed, slots })
            }
            1 => {
                let batches = vec![(executed.next(), Digest::ZERO); slots.len()];
                Message::Decided(Decided { batches })
            }
            2 => Message::Fetch(vec![Fetch::Stable(Seq(1)); many]),
            _ => {
                let batch = Batch { requests: vec![Digest::ZERO; many], time: Wall(0) };
                Message::PrePrepare(PrePrepare { view, seq: executed.next(), batch })
            }
        }
    }

    /// What only a client may say.
    fn above_its_station(mind: &mut Mind) -> Message {
        let client = mind.cluster.clients.keys().next().copied().unwrap_or(ClientId(1));
        let (body, signature) = (Body::Open(mind.rng.u64(..)), Signature::NONE);
        Message::Request(Request { client, body, signature, replier: mind.me })
    }
}

impl Lie for Garbage {
    fn say(&mut self, mind: &mut Mind, to: Principal, message: Message) -> Vec<Said> {
        let what = match mind.rng.u32(0..6) {
            0 => Utterance::Sealed(Self::cut(mind, &message)),
            1 => Utterance::Sealed(Self::bent(mind, &message)),
            _ => Utterance::Message(message),
        };
        vec![Said { to, delay_nanos: 0, what }]
    }

    fn tick(&mut self, mind: &mut Mind) -> Vec<Said> {
        let what = match mind.rng.u32(0..32) {
            0 => Utterance::Raw(vec![0; MESSAGE_BYTES_MAX + 1024]),
            1..8 => Utterance::Raw(Self::noise(mind)),
            8..16 => Utterance::Sealed(Self::noise(mind)),
            16..20 => Utterance::Sealed(Self::lying_length()),
            20..28 => Utterance::Message(Self::huge_count(mind)),
            _ => Utterance::Message(Self::above_its_station(mind)),
        };
        vec![Said { to: Principal::Replica(mind.someone()), delay_nanos: 0, what }]
    }
}
