//! fsx, the file system exerciser: random changes of one file, of which every byte is known.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bftfs_dev::{Mode, MountGuard};
use clap::{Args, ValueEnum as _};
use serde::Serialize;
use serde_json::{Value, json};

use super::limited::{Ended, run};
use super::{Place, Site, table, tool};
use crate::machine;
use crate::progress::Progress;

/// The crate's version: the same seed gives the same operations.
const VERSION: &str = "0.3.2";
/// Operations of one run of the program, with one seed.
const RUN_OPERATIONS: u64 = 10_000;
/// Time that one run may take: no single operation should need a fraction of it.
const RUN_LIMIT: Duration = Duration::from_secs(600);
/// Operations by which it is found out whether the mount offers one at all.
const TRIAL_OPERATIONS: u64 = 40;

/// Operations that every mount must have.
const ALWAYS: [&str; 8] =
    ["close_open", "read", "write", "truncate", "fsync", "fdatasync", "sendfile", "posix_fadvise"];
/// Operations that are done if the mount offers them.
const IF_OFFERED: [&str; 6] =
    ["mapread", "mapwrite", "invalidate", "posix_fallocate", "punch_hole", "copy_file_range"];
/// How fsx says that a file system does not offer an operation.
const NOT_OFFERED: [&str; 4] = ["EOPNOTSUPP", "ENOSYS", "ENODEV", "does not support"];

/// Options of `bftfs-bench fsx`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Operations in each mode
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    operations: u64,
    /// The first seed; each 10,000 operations take the next
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Only these modes [default: all]
    #[arg(long = "mode", value_name = "MODE,MODE", value_delimiter = ',', value_enum)]
    modes: Vec<Mode>,
    #[command(flatten)]
    place: Place,
}

/// The whole report; its JSON form is the output.
#[derive(Debug, Serialize)]
struct Report {
    settings: BTreeMap<&'static str, Value>,
    modes: BTreeMap<&'static str, Exercise>,
}

/// What was done in one mode.
#[derive(Debug, Default, Serialize)]
struct Exercise {
    /// Operations that the mount does not offer.
    not_there: Vec<&'static str>,
    /// Operations done without a miscompare.
    operations: u64,
    seconds: f64,
    /// How it failed, and with which seed, if it did.
    failure: Option<String>,
}

/// Exercises a file in each mode, prints the figures and writes the report.
///
/// # Errors
/// If it cannot be run, or anything was not as it had to be.
pub(crate) fn exercise(options: &Options) -> Result<()> {
    let program = tool::installed("fsx", VERSION)?;
    let site = options.place.site()?;
    let modes = if options.modes.is_empty() { Mode::value_variants() } else { &options.modes };
    let seeds = options.operations.div_ceil(RUN_OPERATIONS);
    let progress = Progress::new(modes.len() * usize::try_from(seeds)?);
    let mut settings = machine::describe();
    settings.extend([("fsx", json!(VERSION)), ("seed", json!(options.seed))]);
    // All modes at once: they see one file system, and the replicas have more to agree on.
    let mut mounts = Vec::new();
    for mode in modes {
        mounts.push((mode.name(), site.mount(mode.name(), *mode)?));
    }
    let exercises = thread::scope(|scope| {
        let begin = |(mode, mount): &(_, MountGuard)| {
            let (mode, point) = (*mode, mount.point().to_owned());
            let (program, site, progress) = (&program, &site, &progress);
            scope.spawn(move || {
                let fsx = Fsx::new(program, site, &point, mode)?;
                Ok((mode, fsx.exercise(options, progress, mode)?))
            })
        };
        let running: Vec<_> = mounts.iter().map(begin).collect();
        running.into_iter().map(|one| one.join().expect("it does not panic")).collect()
    });
    let exercises: Result<_> = exercises;
    let report = Report { settings, modes: exercises? };
    for (_, mount) in mounts {
        mount.unmount()?;
    }
    drop(progress);
    println!("{}", report.table());
    options.place.write(&report)?;
    let failed = report.modes.values().filter(|exercise| exercise.failure.is_some()).count();
    ensure!(failed == 0, "fsx fails in {failed} modes");
    Ok(())
}

