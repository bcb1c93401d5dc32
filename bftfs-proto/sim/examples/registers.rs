//! Four replicas of a register map, driven by hand in memory: all that a driver does, in its
//! smallest form. Run `cargo run -p bftfs-sim --example registers`.

use std::collections::{BTreeMap, VecDeque};

use bftfs_proto::auth::{MacKey, Signer, verify};
use bftfs_proto::client::{Client, ClientInput, ClientOutput, How};
use bftfs_proto::config::Cluster;
use bftfs_proto::engine::{Input, Outbox, Record, Release, To};
use bftfs_proto::message::Message;
use bftfs_proto::replica::{Replica, Setup};
use bftfs_proto::types::{ClientId, Mono, Now, Principal, ReplicaId, Wall};
use bftfs_proto::{Digest, codec};
use bftfs_sim::register::{Ask, Registers, Told};
use bftfs_state_memory::Memory;
use bytes::Bytes;

const ME: ClientId = ClientId(1);

/// A replica with what its driver keeps for it.
struct Node {
    replica: Replica<Registers>,
    outbox: Outbox,
    /// What a real driver would write to disk and sync.
    journal: Vec<Record>,
}

/// Four nodes, a client, and the messages between them.
struct World {
    cluster: Cluster,
    nodes: BTreeMap<ReplicaId, Node>,
    client: Client,
    wire: VecDeque<(Principal, Principal, Message)>,
    answers: BTreeMap<u64, Told>,
}

/// No time passes here: nothing is lost, so no timer is needed.
fn now() -> Now {
    Now { mono: Mono(0), wall: Wall(1_800_000_000_000_000_000) }
}

fn signer(kind: u8, index: u8) -> Signer {
    let mut seed = [kind; 32];
    seed[0] = index;
    Signer::from_seed(&seed)
}

impl World {
    fn new() -> Self {
        let keys = (0..4).map(|i| signer(0, i).public()).collect();
        let clients = [(ME, signer(1, 1).public())].into();
        let cluster = Cluster::new(Digest::of(b"example"), keys, clients);
        let node = |i: u8| {
            let me = ReplicaId(i.into());
            let setup =
                Setup { cluster: cluster.clone(), me, signer: signer(0, i), source: Memory::new() };
            // No checkpoint and no records: it begins.
            let replica = Replica::recover(setup, Registers, now(), None, Vec::new())
                .expect("an empty journal");
            (me, Node { replica, outbox: Outbox::default(), journal: Vec::new() })
        };
        let nodes = (0..4).map(node).collect();
        let client = Client::new(cluster.clone(), ME, signer(1, 1), 7, now());
        Self { cluster, nodes, client, wire: VecDeque::new(), answers: BTreeMap::new() }
    }

    /// Has the client do an operation and delivers messages until it is answered.
    fn ask(&mut self, ask: &Ask, how: How) -> Told {
        let (ticket, deadline) = (1 + self.answers.len() as u64, Mono(u64::MAX));
        let operation = ask.encode();
        self.client.handle(now(), ClientInput::Submit { ticket, operation, how, deadline });
        self.drain_client();
        while let Some((from, to, message)) = self.wire.pop_front() {
            self.deliver(from, to, &message);
        }
        self.answers[&ticket].clone()
    }

    /// The way of a message over a link: sealed with the link's key, and checked on arrival.
    fn deliver(&mut self, from: Principal, to: Principal, message: &Message) {
        let key = MacKey::derive(&[0; 32], &self.cluster.id, from, to);
        let frame = key.seal(&message.encode());
        let message = verify(&key, from, &frame).expect("sealed with the same key");
        match (from, to) {
            (_, Principal::Replica(id)) => {
                // Whoever was switched off hears nothing.
                if let Some(node) = self.nodes.get_mut(&id) {
                    node.replica.handle(now(), Input::Message(from, message));
                    self.drain_replica(id);
                }
            }
            (Principal::Replica(id), Principal::Client(_)) => {
                self.client.handle(now(), ClientInput::Message(id, message));
                self.drain_client();
            }
            (Principal::Client(_), Principal::Client(_)) => {}
        }
    }

    /// Outputs go to the outbox, records to the journal; then leaves what waited for them.
    fn drain_replica(&mut self, id: ReplicaId) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        while let Some(output) = node.replica.poll_output() {
            node.outbox.push(output);
        }
        let (records, last) = node.outbox.take_records();
        node.journal.extend(records);
        node.outbox.durable(last);
        for release in node.outbox.release() {
            // Checkpoints, and what follows from them, are beyond this example.
            if let Release::Send(to, message) = release {
                self.send(Principal::Replica(id), to, &message);
            }
        }
    }

    fn drain_client(&mut self) {
        while let Some(output) = self.client.poll_output() {
            match output {
                ClientOutput::Send { to, message } => {
                    self.send(Principal::Client(ME), to, &message);
                }
                ClientOutput::Nudge { .. } => {}
                ClientOutput::Complete { ticket, result } => {
                    let told = codec::decode(&result.expect("nothing is lost")).expect("a result");
                    self.answers.insert(ticket, told);
                }
            }
        }
    }

    fn send(&mut self, from: Principal, to: To, message: &Message) {
        let receivers = match to {
            To::One(one) => vec![one],
            To::Replicas => self.cluster.ids().map(Principal::Replica).collect(),
        };
        let others = receivers.into_iter().filter(|to| *to != from);
        self.wire.extend(others.map(|to| (from, to, message.clone())));
    }
}

fn main() {
    let mut world = World::new();
    let name = Bytes::from_static(b"motto");
    let put = Ask::Put(name.clone(), Bytes::from_static(b"one"));
    println!("put:    {:?}", world.ask(&put, How::Ordered));
    let append = Ask::Append(name.clone(), Bytes::from_static(b" and all"));
    println!("append: {:?}", world.ask(&append, How::Ordered));

    world.nodes.remove(&ReplicaId(3));
    println!("replica 3 is switched off: the other three are a quorum");
    let old = Some(Bytes::from_static(b"one and all"));
    let swap = Ask::Swap { name: name.clone(), old, new: Bytes::from_static(b"all and one") };
    println!("swap:   {:?}", world.ask(&swap, How::Ordered));
    println!("get:    {:?}", world.ask(&Ask::Get(name), How::Read));
    for (id, node) in &world.nodes {
        let status = node.replica.status();
        println!("{id:?}: executed {}, {} records", status.last_executed, node.journal.len());
    }
}
