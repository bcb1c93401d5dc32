//! The last events of a run, for whoever has to find out what went wrong.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt::Debug;

/// Events that are kept.
const LAST_EVENTS: usize = 20;
/// Bytes of one event's text.
const EVENT_TEXT_BYTES: usize = 220;

/// The last events and when they were.
#[derive(Debug)]
pub struct Trace<E>(VecDeque<(u64, E)>);

impl<E> Default for Trace<E> {
    fn default() -> Self {
        Self(VecDeque::new())
    }
}

impl<E> Trace<E> {
    /// Notes what happened at `at`, in nanoseconds.
    pub fn note(&mut self, at: u64, event: E) {
        if self.0.len() == LAST_EVENTS {
            self.0.pop_front();
        }
        self.0.push_back((at, event));
    }

    /// The events as lines of text.
    pub fn lines(&self, text: impl Fn(&E) -> String) -> Vec<String> {
        let line = |(at, event): &(u64, E)| {
            let mut text = text(event);
            if let Some((end, _)) = text.char_indices().nth(EVENT_TEXT_BYTES) {
                text.truncate(end);
                text.push('…');
            }
            format!("{:>12.6} s  {text}", *at as f64 / 1e9)
        };
        self.0.iter().map(line).collect()
    }
}

thread_local! {
    static LAST_PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Has panics noted for [`caught`] in place of written to the terminal: a run that panics is
/// reported like any other that failed.
pub fn note_panics() {
    std::panic::set_hook(Box::new(|panic| {
        LAST_PANIC.with_borrow_mut(|last| *last = Some(panic.to_string()));
    }));
}

/// What the panic was that was just caught.
#[must_use]
pub fn caught(panic: &dyn Debug) -> String {
    LAST_PANIC.take().unwrap_or_else(|| format!("{panic:?}"))
}
