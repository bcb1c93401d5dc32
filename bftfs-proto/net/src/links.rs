//! Links: the connections to every replica and client, kept up for ever.
//!
//! Between two replicas the higher id dials; clients dial every replica. On a connection each end
//! opens one long stream per class: one for votes and other small messages, one for bulk. Nothing
//! is sent twice and nothing is kept for a peer that is away: the core asks again.

mod accept;
mod connection;
mod dial;
mod endpoint;
#[cfg(feature = "byzantine")]
mod forged;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bftfs_proto::Digest;
use bftfs_proto::auth::{PublicKey, Verified};
use bftfs_proto::engine::To;
use bftfs_proto::message::Message;
use bftfs_proto::types::{ClientId, Principal, ReplicaId, SessionId};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tracing::warn;

use crate::cluster_file::ClusterFile;
use crate::counters::{CounterReport, Counters, kind};
use crate::identity::{Identity, IdentityError};
use crate::members::{Members, Standing};
use crate::tls::{TlsError, Trust};

use connection::{Connection, Queued};
#[cfg(feature = "byzantine")]
pub use forged::Forged;

/// Events that wait for the driver. When it is full, the links stop reading.
const EVENTS_MAX: usize = 256;
/// Connections that one client may have: as many as it may have sessions.
const CLIENT_CONNECTIONS_MAX: usize = bftfs_proto::config::CLIENT_SESSIONS_MAX;
/// How long a shutdown waits for peers to hear of it.
const CLOSE_WAIT: Duration = Duration::from_millis(500);

/// QUIC application error codes, for people who read packet dumps.
#[derive(Clone, Copy, Debug)]
#[repr(u8)]
enum Code {
    Shutdown = 0,
    Replaced = 1,
    Violation = 2,
    TooMany = 3,
    Revoked = 4,
}

impl From<Code> for quinn::VarInt {
    fn from(code: Code) -> Self {
        Self::from_u32(u32::from(code as u8))
    }
}

/// What happened on the links.
#[derive(Debug)]
pub enum Event {
    /// A message arrived whose MAC, encoding and shape are right.
    Message(Principal, Verified<Message>),
    /// A connection to this member came up. A client may have several.
    Connected(Principal),
    /// The last connection to this member is gone.
    Disconnected(Principal),
    /// This member refuses the connection: it does not know us, or our access was revoked.
    Refused(Principal),
    /// A client was added to the cluster file, or its key changed.
    ClientAdded(ClientId, PublicKey),
}

/// Why there are no links.
#[derive(Debug, thiserror::Error)]
pub enum LinksError {
    /// The certificate is not that of the member it is used for.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The CA or the certificates cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The address is taken.
    #[error("UDP port {} on {} is in use by another process: stop it or change the address", address.port(), address.ip())]
    InUse {
        /// The address.
        address: SocketAddr,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {error}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Why not.
        error: io::Error,
    },
}

/// Who is connected.
#[derive(Debug, Default)]
struct Peers {
    replicas: BTreeMap<ReplicaId, Arc<Connection>>,
    clients: BTreeMap<ClientId, Vec<Arc<Connection>>>,
    /// Why the last attempt to dial a replica failed.
    failures: BTreeMap<ReplicaId, String>,
}

/// What all tasks of the links share.
#[derive(Debug)]
struct Shared {
    me: Principal,
    cluster: Digest,
    members: Arc<Members>,
    counters: Arc<Counters>,
    endpoint: quinn::Endpoint,
    events: mpsc::Sender<Event>,
    replicas: Vec<ReplicaId>,
    peers: Mutex<Peers>,
    refusals: accept::Throttle,
}

/// A handle to the links. Clones share them.
#[derive(Clone, Debug)]
pub struct Links {
    shared: Arc<Shared>,
    tasks: Arc<Vec<AbortHandle>>,
    /// Where messages go instead of to the peers.
    #[cfg(feature = "byzantine")]
    diversion: Option<mpsc::UnboundedSender<(To, Message)>>,
}

