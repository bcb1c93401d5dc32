//! Columns over development clusters on this machine: four replicas, or the one of BFS-nr.

use std::fs;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use anyhow::{Context as _, Result};
use bftfs_dev::{DevCluster, Durability, Mode, MountGuard, MountOptions, UpOptions};
use serde_json::{Map, Value};

use crate::promises::Nature;
use crate::target::{Backing, Counters};

/// Which cluster, and how it is mounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ClusterColumn {
    kind: Kind,
    mode: Mode,
}

/// Columns of one kind share a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Kind {
    /// 1 for BFS-nr.
    replicas: u32,
    durability: Durability,
}

/// What a column's name ends with if votes do not wait for the disk.
pub(crate) const REPLICATED: &str = "-replicated";
/// How many replicas there are where nothing else is said.
pub(crate) const REPLICAS: u32 = 4;
/// The clients of a cluster, by the mode that each mounts in. With one for all, a mount would also
/// hear some of what is said to the others.
const CLIENTS: [Mode; 3] = [Mode::Strict, Mode::Relatime, Mode::RoLookup];
/// The column of BFS-nr in strict mode.
pub(crate) const BFS_NR: &str = "nr";

impl ClusterColumn {
    /// The column of this name, if there is one.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        let (base, durability) = match name.strip_suffix(REPLICATED) {
            Some(base) => (base, Durability::Replicated),
            None => (name, Durability::Sync),
        };
        let (base, grown) = match base.rsplit_once("-n") {
            Some((base, number)) => (base, replicas(number).ok()?),
            None => (base, REPLICAS),
        };
        let (replicas, mode) = match base {
            "strict" => (grown, Mode::Strict),
            "relatime" => (grown, Mode::Relatime),
            "ro-lookup" => (grown, Mode::RoLookup),
            _ if grown != REPLICAS => return None,
            BFS_NR | "nr-strict" => (1, Mode::Strict),
            "nr-relatime" => (1, Mode::Relatime),
            "nr-ro-lookup" => (1, Mode::RoLookup),
            _ => return None,
        };
        Some(Self { kind: Kind { replicas, durability }, mode })
    }

    /// The same column with each of these numbers of replicas; that of BFS-nr stays as it is.
    pub(crate) fn grown(self, replicas: &[u32]) -> Vec<Self> {
        match self.kind.replicas {
            1 => vec![self],
            _ => replicas
                .iter()
                .map(|&replicas| Self { kind: Kind { replicas, ..self.kind }, ..self })
                .collect(),
        }
    }

    /// Its name in tables and JSON.
    pub(crate) fn name(self) -> String {
        let base = match (self.kind.replicas, self.mode) {
            (1, Mode::Strict) => BFS_NR.to_owned(),
            (1, mode) => format!("{BFS_NR}-{}", mode.name()),
            (REPLICAS, mode) => mode.name().to_owned(),
            (replicas, mode) => format!("{}-n{replicas}", mode.name()),
        };
        match self.kind.durability {
            Durability::Sync => base,
            Durability::Replicated => base + REPLICATED,
        }
    }

    /// For the report: what it is.
    pub(crate) fn describe(self) -> String {
        let replicas = match self.kind.replicas {
            1 => "1 replica (BFS-nr)".to_owned(),
            replicas => format!("{replicas} replicas"),
        };
        let (mode, durability) = (self.mode.name(), self.kind.durability.name());
        format!("bftfs: {replicas}, {mode}, durability {durability}")
    }
}

impl ClusterColumn {
    /// What may be lost, and what may be stale.
    pub(crate) fn nature(self) -> Nature {
        let replicas = self.kind.replicas;
        // All but those that may be faulty.
        let quorum = replicas - replicas.saturating_sub(1) / 3;
        let place = match self.kind.durability {
            Durability::Sync => "on the disks",
            Durability::Replicated => "in the memory",
        };
        let returned = format!("{place} of {quorum} of {replicas} replicas");
        Nature::new(&returned, &returned, "nothing")
    }
}

/// A number of replicas that tolerates some faulty ones, and none more than it needs to.
pub(crate) fn replicas(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(replicas @ 4..=31) if replicas % 3 == 1 => Ok(replicas),
        _ => Err("expected 4, 7, 10 and so on up to 31".to_owned()),
    }
}

/// The clusters that are up.
#[derive(Debug, Default)]
pub(crate) struct Clusters {
    up: Vec<(Kind, Rc<DevCluster>)>,
}

impl Clusters {
    /// Mounts the column on `dir/mnt`, on a new cluster if none of its kind is up yet, which lives
    /// in `clusters`.
    ///
    /// # Errors
    /// If the cluster cannot be started or mounted.
    pub(crate) fn mount(
        &mut self,
        column: ClusterColumn,
        clusters: &Path,
        dir: &Path,
    ) -> Result<ClusterMount> {
        let cluster = self.cluster(column.kind, clusters)?;
        let point = dir.join("mnt");
        fs::create_dir(&point).with_context(|| format!("cannot make {}", point.display()))?;
        let client = Some(column.mode.name().to_owned());
        let options = MountOptions { client, ..MountOptions::new(&point, column.mode) };
        let mount = Some(cluster.mount(&options)?);
        Ok(ClusterMount { mount, options, replicas: Replicas(cluster) })
    }

