//! Twins (Bano et al., arXiv 2004.10617): two copies of one identity on one key, each hearing a
//! part of the others. Both are correct by themselves; together they equivocate, vote twice and
//! forget, and nobody had to write an attack.
//!
//! Who hears whom in the first rounds is gone through exhaustively.

use std::collections::BTreeMap;

use bftfs_proto::Digest;
use bftfs_proto::auth::{MacKey, Signature, Signer, Verified, verify};
use bftfs_proto::config::Cluster;
use bftfs_proto::engine::{Input, Output, To};
use bftfs_proto::message::{Body, Message, Request};
use bftfs_proto::replica::{Replica, Setup};
use bftfs_proto::types::{ClientId, Mono, Now, Principal, ReplicaId, Seq, Wall};
use bftfs_sim::register::Registers;
use bftfs_state_memory::Memory;

/// The identities of the nodes: node 4 is node 0's twin.
const ONE_TWIN: &[u32] = &[0, 1, 2, 3, 0];
/// Nodes 4 and 5 are the twins of 0 and 1: more than are tolerated.
const TWO_TWINS: &[u32] = &[0, 1, 2, 3, 0, 1];
/// Rounds in which the twins are apart.
const ROUNDS: u32 = 3;
/// Rounds after that, in which all hear all.
const HEALED_ROUNDS: u64 = 60;
/// A round is long enough for a view to be given up after some of them.
const ROUND_NANOS: u64 = 120_000_000;

/// In one round, which nodes are on the side of the second twin: one bit a node.
#[derive(Clone, Copy)]
struct Sides(u8);

impl Sides {
    fn connected(self, a: usize, b: usize) -> bool {
        (self.0 >> a) & 1 == (self.0 >> b) & 1
    }
}

struct World {
    identities: &'static [u32],
    cluster: Cluster,
    nodes: Vec<Replica<Registers>>,
    /// What is under way: from which node, to which identity.
    links: Vec<(usize, u32, Message)>,
    now: Now,
    decided: BTreeMap<Seq, Digest>,
}

fn signer(kind: u8, index: u8) -> Signer {
    Signer::from_seed(&[kind * 16 + index; 32])
}

impl World {
    fn new(identities: &'static [u32]) -> Self {
        let keys = (0..4).map(|i| signer(0, i).public()).collect();
        let clients = [1, 2].map(|i| (ClientId(u32::from(i)), signer(1, i).public()));
        let cluster = Cluster::new(Digest::of(b"twins"), keys, clients.into());
        let now = Now { mono: Mono(0), wall: Wall(1 << 60) };
        let node = |id: &u32| {
            let key = signer(0, u8::try_from(*id).expect("a small number"));
            let (me, source) = (ReplicaId(*id), Memory::new());
            let setup = Setup { cluster: cluster.clone(), me, signer: key, source };
            Replica::recover(setup, Registers, now, None, Vec::new()).expect("an empty journal")
        };
        let nodes = identities.iter().map(node).collect();
        Self { identities, cluster, nodes, links: Vec::new(), now, decided: BTreeMap::new() }
    }

    /// The nodes that have no twin.
    fn correct(&self) -> Vec<usize> {
        let alone = |node: &usize| {
            let same = self.identities.iter().filter(|id| **id == self.identities[*node]);
            same.count() == 1
        };
        (0..self.nodes.len()).filter(alone).collect()
    }

    fn sealed(&self, from: Principal, to: u32, message: &Message) -> Verified<Message> {
        let to = Principal::Replica(ReplicaId(to));
        let key = MacKey::derive(&[0; 32], &self.cluster.id, from, to);
        verify(&key, from, &key.seal(&message.encode())).expect("its own message")
    }

    /// Client `index` opens a session; `node` hears of it.
    fn ask(&mut self, index: u8, node: usize) {
        let (client, body) = (ClientId(u32::from(index)), Body::Open(u64::from(index)));
        let (signature, replier) = (Signature::NONE, ReplicaId(0));
        let mut request = Request { client, body, signature, replier };
        request.signature = signer(1, index).sign(&request.digest(&self.cluster.id));
        let from = Principal::Client(client);
        let message = self.sealed(from, self.identities[node], &Message::Request(request));
        self.input(node, Input::Message(from, message));
    }

