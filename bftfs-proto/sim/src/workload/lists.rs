//! Lists that clients append to, and registers that they put to.

use std::collections::{BTreeMap, BTreeSet};

use bftfs_proto::client::How;
use bftfs_proto::service::Context;
use bftfs_proto::types::SessionId;
use bftfs_proto::{Tree, codec};
use bytes::Bytes;
use fastrand::Rng;

use super::Workload;
use crate::invariants::Violation;
use crate::linear::{Call, Calls, Marked, Model, mark, show};
use crate::order::Order;
use crate::register::{Ask, Registers, Told};

/// Registers that are only appended to.
const LISTS: [u8; 3] = [0, 1, 2];

/// Appends to a few lists, puts to a few registers, and reads of both.
///
/// All are judged along the decided order. The lists are judged once more without it: they show
/// by themselves in which order the appends took place.
#[derive(Debug, Default)]
pub struct ListsLoad {
    calls: Calls,
}

impl Workload for ListsLoad {
    type Service = Marked<Registers>;

    fn service(&self) -> Self::Service {
        Marked(Registers)
    }

    fn ask(&mut self, rng: &mut Rng, ticket: u64) -> (Bytes, How) {
        let name = |key: u8| Bytes::copy_from_slice(&[key]);
        let list = name(rng.u8(0..3));
        let register = name(rng.u8(3..5));
        let value = |rng: &mut Rng| Bytes::copy_from_slice(&[rng.u8(0..3)]);
        let read = if rng.bool() { How::Ordered } else { How::Read };
        let (ask, how) = match rng.u8(0..12) {
            0..4 => (Ask::Append(list, ticket.to_le_bytes().to_vec().into()), How::Ordered),
            4..7 => (Ask::Get(list), How::Read),
            7..9 => (Ask::Get(list), read),
            9 => (Ask::Get(register), read),
            10 => (Ask::Put(register, value(rng)), How::Ordered),
            _ => {
                let old = rng.bool().then(|| value(rng));
                (Ask::Swap { name: register, old, new: value(rng) }, How::Ordered)
            }
        };
        (self.calls.ask(ticket, ask.encode()), how)
    }

    /// Anything that leaves the lists alone.
    fn rogue_operation(&self, rng: &mut Rng) -> Bytes {
        let name = Bytes::copy_from_slice(&[rng.u8(3..9)]);
        let value = Bytes::copy_from_slice(&[rng.u8(0..3)]);
        let ask = if rng.bool() { Ask::Append(name, value) } else { Ask::Put(name, value) };
        mark(rng.u64(..), &ask.encode())
    }

    fn told(&mut self, ticket: u64, result: &Bytes) -> Result<(), Violation> {
        self.calls.told(ticket, result)
    }

    fn judge(&self, order: &Order, state: &Tree) -> Result<(), Violation> {
        LISTS.iter().try_for_each(|name| self.judge_list(*name, state))?;
        let mut map = Map::default();
        self.calls.judge(&mut map, order)?;
        let same = |(name, value): (&Bytes, &Bytes)| {
            state.get(name).is_some_and(|held| held[..] == value[..])
        };
        if map.0.len() as u64 == state.len() && map.0.iter().all(same) {
            Ok(())
        } else {
            Err(format!("I7: the registers are not what the model has: {map:?}"))
        }
    }
}

/// The registers without replicas.
#[derive(Debug, Default)]
struct Map(BTreeMap<Bytes, Bytes>);

impl Map {
    fn put(&mut self, name: Bytes, value: Bytes) -> Told {
        let length = value.len() as u64;
        self.0.insert(name, value);
        Told::Length(length)
    }
}

impl Model for Map {
    fn perform(&mut self, _: &Context, operation: &Bytes) -> Bytes {
        let Ok(ask) = codec::decode::<Ask>(operation) else {
            return codec::encode(&Told::Malformed).into();
        };
        let now = |name: &Bytes| self.0.get(name).cloned();
        let told = match ask {
            Ask::Get(name) => Told::Value(now(&name)),
            Ask::Put(name, value) => self.put(name, value),
            Ask::Append(name, more) => {
                let value = [now(&name).unwrap_or_default(), more].concat();
                self.put(name, value.into())
            }
            Ask::Swap { name, old, new } if now(&name) == old => self.put(name, new),
            Ask::Swap { name, .. } => Told::Value(now(&name)),
        };
        codec::encode(&told).into()
    }

    fn query(&mut self, operation: &Bytes) -> Option<Bytes> {
        match codec::decode(operation) {
            Ok(Ask::Get(name)) => {
                Some(codec::encode(&Told::Value(self.0.get(&name).cloned())).into())
            }
            _ => None,
        }
    }

