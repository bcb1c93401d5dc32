//! The columns that a benchmark can be asked for, and setting them up.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::clusters::{self, ClusterColumn, Clusters, REPLICAS};
use crate::passthrough::Caching;
use crate::passthrough::child::PassthroughChild;
use crate::peers::{Peer, Peers};
use crate::promises::{self, Nature, Promise};
use crate::target::{Given, Target};
use crate::{interrupt, machine};

/// Which targets to measure, where, and on which CPUs.
#[derive(Debug, Args)]
pub(crate) struct Chosen {
    /// A directory to measure under this name; may be given more than once
    #[arg(long = "target", value_name = "NAME=DIR", value_parser = pair)]
    targets: Vec<(String, String)>,
    /// Processes that serve the target NAME, for CPU accounting
    #[arg(long = "pids", value_name = "NAME=PID,PID", value_parser = pair)]
    pids: Vec<(String, String)>,
    /// Own columns: strict, relatime, ro-lookup, nr, nr-relatime, nr-ro-lookup, each also with
    /// -replicated (no fsync before votes), ext4, passthrough and passthrough-direct (past the page
    /// cache)
    #[arg(
        long,
        value_name = "NAME,NAME",
        value_delimiter = ',',
        default_values = ["strict", "ro-lookup", "nr"],
        default_value_if("targets", clap::builder::ArgPredicate::IsPresent, None)
    )]
    columns: Vec<Column>,
    /// Other file systems beside ours: ext4, passthrough, nfs-sync, nfs-async, gluster3, gluster1,
    /// sshfs, moosefs. As root; what is missing is installed with apt-get
    #[arg(long, value_name = "NAME,NAME", value_delimiter = ',', value_parser = peer)]
    peers: Vec<Column>,
    /// How many replicas those of our columns have that have several
    #[arg(
        long,
        value_name = "N,N",
        value_delimiter = ',',
        default_values_t = [REPLICAS],
        value_parser = clusters::replicas
    )]
    replicas: Vec<u32>,
    /// Where own columns keep their data: a directory on a disk
    #[arg(long, value_name = "DIR", default_value = "/var/tmp")]
    dir: PathBuf,
    /// Run everything on these CPUs, servers included
    #[arg(long, value_name = "CPU,CPU", value_delimiter = ',')]
    pin: Option<Vec<usize>>,
}

impl Chosen {
    /// Pins this process as asked, before it starts any other; tells the pinning.
    pub(crate) fn pin(&self) -> Result<String> {
        if let Some(cpus) = &self.pin {
            machine::pin(cpus)?;
        }
        Ok(machine::pinning(self.pin.as_deref()))
    }

    /// Where own columns keep their data.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Own columns with each number of replicas, then the peers that are not among them.
    fn all(&self) -> Vec<Column> {
        let grown = self.columns.iter().flat_map(|column| match column {
            Column::Cluster(column) => {
                column.grown(&self.replicas).into_iter().map(Column::Cluster).collect()
            }
            other => vec![other.clone()],
        });
        let others = self.peers.iter().filter(|peer| !self.columns.contains(peer)).cloned();
        grown.chain(others).collect()
    }
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() && !value.is_empty() => {
            Ok((name.to_owned(), value.to_owned()))
        }
        _ => Err("expected NAME=VALUE".to_owned()),
    }
}

fn peer(name: &str) -> Result<Column, String> {
    match name.parse() {
        Ok(column @ (Column::Ext4 | Column::Passthrough(_) | Column::Peer(_))) => Ok(column),
        _ => {
            let peers: Vec<_> = Peer::ALL.into_iter().map(Peer::name).collect();
            Err(format!("there is ext4, passthrough, {}", peers.join(", ")))
        }
    }
}

/// A target that the benchmark sets up itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Column {
    /// A plain directory on the disk.
    Ext4,
    /// The passthrough file system over such a directory.
    Passthrough(Caching),
    /// A mount of a development cluster.
    Cluster(ClusterColumn),
    /// A file system of others.
    Peer(Peer),
}

