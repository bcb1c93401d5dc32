//! STATUS, DECIDED, and content by its hash.

use bftfs_proto::Digest;
use bftfs_proto::config::STATUS_BUSY_NANOS;
use bftfs_proto::engine::{Record, To};
use bftfs_proto::message::{Answer, Batch, Data, Decided, Fetch, Message, SlotStatus, Status, Tag};
use bftfs_proto::types::{Seq, SessionId, View};

use super::support::*;

fn decided(seq: u64, batch: &Batch) -> Message {
    Message::Decided(Decided { batches: vec![(Seq(seq), batch.digest(&id()))] })
}

fn status(executed: u64, slots: &[SlotStatus]) -> Message {
    let (view, stable, executed) = (View(0), Seq(0), Seq(executed));
    Message::Status(Status {
        view,
        active: true,
        suspects: false,
        awaits: None,
        stable,
        executed,
        slots: slots.to_vec(),
    })
}

#[test]
fn claims_of_w_replicas_decide() {
    let (mut node, request) = (Node::new(1), open(1, 9));
    let batch = batch(&[&request]);
    node.ask(&request);
    assert_eq!(node.hear(replica(2), &decided(1, &batch)), []);
    assert_eq!(node.hear(replica(2), &decided(1, &batch)), [], "one replica, one claim");
    assert_eq!(node.replica.decided(Seq(1)), None);
    assert_eq!(node.hear(replica(3), &decided(1, &batch)), []);
    assert_eq!(node.replica.decided(Seq(1)), Some(batch.digest(&id())));
    let wanted = Message::Fetch(vec![Fetch::Batch(batch.digest(&id()))]);
    assert_eq!(node.tick(), [to_one(replica(2), wanted, 0)]);
    let learned =
        Record::Learned { seq: Seq(1), batch: batch.clone(), requests: vec![request.clone()] };
    assert_eq!(
        node.hear(replica(2), &Message::Data(Data::Batch(batch))),
        [
            Out::Append(learned),
            to_one(client(1), reply(Tag::Open(9), Answer::Opened(SessionId(1))), 1),
        ]
    );
}

#[test]
fn what_the_primary_proposed_is_asked_of_it_first_and_then_of_all_in_turn() {
    let (mut node, request) = (Node::new(1), open(1, 9));
    node.hear(replica(0), &pre_prepare(1, &batch(&[&request])));
    let wanted = Message::Fetch(vec![Fetch::Request(request.digest(&id()))]);
    let mut asked = Vec::new();
    while asked.len() < 4 {
        asked.extend(node.tick().into_iter().filter_map(|out| match out {
            Out::Send(To::One(to), message, _) if message == wanted => Some(to),
            _ => None,
        }));
    }
    assert_eq!(asked, [replica(0), replica(2), replica(3), replica(0)]);
}

#[test]
fn a_body_that_a_batch_has_is_kept_though_its_client_did_not_sign_it() {
    // The client may have shown the primary the right signature; that one may lose its disk.
    let (mut node, request) = (Node::new(1), open(1, 9));
    let mut forged = request.clone();
    forged.signature = open(2, 9).signature;
    node.ask(&forged);
    node.hear(replica(0), &pre_prepare(1, &batch(&[&request])));
    (0..20).for_each(|_| drop(node.tick()));
    assert_eq!(node.rejects(), [("Signature".to_owned(), 1)], "it was looked at");
    let wanted = Message::Fetch(vec![Fetch::Request(request.digest(&id()))]);
    let data = Message::Data(Data::Request(forged));
    assert_eq!(node.hear(replica(2), &wanted), [to_one(replica(2), data, 1)]);
}

#[test]
fn claims_that_differ_do_not_decide() {
    let mut node = Node::new(1);
    assert_eq!(node.hear(replica(2), &decided(1, &batch(&[]))), []);
    assert_eq!(node.hear(replica(3), &decided(1, &batch(&[&open(1, 9)]))), []);
    assert_eq!(node.replica.decided(Seq(1)), None);
}

#[test]
fn claims_outside_the_watermarks_are_refused() {
    let mut node = Node::new(1);
    node.refuses(replica(2), &decided(L + 1, &batch(&[])), "Watermark");
    node.refuses(replica(2), &decided(u64::MAX, &batch(&[])), "Watermark");
}

