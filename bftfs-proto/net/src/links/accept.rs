//! Accepting: strangers get as far as a handshake, and only so many at a time.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use quinn::Incoming;
use rustls::pki_types::CertificateDer;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::{debug, warn};

use super::connection::{self, Connection, explain};
use super::{Event, Shared};

/// Handshakes under way. More are turned away.
const HANDSHAKES_MAX: usize = 64;
/// Handshakes under way above which a stranger must first show that its address is its own.
const HANDSHAKES_TRUSTING: usize = 16;
/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// Refused handshakes are logged at most this often; all are counted.
const LOG_INTERVAL: Duration = Duration::from_secs(1);

/// Accepts connections until the endpoint is closed.
pub(super) async fn run(shared: Arc<Shared>) {
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    while let Some(incoming) = shared.endpoint.accept().await {
        let address = incoming.remote_address();
        match handshakes.clone().try_acquire_owned() {
            Err(_) => {
                shared.counters.reject(None, "too many handshakes");
                incoming.refuse();
            }
            Ok(_) if is_crowded(&handshakes) && !incoming.remote_address_validated() => {
                // Cannot fail: an address that is not validated has not been asked yet.
                let _ = incoming.retry();
            }
            Ok(permit) => {
                tokio::spawn(serve(shared.clone(), incoming, permit));
                debug!("a handshake with {address} begins");
            }
        }
    }
}

fn is_crowded(handshakes: &Semaphore) -> bool {
    handshakes.available_permits() < HANDSHAKES_MAX - HANDSHAKES_TRUSTING
}

/// Shakes hands and stays until the connection is gone.
async fn serve(shared: Arc<Shared>, incoming: Incoming, permit: OwnedSemaphorePermit) {
    let address = incoming.remote_address();
    let quic = match handshake(incoming).await {
        Ok(quic) => quic,
        Err(reason) if shared.refusals.is_due() => {
            return warn!("refused a connection from {address}: {reason}");
        }
        Err(reason) => return debug!("refused a connection from {address}: {reason}"),
    };
    drop(permit);
    for (id, key) in shared.members.take_added() {
        let _ = shared.events.send(Event::ClientAdded(id, key)).await;
    }
    let identity =
        quic.peer_identity().and_then(|any| any.downcast::<Vec<CertificateDer<'_>>>().ok());
    let leaf = identity.as_ref().and_then(|chain| chain.first());
    // The verifier found it a moment ago; it is gone if its key was changed since.
    let Some(Ok(peer)) = leaf.map(|leaf| shared.members.find(leaf)) else { return };
    let connection = Connection::new(&shared, quic, peer);
    connection::run(&shared, &connection, false).await;
}

async fn handshake(incoming: Incoming) -> Result<quinn::Connection, String> {
    let connecting = incoming.accept().map_err(|error| explain(&error))?;
    let timed = tokio::time::timeout(HANDSHAKE, connecting).await;
    timed.map_err(|_| "the handshake took too long".to_owned())?.map_err(|error| explain(&error))
}

/// Lets a stranger fill counters, but no log.
#[derive(Debug, Default)]
pub(super) struct Throttle(Mutex<Option<Instant>>);

impl Throttle {
    fn is_due(&self) -> bool {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let due = last.is_none_or(|last| last.elapsed() >= LOG_INTERVAL);
        if due {
            *last = Some(Instant::now());
        }
        due
    }
}
