//! The replicas of a development cluster.

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::binaries::command;
use crate::interrupt;
use crate::mount::{self, MountGuard, MountOptions};
use crate::process::{POLL, Process};
use crate::status::{self, Counters};

/// Time that all replicas have to answer after they were started.
const START_PATIENCE: Duration = Duration::from_secs(60);
/// Time that each step of a recovery may take.
const RECOVER_PATIENCE: Duration = Duration::from_secs(120);
/// The first port that is tried where any will do.
const FREE_PORTS_FIRST: u16 = 20_000;
/// Ports from the first to the last that is tried.
const FREE_PORTS: u16 = 12_000;

/// When a replica's vote counts as kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// Once it is on disk
    #[default]
    Sync,
    /// Once it is in the memory of a quorum, as BFS did
    Replicated,
}

impl Durability {
    /// Its name in the cluster file.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sync => "sync",
            Self::Replicated => "replicated",
        }
    }
}

/// How to start a cluster.
#[derive(Clone, Debug)]
pub struct UpOptions {
    /// Where it keeps everything. Is made if it is not there; one that is there is started again.
    pub dir: PathBuf,
    /// Replicas.
    pub replicas: u32,
    /// When votes count as kept.
    pub durability: Durability,
    /// Names of the clients that get certificates.
    pub clients: Vec<String>,
    /// The UDP port of the first replica; the others follow. 0: any that are free.
    pub port: u16,
    /// What the processes log, as `RUST_LOG` says it; what they like if `None`.
    pub log: Option<String>,
    /// The CPUs that the replicas run on, as taskset(1) lists them; all if `None`.
    pub pin: Option<String>,
    /// The replicas that lie on purpose, and how.
    pub byzantine: BTreeMap<u32, Lie>,
}

/// How a replica lies on purpose. It takes the program `bftfs-node-byzantine`, which knows roles.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lie {
    /// The role it plays.
    pub role: String,
    /// It begins at the first SIGUSR1, stops at the second, and so on; else it lies all the time.
    pub on_signal: bool,
}

impl UpOptions {
    /// Four replicas in `dir`, on any free ports, with one client.
    #[must_use]
    pub fn new(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
            replicas: 4,
            durability: Durability::default(),
            clients: vec!["dev".to_owned()],
            port: 0,
            log: None,
            pin: None,
            byzantine: BTreeMap::new(),
        }
    }
}

/// What is remembered in the cluster's directory of how it was started.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Settings {
    log: Option<String>,
    pin: Option<String>,
    client: String,
    #[serde(default)]
    byzantine: BTreeMap<u32, Lie>,
}

/// What is used of the cluster file. The programs that obey it check it.
#[derive(Debug, Deserialize)]
struct ClusterFile {
    durability: Durability,
    replica: Vec<serde::de::IgnoredAny>,
}

/// One replica as it is seen from outside.
#[derive(Clone, Debug)]
pub struct ReplicaReport {
    /// Its number.
    pub id: u32,
    /// Its process, if that is running.
    pub pid: Option<u32>,
    /// What it says of itself, if it answers.
    pub counters: Option<Counters>,
    /// The role it plays if it lies on purpose.
    pub role: Option<String>,
}

/// A cluster in a directory. Dropping one that was brought [`up`](Self::up) stops it.
#[derive(Debug)]
pub struct DevCluster {
    dir: PathBuf,
    replicas: u32,
    settings: Settings,
    owned: bool,
}

