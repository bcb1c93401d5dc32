//! The outbox: nothing before what it depends on is durable, and all in order.

use bftfs_proto::Digest;
use bftfs_proto::engine::{Input, Outbox, Output, Record, Release, To};
use bftfs_proto::message::{Fetch, Message, Tag};
use bftfs_proto::replica::{Replica, Setup};
use bftfs_proto::types::{Lsn, ReplicaId, Seq, View};

use bftfs_state_memory::Memory;

use super::support::*;

fn send(number: u64, after: u64) -> Output {
    Output::Send { to: To::Replicas, message: Message::Ask(Tag::Open(number)), after: Lsn(after) }
}

fn record(view: u64) -> Output {
    Output::Append(Record::View(View(view)))
}

/// What is released, by name.
fn released(outbox: &mut Outbox) -> Vec<String> {
    let name = |release| match release {
        Release::Send(_, Message::Ask(Tag::Open(number))) => format!("send {number}"),
        Release::Send(_, message) => format!("{message:?}"),
        Release::Checkpoint(snapshots) => format!("checkpoint {}", snapshots.root.seq),
        Release::Truncate(seq) => format!("truncate {seq}"),
        Release::Serve(..) => "serve".into(),
    };
    outbox.release().into_iter().map(name).collect()
}

#[test]
fn a_message_leaves_when_its_record_is_durable_and_not_before() {
    let mut outbox = Outbox::default();
    [record(1), send(1, 1), record(2), send(2, 2), send(3, 1)].into_iter().for_each(|output| {
        outbox.push(output);
    });
    assert_eq!(released(&mut outbox), [""; 0]);
    assert_eq!(outbox.take_records(), (vec![Record::View(View(1)), Record::View(View(2))], Lsn(2)));
    assert_eq!(released(&mut outbox), [""; 0], "taken is not yet durable");
    outbox.durable(Lsn(1));
    assert_eq!(released(&mut outbox), ["send 1", "send 3"]);
    assert_eq!(released(&mut outbox), [""; 0], "once");
    outbox.durable(Lsn(2));
    assert_eq!(released(&mut outbox), ["send 2"]);
    assert_eq!((outbox.appended(), outbox.durable_to()), (Lsn(2), Lsn(2)));
}

#[test]
fn what_depends_on_nothing_leaves_at_once_and_in_order() {
    let mut outbox = Outbox::default();
    [record(1), send(1, 0), send(2, 1), send(3, 0)].into_iter().for_each(|o| outbox.push(o));
    outbox.push(Output::Serve(replica(2), id()));
    assert_eq!(released(&mut outbox), ["send 1", "send 3", "serve"]);
}

#[test]
fn truncation_waits_for_every_record_before_it() {
    let mut outbox = Outbox::default();
    [record(1), Output::Truncate(Seq(4)), record(2)].into_iter().for_each(|o| outbox.push(o));
    assert_eq!(released(&mut outbox), [""; 0]);
    outbox.durable(Lsn(1));
    assert_eq!(released(&mut outbox), ["truncate 4"]);
}

#[test]
fn a_checkpoint_and_a_claim_wait_for_every_record_before_them() {
    let setup = Setup {
        cluster: cluster(4),
        me: ReplicaId(1),
        signer: replica_signer(1),
        source: Memory::new(),
    };
    let mut backup = Replica::recover(setup, Appends, at(0), None, Vec::new()).expect("nothing");
    let (mut outbox, me) = (Outbox::default(), replica(1));
    let mut state = Digest::ZERO;
    let mut hear = |from, message: &Message| {
        backup.handle(at(0), Input::Message(from, verified(from, me, message)));
        while let Some(output) = backup.poll_output() {
            if let Output::Send { message: Message::Checkpoint(claim), .. } = &output {
                state = claim.state;
            }
            outbox.push(output);
        }
        state
    };
    for seq in 1..=K {
        let batch = batch(&[]);
        hear(replica(0), &pre_prepare(seq, &batch));
        hear(replica(2), &prepare(seq, &batch));
        hear(replica(2), &commit(seq, &batch));
        hear(replica(0), &commit(seq, &batch));
    }
    let state = hear(replica(2), &Message::Fetch(vec![Fetch::Block(id())]));
    for by in [2, 3] {
        hear(replica(by), &Message::Checkpoint(claim(by, K, state)));
    }
    assert_eq!(released(&mut outbox), ["serve"]);
    assert_eq!(outbox.appended(), Lsn(2 * K + 2), "Accepted and Prepared, Claimed, Stable");
    for (durable, count) in [(2 * K, 0), (2 * K + 1, 1), (2 * K + 2, 1)] {
        outbox.durable(Lsn(durable));
        let names = released(&mut outbox);
        let found = names.iter().filter(|name| name.contains("heckpoint")).count();
        assert_eq!(found, count, "the claim, then the checkpoint: {durable} {names:?}");
    }
}
