//! A Byzantine client: two operations under one number, bodies to some replicas only, signatures
//! that are wrong for all or for some, and floods.

use bftfs_proto::auth::{Signature, Signer, Verified};
use bftfs_proto::client::{Client, ClientInput, ClientOutput, How};
use bftfs_proto::config::Cluster;
use bftfs_proto::engine::To;
use bftfs_proto::message::{Body, Message, Read, Request};
use bftfs_proto::types::{ClientId, Mono, Now, Principal, ReplicaId, SessionId, SlotIndex};
use bytes::Bytes;
use fastrand::Rng;

/// Requests of one flood.
const FLOOD_REQUESTS: u64 = 60;
/// Requests of one wave of a deluge.
const WAVE_REQUESTS: u64 = 400;
/// Waves of a deluge: more than any replica has room for.
const WAVES: u64 = 40;

/// A faulty client around a correct one, which keeps its session and numbers.
#[derive(Debug)]
pub struct Rogue {
    id: ClientId,
    client: Client,
    cluster: Cluster,
    signer: Signer,
    rng: Rng,
    ticket: u64,
    /// Waves of a deluge that are still to come: over one replica, and rarely at all.
    waves: u64,
}

impl Rogue {
    /// The Byzantine client `id`.
    #[must_use]
    pub fn new(cluster: Cluster, id: ClientId, signer: Signer, now: Now, seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let client = Client::new(cluster.clone(), id, signer.clone(), rng.u64(..), now);
        let waves = if rng.u8(0..40) == 0 { WAVES } else { 0 };
        Self { id, client, cluster, signer, rng, ticket: 0, waves }
    }

    /// Which client it is.
    #[must_use]
    pub fn id(&self) -> ClientId {
        self.id
    }

    /// A checked message arrived.
    pub fn hear(&mut self, now: Now, from: ReplicaId, message: Verified<Message>) {
        self.client.handle(now, ClientInput::Message(from, message));
    }

    /// Asks for something; `operation` makes operations. Called about every 50 ms.
    pub fn tick(
        &mut self,
        now: Now,
        mut operation: impl FnMut(&mut Rng) -> Bytes,
    ) -> Vec<(ReplicaId, Message)> {
        if self.client.poll_timeout().is_some_and(|due| due <= now.mono) {
            self.client.handle(now, ClientInput::Timeout);
        }
        let (ticket, deadline) = (self.ticket, Mono(now.mono.0 + 1_000_000_000));
        let (asked, how) = (operation(&mut self.rng), How::Ordered);
        let submit = ClientInput::Submit { ticket, operation: asked, how, deadline };
        self.client.handle(now, submit);
        self.ticket += 1;
        let mut said = Vec::new();
        while let Some(output) = self.client.poll_output() {
            if let ClientOutput::Send { to: To::Replicas, message: Message::Request(request) } =
                output
            {
                let twin = operation(&mut self.rng);
                said.append(&mut self.tampered(&request, twin));
            }
        }
        if self.rng.u8(0..20) == 0 {
            let operation = operation(&mut self.rng);
            said.append(&mut self.flood(&operation));
        }
        if self.waves > 0 {
            self.waves -= 1;
            let operation = operation(&mut self.rng);
            said.append(&mut self.wave(&operation));
        }
        said
    }

    /// Requests without signatures, each for another session, for one replica.
    fn wave(&mut self, operation: &Bytes) -> Vec<(ReplicaId, Message)> {
        let (client, signature, replier) = (self.id, Signature::NONE, ReplicaId(0));
        let to = self.cluster.ids().last().unwrap_or_default();
        let first = 1000 + self.waves * WAVE_REQUESTS;
        let request = |k| {
            let body = Body::Operation(SessionId(first + k), SlotIndex(0), 1, operation.clone());
            (to, Message::Request(Request { client, body, signature, replier }))
        };
        (0..WAVE_REQUESTS).map(request).collect()
    }

    /// What is sent in place of one honest request to all.
    fn tampered(&mut self, honest: &Request, twin: Bytes) -> Vec<(ReplicaId, Message)> {
        let ids: Vec<ReplicaId> = self.cluster.ids().collect();
        let one = self.rng.choice(&ids).copied().unwrap_or(ReplicaId(0));
        let other = self.other_body(honest, twin);
        let unsigned = Request { signature: Signature::NONE, ..honest.clone() };
        let kind = self.rng.u8(0..7);
        let to = |id: &ReplicaId| {
            let request = match kind {
                0 if id.0.is_multiple_of(2) => Some(other.clone()),
                1 => (*id == one).then(|| honest.clone()),
                2 => (*id != one).then(|| honest.clone()),
                3 => Some(unsigned.clone()),
                4 if *id == one => Some(unsigned.clone()),
                5 if *id != one => Some(unsigned.clone()),
                _ => Some(honest.clone()),
            };
            request.map(|request| (*id, Message::Request(request)))
        };
        ids.iter().filter_map(to).collect()
    }

    /// Another operation under the same number, as well signed.
    fn other_body(&self, honest: &Request, twin: Bytes) -> Request {
        let mut other = honest.clone();
        if let Body::Operation(.., operation) = &mut other.body {
            *operation = twin;
        }
        self.sign(other)
    }

    fn sign(&self, mut request: Request) -> Request {
        request.signature = self.signer.sign(&request.digest(&self.cluster.id));
        request
    }

    /// Many requests that are the next of nothing, many sessions, many reads; some badly signed.
    fn flood(&mut self, operation: &Bytes) -> Vec<(ReplicaId, Message)> {
        let ids: Vec<ReplicaId> = self.cluster.ids().collect();
        let mut said = Vec::new();
        for k in 0..FLOOD_REQUESTS {
            let any = SessionId(self.rng.u64(0..9));
            let session = self.client.session().unwrap_or(any);
            let slot = SlotIndex(self.rng.u16(0..64));
            let body = match k % 4 {
                0 => Body::Open(self.rng.u64(..)),
                1 => Body::Close(SessionId(self.rng.u64(0..9)), slot, 1),
                _ => Body::Operation(session, slot, self.rng.u64(1..99), operation.clone()),
            };
            let replier = ReplicaId(0);
            let (client, signature) = (self.id, Signature::NONE);
            let request = Request { client, body, signature, replier };
            let request = if self.rng.bool() { self.sign(request) } else { request };
            let operation = operation.clone();
            let read = Message::Read(Read { session, number: k, operation, replier });
            let message = if k % 8 == 7 { read } else { Message::Request(request) };
            said.extend(self.rng.choice(&ids).map(|to| (*to, message)));
        }
        said
    }
}

/// Whether `who` is a Byzantine client, where the first `clients` of them are correct.
#[must_use]
pub fn is_rogue(who: Principal, clients: u32) -> bool {
    matches!(who, Principal::Client(id) if id.0 > clients)
}