impl DevCluster {
    /// Starts a cluster and waits until every replica answers.
    ///
    /// # Errors
    /// If one is running in that directory, if the directory holds one of another kind, or if a
    /// replica cannot be started; then none is left behind.
    pub fn up(options: &UpOptions) -> Result<Self> {
        fs::create_dir_all(&options.dir)
            .with_context(|| format!("cannot make the directory {}", options.dir.display()))?;
        let dir = fs::canonicalize(&options.dir)?;
        ensure_stopped(&dir)?;
        let new = !dir.join("cluster.toml").exists();
        if new {
            make_certificates(&dir, options)?;
        }
        ensure_matches(&dir, options)?;
        if let Some(id) = options.byzantine.keys().find(|id| **id >= options.replicas) {
            bail!("there is no replica {id} to lie: the cluster has 0 to {}", options.replicas - 1);
        }
        let settings = Settings {
            log: options.log.clone(),
            pin: options.pin.clone(),
            client: options.clients.first().cloned().context("a cluster needs a client")?,
            byzantine: options.byzantine.clone(),
        };
        fs::write(dir.join("dev.json"), serde_json::to_vec_pretty(&settings)?)?;
        interrupt::own(&dir);
        let cluster = Self { dir, replicas: options.replicas, settings, owned: true };
        for id in 0..cluster.replicas {
            if new {
                cluster.make_data("format", id)?;
            }
            cluster.start(id)?;
        }
        cluster.wait_until_up(0..cluster.replicas)?;
        Ok(cluster)
    }

    /// The cluster in `dir`, running or not. Dropping it does not stop it.
    ///
    /// # Errors
    /// If there is none.
    pub fn open(dir: &Path) -> Result<Self> {
        let settings = fs::read(dir.join("dev.json"))
            .with_context(|| format!("there is no cluster in {}", dir.display()))?;
        let settings = serde_json::from_slice(&settings)
            .with_context(|| format!("cannot understand {}", dir.join("dev.json").display()))?;
        let dir = fs::canonicalize(dir)?;
        let replicas = u32::try_from(read_cluster_file(&dir)?.replica.len())?;
        Ok(Self { dir, replicas, settings, owned: false })
    }

    /// Lets the processes run on when this is dropped; [`open`](Self::open) finds them again.
    pub fn leave_running(mut self) {
        interrupt::disown(&self.dir);
        self.owned = false;
    }

    /// Unmounts and stops everything. What was written stays.
    ///
    /// # Errors
    /// If something cannot be unmounted or stopped; the rest is, all the same.
    pub fn down(&self) -> Result<()> {
        stop_all(&self.dir)
    }

    /// Where it keeps everything.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Replicas.
    #[must_use]
    pub fn replicas(&self) -> u32 {
        self.replicas
    }

    /// The cluster file.
    #[must_use]
    pub fn cluster_file(&self) -> PathBuf {
        self.dir.join("cluster.toml")
    }

    /// The folder of replica `id`.
    #[must_use]
    pub fn replica_dir(&self, id: u32) -> PathBuf {
        self.dir.join(format!("replica-{id}"))
    }

    /// The processes of the replicas that are running.
    #[must_use]
    pub fn pids(&self) -> Vec<u32> {
        (0..self.replicas).filter_map(|id| self.process(id).pid()).collect()
    }

    /// Every replica as it is now.
    #[must_use]
    pub fn status(&self) -> Vec<ReplicaReport> {
        (0..self.replicas).map(|id| self.status_of(id)).collect()
    }

    /// Replica `id` as it is now.
    #[must_use]
    pub fn status_of(&self, id: u32) -> ReplicaReport {
        let pid = self.process(id).pid();
        let counters = pid.and_then(|_| status::query(&self.socket(id)).ok());
        let role = self.settings.byzantine.get(&id).map(|lie| lie.role.clone());
        ReplicaReport { id, pid, counters, role }
    }

    /// The process of replica `id`.
    ///
    /// # Errors
    /// If there is no such replica.
    pub fn replica(&self, id: u32) -> Result<Process> {
        ensure!(
            id < self.replicas,
            "there is no replica {id}: the cluster has 0 to {}",
            self.replicas - 1
        );
        Ok(self.process(id))
    }

    /// Kills replica `id` with SIGKILL, as a crash would.
    ///
    /// # Errors
    /// If there is no such replica, or it is not running.
    pub fn kill(&self, id: u32) -> Result<()> {
        let process = self.replica(id)?;
        ensure!(process.pid().is_some(), "replica {id} is not running");
        process.kill()
    }

    /// Starts replica `id`, after stopping it if it is running, and waits until it answers.
    ///
    /// # Errors
    /// If there is no such replica, or it does not start.
    pub fn restart(&self, id: u32) -> Result<()> {
        self.replica(id)?.stop()?;
        self.start(id)?;
        self.wait_until_up(id..id + 1)
    }

