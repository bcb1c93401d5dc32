//! A replica that lost its disk listens before it votes.

use bftfs_proto::engine::{Input, Record};
use bftfs_proto::message::{Decided, Message, Status};
use bftfs_proto::replica::Recovery;
use bftfs_proto::types::{Seq, View};

use super::support::*;

fn status(view: u64, stable: u64, awaits: Option<u64>) -> Message {
    Message::Status(Status {
        view: View(view),
        active: true,
        suspects: false,
        awaits: awaits.map(Seq),
        stable: Seq(stable),
        executed: Seq(stable),
        slots: vec![],
    })
}

fn listener() -> Node {
    Node::with_journal(2, 4, vec![Record::Recovery(Recovery::Begun)]).0
}

fn until(outputs: &[Out]) -> Option<(Seq, View)> {
    outputs.iter().find_map(|out| match out {
        Out::Append(Record::Recovery(Recovery::Until(seq, view))) => Some((*seq, *view)),
        _ => None,
    })
}

#[test]
fn it_neither_prepares_nor_suspects_and_executes_what_others_decided() {
    let (mut node, request) = (listener(), open(1, 9));
    let batch = batch(&[&request]);
    node.ask(&request);
    assert_eq!(node.hear(replica(0), &pre_prepare(1, &batch)), []);
    assert_eq!(node.hear(replica(1), &prepare(1, &batch)), []);
    assert_eq!(node.hear(replica(3), &prepare(1, &batch)), []);
    for _ in 0..20 {
        node.tick();
    }
    assert!(!node.replica.status().suspects);
    let decided = Message::Decided(Decided { batches: vec![(Seq(1), batch.digest(&id()))] });
    node.hear(replica(1), &decided);
    let outputs = node.hear(replica(3), &decided);
    assert_eq!(answers(&outputs).len(), 1, "it answers what it executed");
    node.refuses(client(1), &read(1, GET), "Stale");
}

#[test]
fn its_bounds_follow_from_the_proven_words_of_all_but_f() {
    let mut node = listener();
    assert_eq!(until(&node.hear(replica(0), &status(0, 0, None))), None);
    assert_eq!(until(&node.hear(replica(0), &status(0, 0, None))), None, "one voice each");
    assert_eq!(until(&node.hear(replica(1), &status(1 << 60, 0, None))), None, "no proof");
    assert_eq!(until(&node.hear(replica(1), &status(0, 1 << 60, None))), None, "no proof");
    assert_eq!(until(&node.hear(replica(1), &status(0, 0, None))), None);
    let bounds = until(&node.hear(replica(3), &status(1, 0, None)));
    assert_eq!(bounds, Some((Seq(2 * L), View(3))));
    let (node, _) = node.restart();
    assert_eq!(node.replica.status().listening, Some(Some((2 * L, 3))), "it stays so");
}

#[test]
fn a_crash_does_not_wake_it() {
    let (mut node, _) = listener().restart();
    assert_eq!(node.replica.status().listening, Some(None));
    assert_eq!(node.hear(replica(0), &pre_prepare(1, &batch(&[]))), []);
}

#[test]
fn others_go_on_with_nothing_while_it_needs_that() {
    let mut primary = Node::new(0);
    primary.hear(replica(2), &status(0, 0, Some(2 * L)));
    let proposes = |out: &Out| matches!(out, Out::Send(_, Message::PrePrepare(_), _));
    let outputs: Vec<Out> = (0..3).flat_map(|_| primary.tick()).collect();
    assert!(outputs.iter().any(proposes), "{outputs:?}");
    let mut primary = Node::new(0);
    primary.hear(replica(2), &status(0, 0, Some(1 << 60)));
    let outputs: Vec<Out> = (0..3).flat_map(|_| primary.tick()).collect();
    assert!(!outputs.iter().any(proposes), "not for ever: {outputs:?}");
}

#[test]
fn an_operator_can_have_the_view_changed_but_only_on_w_replicas() {
    let mut node = Node::new(1);
    let outputs = node.input(Input::Rotate);
    assert!(node.replica.status().suspects, "{outputs:?}");
    assert_eq!(node.replica.status().view, 0);
    let suspects = Status {
        view: View(0),
        active: true,
        suspects: true,
        awaits: None,
        stable: Seq(0),
        executed: Seq(0),
        slots: vec![],
    };
    node.hear(replica(3), &Message::Status(suspects));
    assert_eq!(node.replica.status().view, 1);
}
