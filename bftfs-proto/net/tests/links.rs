//! Links over real sockets on loopback: who gets in, what gets through, and what comes back.

mod support;

use std::time::Duration;

use bftfs_certs::{Authority, Key, Period, Subject, add_client, make_client};
use bftfs_net::identity::Certificate;
use bftfs_net::links::LinksError;
use bftfs_net::{ClientHandle, Event, Standing};
use bftfs_proto::Digest;
use bftfs_proto::client::Failure;
use bftfs_proto::engine::To;
use bftfs_proto::message::{Data, Message, Read, Tag, Vote};
use bftfs_proto::types::{ClientId, Principal, ReplicaId, Seq, SessionId, View};
use bytes::Bytes;
use support::{Dir, Node, PERIOD, next, next_message};

const R0: Principal = Principal::Replica(ReplicaId(0));
const R1: Principal = Principal::Replica(ReplicaId(1));
const ALICE: Principal = Principal::Client(ClientId(1));

fn vote(seq: u64) -> Message {
    Message::Prepare(Vote { view: View(0), seq: Seq(seq), digest: Digest::ZERO })
}

fn read(number: u64) -> Message {
    read_in(1, number)
}

fn read_in(session: u64, number: u64) -> Message {
    let (session, operation) = (SessionId(session), Bytes::from_static(b"an operation"));
    Message::Read(Read { session, number, operation, replier: ReplicaId(0) })
}

#[tokio::test]
async fn replicas_and_clients_exchange_messages() {
    let dir = Dir::new(4);
    let mut zero = Node::replica(&dir, 0);
    let mut one = Node::replica(&dir, 1);
    let mut alice = Node::client(&dir, "alice");
    zero.connected(&[R1, ALICE]).await;
    one.connected(&[R0, ALICE]).await;
    alice.connected(&[R0, R1]).await;

    let block = Message::Data(Data::Block(Digest::ZERO, Bytes::from(vec![7; 1 << 20])));
    one.links.send(To::Replicas, &block);
    one.links.send(To::One(R0), &vote(1));
    let mut got = [next_message(&mut zero).await, next_message(&mut zero).await];
    got.sort_by_key(|(_, message)| *message == block);
    assert_eq!(got, [(R1, vote(1)), (R1, block)]);

    zero.links.send(To::One(R1), &vote(2));
    assert_eq!(next_message(&mut one).await, (R0, vote(2)));
    for number in 0..1000 {
        alice.links.send(To::Replicas, &read(number));
    }
    for node in [&mut zero, &mut one] {
        for number in 0..1000 {
            assert_eq!(next_message(node).await, (ALICE, read(number)));
        }
    }
    let (sent, received) = (alice.links.counters(), zero.links.counters());
    assert_eq!(sent.sent["read"].messages, 2000);
    assert_eq!(sent.unsent["replica 2"], 1000, "{sent:?}");
    assert_eq!(received.received["read"].messages, 1000);
    assert_eq!(received.received["read"].bytes, sent.sent["read"].bytes / 2);
    assert!(received.rejects.is_empty(), "{:?}", received.rejects);
}

#[tokio::test]
async fn mounts_of_one_certificate_hear_what_concerns_them() {
    let dir = Dir::new(1);
    let mut zero = Node::replica(&dir, 0);
    let [mut one, mut two, mut new] = [(); 3].map(|()| Node::client(&dir, "alice"));
    zero.connected(&[ALICE; 3]).await;
    for (session, mount) in [(1, &mut one), (2, &mut two), (0, &mut new)] {
        mount.connected(&[R0]).await;
        if session > 0 {
            mount.links.send(To::One(R0), &read_in(session, 7));
            assert_eq!(next_message(&mut zero).await, (ALICE, read_in(session, 7)));
        }
    }
    // Nobody spoke of session 3; opening one concerns no session yet.
    let told = [1, 2, 3].map(|session| support::reply(Tag::Read(SessionId(session), 1)));
    let nudge = Message::Nudge(SessionId(2), Bytes::from_static(b"your turn"));
    let open = support::reply(Tag::Open(5));
    for message in told.iter().chain([&nudge, &open]) {
        zero.links.send(To::One(ALICE), message);
    }
    let [first, second, third] = told;
    let heard = [
        (&mut one, vec![&first, &third, &open]),
        (&mut two, vec![&second, &third, &nudge, &open]),
        // A mount whose connection was lost may not have spoken on the new one.
        (&mut new, vec![&first, &second, &third, &nudge, &open]),
    ];
    for (mount, messages) in heard {
        for message in messages {
            assert_eq!(next_message(mount).await, (R0, message.clone()));
        }
    }
    one.links.close().await;
    zero.links.send(To::One(ALICE), &open);
    assert_eq!(next_message(&mut two).await, (R0, open));
}

