//! Running the scripts that do the work.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use super::catalog::Workload;
use super::{PREPARE_LIMIT, contents};
use crate::suites::limited::run;

/// What every script begins with.
const COMMON: &str = include_str!("../../../assets/workloads/common.sh");
/// The directory whose contents have to be the same, if a script makes one.
const KEPT: &str = "keep";
/// Where Debian keeps what is not for users.
const POSTGRES: &str = "/usr/lib/postgresql";

/// What work came to in one place.
#[derive(Debug)]
pub(super) struct Done {
    /// How it failed, if it did.
    pub(super) complaint: Option<String>,
    pub(super) seconds: f64,
    /// How much was done, where the time was given.
    pub(super) figure: Option<f64>,
    /// What it wrote to standard output.
    pub(super) said: String,
    /// What it left in the directory `keep`.
    pub(super) left: String,
}

/// How scripts are run.
#[derive(Debug)]
pub(super) struct Shell {
    input: PathBuf,
    logs: PathBuf,
    path: OsString,
    full: bool,
}

impl Shell {
    /// Scripts find their input in `input`, and leave what they say in `logs`.
    pub(super) fn new(input: &Path, logs: &Path, full: bool) -> Result<Self> {
        let mut folders: Vec<PathBuf> =
            env::split_paths(&env::var_os("PATH").unwrap_or_default()).collect();
        folders.extend(postgres_folders());
        let path = env::join_paths(folders)?;
        Ok(Self { input: input.to_owned(), logs: logs.to_owned(), path, full })
    }

    /// Whether a program can be run.
    pub(super) fn has(&self, program: &str) -> bool {
        env::split_paths(&self.path).any(|folder| folder.join(program).is_file())
    }

    /// Makes the input of a workload. Returns how it failed, if it did.
    pub(super) fn prepare(&self, workload: &Workload) -> Result<Option<String>> {
        let log = self.logs.join(format!("{}-prepare", workload.name));
        let ended = run(&mut self.command(workload, "prepare", &self.input), &log, PREPARE_LIMIT)?;
        Ok((!ended.success()).then(|| ended.complaint()))
    }

    /// Does the work in `here`, which can be seen as `other` too.
    pub(super) fn work(&self, workload: &Workload, here: &Path, other: &Path) -> Result<Done> {
        let figure = self.logs.join("figure");
        let _ = fs::remove_file(&figure);
        let mut command = self.command(workload, "work", here);
        command.env("OTHER", other).env("FIGURE", &figure);
        let limit = Duration::from_secs(workload.seconds[usize::from(self.full)]);
        let ended = run(&mut command, &self.logs.join(workload.name), limit)?;
        let kept = here.join(KEPT);
        let left = if kept.exists() { contents::describe(&kept)? } else { String::new() };
        let figure = fs::read_to_string(&figure).ok().and_then(|text| text.trim().parse().ok());
        Ok(Done {
            complaint: (!ended.success()).then(|| ended.complaint()),
            seconds: ended.took.as_secs_f64(),
            figure,
            said: ended.out()?,
            left,
        })
    }

    fn command(&self, workload: &Workload, what: &str, dir: &Path) -> Command {
        let mut bash = Command::new("bash");
        bash.arg("-c").arg(format!("{COMMON}\n{}\n{what}\n", workload.script)).current_dir(dir);
        bash.env("IN", &self.input).env("PATH", &self.path);
        bash.env("FULL", if self.full { "1" } else { "" });
        // The same on every machine, whoever runs it.
        for name in ["CARGO_TARGET_DIR", "RUSTFLAGS", "MAKEFLAGS", "MFLAGS", "CARGO_BUILD_TARGET"] {
            bash.env_remove(name);
        }
        bash.envs([
            ("LC_ALL", "C.UTF-8"),
            ("TZ", "UTC"),
            ("GIT_CONFIG_GLOBAL", "/dev/null"),
            ("GIT_CONFIG_NOSYSTEM", "1"),
            ("GIT_AUTHOR_NAME", "A"),
            ("GIT_AUTHOR_EMAIL", "a@example.org"),
            ("GIT_COMMITTER_NAME", "C"),
            ("GIT_COMMITTER_EMAIL", "c@example.org"),
            ("GIT_AUTHOR_DATE", "2000-01-01T00:00:00Z"),
            ("GIT_COMMITTER_DATE", "2000-01-01T00:00:00Z"),
        ]);
        bash
    }
}

/// Where Debian keeps the server's programs of every release of PostgreSQL.
fn postgres_folders() -> impl Iterator<Item = PathBuf> {
    let releases = fs::read_dir(POSTGRES).into_iter().flatten().flatten();
    releases.map(|release| release.path().join("bin"))
}
