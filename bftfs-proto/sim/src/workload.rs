//! What clients ask for, and how their histories are judged.

use std::collections::{BTreeMap, BTreeSet};

use bftfs_proto::Tree;
use bftfs_proto::client::How;
use bftfs_proto::codec;
use bftfs_proto::service::Service;
use bytes::Bytes;
use fastrand::Rng;

use crate::invariants::Violation;
use crate::register::{Ask, Lists, Told};

/// A load and its judge.
pub trait Workload {
    /// The service it is for.
    type Service: Service + Clone;

    /// The service.
    fn service(&self) -> Self::Service;

    /// The next operation, to be known as `ticket`, asked for at `now`.
    fn ask(&mut self, rng: &mut Rng, ticket: u64, now: u64) -> (Bytes, How);

    /// An operation that a Byzantine client asks for. It must not disturb what is judged.
    fn rogue_operation(&self, rng: &mut Rng) -> Bytes {
        (0..rng.usize(0..64)).map(|_| rng.u8(..)).collect()
    }

    /// The result of an operation, told at `now`.
    ///
    /// # Errors
    /// A violation that shows at once.
    fn told(&mut self, ticket: u64, result: &Bytes, now: u64) -> Result<(), Violation>;

    /// Judges the whole history against the final state.
    ///
    /// # Errors
    /// The violation.
    fn judge(&self, state: &Tree) -> Result<(), Violation>;
}

/// Appends and reads of a few lists.
///
/// The final lists show the order of the appends. With it the history is linearizable (I10) iff
/// every read is a prefix of its list that has all appends told before the read was asked for, and
/// none that was asked for after the read was told, and no less than any read told before.
#[derive(Debug, Default)]
pub struct ListsLoad {
    asked: BTreeMap<u64, (Ask, u64)>,
    told: BTreeMap<u64, (Told, u64)>,
}

impl Workload for ListsLoad {
    type Service = Lists;

    fn service(&self) -> Lists {
        Lists
    }

    fn ask(&mut self, rng: &mut Rng, ticket: u64, now: u64) -> (Bytes, How) {
        let key = rng.u8(0..3);
        let (ask, how) = match rng.u8(0..4) {
            0 | 1 => (Ask::Append(key, ticket), How::Ordered),
            2 => (Ask::Get(key), How::Read),
            _ => (Ask::Get(key), if rng.bool() { How::Ordered } else { How::Read }),
        };
        self.asked.insert(ticket, (ask, now));
        (codec::encode(&ask).into(), how)
    }

    /// Appends to other lists.
    fn rogue_operation(&self, rng: &mut Rng) -> Bytes {
        codec::encode(&Ask::Append(rng.u8(3..9), rng.u64(..))).into()
    }

    fn told(&mut self, ticket: u64, result: &Bytes, now: u64) -> Result<(), Violation> {
        let told = codec::decode(result).map_err(|_| format!("I4: {ticket} has no result"))?;
        match self.told.insert(ticket, (told, now)) {
            None => Ok(()),
            Some(_) => Err(format!("I4: {ticket} was answered twice")),
        }
    }

    fn judge(&self, state: &Tree) -> Result<(), Violation> {
        (0..3).try_for_each(|key| self.judge_list(key, &Lists::list(state, key)))
    }
}

impl ListsLoad {
    fn judge_list(&self, key: u8, list: &[u64]) -> Result<(), Violation> {
        let distinct: BTreeSet<_> = list.iter().collect();
        if distinct.len() != list.len() {
            return Err(format!("I4: an append took place twice in list {key}: {list:?}"));
        }
        for ticket in list {
            if !matches!(self.asked.get(ticket), Some((Ask::Append(of, _), _)) if *of == key) {
                return Err(format!("I4: nobody asked to append {ticket} to list {key}"));
            }
        }
        self.judge_appends(key, list)?;
        self.judge_reads(key, list)
    }

    /// An append's length is its place in the list, and places are in the order of real time.
    fn judge_appends(&self, key: u8, list: &[u64]) -> Result<(), Violation> {
        let place: BTreeMap<u64, usize> = list.iter().enumerate().map(|(i, t)| (*t, i)).collect();
        for (ticket, (ask, _)) in &self.asked {
            let Ask::Append(of, _) = ask else { continue };
            if *of != key {
                continue;
            }
            let told = self.told.get(ticket).map(|(told, _)| told);
            let at = place.get(ticket).map(|at| Told::Length(*at as u64 + 1));
            if told.is_some() && told != at.as_ref() {
                return Err(format!("I10: append {ticket} was told {told:?}, but is at {at:?}"));
            }
        }
        let mut latest_asked = 0;
        for ticket in list {
            let Some((_, asked)) = self.asked.get(ticket) else { continue };
            let told = self.told.get(ticket).map_or(u64::MAX, |(_, told)| *told);
            if told < latest_asked {
                return Err(format!(
                    "I10: {ticket} was done before one that precedes it was asked"
                ));
            }
            latest_asked = latest_asked.max(*asked);
        }
        Ok(())
    }

    fn judge_reads(&self, key: u8, list: &[u64]) -> Result<(), Violation> {
        // By the time they were told: a read sees no less than those told before it was asked.
        let mut reads: Vec<(u64, u64, usize)> = Vec::new();
        for (ticket, (told, told_at)) in &self.told {
            let Some((Ask::Get(of), asked_at)) = self.asked.get(ticket) else { continue };
            let Told::List(seen) = told else {
                return Err(format!("I10: read {ticket}: {told:?}"));
            };
            if *of != key {
                continue;
            }
            if !list.starts_with(seen) {
                return Err(format!("I11: read {ticket} saw {seen:?}, the list is {list:?}"));
            }
            let told_before = |append: &u64| self.told.get(append).is_some_and(|t| t.1 < *asked_at);
            if list.iter().skip(seen.len()).any(told_before) {
                return Err(format!("I10: read {ticket} missed an append that was done before it"));
            }
            let asked_after = |append: &u64| self.asked.get(append).is_some_and(|a| a.1 > *told_at);
            if seen.iter().any(asked_after) {
                return Err(format!("I10: read {ticket} saw an append of the future"));
            }
            reads.push((*told_at, *asked_at, seen.len()));
        }
        reads.sort_unstable();
        for (_, asked_at, length) in &reads {
            let before = reads.iter().take_while(|(told_at, ..)| told_at < asked_at);
            if before.map(|(.., length)| *length).max().is_some_and(|most| most > *length) {
                return Err(format!("I10: a read of list {key} saw less than one before it"));
            }
        }
        Ok(())
    }
}
