//! Lies to clients: answers to fast reads that are wrong or of the past.

use std::collections::BTreeMap;

use bftfs_proto::message::{Answer, Message, Reply, Tag};
use bftfs_proto::types::Principal;
use bytes::Bytes;

use crate::mind::Mind;
use crate::{Lie, Said};

/// Answers of the past that are kept for one operation.
const PAST_ANSWERS: usize = 3;
/// Questions and operations that are remembered.
const REMEMBERED_MAX: usize = 1024;

/// Answers a fast read with what it would have answered a while ago, sometimes with nonsense.
/// Ordered requests are not answered at all, so that clients go by the others' word.
#[derive(Debug, Default)]
pub(crate) struct WrongReads {
    asked: BTreeMap<(Principal, Tag), Bytes>,
    past: BTreeMap<Bytes, Vec<Answer>>,
}

impl WrongReads {
    /// The oldest answer to the same question that is still known.
    fn stale(&mut self, to: Principal, tag: Tag, now: Answer) -> Answer {
        let Some(operation) = self.asked.remove(&(to, tag)) else { return now };
        if self.past.len() > REMEMBERED_MAX {
            self.past.pop_first();
        }
        let past = self.past.entry(operation).or_default();
        if past.last() != Some(&now) {
            past.push(now.clone());
        }
        if past.len() > PAST_ANSWERS {
            past.remove(0);
        }
        past.first().cloned().unwrap_or(now)
    }
}

impl Lie for WrongReads {
    fn hear(&mut self, _: &mut Mind, from: Principal, message: &Message) -> bool {
        if let Message::Read(read) = message {
            let tag = Tag::Read(read.session, read.number);
            self.asked.insert((from, tag), read.operation.clone());
            while self.asked.len() > REMEMBERED_MAX {
                self.asked.pop_first();
            }
        }
        true
    }

    fn say(&mut self, mind: &mut Mind, to: Principal, message: Message) -> Vec<Said> {
        let message = match message {
            Message::Reply(Reply { tag: Tag::Ordered(..), .. }) => return Vec::new(),
            Message::Reply(Reply { tag, view, answer: Some(answer), .. })
                if matches!(tag, Tag::Read(..)) =>
            {
                let mut answer = self.stale(to, tag, answer);
                if mind.once_in(8) {
                    answer = Answer::Result(Bytes::from_static(&[1, 0]));
                }
                let digest = answer.digest(&mind.cluster.id);
                Message::Reply(Reply { tag, view, digest, answer: Some(answer) })
            }
            other => other,
        };
        vec![Said::now(to, message)]
    }
}
