//! Damaged blocks of the own state: others bring them back, and nothing is guessed meanwhile.

use bftfs_proto::Digest;
use bftfs_proto::engine::{Input, Record, To};
use bftfs_proto::message::{Answer, Data, Fetch, Message, StateRoot, Tag};
use bftfs_proto::types::{Principal, Seq, SessionId, SlotIndex};
use bftfs_state::Source as _;
use bytes::Bytes;

use super::support::*;

/// Long enough to be a block of its own.
const LONG: &[u8] = &[b'x'; 600];

/// A replica at a checkpoint, whose text is in one block; that block, and its bytes.
fn with_a_block() -> (Node, Digest, Bytes) {
    let mut node = Node::new(1);
    node.order(1, &[&open(1, 9)]);
    node.order(2, &[&append(1, LONG)]);
    (3..=K).for_each(|seq| drop(node.order(seq, &[])));
    let block = node.replica.tree().entry(b"text").and_then(|text| text.away()).expect("sealed");
    let bytes = node.blocks.get(&block).expect("kept");
    (node, block, bytes)
}

/// The next block that it asks for, and of whom.
fn asked(node: &mut Node) -> Option<(Principal, Fetch)> {
    (0..3).find_map(|_| {
        node.tick().into_iter().find_map(|out| match out {
            Out::Send(To::One(to), Message::Fetch(wanted), _) => Some((to, *wanted.first()?)),
            _ => None,
        })
    })
}

#[test]
fn what_needs_a_damaged_block_waits_for_it_and_all_else_goes_on() {
    let (mut node, block, bytes) = with_a_block();
    node.blocks.damage(block);
    let batch = batch(&[&append(2, b"y")]);
    let seq = K + 1;
    let outputs = node.order_only(seq, &[&append(2, b"y")]);
    assert_eq!(answers(&outputs), [], "nothing is answered from what is not there");
    assert_eq!(node.replica.executed(), Seq(K));
    assert_eq!(node.replica.decided(Seq(seq)), Some(batch.digest(&id())), "it votes on");
    let (of, wanted) = asked(&mut node).expect("it asks");
    assert_eq!(wanted, Fetch::Block(block));

    let lie = Message::Data(Data::Block(block, Bytes::from_static(b"another")));
    node.refuses(of, &lie, "Hash");
    let (of, wanted) = asked(&mut node).filter(|(other, _)| *other != of).expect("of another");
    assert_eq!(wanted, Fetch::Block(block));
    let outputs = node.hear(of, &Message::Data(Data::Block(block, bytes.clone())));
    let text: Bytes = [LONG, b"y"].concat().into();
    let tag = Tag::Ordered(SessionId(1), SlotIndex(0), 2);
    assert_eq!(answers(&outputs), [(tag, Some(Answer::Result(text.clone())))]);
    assert_eq!((node.replica.executed(), node.text()), (Seq(seq), text.to_vec()));
    assert_eq!(node.blocks.get(&block), Some(bytes), "it is repaired for the next restart, too");
    assert_eq!((node.replica.status().lacking, node.replica.status().mended), (0, 1));
}

#[test]
fn a_fast_read_of_a_damaged_block_gets_no_answer_until_it_is_mended() {
    let (mut node, block, bytes) = with_a_block();
    node.blocks.damage(block);
    node.refuses(client(1), &read(1, GET), "Damaged");
    let (of, wanted) = asked(&mut node).expect("it asks");
    assert_eq!(wanted, Fetch::Block(block));
    node.hear(of, &Message::Data(Data::Block(block, bytes)));
    assert_eq!(answers(&node.hear(client(1), &read(2, GET))).len(), 1);
}

#[test]
fn damage_that_a_scrub_finds_is_mended_unasked_for() {
    let (mut node, block, bytes) = with_a_block();
    node.blocks.damage(block);
    node.input(Input::Damaged(block));
    let (of, _) = asked(&mut node).expect("it asks");
    node.hear(of, &Message::Data(Data::Block(block, bytes)));
    assert_eq!(node.blocks.mended(), 1);
}

#[test]
fn what_a_scrub_may_have_asked_for_is_bounded() {
    let (mut node, ..) = with_a_block();
    for n in 0..1000_u16 {
        let mut digest = Digest([7; 32]);
        digest.0[..2].copy_from_slice(&n.to_be_bytes());
        node.input(Input::Damaged(digest));
    }
    assert_eq!(node.replica.status().lacking, 32);
    assert_eq!(node.replica.sizes().wants, 32);
}

#[test]
fn unasked_blocks_are_refused() {
    let (mut node, block, bytes) = with_a_block();
    node.refuses(replica(2), &Message::Data(Data::Block(block, bytes)), "Unasked");
}

#[test]
fn a_block_that_nobody_has_is_given_up_unless_something_waits_for_it() {
    let (mut node, block, _) = with_a_block();
    node.input(Input::Damaged(block));
    (0..40).for_each(|_| drop(node.tick()));
    assert_eq!((node.replica.status().lacking, node.replica.sizes().wants), (0, 0));

    node.blocks.damage(block);
    node.order_only(K + 1, &[&append(2, b"y")]);
    (0..40).for_each(|_| drop(node.tick()));
    assert_eq!(node.replica.status().lacking, 1);
}

#[test]
fn what_was_lacking_is_asked_for_no_longer_when_a_fetched_state_takes_its_place() {
    let (mut node, ..) = with_a_block();
    let stable = |root: StateRoot| {
        let state = root.digest(&id());
        Data::Stable([0, 2, 3].map(|by| claim(by, root.seq.0, state)).into(), root)
    };
    let claimed = |record: &Record| match record {
        Record::Claimed(claim, _) => Some(claim.state),
        _ => None,
    };
    let state = node.records.iter().find_map(claimed).expect("it signed for its checkpoint");
    for by in [2, 3] {
        node.hear(replica(by), &Message::Checkpoint(claim(by, K, state)));
    }
    let root = |record: &Record| match record {
        Record::Stable(_, root) => Some(*root),
        _ => None,
    };
    let root = node.records.iter().find_map(root).expect("it is stable");

    node.input(Input::Damaged(Digest([7; 32])));
    // The same trees under a later number: nothing has to be fetched but that they are stable.
    let later = Message::Data(stable(StateRoot { seq: Seq(2 * K), ..root }));
    for _ in 0..4 {
        node.hear(replica(2), &later);
        node.tick();
    }
    assert_eq!((node.replica.executed(), node.replica.status().lacking), (Seq(2 * K), 0));
    (0..40).for_each(|_| drop(node.tick()));
    assert_eq!(node.replica.sizes().wants, 0);
}
