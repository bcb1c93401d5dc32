//! Suspicion, VIEW-CHANGE, NEW-VIEW, and what a new view begins with.

use bftfs_proto::Digest;
use bftfs_proto::auth::Signature;
use bftfs_proto::config::{TIME_BOUND_NANOS, VIEW_MAX, VIEW_TIMEOUT_NANOS};
use bftfs_proto::engine::Record;
use bftfs_proto::message::{
    Batch, Checkpoint, Data, Fetch, Message, NewView, PrePrepare, Status, ViewChange, Vote,
};
use bftfs_proto::replica::{Choice, choose};
use bftfs_proto::types::{ReplicaId, Seq, View, Wall};

use super::support::*;

fn status(view: u64, active: bool, suspects: bool) -> Message {
    let (view, stable, executed) = (View(view), Seq(0), Seq(0));
    Message::Status(Status {
        view,
        active,
        suspects,
        awaits: None,
        stable,
        executed,
        slots: vec![],
    })
}

fn testimony(view: u64, seq: u64, digest: Digest) -> Vote {
    Vote { view: View(view), seq: Seq(seq), digest }
}

/// A view-change by `replica`, with its P and Q.
fn change(replica: u32, view: u64, prepared: &[Vote], accepted: &[Vote]) -> ViewChange {
    let change = ViewChange {
        replica: ReplicaId(replica),
        view: View(view),
        stable: Seq(0),
        certificate: vec![],
        prepared: prepared.to_vec(),
        accepted: accepted.to_vec(),
        signature: Signature::NONE,
    };
    change.sign(&id(), &replica_signer(replica))
}

fn new_view(view: u64, changes: Vec<ViewChange>, chosen: Vec<Digest>) -> NewView {
    let view = View(view);
    let new_view = NewView { view, changes, stable: Seq(0), chosen, signature: Signature::NONE };
    let primary = u32::try_from(view.0 % 4).expect("one of four");
    new_view.sign(&id(), &replica_signer(primary))
}

/// The view-changes and views among `outputs`.
fn said(outputs: &[Out]) -> Vec<String> {
    let word = |out: &Out| match out {
        Out::Append(Record::View(view)) => Some(format!("promises {view:?}")),
        Out::Append(Record::NewView(new_view)) => Some(format!("begins {:?}", new_view.view)),
        Out::Send(_, Message::ViewChange(change), after) => {
            Some(format!("leaves for {:?} after {after:?}", change.view))
        }
        Out::Send(_, Message::NewView(new_view), after) => {
            Some(format!("announces {:?} after {after:?}", new_view.view))
        }
        Out::Send(_, Message::Status(status), _) if status.suspects => Some("suspects".into()),
        _ => None,
    };
    outputs.iter().filter_map(word).collect()
}

/// Backup 1 with a request that nobody orders, at the time that its patience ends.
fn impatient() -> (Node, Vec<Out>) {
    let mut node = Node::new(1);
    node.ask(&open(1, 9));
    let mut outputs = Vec::new();
    while node.now.mono.0 < VIEW_TIMEOUT_NANOS {
        outputs = node.tick();
    }
    (node, outputs)
}

fn null() -> Digest {
    Batch::null().digest(&id())
}

#[test]
fn whoever_waits_too_long_suspects_the_primary_and_goes_on_all_the_same() {
    let (mut node, outputs) = impatient();
    assert_eq!(said(&outputs), ["suspects"]);
    assert_eq!(node.now.mono.0, VIEW_TIMEOUT_NANOS);
    let batch = batch(&[&open(1, 9)]);
    assert_eq!(node.hear(replica(0), &pre_prepare(1, &batch)).len(), 2, "it still prepares");
}

#[test]
fn one_suspicion_moves_nobody_and_w_do() {
    let mut node = Node::new(2);
    assert_eq!(said(&node.hear(replica(1), &status(0, true, true))), [""; 0]);
    assert_eq!(said(&node.hear(replica(1), &status(0, true, true))), [""; 0], "still one");
    assert_eq!(
        said(&node.hear(replica(3), &status(0, true, true))),
        ["promises v1", "leaves for v1 after lsn 1"],
        "the promise is durable first"
    );
}

