//! One authenticated connection: its streams, its queues and its MAC keys.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bftfs_proto::auth::{MacKey, Reject, verify};
use bftfs_proto::types::{Principal, SessionId};
use bytes::{Bytes, BytesMut};
use quinn::{ConnectionError, RecvStream};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tracing::{debug, info, warn};

use super::{Code, Event, Shared};
use crate::counters::kind;
use crate::frame::{Decoder, Frame, LENGTH_BYTES};

/// Names the use of the TLS secrets that MAC keys are made of (RFC 8446 section 7.5).
const EXPORTER_LABEL: &[u8] = b"bftfs/1 link";
/// Encoded messages above this size go on the bulk stream, so that votes overtake them.
const BULK_BYTES: usize = 16 << 10;
/// Bytes that may wait for a peer in the control queue.
const CONTROL_QUEUE_BYTES: usize = 8 << 20;
/// Bytes that may wait for a replica in the bulk queue: what a client's session may have
/// outstanding, and more.
const REPLICA_BULK_BYTES: usize = 96 << 20;
/// Bytes that may wait for a client in the bulk queue: it may have many connections and asks
/// again for what was dropped.
const CLIENT_BULK_BYTES: usize = 32 << 20;
/// Bytes after which a write is made, even if more is waiting.
const WRITE_BYTES: usize = 256 << 10;
/// Pieces of a stream that are taken in one go.
const READ_CHUNKS: usize = 32;

/// The classes of messages, each with a stream of its own. The value is its first byte.
#[derive(Clone, Copy, Debug)]
#[repr(u8)]
enum Class {
    Control = 0,
    Bulk = 1,
}

/// What waits to be sent on one stream.
#[derive(Debug)]
struct Lane {
    queue: Mutex<(VecDeque<Frame>, usize)>,
    bytes_max: usize,
    wake: Notify,
}

impl Lane {
    fn new(bytes_max: usize) -> Self {
        Self { queue: Mutex::default(), bytes_max, wake: Notify::new() }
    }

    fn queue(&self) -> MutexGuard<'_, (VecDeque<Frame>, usize)> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a frame and returns how many of the oldest had to go for it.
    fn push(&self, frame: Frame) -> u64 {
        let mut guard = self.queue();
        let (queue, bytes) = &mut *guard;
        *bytes += frame.len();
        queue.push_back(frame);
        let mut dropped = 0;
        while *bytes > self.bytes_max
            && let Some(oldest) = queue.pop_front()
        {
            *bytes -= oldest.len();
            dropped += 1;
        }
        self.wake.notify_one();
        dropped
    }

    /// Waits for frames and takes those of one write.
    async fn take(&self) -> Vec<Frame> {
        loop {
            let taken = self.take_now();
            if !taken.is_empty() {
                return taken;
            }
            self.wake.notified().await;
        }
    }

    fn take_now(&self) -> Vec<Frame> {
        let mut guard = self.queue();
        let (queue, bytes) = &mut *guard;
        let (mut taken, mut size) = (Vec::new(), 0);
        while size < WRITE_BYTES
            && let Some(frame) = queue.pop_front()
        {
            size += frame.len();
            taken.push(frame);
        }
        *bytes -= size;
        taken
    }
}

/// What queueing a message did.
#[derive(Clone, Copy, Debug)]
pub(super) struct Queued {
    /// The message's bytes on the wire.
    pub(super) bytes: usize,
    /// Older messages that had to go for it.
    pub(super) dropped: u64,
}

/// What went over a connection, and how fast.
#[derive(Clone, Copy, Debug)]
pub(super) struct Traffic {
    /// Datagrams.
    sent: u64,
    /// Datagrams.
    received: u64,
    pub(super) round_trip: Duration,
}

impl Traffic {
    /// Whether there was something to acknowledge since then, and nothing came.
    pub(super) fn is_unanswered_since(&self, before: &Self) -> bool {
        self.sent > before.sent && self.received == before.received
    }
}

/// A connection whose peer is known.
pub(super) struct Connection {
    pub(super) peer: Principal,
    quic: quinn::Connection,
    key_in: MacKey,
    pub(super) key_out: MacKey,
    /// The session that the peer spoke of last: a mount has one.
    session: Mutex<Option<SessionId>>,
    control: Lane,
    bulk: Lane,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "connection to {} at {}", self.peer, self.quic.remote_address())
    }
}

