//! A process that locks files as it is told: locks are between processes.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

/// Longer than any answer takes that comes at all.
const PATIENCE: Duration = Duration::from_secs(30);

/// The program, compiled once.
fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
        let name = format!("locker-{}", std::process::id());
        let source = folder.join(&name).with_extension("c");
        fs::write(&source, include_str!("locker.c")).expect("the source is written");
        let program = folder.join("locker");
        let built = folder.join(&name);
        let mut cc = Command::new("cc");
        let status = cc.args(["-Wall", "-Werror", "-o"]).arg(&built).arg(&source).status();
        assert!(status.expect("cc runs").success());
        fs::remove_file(source).expect("the source was there");
        // Another run of the tests may start the old one now.
        fs::rename(built, &program).expect("the program was built");
        program
    })
}

/// The process; it ends with this.
#[derive(Debug)]
pub(crate) struct Locker {
    child: Child,
    orders: ChildStdin,
    answers: Receiver<String>,
}

impl Locker {
    pub(crate) fn start() -> Self {
        let mut command = Command::new(program());
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let orders = child.stdin.take().expect("a pipe");
        let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        let (sender, answers) = mpsc::channel();
        thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self { child, orders, answers }
    }

    /// One that has `path` open as descriptor 3.
    pub(crate) fn with(path: &Path) -> Self {
        let mut locker = Self::start();
        assert_eq!(locker.ask(&format!("open {}", path.display())), "ok 3");
        locker
    }

    /// Does something, and gives the answer.
    pub(crate) fn ask(&mut self, order: &str) -> String {
        self.tell(order);
        self.answer()
    }

    pub(crate) fn tell(&mut self, order: &str) {
        writeln!(self.orders, "{order}").expect("it listens");
    }

    pub(crate) fn answer(&self) -> String {
        self.answers.recv_timeout(PATIENCE).expect("an answer in time")
    }

    /// The answer, if it comes so soon.
    pub(crate) fn answer_within(&self, time: Duration) -> Option<String> {
        self.answers.recv_timeout(time).ok()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn send(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("it lives");
    }

    /// Kills it, and waits until it is gone.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("killed");
        self.child.wait().expect("gone");
    }
}

impl Drop for Locker {
    fn drop(&mut self) {
        // It may be gone already.
        let _killed = self.child.kill();
        let _gone = self.child.wait();
    }
}
