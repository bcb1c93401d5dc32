//! Dialling: one task per replica, which tries for ever.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bftfs_proto::types::{Principal, ReplicaId};

use super::Shared;
use super::connection::{self, Connection, explain};
use crate::clock::nanos;
use crate::tls::replica_name;

/// The pause after a first failure; it doubles up to [`PAUSE_MAX`].
const PAUSE: Duration = Duration::from_millis(50);
/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// A connection that lived so long was a good one: the next pause is short again.
const GOOD: Duration = Duration::from_secs(2);
/// How long one attempt may take.
const ATTEMPT: Duration = Duration::from_secs(2);

/// Keeps a connection to `target` up, for ever.
pub(super) async fn keep_up(
    shared: Arc<Shared>,
    target: ReplicaId,
    address: SocketAddr,
    config: quinn::ClientConfig,
) {
    let mut pause = PAUSE;
    while !shared.events.is_closed() {
        let started = Instant::now();
        let reason = attempt(&shared, target, address, config.clone()).await;
        shared.note_failure(target, &format!("{address}: {reason}"));
        if started.elapsed() >= GOOD + ATTEMPT {
            pause = PAUSE;
        }
        tokio::time::sleep(jittered(pause)).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// Connects once and stays until the connection is gone. Returns why it is.
async fn attempt(
    shared: &Arc<Shared>,
    target: ReplicaId,
    address: SocketAddr,
    config: quinn::ClientConfig,
) -> String {
    let connecting = match shared.endpoint.connect_with(config, address, &replica_name(target)) {
        Ok(connecting) => connecting,
        Err(error) => return error.to_string(),
    };
    match tokio::time::timeout(ATTEMPT, connecting).await {
        Err(_) => "no answer".into(),
        Ok(Err(error)) => explain(&error),
        Ok(Ok(quic)) => {
            let connection = Connection::new(shared, quic, Principal::Replica(target));
            explain(&connection::run(shared, &connection, true).await)
        }
    }
}

/// Half to the whole of `pause`, so that all do not come at once.
fn jittered(pause: Duration) -> Duration {
    let half = nanos(pause) / 2;
    let random = getrandom::u64().unwrap_or_default();
    Duration::from_nanos(half + random % (half + 1))
}
