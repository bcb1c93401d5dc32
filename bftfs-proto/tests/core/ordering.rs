//! Pre-prepare, prepare, commit.

use bftfs_proto::config::{TIME_BOUND_NANOS, TIME_LAG_NANOS};
use bftfs_proto::message::{Answer, Batch, Data, Fetch, Message, PrePrepare, Tag};
use bftfs_proto::types::{Seq, SessionId, View, Wall};

use super::support::*;

#[test]
fn a_pre_prepare_is_durable_before_the_prepare_for_it() {
    let (mut node, request) = (Node::new(1), open(1, 9));
    let batch = batch(&[&request]);
    assert_eq!(node.ask(&request), []);
    assert_eq!(
        node.hear(replica(0), &pre_prepare(1, &batch)),
        [accepted(1, &batch, &[&request]), to_all(prepare(1, &batch), 1)]
    );
    assert_eq!(node.rejects(), []);
}

#[test]
fn a_primary_makes_its_proposal_durable_before_it_is_sent() {
    let (mut node, request) = (Node::new(0), open(1, 9));
    let batch = batch(&[&request]);
    assert_eq!(
        node.ask(&request),
        [accepted(1, &batch, &[&request]), to_all(pre_prepare(1, &batch), 1)]
    );
}

#[test]
fn a_primary_does_not_propose_a_request_with_a_bad_signature() {
    let (mut node, mut request) = (Node::new(0), open(1, 9));
    request.signature = open(1, 10).signature;
    assert_eq!(node.ask(&request), []);
    assert_eq!(node.replica.status().waiting, 0);
}

#[test]
fn a_pre_prepare_of_a_backup_is_refused() {
    let mut node = Node::new(1);
    node.ask(&open(1, 9));
    node.refuses(replica(2), &pre_prepare(1, &batch(&[&open(1, 9)])), "Role");
}

#[test]
fn a_pre_prepare_of_another_view_is_refused() {
    let mut node = Node::new(1);
    let batch = batch(&[]);
    for (primary, view) in [(2, 2), (0, 4), (3, u64::MAX)] {
        let message = PrePrepare { view: View(view), seq: Seq(1), batch: batch.clone() };
        node.refuses(replica(primary), &Message::PrePrepare(message), "View");
    }
}

#[test]
fn a_pre_prepare_outside_the_watermarks_is_refused() {
    let mut node = Node::new(1);
    for seq in [0, L + 1, u64::MAX] {
        node.refuses(replica(0), &pre_prepare(seq, &batch(&[])), "Watermark");
        node.refuses(replica(2), &prepare(seq, &batch(&[])), "Watermark");
        node.refuses(replica(2), &commit(seq, &batch(&[])), "Watermark");
    }
    assert_ne!(node.hear(replica(0), &pre_prepare(L, &batch(&[]))), [], "L is inside");
}

#[test]
fn a_second_digest_for_a_number_is_refused() {
    let mut node = Node::new(1);
    let (first, second) = (batch(&[]), Batch { requests: vec![], time: Wall(EPOCH + 1) });
    assert_ne!(node.hear(replica(0), &pre_prepare(1, &first)), []);
    node.refuses(replica(0), &pre_prepare(1, &second), "Conflict");
    node.refuses(replica(0), &pre_prepare(1, &first), "Stale");
}

#[test]
fn a_second_digest_is_refused_while_the_first_lacks_bodies() {
    let mut node = Node::new(1);
    assert_eq!(node.hear(replica(0), &pre_prepare(1, &batch(&[&open(1, 9)]))), []);
    node.refuses(replica(0), &pre_prepare(1, &batch(&[])), "Conflict");
}

#[test]
fn a_time_too_far_ahead_is_refused() {
    let mut node = Node::new(1);
    let batch = |time| Batch { requests: vec![], time: Wall(time) };
    let ahead = EPOCH + TIME_BOUND_NANOS;
    node.refuses(replica(0), &pre_prepare(1, &batch(ahead + 1)), "Time");
    node.refuses(replica(0), &pre_prepare(1, &batch(u64::MAX)), "Time");
    assert_ne!(node.hear(replica(0), &pre_prepare(1, &batch(ahead))), [], "just within");
}

