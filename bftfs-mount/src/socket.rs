//! The statistics socket: every connection gets one JSON document and is closed.

use std::io::{self, Write};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::Value;
use tracing::debug;

/// A socket that answers; its file goes away with it.
#[derive(Debug)]
pub struct StatsSocket {
    path: PathBuf,
}

impl StatsSocket {
    /// Listens on `path`. A socket there that nobody listens on any more is replaced.
    ///
    /// # Errors
    /// Something else has that name, somebody listens, or the system refuses.
    pub fn open(path: &Path, answer: impl Fn() -> Value + Send + 'static) -> anyhow::Result<Self> {
        remove_stale(path)?;
        let listener = UnixListener::bind(path)
            .with_context(|| format!("cannot listen on {}", path.display()))?;
        thread::Builder::new().name("stats".to_owned()).spawn(move || {
            for stream in listener.incoming() {
                let told = stream.and_then(|stream| tell(stream, &answer()));
                if let Err(error) = told {
                    debug!("a reader of the statistics went away: {error}");
                }
            }
        })?;
        Ok(Self { path: path.to_owned() })
    }
}

impl Drop for StatsSocket {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            debug!("cannot remove {}: {error}", self.path.display());
        }
    }
}

fn tell(mut stream: UnixStream, value: &Value) -> io::Result<()> {
    stream.set_write_timeout(Some(Duration::from_secs(1)))?;
    writeln!(stream, "{value}")
}

fn remove_stale(path: &Path) -> anyhow::Result<()> {
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("{}", path.display())),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            bail!("{} exists and is not a socket: choose another --stats-socket", path.display())
        }
        Ok(_) => {}
    }
    if UnixStream::connect(path).is_ok() {
        bail!("another process answers on {}: choose another --stats-socket", path.display());
    }
    std::fs::remove_file(path).with_context(|| format!("cannot replace {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn each_reader_gets_the_numbers_and_a_stale_socket_is_replaced() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("stats.sock");
        drop(UnixListener::bind(&path).expect("stale"));
        let socket = StatsSocket::open(&path, || json!({"n": 7})).expect("opens");
        for _ in 0..2 {
            let stream = UnixStream::connect(&path).expect("connects");
            assert_eq!(io::read_to_string(stream).expect("reads"), "{\"n\":7}\n");
        }
        assert!(StatsSocket::open(&path, || json!(1)).is_err(), "somebody listens");
        drop(socket);
        assert!(!path.exists());
        std::fs::write(&path, b"").expect("file");
        assert!(StatsSocket::open(&path, || json!(1)).is_err(), "not a socket");
    }
}
