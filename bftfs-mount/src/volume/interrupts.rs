//! Notices that a process which waits for an answer has a signal to attend to.
//!
//! The kernel would say so with INTERRUPT, but fuser answers that it does not know the request, and
//! the kernel then lets nobody go before his call is answered, SIGKILL or not. So whoever may have
//! to wait for long is looked at in `/proc` from time to time, and its call answered with EINTR.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use super::files::Action;
use super::timer::Timer;

/// How often to look.
const PAUSE: Duration = Duration::from_millis(50);
/// SIGKILL in a set of signals.
const KILL: u64 = 1 << 8;

/// What a thread has to attend to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Attention {
    Nothing,
    /// A signal that it neither blocks nor ignores.
    Signal,
    /// It ends.
    End,
    /// It cannot be seen.
    Gone,
}

/// Looks at a thread until `waits` says that its call is answered; if a signal is there for it,
/// does `interrupted` and looks no more. Threads out of sight (of another PID namespace) are left
/// alone.
pub(super) fn watch(
    timer: &Arc<Timer>,
    thread: u32,
    waits: impl Fn() -> bool + Send + 'static,
    interrupted: Action,
) {
    if thread != 0 && look(thread) != Attention::Gone {
        let watch = Watch { timer: Arc::clone(timer), thread, waits, interrupted, seen: false };
        watch.later();
    }
}

struct Watch<W> {
    timer: Arc<Timer>,
    thread: u32,
    waits: W,
    interrupted: Action,
    /// There was a signal when it was last looked at.
    seen: bool,
}

impl<W: Fn() -> bool + Send + 'static> Watch<W> {
    fn later(self) {
        let timer = Arc::clone(&self.timer);
        timer.after(PAUSE, Box::new(move || self.look()));
    }

    fn look(mut self) {
        if !(self.waits)() {
            return;
        }
        let signal = match look(self.thread) {
            Attention::Nothing => false,
            // A signal to the process may go to another of its threads: that takes no time.
            Attention::Signal if !self.seen => true,
            Attention::Signal | Attention::End | Attention::Gone => return (self.interrupted)(),
        };
        self.seen = signal;
        self.later();
    }
}

/// Whether a thread is killed, or ends already: then it closes what it has open, and waits for that.
pub(super) fn ends(thread: u32) -> bool {
    let stat = || fs::read_to_string(format!("/proc/{thread}/stat")).unwrap_or_default();
    look(thread) == Attention::End || is_exiting(&stat())
}

/// Reads the text of `/proc/TID/stat`, proc(5). The name of the program may have spaces in it.
fn is_exiting(stat: &str) -> bool {
    /// The kernel's `PF_EXITING`.
    const EXITING: u32 = 4;
    let fields = stat.rsplit(')').next().unwrap_or_default();
    let flags = fields.split_ascii_whitespace().nth(6).and_then(|flags| flags.parse().ok());
    flags.is_some_and(|flags: u32| flags & EXITING != 0)
}

fn look(thread: u32) -> Attention {
    let status = fs::read_to_string(format!("/proc/{thread}/status"));
    status.map_or(Attention::Gone, |status| attention(&status))
}

/// Reads the text of `/proc/TID/status`, proc(5).
fn attention(status: &str) -> Attention {
    let set = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        u64::from_str_radix(line.trim_start_matches(':').trim(), 16).unwrap_or(0)
    };
    let pending = set("SigPnd") | set("ShdPnd");
    if pending & KILL != 0 {
        Attention::End
    } else if pending & !set("SigBlk") & !set("SigIgn") != 0 {
        Attention::Signal
    } else {
        Attention::Nothing
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;
    use std::sync::mpsc;

    #[test]
    fn signals_count_that_are_neither_blocked_nor_ignored() {
        let status = |sets: [u64; 4]| {
            let [thread, process, blocked, ignored] = sets;
            attention(&format!(
                "Name:\tSigPnd\nSigQ:\t1/7\nSigPnd:\t{thread:016x}\nShdPnd:\t{process:016x}\n\
                 SigBlk:\t{blocked:016x}\nSigIgn:\t{ignored:016x}\nSigCgt:\t00000000ffffffff\n"
            ))
        };
        assert_eq!(status([0, 0, 0, 0]), Attention::Nothing);
        assert_eq!(status([2, 0, 0, 0]), Attention::Signal);
        assert_eq!(status([0, 2, 0, 0]), Attention::Signal);
        assert_eq!(status([6, 0, 2, 4]), Attention::Nothing);
        assert_eq!(status([0, 14, 2, 4]), Attention::Signal);
        assert_eq!(status([KILL, 0, 0, 0]), Attention::End);
        assert_eq!(attention("nonsense"), Attention::Nothing);
    }

    #[test]
    fn a_thread_that_ends_is_known_by_its_flags() {
        let stat = |flags| format!("7 (a) b (c) D 1 2 3 0 -1 {flags} 8 9");
        assert!(is_exiting(&stat(4_194_308)));
        assert!(!is_exiting(&stat(4_194_304)));
        assert!(!is_exiting("") && !is_exiting("nonsense"));
        assert!(!ends(std::process::id()));
    }

    #[test]
    fn a_process_that_goes_interrupts_its_call_and_one_unseen_does_not() {
        let timer = Arc::<Timer>::default();
        let (done, interrupted) = mpsc::channel();
        let says = |name: &'static str| -> Action {
            let done = done.clone();
            Box::new(move || done.send(name).expect("the test listens"))
        };
        let mut child = Command::new("sleep").arg("1000").spawn().expect("sleep runs");
        watch(&timer, child.id(), || true, says("gone"));
        watch(&timer, child.id(), || false, says("answered"));
        watch(&timer, std::process::id(), || true, says("nothing to attend to"));
        watch(&timer, 0, || true, says("unseen"));
        assert!(interrupted.recv_timeout(Duration::from_millis(200)).is_err(), "not yet");
        child.kill().expect("killed");
        child.wait().expect("reaped");
        assert_eq!(interrupted.recv_timeout(Duration::from_secs(10)), Ok("gone"));
        assert!(interrupted.recv_timeout(Duration::from_millis(200)).is_err(), "nobody else");
    }
}
