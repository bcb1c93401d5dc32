//! `--daemon`: the same program again in the background, and a pipe that tells when it serves.
//!
//! No fork: a process with threads cannot fork safely, and this one has none yet when it starts
//! the other. The child's standard output is the pipe. Its standard error stays the terminal's
//! until it serves, so that the person sees why it failed.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::process::{Command, ExitCode, Stdio};

use anyhow::Context;

const READY: &[u8] = b"ready\n";

/// Starts this program again with `--background` for `--daemon` and waits until it serves.
/// Returns its exit status if it ends before that.
///
/// # Errors
/// The program cannot be started or its end not be awaited.
pub fn start() -> anyhow::Result<ExitCode> {
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    let arguments = std::env::args_os().skip(1).map(|argument| {
        if argument == "--daemon" { OsString::from("--background") } else { argument }
    });
    let mut child = Command::new(&program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {} in the background", program.display()))?;
    let mut said = Vec::new();
    let pipe = child.stdout.take().context("no pipe to the background process")?;
    pipe.take(READY.len() as u64).read_to_end(&mut said)?;
    if said == READY {
        return Ok(ExitCode::SUCCESS);
    }
    let status = child.wait().context("cannot wait for the background process")?;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(code.filter(|code| *code != 0).map_or_else(|| ExitCode::from(2), ExitCode::from))
}

/// Leaves the terminal's session, so that its hang-up does not reach this process.
///
/// # Errors
/// The system's error.
pub fn detach() -> anyhow::Result<()> {
    rustix::process::setsid().context("cannot leave the terminal's session")?;
    std::env::set_current_dir("/").context("cannot leave the working directory")
}

/// Tells whoever waits that the file system answers, and lets go of the terminal. What is
/// written to standard error from now on goes nowhere; the log has its own file.
///
/// # Errors
/// The pipe is gone or the null device cannot be opened.
pub fn tell_ready() -> anyhow::Result<()> {
    let mut stdout = io::stdout();
    stdout.write_all(READY).and_then(|()| stdout.flush()).context("nobody waits for the mount")?;
    let null: File = OpenOptions::new().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)?;
    Ok(())
}
