//! I10 and I11: are the clients' histories linearizable (Herlihy & Wing, TOPLAS'90)?
//!
//! With the decided order at hand the question is cheap and its answer exact. What was ordered must
//! have the result that a model of the service has at its place, and places must be in the order of
//! real time. A fast read has no place; there must be one for it at which the model gives what it
//! was told: after all that was told before it was asked for, before all that was asked for after
//! it was told, and no earlier than reads told before. Whether there is, is found by giving each
//! read, in the order they were asked for, the first place that will do: no other choice leaves
//! more room to those after it.

use std::collections::BTreeMap;

use bftfs_proto::service::{Context, Nudge, Service};
use bftfs_proto::types::{SessionId, Wall};
use bftfs_proto::{Tree, codec};
use bytes::Bytes;

use crate::invariants::Violation;
use crate::order::{Order, Step};

/// A service as one correct server without crashes would be: the sequential specification.
pub trait Model {
    /// Does an operation and gives its result.
    fn perform(&mut self, context: &Context, operation: &Bytes) -> Bytes;

    /// The result of an operation, or `None` if it changes something.
    fn query(&mut self, operation: &Bytes) -> Option<Bytes>;

    /// A session ended.
    fn close(&mut self, session: SessionId);

    /// A result, for people.
    fn show(result: &Bytes) -> String;
}

/// A service whose operations have their ticket in front, so that the order shows whose they are.
#[derive(Clone, Copy, Debug)]
pub struct Marked<S>(pub S);

/// An operation behind its ticket.
#[must_use]
pub fn mark(ticket: u64, operation: &[u8]) -> Bytes {
    [&ticket.to_le_bytes(), operation].concat().into()
}

/// The ticket of an operation, and what is behind it.
fn unmark(operation: &Bytes) -> (u64, Bytes) {
    match operation.first_chunk() {
        Some(ticket) => (u64::from_le_bytes(*ticket), operation.slice(ticket.len()..)),
        None => (0, operation.clone()),
    }
}

impl<S: Service> Service for Marked<S> {
    fn genesis(&self, state: &mut Tree) {
        self.0.genesis(state);
    }

    fn execute(
        &self,
        state: &mut Tree,
        context: &Context,
        operation: &Bytes,
        nudges: &mut Vec<Nudge>,
    ) -> Bytes {
        self.0.execute(state, context, &unmark(operation).1, nudges)
    }

    fn query(&self, state: &Tree, context: &Context, operation: &Bytes) -> Option<Bytes> {
        self.0.query(state, context, &unmark(operation).1)
    }

    fn session_closed(
        &self,
        state: &mut Tree,
        session: SessionId,
        time: Wall,
        nudges: &mut Vec<Nudge>,
    ) {
        self.0.session_closed(state, session, time, nudges);
    }
}

/// One call of a client.
#[derive(Clone, Debug)]
pub struct Call {
    /// What was asked for, without its ticket.
    pub operation: Bytes,
    /// When.
    pub asked: u64,
    /// What was told, and when.
    pub told: Option<(Bytes, u64)>,
}

impl Call {
    fn told_at(&self) -> u64 {
        self.told.as_ref().map_or(u64::MAX, |(_, at)| *at)
    }
}

/// All calls of all clients, by their tickets. Moments are counted: what happens at the same
/// virtual time has an order as well.
#[derive(Clone, Debug, Default)]
pub struct Calls {
    calls: BTreeMap<u64, Call>,
    moment: u64,
}

impl Calls {
    /// An operation is asked for; gives the bytes to submit.
    pub fn ask(&mut self, ticket: u64, operation: Bytes) -> Bytes {
        self.moment += 1;
        let marked = mark(ticket, &operation);
        self.calls.insert(ticket, Call { operation, asked: self.moment, told: None });
        marked
    }

    /// Its result is told.
    ///
    /// # Errors
    /// I4, if it was told before, or nobody asked.
    pub fn told(&mut self, ticket: u64, result: &Bytes) -> Result<(), Violation> {
        self.moment += 1;
        let call = self.calls.get_mut(&ticket).ok_or("I4: a result that nobody asked for")?;
        match call.told.replace((result.clone(), self.moment)) {
            None => Ok(()),
            Some(_) => Err(format!("I4: {ticket} was answered twice")),
        }
    }