    fn close(&mut self, _: SessionId) {}

    fn show(result: &Bytes) -> String {
        show::<Told>(result)
    }
}

/// What clients asked of one list and were told of it.
struct List<'a> {
    name: u8,
    /// The tickets of the appends, as the final state has them.
    list: Vec<u64>,
    appends: BTreeMap<u64, (&'a Call, Option<Told>)>,
    /// Told when, asked when, how many appends were seen.
    reads: Vec<(u64, u64, usize)>,
}

/// The list that is in a register.
fn list_of(value: Option<&[u8]>) -> Vec<u64> {
    let (tickets, _) = value.unwrap_or_default().as_chunks();
    tickets.iter().map(|ticket| u64::from_le_bytes(*ticket)).collect()
}

fn told_at(call: &Call) -> u64 {
    call.told.as_ref().map_or(u64::MAX, |(_, at)| *at)
}

impl ListsLoad {
    fn judge_list(&self, name: u8, state: &Tree) -> Result<(), Violation> {
        let list = list_of(state.get(&[name]).as_deref());
        let mut judged = List { name, list, appends: BTreeMap::new(), reads: Vec::new() };
        let mut reads = Vec::new();
        for (ticket, call) in self.calls.iter() {
            let told = call.told.as_ref().and_then(|(told, _)| codec::decode(told).ok());
            match (codec::decode(&call.operation), told) {
                (Ok(Ask::Append(of, _)), told) if of[..] == [name] => {
                    judged.appends.insert(ticket, (call, told));
                }
                (Ok(Ask::Get(of)), Some(Told::Value(seen))) if of[..] == [name] => {
                    reads.push((ticket, call, list_of(seen.as_deref())));
                }
                _ => {}
            }
        }
        judged.appends()?;
        reads.iter().try_for_each(|(ticket, call, seen)| judged.read(*ticket, call, seen))?;
        judged.reads()
    }
}

impl List<'_> {
    /// Each append is there once, its length is its place, and places are in the order of real
    /// time.
    fn appends(&self) -> Result<(), Violation> {
        let (name, list) = (self.name, &self.list);
        let distinct: BTreeSet<_> = list.iter().collect();
        if distinct.len() != list.len() {
            return Err(format!("I4: an append took place twice in list {name}: {list:?}"));
        }
        let mut latest_asked = 0;
        for (ticket, length) in list.iter().zip(1..) {
            let Some((call, told)) = self.appends.get(ticket) else {
                return Err(format!("I4: nobody asked to append {ticket} to list {name}"));
            };
            if told.as_ref().is_some_and(|told| *told != Told::Length(8 * length)) {
                return Err(format!("I10: append {ticket} was told {told:?}, but is at {length}"));
            }
            if told_at(call) < latest_asked {
                return Err(format!("I10: {ticket} was done before one before it was asked for"));
            }
            latest_asked = latest_asked.max(call.asked);
        }
        match self
            .appends
            .iter()
            .find(|(ticket, (_, told))| told.is_some() && !distinct.contains(ticket))
        {
            Some((ticket, _)) => Err(format!("I10: append {ticket} is gone from list {name}")),
            None => Ok(()),
        }
    }

    /// A read is a prefix that has all appends told before it was asked for, and none that was
    /// asked for after it was told.
    fn read(&mut self, ticket: u64, call: &Call, seen: &[u64]) -> Result<(), Violation> {
        let list = &self.list;
        if !list.starts_with(seen) {
            return Err(format!("I11: read {ticket} saw {seen:?}, the list is {list:?}"));
        }
        let append = |ticket: &u64| self.appends.get(ticket).map(|(call, _)| *call);
        let done = |other: &u64| append(other).is_some_and(|other| told_at(other) < call.asked);
        if list.iter().skip(seen.len()).any(done) {
            return Err(format!("I10: read {ticket} missed an append that was done before it"));
        }
        let later = |other: &u64| append(other).is_some_and(|other| other.asked > told_at(call));
        if seen.iter().any(later) {
            return Err(format!("I10: read {ticket} saw an append of the future"));
        }
        self.reads.push((told_at(call), call.asked, seen.len()));
        Ok(())
    }

    /// A read sees no less than those told before it was asked for.
    fn reads(&mut self) -> Result<(), Violation> {
        self.reads.sort_unstable();
        for (_, asked, length) in &self.reads {
            let before = self.reads.iter().take_while(|(told, ..)| told < asked);
            if before.map(|(.., length)| *length).max().is_some_and(|most| most > *length) {
                let name = self.name;
                return Err(format!("I10: a read of list {name} saw less than one before it"));
            }
        }
        Ok(())
    }
}
