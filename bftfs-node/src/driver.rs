//! The loop that runs a replica: inputs in, records to the journal, messages out.
//!
//! One thread runs the agreement. While the disk writes one group of records, the next group
//! collects; no message leaves before the records that it depends on are kept (`engine.rs`).

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use bftfs_fs::{FileSystem, registry};
use bftfs_net::{Clock, Event, Links, Standing};
use bftfs_proto::Digest;
use bftfs_proto::engine::{Input, Outbox, Release};
use bftfs_proto::replica::Replica;
use bftfs_proto::types::{Mono, ReplicaId, Seq, View};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tracing::{error, info, warn};

use crate::startup::Node;
use crate::status::{Query, Report, StatusSocket};
use crate::store::Blocks;
use crate::writer::{BlockServer, Done, JournalWriter, StoreWriter};

/// Inputs that are handled before records are written and messages sent.
const INPUTS_MAX: usize = 128;
/// Checkpoints on their way to disk above which nothing new is heard: the disk is too slow.
const STORING_MAX: usize = 3;

/// Runs a replica until SIGTERM or SIGINT; SIGUSR2 has it ask for another primary. Must be called on a current-thread runtime.
///
/// # Errors
/// If the address is taken, the status socket cannot be made, or the disk fails or is full: then
/// what the disk holds is not known, and the replica must not go on.
pub async fn run(node: Node, socket: &Path) -> anyhow::Result<()> {
    let mut signals = Signals::new()?;
    let (links, events) = Links::serve(&node.file, &node.identity, node.me)?;
    #[cfg(feature = "byzantine")]
    let (links, events) = crate::byzantine::stand_between(&node, links, events)?;
    let (status, queries) = StatusSocket::open(socket, node.blocks.clone())?;
    let cluster = node.file.cluster();
    let at = node.replica.status();
    info!(
        "replica {} of \"{}\" listens on {}: n={} f={} quorum={} durability={} view={} executed={}",
        node.me,
        node.file.name,
        node.file.replicas[node.me.0 as usize].address,
        cluster.n(),
        cluster.f(),
        cluster.quorum(),
        node.file.durability,
        at.view,
        at.last_executed
    );
    let (driver, done, damaged) = Driver::start(node, links)?;
    let result = driver.run(events, done, queries, damaged, &mut signals).await;
    drop(status);
    result
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    rotate: Signal,
}

/// What a signal wants.
enum Wish {
    Stop,
    Rotate,
}

impl Signals {
    fn new() -> io::Result<Self> {
        let terminate = signal(SignalKind::terminate())?;
        let interrupt = signal(SignalKind::interrupt())?;
        let rotate = signal(SignalKind::user_defined2())?;
        Ok(Self { terminate, interrupt, rotate })
    }

    async fn next(&mut self) -> Wish {
        tokio::select! {
            _ = self.terminate.recv() => Wish::Stop,
            _ = self.interrupt.recv() => Wish::Stop,
            _ = self.rotate.recv() => Wish::Rotate,
        }
    }
}

/// The task that owns the replica.
struct Driver {
    me: ReplicaId,
    replica: Replica<FileSystem>,
    clock: Clock,
    outbox: Outbox,
    links: Links,
    journal: JournalWriter,
    /// A group of records is on its way to disk.
    writing: bool,
    store: StoreWriter,
    storing: usize,
    blocks: BlockServer,
    kept: Blocks,
    diverged: bool,
    /// The view that was spoken of last, and whether it had begun.
    view: (View, bool),
    /// The generation of the registry of clients that the links know.
    clients: u64,
    /// What was executed when the registry was looked at last.
    followed: Option<Seq>,
}

impl Driver {
    fn start(
        node: Node,
        links: Links,
    ) -> io::Result<(Self, mpsc::UnboundedReceiver<Done>, mpsc::UnboundedReceiver<Digest>)> {
        let (done, receiver) = mpsc::unbounded_channel();
        let mut driver = Self {
            me: node.me,
            view: (node.replica.view(), node.replica.is_active()),
            replica: node.replica,
            clock: node.clock,
            outbox: Outbox::default(),
            kept: node.blocks,
            blocks: BlockServer::start(node.store.reader(), links.clone())?,
            links,
            journal: JournalWriter::start(node.journal, node.durability, done.clone())?,
            writing: false,
            store: StoreWriter::start(node.store, done)?,
            storing: 0,
            diverged: false,
            clients: 0,
            followed: None,
        };
        driver.follow_clients();
        Ok((driver, receiver, node.damaged))
    }

    async fn run(
        mut self,
        mut events: mpsc::Receiver<Event>,
        mut done: mpsc::UnboundedReceiver<Done>,
        mut queries: mpsc::Receiver<Query>,
        mut damaged: mpsc::UnboundedReceiver<Digest>,
        signals: &mut Signals,
    ) -> anyhow::Result<()> {
        let timer = tokio::time::sleep(Duration::ZERO);
        tokio::pin!(timer);
        let mut armed: Option<Mono> = None;
        let result = loop {
            if let Err(error) = self.flush() {
                break Err(error);
            }
            let due = self.replica.poll_timeout();
            if due != armed
                && let Some(due) = due
            {
                timer.as_mut().reset(self.clock.instant(due).into());
            }
            armed = due;
            tokio::select! {
                wish = signals.next() => match wish {
                    Wish::Stop => break Ok(()),
                    Wish::Rotate => self.step(Input::Rotate),
                },
                Some(done) = done.recv() => {
                    if let Err(error) = self.on_done(done) {
                        break Err(error);
                    }
                }
                Some(query) = queries.recv() => query.answer(self.report()),
                Some(digest) = damaged.recv(), if self.replica.takes_damage() => {
                    self.step(Input::Damaged(digest));
                }
                () = &mut timer, if armed.is_some() => {
                    armed = None;
                    self.step(Input::Timeout);
                    self.look_at_state();
                }
                Some(event) = events.recv(), if self.storing <= STORING_MAX => {
                    self.on_event(event);
                    self.on_more(&mut events);
                }
            }
        };
        self.stop().await;
        result
    }