#[test]
fn a_relayed_body_needs_its_signature() {
    let (mut node, request) = (Node::new(1), open(1, 9));
    node.hear(replica(0), &pre_prepare(1, &batch(&[&request])));
    let mut forged = request.clone();
    forged.signature = open(2, 9).signature;
    node.refuses(replica(2), &Message::Data(Data::Request(forged)), "Signature");
    let out = node.hear(replica(2), &Message::Data(Data::Request(request.clone())));
    let batch = batch(&[&request]);
    assert_eq!(out, [accepted(1, &batch, &[&request]), to_all(prepare(1, &batch), 1)]);
}

#[test]
fn a_body_of_a_decided_batch_needs_no_signature_for_a_correct_replica_accepted_it() {
    // Its client may have shown the others a body with a signature that only they did not check.
    let (mut node, mut request) = (Node::new(1), open(1, 9));
    let batch = batch(&[&request]);
    node.hear(replica(2), &decided(1, &batch));
    node.hear(replica(3), &decided(1, &batch));
    assert_eq!(node.hear(replica(2), &Message::Data(Data::Batch(batch))), []);
    request.signature = open(2, 9).signature;
    node.hear(replica(2), &Message::Data(Data::Request(request)));
    assert_eq!(node.replica.executed(), Seq(1));
}

#[test]
fn content_that_nobody_asked_for_is_refused() {
    let mut node = Node::new(1);
    let block = Data::Block(Digest::of(b"block"), b"block"[..].into());
    for data in [Data::Request(open(1, 9)), Data::Batch(batch(&[])), block] {
        node.refuses(replica(2), &Message::Data(data), "Unasked");
    }
}

#[test]
fn bodies_and_batches_are_given_by_their_hash_and_blocks_by_the_store() {
    let (mut node, request) = (Node::new(1), open(1, 9));
    let batch = batch(&[&request]);
    node.order(1, &[&request]);
    let block = Digest::of(b"block");
    let wanted = vec![
        Fetch::Request(request.digest(&id())),
        Fetch::Request(block),
        Fetch::Batch(batch.digest(&id())),
        Fetch::Batch(block),
        Fetch::Stable(Seq(K)),
        Fetch::Block(block),
    ];
    assert_eq!(
        node.hear(replica(3), &Message::Fetch(wanted)),
        [
            to_one(replica(3), Message::Data(Data::Request(request)), 2),
            to_one(replica(3), Message::Data(Data::Batch(batch)), 2),
            Out::Serve(replica(3), block),
        ]
    );
}

#[test]
fn whoever_lags_is_sent_what_it_lacks() {
    let mut node = Node::new(1);
    node.order(1, &[&open(1, 9)]);
    let batch = batch(&[&open(1, 9)]);
    let (after, to) = (2, replica(3));
    assert_eq!(
        node.hear(replica(3), &status(0, &[])),
        [
            to_one(to, decided(1, &batch), after),
            to_one(to, prepare(1, &batch), after),
            to_one(to, commit(1, &batch), after),
        ]
    );
    assert_eq!(
        node.hear(replica(2), &status(0, &[SlotStatus::Prepared])),
        [
            to_one(replica(2), decided(1, &batch), after),
            to_one(replica(2), commit(1, &batch), after),
        ]
    );
    assert_eq!(node.hear(replica(0), &status(1, &[])), [], "it has all");
}

#[test]
fn a_primary_sends_its_proposal_again() {
    let (mut node, request) = (Node::new(0), open(1, 9));
    node.ask(&request);
    assert_eq!(
        node.hear(replica(3), &status(0, &[SlotStatus::Empty])),
        [to_one(replica(3), pre_prepare(1, &batch(&[&request])), 1)]
    );
}

#[test]
fn a_status_is_answered_once_a_period() {
    let mut node = Node::new(1);
    node.order(1, &[&open(1, 9)]);
    assert_ne!(node.hear(replica(3), &status(0, &[])), []);
    node.refuses(replica(3), &status(0, &[]), "Quota");
    node.now = at(STATUS_BUSY_NANOS);
    assert_ne!(node.hear(replica(3), &status(0, &[])), []);
}

#[test]
fn a_status_from_beyond_all_numbers_is_harmless() {
    let mut node = Node::new(1);
    node.order(1, &[&open(1, 9)]);
    assert_eq!(node.hear(replica(3), &status(u64::MAX, &[SlotStatus::Empty])), []);
}
