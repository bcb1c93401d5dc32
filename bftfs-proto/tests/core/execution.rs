//! At most once, sessions, and fast reads.

use bftfs_proto::config::{CLIENT_SESSIONS_MAX, RESULT_CACHED_BYTES_MAX, RESULT_INLINE_BYTES_MAX};
use bftfs_proto::engine::Input;
use bftfs_proto::message::{Answer, Body, Message, Request, Tag};
use bftfs_proto::types::{ClientId, SessionId, SlotIndex};
use bytes::Bytes;

use super::support::*;

fn tag(number: u64) -> Tag {
    Tag::Ordered(SessionId(1), SlotIndex(0), number)
}

/// Backup 1 that executed the opening of session 1 and "x" as its number 1.
fn executed_x() -> Node {
    let mut node = Node::new(1);
    node.run_to(2);
    assert_eq!(node.text(), b"x");
    node
}

#[test]
fn a_request_that_comes_again_is_answered_from_what_was_kept() {
    let mut node = executed_x();
    assert_eq!(node.ask(&append(1, b"x")), [to_one(client(1), reply(tag(1), result(b"x")), 4)]);
    assert_eq!(node.rejects(), [("Stale".into(), 1)]);
}

#[test]
fn an_answer_that_its_replier_does_not_send_is_had_from_any_other() {
    // Too large to be sent by all, and then too large for the replicated state.
    const TEXTS: [&[u8]; 2] = [&[b'x'; RESULT_INLINE_BYTES_MAX], &[b'x'; RESULT_CACHED_BYTES_MAX]];
    for text in TEXTS {
        let mut node = executed_x();
        let outputs = node.order(3, &[&append(2, text)]);
        assert_eq!(answers(&outputs), [(tag(2), None)], "replica 0 is to send it");
        let whole = Answer::Result([b"x", text].concat().into());
        let said = node.hear(client(1), &Message::Ask(tag(2)));
        assert_eq!(said, [to_one(client(1), reply(tag(2), whole), 6)], "{} bytes", text.len());
        node.refuses(client(2), &Message::Ask(tag(2)), "Stale");
        node.refuses(client(1), &Message::Ask(tag(3)), "Stale");
    }
}

#[test]
fn a_request_that_is_ordered_again_is_not_executed_again() {
    let mut node = executed_x();
    let again = append(1, b"x");
    let outputs = node.order(3, &[&again]);
    assert_eq!(answers(&outputs), [(tag(1), Some(result(b"x")))], "as it came, not as executed");
    assert_eq!(node.text(), b"x");
}

#[test]
fn a_request_that_is_twice_in_a_batch_is_executed_once() {
    let mut node = executed_x();
    let request = append(2, b"y");
    let outputs = node.order(3, &[&request, &request]);
    assert_eq!(answers(&outputs), [(tag(2), Some(result(b"xy")))]);
}

#[test]
fn a_number_that_is_not_the_next_is_refused() {
    let mut node = executed_x();
    let outputs = node.order(3, &[&append(3, b"y")]);
    assert_eq!(answers(&outputs), [(tag(3), Some(Answer::OutOfOrder))]);
    assert_eq!(node.text(), b"x");
}

#[test]
fn a_number_that_is_past_is_forgotten() {
    let mut node = Node::new(1);
    node.run_to(3);
    let outputs = node.order(4, &[&append(1, b"y")]);
    assert_eq!(answers(&outputs), [(tag(1), Some(Answer::Forgotten))]);
    assert_eq!(node.text(), b"xx");
}

#[test]
fn another_clients_session_is_no_session() {
    let mut node = executed_x();
    let stranger = append_in(2, SessionId(1), 2, b"y");
    let outputs = node.order(3, &[&stranger]);
    assert_eq!(outputs.last(), Some(&to_one(client(2), reply(tag(2), Answer::NoSession), 6)));
    assert_eq!(node.text(), b"x");
}

#[test]
fn a_closed_session_is_no_session() {
    let mut node = executed_x();
    let close = signed(1, Body::Close(SessionId(1), SlotIndex(0), 2));
    let outputs = node.order(3, &[&close, &append(3, b"y")]);
    let expected = [(tag(2), Some(Answer::Closed)), (tag(3), Some(Answer::NoSession))];
    assert_eq!(answers(&outputs), expected);
    assert_eq!(node.text(), b"x");
}

#[test]
fn whoever_has_what_he_waits_for_is_nudged_when_that_is_durable() {
    let mut node = executed_x();
    node.order(3, &[&open(2, 9)]);
    let nudges = |outputs: Vec<Out>| -> Vec<Out> {
        let nudge = |out: &Out| matches!(out, Out::Send(_, Message::Nudge(..), _));
        outputs.into_iter().filter(nudge).collect()
    };
    let (own, other, nobody) = (b"nudge \x01", b"nudge \x02", b"nudge \x03");
    let outputs = node.order(4, &[&append(2, own), &append(3, other), &append(4, nobody)]);
    let said = |session, about: &'static [u8]| {
        Message::Nudge(SessionId(session), Bytes::from_static(about))
    };
    let expected = [to_one(client(1), said(1, own), 8), to_one(client(2), said(2, other), 8)];
    assert_eq!(nudges(outputs), expected);
    let outputs = node.order(5, &[&append(5, b"y")]);
    assert_eq!(nudges(outputs), [], "once");
}

