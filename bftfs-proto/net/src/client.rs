//! The client core over links: submit an operation from any thread, get its result.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::path::Path;
use std::time::Duration;

use bftfs_proto::client::{Client, ClientInput, ClientOutput, ClientStats, Failure, How};
use bftfs_proto::types::{Mono, Principal, ReplicaId};
use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use crate::clock::{Clock, nanos};
use crate::cluster_file::{ClusterFile, ClusterFileError};
use crate::counters::CounterReport;
use crate::identity::{Identity, IdentityError};
use crate::links::{Event, Links, LinksError};

/// Inputs that are handled before outputs are sent, so that what is sent together goes together.
const INPUTS_MAX: usize = 64;

/// Called with the result of an operation, on the network's thread. It must not block.
pub type Callback = Box<dyn FnOnce(Result<Bytes, Failure>) + Send>;

/// Called with what a nudge is about, on the network's thread. It must not block.
pub type Listener = Box<dyn Fn(Bytes) + Send>;

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The cluster file cannot be used.
    #[error(transparent)]
    ClusterFile(#[from] ClusterFileError),
    /// The certificate or key cannot be used.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The links cannot be set up.
    #[error(transparent)]
    Links(#[from] LinksError),
    /// The network's thread cannot be started.
    #[error("cannot start the network's thread: {0}")]
    Thread(io::Error),
    /// The system gives no randomness.
    #[error("the system gives no random numbers: {0}")]
    Random(getrandom::Error),
}

/// Which replicas can be reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Readiness {
    /// Those that answered.
    pub answered: Vec<ReplicaId>,
    /// Those that did not, and why, as far as it is known.
    pub missing: Vec<(ReplicaId, String)>,
    /// How many are needed.
    pub quorum: usize,
}

impl Readiness {
    /// Whether enough replicas answered.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.answered.len() >= self.quorum
    }
}

impl fmt::Display for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.answered[..] {
            [] => f.write_str("no replica answered")?,
            [one] => write!(f, "replica {one} answered")?,
            many => {
                let ids: Vec<_> = many.iter().map(ToString::to_string).collect();
                write!(f, "replicas {} answered", ids.join(", "))?;
            }
        }
        for (id, why) in &self.missing {
            write!(f, "; replica {id} did not ({why})")?;
        }
        write!(f, "; a quorum of {} is needed", self.quorum)
    }
}

/// What a client did and what went over its links.
#[derive(Clone, Debug, Default)]
pub struct ClientReport {
    /// Operations.
    pub operations: ClientStats,
    /// Messages.
    pub messages: CounterReport,
}

enum Job {
    Submit { operation: Bytes, how: How, deadline: Mono, done: Callback },
    Ready { deadline: Mono, reply: oneshot::Sender<Readiness> },
    Report(oneshot::Sender<ClientReport>),
    Listen(Listener),
    Close(oneshot::Sender<()>),
}

/// A client of the cluster that any thread may use. Clones share it.
///
/// When the last handle is dropped, the client disconnects; what is outstanding is forgotten and
/// its callbacks are dropped without being called.
#[derive(Clone)]
pub struct ClientHandle {
    jobs: mpsc::UnboundedSender<Job>,
    clock: Clock,
}

impl fmt::Debug for ClientHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientHandle")
    }
}

impl ClientHandle {
    /// Connects as the client that `identity` is. Must be called on a tokio runtime, whose thread
    /// then does the client's work. Does not wait for the replicas: see [`Self::ready`].
    ///
    /// # Errors
    /// If the identity is no client of this cluster or the links cannot be set up.
    pub fn connect(file: &ClusterFile, identity: &Identity) -> Result<Self, ClientError> {
        let (handle, work) = Self::prepare(file, identity)?;
        tokio::spawn(work);
        Ok(handle)
    }

    /// Reads the files and connects on a new thread with a runtime of its own.
    ///
    /// # Errors
    /// If a file cannot be used, the identity is no client of this cluster, or the links or the
    /// thread cannot be set up.
    pub fn spawn(cluster: &Path, certificate: &Path, key: &Path) -> Result<Self, ClientError> {
        let file = ClusterFile::load(cluster)?;
        let identity = Identity::load(certificate, key)?;
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_all().build().map_err(ClientError::Thread)?;
        let (handle, work) = {
            let _guard = runtime.enter();
            Self::prepare(&file, &identity)?
        };
        let thread = std::thread::Builder::new().name("bftfs-client".into());
        thread.spawn(move || runtime.block_on(work)).map_err(ClientError::Thread)?;
        Ok(handle)
    }