#[tokio::test]
async fn a_client_may_not_have_any_number_of_connections() {
    let dir = Dir::new(1);
    let mut zero = Node::replica(&dir, 0);
    let alice = support::files(dir.path(), &Subject::Client("alice".into()));
    let mut held = Vec::new();
    for _ in 0..16 {
        held.push(support::dial(&dir, &alice, 0).await.unwrap());
    }
    zero.connected(&[ALICE; 16]).await;
    let refused = support::dial(&dir, &alice, 0).await.map(|_| ()).unwrap_err();
    assert!(refused.contains("too many connections of this client"), "{refused}");
    assert_eq!(zero.links.counters().rejects["client 1: too many connections"], 1);
    let _bob = Node::client(&dir, "bob");
    zero.connected(&[Principal::Client(ClientId(2))]).await;
    assert!(held.iter().all(|(_, connection)| connection.close_reason().is_none()));
}

#[tokio::test]
async fn wrong_certificates_are_refused_and_counted() {
    let dir = Dir::new(4);
    let other = Dir::new(4);
    let authority = Authority::load(dir.path(), "dev").unwrap();
    let expired = Period { from: PERIOD.from, to: PERIOD.from + Duration::from_secs(60) };
    let old = dir.pin_leaf(&authority, "old", expired);
    let stranger = dir.leaf(&authority, "stranger", Period::days(1).unwrap());
    let mut one = Node::replica(&dir, 1);

    let cases = [
        (support::files(other.path(), &Subject::Client("alice".into())), "another authority"),
        (old, "expired"),
        (stranger, "its key is nobody's"),
        (support::files(dir.path(), &Subject::Replica(ReplicaId(0))), "that of replica 0"),
        (support::files(dir.path(), &Subject::Replica(ReplicaId(1))), "that of replica 1"),
    ];
    for (leaf, reason) in cases {
        let refused = support::dial(&dir, &leaf, 1).await.unwrap_err();
        assert!(!refused.is_empty());
        let rejects = one.links.counters().rejects;
        let counted = rejects.iter().any(|(why, n)| why.contains(reason) && *n == 1);
        assert!(counted, "{reason}: {refused}; {rejects:?}");
    }
    let _alice = Node::client(&dir, "alice");
    one.connected(&[ALICE]).await;
}

#[tokio::test]
async fn whoever_answers_must_be_the_replica_that_was_dialled() {
    let dir = Dir::new(2);
    let mut zero = Node::replica(&dir, 0);
    let mut file = dir.file();
    file.replicas[1].address = file.replicas[0].address;
    let mut alice = Node::client_of(&dir, &file, "alice");
    alice.connected(&[R0]).await;
    zero.connected(&[ALICE]).await;
    support::until(|| alice.links.failures().contains_key(&ReplicaId(1))).await;
    // Its certificate has another name already; the pinned key is not even asked for.
    let rejects = alice.links.counters().rejects;
    assert!(rejects.keys().all(|why| why.starts_with("replica 1: ")), "{rejects:?}");
    assert!(!rejects.is_empty());
}

