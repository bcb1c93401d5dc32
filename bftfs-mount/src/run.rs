//! From a command line to a served mount.

use std::fs::OpenOptions;
use std::io::{IsTerminal, stderr};
use std::path::{Path, PathBuf, absolute};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use bftfs_net::{ClientHandle, ClusterFile, Durability};
use bftfs_proto::client::How;
use bytes::Bytes;
use serde_json::{Value, json};
use tracing::{info, warn};
use tracing_subscriber::EnvFilter;

use crate::cli::Cli;
use crate::daemon;
use crate::fuse::Fuse;
use crate::mountpoint;
use crate::options::Options;
use crate::serve::Watch;
use crate::socket::StatsSocket;
use crate::stats::Stats;
use crate::volume::{Cluster, Done, Mode, Process, Volume};

/// Exit status for a command line that makes no sense (mount(8)).
pub const EXIT_USAGE: u8 = 1;
/// Exit status when files, keys, threads or the like are wrong (mount(8)).
pub const EXIT_SYSTEM: u8 = 2;
/// Exit status when everything is there but the mount failed (mount(8)).
pub const EXIT_MOUNT: u8 = 32;

/// What is logged if `RUST_LOG` does not say.
const LOG: &str = "info,fuser=error";
/// How long the last answers, and the good-bye to the replicas, may take.
const FAREWELL: Duration = Duration::from_secs(5);
/// The root directory.
const ROOT: u64 = bftfs_fs::ROOT.0;

/// Why there was no mount, or why it ended, and the exit status that says so.
#[derive(Debug)]
pub struct Failure {
    /// One of the `EXIT_` constants.
    pub status: u8,
    /// For the person.
    pub error: anyhow::Error,
}

trait OrStatus<T> {
    fn or_status(self, status: u8) -> Result<T, Failure>;
}

impl<T, E: Into<anyhow::Error>> OrStatus<T> for Result<T, E> {
    fn or_status(self, status: u8) -> Result<T, Failure> {
        self.map_err(|error| Failure { status, error: error.into() })
    }
}

/// The replicas, as a volume asks them: every request has a deadline.
#[derive(Clone, Debug)]
pub struct Replicas {
    client: ClientHandle,
    timeout: Duration,
}

impl Cluster for Replicas {
    fn submit(&self, operation: Bytes, how: How, done: Done) {
        self.client.submit(operation, how, self.timeout, done);
    }
}

/// Mounts and serves until the mount ends.
///
/// # Errors
/// What went wrong, with the exit status for it.
pub fn run(cli: Cli) -> Result<(), Failure> {
    let (mode, options) = cli.settle().or_status(EXIT_USAGE)?;
    let cli = with_absolute_paths(cli).or_status(EXIT_SYSTEM)?;
    start_log(cli.log.as_deref()).or_status(EXIT_SYSTEM)?;
    if cli.background {
        daemon::detach().or_status(EXIT_SYSTEM)?;
    }
    let mountpoint = mountpoint::check(&cli.mountpoint).or_status(EXIT_MOUNT)?;
    let cluster = ClusterFile::load(&cli.cluster).or_status(EXIT_SYSTEM)?;
    let client = ClientHandle::spawn(&cli.cluster, &cli.cert, &cli.key).or_status(EXIT_SYSTEM)?;
    let replicas = Replicas { client: client.clone(), timeout: cli.timeout };
    let volume = Volume::new(replicas, options.policy(mode));
    reach(&client, &volume, cli.connect_timeout).or_status(EXIT_MOUNT)?;
    attend(&volume, cli.renewal, cli.connect_timeout);
    let nudged = volume.clone();
    client.listen(Box::new(move |about| nudged.nudged(&about)));

    let mount = Mount { mode, options, mountpoint, cluster, client, volume, stats: Arc::default() };
    let socket = cli.stats_socket.as_deref().map(|path| mount.answer_on(path));
    let socket = socket.transpose().or_status(EXIT_SYSTEM)?;
    let watch = Watch::start().or_status(EXIT_SYSTEM)?;
    mount.start(&watch).or_status(EXIT_MOUNT)?;
    mount.announce();
    if cli.background {
        daemon::tell_ready().inspect_err(|_| mount.give_up()).or_status(EXIT_SYSTEM)?;
    }
    let served = watch.wait(&mount.mountpoint);
    let broken = mountpoint::clear_stale(&mount.mountpoint);
    mount.leave();
    drop(socket);
    served.or_status(EXIT_SYSTEM)?;
    if broken {
        let error = anyhow!("the thread that served the kernel failed; the mount was cleared");
        return Err(Failure { status: EXIT_SYSTEM, error });
    }
    Ok(())
}

/// A mount and all that belongs to it.
struct Mount {
    mode: Mode,
    options: Options,
    mountpoint: PathBuf,
    cluster: ClusterFile,
    client: ClientHandle,
    volume: Volume<Replicas>,
    stats: Arc<Stats>,
}

impl Mount {
    /// Mounts and serves; when this returns the kernel's first request has been answered.
    fn start(&self, watch: &Watch) -> anyhow::Result<()> {
        let stats = Arc::clone(&self.stats);
        let fuse = Fuse::new(self.volume.clone(), stats, watch.ended());
        let hint = if rustix::process::geteuid().is_root() {
            "is /dev/fuse there? (modprobe fuse)"
        } else {
            "may this user open /dev/fuse, is fusermount3 installed, and for allow_other \
             user_allow_other set in /etc/fuse.conf?"
        };
        let session = mountpoint::mount(&self.mountpoint, &self.options, self.mode, fuse)
            .with_context(|| format!("cannot mount on {}; {hint}", self.mountpoint.display()))?;
        let serving = session.spawn().context("cannot start the thread that serves the kernel")?;
        // Dropped, it would unmount whatever is mounted there by then.
        std::mem::forget(serving);
        Ok(())
    }