#[test]
fn a_new_view_that_follows_its_primarys_view_change_at_once_is_not_refused_for_that() {
    let mut node = Node::new(2);
    let changes: Vec<ViewChange> = [0, 1, 3].map(|by| change(by, 1, &[], &[])).into();
    node.hear(replica(1), &Message::ViewChange(changes[1].clone()));
    let outputs = node.hear(replica(1), &Message::NewView(new_view(1, changes, vec![])));
    assert_eq!(said(&outputs), ["begins v1"]);
}

#[test]
fn a_suspicion_can_be_taken_back() {
    let mut node = Node::new(2);
    node.hear(replica(1), &status(0, true, true));
    node.hear(replica(1), &status(0, true, false));
    assert_eq!(said(&node.hear(replica(3), &status(0, true, true))), [""; 0]);
}

#[test]
fn a_request_with_a_bad_signature_deposes_nobody() {
    let (mut node, mut request) = (Node::new(1), open(1, 9));
    request.signature = open(1, 10).signature;
    node.ask(&request);
    for _ in 0..20 {
        assert_eq!(said(&node.tick()), [""; 0]);
    }
    assert_eq!(node.rejects(), [("Signature".into(), 1)]);
}

#[test]
fn a_request_that_its_slot_has_passed_is_not_waited_for() {
    let mut node = Node::new(1);
    node.run_to(3);
    node.ask(&append(1, b"another"));
    assert_eq!(node.replica.status().waiting, 1);
    while node.now.mono.0 < 2 * VIEW_TIMEOUT_NANOS {
        assert_eq!(said(&node.tick()), [""; 0]);
    }
    assert_eq!(node.replica.status().waiting, 0);
}

#[test]
fn a_request_that_waits_is_shown_to_the_primary() {
    let mut node = Node::new(1);
    node.ask(&open(1, 9));
    let relayed =
        |out: &Out| *out == to_one(replica(0), Message::Data(Data::Request(open(1, 9))), 0);
    let outputs: Vec<Out> = (0..4).flat_map(|_| node.tick()).collect();
    assert!(outputs.iter().any(relayed), "{outputs:?}");
    let mut primary = Node::new(0);
    let out = primary.hear(replica(1), &Message::Data(Data::Request(open(1, 9))));
    assert_eq!(out.len(), 2, "it is ordered");
}

/// What a backup shows its primary, unasked.
fn shown(outputs: &[Out]) -> usize {
    let is_body = |out: &&Out| matches!(out, Out::Send(_, Message::Data(Data::Request(_)), _));
    outputs.iter().filter(is_body).count()
}

#[test]
fn a_client_that_the_primary_overlooks_is_shown_to_it_at_once_from_then_on() {
    let mut node = Node::new(1);
    assert_eq!(shown(&node.ask(&open(1, 9))), 0, "the primary gets it from the client");
    let late: usize = (0..4).map(|_| shown(&node.tick())).sum();
    assert!(late > 0, "it has waited");
    assert_eq!(shown(&node.ask(&open(1, 10))), 1, "the next one need not");
    assert_eq!(shown(&node.ask(&open(2, 9))), 0, "others are heard, as far as anybody knows");
    let mut forged = open(1, 11);
    forged.signature = open(1, 12).signature;
    assert_eq!(shown(&node.ask(&forged)), 0, "nothing is shown that the client did not sign");
}

#[test]
fn a_client_that_waits_because_the_pipeline_is_full_is_not_overlooked() {
    let mut node = Node::new(1);
    for (seq, nonce) in (1..).zip(9..13) {
        let request = open(2, nonce);
        node.ask(&request);
        node.hear(replica(0), &pre_prepare(seq, &batch(&[&request])));
    }
    node.ask(&open(1, 9));
    let late: usize = (0..4).map(|_| shown(&node.tick())).sum();
    assert!(late > 0, "it has waited");
    assert_eq!(shown(&node.ask(&open(1, 10))), 0);
}