impl Links {
    /// Listens as replica `me` and dials the replicas below it. Must be called on a tokio runtime.
    ///
    /// # Errors
    /// If the identity is not that replica's, TLS cannot be set up or the address is taken.
    pub fn serve(
        file: &ClusterFile,
        identity: &Identity,
        me: ReplicaId,
    ) -> Result<(Self, mpsc::Receiver<Event>), LinksError> {
        identity.require_replica(file, me)?;
        Self::start(file, identity, Principal::Replica(me))
    }

    /// Dials every replica as the client that `identity` is. Must be called on a tokio runtime.
    ///
    /// # Errors
    /// If the identity is no client's, or TLS cannot be set up.
    pub fn client(
        file: &ClusterFile,
        identity: &Identity,
    ) -> Result<(Self, ClientId, mpsc::Receiver<Event>), LinksError> {
        let me = identity.require_client(file)?;
        let (links, events) = Self::start(file, identity, Principal::Client(me))?;
        Ok((links, me, events))
    }

    fn start(
        file: &ClusterFile,
        identity: &Identity,
        me: Principal,
    ) -> Result<(Self, mpsc::Receiver<Event>), LinksError> {
        let members = Arc::new(Members::new(file));
        let counters = Arc::new(Counters::default());
        let trust = Trust::new(file, members.clone(), counters.clone())?;
        let endpoint = endpoint::open(file, identity, me, &trust)?;
        let (events, receiver) = mpsc::channel(EVENTS_MAX);
        let below = |id: &ReplicaId| match me {
            Principal::Replica(me) => *id < me,
            Principal::Client(_) => true,
        };
        let replicas: Vec<ReplicaId> = file.cluster().ids().collect();
        let targets: Vec<ReplicaId> = replicas.iter().copied().filter(below).collect();
        let (cluster, peers, refusals) = (file.id, Mutex::default(), accept::Throttle::default());
        let shared = Arc::new(Shared {
            me,
            cluster,
            members,
            counters,
            endpoint,
            events,
            replicas,
            peers,
            refusals,
        });
        let mut tasks = Vec::new();
        for target in targets {
            let config = endpoint::dialer(file, identity, target, &trust)?;
            let address = file.replicas[target.0 as usize].address;
            let dialing = dial::keep_up(shared.clone(), target, address, config);
            tasks.push(tokio::spawn(dialing).abort_handle());
        }
        if matches!(me, Principal::Replica(_)) {
            tasks.push(tokio::spawn(accept::run(shared.clone())).abort_handle());
        }
        let links = Self {
            shared,
            tasks: Arc::new(tasks),
            #[cfg(feature = "byzantine")]
            diversion: None,
        };
        Ok((links, receiver))
    }

    /// Queues a message for whoever is connected. Never blocks and never fails: what cannot be
    /// queued is counted and forgotten.
    pub fn send(&self, to: To, message: &Message) {
        #[cfg(feature = "byzantine")]
        if self.divert(to, message) {
            return;
        }
        let encoded = message.encode();
        let session = message.session();
        self.enqueue(to, session, kind(message), |connection| connection.enqueue(&encoded));
    }

    /// Has `enqueue` queue a frame of this kind on every connection that it is for.
    fn enqueue(
        &self,
        to: To,
        session: Option<SessionId>,
        kind: &'static str,
        enqueue: impl Fn(&Connection) -> Queued,
    ) {
        let peers = self.shared.peers();
        let send = |connection: &Arc<Connection>| {
            let Queued { bytes, dropped } = enqueue(connection);
            self.shared.counters.sent(kind, bytes);
            if dropped > 0 {
                self.shared.counters.unsent(connection.peer, dropped);
            }
        };
        let send_to_replica = |id: ReplicaId| match peers.replicas.get(&id) {
            Some(connection) => send(connection),
            None => self.shared.counters.unsent(Principal::Replica(id), 1),
        };
        match to {
            To::One(Principal::Replica(id)) => send_to_replica(id),
            To::One(Principal::Client(id)) => match peers.clients.get(&id) {
                Some(connections) => concerned(connections, session).for_each(send),
                None => self.shared.counters.unsent(Principal::Client(id), 1),
            },
            To::Replicas => {
                let me = self.shared.me;
                let others = self.shared.replicas.iter().copied();
                others.filter(|id| Principal::Replica(*id) != me).for_each(send_to_replica);
            }
        }
    }