    /// Brings replica `id` back after its data directory was lost, and tells how that goes. The
    /// others go on, and change their view as often as it needs to be sure of what it may promise.
    ///
    /// # Errors
    /// If there is no such replica, it still has its data, it does not start, or the others are
    /// not enough to bring it back.
    pub fn recover(&self, id: u32, told: impl FnMut(&str)) -> Result<()> {
        self.recover_within(id, RECOVER_PATIENCE, || Ok(()), told)
    }

    /// As [`recover`](Self::recover), but each step may take `patience`, and it is given up as soon
    /// as `go_on` fails.
    ///
    /// # Errors
    /// As [`recover`](Self::recover), and what `go_on` says.
    pub fn recover_within(
        &self,
        id: u32,
        patience: Duration,
        go_on: impl Fn() -> Result<()>,
        mut told: impl FnMut(&str),
    ) -> Result<()> {
        let wait_for = |what: &str, holds: &dyn Fn(&Counters) -> bool| {
            self.wait_for(id, what, patience, &go_on, holds)
        };
        self.replica(id)?.stop()?;
        self.make_data("recover", id)?;
        self.start(id)?;
        self.wait_until_up(id..id + 1)?;
        told("it listens to the others");
        let listening = |counters: &Counters| counters.other.get("listening").cloned();
        let bounds = |counters: &Counters| listening(counters).and_then(|l| l.get(1)?.as_u64());
        let view = wait_for("learn what it may have promised", &|c| bounds(c).is_some())?;
        let view = bounds(&view).unwrap_or_default();
        told(&format!("it waits for view {view}"));
        while self.view_of_others(id)? < view {
            let before = self.view_of_others(id)?;
            for other in (0..self.replicas).filter(|other| *other != id) {
                self.process(other).signal(rustix::process::Signal::USR2)?;
            }
            let deadline = Instant::now() + patience;
            while self.view_of_others(id)? == before {
                go_on()?;
                ensure!(Instant::now() < deadline, "the others do not change their view");
                thread::sleep(POLL);
            }
        }
        told("it fetches the state, and the others go on until it may vote");
        let awake = |c: &Counters| listening(c).is_none_or(|listening| listening.is_null());
        wait_for("vote again", &awake).map(drop)
    }

    fn view_of_others(&self, id: u32) -> Result<u64> {
        let others = (0..self.replicas).filter(|other| *other != id);
        let views = others.filter_map(|other| Some(self.status_of(other).counters?.view));
        views.min().context("no other replica answers")
    }

    fn wait_for(
        &self,
        id: u32,
        what: &str,
        patience: Duration,
        go_on: &dyn Fn() -> Result<()>,
        holds: &dyn Fn(&Counters) -> bool,
    ) -> Result<Counters> {
        let deadline = Instant::now() + patience;
        loop {
            go_on()?;
            if let Some(counters) = self.status_of(id).counters.filter(holds) {
                return Ok(counters);
            }
            ensure!(
                Instant::now() < deadline,
                "replica {id} did not {what} within {} s: are all others up?",
                patience.as_secs()
            );
            thread::sleep(POLL);
        }
    }

    /// Mounts the cluster.
    ///
    /// # Errors
    /// If it cannot be mounted there.
    pub fn mount(&self, options: &MountOptions) -> Result<MountGuard> {
        MountGuard::mount(self, options)
    }

    /// The command that runs replica `id`.
    ///
    /// # Errors
    /// If the program is not there.
    pub fn node_command(&self, id: u32) -> Result<Command> {
        let Some(Lie { role, on_signal }) = self.settings.byzantine.get(&id) else {
            return self.node("bftfs-node", "run", id);
        };
        let mut node = self.node("bftfs-node-byzantine", "run", id)?;
        node.args(["--byzantine", role]);
        if *on_signal {
            node.arg("--byzantine-on-signal");
        }
        Ok(node)
    }