/// A node whose primary lets each request of a client wait, though nothing else is to be done; and
/// whether it comes to suspect the primary.
fn suspects_after_waits_of(wait: u64) -> bool {
    let mut node = Node::new(1);
    node.now = at(3_000_000_000);
    (1..60).any(|seq| {
        let request = open(1, seq);
        node.ask(&request);
        let until = node.now.mono.0 + wait;
        while node.replica.poll_timeout().is_some_and(|due| due.0 < until) {
            if said(&node.tick()).contains(&"suspects".into()) {
                return true;
            }
        }
        node.now = at(until);
        node.order_on(seq, &[&request]);
        false
    })
}

#[test]
fn a_primary_that_lets_requests_lie_for_less_than_the_timeout_is_suspected() {
    assert!(suspects_after_waits_of(50_000_000));
    assert!(!suspects_after_waits_of(5_000_000));
}

#[test]
fn relayed_requests_are_refused_after_a_few_forged_ones() {
    let mut primary = Node::new(0);
    for nonce in 10..40 {
        let mut forged = open(1, nonce);
        forged.signature = open(1, nonce + 1).signature;
        primary.hear(replica(1), &Message::Data(Data::Request(forged)));
    }
    assert_eq!(primary.rejects(), [("Quota".into(), 14), ("Signature".into(), 16)]);
    for nonce in 10..40 {
        primary.hear(replica(2), &Message::Data(Data::Request(open(1, nonce))));
    }
    assert_eq!(primary.rejects()[0], ("Quota".into(), 14), "any number of good ones is taken");
}

#[test]
fn a_primary_that_proposes_impossible_times_is_suspected_at_once_and_for_a_while() {
    let mut node = Node::new(1);
    let mut bad = batch(&[]);
    bad.time = Wall(node.now.wall.0 + TIME_BOUND_NANOS + 1);
    assert_eq!(said(&node.hear(replica(0), &pre_prepare(1, &bad))), ["suspects"]);
    let later = node.now.mono.0 + 1_500_000_000;
    let mut suspects = true;
    while node.now.mono.0 < later {
        suspects = node
            .tick()
            .iter()
            .any(|out| matches!(out, Out::Send(_, Message::Status(status), _) if status.suspects));
    }
    assert!(!suspects, "it may have been this replica's clock");
}

#[test]
fn a_relayed_request_takes_the_place_of_one_with_a_bad_signature() {
    let (mut primary, good) = (Node::new(0), open(1, 9));
    // The pipeline is full, so that what its client sends has to wait.
    (10..14).for_each(|nonce| assert_eq!(primary.ask(&open(2, nonce)).len(), 2));
    let mut bad = good.clone();
    bad.signature = open(1, 10).signature;
    assert_eq!(primary.ask(&bad), []);
    primary.hear(replica(1), &Message::Data(Data::Request(good.clone())));
    let fetched =
        primary.hear(replica(2), &Message::Fetch(vec![Fetch::Request(good.digest(&id()))]));
    let data = Message::Data(Data::Request(good));
    assert_eq!(fetched, [to_one(replica(2), data, 4)]);
}

#[test]
fn view_changes_of_w_replicas_are_joined_at_the_lower_view() {
    let mut node = Node::new(2);
    let far = Message::ViewChange(change(1, 1 << 60, &[], &[]));
    assert_eq!(said(&node.hear(replica(1), &far)), [""; 0], "one alone drags nobody");
    let near = Message::ViewChange(change(3, 5, &[], &[]));
    assert_eq!(
        said(&node.hear(replica(3), &near)),
        ["promises v5", "leaves for v5 after lsn 1"],
        "as far as one correct replica has gone"
    );
}

