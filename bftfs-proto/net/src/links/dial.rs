//! Dialling: one task per replica, which tries for ever.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bftfs_proto::types::{Principal, ReplicaId};
use quinn::ConnectionError;
use tokio::time::{sleep, timeout};

use super::connection::{self, Connection, Refusal, explain, refusal};
use super::{Code, Event, Shared};
use crate::clock::nanos;
use crate::tls::replica_name;

/// The pause after a first failure; it doubles up to [`PAUSE_MAX`].
const PAUSE: Duration = Duration::from_millis(50);
/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// A connection that lived so long was a good one: the next pause is short again.
const GOOD: Duration = Duration::from_secs(2);
/// How long one attempt may take.
const ATTEMPT: Duration = Duration::from_secs(2);
/// A peer that acknowledges nothing for so long may have restarted. At least four round trips.
const SILENCE: Duration = Duration::from_millis(250);
/// How long an attempt beside such a connection may take. At least four times as long as that.
const BESIDE: Duration = Duration::from_millis(500);

/// How long a peer that does not know us may take to come to know us: then it refuses us.
const SETTLING: Duration = Duration::from_secs(2);

/// Keeps a connection to `target` up, for ever.
pub(super) async fn keep_up(
    shared: Arc<Shared>,
    target: ReplicaId,
    address: SocketAddr,
    config: quinn::ClientConfig,
) {
    let dialler = Dialler { shared: shared.clone(), target, address, config };
    let mut pause = PAUSE;
    let mut unknown_since = None;
    while !shared.events.is_closed() {
        let started = Instant::now();
        let end = match dialler.dial(ATTEMPT).await {
            Ok(connection) => dialler.stay(connection).await.into(),
            Err(end) => end,
        };
        shared.note_failure(target, &format!("{address}: {}", end.reason));
        let refused = match end.refusal {
            Some(Refusal::Revoked) => true,
            Some(Refusal::Unknown) => unknown_since.get_or_insert(started).elapsed() >= SETTLING,
            None => {
                unknown_since = None;
                false
            }
        };
        if refused {
            let _ = shared.events.send(Event::Refused(Principal::Replica(target))).await;
        }
        if started.elapsed() >= GOOD + ATTEMPT {
            pause = PAUSE;
        }
        sleep(jittered(pause)).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// Why there is no connection.
struct End {
    reason: String,
    /// Why the peer will not have us, if it will not.
    refusal: Option<Refusal>,
}

impl From<ConnectionError> for End {
    fn from(error: ConnectionError) -> Self {
        Self { reason: explain(&error), refusal: refusal(&error) }
    }
}

impl From<String> for End {
    fn from(reason: String) -> Self {
        Self { reason, refusal: None }
    }
}

/// Whom to dial, and how.
struct Dialler {
    shared: Arc<Shared>,
    target: ReplicaId,
    address: SocketAddr,
    config: quinn::ClientConfig,
}

impl Dialler {
    async fn dial(&self, patience: Duration) -> Result<Arc<Connection>, End> {
        let name = replica_name(self.target);
        let connecting =
            self.shared.endpoint.connect_with(self.config.clone(), self.address, &name);
        let connecting = connecting.map_err(|error| error.to_string())?;
        let quic = timeout(patience, connecting).await.map_err(|_| "no answer".to_owned())??;
        Ok(Connection::new(&self.shared, quic, Principal::Replica(self.target)))
    }

    /// Stays until the connection is gone, or a better one to the same peer is. Returns why it is.
    async fn stay(&self, mut connection: Arc<Connection>) -> ConnectionError {
        loop {
            let better = {
                let mut life = std::pin::pin!(connection::run(&self.shared, &connection, true));
                let better = tokio::select! {
                    reason = &mut life => return reason,
                    better = self.better(&connection) => better,
                };
                connection.close(Code::Replaced, "replaced by a newer connection");
                life.await;
                better
            };
            connection = better;
        }
    }

    /// A new connection to a peer that no longer answers on `old`, once there is one. A peer that
    /// restarted would say so when it hears from the old connection, but QUIC probes a silent peer
    /// ever more seldom: after a second, only every second.
    async fn better(&self, old: &Connection) -> Arc<Connection> {
        loop {
            let before = old.traffic();
            sleep(SILENCE.max(4 * before.round_trip)).await;
            let now = old.traffic();
            if !now.is_unanswered_since(&before) {
                continue;
            }
            let Ok(new) = self.dial(BESIDE.max(16 * now.round_trip)).await else { continue };
            if old.traffic().is_unanswered_since(&before) {
                return new;
            }
            new.close(Code::Replaced, "the older connection answers after all");
        }
    }
}

/// Half to the whole of `pause`, so that all do not come at once.
fn jittered(pause: Duration) -> Duration {
    let half = nanos(pause) / 2;
    let random = getrandom::u64().unwrap_or_default();
    Duration::from_nanos(half + random % (half + 1))
}