#[test]
fn a_time_too_far_behind_is_refused_but_for_a_while_after_a_start() {
    let mut node = Node::new(1);
    let old = |age| Batch { requests: vec![], time: Wall(EPOCH - age) };
    assert_ne!(node.hear(replica(0), &pre_prepare(1, &old(EPOCH))), [], "just started");
    node.now = at(TIME_LAG_NANOS);
    node.refuses(replica(0), &pre_prepare(2, &old(1)), "Time");
    assert_ne!(node.hear(replica(0), &pre_prepare(2, &old(0))), []);
}

#[test]
fn no_prepare_before_all_bodies_are_here() {
    let (mut node, first, second) = (Node::new(1), open(1, 9), open(2, 9));
    let batch = batch(&[&first, &second]);
    assert_eq!(node.hear(replica(0), &pre_prepare(1, &batch)), []);
    assert_eq!(node.ask(&first), []);
    assert_eq!(
        node.ask(&second),
        [accepted(1, &batch, &[&first, &second]), to_all(prepare(1, &batch), 1)]
    );
}

#[test]
fn a_missing_body_is_asked_for_and_used_with_its_signature_only() {
    let (mut node, request) = (Node::new(1), open(1, 9));
    let batch = batch(&[&request]);
    assert_eq!(node.hear(replica(0), &pre_prepare(1, &batch)), []);
    let wanted = Message::Fetch(vec![Fetch::Request(request.digest(&id()))]);
    assert_eq!(node.tick(), [to_one(replica(0), wanted, 0)]);
    let mut forged = request.clone();
    forged.signature = open(1, 10).signature;
    node.refuses(replica(2), &Message::Data(Data::Request(forged)), "Signature");
    let body = Message::Data(Data::Request(request.clone()));
    assert_eq!(
        node.hear(replica(2), &body),
        [accepted(1, &batch, &[&request]), to_all(prepare(1, &batch), 1)]
    );
    node.refuses(replica(2), &body, "Unasked");
}

/// Backup 1 with batch `[open]` accepted as number 1.
fn accepted_one() -> (Node, Batch) {
    let (mut node, request) = (Node::new(1), open(1, 9));
    let batch = batch(&[&request]);
    node.ask(&request);
    assert_eq!(node.hear(replica(0), &pre_prepare(1, &batch)).len(), 2);
    (node, batch)
}

#[test]
fn a_prepare_of_the_primary_does_not_count() {
    let (mut node, batch) = accepted_one();
    node.refuses(replica(0), &prepare(1, &batch), "Role");
}

#[test]
fn a_replica_prepares_once() {
    let mut node = Node::new(0);
    let request = open(1, 9);
    let batch = batch(&[&request]);
    assert_eq!(node.ask(&request).len(), 2);
    assert_eq!(node.hear(replica(3), &prepare(1, &batch)), [], "one of two");
    node.refuses(replica(3), &prepare(1, &batch), "Stale");
    assert_eq!(
        node.hear(replica(1), &prepare(1, &batch)),
        [prepared(1, &batch), to_all(commit(1, &batch), 2)]
    );
}

#[test]
fn prepares_of_a_quorum_less_the_primary_make_it_prepared() {
    let (mut node, batch) = accepted_one();
    assert_eq!(
        node.hear(replica(2), &prepare(1, &batch)),
        [prepared(1, &batch), to_all(commit(1, &batch), 2)]
    );
    assert_eq!(node.hear(replica(3), &prepare(1, &batch)), [], "once");
}

#[test]
fn prepares_for_another_digest_do_not_count() {
    let (mut node, _) = accepted_one();
    assert_eq!(node.hear(replica(2), &prepare(1, &batch(&[]))), []);
    assert_eq!(node.hear(replica(3), &prepare(1, &batch(&[]))), []);
}

