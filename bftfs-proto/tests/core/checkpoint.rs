//! Checkpoints, stability, and what proves them.

use bftfs_proto::Digest;
use bftfs_proto::engine::{Input, Record};
use bftfs_proto::message::{Checkpoint, Data, Fetch, Message, StateRoot};
use bftfs_proto::types::{Seq, View};

use super::support::*;

fn signed_claim(by: u32, seq: u64, state: Digest) -> Message {
    Message::Checkpoint(claim(by, seq, state))
}

/// Backup 1 after its first checkpoint, the digest of that, and what it said on the way.
fn at_checkpoint() -> (Node, Digest, Vec<Out>) {
    let mut node = Node::new(1);
    let outputs = node.run_to(K);
    let state = node.replica.digest_from_scratch();
    (node, state, outputs)
}

/// A stable checkpoint: what its digest is made of, and that.
fn stable_root() -> (StateRoot, Digest) {
    let (mut node, state, _) = at_checkpoint();
    node.hear(replica(2), &signed_claim(2, K, state));
    node.hear(replica(3), &signed_claim(3, K, state));
    let root = |record: &Record| match record {
        Record::Stable(_, root) => Some(*root),
        _ => None,
    };
    (node.records.iter().find_map(root).expect("a stable checkpoint"), state)
}

#[test]
fn every_k_batches_a_replica_signs_for_its_state() {
    let (_, state, outputs) = at_checkpoint();
    let claim = claim(1, K, state);
    let record = Out::Append(Record::Claimed(claim.clone(), Seq(0)));
    let sent = to_all(Message::Checkpoint(claim), 2 * K + 1);
    let said: Vec<Out> = outputs.iter().skip_while(|out| **out != record).cloned().collect();
    assert!(said.starts_with(&[record, sent]), "{said:?}");
    let stored = outputs.iter().any(|out| matches!(out, Out::Checkpoint(_)));
    assert!(!stored, "it is stored when it is stable");
}

#[test]
fn a_claim_with_a_bad_signature_is_refused() {
    let (mut node, state, _) = at_checkpoint();
    let forged = Checkpoint { state, ..claim(2, K, Digest::ZERO) };
    node.refuses(replica(2), &Message::Checkpoint(forged), "Signature");
}

#[test]
fn a_claim_that_is_no_multiple_of_k_is_refused() {
    Node::new(1).refuses(replica(2), &signed_claim(2, K + 1, Digest::ZERO), "Watermark");
}

#[test]
fn q_matching_claims_make_it_stable_and_cut_the_log() {
    let (mut node, state, _) = at_checkpoint();
    assert_eq!(node.hear(replica(2), &signed_claim(2, K, state)), []);
    assert_eq!(node.hear(replica(2), &signed_claim(2, K, state)), [], "one replica, one claim");
    assert_eq!(node.replica.status().last_stable, 0);
    let outputs = node.hear(replica(3), &signed_claim(3, K, state));
    let certificate = [1, 2, 3].map(|by| claim(by, K, state)).to_vec();
    let [Out::Append(stable @ Record::Stable(proof, root)), Out::Checkpoint(Seq(K))] = &outputs[..]
    else {
        panic!("one record, and the state to store: {outputs:?}")
    };
    assert_eq!((proof, root.digest(&id())), (&certificate, state));
    assert_eq!(node.replica.status().last_stable, K);
    assert_eq!(node.replica.decided(Seq(K)), None, "it left the log");
    node.refuses(replica(2), &prepare(K, &batch(&[])), "Watermark");
    node.refuses(replica(0), &signed_claim(0, K, state), "Stale");
    assert_eq!(
        node.input(Input::CheckpointDurable(Seq(K))),
        [Out::Append(Record::View(View(0))), Out::Append(stable.clone()), Out::Truncate(Seq(K))],
        "the journal is cut when the checkpoint is on disk too"
    );
}

#[test]
fn claims_that_differ_do_not_make_it_stable() {
    let (mut node, state, _) = at_checkpoint();
    assert_eq!(node.hear(replica(2), &signed_claim(2, K, Digest::ZERO)), []);
    assert_eq!(node.hear(replica(3), &signed_claim(3, K, state)), []);
    assert_eq!(node.replica.status().last_stable, 0);
}

