//! Two batches for one number, two votes for one batch, and votes for what was never proposed.

use std::collections::{BTreeMap, BTreeSet};

use bftfs_proto::Digest;
use bftfs_proto::message::{
    Answer, Batch, Checkpoint, Data, Decided, Fetch, Message, PrePrepare, Reply, Vote,
};
use bftfs_proto::types::{Principal, ReplicaId, Seq, View};
use bytes::Bytes;

use crate::mind::Mind;
use crate::{Lie, Said};

/// Proposals whose lies are remembered.
const SHOWN_MAX: usize = 4096;

/// Which batch was shown to whom in place of the inner replica's.
#[derive(Debug, Default)]
pub(crate) struct Shown(BTreeMap<(View, Seq, ReplicaId), Digest>);

impl Shown {
    /// Proposes this batch to `to`, and votes for it there: the inner replica will not.
    pub(crate) fn propose(
        &mut self,
        mind: &Mind,
        to: ReplicaId,
        false_one: PrePrepare,
    ) -> Vec<Said> {
        let PrePrepare { view, seq, ref batch } = false_one;
        let digest = batch.digest(&mind.cluster.id);
        self.0.insert((view, seq, to), digest);
        while self.0.len() > SHOWN_MAX {
            self.0.pop_first();
        }
        let vote = Message::Commit(Vote { view, seq, digest });
        vec![Said::now(to, Message::PrePrepare(false_one)), Said::now(to, vote)]
    }

    /// The vote as it fits what `to` was shown.
    fn vote(&self, to: ReplicaId, vote: Vote) -> Vote {
        let digest = self.0.get(&(vote.view, vote.seq, to)).copied().unwrap_or(vote.digest);
        Vote { digest, ..vote }
    }

    /// What is said in place of a vote: the one that fits.
    pub(crate) fn say(&self, to: Principal, message: Message) -> Vec<Said> {
        let message = match (to, message) {
            (Principal::Replica(to), Message::Commit(vote)) => Message::Commit(self.vote(to, vote)),
            (_, message) => message,
        };
        vec![Said::now(to, message)]
    }
}

/// As primary, tells two halves different things. As backup, proposes as if it were the primary.
/// As either, supports every vote it hears.
#[derive(Debug)]
pub(crate) struct Equivocate {
    shown: Shown,
    /// The votes that it has joined. Two of its kind would else go on for ever.
    supported: BTreeSet<(ReplicaId, Vote)>,
    /// Where set, one replica gets each batch under the next number instead.
    shifted: Option<ReplicaId>,
}

impl Equivocate {
    pub(crate) fn new(mind: &mut Mind) -> Self {
        let shifted = mind.once_in(4).then(|| mind.someone());
        Self { shown: Shown::default(), supported: BTreeSet::new(), shifted }
    }

    fn propose(&mut self, mind: &Mind, to: ReplicaId, mut proposal: PrePrepare) -> Vec<Said> {
        match self.shifted {
            Some(victim) if victim == to => proposal.seq = proposal.seq.next(),
            None if mind.in_second_half(to) => proposal.batch = twin(proposal.batch),
            Some(_) | None => {}
        }
        self.shown.propose(mind, to, proposal)
    }
}

/// Another batch that a backup could accept as well.
fn twin(mut batch: Batch) -> Batch {
    batch.requests.reverse();
    batch.time.0 = batch.time.0.wrapping_add(1);
    batch
}

impl Lie for Equivocate {
    fn hear(&mut self, mind: &mut Mind, from: Principal, message: &Message) -> bool {
        let Principal::Replica(from) = from else { return true };
        match message {
            Message::Prepare(vote) if self.supported.insert((from, *vote)) => {
                if !mind.is_primary(vote.view) {
                    mind.whisper(from, Message::Prepare(*vote));
                }
                mind.whisper(from, Message::Commit(*vote));
                while self.supported.len() > SHOWN_MAX {
                    self.supported.pop_first();
                }
            }
            Message::PrePrepare(proposal) if mind.once_in(4) => {
                let (to, batch) = (mind.someone(), twin(proposal.batch.clone()));
                mind.whisper(to, Message::PrePrepare(PrePrepare { batch, ..*proposal }));
            }
            _ => {}
        }
        true
    }

    fn say(&mut self, mind: &mut Mind, to: Principal, message: Message) -> Vec<Said> {
        match (to, message) {
            (Principal::Replica(to), Message::PrePrepare(proposal)) => {
                self.propose(mind, to, proposal)
            }
            (to, message) => self.shown.say(to, message),
        }
    }
}

/// Votes for other digests than it should, claims that nothing was decided where something was,
/// signs for other states, and gives wrong answers. The lies are the same for all who lie so.
#[derive(Debug)]
pub(crate) struct WrongVotes;

fn wrong(digest: Digest) -> Digest {
    Digest::of(&digest.0)
}

fn wrong_vote(vote: Vote) -> Vote {
    Vote { digest: wrong(vote.digest), ..vote }
}

impl Lie for WrongVotes {
    /// Whoever believes that nothing was decided gets the batch that says so.
    fn hear(&mut self, mind: &mut Mind, from: Principal, message: &Message) -> bool {
        if let (Principal::Replica(from), Message::Fetch(wanted)) = (from, message)
            && wanted.contains(&Fetch::Batch(mind.null()))
        {
            mind.whisper(from, Message::Data(Data::Batch(Batch::null())));
        }
        true
    }

    fn say(&mut self, mind: &mut Mind, to: Principal, message: Message) -> Vec<Said> {
        let (cluster, null) = (mind.cluster.id, mind.null());
        let message = match message {
            Message::Prepare(vote) => Message::Prepare(wrong_vote(vote)),
            Message::Commit(vote) => Message::Commit(wrong_vote(vote)),
            Message::Checkpoint(Checkpoint { replica, seq, state, .. }) => {
                let state = wrong(state);
                Message::Checkpoint(Checkpoint::sign(&cluster, &mind.signer, replica, seq, state))
            }
            Message::Decided(Decided { batches }) => {
                let batches = batches.into_iter().map(|(seq, _)| (seq, null)).collect();
                Message::Decided(Decided { batches })
            }
            Message::Reply(Reply { tag, view, .. }) => {
                let answer = Answer::Result(Bytes::from_static(&[0, 0]));
                let digest = answer.digest(&cluster);
                Message::Reply(Reply { tag, view, digest, answer: Some(answer) })
            }
            other => other,
        };
        vec![Said::now(to, message)]
    }

    fn tick(&mut self, mind: &mut Mind) -> Vec<Said> {
        let null = mind.null();
        let next = mind.executed.0 + 1;
        let batches = (next..next + 4).map(|seq| (Seq(seq), null)).collect();
        vec![Said::now(mind.someone(), Message::Decided(Decided { batches }))]
    }
}