    /// The calls in the order of their tickets.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &Call)> {
        self.calls.iter().map(|(ticket, call)| (*ticket, call))
    }

    /// The call with this ticket.
    #[must_use]
    pub fn get(&self, ticket: u64) -> Option<&Call> {
        self.calls.get(&ticket)
    }

    /// Judges all calls by a model that is as the service was at first; leaves it as the service
    /// has to be now.
    ///
    /// # Errors
    /// I4, I10 or I11.
    pub fn judge<M: Model>(&self, model: &mut M, order: &Order) -> Result<(), Violation> {
        let places = self.places(order)?;
        self.real_time(&places)?;
        let mut reads = Reads::new(self, &places, order.steps.len());
        reads.settle(0, model)?;
        for (place, step) in (1..).zip(&order.steps) {
            match step {
                Step::Closed(session) => model.close(*session),
                Step::Operation(context, operation) => {
                    let (ticket, operation) = unmark(operation);
                    let result = model.perform(context, &operation);
                    if !order.strangers.contains(&context.client) {
                        self.same::<M>(ticket, place, &result)?;
                    }
                }
            }
            reads.settle(place, model)?;
        }
        reads.all_settled()
    }

    /// Where the calls are in the order, counted from 1.
    fn places(&self, order: &Order) -> Result<BTreeMap<u64, usize>, Violation> {
        let mut places = BTreeMap::new();
        for (place, step) in (1..).zip(&order.steps) {
            let Step::Operation(context, operation) = step else { continue };
            if order.strangers.contains(&context.client) {
                continue;
            }
            let (ticket, operation) = unmark(operation);
            if self.get(ticket).is_none_or(|call| call.operation != operation) {
                return Err(format!("I4: nobody asked for {ticket}: {operation:?}"));
            }
            if let Some(before) = places.insert(ticket, place) {
                return Err(format!("I4: {ticket} was executed twice, at {before} and {place}"));
            }
        }
        Ok(places)
    }

    /// Nothing comes after what was asked for when it was done already.
    fn real_time(&self, places: &BTreeMap<u64, usize>) -> Result<(), Violation> {
        let mut in_order: Vec<_> = places.iter().map(|(ticket, place)| (*place, *ticket)).collect();
        in_order.sort_unstable();
        let mut latest = (0, 0);
        for (_, ticket) in in_order {
            let Some(call) = self.get(ticket) else { continue };
            if call.told_at() < latest.0 {
                let before = latest.1;
                return Err(format!(
                    "I10: {ticket} was done before {before} was asked for, but is after it"
                ));
            }
            latest = latest.max((call.asked, ticket));
        }
        Ok(())
    }

    fn same<M: Model>(&self, ticket: u64, place: usize, result: &Bytes) -> Result<(), Violation> {
        match self.get(ticket).and_then(|call| call.told.as_ref()) {
            Some((told, _)) if told != result => Err(format!(
                "I10: {ticket} at place {place} was told {}, the model says {}",
                M::show(told),
                M::show(result)
            )),
            Some(_) | None => Ok(()),
        }
    }
}

/// A read that was answered without ordering.
struct Read<'a> {
    ticket: u64,
    operation: &'a Bytes,
    asked: u64,
    told: &'a Bytes,
    told_at: u64,
    /// The first place that would do, and the last.
    low: usize,
    high: usize,
}

/// Fast reads without a place yet, in the order they were asked for.
struct Reads<'a>(Vec<Read<'a>>);

impl<'a> Reads<'a> {
    fn new(calls: &'a Calls, places: &BTreeMap<u64, usize>, last: usize) -> Self {
        let ordered = |(ticket, place)| Some((calls.get(ticket)?, place));
        let ordered = places.iter().filter_map(|(ticket, place)| ordered((*ticket, *place)));
        let ordered: Vec<(&Call, usize)> = ordered.collect();
        let read = |(ticket, call): (u64, &'a Call)| {
            let (told, told_at) = call.told.as_ref().map(|(told, at)| (told, *at))?;
            let before = ordered.iter().filter(|(other, _)| other.told_at() < call.asked);
            let after = ordered.iter().filter(|(other, _)| other.asked > told_at);
            Some(Read {
                ticket,
                operation: &call.operation,
                asked: call.asked,
                told,
                told_at,
                low: before.map(|(_, place)| *place).max().unwrap_or(0),
                high: after.map(|(_, place)| *place - 1).min().unwrap_or(last),
            })
        };
        let fast = calls.iter().filter(|(ticket, _)| !places.contains_key(ticket));
        let mut reads: Vec<Read<'a>> = fast.filter_map(read).collect();
        reads.sort_unstable_by_key(|read| read.asked);
        Self(reads)
    }

    /// Gives this place to those reads that can have it.
    fn settle<M: Model>(&mut self, place: usize, model: &mut M) -> Result<(), Violation> {
        let mut first_told = u64::MAX;
        let mut missed = None;
        self.0.retain(|read| {
            let may = read.low <= place && read.asked < first_told;
            let settled = may && model.query(read.operation).as_ref() == Some(read.told);
            if !settled {
                first_told = first_told.min(read.told_at);
                if missed.is_none() && read.high <= place {
                    missed = Some(read.missed::<M>(model));
                }
            }
            !settled
        });
        missed.map_or(Ok(()), Err)
    }

    fn all_settled(&self) -> Result<(), Violation> {
        match self.0.first() {
            None => Ok(()),
            Some(read) => Err(format!("I10: read {} has no place in the order", read.ticket)),
        }
    }
}

impl Read<'_> {
    fn missed<M: Model>(&self, model: &mut M) -> Violation {
        format!(
            "I10, I11: fast read {} was told {}, which was so at no place from {} to {}, nor after \
             reads told before; at the last the model says {}",
            self.ticket,
            M::show(self.told),
            self.low,
            self.high,
            model
                .query(self.operation)
                .map_or_else(|| "it is no read".into(), |told| M::show(&told)),
        )
    }
}

