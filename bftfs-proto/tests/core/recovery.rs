//! Beginning again from the journal: no vote is forgotten and none is revised.

use bftfs_proto::Digest;
use bftfs_proto::engine::Record;
use bftfs_proto::message::{Batch, Data, Decided, Message, StateRoot, Status, Tag, Vote};
use bftfs_proto::replica::{Replica, Setup};
use bftfs_proto::types::{ReplicaId, Seq, SessionId, SlotIndex, View, Wall};

use bftfs_state_memory::Memory;

use super::support::*;

fn status() -> Message {
    let (view, stable, executed) = (View(0), Seq(0), Seq(0));
    Message::Status(Status {
        view,
        active: true,
        suspects: false,
        awaits: None,
        stable,
        executed,
        slots: vec![],
    })
}

#[test]
fn another_proposal_for_a_number_voted_on_before_the_crash_gets_no_prepare() {
    let (mut node, request) = (Node::new(1), open(1, 9));
    let first = batch(&[&request]);
    node.ask(&request);
    assert_eq!(node.hear(replica(0), &pre_prepare(1, &first)).len(), 2);
    let (mut node, said) = node.restart();
    assert_eq!(said, []);
    node.refuses(replica(0), &pre_prepare(1, &batch(&[])), "Conflict");
    node.refuses(replica(0), &pre_prepare(1, &first), "Stale");
    assert_eq!(
        node.hear(replica(2), &status()),
        [to_one(replica(2), prepare(1, &first), 0)],
        "the vote itself is not lost"
    );
    assert_eq!(
        node.hear(replica(3), &prepare(1, &first)),
        [prepared(1, &first), to_all(commit(1, &first), 1)],
        "and the bodies are here"
    );
}

#[test]
fn a_commit_is_said_again_and_not_anew() {
    let (mut node, request) = (Node::new(1), open(1, 9));
    let first = batch(&[&request]);
    node.ask(&request);
    node.hear(replica(0), &pre_prepare(1, &first));
    assert_eq!(node.hear(replica(2), &prepare(1, &first)).len(), 2);
    let (mut node, said) = node.restart();
    assert_eq!(said, []);
    assert_eq!(node.hear(replica(3), &prepare(1, &first)), [], "no second record");
    assert_eq!(
        node.hear(replica(2), &status()),
        [to_one(replica(2), prepare(1, &first), 0), to_one(replica(2), commit(1, &first), 0),]
    );
}

#[test]
fn a_primary_proposes_no_number_twice() {
    let (mut node, first, second) = (Node::new(0), open(1, 9), open(1, 10));
    assert_eq!(node.ask(&first).len(), 2);
    let (mut node, said) = node.restart();
    assert_eq!(said, []);
    assert_eq!(node.ask(&first), []);
    let batch = batch(&[&second]);
    assert_eq!(
        node.ask(&second),
        [accepted(2, &batch, &[&second]), to_all(pre_prepare(2, &batch), 1)]
    );
}

#[test]
fn no_read_is_answered_before_all_that_was_prepared_is_executed_again() {
    let mut node = Node::new(1);
    node.run_to(3);
    let state = node.replica.digest_from_scratch();
    let (mut node, said) = node.restart();
    assert_eq!((said, node.replica.executed()), (vec![], Seq(0)));
    let batches = [batch(&[&open(1, 9)]), batch(&[&append(1, b"x")]), batch(&[&append(2, b"x")])];
    for (seq, batch) in (1..).zip(&batches) {
        node.refuses(client(1), &read(seq, GET), "Stale");
        node.hear(replica(2), &commit(seq, batch));
        assert_eq!(node.hear(replica(0), &commit(seq, batch)).len(), 1, "its answer");
    }
    assert_eq!(node.replica.digest_from_scratch(), state);
    let answer = reply(Tag::Read(SessionId(1), 9), result(b"xx"));
    assert_eq!(node.hear(client(1), &read(9, GET)), [to_one(client(1), answer, 0)]);
}

#[test]
fn what_a_replica_signed_for_it_executes_again_by_itself() {
    // A new view may begin from a quorum's claims: nobody votes again on what lies below.
    let mut node = Node::new(1);
    node.run_to(K + 1);
    let (node, _) = node.restart();
    assert_eq!(node.replica.executed(), Seq(K));
}

#[test]
fn what_a_fetched_state_skipped_is_not_taken_for_decided() {
    // It fetched the state at K, went on and signed for one, and lost the fetched state.
    let mut node = Node::new(1);
    node.run_to(K + 1);
    let later = |record: Record| match record {
        Record::Claimed(claim, _) => Record::Claimed(claim, Seq(K)),
        other => other,
    };
    let records = node.records.into_iter().map(later).collect();
    let (node, _) = Node::with_journal(1, 4, records);
    assert_eq!(node.replica.executed(), Seq(0), "others have to say what was decided");
}

#[test]
fn a_lost_superblock_leaves_votes_below_the_stable_checkpoint_without_their_batches() {
    // The journal was cut to the checkpoint that the superblock spoke of, but segment by segment.
    let (time, sessions, service) = (Wall(EPOCH), Digest::ZERO, Digest::ZERO);
    let root = StateRoot { seq: Seq(K), time, sessions, service };
    let claims = (0..3).map(|by| claim(by, K, root.digest(&id()))).collect();
    let left = Record::Reaccepted(vote(2, &batch(&[])));
    let (node, _) = Node::with_journal(1, 4, vec![left, Record::Stable(claims, root)]);
    assert_eq!(node.replica.executed(), Seq(0), "it is to fetch the state");
}

