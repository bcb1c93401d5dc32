//! Files without a name that are open here: what the replicas are told of them.
//!
//! The replicas keep a file that another mount unlinks until all mounts have heard of it. So this
//! one asks what was unlinked whenever it tells that it is still there, has the files kept that are
//! open, and says so the next time it asks.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bftfs_fs::{Credentials, Ino, Operation, RELEASES_MAX};
use tracing::warn;

use super::timer::Ticket;
use super::wire::{Held, Unlinked};
use super::{Cluster, Error, Then, Volume};
use std::sync::Arc;

/// After news, and when nobody answered, it asks so many times as often.
const OFTEN: u32 = 6;

/// Files without a name.
#[derive(Default)]
pub(super) struct Unnamed {
    releases: Mutex<Releases>,
    attendance: Mutex<Attendance>,
}

/// Those that were kept for nothing any more.
#[derive(Default)]
struct Releases {
    waiting: Vec<Ino>,
    /// A release is under way; what waits goes with the next.
    busy: bool,
}

/// How this mount hears what was unlinked.
struct Attendance {
    /// How often it asks.
    every: Duration,
    /// What it has heard of, see [`Operation::Attend`]: at first it has nothing open.
    seen: u64,
    /// There was news.
    recent: bool,
    /// When it asks again.
    next: Option<Ticket>,
}

impl Default for Attendance {
    fn default() -> Self {
        Self { every: Duration::MAX, seen: u64::MAX, recent: false, next: None }
    }
}

impl Unnamed {
    fn releases(&self) -> MutexGuard<'_, Releases> {
        self.releases.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn attendance(&self) -> MutexGuard<'_, Attendance> {
        self.attendance.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<C: Cluster> Volume<C> {
    /// From now on tells the replicas from time to time that this mount is there, and keeps what is
    /// open here and unlinked by others; calls `then` when they know. They close a session that goes
    /// unused ([`bftfs_proto::config::SESSION_NANOS`]), and with it go its locks and files without a
    /// name.
    pub fn keep_session(&self, every: Duration, then: impl Then<()>) {
        self.inner.unnamed.attendance().every = every;
        self.attend(then);
    }

    /// A new session does not attend until it asks.
    pub(super) fn attend_anew(&self) {
        let next = self.inner.unnamed.attendance().next.take();
        let ask = next.and_then(|next| self.inner.timer.take(next));
        ask.into_iter().for_each(|ask| ask());
    }

    fn attend(&self, then: impl Then<()>) {
        let seen = self.inner.unnamed.attendance().seen;
        let volume = self.clone();
        let operation = Operation::Attend { seen };
        self.ask_free(Credentials::default(), operation, move |answer: Result<Unlinked, Error>| {
            then(answer.as_ref().map(|_| ()).map_err(|error| *error));
            match answer {
                Ok(unlinked) => {
                    // What is being created is open, and may be unlinked already.
                    let again = volume.clone();
                    let hear = Box::new(move || again.hear(unlinked));
                    volume.inner.files.after_creations(hear);
                }
                Err(error) => {
                    warn!("the session could not be renewed: {error}");
                    volume.attend_later(None);
                }
            }
        });
    }

    /// Asks again later; `heard` says whether there was news and whether there is more.
    fn attend_later(&self, heard: Option<(bool, bool)>) {
        let inner = Arc::downgrade(&self.inner);
        let attend = move || {
            if let Some(inner) = inner.upgrade() {
                Self { inner }.attend(drop);
            }
        };
        let mut attendance = self.inner.unnamed.attendance();
        let recent = std::mem::replace(&mut attendance.recent, heard.is_some_and(|(news, _)| news));
        let pause = match heard {
            Some((true, _) | (_, true)) => Duration::ZERO,
            Some(_) if !recent => attendance.every,
            Some(_) | None => attendance.every / OFTEN,
        };
        attendance.next = Some(self.inner.timer.after(pause, Box::new(attend)));
    }

    /// Files lost their last name: has those kept that are open here.
    fn hear(&self, unlinked: Unlinked) {
        let Unlinked { seen, inos, more } = unlinked;
        let news = !inos.is_empty();
        let open = self.inner.files.without_names(inos);
        let volume = self.clone();
        let heard = move |held: Result<Vec<Ino>, Error>| {
            let heard = match held {
                Ok(_) => {
                    volume.inner.unnamed.attendance().seen = seen;
                    Some((news, more))
                }
                // It is told again.
                Err(error) => {
                    warn!("unlinked files that are open here could not be kept yet: {error}");
                    None
                }
            };
            volume.attend_later(heard);
        };
        if open.is_empty() { heard(Ok(open)) } else { self.hold(open, heard) }
    }

    /// Has files without a name kept; says which are. What is closed meanwhile is let go.
    pub(super) fn hold(&self, inos: Vec<Ino>, then: impl Then<Vec<Ino>>) {
        let volume = self.clone();
        let operation = Operation::Hold { inos };
        self.ask_free(Credentials::default(), operation, move |held: Result<Held, Error>| {
            for ino in held.iter().flat_map(|held| &held.0) {
                if volume.inner.files.orphaned(*ino) {
                    volume.let_go(*ino);
                }
            }
            then(held.map(|held| held.0));
        });
    }

    /// Tells the replicas that a file without a name is not open here any more. Nobody waits for
    /// that; what comes while one such message is under way goes with the next.
    pub(super) fn let_go(&self, ino: Ino) {
        let mut releases = self.inner.unnamed.releases();
        releases.waiting.push(ino);
        if !releases.busy {
            releases.busy = true;
            drop(releases);
            self.send_releases();
        }
    }

    fn send_releases(&self) {
        let mut releases = self.inner.unnamed.releases();
        let keep = releases.waiting.len().saturating_sub(RELEASES_MAX);
        let inos = releases.waiting.split_off(keep);
        releases.busy = !inos.is_empty();
        drop(releases);
        if inos.is_empty() {
            return;
        }
        let volume = self.clone();
        let done = move |released: Result<(), Error>| {
            if let Err(error) = released {
                // The replicas let go of them when this mount's session ends.
                warn!("unlinked files could not be released: {error}");
            }
            volume.send_releases();
        };
        self.ask_free(Credentials::default(), Operation::Release { inos }, done);
    }
}

impl fmt::Debug for Unnamed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unnamed").field("waiting", &self.releases().waiting.len()).finish()
    }
}