#[test]
fn the_primary_begins_its_view_with_a_quorum() {
    let mut node = Node::new(1);
    node.hear(replica(2), &Message::ViewChange(change(2, 1, &[], &[])));
    let outputs = node.hear(replica(3), &Message::ViewChange(change(3, 1, &[], &[])));
    let expected =
        ["promises v1", "leaves for v1 after lsn 1", "begins v1", "announces v1 after lsn 2"];
    assert_eq!(said(&outputs), expected);
    assert!(node.replica.status().active);
    let outputs = node.ask(&open(1, 9));
    let proposes = |out: &Out| matches!(out, Out::Send(_, Message::PrePrepare(p), _) if (p.view, p.seq) == (View(1), Seq(1)));
    assert!(outputs.iter().any(proposes), "{outputs:?}");
}

#[test]
fn the_primary_holds_and_keeps_what_was_chosen_before_it_begins_its_view() {
    let (mut node, request) = (Node::new(1), open(1, 9));
    let first = batch(&[&request]);
    let votes = [testimony(0, 1, first.digest(&id()))];
    node.hear(replica(2), &Message::ViewChange(change(2, 1, &votes, &votes)));
    let outputs = node.hear(replica(3), &Message::ViewChange(change(3, 1, &[], &votes)));
    assert_eq!(said(&outputs), ["promises v1", "leaves for v1 after lsn 1"], "nor less nor more");
    node.tick();
    assert_eq!(said(&node.hear(replica(3), &Message::Data(Data::Batch(first)))), [""; 0]);
    node.tick();
    let outputs = node.hear(replica(3), &Message::Data(Data::Request(request)));
    assert_eq!(said(&outputs), ["begins v1", "announces v1 after lsn 3"]);
    assert!(matches!(node.records.last(), Some(Record::Accepted { view: View(1), .. })));
}

#[test]
fn what_was_accepted_before_is_accepted_again_without_its_bodies() {
    let (mut node, request) = (Node::new(2), open(1, 9));
    let first = batch(&[&request]);
    let digest = first.digest(&id());
    node.ask(&request);
    node.hear(replica(0), &pre_prepare(1, &first));
    node.hear(replica(1), &prepare(1, &first));
    let mine = [testimony(0, 1, digest)];
    let changes = [0, 1, 3].map(|i| change(i, 1, &mine, &mine)).to_vec();
    let outputs = node.hear(replica(1), &Message::NewView(new_view(1, changes, vec![digest])));
    assert_eq!(said(&outputs), ["begins v1"]);
    let again = testimony(1, 1, digest);
    assert_eq!(
        outputs[1..3],
        [Out::Append(Record::Reaccepted(again)), to_all(Message::Prepare(again), 4),]
    );
    let (node, _) = node.restart();
    assert_eq!(node.replica.status().view, 1);
    assert!(node.replica.status().active, "it goes on in the view that had begun");
}

#[test]
fn a_view_that_was_only_promised_is_resumed_as_such() {
    let mut node = Node::new(2);
    node.hear(replica(1), &status(0, true, true));
    node.hear(replica(3), &status(0, true, true));
    let (mut node, outputs) = node.restart();
    assert_eq!(said(&outputs), ["leaves for v1 after lsn 0"]);
    assert!(!node.replica.status().active);
    let batch = batch(&[]);
    node.refuses(replica(0), &pre_prepare(1, &batch), "View");
    node.refuses(replica(0), &commit(1, &batch), "View");
}

#[test]
fn batches_of_the_new_view_that_are_not_here_are_fetched() {
    let (mut node, request) = (Node::new(2), open(1, 9));
    let first = batch(&[&request]);
    let digest = first.digest(&id());
    let votes = [testimony(0, 1, digest)];
    let changes = [0, 1, 3].map(|i| change(i, 1, &votes, &votes)).to_vec();
    node.hear(replica(1), &Message::NewView(new_view(1, changes, vec![digest])));
    node.tick();
    assert_eq!(node.hear(replica(3), &Message::Data(Data::Batch(first.clone()))), []);
    node.tick();
    let outputs = node.hear(replica(3), &Message::Data(Data::Request(request)));
    let prepares = to_all(Message::Prepare(testimony(1, 1, digest)), 2);
    assert!(outputs.contains(&prepares), "{outputs:?}");
}