    fn node(&self, program: &str, verb: &str, id: u32) -> Result<Command> {
        let folder = self.replica_dir(id);
        let mut node = command(program, self.settings.pin.as_deref())?;
        node.arg(verb).arg("--cluster").arg(self.cluster_file());
        node.arg("--id").arg(id.to_string());
        node.arg("--cert").arg(folder.join("replica.crt"));
        node.arg("--key").arg(folder.join("replica.key"));
        node.arg("--data").arg(folder.join("data"));
        self.set_log(&mut node);
        Ok(node)
    }

    /// The client that mounts unless another is named.
    pub(crate) fn default_client(&self) -> &str {
        &self.settings.client
    }

    pub(crate) fn set_log(&self, command: &mut Command) {
        if let Some(log) = &self.settings.log {
            command.env("RUST_LOG", log);
        }
    }

    fn make_data(&self, verb: &str, id: u32) -> Result<()> {
        let output =
            self.node("bftfs-node", verb, id)?.output().context("cannot run bftfs-node")?;
        ensure!(
            output.status.success(),
            "cannot make the data directory of replica {id}: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(())
    }

    fn start(&self, id: u32) -> Result<()> {
        self.process(id)
            .start(&mut self.node_command(id)?)
            .with_context(|| format!("cannot start replica {id}"))?;
        Ok(())
    }

    fn wait_until_up(&self, ids: std::ops::Range<u32>) -> Result<()> {
        let deadline = Instant::now() + START_PATIENCE;
        for id in ids {
            while status::query(&self.socket(id)).is_err() {
                let process = self.process(id);
                let tail =
                    || format!("the end of {}:\n{}", process.log().display(), process.log_tail());
                ensure!(process.pid().is_some(), "replica {id} ended; {}", tail());
                ensure!(Instant::now() < deadline, "replica {id} does not answer; {}", tail());
                thread::sleep(POLL);
            }
        }
        Ok(())
    }

    fn process(&self, id: u32) -> Process {
        Process::at(&self.replica_dir(id))
    }

    fn socket(&self, id: u32) -> PathBuf {
        self.replica_dir(id).join("data").join("status.sock")
    }
}

impl Drop for DevCluster {
    fn drop(&mut self) {
        if self.owned {
            if let Err(error) = self.down() {
                eprintln!("cannot stop the cluster in {}: {error:#}", self.dir.display());
            }
            interrupt::disown(&self.dir);
        }
    }
}

/// Unmounts and stops all that runs in the cluster directory `dir`, mounts first.
pub(crate) fn stop_all(dir: &Path) -> Result<()> {
    let mut failures = mount::unmount_all(dir)?;
    let replicas: Vec<Process> = replica_dirs(dir)?.iter().map(|d| Process::at(d)).collect();
    // All at once: four replicas that end one after the other take four times as long.
    for replica in &replicas {
        failures.extend(replica.signal(rustix::process::Signal::TERM).err());
    }
    failures.extend(replicas.iter().filter_map(|replica| replica.stop().err()));
    let first = failures.into_iter().next();
    first.map_or(Ok(()), Err)
}

fn replica_dirs(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with("replica-") {
            found.push(entry.path());
        }
    }
    Ok(found)
}

fn ensure_stopped(dir: &Path) -> Result<()> {
    let running: Vec<String> = replica_dirs(dir)?
        .iter()
        .filter_map(|folder| Process::at(folder).pid())
        .map(|pid| pid.to_string())
        .collect();
    ensure!(
        running.is_empty(),
        "a cluster is running in {} already (processes {}): stop it with `down`, or use another \
         directory",
        dir.display(),
        running.join(", ")
    );
    Ok(())
}

fn ensure_matches(dir: &Path, options: &UpOptions) -> Result<()> {
    let file = read_cluster_file(dir)?;
    let (replicas, durability) = (file.replica.len(), file.durability);
    ensure!(
        replicas == options.replicas as usize && durability == options.durability,
        "{} holds a cluster of {replicas} replicas with durability {}, not of {} with {}: \
         use another directory",
        dir.display(),
        durability.name(),
        options.replicas,
        options.durability.name()
    );
    Ok(())
}