    /// A handle, and the work that must be done for it.
    fn prepare(
        file: &ClusterFile,
        identity: &Identity,
    ) -> Result<(Self, impl Future<Output = ()> + use<>), ClientError> {
        let (links, me, events) = Links::client(file, identity)?;
        let (cluster, clock) = (file.cluster(), Clock::default());
        let nonce = getrandom::u64().map_err(ClientError::Random)?;
        let driver = Driver {
            replicas: cluster.ids().collect(),
            quorum: cluster.quorum(),
            client: Client::new(cluster, me, identity.signer(), nonce, clock.now()),
            links,
            clock,
            callbacks: BTreeMap::new(),
            listener: None,
            next_ticket: 0,
            connected: BTreeSet::new(),
            refusing: BTreeSet::new(),
            waiting: Vec::new(),
        };
        let (jobs, receiver) = mpsc::unbounded_channel();
        Ok((Self { jobs, clock }, driver.run(receiver, events)))
    }

    /// Has `operation` carried out and `done` called with its result or why there is none, at the
    /// latest after `deadline`. Returns at once; may be called from any thread.
    pub fn submit(&self, operation: Bytes, how: How, deadline: Duration, done: Callback) {
        let deadline = self.clock.now().mono.after(nanos(deadline));
        if let Err(refused) = self.jobs.send(Job::Submit { operation, how, deadline, done })
            && let Job::Submit { done, .. } = refused.0
        {
            done(Err(Failure::Deadline));
        }
    }

    /// Has `operation` carried out.
    ///
    /// # Errors
    /// Why it has no result, at the latest after `deadline`.
    pub async fn call(
        &self,
        operation: Bytes,
        how: How,
        deadline: Duration,
    ) -> Result<Bytes, Failure> {
        let (sender, receiver) = oneshot::channel();
        // Whoever no longer waits does not mind.
        let done = Box::new(|result| drop(sender.send(result)));
        self.submit(operation, how, deadline, done);
        receiver.await.unwrap_or(Err(Failure::Deadline))
    }

    /// [`Self::call`] for a thread without a runtime.
    ///
    /// # Errors
    /// As [`Self::call`].
    ///
    /// # Panics
    /// On a thread of a tokio runtime, which must not be blocked.
    pub fn call_blocking(
        &self,
        operation: Bytes,
        how: How,
        deadline: Duration,
    ) -> Result<Bytes, Failure> {
        let (sender, receiver) = oneshot::channel();
        let done = Box::new(|result| drop(sender.send(result)));
        self.submit(operation, how, deadline, done);
        receiver.blocking_recv().unwrap_or(Err(Failure::Deadline))
    }

    /// From now on has `listener` called when something may have come that the session waits for.
    /// What comes is not certain to be told.
    pub fn listen(&self, listener: Listener) {
        let _ = self.jobs.send(Job::Listen(listener));
    }

    /// Waits until a quorum of replicas answered, at most `timeout`, and says which did.
    pub async fn ready(&self, timeout: Duration) -> Readiness {
        self.when_ready(timeout).await.unwrap_or_else(|_| Readiness::unknown())
    }

    /// [`Self::ready`] for a thread without a runtime.
    ///
    /// # Panics
    /// On a thread of a tokio runtime, which must not be blocked.
    #[must_use]
    pub fn ready_blocking(&self, timeout: Duration) -> Readiness {
        self.when_ready(timeout).blocking_recv().unwrap_or_else(|_| Readiness::unknown())
    }

    fn when_ready(&self, timeout: Duration) -> oneshot::Receiver<Readiness> {
        let (reply, receiver) = oneshot::channel();
        let deadline = self.clock.now().mono.after(nanos(timeout));
        let _ = self.jobs.send(Job::Ready { deadline, reply });
        receiver
    }

    /// What this client did so far.
    pub async fn report(&self) -> ClientReport {
        self.ask_report().await.unwrap_or_default()
    }

    /// [`Self::report`] for a thread without a runtime.
    ///
    /// # Panics
    /// On a thread of a tokio runtime, which must not be blocked.
    #[must_use]
    pub fn report_blocking(&self) -> ClientReport {
        self.ask_report().blocking_recv().unwrap_or_default()
    }

    fn ask_report(&self) -> oneshot::Receiver<ClientReport> {
        let (reply, receiver) = oneshot::channel();
        let _ = self.jobs.send(Job::Report(reply));
        receiver
    }

    /// Disconnects and tells the replicas. What is outstanding is forgotten.
    pub async fn close(&self) {
        let (reply, receiver) = oneshot::channel();
        let _ = self.jobs.send(Job::Close(reply));
        let _ = receiver.await;
    }
}

impl Readiness {
    /// What is said when the client is gone.
    fn unknown() -> Self {
        Self { answered: Vec::new(), missing: Vec::new(), quorum: 1 }
    }
}

