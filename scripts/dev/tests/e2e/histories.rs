//! Concurrent calls through several mounts, judged by the simulator's checker of linearizability.
//!
//! It needs the order in which changes were decided, and what they leave tells that: a file that is
//! only appended to has the tickets of all appends in their order, and a directory lists its names
//! in the order in which they were made. Linearizability is local (Herlihy & Wing, TOPLAS'90), so
//! that each can be judged by itself.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use anyhow::{Context as _, Result, ensure};
use bftfs_dev::{Mode, MountGuard};
use bftfs_proto::service::Context;
use bftfs_proto::types::{ClientId, SessionId, Wall};
use bftfs_sim::linear::{Calls, Model, mark};
use bftfs_sim::order::{Order, Step};
use bytes::Bytes;

use crate::lab::with_cluster;
use crate::workload::Numbers;

const MODES: [Mode; 3] = [Mode::Strict, Mode::RoLookup, Mode::Strict];
/// Threads that work through each mount at once.
const WORKERS: u64 = 2;
/// Calls of each thread.
const CALLS: u64 = 150;
/// What is read at once: one operation, and more than all tickets take.
const READ_BYTES: usize = 64 << 10;

/// Where tickets are written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    File,
    Directory,
}

/// What a call does. Its byte is the first of the operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Act {
    /// Writes its ticket down.
    Write = b'w',
    /// Reads all tickets.
    Read = b'r',
    /// Asks how many there are.
    Count = b'c',
}

impl Act {
    fn operation(self, ticket: u64) -> Bytes {
        let mut bytes = vec![self as u8];
        bytes.extend(ticket.to_le_bytes());
        bytes.into()
    }
}

impl Kind {
    /// What is there for workers to do: a listing is no single operation.
    const fn acts(self) -> &'static [Act] {
        match self {
            Self::File => &[Act::Write, Act::Read, Act::Count],
            Self::Directory => &[Act::Write, Act::Count],
        }
    }

    fn make(self, path: &Path) -> io::Result<()> {
        match self {
            Self::File => File::create_new(path).map(drop),
            Self::Directory => fs::create_dir(path),
        }
    }

    fn perform(self, path: &Path, act: Act, ticket: u64) -> io::Result<Bytes> {
        match (self, act) {
            (Self::File, Act::Write) => {
                File::options().append(true).open(path)?.write_all(&ticket.to_le_bytes())?;
                Ok(Bytes::new())
            }
            (Self::Directory, Act::Write) => {
                fs::create_dir(path.join(ticket.to_string())).map(|()| Bytes::new())
            }
            (_, Act::Read) => {
                let mut bytes = vec![0; READ_BYTES];
                let read = File::open(path)?.read_at(&mut bytes, 0)?;
                bytes.truncate(read);
                Ok(bytes.into())
            }
            (Self::File, Act::Count) => Ok(count(path.metadata()?.len() / 8)),
            // Every subdirectory is a link by its "..".
            (Self::Directory, Act::Count) => Ok(count(path.metadata()?.nlink() - 2)),
        }
    }

    /// All tickets, in the order in which they were written down.
    fn order(self, path: &Path) -> Result<Vec<u64>> {
        match self {
            Self::File => {
                let bytes = fs::read(path)?;
                let (tickets, rest) = bytes.as_chunks();
                ensure!(rest.is_empty(), "a ticket is cut off");
                Ok(tickets.iter().map(|ticket| u64::from_le_bytes(*ticket)).collect())
            }
            Self::Directory => {
                let names = fs::read_dir(path)?.map(|entry| Ok(entry?.file_name()));
                let names = names.collect::<io::Result<Vec<_>>>()?;
                let ticket = |name: &std::ffi::OsString| name.to_str()?.parse().ok();
                names.iter().map(|name| ticket(name).context("a name that nobody made")).collect()
            }
        }
    }
}

fn count(tickets: u64) -> Bytes {
    tickets.to_le_bytes().to_vec().into()
}

/// The tickets as one correct server would have them.
#[derive(Default)]
struct Tickets(Vec<u8>);

impl Model for Tickets {
    fn perform(&mut self, _: &Context, operation: &Bytes) -> Bytes {
        self.0.extend(&operation[1..]);
        Bytes::new()
    }

