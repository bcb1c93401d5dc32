//! pjdfstest, the suite for what POSIX says about files: on ext4 and on a mount, in one run.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bftfs_dev::Mode;
use clap::Args;
use serde::Serialize;
use serde_json::{Value, json};

use super::ext4::Ext4;
use super::limited::run;
use super::{Place, Site, table, tool};
use crate::machine;

mod cases;

use cases::{Case, Cases, Status};

/// The crate's version: the cases and their output are its own.
const VERSION: &str = "0.2.2";
/// What the suite has tests for that not every file system has. Here every file system on Linux
/// has it, or libc does it in its stead.
const FEATURES: [&str; 4] = ["posix_fallocate", "rename_ctime", "utime_now", "utimensat"];
/// Seconds that tests sleep where time has to pass: longer than a tick of the kernel's clock.
const NAP_SECONDS: f64 = 0.011;
/// Another file system, which nothing can be renamed to.
const OTHER_FILE_SYSTEM: &str = "/dev/shm";

/// Cases that cannot be decided on any FUSE file system, and why.
const UNDECIDABLE: [(&str, &str); 1] =
    [("link::link_count_max", "pathconf(3) knows no LINK_MAX of FUSE file systems")];
/// mount(8) leaves a remount to the program that is the type of a FUSE file system. This one tells
/// it to do it itself: tests of EROFS make file systems read-only and back.
const REMOUNTER: &str = "#!/bin/sh\nexec mount --internal-only \"$@\"\n";

/// Options of `bftfs-bench pjdfstest`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Only cases with this in their names
    filter: Option<String>,
    /// How reads of the mount are carried out
    #[arg(long, value_enum, default_value_t)]
    mode: Mode,
    /// Minutes that the suite may take on either file system
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=600))]
    minutes: u16,
    #[command(flatten)]
    place: Place,
}

/// The whole report; its JSON form is the output.
#[derive(Debug, Serialize)]
struct Report {
    settings: BTreeMap<&'static str, Value>,
    ext4: Cases,
    bftfs: Cases,
    /// Cases that pass on ext4 and not here.
    worse: BTreeSet<String>,
    /// Cases that cannot be decided here, and why.
    undecided: Vec<(&'static str, &'static str)>,
}

/// Runs the suite on both, prints what differs and writes the report.
///
/// # Errors
/// If it cannot be run, or a case passes on ext4 and not here.
pub(crate) fn run_both(options: &Options) -> Result<()> {
    let program = tool::installed("pjdfstest", VERSION)?;
    let site = options.place.site()?;
    let suite = Suite { program, filter: options.filter.clone(), minutes: options.minutes };

    let local = site.directory("ext4")?;
    let own = Ext4::mount(&local);
    if let Err(error) = &own {
        eprintln!("no ext4 of our own, so {} instead: {error:#}", options.place.dir.display());
    }
    let mount = site.mount_as("mnt", options.mode, &remounter(&site)?)?;
    let ext4 = suite.run_on(&local, own.is_ok(), &site.directory("log-ext4")?)?;
    let bftfs = suite.run_on(mount.point(), own.is_ok(), &site.directory("log-bftfs")?)?;
    mount.unmount()?;

    let mut settings = machine::describe();
    settings.extend([
        ("pjdfstest", json!(VERSION)),
        ("mode", json!(options.mode.name())),
        ("compared_with", json!(crate::columns::describe(&local))),
        ("remounts", json!(own.is_ok())),
    ]);
    let mut worse = bftfs.worse_than(&ext4);
    let undecided: Vec<_> =
        UNDECIDABLE.into_iter().filter(|(name, _)| bftfs.is_skipped(name)).collect();
    worse.retain(|worse| undecided.iter().all(|(name, _)| name != worse));
    let report = Report { settings, ext4, bftfs, worse, undecided };
    println!("{}", report.tables());
    options.place.write(&report)?;
    ensure!(report.worse.is_empty(), "{} cases pass on ext4 and not here", report.worse.len());
    Ok(())
}

/// Writes the program that remounts; its path has to do for the type of a file system.
fn remounter(site: &Site) -> Result<String> {
    let path = site.dir.path().join("remounter");
    fs::write(&path, REMOUNTER)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    path.into_os_string().into_string().ok().context("--dir: its path is no text")
}

