//! Writes inputs to begin with to `corpus/`: messages and files as they really are, and bytes by
//! chance where they only choose what is done.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use bftfs_fuzz::cast::{client_signer, id, replica_signer};
use bftfs_net::cluster_file::{ClientMember, ClusterFile, Durability, ReplicaMember};
use bftfs_proto::auth::Signature;
use bftfs_proto::codec;
use bftfs_proto::engine::Record;
use bftfs_proto::message::{
    Answer, Batch, Body, Checkpoint, Data, Decided, Fetch, Message, NewView, PrePrepare, Read,
    Reply, Request, SlotStatus, StateRoot, Status, Tag, ViewChange, Vote,
};
use bftfs_proto::types::{ClientId, ReplicaId, Seq, SessionId, SlotIndex, View, Wall};
use bftfs_state::{Digest, Tree};
use fastrand::Rng;

fn main() {
    for (at, bytes) in messages().iter().map(Message::encode).enumerate() {
        write("message", at, &bytes);
    }
    for (at, record) in records().iter().enumerate() {
        write("message", 100 + at, &codec::encode(record));
    }
    for (at, n) in [1, 4, 7].into_iter().enumerate() {
        write("cluster_file", at, cluster_file(n).to_toml().as_bytes());
    }
    for (at, page) in pages().iter().enumerate() {
        write("tree", at, &[&[1], &page[..]].concat());
    }
    let mut rng = Rng::with_seed(1);
    for target in ["client", "fs", "handle", "journal", "store", "tree"] {
        for at in 100..116 {
            let len = 1 << rng.usize(6..12);
            let bytes: Vec<u8> = std::iter::repeat_with(|| rng.u8(..)).take(len).collect();
            write(target, at, &bytes);
        }
    }
}

fn write(target: &str, at: usize, bytes: &[u8]) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    let name = folder.join(format!("seed-{at:03}"));
    fs::create_dir_all(folder).and_then(|()| fs::write(name, bytes)).expect("there is room");
}

/// Signed by somebody whose key no target checks with.
fn claim(by: u32, seq: u64) -> Checkpoint {
    let digest = Digest::of(&seq.to_le_bytes());
    Checkpoint::sign(&id(), replica_signer(9), ReplicaId(by), Seq(seq), digest)
}

fn vote(seq: u64) -> Vote {
    Vote { view: View(1), seq: Seq(seq), digest: Digest::of(b"batch") }
}

fn batch() -> Batch {
    Batch { requests: vec![Digest::of(b"1"), Digest::of(b"2")], time: Wall(1 << 60) }
}

fn root() -> StateRoot {
    let digest = Digest::of(b"root");
    StateRoot { seq: Seq(4), time: Wall(1 << 60), sessions: digest, service: digest }
}

fn request(body: Body) -> Request {
    let (client, replier, signature) = (ClientId(1), ReplicaId(2), Signature::NONE);
    let mut request = Request { client, body, signature, replier };
    request.signature = client_signer(9).sign(&request.digest(&id()));
    request
}

fn requests() -> [Request; 3] {
    let (session, slot) = (SessionId(1), SlotIndex(3));
    let operation = Body::Operation(session, slot, 7, vec![1; 40].into());
    [Body::Open(300), operation, Body::Close(session, slot, 8)].map(request)
}

fn view_change(replica: u32) -> ViewChange {
    let (prepared, accepted) = (vec![vote(5)], vec![vote(5), vote(6)]);
    let certificate = (0..3).map(|by| claim(by, 4)).collect();
    let (replica, signature) = (ReplicaId(replica), Signature::NONE);
    let (view, stable) = (View(2), Seq(4));
    ViewChange { replica, view, stable, certificate, prepared, accepted, signature }
        .sign(&id(), replica_signer(9))
}

fn new_view() -> NewView {
    let (changes, chosen) = ((0..3).map(view_change).collect(), vec![Digest::of(b"batch")]);
    NewView { view: View(2), changes, stable: Seq(4), chosen, signature: Signature::NONE }
        .sign(&id(), replica_signer(9))
}

