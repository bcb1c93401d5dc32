//! What comes off a link: MAC, size, encoding, shape, and who may say what.

use bftfs_proto::auth::{MAC_BYTES, MacKey, Reject, Verified, verify};
use bftfs_proto::config::{
    BATCH_REQUESTS_MAX, MESSAGE_BYTES_MAX, OPERATION_BYTES_MAX, REPLICAS_MAX, RESULT_BYTES_MAX,
    SESSION_SLOTS, WINDOW_SEQS,
};
use bftfs_proto::message::{
    Answer, Batch, Body, Data, Decided, Fetch, Message, Read, SlotStatus, StateRoot, Status, Tag,
};
use bftfs_proto::types::{Principal, ReplicaId, Seq, SessionId, SlotIndex, View, Wall};
use bftfs_proto::{Digest, codec};
use proptest::prelude::*;

use super::support::*;

const TO: Principal = replica(1);

/// What becomes of `encoded` with the right MAC.
fn receive(from: Principal, encoded: &[u8]) -> Result<Message, Reject> {
    let key = link(from, TO);
    verify(&key, from, &key.seal(encoded)).map(Verified::into_inner)
}

fn outcome(from: Principal, message: &Message) -> Option<Reject> {
    receive(from, &message.encode()).err()
}

fn status(slots: usize) -> Message {
    let slots = vec![SlotStatus::Empty; slots];
    Message::Status(Status {
        view: View(0),
        active: true,
        suspects: false,
        awaits: None,
        stable: Seq(0),
        executed: Seq(0),
        slots,
    })
}

fn decided(batches: usize) -> Message {
    Message::Decided(Decided { batches: vec![(Seq(1), Digest::ZERO); batches] })
}

fn requests(count: usize) -> Batch {
    Batch { requests: vec![Digest::ZERO; count], time: Wall(0) }
}

fn operation(bytes: usize, slot: u16) -> Message {
    let body = Body::Operation(SessionId(1), SlotIndex(slot), 1, vec![0; bytes].into());
    Message::Request(signed(1, body))
}

fn big_read(bytes: usize) -> Message {
    let (session, operation) = (SessionId(1), vec![0; bytes].into());
    Message::Read(Read { session, number: 1, operation, replier: ReplicaId(0) })
}

fn close(slot: u16) -> Message {
    Message::Request(signed(1, Body::Close(SessionId(1), SlotIndex(slot), 1)))
}

fn certificate(claims: usize) -> Message {
    let root =
        StateRoot { seq: Seq(K), time: Wall(0), sessions: Digest::ZERO, service: Digest::ZERO };
    Message::Data(Data::Stable(vec![claim(0, K, Digest::ZERO); claims], root))
}

/// One message of each kind that a replica may send.
fn of_replicas() -> Vec<Message> {
    let request = signed(1, Body::Open(1));
    vec![
        reply(Tag::Open(1), result(b"x")),
        pre_prepare(1, &batch(&[])),
        prepare(1, &batch(&[])),
        commit(1, &batch(&[])),
        Message::Checkpoint(claim(0, K, Digest::ZERO)),
        status(1),
        decided(1),
        Message::Fetch(vec![Fetch::Stable(Seq(1))]),
        Message::Data(Data::Request(request)),
        Message::Data(Data::Batch(batch(&[]))),
        certificate(3),
        Message::Data(Data::Block(Digest::ZERO, b"block"[..].into())),
    ]
}

/// One message of each kind that a client may send.
fn of_clients() -> Vec<Message> {
    vec![Message::Request(open(1, 9)), read(1, GET), Message::Ask(Tag::Open(1))]
}

#[test]
fn a_replica_and_a_client_may_say_what_is_theirs() {
    for message in of_replicas() {
        assert_eq!(receive(replica(0), &message.encode()), Ok(message.clone()));
        assert_eq!(outcome(client(1), &message), Some(Reject::Role), "{message:?}");
    }
    for message in of_clients() {
        assert_eq!(receive(client(1), &message.encode()), Ok(message.clone()));
        assert_eq!(outcome(replica(0), &message), Some(Reject::Role), "{message:?}");
    }
}

#[test]
fn nobody_speaks_in_anothers_name() {
    assert_eq!(outcome(client(2), &Message::Request(open(1, 9))), Some(Reject::Role));
    let claim = Message::Checkpoint(claim(0, K, Digest::ZERO));
    assert_eq!(outcome(replica(2), &claim), Some(Reject::Role));
}

#[test]
fn a_mac_of_another_direction_link_or_cluster_is_refused() {
    let encoded = prepare(1, &batch(&[])).encode();
    let key = link(replica(0), TO);
    let others = [
        link(TO, replica(0)),
        link(replica(2), TO),
        link(client(0), TO),
        MacKey::derive(&[7; 32], &Digest::ZERO, replica(0), TO),
        MacKey::derive(&[8; 32], &id(), replica(0), TO),
    ];
    for other in others {
        let outcome = verify(&key, replica(0), &other.seal(&encoded)).err();
        assert_eq!(outcome, Some(Reject::Mac));
    }
}