    /// Unmounts because nobody wants it any more.
    fn give_up(&self) {
        if let Err(error) = mountpoint::unmount(&self.mountpoint) {
            warn!("cannot unmount {}: {error}", self.mountpoint.display());
        }
    }

    fn announce(&self) {
        info!(
            "cluster {} is mounted on {}; mode {}: {}",
            self.cluster.name,
            self.mountpoint.display(),
            self.mode,
            self.mode.policy()
        );
        match self.cluster.durability {
            Durability::Sync => {
                info!("durability sync: what is acknowledged is on a quorum's disks");
            }
            Durability::Replicated => warn!(
                "durability replicated: what is acknowledged, and fsync too, is in the memory of \
                 a quorum only; it is lost if all of them stop at once"
            ),
        }
    }

    /// Answers readers of the statistics.
    fn answer_on(&self, path: &Path) -> anyhow::Result<StatsSocket> {
        let (client, volume) = (self.client.clone(), self.volume.clone());
        let stats = Arc::clone(&self.stats);
        let fixed = json!({
            "cluster": self.cluster.name,
            "mountpoint": self.mountpoint.to_string_lossy(),
            "mode": self.mode.to_string(),
            "durability": self.cluster.durability.name(),
        });
        StatsSocket::open(path, move || {
            merged([fixed.clone(), stats.to_json(), of_volume(&volume), of_client(&client)])
        })
    }

    /// Lets the last answers arrive and says good-bye to the replicas.
    fn leave(&self) {
        if !self.volume.wait_idle(FAREWELL) {
            warn!("some requests were not answered before the end");
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        if let Ok(runtime) = runtime {
            let closed = async { tokio::time::timeout(FAREWELL, self.client.close()).await };
            if runtime.block_on(closed).is_err() {
                warn!("the replicas could not be told in time that this mount is gone");
            }
        }
        info!("{} is unmounted", self.mountpoint.display());
    }
}

fn of_volume(volume: &Volume<Replicas>) -> Value {
    let cpu = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    json!({
        "open_files": volume.open_files(),
        "cpu_us": cpu.tv_sec * 1_000_000 + cpu.tv_nsec / 1000,
    })
}

fn of_client(client: &ClientHandle) -> Value {
    let report = client.report_blocking();
    let (operations, messages) = (report.operations, report.messages);
    let (sent, received) = (messages.total_sent(), messages.total_received());
    json!({
        "operations": {
            "ordered": operations.ordered,
            "reads": operations.reads,
            "fallbacks": operations.fallbacks,
            "retries": operations.retries,
            "nudges": operations.nudges,
        },
        "messages_sent": sent.messages,
        "messages_received": received.messages,
        "bytes_sent": sent.bytes,
        "bytes_received": received.bytes,
        "messages": messages,
    })
}

fn merged<const N: usize>(parts: [Value; N]) -> Value {
    let objects = parts.into_iter().filter_map(|part| match part {
        Value::Object(object) => Some(object),
        _ => None,
    });
    Value::Object(objects.flatten().collect())
}

/// Waits for a quorum, and until it answers a first question.
fn reach(
    client: &ClientHandle,
    volume: &Volume<Replicas>,
    timeout: Duration,
) -> anyhow::Result<()> {
    let readiness = client.ready_blocking(timeout);
    if !readiness.is_ready() {
        bail!("no quorum within {timeout:?}: {readiness}");
    }
    let (answer, answered) = mpsc::channel();
    let this = Process {
        pid: 0,
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
    };
    volume.getattr(this, ROOT, move |result| {
        // Nobody listens any more if the answer comes too late.
        let _sent = answer.send(result);
    });
    match answered.recv_timeout(timeout) {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(anyhow!(error).context("the replicas do not show the root")),
        Err(_) => bail!("{readiness}, but they do not agree on an answer within {timeout:?}"),
    }
}

/// Tells the replicas that the mount is there, before anything can be open in it. If they do not
/// answer in time it goes on trying.
fn attend(volume: &Volume<Replicas>, every: Duration, timeout: Duration) {
    let (answer, answered) = mpsc::channel();
    volume.keep_session(every, move |told| {
        // Nobody listens any more if the answer comes too late.
        let _sent = answer.send(told);
    });
    // What went wrong is in the log.
    let _told = answered.recv_timeout(timeout);
}

/// A process in the background has another working directory.
fn with_absolute_paths(cli: Cli) -> anyhow::Result<Cli> {
    let full = |path: PathBuf| {
        absolute(&path).with_context(|| format!("cannot use the path {}", path.display()))
    };
    Ok(Cli {
        cluster: full(cli.cluster)?,
        cert: full(cli.cert)?,
        key: full(cli.key)?,
        stats_socket: cli.stats_socket.map(full).transpose()?,
        log: cli.log.map(full).transpose()?,
        mountpoint: full(cli.mountpoint)?,
        ..cli
    })
}

fn start_log(path: Option<&Path>) -> anyhow::Result<()> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(LOG));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_target(false);
    match path {
        None => log.with_ansi(stderr().is_terminal()).with_writer(stderr).init(),
        Some(path) => {
            let file = OpenOptions::new().append(true).create(true).open(path);
            let file = file.with_context(|| format!("cannot log to {}", path.display()))?;
            log.with_ansi(false).with_writer(Mutex::new(file)).init();
        }
    }
    Ok(())
}
