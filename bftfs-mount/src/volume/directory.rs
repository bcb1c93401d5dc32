//! An open directory: reads ahead, so that a listing costs few operations of the cluster.
//!
//! POSIX leaves open whether a listing shows what changed after opendir or rewinddir; so a part
//! of it that was fetched once may serve the kernel's smaller requests until the next part.

use std::sync::{Arc, Mutex, PoisonError};

use bftfs_fs::Entry;

/// A part of a listing: entries that follow each other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    entries: Arc<Vec<Entry>>,
    from: usize,
}

impl Listing {
    /// The entries that come next.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        self.entries.get(self.from..).unwrap_or_default()
    }
}

/// What was fetched of a directory and not yet asked for.
#[derive(Debug, Default)]
pub(super) struct Directory {
    part: Mutex<Part>,
}

#[derive(Debug, Default)]
struct Part {
    entries: Arc<Vec<Entry>>,
    /// The cookie that `entries` follow.
    after: u64,
    /// Nothing comes after `entries`.
    end: bool,
    /// Nobody has asked for them yet. What was shown from the start is fetched anew on rewind.
    fresh: bool,
}

impl Directory {
    /// A directory of which the first part is there already.
    pub(super) fn opened(entries: Vec<Entry>, end: bool) -> Self {
        let part = Part { entries: Arc::new(entries), after: 0, end, fresh: true };
        Self { part: Mutex::new(part) }
    }

    /// Keeps a part that was fetched after `cookie`, and returns it to be shown.
    pub(super) fn fetched(&self, cookie: u64, entries: Vec<Entry>, end: bool) -> Listing {
        let entries = Arc::new(entries);
        let part = Part { entries: Arc::clone(&entries), after: cookie, end, fresh: false };
        *self.part.lock().unwrap_or_else(PoisonError::into_inner) = part;
        Listing { entries, from: 0 }
    }

    /// What follows `cookie`, if it is there; `None` if it has to be fetched.
    pub(super) fn after(&self, cookie: u64) -> Option<Listing> {
        let mut part = self.part.lock().unwrap_or_else(PoisonError::into_inner);
        let from = if cookie == part.after && (cookie != 0 || part.fresh) {
            0
        } else {
            1 + part.entries.iter().position(|entry| entry.cookie == cookie)?
        };
        if from == part.entries.len() && !part.end {
            return None;
        }
        part.fresh = false;
        Some(Listing { entries: Arc::clone(&part.entries), from })
    }
}