#[test]
fn whoever_lost_its_state_does_not_vote_where_its_votes_are_forgotten() {
    let state = Digest([7; 32]);
    let certificate = [0, 2, 3].map(|by| claim(by, 2 * K, state)).to_vec();
    let (seq, time, sessions, service) = (Seq(2 * K), Wall(0), Digest::ZERO, Digest::ZERO);
    let root = StateRoot { seq, time, sessions, service };
    let journal = vec![Record::Stable(certificate.clone(), root)];
    let (mut backup, _) = Node::with_journal(1, 4, journal.clone());
    for seq in [1, K, 2 * K] {
        let outputs = backup.hear(replica(0), &pre_prepare(seq, &batch(&[])));
        assert_eq!(outputs, [], "it may have voted otherwise for {seq}");
    }
    let (mut primary, _) = Node::with_journal(0, 4, journal);
    let outputs = primary.ask(&open(1, 9));
    let proposed = |out: &Out| matches!(out, Out::Send(_, Message::PrePrepare(_), _));
    assert!(!outputs.iter().any(proposed), "nor proposes there");
}

#[test]
fn a_journal_that_contradicts_itself_makes_no_replica() {
    let (one, other) = (batch(&[]), Batch { time: Wall(EPOCH + 7), ..batch(&[]) });
    let vote = |view, batch: &Batch| {
        let (view, batch) = (View(view), batch.clone());
        Record::Accepted { view, seq: Seq(1), batch, requests: vec![] }
    };
    let refused = |records: &[Record]| {
        let source = Memory::new();
        let setup =
            Setup { cluster: cluster(4), me: ReplicaId(1), signer: replica_signer(1), source };
        let replica = Replica::recover(setup, Appends, at(0), None, records.to_vec());
        replica.err().map(|contradiction| contradiction.to_string())
    };
    let unknown = "the journal contradicts itself: it has votes in a view that it does not know";
    assert_eq!(refused(&[vote(2, &one)]), Some(unknown.to_owned()));
    assert_eq!(refused(&[Record::View(View(2)), vote(2, &one)]), None);
    let lacking = "the journal contradicts itself: it lacks a batch that it votes for";
    let again = Vote { view: View(0), seq: Seq(1), digest: other.digest(&id()) };
    assert_eq!(refused(&[vote(0, &one), Record::Reaccepted(again)]), Some(lacking.to_owned()));
}

#[test]
fn a_cluster_of_one_executes_at_once_and_again_after_a_crash() {
    let mut node = Node::of(0, 1);
    let opened = node.ask(&open(1, 9));
    assert_eq!(answers(&opened).len(), 1);
    let last = node.ask(&append(1, b"x"));
    assert_eq!(last.last(), Some(&to_one(client(1), answer_x(), 4)));
    let (mut again, _) = Node::with_journal(0, 1, node.records);
    assert_eq!((again.replica.executed(), again.text()), (Seq(2), b"x".to_vec()));
    assert_eq!(answers(&again.ask(&append(1, b"x"))).len(), 1, "and has kept the answer");
    assert_eq!(again.text(), b"x");
}

#[test]
fn a_cluster_of_one_executes_all_of_its_journal_however_long() {
    let mut node = Node::of(0, 1);
    node.ask(&open(1, 9));
    let last = 6 * K;
    (1..last).for_each(|number| drop(node.ask(&append(number, b"x"))));
    assert_eq!(node.replica.executed(), Seq(last));
    // None of its checkpoints has got to the disk.
    let (again, _) = Node::with_journal(0, 1, node.records);
    assert_eq!(again.replica.executed(), Seq(last));
}

fn answer_x() -> Message {
    let slot = SlotIndex(0);
    reply(Tag::Ordered(SessionId(1), slot, 1), result(b"x"))
}

#[test]
fn what_the_journal_holds_above_the_window_is_executed_again() {
    let mut twin = Node::new(1);
    twin.run_to(L);
    let state = twin.replica.digest_from_scratch();
    // It had fetched the state at L, executed one more, and crashed before the state was stored.
    let root = |seq| StateRoot {
        seq: Seq(seq),
        time: Wall(0),
        sessions: Digest::ZERO,
        service: Digest::ZERO,
    };
    let certificate = |seq, state| [0, 2, 3].map(|by| claim(by, seq, state)).to_vec();
    let (request, later) = (append(L, b"x"), root(L + K));
    let learned =
        Record::Learned { seq: Seq(L + 1), batch: batch(&[&request]), requests: vec![request] };
    let records = vec![Record::Stable(certificate(L, state), root(L)), learned];
    let (mut node, _) = Node::with_journal(1, 4, records);
    // The others have gone on, but enough of them still know the batches.
    let proof = certificate(L + K, later.digest(&id()));
    node.hear(replica(2), &Message::Data(Data::Stable(proof, later)));
    for seq in 1..=L {
        let request = if seq == 1 { open(1, 9) } else { append(seq - 1, b"x") };
        let batch = batch(&[&request]);
        node.ask(&request);
        let decided = Decided { batches: vec![(Seq(seq), batch.digest(&id()))] };
        node.hear(replica(2), &Message::Decided(decided.clone()));
        node.hear(replica(3), &Message::Decided(decided));
        node.hear(replica(2), &Message::Data(Data::Batch(batch)));
    }
    assert_eq!(node.replica.executed(), Seq(L + 1));
}