#[test]
fn votes_that_came_early_count_once_the_pre_prepare_is_here() {
    let (mut node, request) = (Node::new(1), open(1, 9));
    let batch = batch(&[&request]);
    node.ask(&request);
    assert_eq!(node.hear(replica(2), &prepare(1, &batch)), []);
    assert_eq!(node.hear(replica(2), &commit(1, &batch)), []);
    assert_eq!(node.hear(replica(0), &commit(1, &batch)), []);
    let tag = Tag::Open(9);
    let opened = Answer::Opened(SessionId(1));
    assert_eq!(
        node.hear(replica(0), &pre_prepare(1, &batch)),
        [
            accepted(1, &batch, &[&request]),
            to_all(prepare(1, &batch), 1),
            prepared(1, &batch),
            to_all(commit(1, &batch), 2),
            to_one(client(1), reply(tag, opened), 2),
        ]
    );
}

#[test]
fn commits_of_a_quorum_execute_and_the_reply_waits_for_the_prepared_record() {
    let (mut node, batch) = accepted_one();
    node.hear(replica(2), &prepare(1, &batch));
    assert_eq!(node.hear(replica(2), &commit(1, &batch)), [], "two of three");
    node.refuses(replica(2), &commit(1, &batch), "Stale");
    assert_eq!(node.replica.executed(), Seq(0));
    let opened = Answer::Opened(SessionId(1));
    assert_eq!(
        node.hear(replica(3), &commit(1, &batch)),
        [to_one(client(1), reply(Tag::Open(9), opened), 2)]
    );
    assert_eq!(node.replica.executed(), Seq(1));
}

#[test]
fn commits_without_being_prepared_execute_nothing() {
    let (mut node, batch) = accepted_one();
    for other in [0, 2, 3] {
        assert_eq!(node.hear(replica(other), &commit(1, &batch)), []);
    }
    assert_eq!(node.replica.executed(), Seq(0));
}

#[test]
fn batches_are_executed_in_order_without_gaps() {
    let mut node = Node::new(1);
    node.run_to(2);
    let (third, fourth) = (append(2, b"b"), append(3, b"c"));
    let (b3, b4) = (batch(&[&third]), batch(&[&fourth]));
    for (seq, request, batch) in [(4, &fourth, &b4), (3, &third, &b3)] {
        assert_eq!(node.replica.executed(), Seq(2), "4 waits for 3");
        node.ask(request);
        node.hear(replica(0), &pre_prepare(seq, batch));
        node.hear(replica(2), &prepare(seq, batch));
        node.hear(replica(0), &commit(seq, batch));
        node.hear(replica(2), &commit(seq, batch));
    }
    assert_eq!((node.replica.executed(), node.text()), (Seq(4), b"xbc".to_vec()));
}

#[test]
fn two_votes_of_one_sender_for_one_number_conflict() {
    let (mut node, first) = accepted_one();
    node.hear(replica(2), &prepare(1, &first));
    node.refuses(replica(2), &prepare(1, &batch(&[])), "Conflict");
    node.hear(replica(2), &commit(1, &first));
    node.refuses(replica(2), &commit(1, &batch(&[])), "Conflict");
}

#[test]
fn a_primary_keeps_few_batches_in_flight() {
    let mut node = Node::new(0);
    let sent: Vec<usize> = (0..6).map(|nonce| node.ask(&open(1, nonce)).len()).collect();
    assert_eq!(sent, [2, 2, 2, 2, 0, 0]);
    assert_eq!(node.replica.status().waiting, 2);
}

#[test]
fn nobody_speaks_in_the_name_of_this_replica_or_of_none() {
    let mut node = Node::new(1);
    node.refuses(replica(1), &prepare(1, &batch(&[])), "Role");
    node.refuses(replica(4), &prepare(1, &batch(&[])), "Role");
}
