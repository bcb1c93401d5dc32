//! The command line, and what it comes to once `-o` is read.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};

use crate::options::{Options, OptionsError};
use crate::volume::Mode;

/// Mounts a bftfs cluster on a directory.
#[derive(Parser, Clone, Debug)]
#[command(name = "bftfs-mount", version)]
#[command(after_help = "Unmount with `fusermount3 -u MOUNTPOINT` or with SIGTERM.\n\
    Exit status: 0 unmounted (with --daemon: mounted), 1 wrong usage, 2 system error, \
    32 the mount failed.")]
pub struct Cli {
    /// The cluster file: who the replicas are, where they listen, what keys they have.
    #[arg(long, value_name = "FILE")]
    pub cluster: PathBuf,
    /// This client's certificate, as `bftfs-certs` wrote it.
    #[arg(long, value_name = "FILE")]
    pub cert: PathBuf,
    /// This client's private key.
    #[arg(long, value_name = "FILE")]
    pub key: PathBuf,
    /// How reads are carried out; `-o strictatime`, `-o relatime` and `-o noatime` say the same.
    /// Without any of them it is relatime.
    #[arg(long, value_enum)]
    pub mode: Option<ModeArgument>,
    /// Mount options: allow_other, default_permissions, ro, rw, dev, nodev, suid, nosuid, exec,
    /// noexec, rdirplus, nordirplus, strictatime, relatime, noatime, fsname=NAME, subtype=NAME. See
    /// mount(8), mount.fuse3(8) and nfs(5).
    #[arg(short = 'o', value_name = "OPTION,…", value_delimiter = ',')]
    pub options: Vec<String>,
    /// Return when the file system answers, and serve it from the background.
    #[arg(long)]
    pub daemon: bool,
    /// How long one request may take before it fails with ETIMEDOUT (30s, 500ms, 2min).
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
    pub timeout: Duration,
    /// How long to wait for a quorum of replicas before the mount fails.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
    pub connect_timeout: Duration,
    /// How often the replicas are told that the mount is there, and asked what others unlinked:
    /// three times before they forget it.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration, hide = true)]
    pub renewal: Duration,
    /// Answer every connection on this Unix socket with the counters, as JSON.
    #[arg(long, value_name = "PATH")]
    pub stats_socket: Option<PathBuf>,
    /// Append the log to this file instead of standard error (RUST_LOG sets what is logged).
    #[arg(long, value_name = "FILE")]
    pub log: Option<PathBuf>,
    /// Set by `--daemon` in the process that serves: standard output leads to the one waiting.
    #[arg(long, hide = true, conflicts_with = "daemon")]
    pub background: bool,
    /// The directory to mount on: it must exist and be empty.
    pub mountpoint: PathBuf,
}

/// The values of `--mode`.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModeArgument {
    /// Lookups and reads are ordered among all operations; reads move atime, as POSIX says.
    Strict,
    /// A quorum answers lookups and reads without ordering; but the first read after a change, and
    /// one a day, moves atime, as Linux does it.
    Relatime,
    /// Lookups and reads change nothing: a quorum answers them without ordering; atime stays.
    RoLookup,
}

impl From<ModeArgument> for Mode {
    fn from(argument: ModeArgument) -> Self {
        match argument {
            ModeArgument::Strict => Self::Strict,
            ModeArgument::Relatime => Self::Relatime,
            ModeArgument::RoLookup => Self::RoLookup,
        }
    }
}

/// Why a command line that clap accepts still makes no sense.
#[derive(Debug, thiserror::Error)]
pub enum UsageError {
    /// An option after `-o` is wrong.
    #[error(transparent)]
    Option(#[from] OptionsError),
    /// `--mode` says one thing and `-o` another.
    #[error("--mode {0} and -o {1} contradict each other: give one of them")]
    TwoModes(Mode, &'static str),
}

impl Cli {
    /// Reads `-o` and settles the mode.
    ///
    /// # Errors
    /// Unknown or contradicting options.
    pub fn settle(&self) -> Result<(Mode, Options), UsageError> {
        let options = Options::parse(self.options.iter().map(String::as_str))?;
        let asked = self.mode.map(Mode::from);
        match (asked, options.mode) {
            (Some(mode), Some(other)) if mode != other => {
                Err(UsageError::TwoModes(mode, other.option()))
            }
            (asked, implied) => Ok((asked.or(implied).unwrap_or_default(), options)),
        }
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if duration.is_zero() || duration > Duration::from_secs(24 * 3600) {
        return Err("it must lie between 1ns and 24h".to_owned());
    }
    Ok(duration)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(extra: &[&str]) -> Cli {
        let fixed =
            ["bftfs-mount", "--cluster", "c.toml", "--cert", "a.crt", "--key", "a.key", "/mnt"];
        Cli::try_parse_from(fixed.iter().chain(extra)).expect("parses")
    }

    #[test]
    fn the_mode_comes_from_either_place_but_not_from_both_differently() {
        let settle = |extra: &[&str]| parse(extra).settle().map(|(mode, _)| mode);
        assert_eq!(settle(&["--mode", "strict"]).expect("mode"), Mode::Strict);
        assert_eq!(settle(&["-o", "ro,noatime"]).expect("mode"), Mode::RoLookup);
        assert_eq!(settle(&["--mode", "ro-lookup", "-o", "noatime"]).expect("m"), Mode::RoLookup);
        assert_eq!(settle(&["--mode", "relatime"]).expect("mode"), Mode::Relatime);
        assert_eq!(settle(&["-o", "ro"]).expect("mode"), Mode::Relatime, "as on Linux");
        let both = settle(&["--mode", "strict", "-o", "noatime"]).expect_err("contradiction");
        assert!(both.to_string().contains("--mode strict and -o noatime"), "{both}");
    }

    #[test]
    fn times_are_read_with_units_and_bounds() {
        assert_eq!(parse(&["--timeout", "1500ms"]).timeout, Duration::from_millis(1500));
        assert_eq!(parse(&[]).timeout, Duration::from_secs(30));
        for wrong in ["0s", "30", "2days", "soon"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }
}
