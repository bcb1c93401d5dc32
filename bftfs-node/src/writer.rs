//! The threads that wait for the disk, so that the agreement does not.

use std::io;
use std::sync::mpsc::{Receiver, Sender, SyncSender, TrySendError, channel, sync_channel};
use std::thread::{Builder, JoinHandle};

use bftfs_net::Links;
use bftfs_proto::codec;
use bftfs_proto::engine::{Record, Snapshots, To};
use bftfs_proto::message::{Data, Message};
use bftfs_proto::types::{Lsn, Principal, Seq};
use bftfs_state::Digest;
use tokio::sync::mpsc::UnboundedSender;
use tracing::warn;

use crate::data::Durability;
use crate::journal::{Entry, Journal, Keep};
use crate::store::{Checkpoint, Reader, Store};

/// Blocks that peers asked for and that wait to be read. They ask again for more.
const SERVE_MAX: usize = 256;

/// What a thread has done.
#[derive(Debug)]
pub(crate) enum Done {
    /// Records up to this one are kept.
    Journal(io::Result<Lsn>),
    /// The checkpoint at this number is on disk.
    Store(io::Result<Seq>),
}

enum Job {
    Append(Vec<Record>, Lsn),
    Truncate(Seq),
}

/// The journal. With `sync` on a thread of its own, since every write waits for the disk; else
/// here, since a write to memory is faster than a change of threads.
pub(crate) struct JournalWriter {
    place: Place,
    commits: u64,
}

enum Place {
    Here(Box<Journal>),
    Thread(Sender<Job>, JoinHandle<()>),
}

impl JournalWriter {
    pub(crate) fn start(
        journal: Journal,
        durability: Durability,
        done: UnboundedSender<Done>,
    ) -> io::Result<Self> {
        let place = match durability {
            Durability::Replicated => Place::Here(Box::new(journal)),
            Durability::Sync => {
                let (sender, jobs) = channel();
                let run = move || write_journal(journal, &jobs, &done);
                Place::Thread(sender, Builder::new().name("journal".into()).spawn(run)?)
            }
        };
        Ok(Self { place, commits: 0 })
    }

    /// Writes records. `Some` if they are kept when this returns; else [`Done::Journal`] comes.
    pub(crate) fn append(&mut self, records: Vec<Record>, lsn: Lsn) -> Option<io::Result<Lsn>> {
        self.commits += 1;
        match &mut self.place {
            Place::Here(journal) => Some(append(journal, &records, lsn)),
            Place::Thread(jobs, _) => {
                // The thread ends only with a failure that it has already told of.
                let _ = jobs.send(Job::Append(records, lsn));
                None
            }
        }
    }

    pub(crate) fn truncate(&mut self, seq: Seq) {
        match &mut self.place {
            Place::Here(journal) => journal.truncate(seq.0),
            Place::Thread(jobs, _) => {
                let _ = jobs.send(Job::Truncate(seq));
            }
        }
    }

    /// Group commits that were forced to disk.
    pub(crate) fn syncs(&self) -> u64 {
        if matches!(self.place, Place::Thread(..)) { self.commits } else { 0 }
    }

    /// Writes what is still to be written.
    pub(crate) fn finish(self) {
        if let Place::Thread(jobs, thread) = self.place {
            drop(jobs);
            // A panic has ended the process before.
            let _ = thread.join();
        }
    }
}

fn append(journal: &mut Journal, records: &[Record], lsn: Lsn) -> io::Result<Lsn> {
    let entries: Vec<Entry> = records.iter().map(entry).collect();
    journal.append(&entries).map(|()| lsn)
}

pub(crate) fn entry(record: &Record) -> Entry {
    let keep = match record {
        Record::Accepted { seq, .. }
        | Record::Prepared { seq, .. }
        | Record::Learned { seq, .. } => Keep::Until(seq.0),
        Record::Reaccepted(vote) => Keep::Until(vote.seq.0),
        Record::Stable(..) => Keep::Latest(0),
        Record::View(_) => Keep::Latest(1),
        Record::NewView(_) => Keep::Latest(2),
        Record::Claimed(..) => Keep::Latest(3),
        Record::Recovery(_) => Keep::Latest(4),
    };
    Entry { keep, bytes: codec::encode(record) }
}

fn write_journal(mut journal: Journal, jobs: &Receiver<Job>, done: &UnboundedSender<Done>) {
    for job in jobs {
        match job {
            Job::Truncate(seq) => journal.truncate(seq.0),
            Job::Append(records, lsn) => {
                let result = append(&mut journal, &records, lsn);
                let failed = result.is_err();
                if done.send(Done::Journal(result)).is_err() || failed {
                    return;
                }
            }
        }
    }
}

/// The store, on a thread of its own.
pub(crate) struct StoreWriter {
    jobs: Sender<Snapshots>,
    thread: JoinHandle<()>,
}

impl StoreWriter {
    pub(crate) fn start(mut store: Store, done: UnboundedSender<Done>) -> io::Result<Self> {
        let (jobs, receiver) = channel::<Snapshots>();
        let run = move || {
            for snapshots in receiver {
                let result = write_checkpoint(&mut store, &snapshots);
                let failed = result.is_err();
                if done.send(Done::Store(result)).is_err() || failed {
                    return;
                }
            }
        };
        Ok(Self { jobs, thread: Builder::new().name("store".into()).spawn(run)? })
    }

    pub(crate) fn write(&self, snapshots: Snapshots) {
        // As with the journal, a failure has been told of.
        let _ = self.jobs.send(snapshots);
    }

    pub(crate) fn finish(self) {
        drop(self.jobs);
        let _ = self.thread.join();
    }
}

fn write_checkpoint(store: &mut Store, snapshots: &Snapshots) -> io::Result<Seq> {
    let seq = snapshots.root.seq;
    store.write_checkpoint(&Checkpoint {
        seq: seq.0,
        meta: &codec::encode(&snapshots.root),
        added: &snapshots.added,
        freed: &snapshots.freed,
        trees: &snapshots.trees,
        rewrite: snapshots.rewrite,
    })?;
    Ok(seq)
}

/// Reads blocks of stored checkpoints for peers, on a thread of its own.
pub(crate) struct BlockServer {
    wanted: SyncSender<(Principal, Digest)>,
}

impl BlockServer {
    pub(crate) fn start(reader: Reader, links: Links) -> io::Result<Self> {
        let (wanted, receiver) = sync_channel(SERVE_MAX);
        let run = move || {
            for (to, digest) in receiver {
                match reader.get(&digest) {
                    Ok(Some(bytes)) => {
                        links.send(To::One(to), &Message::Data(Data::Block(digest, bytes)));
                    }
                    Ok(None) => {}
                    Err(error) => warn!("cannot read block {digest} for {to}: {error}"),
                }
            }
        };
        Builder::new().name("blocks".into()).spawn(run)?;
        Ok(Self { wanted })
    }

    pub(crate) fn serve(&self, to: Principal, digest: Digest) {
        match self.wanted.try_send((to, digest)) {
            Ok(()) | Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {}
        }
    }
}