impl Column {
    fn name(&self) -> String {
        match self {
            Self::Ext4 => "ext4".to_owned(),
            Self::Passthrough(Caching::PageCache) => "passthrough".to_owned(),
            Self::Passthrough(Caching::Direct) => "passthrough-direct".to_owned(),
            Self::Cluster(column) => column.name(),
            Self::Peer(peer) => peer.name(),
        }
    }
}

impl Column {
    fn nature(&self) -> Nature {
        let (memory, disk) = ("in memory", "on the disk");
        match self {
            Self::Ext4 => Nature::new(memory, disk, "nothing"),
            Self::Passthrough(Caching::Direct) => Nature::new(memory, disk, "nothing"),
            Self::Passthrough(Caching::PageCache) => {
                Nature::new(memory, disk, "contents until size or times change")
            }
            Self::Cluster(column) => column.nature(),
            Self::Peer(peer) => peer.nature(),
        }
    }

    fn peer(&self) -> Option<Peer> {
        match self {
            Self::Peer(peer) => Some(*peer),
            Self::Ext4 | Self::Passthrough(_) | Self::Cluster(_) => None,
        }
    }
}

impl FromStr for Column {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "ext4" => Ok(Self::Ext4),
            "passthrough" => Ok(Self::Passthrough(Caching::PageCache)),
            "passthrough-direct" => Ok(Self::Passthrough(Caching::Direct)),
            _ => {
                let peer = Peer::ALL.into_iter().find(|peer| peer.name() == name).map(Self::Peer);
                peer.or_else(|| ClusterColumn::parse(name).map(Self::Cluster))
                    .ok_or_else(|| format!("there is no column {name:?}"))
            }
        }
    }
}

/// Targets that are up, and what keeps them so; dropping it takes them down.
#[derive(Debug)]
pub(crate) struct Lab {
    /// The targets in the order of the table.
    pub targets: Vec<Target>,
    /// For the report: what each target is.
    pub notes: Value,
    /// For the report: what each target promises.
    pub promises: BTreeMap<String, Promise>,
    /// The peers that could not be set up, and why.
    pub missing: BTreeMap<String, String>,
    /// Removed last: the targets lie in it.
    _dir: TempDir,
}

/// Sets up every chosen target.
///
/// # Errors
/// If one cannot be; those that were set up are taken down again.
pub(crate) fn set_up(chosen: &Chosen) -> Result<Lab> {
    let dir =
        tempfile::Builder::new().prefix("bftfs-bench-").tempdir_in(&chosen.dir).with_context(
            || format!("--dir {}: cannot make a directory there", chosen.dir.display()),
        )?;
    let columns = chosen.all();
    let wanted: Vec<_> = columns.iter().filter_map(Column::peer).collect();
    let mut setting =
        Setting { clusters: Clusters::default(), peers: Peers::prepare(&wanted, dir.path()) };
    let mut targets = Vec::new();
    let mut notes = serde_json::Map::new();
    let (mut missing, mut natures) = (BTreeMap::new(), BTreeMap::new());
    for column in &columns {
        eprintln!("setting up {}", column.name());
        match own(column, dir.path(), &mut setting) {
            Ok((target, note)) => {
                notes.insert(target.name.clone(), json!(note));
                natures.insert(target.name.clone(), column.nature());
                targets.push(target);
            }
            Err(error) if column.peer().is_some() => {
                interrupt::check()?;
                eprintln!("not measured: {}: {error:#}", column.name());
                missing.insert(column.name(), format!("{error:#}"));
            }
            Err(error) => return Err(error),
        }
    }
    for (name, path) in &chosen.targets {
        let target = Target::given(name, Path::new(path), pids(chosen, name)?)?;
        notes.insert(name.clone(), json!(describe(&target.dir)));
        targets.push(target);
    }
    check_names(&targets, chosen)?;
    let promises = match chosen.peers.is_empty() {
        true => BTreeMap::new(),
        false => promises::check(&targets, natures, dir.path())?,
    };
    Ok(Lab { targets, notes: Value::Object(notes), promises, missing, _dir: dir })
}