impl Connection {
    /// Derives the keys of a connection whose peer has proven to be `peer`.
    pub(super) fn new(shared: &Shared, quic: quinn::Connection, peer: Principal) -> Arc<Self> {
        let mut secret = [0; 32];
        quic.export_keying_material(&mut secret, EXPORTER_LABEL, &shared.cluster.0)
            .expect("TLS exports 32 bytes");
        let (me, cluster) = (shared.me, &shared.cluster);
        let bulk_bytes = match peer {
            Principal::Replica(_) => REPLICA_BULK_BYTES,
            Principal::Client(_) => CLIENT_BULK_BYTES,
        };
        Arc::new(Self {
            peer,
            key_in: MacKey::derive(&secret, cluster, peer, me),
            key_out: MacKey::derive(&secret, cluster, me, peer),
            quic,
            session: Mutex::default(),
            control: Lane::new(CONTROL_QUEUE_BYTES),
            bulk: Lane::new(bulk_bytes),
        })
    }

    /// Queues an encoded message.
    pub(super) fn enqueue(&self, encoded: &Bytes) -> Queued {
        self.enqueue_frame(Frame::seal(&self.key_out, encoded.clone()))
    }

    /// Queues a frame.
    pub(super) fn enqueue_frame(&self, frame: Frame) -> Queued {
        let lane = if frame.encoded.len() > BULK_BYTES { &self.bulk } else { &self.control };
        Queued { bytes: frame.len(), dropped: lane.push(frame) }
    }