impl Report {
    fn tables(&self) -> String {
        let mut counts = table(["pjdfstest", "passed", "failed", "skipped"]);
        for (name, cases) in [("ext4", &self.ext4), ("bftfs", &self.bftfs)] {
            let count = |status| cases.count(status).to_string();
            let [passed, failed, skipped] =
                [Status::Passed, Status::Failed, Status::Skipped].map(count);
            counts.add_row([name.to_owned(), passed, failed, skipped]);
        }
        let is_worse = |name: &String| self.worse.contains(name);
        let worse = self.bftfs.iter().filter(|(name, _)| is_worse(name));
        let neither = self.bftfs.failed().filter(|(name, _)| !is_worse(name));
        let mut parts = vec![
            counts.to_string(),
            case_table("passes on ext4 and not on bftfs", worse),
            case_table("passes neither on bftfs nor on ext4", neither),
        ];
        let undecided = self.undecided.iter();
        parts.extend(undecided.map(|(name, why)| format!("{name} is skipped on bftfs: {why}")));
        parts.retain(|part| !part.is_empty());
        parts.join("\n\n")
    }
}

/// A table of these cases; nothing if there are none.
fn case_table<'a>(title: &str, cases: impl Iterator<Item = (&'a String, &'a Case)>) -> String {
    let mut table = table([title, "says"]);
    for (name, case) in cases {
        table.add_row([name, &case.says]);
    }
    if table.is_empty() { String::new() } else { table.to_string() }
}

/// The program, and what is run of it.
struct Suite {
    program: PathBuf,
    filter: Option<String>,
    minutes: u16,
}

impl Suite {
    /// Runs it in a directory of `root`, which may be remounted if `remount`.
    fn run_on(&self, root: &Path, remount: bool, logs: &Path) -> Result<Cases> {
        eprintln!("pjdfstest on {}", crate::columns::describe(root));
        let place = root.join("pjdfstest");
        fs::create_dir(&place)?;
        fs::set_permissions(root, fs::Permissions::from_mode(0o755))?;
        fs::set_permissions(&place, fs::Permissions::from_mode(0o755))?;
        let config = logs.join("pjdfstest.toml");
        fs::write(&config, configuration(remount)?)?;
        let mut cases = self.run_cases(self.filter.as_deref(), &place, &config)?;
        if self.filter.is_none() {
            // What earlier cases still hold open keeps ext4 from being remounted.
            cases.replace(self.run_cases(Some("erofs"), &place, &config)?);
        }
        Ok(cases)
    }

    fn run_cases(&self, filter: Option<&str>, place: &Path, config: &Path) -> Result<Cases> {
        let mut command = Command::new(&self.program);
        command.arg("--configuration-file").arg(config).arg("--path").arg(place);
        command.args(["--secondary-fs", OTHER_FILE_SYSTEM]).args(filter);
        command.env("NO_COLOR", "1").env_remove("RUST_BACKTRACE");
        let limit = Duration::from_secs(60 * u64::from(self.minutes));
        let ended = run(&mut command, &config.with_file_name("run"), limit)?;
        let cases = Cases::parse(&ended.out()?);
        // It fails if a case does; whether it came to its end its own sum tells.
        cases.with_context(|| format!("pjdfstest {}", ended.complaint()))
    }
}

fn configuration(remount: bool) -> Result<String> {
    let passwd = fs::read_to_string("/etc/passwd").context("cannot read /etc/passwd")?;
    let group = fs::read_to_string("/etc/group").context("cannot read /etc/group")?;
    let users = two_users(&passwd, &group);
    ensure!(users.len() == 2, "this machine has no two users with groups to test as");
    let features: String = FEATURES.iter().map(|name| format!("{name} = {{}}\n")).collect();
    Ok(format!(
        "[features]\n{features}\n\
         [settings]\nnaptime = {NAP_SECONDS}\nallow_remount = {remount}\n\n\
         [dummy_auth]\nentries = {}\n",
        json!(users)
    ))
}

/// Two users who are not root, in groups of their own, and these groups' names.
fn two_users(passwd: &str, group: &str) -> Vec<(String, String)> {
    let field = |line: &str, number| line.split(':').nth(number).unwrap_or_default().to_owned();
    let groups: BTreeMap<String, String> =
        group.lines().map(|line| (field(line, 2), field(line, 0))).collect();
    let mut taken = BTreeSet::new();
    let users = passwd.lines().filter(|line| field(line, 2) != "0" && field(line, 3) != "0");
    users
        .filter(|line| taken.insert(field(line, 3)))
        .filter_map(|line| Some((field(line, 0), groups.get(&field(line, 3))?.clone())))
        .take(2)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_others_than_root_in_groups_that_exist() {
        let passwd = "root:x:0:0::/:/sh\nsync:x:4:65534::/:/sync\nodd:x:7:99::/:/x\n\
                      a:x:8:65534::/:/x\nb:x:9:9::/:/x\nc:x:10:10::/:/x\n";
        let group = "root:x:0:\nnogroup:x:65534:\nnews:x:9:\nuucp:x:10:\n";
        let users = two_users(passwd, group);
        let wanted = [("sync", "nogroup"), ("b", "news")];
        assert_eq!(users, wanted.map(|(user, group)| (user.to_owned(), group.to_owned())));
        assert_eq!(two_users("root:x:0:0::/:/sh\n", group), []);
    }
}
