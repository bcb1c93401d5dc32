//! What replicas and mounts tell about themselves on their sockets.

use std::io::Read as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Time that a process has to answer on its socket.
const ANSWER_PATIENCE: Duration = Duration::from_secs(5);
/// Bytes of an answer, at most.
const ANSWER_BYTES_MAX: u64 = 1 << 20;

/// What a replica or a mount says of itself. What only one of them has is zero for the other.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct Counters {
    /// Its process.
    pub pid: u32,
    /// The view that a replica is in.
    pub view: u64,
    /// The primary of that view.
    pub primary: u32,
    /// Whether that view has begun for a replica: between two views it orders nothing.
    pub active: bool,
    /// The last sequence number that a replica has executed.
    pub last_executed: u64,
    /// The last stable checkpoint of a replica.
    pub last_stable: u64,
    /// Protocol messages sent.
    pub messages_sent: u64,
    /// Protocol messages received.
    pub messages_received: u64,
    /// Bytes of protocol messages sent.
    pub bytes_sent: u64,
    /// Bytes of protocol messages received.
    pub bytes_received: u64,
    /// Times that a journal was forced to disk.
    pub fsyncs: u64,
    /// Everything else, by name.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// Asks the process behind a socket.
///
/// # Errors
/// If nobody answers there, or not in the agreed form.
pub fn query(socket: &Path) -> Result<Counters> {
    let text = ask(socket).with_context(|| format!("no answer on {}", socket.display()))?;
    serde_json::from_str(&text)
        .with_context(|| format!("cannot understand the answer on {}", socket.display()))
}

fn ask(socket: &Path) -> Result<String> {
    let stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(ANSWER_PATIENCE))?;
    let mut text = String::new();
    stream.take(ANSWER_BYTES_MAX).read_to_string(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::os::unix::net::UnixListener;

    use super::*;

    /// Listens in a new folder, and answers the first who connects with `answer`.
    fn answered(answer: &'static str) -> Result<Counters> {
        let folder = tempfile::tempdir().expect("a folder");
        let socket = folder.path().join("s");
        let listener = UnixListener::bind(&socket).expect("a socket");
        let server = std::thread::spawn(move || {
            listener.accept().and_then(|(mut stream, _)| stream.write_all(answer.as_bytes()))
        });
        let result = query(&socket);
        server.join().expect("it answers").expect("it is heard");
        result
    }

    #[test]
    fn an_answer_is_read_with_what_nobody_foresaw() {
        let counters = answered("{\"view\":3,\"last_executed\":7,\"new\":1}").expect("JSON");
        assert_eq!((counters.view, counters.last_executed, counters.last_stable), (3, 7, 0));
        assert_eq!(counters.other["new"], 1);
    }

    #[test]
    fn what_is_no_answer_is_an_error() {
        assert!(answered("").is_err());
        assert!(answered("[").is_err());
        assert!(query(Path::new("/nowhere/s")).is_err());
    }
}