#[tokio::test]
async fn a_certificate_of_the_right_name_with_another_key_is_refused() {
    let dir = Dir::new(2);
    let authority = Authority::load(dir.path(), "dev").unwrap();
    let key = Key::generate().unwrap();
    let subject = Subject::Replica(ReplicaId(1));
    let certificate = authority.issue("dev", &subject, &key, Period::days(1).unwrap()).unwrap();
    let _impostor = support::listen(&dir, &certificate, &key.pem(), 1);
    let alice = Node::client(&dir, "alice");
    support::until(|| {
        let rejects = alice.links.counters().rejects;
        rejects.keys().any(|why| why.contains("not that of replica 1, which was dialled"))
    })
    .await;
    assert!(alice.links.failures().contains_key(&ReplicaId(1)));
}

#[tokio::test]
async fn a_replicas_certificate_is_no_clients() {
    let dir = Dir::new(4);
    let identity = dir.identity(&Subject::Replica(ReplicaId(3)));
    let error = bftfs_net::Links::client(&dir.file(), &identity).map(|_| ()).unwrap_err();
    assert_eq!(
        error.to_string().split(": ").last().unwrap().split("the certificate").last().unwrap(),
        format!(
            " {} is that of replica 3, not of a client",
            support::files(dir.path(), &Subject::Replica(ReplicaId(3))).0.display()
        )
    );
    // Who has the key may dial, but is a replica and may only say what replicas say.
    let mut zero = Node::replica(&dir, 0);
    let mut three = Node::replica(&dir, 3);
    zero.connected(&[Principal::Replica(ReplicaId(3))]).await;
    three.connected(&[R0]).await;
    three.links.send(To::One(R0), &read(1));
    support::until(|| zero.links.counters().rejects.get("replica 3: Role") == Some(&1)).await;
}

#[tokio::test]
async fn garbage_and_oversized_frames_cost_only_their_connection() {
    let dir = Dir::new(4);
    let mut zero = Node::replica(&dir, 0);
    let mut bob = Node::client(&dir, "bob");
    bob.connected(&[R0]).await;
    zero.connected(&[Principal::Client(ClientId(2))]).await;
    let alice = support::files(dir.path(), &Subject::Client("alice".into()));
    let oversized = [&[0][..], &u32::MAX.to_le_bytes()].concat();
    let garbage = [&[0][..], &32_u32.to_le_bytes(), &[0xaa; 32]].concat();
    let short = [&[1][..], &3_u32.to_le_bytes(), &[0; 3]].concat();
    let unknown_class = vec![9, 0, 0, 0, 0];
    let cases =
        [(oversized, "Size"), (garbage, "Mac"), (short, "Size"), (unknown_class, "Malformed")];
    for (bytes, reason) in cases {
        let before = zero.links.counters().rejects;
        let (_endpoint, connection) = support::dial(&dir, &alice, 0).await.unwrap();
        let mut stream = connection.open_uni().await.unwrap();
        stream.write_all(&bytes).await.unwrap();
        let closed = tokio::time::timeout(Duration::from_secs(5), connection.closed()).await;
        assert!(closed.unwrap().to_string().contains("bad frame"), "{reason}");
        let name = format!("client 1: {reason}");
        let counted = zero.links.counters().rejects[&name];
        assert_eq!(counted, before.get(&name).unwrap_or(&0) + 1, "{reason}");
        bob.links.send(To::Replicas, &read(7));
        assert_eq!(next_message(&mut zero).await, (Principal::Client(ClientId(2)), read(7)));
    }
}

