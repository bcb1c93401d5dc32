//! Serves a mounted file system until it is unmounted, from outside or by a signal.

use std::path::Path;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

use anyhow::Context;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tracing::{info, warn};

use crate::mountpoint::{self, Unmounted};

/// How long the last users of a lazily unmounted file system may go on before they are cut off.
pub const LINGER: Duration = Duration::from_secs(10);

/// What can happen to a mount.
#[derive(Debug)]
enum Event {
    /// The kernel let go of it.
    Ended,
    /// Somebody wants it to end.
    Signal,
}

/// SIGTERM, SIGINT and SIGHUP from the moment this exists, and the end of the mount.
#[derive(Debug)]
pub struct Watch {
    events: Receiver<Event>,
    sender: Sender<Event>,
}

impl Watch {
    /// Catches the signals. To be called before the mount, so that none leaves a stale one.
    ///
    /// # Errors
    /// The system refuses a handler or a thread.
    pub fn start() -> anyhow::Result<Self> {
        let (sender, events) = mpsc::channel();
        let mut signals =
            Signals::new([SIGTERM, SIGINT, SIGHUP]).context("cannot watch for signals")?;
        let to_main = sender.clone();
        thread::Builder::new().name("signals".to_owned()).spawn(move || {
            for _ in signals.forever() {
                if to_main.send(Event::Signal).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { events, sender })
    }

    /// To be called when the kernel has let go of the mount.
    pub fn ended(&self) -> impl FnOnce() + Send + Sync + use<> {
        let sender = self.sender.clone();
        move || {
            // Nobody listens any more if the wait for the last users was cut short.
            let _sent = sender.send(Event::Ended);
        }
    }

    /// Waits until the mount has ended. A first signal unmounts, lazily if need be; a second one,
    /// or [`LINGER`] after a lazy unmount, ends the wait for the last users.
    ///
    /// # Errors
    /// The thread that serves is gone without a word.
    pub fn wait(self, mountpoint: &Path) -> anyhow::Result<()> {
        loop {
            match self.events.recv().context("the mount's thread is gone")? {
                Event::Ended => return Ok(()),
                Event::Signal if end(&self.events, mountpoint) => return Ok(()),
                Event::Signal => {}
            }
        }
    }
}

/// Unmounts and waits for the end. False if the mount is still there.
fn end(events: &Receiver<Event>, mountpoint: &Path) -> bool {
    let shown = mountpoint.display();
    match mountpoint::unmount(mountpoint) {
        Ok(Unmounted::Cleanly) => info!("unmounting {shown}"),
        Ok(Unmounted::Lazily) => warn!(
            "{shown} is in use: unmounted lazily; who still has files open there may go on \
             for {} s (a second signal cuts them off)",
            LINGER.as_secs()
        ),
        Err(error) => {
            warn!("cannot unmount {shown}: {error}; still serving it");
            return false;
        }
    }
    match events.recv_timeout(LINGER) {
        Ok(Event::Ended) | Err(RecvTimeoutError::Disconnected) => {}
        Ok(Event::Signal) | Err(RecvTimeoutError::Timeout) => {
            warn!("{shown} was still in use: its last users were cut off");
        }
    }
    true
}