/// A result of a type that is encoded by the codec, for people.
pub(crate) fn show<T: serde::de::DeserializeOwned + std::fmt::Debug>(result: &Bytes) -> String {
    codec::decode::<T>(result).map_or_else(|_| format!("{result:?}"), |told| format!("{told:?}"))
}

#[cfg(test)]
mod tests {
    use bftfs_proto::types::ClientId;

    use super::*;

    /// A number that is added to; reading it is asking to add nothing.
    struct Sum(u8);

    impl Model for Sum {
        fn perform(&mut self, _: &Context, operation: &Bytes) -> Bytes {
            self.0 += operation[0];
            vec![self.0].into()
        }

        fn query(&mut self, operation: &Bytes) -> Option<Bytes> {
            (operation[0] == 0).then(|| vec![self.0].into())
        }

        fn close(&mut self, _: SessionId) {}

        fn show(result: &Bytes) -> String {
            format!("{result:?}")
        }
    }

    /// A history in shorthand: `(ticket, Some(n))` asks to add n, `(ticket, None)` is told
    /// what `answers` says. And the order in which tickets were executed.
    fn judge(history: &[(u64, Option<u8>)], answers: &[u8], order: &[u64]) -> Option<String> {
        let told: BTreeMap<u64, &u8> = (0..).zip(answers).collect();
        let mut calls = Calls::default();
        let mut steps = Order::default();
        for (ticket, what) in history {
            match what {
                Some(n) => drop(calls.ask(*ticket, vec![*n].into())),
                None => calls.told(*ticket, &vec![*told[ticket]].into()).expect("once"),
            }
        }
        for ticket in order {
            let context =
                Context { client: ClientId(1), session: SessionId(1), time: Wall(*ticket) };
            let operation = calls.get(*ticket).map_or_else(Bytes::new, |c| c.operation.clone());
            steps.steps.push(Step::Operation(context, mark(*ticket, &operation)));
        }
        calls.judge(&mut Sum(0), &steps).err()
    }

    const ONE_AFTER_ANOTHER: [(u64, Option<u8>); 6] =
        [(0, Some(1)), (0, None), (1, Some(0)), (1, None), (2, Some(1)), (2, None)];
    const ALL_AT_ONCE: [(u64, Option<u8>); 6] =
        [(0, Some(1)), (1, Some(0)), (2, Some(1)), (0, None), (1, None), (2, None)];

    #[track_caller]
    fn red(violation: &Option<String>, why: &str) {
        assert!(violation.as_ref().is_some_and(|v| v.starts_with(why)), "{violation:?}");
    }

    #[test]
    fn what_one_server_would_say_is_right() {
        assert_eq!(judge(&ONE_AFTER_ANOTHER, &[1, 1, 2], &[0, 2]), None);
        assert_eq!(judge(&ONE_AFTER_ANOTHER, &[1, 1, 2], &[0, 1, 2]), None);
        for seen in 0..=2 {
            assert_eq!(judge(&ALL_AT_ONCE, &[1, seen, 2], &[0, 2]), None);
        }
    }

    #[test]
    fn wrong_results_are_seen() {
        red(&judge(&ALL_AT_ONCE, &[2, 0, 2], &[0, 2]), "I10: 0 at place 1");
        red(&judge(&ALL_AT_ONCE, &[1, 3, 2], &[0, 2]), "I10, I11: fast read 1");
        red(&judge(&ALL_AT_ONCE, &[1, 2, 3], &[0, 2, 0]), "I4: 0 was executed twice");
        red(&judge(&ALL_AT_ONCE, &[1, 2, 2], &[0, 2, 7]), "I4: nobody asked for 7");
    }

    #[test]
    fn stale_reads_and_reads_of_the_future_are_seen() {
        red(&judge(&ONE_AFTER_ANOTHER, &[1, 0, 2], &[0, 2]), "I10, I11: fast read 1");
        red(&judge(&ONE_AFTER_ANOTHER, &[1, 2, 2], &[0, 2]), "I10, I11: fast read 1");
    }

    #[test]
    fn an_order_against_real_time_is_seen() {
        red(&judge(&ONE_AFTER_ANOTHER, &[2, 2, 1], &[2, 0]), "I10: 0 was done before 2");
    }

    #[test]
    fn reads_that_go_back_are_seen() {
        // Both while the addition is under way; the second is asked for when the first is done.
        let history = [(0, Some(1)), (1, Some(0)), (1, None), (2, Some(0)), (2, None), (0, None)];
        for (first, second, right) in [(0, 0, true), (0, 1, true), (1, 1, true), (1, 0, false)] {
            let violation = judge(&history, &[1, first, second], &[0]);
            assert_eq!(violation.is_none(), right, "{first} {second}: {violation:?}");
        }
    }

    #[test]
    fn a_change_that_was_not_ordered_is_seen() {
        red(&judge(&ALL_AT_ONCE, &[1, 0, 2], &[0]), "I10, I11: fast read 2");
    }
}