#[tokio::test]
async fn a_restarted_replica_is_found_again() {
    let dir = Dir::new(2);
    let mut zero = Node::replica(&dir, 0);
    let mut one = Node::replica(&dir, 1);
    let mut alice = Node::client(&dir, "alice");
    zero.connected(&[R1, ALICE]).await;
    one.connected(&[R0, ALICE]).await;
    alice.connected(&[R0, R1]).await;
    zero.links.close().await;
    drop(zero);
    for node in [&mut one, &mut alice] {
        assert!(matches!(next(node).await, Event::Disconnected(R0)));
    }
    let address = dir.file().replicas[0].address;
    support::until(|| std::net::UdpSocket::bind(address).is_ok()).await;
    let mut zero = Node::replica(&dir, 0);
    for node in [&mut one, &mut alice] {
        node.connected(&[R0]).await;
    }
    zero.connected(&[R1, ALICE]).await;
    one.links.send(To::One(R0), &vote(3));
    assert_eq!(next_message(&mut zero).await, (R1, vote(3)));
}

#[tokio::test]
async fn a_connection_on_which_nothing_comes_back_is_replaced_long_before_it_times_out() {
    let dir = Dir::new(1);
    let mut zero = Node::replica(&dir, 0);
    let mut file = dir.file();
    let proxy = support::Proxy::start(file.replicas[0].address).await;
    file.replicas[0].address = proxy.address;
    let mut alice = Node::client_of(&dir, &file, "alice");
    alice.connected(&[R0]).await;
    zero.connected(&[ALICE]).await;
    alice.links.send(To::Replicas, &read(1));
    assert_eq!(next_message(&mut zero).await, (ALICE, read(1)));
    proxy.lose_what_is_connected();
    alice.links.send(To::Replicas, &read(2));
    // QUIC would find out after ten seconds.
    let found = async {
        assert!(matches!(next(&mut alice).await, Event::Disconnected(R0)));
        alice.connected(&[R0]).await;
    };
    tokio::time::timeout(Duration::from_secs(5), found).await.expect("a new connection");
    alice.links.send(To::Replicas, &read(3));
    assert_eq!(next_message(&mut zero).await, (ALICE, read(3)));
}

#[tokio::test]
async fn a_taken_port_is_named() {
    let dir = Dir::new(1);
    let zero = Node::replica(&dir, 0);
    let identity = dir.identity(&Subject::Replica(ReplicaId(0)));
    let error = bftfs_net::Links::serve(&dir.file(), &identity, ReplicaId(0)).map(|_| ());
    let address = dir.file().replicas[0].address;
    assert!(matches!(error, Err(LinksError::InUse { address: taken }) if taken == address));
    drop(zero);
}

#[tokio::test]
async fn a_client_added_to_a_running_cluster_is_let_in() {
    let dir = Dir::new(1);
    let mut zero = Node::replica(&dir, 0);
    let carol = add_client(dir.path(), "carol", 1).unwrap();
    let mut mount = Node::client(&dir, "carol");
    let key = dir.file().clients[&carol].key;
    let added = next(&mut zero).await;
    assert!(matches!(added, Event::ClientAdded(id, k) if id == carol && k == key), "{added:?}");
    zero.connected(&[Principal::Client(carol)]).await;
    mount.connected(&[R0]).await;
}

/// What the agreed state may say.
fn standing(key: Option<bftfs_proto::auth::PublicKey>, revoked: bool) -> Standing {
    Standing { key, revoked }
}

#[tokio::test]
async fn a_client_that_only_the_state_knows_is_let_in_while_it_does() {
    let dir = Dir::new(1);
    let mut zero = Node::replica(&dir, 0);
    make_client(dir.path(), "carol", 1).unwrap();
    let carol = support::files(dir.path(), &Subject::Client("carol".into()));
    support::dial(&dir, &carol, 0).await.unwrap_err();
    let key = Certificate::load(&carol.0).unwrap().key;
    zero.links.set_standings([(ClientId(9), standing(Some(key), false))].into());
    let (_endpoint, held) = support::dial(&dir, &carol, 0).await.unwrap();
    zero.connected(&[Principal::Client(ClientId(9))]).await;
    // The key of a replica stays that of the replica.
    let one = dir.file().replicas[0].key;
    zero.links.set_standings([(ClientId(9), standing(Some(one), false))].into());
    let closed = tokio::time::timeout(Duration::from_secs(5), held.closed()).await.unwrap();
    assert!(closed.to_string().contains("was revoked or changed"), "{closed}");
    support::dial(&dir, &carol, 0).await.unwrap_err();
}

