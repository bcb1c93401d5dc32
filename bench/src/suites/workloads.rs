//! Real work in a mount, compared with the same work in a local directory.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use bftfs_dev::{Mode, MountGuard};
use clap::Args;
use serde_json::json;

use super::{Place, Site};
use crate::andrew::Tree;
use crate::progress::Progress;
use crate::{columns, machine};

mod catalog;
mod contents;
mod report;
mod shell;

use catalog::{ALL, Workload};
use report::{Report, Row, State};
use shell::{Done, Shell};

/// Time that making the input of a workload may take.
const PREPARE_LIMIT: Duration = Duration::from_secs(120);

/// Options of `bftfs-bench workloads`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Only these workloads
    #[arg(long, value_name = "NAME,NAME", value_delimiter = ',', value_parser = catalog::find)]
    only: Vec<&'static Workload>,
    /// As much work as a day brings, instead of a few minutes in all
    #[arg(long)]
    full: bool,
    /// How reads of the mounts are carried out
    #[arg(long, value_enum, default_value_t)]
    mode: Mode,
    /// Print which Debian packages and programs are needed, as scripts/install takes them
    #[arg(long)]
    list_packages: bool,
    /// Print what there is
    #[arg(long)]
    list: bool,
    #[command(flatten)]
    place: Place,
}

impl Options {
    fn chosen(&self) -> Vec<&'static Workload> {
        if self.only.is_empty() { ALL.iter().collect() } else { self.only.clone() }
    }
}

/// Does the work, prints a table of it and writes the report.
///
/// # Errors
/// If it cannot be begun, or a workload fails.
pub(crate) fn run(options: &Options) -> Result<()> {
    let chosen = options.chosen();
    if options.list {
        chosen.iter().for_each(|workload| println!("{}: {}", workload.name, workload.about));
        return Ok(());
    }
    if options.list_packages {
        catalog::packages(&chosen).iter().for_each(|package| println!("{package}"));
        return Ok(());
    }
    let yard = Yard::new(options)?;
    let mut settings = machine::describe();
    settings.extend([
        ("mode", json!(options.mode.name())),
        ("full", json!(options.full)),
        ("local", json!(columns::describe(&yard.local))),
    ]);
    let mut report = Report { settings, workloads: BTreeMap::new() };
    let progress = Progress::new(chosen.len());
    for workload in chosen {
        progress.begin(workload.name);
        let row = yard.work(workload)?;
        progress.end(&format!("{}: {}", workload.name, row.summary()));
        report.workloads.insert(workload.name, row);
    }
    yard.close()?;
    drop(progress);
    println!("{}", report.table());
    options.place.write(&report)?;
    let failed = report.failed();
    ensure!(failed.is_empty(), "failed: {}", failed.join(", "));
    Ok(())
}

/// Where the work is done: a local directory, and a directory of a cluster with two mounts.
struct Yard {
    mounts: [MountGuard; 2],
    local: PathBuf,
    shell: Shell,
    site: Site,
}

impl Yard {
    fn new(options: &Options) -> Result<Self> {
        let site = options.place.site()?;
        let input = site.directory("input")?;
        Tree::lua().write(&input.join("lua"))?;
        let shell = Shell::new(&input, &site.directory("logs")?, options.full)?;
        let mounts = [site.mount("mnt", options.mode)?, site.mount("mnt-other", options.mode)?];
        for mount in &mounts {
            fs::set_permissions(mount.point(), fs::Permissions::from_mode(0o755))?;
        }
        let local = site.directory("local")?;
        Ok(Self { mounts, local, shell, site })
    }

    /// Does one workload on both.
    fn work(&self, workload: &Workload) -> Result<Row> {
        let missing = workload.missing(&self.shell);
        if !missing.is_empty() {
            return Ok(Row::none(State::Missing, missing.join(", ")));
        }
        let [one, two] = self.mounts.each_ref().map(MountGuard::point);
        let mut not_there = Vec::new();
        for feature in workload.wants {
            if !feature.is_offered(one, two)? {
                not_there.push(feature.name());
            }
        }
        if !not_there.is_empty() {
            return Ok(Row::none(State::NotThere, not_there.join(", ")));
        }
        if let Some(complaint) = self.shell.prepare(workload)? {
            return Ok(Row::none(State::Failed, format!("it cannot be prepared: {complaint}")));
        }
        let [local, mounted] = [[self.local.as_path(); 2], [one, two]];
        let local = self.work_in(workload, local)?;
        let mounted = self.work_in(workload, mounted)?;
        Ok(judge(&local, &mounted))
    }

    /// Does it in a new directory, which is seen at two places, and removes that again.
    fn work_in(&self, workload: &Workload, places: [&Path; 2]) -> Result<Done> {
        let [here, other] = places.map(|place| place.join(workload.name));
        fs::create_dir(&here)?;
        // Programs take a directory of another user for a trap.
        chown(&here, Some(0), Some(0))?;
        let done = self.shell.work(workload, &here, &other);
        let removed = fs::remove_dir_all(&here);
        let mut done = done?;
        if let Err(error) = removed {
            done.complaint
                .get_or_insert_with(|| format!("what it made cannot be removed: {error}"));
        }
        Ok(done)
    }

    fn close(self) -> Result<()> {
        for mount in self.mounts {
            mount.unmount()?;
        }
        self.site.cluster.down()
    }
}

/// Compares what the same work came to.
fn judge(local: &Done, mounted: &Done) -> Row {
    let verdict = || -> Result<()> {
        if let Some(complaint) = &local.complaint {
            bail!("it fails locally too: {complaint}");
        }
        if let Some(complaint) = &mounted.complaint {
            bail!("{complaint}");
        }
        contents::ensure_same("what it says", &local.said, &mounted.said)?;
        contents::ensure_same("what it leaves", &local.left, &mounted.left)
    };
    let (state, note) = match verdict() {
        Ok(()) => (State::Passed, String::new()),
        Err(error) => (State::Failed, error.to_string()),
    };
    Row::timed(state, note, local, mounted)
}