fn messages() -> Vec<Message> {
    let (digest, seq) = (Digest::of(b"x"), Seq(5));
    let answer = Some(Answer::Result(vec![7; 30].into()));
    let tags = [Tag::Open(9), Tag::Read(SessionId(1), 3)];
    let ordered = Tag::Ordered(SessionId(1), SlotIndex(3), 7);
    let wanted = [Fetch::Request(digest), Fetch::Batch(digest), Fetch::Stable(seq)];
    let data = [
        Data::Batch(batch()),
        Data::Stable((0..3).map(|by| claim(by, 4)).collect(), root()),
        Data::Block(digest, vec![0; 60].into()),
    ];
    let (session, replier) = (SessionId(1), ReplicaId(0));
    let read = Read { session, number: 1, operation: vec![2; 20].into(), replier };
    let slots = vec![SlotStatus::Empty, SlotStatus::Prepared, SlotStatus::Committed];
    let (active, suspects, awaits) = (true, false, Some(seq));
    let (view, stable, executed) = (View(1), Seq(4), seq);
    let status = Status { view, active, suspects, awaits, stable, executed, slots };
    let mut messages = vec![
        Message::Read(read),
        Message::Reply(Reply { tag: ordered, view: View(1), digest, answer }),
        Message::PrePrepare(PrePrepare { view: View(1), seq, batch: batch() }),
        Message::Prepare(vote(5)),
        Message::Commit(vote(5)),
        Message::Checkpoint(claim(0, 4)),
        Message::ViewChange(view_change(0)),
        Message::NewView(new_view()),
        Message::Status(status),
        Message::Decided(Decided { batches: vec![(seq, digest)] }),
        Message::Fetch([&wanted[..], &[Fetch::Block(digest)]].concat()),
    ];
    messages.extend(tags.into_iter().chain([ordered]).map(Message::Ask));
    messages.extend(requests().map(Message::Request));
    messages.extend(requests().map(|request| Message::Data(Data::Request(request))));
    messages.extend(data.map(Message::Data));
    messages
}

fn records() -> Vec<Record> {
    let (view, seq, digest, requests) = (View(1), Seq(5), Digest::of(b"x"), requests().to_vec());
    vec![
        Record::Accepted { view, seq, batch: batch(), requests: requests.clone() },
        Record::Prepared { view, seq, digest },
        Record::Learned { seq, batch: batch(), requests },
        Record::Claimed(claim(0, 4), Seq(0)),
        Record::Stable((0..3).map(|by| claim(by, 4)).collect(), root()),
        Record::View(view),
        Record::Reaccepted(vote(5)),
        Record::NewView(new_view()),
    ]
}

fn cluster_file(n: u16) -> ClusterFile {
    let replica = |at: u16| ReplicaMember {
        address: ([127, 0, 0, 1], 4800 + at).into(),
        key: replica_signer(at.into()).public(),
    };
    let client = |at| ClientMember {
        name: format!("client-{at}"),
        key: client_signer(at).public(),
        admin: false,
    };
    ClusterFile {
        path: "dir/cluster.toml".into(),
        name: "dev".into(),
        id: id(),
        durability: Durability::Sync,
        ca: "ca.crt".into(),
        capacity_bytes: 1 << 40,
        capacity_inodes: 1 << 24,
        replicas: (0..n).map(replica).collect(),
        clients: (1..3).map(|at| (ClientId(at), client(at))).collect::<BTreeMap<_, _>>(),
    }
}

/// Pages of a tree of three levels, of every kind.
fn pages() -> Vec<Vec<u8>> {
    let mut tree = Tree::new();
    for number in 0..4000_u32 {
        let len = if number.is_multiple_of(50) { 600 } else { 60 };
        tree.insert(&number.to_be_bytes(), vec![1; len]);
    }
    let added = tree.seal().added;
    let pages: Vec<_> = added.into_iter().map(|block| block.bytes.to_vec()).collect();
    let last_of = |level: u8| pages.iter().rfind(|page| page[0] == level).cloned();
    [0, 1, 2].into_iter().filter_map(last_of).collect()
}