    /// What else has arrived, up to a limit: the more at once, the fewer writes.
    fn on_more(&mut self, events: &mut mpsc::Receiver<Event>) {
        for _ in 1..INPUTS_MAX {
            if self.storing > STORING_MAX {
                return;
            }
            let Ok(event) = events.try_recv() else { return };
            self.on_event(event);
        }
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Message(from, message) => self.step(Input::Message(from, message)),
            Event::ClientAdded(id, key) => self.step(Input::Client(id, key)),
            // Whoever comes back says by itself where it is.
            Event::Connected(_) | Event::Disconnected(_) | Event::Refused(_) => {}
        }
    }

    fn on_done(&mut self, done: Done) -> anyhow::Result<()> {
        match done {
            Done::Journal(written) => {
                self.outbox.durable(written.context(JOURNAL_FAILED)?);
                self.writing = false;
            }
            Done::Store(stored) => {
                self.storing -= 1;
                self.step(Input::CheckpointDurable(stored.context(STORE_FAILED)?));
            }
        }
        Ok(())
    }

    fn step(&mut self, input: Input) {
        self.replica.handle(self.clock.now(), input);
        self.drain();
        self.tell_view();
        self.follow_clients();
    }

    /// Has the links and the agreement know whom administrators admitted, and cuts off whom they
    /// revoked. The state may also go back, or be another one at once.
    fn follow_clients(&mut self) {
        // Only execution changes the state, and most steps are votes.
        let executed = Some(self.replica.executed());
        if std::mem::replace(&mut self.followed, executed) == executed {
            return;
        }
        let generation = registry::generation(self.replica.tree());
        if generation == self.clients {
            return;
        }
        self.clients = generation;
        let mut standings = BTreeMap::new();
        let mut keys = Vec::new();
        for (id, client) in registry::clients(self.replica.tree()) {
            let revoked = client.rule.is_none();
            standings.insert(id, Standing { key: client.key, revoked });
            keys.extend(client.key.map(|key| (id, key)).filter(|_| !revoked));
        }
        for (id, key) in keys {
            self.replica.handle(self.clock.now(), Input::Client(id, key));
        }
        self.drain();
        self.links.set_standings(standings);
    }

    /// Says when a view is left, and when one begins.
    fn tell_view(&mut self) {
        let before = self.view;
        self.view = (self.replica.view(), self.replica.is_active());
        let (view, active) = self.view;
        if self.view != before && active {
            info!("view {view} begins");
        } else if view != before.0 {
            warn!("view {} is left for {view}: its primary did not serve", before.0);
        }
    }

    fn drain(&mut self) {
        while let Some(output) = self.replica.poll_output() {
            self.outbox.push(output);
        }
    }

    /// Has the records written, unless a group is being written, and sends what may leave.
    fn flush(&mut self) -> anyhow::Result<()> {
        self.drain();
        if !self.writing {
            let (records, lsn) = self.outbox.take_records();
            if !records.is_empty() {
                match self.journal.append(records, lsn) {
                    Some(written) => self.outbox.durable(written.context(JOURNAL_FAILED)?),
                    None => self.writing = true,
                }
            }
        }
        for release in self.outbox.release() {
            match release {
                Release::Send(to, message) => self.links.send(to, &message),
                Release::Truncate(seq) => self.journal.truncate(seq),
                Release::Serve(to, digest) => self.blocks.serve(to, digest),
                Release::Checkpoint(snapshots) => {
                    self.storing += 1;
                    self.store.write(*snapshots);
                }
            }
        }
        Ok(())
    }

    /// Says once that this replica is of no more use.
    fn look_at_state(&mut self) {
        if self.replica.status().diverged && !self.diverged {
            self.diverged = true;
            error!(
                "replica {}'s state differs from what a quorum agreed on: it says nothing more; \
                 stop it, move its data directory away and have it admitted anew",
                self.me
            );
        }
    }

    fn report(&self) -> Report {
        let (counters, store) = (self.links.counters(), self.kept.report());
        Report::new(self.replica.status(), counters, self.journal.syncs(), store)
    }

    /// Says farewell, and waits for what the disk is writing.
    async fn stop(self) {
        self.links.close().await;
        self.journal.finish();
        self.store.finish();
        info!("replica {} stopped", self.me);
    }
}

const JOURNAL_FAILED: &str = "the journal cannot be written, so the replica stops: it must not \
                              promise what it cannot keep. Make room or mend the disk, then start \
                              it again";
const STORE_FAILED: &str = "a checkpoint cannot be written, so the replica stops: its journal \
                            would grow for ever. Make room or mend the disk, then start it again";