impl Report {
    fn table(&self) -> String {
        let mut table = table(["fsx", "operations", "per second", "not there", "failure"]);
        let mut failures = String::new();
        for (mode, exercise) in &self.modes {
            let rate = exercise.operations as f64 / exercise.seconds;
            table.add_row([
                (*mode).to_owned(),
                exercise.operations.to_string(),
                format!("{rate:.0}"),
                exercise.not_there.join(", "),
                exercise.failure.as_ref().map_or("none", |_| "see below").to_owned(),
            ]);
            if let Some(failure) = &exercise.failure {
                let _ = write!(failures, "\n{mode}: {failure}\n");
            }
        }
        format!("{table}\n{failures}")
    }
}

/// The program on one mount.
struct Fsx<'a> {
    program: &'a Path,
    place: PathBuf,
    logs: PathBuf,
}

impl<'a> Fsx<'a> {
    /// In a directory of its own.
    fn new(program: &'a Path, site: &Site, mount: &Path, mode: &str) -> Result<Self> {
        let place = mount.join(mode);
        fs::create_dir(&place).with_context(|| format!("cannot make {}", place.display()))?;
        Ok(Self { program, place, logs: site.directory(&format!("log-{mode}"))? })
    }

    fn exercise(&self, options: &Options, progress: &Progress, mode: &str) -> Result<Exercise> {
        let mut done = Exercise::default();
        let mut offered = ALWAYS.to_vec();
        for operation in IF_OFFERED {
            let ended = self.run(&["write", operation], options.seed, TRIAL_OPERATIONS)?;
            match ended.success() {
                true => offered.push(operation),
                false if says_not_offered(&ended.complaint()) => done.not_there.push(operation),
                false => {
                    done.failure = Some(format!("{operation} alone: {}", ended.complaint()));
                    return Ok(done);
                }
            }
        }
        for seed in options.seed.. {
            let operations = RUN_OPERATIONS.min(options.operations - done.operations);
            let label = format!("{mode}: {operations} operations, seed {seed}");
            progress.begin(&label);
            let ended = self.run(&offered, seed, operations)?;
            done.seconds += ended.took.as_secs_f64();
            if !ended.success() {
                progress.end(&format!("{label}: FAILED"));
                done.failure = Some(format!("{label}: {}", ended.complaint()));
                return Ok(done);
            }
            progress.end(&format!("{label}: {:.1} s", ended.took.as_secs_f64()));
            done.operations += operations;
            if done.operations >= options.operations {
                break;
            }
        }
        Ok(done)
    }

    /// Does these operations, each as often as the others, on a new file.
    fn run(&self, operations: &[&str], seed: u64, count: u64) -> Result<Ended> {
        let config = self.logs.join("fsx.toml");
        fs::write(&config, weights(operations))?;
        let mut fsx = Command::new(self.program);
        fsx.arg("-f").arg(&config).arg("-P").arg(&self.logs);
        fsx.args(["-S", &seed.to_string(), "-N", &count.to_string()]);
        fsx.arg(self.place.join("file")).env_remove("RUST_BACKTRACE");
        run(&mut fsx, &self.logs.join("run"), RUN_LIMIT)
    }
}

/// A configuration with these operations and no others.
fn weights(operations: &[&str]) -> String {
    let weight = |name: &&str| {
        let weight = if operations.contains(name) { 1.0 } else { 0.0 };
        format!("{name} = {weight:.1}\n")
    };
    let all = ALWAYS.iter().chain(&IF_OFFERED);
    format!("[weights]\n{}", all.map(weight).collect::<String>())
}

fn says_not_offered(complaint: &str) -> bool {
    NOT_OFFERED.iter().any(|words| complaint.contains(words))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_names_every_operation() {
        let text = weights(&["write", "mapread"]);
        assert_eq!(text.matches("= 1.0").count(), 2, "{text}");
        assert_eq!(text.matches("= 0.0").count(), ALWAYS.len() + IF_OFFERED.len() - 2, "{text}");
    }

    #[test]
    fn an_operation_that_is_not_offered_is_told_from_one_that_fails() {
        let panic = "called `Result::unwrap()` on an `Err` value: ";
        assert!(says_not_offered(&format!("{panic}EOPNOTSUPP")));
        assert!(!says_not_offered(&format!("{panic}EIO")));
        assert!(!says_not_offered("miscompare: offset= 0x10, size = 0x20"));
    }
}