    /// Takes over what the agreed state says of clients: whose keys are accepted from now on, and
    /// who is cut off at once.
    pub fn set_standings(&self, standings: BTreeMap<ClientId, Standing>) {
        let changed = self.shared.members.set_standings(standings);
        let peers = self.shared.peers();
        for connection in changed.iter().filter_map(|id| peers.clients.get(id)).flatten() {
            connection.close(Code::Revoked, "the access of this client was revoked or changed");
        }
    }

    /// What was sent, received and refused so far.
    #[must_use]
    pub fn counters(&self) -> CounterReport {
        self.shared.counters.report()
    }

    /// Why the last attempt to dial each replica failed, for those not connected.
    #[must_use]
    pub fn failures(&self) -> BTreeMap<ReplicaId, String> {
        self.shared.peers().failures.clone()
    }

    /// The address that this end sends from.
    ///
    /// # Errors
    /// If the system does not say.
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        self.shared.endpoint.local_addr()
    }

    /// Closes every connection and tells the peers.
    pub async fn close(&self) {
        self.tasks.iter().for_each(AbortHandle::abort);
        self.shared.endpoint.close(Code::Shutdown.into(), b"shutting down");
        // A peer that does not answer finds out by itself.
        let _ = tokio::time::timeout(CLOSE_WAIT, self.shared.endpoint.wait_idle()).await;
    }
}

/// Those of a client's connections that a message about this session is for. Mounts share a
/// certificate, and each would hear what is said to all.
fn concerned(
    connections: &[Arc<Connection>],
    session: Option<SessionId>,
) -> impl Iterator<Item = &Arc<Connection>> {
    let is_its_own = |connection: &Arc<Connection>| connection.session() == session;
    let known = session.is_some() && connections.iter().any(is_its_own);
    // One that has just come up may be anybody's.
    let concerns = move |connection: &&Arc<Connection>| {
        !known || connection.session().is_none_or(|own| Some(own) == session)
    };
    connections.iter().filter(concerns)
}

impl Shared {
    fn peers(&self) -> MutexGuard<'_, Peers> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a connection the one that messages to its peer use. A replica's older connection is
    /// closed: the replica has restarted or lost it. An error if a client has too many, or none
    /// any more.
    fn register(&self, connection: &Arc<Connection>) -> Result<(), Code> {
        let mut peers = self.peers();
        match connection.peer {
            Principal::Replica(id) => {
                peers.failures.remove(&id);
                if let Some(old) = peers.replicas.insert(id, connection.clone()) {
                    old.close(Code::Replaced, "replaced by a newer connection");
                }
                Ok(())
            }
            // It may have been revoked since its handshake.
            Principal::Client(id) if self.members.is_revoked(id) => Err(Code::Revoked),
            Principal::Client(id) => {
                let connections = peers.clients.entry(id).or_default();
                if connections.len() >= CLIENT_CONNECTIONS_MAX {
                    return Err(Code::TooMany);
                }
                connections.push(connection.clone());
                Ok(())
            }
        }
    }

    /// Forgets a connection. True if its peer has no other.
    fn unregister(&self, connection: &Arc<Connection>) -> bool {
        let mut peers = self.peers();
        match connection.peer {
            Principal::Replica(id) => {
                let current = peers.replicas.get(&id).is_some_and(|c| Arc::ptr_eq(c, connection));
                if current {
                    peers.replicas.remove(&id);
                }
                current
            }
            Principal::Client(id) => {
                let Some(connections) = peers.clients.get_mut(&id) else { return false };
                let before = connections.len();
                connections.retain(|other| !Arc::ptr_eq(other, connection));
                let (gone, last) = (connections.len() < before, connections.is_empty());
                if last {
                    peers.clients.remove(&id);
                }
                gone && last
            }
        }
    }

    fn note_failure(&self, target: ReplicaId, reason: &str) {
        let old = self.peers().failures.insert(target, reason.to_owned());
        // The dialler tries for ever; people want to hear of a reason once.
        if old.is_none_or(|old| old != reason) {
            warn!("no connection to replica {target}: {reason}");
        }
    }
}
