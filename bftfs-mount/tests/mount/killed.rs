//! Processes that are killed while the replicas do not answer.

use std::fs::{self, File};
use std::io::Read as _;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use bftfs_mount::volume::Mode;
use rustix::process::{Pid, Signal, kill_process};

use crate::double::Double;
use crate::kernel::eventually;
use crate::locker::Locker;
use crate::mounted::{Mounted, has_fuse};

/// A killed process is gone so soon.
const SOON: Duration = Duration::from_secs(4);

/// Runs a script there. Not its start is to wait for an answer, but what it does.
fn shell(mount: &Mounted, script: &str) -> Child {
    let script = format!("cd {} && {script}", mount.path().display());
    Command::new("sh").args(["-c", &script]).stdout(Stdio::piped()).spawn().expect("sh runs")
}

/// Time without answers. It ends with the test too, or the mount could not be ended.
struct Silence(Double);

impl Silence {
    fn of(double: &Double) -> Self {
        double.set_silent(true);
        Self(double.clone())
    }
}

impl Drop for Silence {
    fn drop(&mut self) {
        self.0.set_silent(false);
    }
}

fn send(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).expect("it lives");
}

fn gone(child: &mut Child) -> bool {
    let start = Instant::now();
    while start.elapsed() < SOON {
        if child.try_wait().expect("it is ours").is_some() {
            return true;
        }
        thread::sleep(Duration::from_millis(10));
    }
    false
}

#[test]
fn killed_processes_go_although_nobody_answers_and_others_wait_on() {
    if !has_fuse() {
        return;
    }
    for mode in [Mode::Strict, Mode::RoLookup] {
        let double = Double::default();
        let mount = Mounted::new(&double, mode);
        fs::write(mount.at("f"), b"text").expect("write");
        fs::create_dir(mount.at("d")).expect("mkdir");
        let mut open = File::open(mount.at("f")).expect("open");
        fs::write(mount.at("w"), b"").expect("write");
        let writer = shell(&mount, "while :; do echo more; done >>w");
        let grows = || fs::metadata(mount.at("w")).expect("stat").len() > 0;
        eventually("the writer writes", grows);
        let silence = Silence::of(&double);
        let mut patient = shell(&mount, "exec cat f");
        let scripts = ["exec cat f", "exec stat f", "exec ls d", "exec mkdir e", "exec touch g"];
        // Each in a directory or file of its own: the kernel lets one wait for the other's call.
        let mut killed: Vec<Child> = scripts.iter().map(|script| shell(&mount, script)).collect();
        killed.push(writer);
        let reader = thread::spawn(move || {
            let mut text = String::new();
            open.read_to_string(&mut text).map(|_| text)
        });
        thread::sleep(Duration::from_millis(300));
        for (at, child) in killed.iter().enumerate() {
            send(child, if at % 2 == 0 { Signal::KILL } else { Signal::TERM });
        }
        for (child, script) in killed.iter_mut().zip(scripts.into_iter().chain(["the writer"])) {
            assert!(gone(child), "{mode}: {script}");
        }
        assert!(patient.try_wait().expect("it is ours").is_none(), "nobody killed it");
        assert!(!reader.is_finished());
        drop(silence);
        let mut seen = String::new();
        patient.stdout.take().expect("a pipe").read_to_string(&mut seen).expect("text");
        assert!(seen.starts_with("text"), "{seen}");
        assert!(patient.wait().expect("it is ours").success());
        let text = reader.join().expect("no panic").expect("read");
        assert!(text.starts_with("text"), "{text}");
        eventually("what was opened for the killed is closed", || mount.volume.open_files() == 0);
    }
}

#[test]
fn a_killed_process_with_locks_goes_although_nobody_answers() {
    if !has_fuse() {
        return;
    }
    let double = Double::default();
    let mount = Mounted::new(&double, Mode::RoLookup);
    fs::write(mount.at("f"), b"text").expect("write");
    let [mut holder, mut other] = [(); 2].map(|()| Locker::with(&mount.at("f")));
    assert_eq!(holder.ask("set 3 w 0 0"), "ok");
    let silence = Silence::of(&double);
    let start = Instant::now();
    holder.kill();
    assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
    drop(silence);
    assert_eq!(other.ask("wait 3 w 0 0"), "ok", "its locks went with it");
}
