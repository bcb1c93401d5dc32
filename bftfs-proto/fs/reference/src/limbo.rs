//! Files without a name that another session may have open.

use std::collections::BTreeMap;

use bftfs_fs::{FileType, Ino, Reply};

use super::{Circumstances, Reference};

/// Seconds that a file is in limbo at most, and that the clock moves at most.
const LONGEST: i64 = 90;
const STEP: i64 = 30;

/// Which files, and who attends.
#[derive(Clone, Debug, Default)]
pub(crate) struct Limbo {
    /// Files by their numbers, and since when by the clock.
    files: BTreeMap<u64, (u64, i64)>,
    /// How far each session that attends has heard, and when it was last there by the clock.
    heard: BTreeMap<u64, (u64, i64)>,
    last: u64,
    clock: i64,
    moved: i64,
}

impl Limbo {
    pub(crate) fn has(&self, ino: u64) -> bool {
        self.files.values().any(|file| file.0 == ino)
    }

    pub(crate) fn forget(&mut self, session: u64) {
        self.heard.remove(&session);
        self.leave();
    }

    fn leave(&mut self) {
        if !self.files.is_empty() {
            self.heard.retain(|_, (_, there)| self.clock - *there < LONGEST);
        }
        let all = self.heard.values().map(|(heard, _)| *heard).min().unwrap_or(u64::MAX);
        self.files.retain(|&number, (_, since)| number > all && self.clock - *since < LONGEST);
    }
}

impl Reference {
    pub(crate) fn enter_limbo(&mut self, session: u64, ino: u64) {
        let others = self.limbo.heard.keys().any(|other| *other != session);
        if others && self.files[&ino].stat.kind == FileType::Regular {
            self.limbo.last += 1;
            self.limbo.files.insert(self.limbo.last, (ino, self.limbo.clock));
        }
    }

    pub(crate) fn attend(&mut self, at: Circumstances<'_>, seen: u64) -> Reply {
        let limbo = &mut self.limbo;
        limbo.clock += (at.now.sec - limbo.moved).min(STEP);
        limbo.moved = at.now.sec;
        let heard = limbo.heard.entry(at.session).or_default();
        *heard = (seen.min(limbo.last).max(heard.0), limbo.clock);
        let after = heard.0 + 1;
        limbo.leave();
        let told: Vec<_> =
            limbo.files.range(after..).map(|(number, file)| (*number, file.0)).collect();
        let seen = told.last().map_or(after - 1, |(number, _)| *number);
        self.bury();
        let inos = told.into_iter().map(|(_, ino)| Ino(ino)).collect();
        Reply::Unlinked { seen, inos, more: false }
    }

    pub(crate) fn hold(&mut self, at: Circumstances<'_>, inos: &[Ino]) -> Reply {
        let mut held = inos.to_vec();
        held.retain(|ino| {
            let regular = |file: &super::File| file.stat.kind == FileType::Regular;
            let own = self.kept.contains(&(at.session, ino.0));
            own || self.files.get(&ino.0).is_some_and(regular) && self.stat(ino.0).nlink == 0
        });
        self.kept.extend(held.iter().map(|ino| (at.session, ino.0)));
        Reply::Held { inos: held }
    }
}
