//! Counting what replicas answered: one voice each, its latest.

use alloc::collections::BTreeMap;

use bftfs_state::Digest;

use crate::message::Answer;
use crate::types::ReplicaId;

/// The answers to one call.
#[derive(Debug, Default)]
pub(super) struct Tally {
    said: BTreeMap<ReplicaId, Digest>,
    /// Whole answers by digest; at most one for each replica.
    whole: BTreeMap<Digest, Answer>,
}

impl Tally {
    /// Replica `from` says that the answer has this digest, and perhaps what it is. The caller has
    /// checked that the answer has the digest.
    pub(super) fn add(&mut self, from: ReplicaId, digest: Digest, answer: Option<Answer>) {
        self.said.insert(from, digest);
        if let Some(answer) = answer {
            self.whole.insert(digest, answer);
        }
        let said = &self.said;
        self.whole.retain(|digest, _| said.values().any(|other| other == digest));
    }

    /// What `quorum` replicas agree on, and the whole of it if one of them sent that.
    pub(super) fn agreed(&self, quorum: usize) -> Option<(Digest, Option<Answer>)> {
        let agreed = self.said.values().find(|digest| self.count(digest) >= quorum)?;
        Some((*agreed, self.whole.get(agreed).cloned()))
    }

    /// Whether the replicas that have not answered yet could still make a quorum agree.
    pub(super) fn may_agree(&self, n: usize, quorum: usize) -> bool {
        let silent = n - self.said.len();
        let most = self.said.values().map(|digest| self.count(digest)).max().unwrap_or(0);
        most + silent >= quorum
    }

    fn count(&self, digest: &Digest) -> usize {
        self.said.values().filter(|other| *other == digest).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(byte: u8) -> Option<Answer> {
        Some(Answer::Result(alloc::vec![byte].into()))
    }

    #[test]
    fn a_replica_has_one_voice() {
        let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
        let mut tally = Tally::default();
        (0..3).for_each(|_| tally.add(ReplicaId(0), a, None));
        assert_eq!(tally.agreed(2), None, "three answers of one replica are one");
        tally.add(ReplicaId(1), a, answer(1));
        assert_eq!(tally.agreed(2), Some((a, answer(1))));
        tally.add(ReplicaId(1), b, answer(2));
        assert_eq!(tally.agreed(2), None, "it changed its mind");
    }

    #[test]
    fn it_knows_when_no_quorum_can_come_about() {
        let mut tally = Tally::default();
        tally.add(ReplicaId(0), Digest::of(b"a"), None);
        tally.add(ReplicaId(1), Digest::of(b"b"), None);
        assert!(tally.may_agree(4, 3));
        tally.add(ReplicaId(2), Digest::of(b"c"), None);
        assert!(!tally.may_agree(4, 3));
    }
}