    fn input(&mut self, node: usize, input: Input) {
        self.nodes[node].handle(self.now, input);
        while let Some(output) = self.nodes[node].poll_output() {
            let Output::Send { to, message, .. } = output else { continue };
            let receivers: Vec<u32> = match to {
                To::One(Principal::Replica(id)) => vec![id.0],
                To::One(Principal::Client(_)) => continue,
                To::Replicas => (0..4).filter(|id| *id != self.identities[node]).collect(),
            };
            self.links.extend(receivers.into_iter().map(|to| (node, to, message.clone())));
        }
        if self.correct().contains(&node) {
            self.check_agreement(node);
        }
    }

    fn check_agreement(&mut self, node: usize) {
        for seq in (1..=self.nodes[node].executed().0).map(Seq) {
            if let Some(digest) = self.nodes[node].decided(seq) {
                let first = *self.decided.entry(seq).or_insert(digest);
                assert_eq!(first, digest, "I1: node {node} decided otherwise for {seq:?}");
            }
        }
    }

    /// Everything under way arrives, and so again for what follows from it; then time passes.
    fn round(&mut self, sides: Sides) {
        let identities = self.identities;
        for _ in 0..6 {
            for (from, to, message) in std::mem::take(&mut self.links) {
                let sender = Principal::Replica(ReplicaId(self.identities[from]));
                for node in (0..self.nodes.len()).filter(|node| identities[*node] == to) {
                    if sides.connected(from, node) {
                        let message = self.sealed(sender, to, &message);
                        self.input(node, Input::Message(sender, message));
                    }
                }
            }
        }
        self.now.mono.0 += ROUND_NANOS;
        self.now.wall.0 += ROUND_NANOS;
        for node in 0..self.nodes.len() {
            if self.nodes[node].poll_timeout().is_some_and(|due| due <= self.now.mono) {
                self.input(node, Input::Timeout);
            }
        }
    }
}

/// One client is heard on the one side, another on the other; then both everywhere.
fn run(identities: &'static [u32], rounds: &[Sides]) {
    let mut world = World::new(identities);
    for node in 0..identities.len() {
        let other_side = !rounds[0].connected(0, node);
        world.ask(if other_side { 2 } else { 1 }, node);
    }
    rounds.iter().for_each(|sides| world.round(*sides));
    for node in 0..identities.len() {
        world.ask(1, node);
        world.ask(2, node);
    }
    (0..HEALED_ROUNDS).for_each(|_| world.round(Sides(0)));
    let end = |node: usize| {
        let replica = &world.nodes[node];
        (replica.executed(), replica.digest_from_scratch(), replica.status().waiting)
    };
    let ends: Vec<_> = world.correct().into_iter().map(end).collect();
    assert!(ends[0].0 > Seq(0) && ends[0].2 == 0, "I13: something waits: {:?}", ends[0]);
    assert!(ends.iter().all(|end| *end == ends[0]), "I13: they differ: {ends:?}");
}

#[test]
fn whoever_hears_which_twin_first_all_agree_and_go_on() {
    // Nodes 1, 2 and 3 are on either side in each round; the twins are never on the same.
    for scenario in 0..8_u32.pow(ROUNDS) {
        let sides = |round: u32| {
            let bits = (scenario >> (3 * round)) & 7;
            Sides(u8::try_from(bits << 1).expect("three bits") | 1 << 4)
        };
        let rounds: Vec<Sides> = (0..ROUNDS).map(sides).collect();
        run(ONE_TWIN, &rounds);
    }
}

/// A negative control: each side has a quorum.
#[test]
#[should_panic(expected = "I1")]
fn two_pairs_of_twins_are_more_than_four_replicas_tolerate() {
    run(TWO_TWINS, &[Sides(0b11_1000)]);
}
