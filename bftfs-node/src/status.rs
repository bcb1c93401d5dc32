//! What a replica says of itself: one line of JSON to whoever connects to its socket.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::FileTypeExt as _;
use std::os::unix::net::UnixStream as BlockingStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use bftfs_net::counters::CounterReport;
use bftfs_proto::replica::ReplicaStatus;
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tracing::{debug, info, warn};

use crate::store::{Blocks, StoreReport};

/// Questions that wait for an answer.
const QUERIES_MAX: usize = 16;
/// How long somebody may take to read the answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// Bytes of an answer that are read.
const ANSWER_BYTES_MAX: u64 = 1 << 20;
/// Bytes of a wish that are read.
const WISH_BYTES_MAX: u64 = 16;
/// Who sends this wants the store scrubbed.
const SCRUB: &[u8] = b"scrub\n";

/// The state of a replica and its counters since it started.
#[derive(Debug, Serialize)]
pub struct Report {
    pid: u32,
    #[serde(flatten)]
    replica: ReplicaStatus,
    messages_sent: u64,
    messages_received: u64,
    bytes_sent: u64,
    bytes_received: u64,
    fsyncs: u64,
    /// Processor time of all threads, in microseconds.
    cpu_us: u64,
    store: StoreReport,
    counters: CounterReport,
}

impl Report {
    pub(crate) fn new(
        replica: ReplicaStatus,
        counters: CounterReport,
        fsyncs: u64,
        store: StoreReport,
    ) -> Self {
        let (sent, received) = (counters.total_sent(), counters.total_received());
        Self {
            pid: std::process::id(),
            replica,
            messages_sent: sent.messages,
            messages_received: received.messages,
            bytes_sent: sent.bytes,
            bytes_received: received.bytes,
            fsyncs,
            cpu_us: cpu_us(),
            store,
            counters,
        }
    }
}

fn cpu_us() -> u64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    seconds * 1_000_000 + u64::try_from(time.tv_nsec).unwrap_or_default() / 1000
}

/// Somebody wants to know.
#[derive(Debug)]
pub struct Query(oneshot::Sender<Report>);

impl Query {
    /// Answers; whoever asked may be gone.
    pub(crate) fn answer(self, report: Report) {
        let _ = self.0.send(report);
    }
}

/// A socket that answers while it is there. Its file goes with it.
#[derive(Debug)]
pub(crate) struct StatusSocket {
    path: PathBuf,
}

impl StatusSocket {
    /// Listens on `path`. What a killed process left there is replaced.
    /// Whoever asks by it has `blocks` scrubbed.
    pub(crate) fn open(
        path: &Path,
        blocks: Blocks,
    ) -> anyhow::Result<(Self, mpsc::Receiver<Query>)> {
        remove_stale(path)?;
        let listener = UnixListener::bind(path)
            .with_context(|| format!("cannot make the status socket {}", path.display()))?;
        let (sender, queries) = mpsc::channel(QUERIES_MAX);
        tokio::spawn(serve(listener, sender, blocks));
        Ok((Self { path: path.into() }, queries))
    }
}

impl Drop for StatusSocket {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            debug!("cannot remove {}: {error}", self.path.display());
        }
    }
}

fn remove_stale(path: &Path) -> anyhow::Result<()> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| path.display().to_string()),
        Ok(there) if !there.file_type().is_socket() => {
            bail!("{} is there and no socket: choose another --status-socket", path.display())
        }
        Ok(_) => {}
    }
    if BlockingStream::connect(path).is_ok() {
        bail!("another process answers on {}: choose another --status-socket", path.display());
    }
    fs::remove_file(path).with_context(|| format!("cannot replace {}", path.display()))
}

async fn serve(listener: UnixListener, queries: mpsc::Sender<Query>, blocks: Blocks) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let answered = answer(stream, &queries, &blocks);
                let answered = tokio::time::timeout(PATIENCE, answered).await;
                if !matches!(answered, Ok(Ok(()))) {
                    debug!("whoever asked for the status did not read it");
                }
            }
            Err(error) => {
                warn!("the status socket fails: {error}");
                tokio::time::sleep(PATIENCE).await;
            }
        }
    }
}

/// Says where the replica is, whatever is asked; then does what is wanted beside.
async fn answer(
    mut stream: UnixStream,
    queries: &mpsc::Sender<Query>,
    blocks: &Blocks,
) -> io::Result<()> {
    let (sender, report) = oneshot::channel();
    queries.send(Query(sender)).await.map_err(io::Error::other)?;
    let report = report.await.map_err(io::Error::other)?;
    let mut line = serde_json::to_vec(&report)?;
    line.push(b'\n');
    stream.write_all(&line).await?;
    stream.shutdown().await?;
    let mut wish = Vec::new();
    (&mut stream).take(WISH_BYTES_MAX).read_to_end(&mut wish).await?;
    if wish == SCRUB {
        info!("the store is scrubbed because somebody asks for it");
        blocks.scrub();
    }
    Ok(())
}

/// Asks the replica behind `socket` and returns its line of JSON.
///
/// # Errors
/// If nobody answers there in time.
pub fn ask(socket: &Path) -> anyhow::Result<String> {
    ask_for(socket, b"")
}

/// The same, and has the replica begin to scrub its store.
pub(crate) fn ask_to_scrub(socket: &Path) -> anyhow::Result<String> {
    ask_for(socket, SCRUB)
}

fn ask_for(socket: &Path, wish: &[u8]) -> anyhow::Result<String> {
    let ask = || -> io::Result<String> {
        let mut stream = BlockingStream::connect(socket)?;
        stream.write_all(wish)?;
        stream.set_read_timeout(Some(PATIENCE + PATIENCE))?;
        let mut line = String::new();
        stream.take(ANSWER_BYTES_MAX).read_to_string(&mut line)?;
        if line.is_empty() { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(line) }
    };
    ask().with_context(|| {
        format!(
            "no replica answers on {}: is it running, and is this its socket?",
            socket.display()
        )
    })
}