    fn cluster(&mut self, kind: Kind, clusters: &Path) -> Result<Rc<DevCluster>> {
        if let Some((_, cluster)) = self.up.iter().find(|(other, _)| *other == kind) {
            return Ok(Rc::clone(cluster));
        }
        let dir = clusters.join(format!("cluster-{}", self.up.len()));
        let options = UpOptions {
            replicas: kind.replicas,
            durability: kind.durability,
            clients: CLIENTS.map(|mode| mode.name().to_owned()).into(),
            ..UpOptions::new(&dir)
        };
        let cluster = Rc::new(DevCluster::up(&options)?);
        self.up.push((kind, Rc::clone(&cluster)));
        Ok(cluster)
    }
}

/// The replicas of one cluster. Dropping the last reference stops them.
#[derive(Clone, Debug)]
pub(crate) struct Replicas(Rc<DevCluster>);

impl Replicas {
    /// Their processes.
    pub(crate) fn pids(&self) -> Vec<u32> {
        self.0.pids()
    }

    /// Protocol messages that they have sent. One that was killed on purpose sends nothing.
    pub(crate) fn messages(&self) -> u64 {
        let reports = self.0.status().into_iter().filter_map(|replica| replica.counters);
        reports.map(|counters| counters.messages_sent).sum()
    }

    /// Who and where they are.
    pub(crate) fn cluster_file(&self) -> PathBuf {
        self.0.cluster_file()
    }

    /// The certificate of their client.
    pub(crate) fn certificate(&self) -> PathBuf {
        self.client_dir().join("client.crt")
    }

    /// The private key of their client.
    pub(crate) fn key(&self) -> PathBuf {
        self.client_dir().join("client.key")
    }

    fn client_dir(&self) -> PathBuf {
        self.0.dir().join(format!("client-{}", CLIENTS[0].name()))
    }
}

/// A mount of a cluster.
#[derive(Debug)]
pub(crate) struct ClusterMount {
    // Unmounted before the cluster is stopped.
    mount: Option<MountGuard>,
    options: MountOptions,
    replicas: Replicas,
}

impl ClusterMount {
    /// Where it is mounted.
    pub(crate) fn point(&self) -> &Path {
        &self.options.point
    }

    fn mounted(&self) -> Result<&MountGuard> {
        self.mount.as_ref().context("it is not mounted any more")
    }
}

impl Backing for ClusterMount {
    fn pids(&self) -> Vec<u32> {
        let mount = self.mount.as_ref().and_then(|mount| mount.process().pid());
        self.replicas.pids().into_iter().chain(mount).collect()
    }

    fn counters(&self) -> Result<Option<Counters>> {
        let mount = self.mounted()?.counters()?;
        let messages = mount.messages_sent + self.replicas.messages();
        let operations = operations(&mount.other).context("the mount counts no operations")?;
        Ok(Some(Counters { messages, operations }))
    }

    fn remount(&mut self) -> Result<()> {
        if let Some(mount) = self.mount.take() {
            mount.unmount()?;
        }
        self.mount = Some(self.replicas.0.mount(&self.options)?);
        Ok(())
    }

    fn replicas(&self) -> Option<Replicas> {
        Some(self.replicas.clone())
    }
}

/// Operations that a mount has had carried out by the replicas, ordered or as fast reads.
pub(crate) fn operations(mount: &Map<String, Value>) -> Option<u64> {
    let count = |how| mount.get("operations")?.get(how)?.as_u64();
    Some(count("ordered")? + count("reads")?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn operations_are_ordered_or_fast_reads() {
        let mount = json!({"operations": {"ordered": 3, "reads": 2, "fallbacks": 1}});
        assert_eq!(operations(mount.as_object().expect("an object")), Some(5));
        assert_eq!(operations(&Map::new()), None);
    }

    #[test]
    fn names_and_columns_are_one_to_one() {
        let bases = ["strict", "relatime", "ro-lookup", "nr", "nr-relatime", "nr-ro-lookup"];
        let names = bases.into_iter().flat_map(|b| [b.to_owned(), format!("{b}{REPLICATED}")]);
        for name in names {
            let column = ClusterColumn::parse(&name).expect("a column");
            assert_eq!(column.name(), name);
        }
        assert_eq!(ClusterColumn::parse("nr-strict").expect("a column").name(), "nr");
        let grown = ClusterColumn::parse("strict-n7-replicated").expect("a column");
        assert_eq!(grown.name(), "strict-n7-replicated");
        for wrong in ["strictly", "strict-n8", "strict-n", "nr-n7"] {
            assert_eq!(ClusterColumn::parse(wrong), None, "{wrong}");
        }
        assert_eq!(ClusterColumn::parse("-replicated"), None);
    }

    #[test]
    fn columns_grow_with_the_replicas_but_bfs_nr_does_not() {
        let names = |name| {
            let column = ClusterColumn::parse(name).expect("a column");
            column.grown(&[4, 7]).into_iter().map(ClusterColumn::name).collect::<Vec<_>>()
        };
        assert_eq!(names("strict-replicated"), ["strict-replicated", "strict-n7-replicated"]);
        assert_eq!(names("nr"), ["nr"]);
        let column = ClusterColumn::parse("strict").expect("a column").grown(&[7])[0];
        assert_eq!(column.nature().returned, "on the disks of 5 of 7 replicas");
    }

    #[test]
    fn a_column_says_what_it_is() {
        let column = ClusterColumn::parse("nr-ro-lookup-replicated").expect("a column");
        let wanted = "bftfs: 1 replica (BFS-nr), ro-lookup, durability replicated";
        assert_eq!(column.describe(), wanted);
    }
}