    fn query(&mut self, operation: &Bytes) -> Option<Bytes> {
        match operation[0] {
            act if act == Act::Read as u8 => Some(self.0.clone().into()),
            act if act == Act::Count as u8 => Some(count(self.0.len() as u64 / 8)),
            _ => None,
        }
    }

    fn close(&mut self, _: SessionId) {}

    fn show(result: &Bytes) -> String {
        let tickets = result.chunks(8).map(|ticket| ticket[0].to_string());
        format!("{} bytes: {}", result.len(), tickets.collect::<Vec<_>>().join(" "))
    }
}

#[test]
fn what_several_mounts_do_at_once_is_linearizable() {
    with_cluster(4, |lab| {
        let mounts = (0..).zip(MODES).map(|(n, mode)| lab.mount(&format!("mount-{n}"), mode));
        let mounts = mounts.collect::<Result<Vec<_>>>()?;
        for kind in [Kind::File, Kind::Directory] {
            let paths: Vec<_> =
                mounts.iter().map(|mount| mount.point().join(format!("{kind:?}"))).collect();
            kind.make(&paths[0])?;
            let calls = work(kind, &paths)?;
            let order = kind.order(&paths[0])?;
            judge(&calls, &order).with_context(|| format!("{kind:?}"))?;
            ensure!(order.len() > 100, "only {} tickets were written down", order.len());
        }
        mounts.into_iter().try_for_each(MountGuard::unmount)
    });
}

/// Works through all paths at once, and writes down who asked for what, and was told what, when.
fn work(kind: Kind, paths: &[PathBuf]) -> Result<Calls> {
    let (calls, tickets) = (Mutex::new(Calls::default()), AtomicU64::new(1));
    let call = |path: &Path, act: Act| -> Result<()> {
        let ticket = tickets.fetch_add(1, Ordering::Relaxed);
        lock(&calls).ask(ticket, act.operation(ticket));
        let told = kind.perform(path, act, ticket)?;
        lock(&calls).told(ticket, &told).map_err(anyhow::Error::msg)
    };
    thread::scope(|scope| {
        let seeds = 0..WORKERS * paths.len() as u64;
        let workers: Vec<_> = seeds
            .zip(paths.iter().cycle())
            .map(|(seed, path)| {
                let call = &call;
                scope.spawn(move || -> Result<()> {
                    let mut numbers = Numbers::new(seed);
                    for _ in 0..CALLS {
                        let acts = kind.acts();
                        let act = usize::try_from(numbers.below(acts.len() as u64))?;
                        call(path, acts[act])?;
                    }
                    Ok(())
                })
            })
            .collect();
        workers.into_iter().try_for_each(|worker| worker.join().expect("no panic"))
    })?;
    Ok(calls.into_inner().unwrap_or_else(PoisonError::into_inner))
}

fn lock(calls: &Mutex<Calls>) -> impl std::ops::DerefMut<Target = Calls> {
    calls.lock().unwrap_or_else(PoisonError::into_inner)
}

fn judge(calls: &Calls, tickets: &[u64]) -> Result<()> {
    let mut order = Order::default();
    for ticket in tickets {
        let context = Context { client: ClientId(1), session: SessionId(1), time: Wall(*ticket) };
        let operation = Act::Write.operation(*ticket);
        order.steps.push(Step::Operation(context, mark(*ticket, &operation)));
    }
    calls.judge(&mut Tickets::default(), &order).map_err(anyhow::Error::msg)
}

#[test]
fn histories_of_local_directories_are_linearizable_and_falsified_ones_are_not() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("file");
    Kind::File.make(&path).expect("a new file");
    let mut calls = work(Kind::File, std::slice::from_ref(&path)).expect("it is local");
    let mut order = Kind::File.order(&path).expect("its tickets");
    judge(&calls, &order).expect("it is as it should be");
    order.swap(0, 50);
    judge(&calls, &order).expect_err("two appends changed places");
    order.swap(0, 50);
    let lost = order.pop();
    judge(&calls, &order).expect_err("an append is lost");
    order.extend(lost);
    let next = 1 + calls.iter().map(|(ticket, _)| ticket).max().expect("there are calls");
    calls.ask(next, Act::Count.operation(next));
    calls.told(next, &count(order.len() as u64 - 1)).expect("it was asked for");
    judge(&calls, &order).expect_err("a count is stale");
}