#[test]
fn a_second_proposal_for_what_the_view_chose_conflicts() {
    let mut node = Node::new(2);
    let chosen = batch(&[&open(1, 9)]).digest(&id());
    let votes = [testimony(0, 1, chosen)];
    let changes = [0, 1, 3].map(|i| change(i, 1, &votes, &votes)).to_vec();
    node.hear(replica(1), &Message::NewView(new_view(1, changes, vec![chosen])));
    let other = PrePrepare { view: View(1), seq: Seq(1), batch: batch(&[]) };
    node.refuses(replica(1), &Message::PrePrepare(other), "Conflict");
}

#[test]
fn new_views_that_do_not_follow_are_refused_and_their_primary_suspected() {
    let digest = batch(&[&open(1, 9)]).digest(&id());
    let votes = [testimony(0, 1, digest)];
    let of = |ids: [u32; 3]| ids.map(|i| change(i, 1, &votes, &votes)).to_vec();
    let mixed = vec![change(0, 1, &[], &[]), change(1, 1, &[], &[]), change(3, 2, &[], &[])];
    let bad = [
        ("what was prepared is left out", new_view(1, of([0, 1, 3]), vec![])),
        ("something else is chosen", new_view(1, of([0, 1, 3]), vec![null()])),
        ("there is more than follows", new_view(1, of([0, 1, 3]), vec![digest, digest])),
        ("one sender twice", new_view(1, of([0, 1, 1]), vec![digest])),
        ("too few", new_view(1, of([0, 1, 3])[..2].to_vec(), vec![digest])),
        ("of different views", new_view(1, mixed, vec![])),
    ];
    for (what, new_view) in bad {
        let mut node = Node::new(2);
        node.hear(replica(0), &status(0, true, true));
        node.hear(replica(3), &status(0, true, true));
        assert!(!node.replica.status().active, "{what}");
        let outputs = node.hear(replica(1), &Message::NewView(new_view));
        assert_eq!(said(&outputs), ["suspects"], "{what}");
        assert_eq!(node.rejects(), [("Choice".into(), 1)], "{what}");
    }
}

#[test]
fn a_new_view_of_another_than_its_primary_is_refused() {
    let changes = [0, 1, 3].map(|i| change(i, 1, &[], &[])).to_vec();
    let mut forged = new_view(1, changes, vec![]);
    forged = forged.sign(&id(), &replica_signer(3));
    Node::new(2).refuses(replica(3), &Message::NewView(forged), "Signature");
}

#[test]
fn testimony_that_contradicts_itself_is_refused() {
    let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
    let stable = |seq: u64, certificate: Vec<Checkpoint>| {
        let mut change = change(3, 1, &[], &[]);
        (change.stable, change.certificate) = (Seq(seq), certificate);
        change.sign(&id(), &replica_signer(3))
    };
    let claims = |ids: [u32; 3]| ids.map(|i| claim(i, K, a)).to_vec();
    let bad = [
        ("P twice", change(3, 1, &[testimony(0, 1, a), testimony(0, 1, b)], &[])),
        ("Q twice", change(3, 1, &[], &[testimony(0, 1, a), testimony(0, 1, a)])),
        ("for a view that nobody can reach", change(3, VIEW_MAX.0 + 1, &[], &[])),
        ("of the view itself", change(3, 1, &[testimony(1, 1, a)], &[])),
        ("at its checkpoint", change(3, 1, &[testimony(0, 0, a)], &[])),
        ("above its window", change(3, 1, &[], &[testimony(0, L + 1, a)])),
        ("no proof", stable(K, vec![])),
        ("proof of another", stable(2 * K, claims([0, 1, 2]))),
        ("proof by one", stable(K, claims([1, 1, 1]))),
    ];
    for (what, change) in bad {
        let mut node = Node::new(2);
        node.hear(replica(3), &Message::ViewChange(change));
        assert_eq!(node.rejects(), [("Testimony".into(), 1)], "{what}");
    }
    let good = Message::ViewChange(stable(K, claims([0, 1, 2])));
    let mut node = Node::new(2);
    node.hear(replica(3), &good);
    assert_eq!(node.rejects(), []);
}