    /// The session that its peer spoke of last, if it did.
    pub(super) fn session(&self) -> Option<SessionId> {
        *self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hear_of(&self, session: SessionId) {
        *self.session.lock().unwrap_or_else(PoisonError::into_inner) = Some(session);
    }

    /// What went over it so far.
    pub(super) fn traffic(&self) -> Traffic {
        let stats = self.quic.stats();
        Traffic {
            sent: stats.udp_tx.datagrams,
            received: stats.udp_rx.datagrams,
            round_trip: stats.path.rtt,
        }
    }

    pub(super) fn close(&self, code: Code, reason: &str) {
        self.quic.close(code.into(), reason.as_bytes());
    }

    /// Sends what is queued in one class until the connection is gone.
    async fn send(self: Arc<Self>, class: Class) -> Result<(), quinn::WriteError> {
        let lane = match class {
            Class::Control => &self.control,
            Class::Bulk => &self.bulk,
        };
        let mut stream = self.quic.open_uni().await?;
        // Control before bulk.
        let _ = stream.set_priority(-i32::from(class as u8));
        stream.write_all(&[class as u8]).await?;
        loop {
            let frames = lane.take().await;
            match class {
                Class::Control => stream.write_chunk(join(&frames)).await?,
                Class::Bulk => stream.write_all_chunks(&mut chain(frames)).await?,
            }
        }
    }

    /// Reads one stream until it or the connection ends. A peer that sends what no member would
    /// send loses this connection, and nothing else.
    async fn receive(self: Arc<Self>, shared: Arc<Shared>, mut stream: RecvStream) {
        let mut class = [0];
        let known = stream.read_exact(&mut class).await.is_ok();
        let result = if known && class[0] > Class::Bulk as u8 {
            Err(Reject::Malformed)
        } else {
            self.receive_frames(&shared, &mut stream).await
        };
        if let Err(reject) = result {
            shared.counters.reject(Some(self.peer), format!("{reject:?}"));
            warn!("{} sent a bad frame ({reject:?}): its connection is closed", self.peer);
            self.close(Code::Violation, &format!("bad frame: {reject:?}"));
        }
    }

    async fn receive_frames(&self, shared: &Shared, stream: &mut RecvStream) -> Result<(), Reject> {
        let mut decoder = Decoder::default();
        let mut chunks: [Bytes; READ_CHUNKS] = Default::default();
        while let Ok(Some(count)) = stream.read_chunks(&mut chunks).await {
            chunks[..count].iter().for_each(|chunk| decoder.push(chunk));
            while let Some(frame) = decoder.next()? {
                let message = verify(&self.key_in, self.peer, &frame)?;
                shared.counters.received(kind(&message), LENGTH_BYTES + frame.len());
                message.session().into_iter().for_each(|session| self.hear_of(session));
                if shared.events.send(Event::Message(self.peer, message)).await.is_err() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

/// One piece for all: QUIC looks through the pieces in flight one by one.
fn join(frames: &[Frame]) -> Bytes {
    let mut joined = BytesMut::with_capacity(frames.iter().map(Frame::len).sum());
    for frame in frames {
        joined.extend_from_slice(&frame.header);
        joined.extend_from_slice(&frame.encoded);
    }
    joined.freeze()
}

/// Large messages are not copied.
fn chain(frames: Vec<Frame>) -> Vec<Bytes> {
    let pieces = |frame: Frame| [Bytes::copy_from_slice(&frame.header), frame.encoded];
    frames.into_iter().flat_map(pieces).collect()
}

/// Runs a connection until it is gone, and returns why.
///
/// Whoever accepted it counts it at once. Whoever dialled waits for the first byte: in TLS 1.3 the
/// dialler's certificate may still be refused after its own handshake is over.
pub(super) async fn run(
    shared: &Arc<Shared>,
    connection: &Arc<Connection>,
    dialled: bool,
) -> ConnectionError {
    let mut registered = !dialled && register(shared, connection).await;
    let mut tasks = JoinSet::new();
    if registered || dialled {
        for class in [Class::Control, Class::Bulk] {
            let sending = connection.clone().send(class);
            tasks.spawn(async move {
                // The reason is the connection's.
                let _ = sending.await;
            });
        }
    }
    let reason = loop {
        tokio::select! {
            reason = connection.quic.closed() => break reason,
            stream = connection.quic.accept_uni() => match stream {
                Ok(stream) => {
                    registered = registered || register(shared, connection).await;
                    tasks.spawn(connection.clone().receive(shared.clone(), stream));
                }
                Err(reason) => break reason,
            },
            Some(_) = tasks.join_next() => {}
        }
    };
    if registered && shared.unregister(connection) {
        info!("{} is disconnected: {}", connection.peer, explain(&reason));
        let _ = shared.events.send(Event::Disconnected(connection.peer)).await;
    }
    reason
}

async fn register(shared: &Shared, connection: &Arc<Connection>) -> bool {
    if let Err(code) = shared.register(connection) {
        let (counted, told) = match code {
            Code::Revoked => ("revoked", "the access of this client was revoked"),
            _ => ("too many connections", "too many connections of this client"),
        };
        shared.counters.reject(Some(connection.peer), counted);
        debug!("{} is refused: {told}", connection.peer);
        connection.close(code, told);
        return false;
    }
    info!("{} is connected from {}", connection.peer, connection.quic.remote_address());
    // A closed channel means that the process is ending.
    let _ = shared.events.send(Event::Connected(connection.peer)).await;
    true
}

/// Why the peer will not have us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Our access was revoked.
    Revoked,
    /// It does not know us. It may come to: one that just started has not executed all again.
    Unknown,
}

/// Whether the peer will not have us.
pub(super) fn refusal(error: &ConnectionError) -> Option<Refusal> {
    match error {
        ConnectionError::ApplicationClosed(close) => {
            (close.error_code == Code::Revoked.into()).then_some(Refusal::Revoked)
        }
        // An alert of TLS (RFC 9001 section 4.8).
        ConnectionError::ConnectionClosed(close) => {
            (0x100..0x200).contains(&u64::from(close.error_code)).then_some(Refusal::Unknown)
        }
        _ => None,
    }
}

/// Why a connection ended or did not come up, for people.
pub(super) fn explain(error: &ConnectionError) -> String {
    match error {
        ConnectionError::ApplicationClosed(close) => {
            format!("the peer closed it: {}", String::from_utf8_lossy(&close.reason))
        }
        ConnectionError::ConnectionClosed(close) => {
            format!("the peer refused it: {}", String::from_utf8_lossy(&close.reason))
        }
        ConnectionError::TransportError(error) => format!("refused by us: {}", error.reason),
        ConnectionError::TimedOut => "no answer".into(),
        ConnectionError::Reset => "the peer restarted".into(),
        ConnectionError::LocallyClosed => "closed by us".into(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::OVERHEAD_BYTES;

    fn frame(bytes: usize) -> Frame {
        let encoded = Bytes::from(vec![0; bytes - OVERHEAD_BYTES]);
        Frame { header: [0; OVERHEAD_BYTES], encoded }
    }

    fn message(byte: u8) -> Frame {
        Frame { header: [byte; OVERHEAD_BYTES], encoded: Bytes::from(vec![byte; 4]) }
    }

    #[test]
    fn a_full_queue_loses_its_oldest_and_stays_within_its_bytes() {
        let lane = Lane::new(2 * message(0).len());
        assert_eq!([lane.push(message(1)), lane.push(message(2))], [0, 0]);
        assert_eq!(lane.push(message(3)), 1);
        assert_eq!(lane.take_now(), [message(2), message(3)]);
        assert!(lane.take_now().is_empty());
        assert_eq!(
            lane.push(frame(2 * message(0).len() + 1)),
            1,
            "what fits in no queue is dropped itself"
        );
        assert_eq!(lane.push(message(4)), 0);
        assert_eq!(lane.take_now(), [message(4)]);
    }

    #[test]
    fn a_write_has_a_limit_and_the_rest_waits() {
        let lane = Lane::new(usize::MAX);
        let half = frame(WRITE_BYTES / 2);
        (0..5).for_each(|_| assert_eq!(lane.push(half.clone()), 0));
        assert_eq!([2, 2, 1, 0].map(|_| lane.take_now().len()), [2, 2, 1, 0]);
    }
}
