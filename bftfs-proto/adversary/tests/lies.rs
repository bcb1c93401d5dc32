//! Every role lies, the same seed alike, and none forges.

use bftfs_adversary::{Adversary, Role, Said, Utterance};
use bftfs_proto::Digest;
use bftfs_proto::auth::{Signature, Signer};
use bftfs_proto::config::Cluster;
use bftfs_proto::engine::To;
use bftfs_proto::message::{
    Answer, Batch, Checkpoint, Data, Message, NewView, PrePrepare, Read, Reply, StateRoot, Tag,
    ViewChange, Vote,
};
use bftfs_proto::types::{ClientId, Mono, Now, Principal, ReplicaId, Seq, SessionId, View, Wall};
use bytes::Bytes;

const ME: ReplicaId = ReplicaId(0);

fn signer(index: u8) -> Signer {
    Signer::from_seed(&[index; 32])
}

fn cluster() -> Cluster {
    let clients = [(ClientId(1), signer(9).public())].into();
    Cluster::new(Digest::ZERO, (0..4).map(|i| signer(i).public()).collect(), clients)
}

fn now(tick: u64) -> Now {
    Now { mono: Mono(tick * 50_000_000), wall: Wall(1 << 60) }
}

/// One of each kind that a correct replica says, as primary of view 4.
fn truths(number: u64) -> Vec<(To, Message)> {
    let (cluster, view, seq) = (cluster(), View(4), Seq(number));
    let batch = Batch { requests: vec![Digest::of(b"a"), Digest::of(b"b")], time: Wall(1 << 60) };
    let digest = batch.digest(&cluster.id);
    let vote = Vote { view, seq, digest };
    let checkpoint = Checkpoint::sign(&cluster.id, &signer(0), ME, Seq(128), digest);
    let change = ViewChange {
        replica: ME,
        view,
        stable: Seq(0),
        certificate: Vec::new(),
        prepared: vec![vote],
        accepted: vec![vote],
        signature: Signature::NONE,
    };
    let change = change.sign(&cluster.id, &signer(0));
    let (changes, chosen) = (vec![change.clone()], vec![digest]);
    let new_view = NewView { view, changes, stable: Seq(0), chosen, signature: Signature::NONE };
    let root = StateRoot { seq: Seq(128), time: Wall(1), sessions: digest, service: digest };
    let answer = Answer::Result(Bytes::copy_from_slice(&number.to_le_bytes()));
    let tag = Tag::Read(SessionId(1), number);
    let reply = Reply { tag, view, digest: answer.digest(&cluster.id), answer: Some(answer) };
    vec![
        (To::Replicas, Message::PrePrepare(PrePrepare { view, seq, batch })),
        (To::Replicas, Message::Commit(vote)),
        (To::Replicas, Message::Checkpoint(checkpoint.clone())),
        (To::Replicas, Message::ViewChange(change)),
        (To::Replicas, Message::NewView(new_view.sign(&cluster.id, &signer(0)))),
        (
            To::One(Principal::Replica(ReplicaId(2))),
            Message::Data(Data::Stable(vec![checkpoint], root)),
        ),
        (
            To::One(Principal::Replica(ReplicaId(2))),
            Message::Data(Data::Block(digest, Bytes::from_static(b"block"))),
        ),
        (To::One(Principal::Client(ClientId(1))), Message::Reply(reply)),
    ]
}

/// What an honest replica would put on its links.
fn honest(to: To, message: &Message) -> Vec<Said> {
    let receivers: Vec<Principal> = match to {
        To::One(one) => vec![one],
        To::Replicas => (1..4).map(|i| Principal::Replica(ReplicaId(i))).collect(),
    };
    let say = |to| Said { to, delay_nanos: 0, what: Utterance::Message(message.clone()) };
    receivers.into_iter().map(say).collect()
}

/// All that a liar says in two seconds, and whether any of it is not what is true.
fn told(role: Role, seed: u64) -> (Vec<Said>, bool) {
    let mut liar = Adversary::new(role, cluster(), ME, signer(0), seed);
    let (mut told, mut lied) = (Vec::new(), false);
    for tick in 1..40 {
        let tag = (SessionId(1), tick);
        let operation = Bytes::from_static(b"read");
        let (session, number) = tag;
        let read = Read { session, number, operation, replier: ME };
        liar.hear(now(tick), Principal::Client(ClientId(1)), &Message::Read(read));
        for (to, truth) in truths(tick) {
            let said = liar.say(now(tick), to, &truth);
            lied |= said != honest(to, &truth);
            told.extend(said);
        }
        let unasked = liar.tick(now(tick));
        lied |= !unasked.is_empty();
        told.extend(unasked);
    }
    (told, lied)
}

#[test]
fn every_role_lies_and_the_same_seed_alike() {
    for role in Role::ALL {
        let (first, lied) = told(*role, 7);
        assert!(lied, "{role} said nothing but the truth");
        assert_eq!(first, told(*role, 7).0, "{role} is not deterministic");
    }
}

/// A signature in another's name never verifies, unless that other made it.
#[test]
fn no_role_forges() {
    let cluster = cluster();
    for role in Role::ALL {
        for said in told(*role, 3).0 {
            let Utterance::Message(message) = said.what else { continue };
            let claims = match message {
                Message::Data(Data::Stable(claims, _)) => claims,
                Message::Checkpoint(claim) => vec![claim],
                _ => continue,
            };
            for claim in claims.iter().filter(|claim| claim.replica != ME) {
                let key = &cluster.replicas[claim.replica.0 as usize];
                assert!(claim.verify(&cluster, key).is_err(), "{role} forged {claim:?}");
            }
        }
    }
}

#[test]
fn an_equivocator_tells_two_halves_two_batches_and_votes_for_both() {
    let mut liar = Adversary::new(Role::Equivocate, cluster(), ME, signer(0), 1);
    let (to, proposal) = truths(1).remove(0);
    let said = liar.say(now(1), to, &proposal);
    let mut batches = Vec::new();
    let mut votes = Vec::new();
    for said in said {
        match said.what {
            Utterance::Message(Message::PrePrepare(p)) => {
                batches.push((said.to, p.seq, p.batch.digest(&cluster().id)));
            }
            Utterance::Message(Message::Commit(vote)) => {
                votes.push((said.to, vote.seq, vote.digest));
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(batches, votes, "it votes to each for what it showed it");
    let distinct: std::collections::BTreeSet<_> = batches.iter().map(|(_, s, d)| (s, d)).collect();
    assert_eq!(distinct.len(), 2);
}