#[test]
fn a_flood_of_view_changes_is_looked_at_slowly() {
    let mut node = Node::new(2);
    for view in 1..10 {
        node.hear(replica(3), &Message::ViewChange(change(3, view, &[], &[])));
    }
    assert_eq!(node.rejects(), [("Quota".into(), 8)]);
}

#[test]
fn w_prepares_stand_for_a_pre_prepare_that_did_not_come() {
    let (mut node, request) = (Node::new(1), open(1, 9));
    let batch = batch(&[&request]);
    node.ask(&request);
    assert_eq!(node.hear(replica(2), &prepare(1, &batch)), []);
    assert_eq!(node.hear(replica(3), &prepare(1, &batch)), [], "the batch is asked for");
    let outputs = node.hear(replica(3), &Message::Data(Data::Batch(batch.clone())));
    assert!(outputs.contains(&to_all(prepare(1, &batch), 1)), "{outputs:?}");
}

/// What follows from these view-changes of replicas 0 to 3.
fn chosen(changes: &[ViewChange]) -> Option<Vec<&'static str>> {
    let name = |digest: &Digest| match digest {
        d if *d == Digest::of(b"a") => "a",
        d if *d == Digest::of(b"b") => "b",
        d if *d == null() => "null",
        _ => "?",
    };
    let Choice { stable, chosen } = choose(&cluster(4), changes)?;
    assert_eq!(stable, Seq(0));
    Some(chosen.iter().map(name).collect())
}

#[test]
fn the_choice_follows_the_votes() {
    let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
    let p = |view, seq, digest| testimony(view, seq, digest);
    let none = |i| change(i, 9, &[], &[]);
    let prepared = |i, view, d| change(i, 9, &[p(view, 1, d)], &[p(view, 1, d)]);
    let accepted = |i, view, d| change(i, 9, &[], &[p(view, 1, d)]);
    let cases = [
        ("too few", vec![none(0), none(1)], None),
        ("nothing happened", vec![none(0), none(1), none(2)], Some(vec![])),
        ("committed", vec![prepared(0, 1, a), prepared(1, 1, a), none(2)], Some(vec!["a"])),
        ("prepared once", vec![prepared(0, 1, a), accepted(1, 1, a), none(2)], Some(vec!["a"])),
        // B cannot hold and nobody else accepted it: a liar, or three more are to be heard.
        ("invented", vec![prepared(0, 8, b), none(1), none(2)], None),
        ("invented, all heard", vec![prepared(0, 8, b), none(1), none(2), none(3)], Some(vec![])),
        (
            "the later view wins",
            vec![prepared(0, 1, a), prepared(1, 3, b), accepted(2, 3, b)],
            Some(vec!["b"]),
        ),
        (
            "a lie does not mask what was committed",
            vec![prepared(0, 8, b), prepared(1, 1, a), prepared(2, 1, a), prepared(3, 1, a)],
            Some(vec!["a"]),
        ),
        (
            "accepted again later counts as accepted",
            vec![prepared(0, 2, a), accepted(1, 5, a), none(2)],
            Some(vec!["a"]),
        ),
        (
            "accepted only earlier does not",
            vec![prepared(0, 2, a), accepted(1, 1, a), none(2)],
            None,
        ),
    ];
    for (what, changes, expected) in cases {
        assert_eq!(chosen(&changes), expected, "{what}");
    }
}

#[test]
fn gaps_are_filled_with_null_batches() {
    let a = Digest::of(b"a");
    let votes = [testimony(0, 3, a)];
    let changes = [0, 1, 2].map(|i| change(i, 1, &votes, &votes));
    assert_eq!(chosen(&changes), Some(vec!["null", "null", "a"]));
}