fn check_names(targets: &[Target], chosen: &Chosen) -> Result<()> {
    ensure!(!targets.is_empty(), "nothing to measure: give --target NAME=DIR or --columns NAME");
    for (index, target) in targets.iter().enumerate() {
        let twice = targets[..index].iter().any(|other| other.name == target.name);
        ensure!(!twice, "two targets are called {}", target.name);
    }
    match chosen.pids.iter().find(|(name, _)| !targets.iter().any(|t| t.name == *name)) {
        Some((name, _)) => bail!("--pids {name}: there is no such --target"),
        None => Ok(()),
    }
}

fn pids(chosen: &Chosen, name: &str) -> Result<Vec<u32>> {
    let lists = chosen.pids.iter().filter(|(target, _)| target == name);
    lists
        .flat_map(|(_, list)| list.split(','))
        .map(|pid| pid.parse().with_context(|| format!("--pids {name}: {pid:?} is no process id")))
        .collect()
}

/// What several columns share.
struct Setting {
    clusters: Clusters,
    peers: Peers,
}

/// Sets up one column in `dir`; tells also what it is.
fn own(column: &Column, dir: &Path, setting: &mut Setting) -> Result<(Target, String)> {
    let name = column.name();
    let place = dir.join(&name);
    fs::create_dir(&place).with_context(|| format!("column {name} was asked for twice"))?;
    match column {
        Column::Ext4 => {
            spread_subdirectories(&place);
            let note = describe(&place);
            Ok((Target { name, dir: place, backing: Box::new(Given::default()) }, note))
        }
        Column::Passthrough(caching) => {
            let child = PassthroughChild::mount(&place, *caching)
                .context("the passthrough file system cannot be mounted")?;
            spread_subdirectories(child.data());
            let note = format!("FUSE passthrough to {}", describe(child.data()));
            let dir = child.mount_point().to_owned();
            Ok((Target { name, dir, backing: Box::new(child) }, note))
        }
        Column::Cluster(column) => {
            let mount = setting
                .clusters
                .mount(*column, dir, &place)
                .with_context(|| format!("column {name}: no mounted cluster"))?;
            let note = format!("{}, journals on {}", column.describe(), describe(dir));
            let dir = mount.point().to_owned();
            Ok((Target { name, dir, backing: Box::new(mount) }, note))
        }
        Column::Peer(peer) => {
            let (mount, note) = setting.peers.mount(*peer, &place)?;
            let dir = mount.point().to_owned();
            Ok((Target { name, dir, backing: Box::new(mount) }, note))
        }
    }
}

/// Makes ext4 place every new directory in `dir` in a block group of its own (chattr(1), `T`).
///
/// Otherwise all runs share one group, in which ext4 avoids the inodes that were deleted in the
/// last minutes: a search that makes a create 100 times slower after a few runs.
pub(crate) fn spread_subdirectories(dir: &Path) {
    let spread = || {
        let dir = File::open(dir)?;
        let flags = ioctl_getflags(&dir)?;
        ioctl_setflags(&dir, flags | IFlags::TOPDIR)?;
        std::io::Result::Ok(())
    };
    if let Err(error) = spread() {
        // Other file systems have neither the flag nor the habit.
        eprintln!("note: {} takes no flag T: {error}", dir.display());
    }
}

/// For the report: the kind of file system that `dir` lies on.
pub(crate) fn describe(dir: &Path) -> String {
    match rustix::fs::statfs(dir) {
        Ok(statfs) => match u64::from_ne_bytes(statfs.f_type.to_ne_bytes()) {
            0xef53 => "ext4".to_owned(),
            0x0102_1994 => "tmpfs".to_owned(),
            0x5846_5342 => "xfs".to_owned(),
            0x9123_683e => "btrfs".to_owned(),
            0x6573_5546 => "FUSE".to_owned(),
            0x794c_7630 => "overlayfs".to_owned(),
            other => format!("file system of type {other:#x}"),
        },
        Err(error) => format!("unknown: {error}"),
    }
}