#[test]
fn a_frame_too_short_for_a_mac_or_longer_than_any_message_is_refused() {
    let key = link(replica(0), TO);
    let outcome = |bytes: usize| verify(&key, replica(0), &vec![0; bytes]).err();
    assert_eq!(outcome(0), Some(Reject::Size));
    assert_eq!(outcome(MAC_BYTES - 1), Some(Reject::Size));
    assert_eq!(outcome(MAC_BYTES), Some(Reject::Mac));
    assert_eq!(outcome(MAC_BYTES + MESSAGE_BYTES_MAX), Some(Reject::Mac));
    assert_eq!(outcome(MAC_BYTES + MESSAGE_BYTES_MAX + 1), Some(Reject::Size));
}

#[test]
fn trailing_and_missing_bytes_are_malformed() {
    for message in of_replicas() {
        let encoded = message.encode();
        let longer = [&encoded[..], &[0]].concat();
        assert_eq!(receive(replica(0), &longer), Err(Reject::Malformed));
        let shorter = &encoded[..encoded.len() - 1];
        assert_eq!(receive(replica(0), shorter), Err(Reject::Malformed));
    }
    assert_eq!(receive(replica(0), &[]), Err(Reject::Malformed));
}

#[test]
fn a_length_that_lies_is_malformed() {
    // A FETCH, then a count of 2^63.
    let mut encoded = Message::Fetch(vec![]).encode().to_vec();
    assert_eq!(encoded.pop(), Some(0));
    encoded.extend_from_slice(&codec::encode(&(1_u64 << 63)));
    assert_eq!(receive(replica(0), &encoded), Err(Reject::Malformed));
}

#[test]
fn counts_and_lengths_have_caps() {
    let window = usize::try_from(WINDOW_SEQS).expect("a small number");
    let answer = |bytes: usize| reply(Tag::Open(1), Answer::Result(vec![0; bytes].into()));
    let fetch = |count| Message::Fetch(vec![Fetch::Stable(Seq(1)); count]);
    let from = (replica(0), client(1));
    let cases = [
        (from.0, status(window), status(window + 1)),
        (from.0, decided(window), decided(window + 1)),
        (from.0, fetch(BATCH_REQUESTS_MAX), fetch(BATCH_REQUESTS_MAX + 1)),
        (
            from.0,
            pre_prepare(1, &requests(BATCH_REQUESTS_MAX)),
            pre_prepare(1, &requests(BATCH_REQUESTS_MAX + 1)),
        ),
        (
            from.0,
            Message::Data(Data::Batch(requests(BATCH_REQUESTS_MAX))),
            Message::Data(Data::Batch(requests(BATCH_REQUESTS_MAX + 1))),
        ),
        (from.0, certificate(REPLICAS_MAX), certificate(REPLICAS_MAX + 1)),
        (from.0, answer(RESULT_BYTES_MAX), answer(RESULT_BYTES_MAX + 1)),
        (from.1, operation(OPERATION_BYTES_MAX, 0), operation(OPERATION_BYTES_MAX + 1, 0)),
        (from.1, operation(1, SESSION_SLOTS - 1), operation(1, SESSION_SLOTS)),
        (from.1, close(SESSION_SLOTS - 1), close(SESSION_SLOTS)),
        (from.1, big_read(OPERATION_BYTES_MAX), big_read(OPERATION_BYTES_MAX + 1)),
    ];
    for (number, (from, most, more)) in cases.iter().enumerate() {
        assert_eq!(outcome(*from, most), None, "case {number}");
        assert_eq!(outcome(*from, more), Some(Reject::Shape), "case {number}");
    }
}

proptest! {
    #[test]
    fn random_bytes_never_verify(
        bytes in proptest::collection::vec(any::<u8>(), 0..512),
        of_client in any::<bool>(),
    ) {
        let from = if of_client { client(1) } else { replica(0) };
        prop_assert!(verify(&link(from, TO), from, &bytes).is_err());
    }

    /// Whoever holds the key may seal anything: what is no message is refused, what is one has
    /// one encoding only in so far as it is read back as itself.
    #[test]
    fn random_bytes_under_a_good_mac_never_panic(
        kind in 0_u8..14,
        bytes in proptest::collection::vec(any::<u8>(), 0..512),
    ) {
        let encoded = [&[kind], &bytes[..]].concat();
        for from in [replica(0), client(1)] {
            if let Ok(message) = receive(from, &encoded) {
                prop_assert_eq!(receive(from, &message.encode()), Ok(message));
            }
        }
    }

    #[test]
    fn a_changed_frame_never_verifies(
        which in any::<prop::sample::Index>(),
        place in any::<prop::sample::Index>(),
        flip in 1_u8..,
        cut in any::<prop::sample::Index>(),
        tail in proptest::collection::vec(any::<u8>(), 1..32),
    ) {
        let (from, messages) = (replica(0), of_replicas());
        let key = link(from, TO);
        let frame = key.seal(&which.get(&messages).encode());
        prop_assert!(verify(&key, from, &frame).is_ok());
        let mut flipped = frame.clone();
        flipped[place.index(frame.len())] ^= flip;
        prop_assert_eq!(verify(&key, from, &flipped).err(), Some(Reject::Mac));
        prop_assert!(verify(&key, from, &frame[..cut.index(frame.len())]).is_err());
        let longer = [&frame[..], &tail[..]].concat();
        prop_assert_eq!(verify(&key, from, &longer).err(), Some(Reject::Mac));
    }
}