#[tokio::test]
async fn a_revoked_client_is_cut_off_at_once_and_told_so() {
    let dir = Dir::new(1);
    let mut zero = Node::replica(&dir, 0);
    let identity = dir.identity(&Subject::Client("alice".into()));
    let client = ClientHandle::connect(&dir.file(), &identity).unwrap();
    zero.connected(&[ALICE]).await;
    let mut bob = Node::client(&dir, "bob");
    bob.connected(&[R0]).await;
    let how = bftfs_proto::client::How::Ordered;
    let patience = Duration::from_secs(60);
    let waiting = client.call(Bytes::new(), how, patience);
    let revoke = async {
        let Event::Message(ALICE, _) = next(&mut zero).await else { panic!("not asked") };
        zero.links.set_standings([(ClientId(1), standing(None, true))].into());
    };
    let both = async { tokio::join!(waiting, revoke) };
    let (called, ()) = tokio::time::timeout(Duration::from_secs(10), both).await.expect("at once");
    assert_eq!(called, Err(Failure::Refused));
    let refused = |counters: bftfs_net::counters::CounterReport| {
        counters.rejects.keys().any(|why| why.contains("the access of client 1 was revoked"))
    };
    support::until(|| refused(zero.links.counters())).await;
    assert_eq!(client.call(Bytes::new(), how, patience).await, Err(Failure::Refused));
    bob.links.send(To::Replicas, &read(7));
    let bobs = async { while next_message(&mut zero).await.0 == ALICE {} };
    tokio::time::timeout(Duration::from_secs(5), bobs).await.expect("others are heard");
    // Its access is given back: it finds out by itself.
    zero.links.set_standings([(ClientId(1), standing(None, false))].into());
    assert!(client.ready(Duration::from_secs(10)).await.is_ready());
    let called = client.call(Bytes::new(), how, Duration::from_millis(200)).await;
    assert_eq!(called, Err(Failure::Deadline), "nobody orders anything");
}

#[tokio::test]
async fn a_client_says_which_replicas_answered() {
    let dir = Dir::new(4);
    let _up = [Node::replica(&dir, 0), Node::replica(&dir, 1)];
    let identity = dir.identity(&Subject::Client("alice".into()));
    let client = ClientHandle::connect(&dir.file(), &identity).unwrap();
    let readiness = client.ready(Duration::from_millis(500)).await;
    assert!(!readiness.is_ready());
    let text = readiness.to_string();
    assert!(text.starts_with("replicas 0, 1 answered; replica 2 did not ("), "{text}");
    assert!(text.ends_with("; a quorum of 3 is needed"), "{text}");
    let _third = Node::replica(&dir, 2);
    let readiness = client.ready(Duration::from_secs(10)).await;
    assert_eq!(readiness.answered, [0, 1, 2].map(ReplicaId), "{readiness}");
    let deadline = Duration::from_millis(200);
    let called = client.call(Bytes::new(), bftfs_proto::client::How::Ordered, deadline).await;
    assert_eq!(called, Err(Failure::Deadline), "nobody orders anything");
}

#[test]
fn a_client_works_on_a_thread_of_its_own() {
    let dir = Dir::new(1);
    let (certificate, key) = support::files(dir.path(), &Subject::Client("alice".into()));
    let cluster = bftfs_certs::cluster_path(dir.path());
    let client = ClientHandle::spawn(&cluster, &certificate, &key).unwrap();
    let readiness = client.ready_blocking(Duration::from_millis(50));
    assert!(readiness.to_string().starts_with("no replica answered; replica 0 did not ("));
    let how = bftfs_proto::client::How::Ordered;
    let called = client.call_blocking(Bytes::new(), how, Duration::from_millis(50));
    assert_eq!(called, Err(Failure::Deadline));
}