fn read_cluster_file(dir: &Path) -> Result<ClusterFile> {
    let path = dir.join("cluster.toml");
    let text =
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    toml::from_str(&text).with_context(|| format!("{} is malformed", path.display()))
}

fn make_certificates(dir: &Path, options: &UpOptions) -> Result<()> {
    let port = match options.port {
        0 => free_ports(options.replicas)?,
        port => port,
    };
    let mut certs = command("bftfs-certs", None)?;
    certs.arg("init").arg("--dir").arg(dir);
    certs.args(["--replicas", &options.replicas.to_string()]);
    certs.args(["--durability", options.durability.name()]);
    certs.args(["--port", &port.to_string()]);
    for client in &options.clients {
        certs.args(["--client", client]);
    }
    let output = certs.output().context("cannot run bftfs-certs")?;
    ensure!(
        output.status.success(),
        "bftfs-certs cannot make the certificates: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}

/// The first of `count` consecutive UDP ports that are free on loopback.
fn free_ports(count: u32) -> Result<u16> {
    let count = u16::try_from(count)?;
    // Two clusters that start at the same time should not begin at the same port.
    let offset = u16::try_from(std::process::id() % u32::from(FREE_PORTS / 64))? * 64;
    for step in 0..FREE_PORTS / count.max(1) {
        let first = FREE_PORTS_FIRST + (offset + step * count) % FREE_PORTS;
        let free = |port| UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).ok();
        if (first..first + count).map(free).collect::<Option<Vec<_>>>().is_some() {
            return Ok(first);
        }
    }
    bail!("no {count} consecutive UDP ports are free on loopback")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(replicas: u32, durability: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("a folder");
        let file = format!(
            "durability = \"{durability}\"\n{}",
            (0..replicas).map(|id| format!("[[replica]]\nid = {id}\n")).collect::<String>()
        );
        fs::write(dir.path().join("cluster.toml"), file).expect("a cluster file");
        dir
    }

    #[test]
    fn a_directory_of_another_kind_is_refused() {
        let dir = made(4, "sync");
        let options = UpOptions::new(dir.path());
        ensure_matches(dir.path(), &options).expect("four replicas, sync");
        let one = UpOptions { replicas: 1, ..options.clone() };
        let error = ensure_matches(dir.path(), &one).expect_err("not one").to_string();
        assert!(error.contains("of 4 replicas with durability sync, not of 1"), "{error}");
        let other = UpOptions { durability: Durability::Replicated, ..options };
        assert!(ensure_matches(dir.path(), &other).is_err());
    }

    #[test]
    fn a_running_cluster_is_refused() {
        let dir = made(1, "sync");
        let folder = dir.path().join("replica-0");
        fs::create_dir(&folder).expect("a folder");
        let process = Process::at(&folder);
        process.start(Command::new("sleep").arg("600")).expect("sleep(1) exists");
        let error = DevCluster::up(&UpOptions::new(dir.path())).expect_err("it runs").to_string();
        assert!(error.contains("is running in"), "{error}");
        stop_all(dir.path()).expect("it stops");
        assert_eq!(process.pid(), None);
    }

    #[test]
    fn a_directory_without_a_cluster_is_named() {
        let dir = tempfile::tempdir().expect("a folder");
        let error = DevCluster::open(dir.path()).expect_err("none there");
        assert!(error.to_string().contains("there is no cluster in"), "{error}");
    }

    #[test]
    fn ports_that_are_taken_are_passed_over() {
        let taken = hold(free_ports(4).expect("there are free ports") + 1);
        let port = taken.local_addr().expect("an address").port();
        let first = free_ports(4).expect("there are others");
        assert!(!(first..first + 4).contains(&port), "{port} is not among {first} and its three");
    }

    /// Binds the port. A process that another test starts holds every open socket for a moment,
    /// until it becomes another program.
    fn hold(port: u16) -> UdpSocket {
        for _ in 0..500 {
            if let Ok(socket) = UdpSocket::bind((Ipv4Addr::LOCALHOST, port)) {
                return socket;
            }
            thread::sleep(Duration::from_millis(10));
        }
        panic!("port {port} is not free again after 5 s");
    }
}