/// The task that owns the client core.
struct Driver {
    client: Client,
    links: Links,
    clock: Clock,
    callbacks: BTreeMap<u64, Callback>,
    listener: Option<Listener>,
    next_ticket: u64,
    replicas: Vec<ReplicaId>,
    quorum: usize,
    connected: BTreeSet<ReplicaId>,
    /// Those that will not have us.
    refusing: BTreeSet<ReplicaId>,
    waiting: Vec<(Mono, oneshot::Sender<Readiness>)>,
}

impl Driver {
    async fn run(
        mut self,
        mut jobs: mpsc::UnboundedReceiver<Job>,
        mut events: mpsc::Receiver<Event>,
    ) {
        let timer = tokio::time::sleep(Duration::ZERO);
        tokio::pin!(timer);
        let mut armed = None;
        let closer = loop {
            let due = self.due();
            if due != armed
                && let Some(due) = due
            {
                timer.as_mut().reset(self.clock.instant(due).into());
            }
            armed = due;
            tokio::select! {
                job = jobs.recv() => match job {
                    Some(Job::Close(reply)) => break Some(reply),
                    Some(job) => self.on_job(job),
                    None => break None,
                },
                Some(event) = events.recv() => self.on_event(event),
                () = &mut timer, if armed.is_some() => {
                    armed = None;
                    self.step(ClientInput::Timeout);
                }
            }
            for _ in 0..INPUTS_MAX {
                let Ok(event) = events.try_recv() else { break };
                self.on_event(event);
            }
            self.answer_waiting();
        };
        self.links.close().await;
        if let Some(reply) = closer {
            let _ = reply.send(());
        }
    }

    /// When the core or somebody who waits for readiness wants to be woken.
    fn due(&self) -> Option<Mono> {
        self.waiting.iter().map(|(deadline, _)| *deadline).chain(self.client.poll_timeout()).min()
    }

    fn on_job(&mut self, job: Job) {
        match job {
            Job::Submit { done, .. } if self.is_refused() => done(Err(Failure::Refused)),
            Job::Submit { operation, how, deadline, done } => {
                let ticket = self.next_ticket;
                self.next_ticket += 1;
                self.callbacks.insert(ticket, done);
                self.step(ClientInput::Submit { ticket, operation, how, deadline });
            }
            Job::Ready { deadline, reply } => self.waiting.push((deadline, reply)),
            Job::Report(reply) => {
                let report = ClientReport {
                    operations: self.client.stats(),
                    messages: self.links.counters(),
                };
                let _ = reply.send(report);
            }
            Job::Listen(listener) => self.listener = Some(listener),
            Job::Close(_) => unreachable!("the loop ends with it"),
        }
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Message(Principal::Replica(id), message) => {
                self.step(ClientInput::Message(id, message));
            }
            Event::Connected(Principal::Replica(id)) => {
                self.connected.insert(id);
                self.refusing.remove(&id);
                self.step(ClientInput::Connected(id));
            }
            Event::Disconnected(Principal::Replica(id)) => {
                self.connected.remove(&id);
            }
            Event::Refused(Principal::Replica(id)) => {
                self.refusing.insert(id);
                if self.is_refused() {
                    let callbacks = std::mem::take(&mut self.callbacks);
                    callbacks.into_values().for_each(|done| done(Err(Failure::Refused)));
                }
            }
            // A client has no links to clients.
            _ => {}
        }
    }

    /// Whether no quorum can be had of those that do not refuse us: nobody need wait for it.
    fn is_refused(&self) -> bool {
        self.replicas.len() - self.refusing.len() < self.quorum
    }

    fn step(&mut self, input: ClientInput) {
        self.client.handle(self.clock.now(), input);
        while let Some(output) = self.client.poll_output() {
            match output {
                ClientOutput::Send { to, message } => self.links.send(to, &message),
                ClientOutput::Nudge { about } => {
                    self.listener.iter().for_each(|listener| listener(about.clone()));
                }
                ClientOutput::Complete { ticket, result } => {
                    if let Some(done) = self.callbacks.remove(&ticket) {
                        done(result);
                    }
                }
            }
        }
    }

    fn answer_waiting(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        let (now, readiness) = (self.clock.now().mono, self.readiness());
        for (deadline, reply) in std::mem::take(&mut self.waiting) {
            if readiness.is_ready() || deadline <= now {
                let _ = reply.send(readiness.clone());
            } else {
                self.waiting.push((deadline, reply));
            }
        }
    }

    fn readiness(&self) -> Readiness {
        let failures = self.links.failures();
        let missing = self.replicas.iter().filter(|id| !self.connected.contains(id));
        let why =
            |id: &ReplicaId| failures.get(id).map_or("no answer yet", String::as_str).to_owned();
        Readiness {
            answered: self.connected.iter().copied().collect(),
            missing: missing.map(|id| (*id, why(id))).collect(),
            quorum: self.quorum,
        }
    }
}