#[test]
fn opening_again_finds_the_session_it_opened() {
    let mut node = executed_x();
    let opened = Answer::Opened(SessionId(1));
    assert_eq!(node.ask(&open(1, 9)), [to_one(client(1), reply(Tag::Open(9), opened), 4)]);
    let outputs = node.order(3, &[&open(1, 10), &open(2, 9)]);
    let expected = [
        (Tag::Open(10), Some(Answer::Opened(SessionId(2)))),
        (Tag::Open(9), Some(Answer::Opened(SessionId(3)))),
    ];
    assert_eq!(answers(&outputs), expected, "another nonce, another client");
}

#[test]
fn one_session_too_many_closes_the_longest_idle_of_the_same_client() {
    let mut node = Node::new(1);
    let most = CLIENT_SESSIONS_MAX as u64;
    let opens: Vec<_> = (1..=most).map(|nonce| open(1, nonce)).collect();
    node.order(1, &opens.iter().collect::<Vec<_>>());
    let others = append_in(2, SessionId(most + 1), 1, b"b");
    let outputs = node.order(2, &[&open(2, 1), &append(1, b"a"), &others]);
    assert_eq!(outputs.len(), 4 + 3, "all answered");
    assert_eq!(node.text(), b"ab", "another client's session closes none");
    let second = append_in(1, SessionId(2), 1, b"d");
    let outputs = node.order(3, &[&open(1, 99), &append(2, b"c"), &second]);
    let expected = [
        (Tag::Open(99), Some(Answer::Opened(SessionId(most + 2)))),
        (tag(2), Some(Answer::NoSession)),
        (Tag::Ordered(SessionId(2), SlotIndex(0), 1), Some(result(b"abd"))),
    ];
    assert_eq!(answers(&outputs), expected);
}

#[test]
fn a_client_that_the_cluster_does_not_know_is_refused_until_it_does() {
    let mut node = Node::new(1);
    let request = open(3, 1);
    node.refuses(client(3), &Message::Request(request.clone()), "Role");
    node.refuses(client(3), &read(1, GET), "Role");
    assert_eq!(node.input(Input::Client(ClientId(3), client_signer(3).public())), []);
    assert_eq!(node.ask(&request), []);
    assert_eq!(node.replica.status().waiting, 1);
}

#[test]
fn a_read_is_answered_from_what_was_executed_after_its_records() {
    let mut node = executed_x();
    let answer = reply(Tag::Read(SessionId(1), 7), result(b"x"));
    assert_eq!(node.hear(client(1), &read(7, GET)), [to_one(client(1), answer, 4)]);
}

#[test]
fn a_read_that_would_change_something_is_refused() {
    let mut node = executed_x();
    let answer = reply(Tag::Read(SessionId(1), 7), Answer::NotRead);
    assert_eq!(node.hear(client(1), &read(7, b"y")), [to_one(client(1), answer, 4)]);
    assert_eq!(node.text(), b"x");
}

/// Orders a batch of these at this many seconds of agreed time.
fn order_at(node: &mut Node, seq: u64, seconds: u64, requests: &[&Request]) -> Vec<Out> {
    node.now = at(seconds * 1_000_000_000);
    node.order_on(seq, requests)
}

#[test]
fn a_session_that_goes_unused_is_closed() {
    let mut node = Node::new(1);
    order_at(&mut node, 1, 0, &[&open(1, 9), &open(2, 9)]);
    for second in 1..=120 {
        let used = append(second, b"x");
        order_at(&mut node, second + 1, second, &[&used]);
    }
    let used = order_at(&mut node, 122, 121, &[&append(121, b"z")]);
    assert!(matches!(answers(&used)[0].1, Some(Answer::Result(_))), "it was in use");
    // Whoever asks in it is told without the primary, which may not hear that client.
    let unused = answers(&node.ask(&append_in(2, SessionId(2), 1, b"y")));
    assert_eq!(unused, [(Tag::Ordered(SessionId(2), SlotIndex(0), 1), Some(Answer::NoSession))]);
    let early = append_in(2, SessionId(3), 1, b"y");
    assert_eq!(answers(&node.ask(&early)), [], "that session may still be opened");
}

#[test]
fn an_outage_ends_no_session() {
    let mut node = Node::new(1);
    order_at(&mut node, 1, 0, &[&open(1, 9)]);
    let outputs = order_at(&mut node, 2, 3600, &[&append(1, b"x")]);
    assert_eq!(answers(&outputs), [(tag(1), Some(result(b"x")))]);
}