#[test]
fn a_replica_whose_state_differs_from_a_quorums_falls_silent() {
    let (mut node, _, _) = at_checkpoint();
    for by in [0, 2, 3] {
        assert_eq!(node.hear(replica(by), &signed_claim(by, K, Digest::ZERO)), []);
    }
    assert!(node.replica.status().diverged);
    assert_eq!(node.ask(&append(1, b"x")), [], "not even what it kept");
}

#[test]
fn a_replica_that_falls_silent_while_it_executes_says_nothing_of_what_follows() {
    let mut node = Node::new(1);
    node.run_to(K - 1);
    for by in [0, 2, 3] {
        node.hear(replica(by), &signed_claim(by, K, Digest::ZERO));
    }
    let (last, next) = (append(K - 1, b"x"), append(K, b"x"));
    for (seq, request) in [(K + 1, &next), (K, &last)] {
        let batch = batch(&[request]);
        node.ask(request);
        node.hear(replica(0), &pre_prepare(seq, &batch));
        node.hear(replica(2), &prepare(seq, &batch));
        node.hear(replica(0), &commit(seq, &batch));
        let outputs = node.hear(replica(2), &commit(seq, &batch));
        assert_eq!(outputs, [], "neither the next batch nor its answers");
    }
    assert!(node.replica.status().diverged);
    assert_eq!(node.replica.executed(), Seq(K), "nor does it execute what it cannot tell is right");
}

#[test]
fn a_window_above_the_stable_checkpoint_is_open() {
    let (mut node, state, _) = at_checkpoint();
    node.refuses(replica(0), &pre_prepare(L + 1, &batch(&[])), "Watermark");
    node.hear(replica(2), &signed_claim(2, K, state));
    node.hear(replica(3), &signed_claim(3, K, state));
    assert_ne!(node.hear(replica(0), &pre_prepare(L + 1, &batch(&[]))), []);
    node.refuses(replica(0), &pre_prepare(K + L + 1, &batch(&[])), "Watermark");
}

#[test]
fn a_certificate_needs_q_signatures_of_distinct_replicas_over_its_root() {
    let (root, state) = stable_root();
    let mut node = Node::new(1);
    let mut refuses = |certificate: &[Checkpoint], root, why| {
        node.refuses(replica(2), &Message::Data(Data::Stable(certificate.to_vec(), root)), why);
    };
    let good = [0, 2, 3].map(|by| claim(by, K, state));
    let [zero, two, three] = good.clone();
    refuses(&[zero.clone(), two.clone(), two.clone()], root, "Signature");
    refuses(&good[..2], root, "Signature");
    refuses(&[], root, "Shape");
    let forged = Checkpoint { signature: two.signature, ..three };
    refuses(&[zero.clone(), two.clone(), forged], root, "Signature");
    let other = claim(3, K, Digest::ZERO);
    refuses(&[zero.clone(), two.clone(), other], root, "Signature");
    let unknown = claim(4, K, state);
    refuses(&[zero, two, unknown], root, "Signature");
    refuses(&good, StateRoot { sessions: Digest::ZERO, ..root }, "Hash");
    refuses(&good, StateRoot { seq: Seq(u64::MAX), ..root }, "Hash");
}

#[test]
fn whoever_lags_behind_a_stable_checkpoint_fetches_its_state_by_hash() {
    let (root, state) = stable_root();
    let mut node = Node::new(1);
    let certificate = [0, 2, 3].map(|by| claim(by, K, state)).to_vec();
    let stable = Message::Data(Data::Stable(certificate, root));
    assert_eq!(node.hear(replica(2), &stable), [], "its log may yet bring it there");
    let fetches = |outputs: Vec<Out>| -> Vec<Fetch> {
        let wanted = |out| match out {
            Out::Send(_, Message::Fetch(wanted), _) => wanted,
            _ => vec![],
        };
        outputs.into_iter().flat_map(wanted).collect()
    };
    let asked = (0..3).find_map(|_| Some(fetches(node.tick())).filter(|f| !f.is_empty()));
    assert_eq!(asked, Some(vec![Fetch::Stable(Seq(K))]));
    node.hear(replica(2), &stable);
    assert!(node.replica.status().transferring);
    let mut roots = vec![Fetch::Block(root.sessions), Fetch::Block(root.service)];
    roots.sort_unstable();
    let mut asked = fetches(node.tick());
    asked.sort_unstable();
    assert_eq!(asked, roots);
    let lie = Data::Block(root.service, b"another"[..].into());
    node.refuses(replica(2), &Message::Data(lie), "Hash");
    assert_eq!(node.replica.executed(), Seq(0));
}
