//! Scrubbing: reading all that something needs, slowly, so that damage is found while others still
//! have what is damaged.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::blocks::Shared;
use super::pack;

/// How long after the start, or after a pass, the next one begins by itself.
const PAUSE: Duration = Duration::from_hours(6);
/// Nothing runs for so long.
const NEVER: Duration = Duration::from_hours(24 * 365 * 100);
/// Bytes after which it waits for as long as they may take.
const STEP: u64 = 1 << 20;

/// How far scrubbing is.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct ScrubReport {
    /// A pass is under way.
    pub running: bool,
    /// Bytes that it has read.
    pub done_bytes: u64,
    /// Bytes that it has to read.
    pub total_bytes: u64,
    /// Damaged blocks that it found, or the last one did.
    pub damaged: u64,
    /// Passes that were finished.
    pub passes: u64,
    /// The number of the last pass that somebody asked for.
    pub requested: u64,
    /// The number of the last such pass that is finished.
    pub finished: u64,
}

/// What the scrubbing thread shares with others.
#[derive(Debug, Default)]
pub(super) struct Scrub {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    report: ScrubReport,
    closing: bool,
}

impl State {
    /// Somebody wants another pass than the one of this number.
    fn is_overtaken(&self, request: u64) -> bool {
        self.closing || self.report.requested > request
    }
}

impl Scrub {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn report(&self) -> ScrubReport {
        self.state().report
    }

    /// Asks for a pass from the beginning.
    pub(super) fn request(&self) {
        self.state().report.requested += 1;
        self.changed.notify_all();
    }

    pub(super) fn close(&self) {
        self.state().closing = true;
        self.changed.notify_all();
    }

    /// Waits for so long; false if what is being done for `request` is to end.
    fn pause(&self, request: u64, pause: Duration) -> bool {
        let end = Instant::now() + pause;
        let mut state = self.state();
        while !state.is_overtaken(request) {
            let rest = end.saturating_duration_since(Instant::now());
            if rest.is_zero() {
                return true;
            }
            let waited = self.changed.wait_timeout(state, rest);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        false
    }
}

/// Scrubs until the store is closed.
pub(super) fn run(shared: &Shared) {
    let scrub = &shared.scrub;
    let rate = shared.options.scrub_bytes_per_second;
    loop {
        let last = scrub.state().report.finished;
        // Without a rate it is off, and only done when asked for.
        let by_itself = scrub.pause(last, if rate == 0 { NEVER } else { PAUSE });
        if scrub.state().closing {
            return;
        }
        let request = if by_itself { last } else { scrub.state().report.requested };
        pass(shared, request, rate);
    }
}

/// Reads all blocks once.
fn pass(shared: &Shared, request: u64, rate: u64) {
    let scrub = &shared.scrub;
    let ids: Vec<u32> = shared.index().packs.keys().copied().collect();
    let (_, total) = shared.index().bytes();
    let mut state = scrub.state();
    let report = state.report;
    state.report =
        ScrubReport { running: true, done_bytes: 0, total_bytes: total, damaged: 0, ..report };
    drop(state);
    let whole = ids.into_iter().all(|id| scrub_pack(shared, id, request, rate));
    let mut state = scrub.state();
    state.report.running = false;
    if whole {
        state.report.passes += 1;
        state.report.finished = request;
    }
    scrub.changed.notify_all();
}

/// Reads the blocks of a pack that count; false if the pass is to end.
fn scrub_pack(shared: &Shared, id: u32, request: u64, rate: u64) -> bool {
    let found = shared.index().packs.get(&id).map(|pack| (pack.file.clone(), pack.len));
    // It may be cleaned meanwhile.
    let Some((file, len)) = found else { return true };
    file.forget_cached();
    let (scan, _) = pack::blocks(&shared.disk, &file, id, len, &shared.seal);
    let mut read = 0;
    let mut since = Instant::now();
    for block in scan.blocks {
        if !shared.index().is_at(&block.digest, id, block.at) {
            continue;
        }
        let result = pack::read_block(&file, block.at, block.len, &block.digest);
        let mut state = shared.scrub.state();
        state.report.done_bytes += pack::size(block.len);
        if state.is_overtaken(request) {
            return false;
        }
        drop(state);
        if let Err(error) = result
            && shared.index().is_at(&block.digest, id, block.at)
        {
            shared.scrub.state().report.damaged += 1;
            shared.note_damage(block.digest, &error.to_string());
        }
        read += pack::size(block.len);
        if read >= STEP && rate > 0 {
            let due = Duration::from_secs_f64(read as f64 / rate as f64);
            if !shared.scrub.pause(request, due.saturating_sub(since.elapsed())) {
                return false;
            }
            (read, since) = (0, Instant::now());
        }
    }
    true
}
