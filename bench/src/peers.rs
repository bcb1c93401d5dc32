//! Other file systems, set up on loopback beside our own: what people would pick instead.
//!
//! Their servers run in network and mount namespaces which this process enters, so that nothing of
//! them can be reached, or is left, when it ends.

use std::path::{Path, PathBuf};
use std::rc::Rc;

use anyhow::{Context as _, Result};

use crate::nfs::Writes;
use crate::promises::Nature;

mod daemon;
mod gluster;
mod moosefs;
mod mount;
mod nfs;
mod packages;
mod sandbox;
mod sshfs;

use daemon::{Daemon, folder};
pub(crate) use mount::PeerMount;

/// A file system of others that needs servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    Nfs(Writes),
    /// With so many bricks.
    Gluster(usize),
    Sshfs,
    MooseFs,
}

/// The column that stands for the lecture's NFS-std.
pub(crate) const NFS_STD: &str = "nfs-sync";

impl Peer {
    /// All of them.
    pub(crate) const ALL: [Self; 6] = [
        Self::Nfs(Writes::Sync),
        Self::Nfs(Writes::Async),
        Self::Gluster(3),
        Self::Gluster(1),
        Self::Sshfs,
        Self::MooseFs,
    ];

    /// The column's name.
    pub(crate) fn name(self) -> String {
        match self {
            Self::Nfs(Writes::Sync) => NFS_STD.to_owned(),
            Self::Nfs(Writes::Async) => "nfs-async".to_owned(),
            Self::Gluster(replicas) => format!("gluster{replicas}"),
            Self::Sshfs => "sshfs".to_owned(),
            Self::MooseFs => "moosefs".to_owned(),
        }
    }

    /// Debian's packages, the one whose version is told first.
    fn packages(self) -> &'static [&'static str] {
        match self {
            Self::Nfs(_) => &["nfs-ganesha", "nfs-ganesha-vfs", "rpcbind", "iproute2"],
            Self::Gluster(_) => &["glusterfs-server", "glusterfs-client", "iproute2"],
            Self::Sshfs => &["sshfs", "openssh-server", "openssh-client", "iproute2"],
            Self::MooseFs => {
                &["moosefs-master", "moosefs-chunkserver", "moosefs-client", "iproute2"]
            }
        }
    }

    /// What may be lost, and what may be stale, as the peer is set up here.
    pub(crate) fn nature(self) -> Nature {
        match self {
            Self::Nfs(Writes::Sync) => Nature::new(
                "contents on the server's disk (FILE_SYNC), names in its memory",
                "the same",
                nfs::stale(),
            ),
            Self::Nfs(Writes::Async) => Nature::new(
                "in the server's memory; after close(2) contents on its disk (COMMIT)",
                "contents on the server's disk (COMMIT)",
                nfs::stale(),
            ),
            Self::Gluster(replicas) => Nature::new(
                &match replicas {
                    1 => "in the brick's memory, up to 1 MiB of writes in the mount's".to_owned(),
                    _ => format!("in the memory of {replicas} bricks, up to 1 MiB in the mount's"),
                },
                &match replicas {
                    1 => "on the brick's disk".to_owned(),
                    _ => format!("on the disks of {replicas} bricks"),
                },
                "names, attributes and contents, 1 s",
            ),
            Self::Sshfs => Nature::new(
                "in the server's memory, writes after close(2)",
                "on the server's disk",
                "names and attributes, 20 s; contents until opened anew",
            ),
            Self::MooseFs => Nature::new(
                "in the memory of the master and, after close(2), three chunk servers",
                "in the memory of three chunk servers: nothing is flushed",
                "attributes and directories, 1 s",
            ),
        }
    }

    /// What it is, for the report.
    fn describe(self, version: &str) -> String {
        match self {
            Self::Nfs(writes) => {
                let writes = match writes {
                    Writes::Sync => "FILE_SYNC writes",
                    Writes::Async => "UNSTABLE writes and COMMIT at close and fsync",
                };
                format!("nfs-ganesha {version} over ext4, NFSv3 with {writes}, {}", nfs::client())
            }
            Self::Gluster(1) => format!("GlusterFS {version}, one brick on ext4"),
            Self::Gluster(replicas) => {
                format!("GlusterFS {version}, replica {replicas}, bricks on ext4")
            }
            Self::Sshfs => format!("sshfs {version}, OpenSSH's SFTP server over ext4"),
            Self::MooseFs => format!("MooseFS {version}, three chunk servers on ext4, goal 3"),
        }
    }
}

/// The servers that are up.
#[derive(Debug)]
pub(crate) struct Peers {
    dir: PathBuf,
    /// What each peer is, or why it is not there.
    installed: Vec<(Peer, Result<String, String>)>,
    nfs: Option<Vec<Rc<Daemon>>>,
    gluster: Option<Rc<Daemon>>,
}

impl Peers {
    /// Installs what `wanted` need, and enters the namespaces, with state in `dir`. A peer that
    /// cannot be had is not an error yet.
    pub(crate) fn prepare(wanted: &[Peer], dir: &Path) -> Self {
        // Before the namespaces, in which there is no network.
        let mut installed: Vec<_> = wanted
            .iter()
            .map(|peer| (*peer, told(packages::ensure_installed(peer.packages()))))
            .collect();
        if installed.iter().any(|(_, version)| version.is_ok())
            && let Err(error) = folder(dir, "state").and_then(|dir| sandbox::enter(&dir))
        {
            for (_, version) in &mut installed {
                *version = version.clone().and_then(|_| Err(format!("{error:#}")));
            }
        }
        Self { dir: dir.to_owned(), installed, nfs: None, gluster: None }
    }

    /// Mounts a peer that was prepared; tells also what it is.
    ///
    /// # Errors
    /// If it cannot be had, or does not come up.
    pub(crate) fn mount(&mut self, peer: Peer, place: &Path) -> Result<(PeerMount, String)> {
        let known = self.installed.iter().find(|(other, _)| *other == peer);
        let (_, version) = known.context("it was not prepared")?;
        let version = version.clone().map_err(anyhow::Error::msg)?;
        let mount = match peer {
            Peer::Nfs(writes) => nfs::mount(self, place, writes),
            Peer::Gluster(replicas) => gluster::mount(self, place, replicas),
            Peer::Sshfs => sshfs::mount(place),
            Peer::MooseFs => moosefs::mount(place),
        }?;
        Ok((mount, peer.describe(&version)))
    }
}

fn told(result: Result<String>) -> Result<String, String> {
    result.map_err(|error| format!("{error:#}"))
}
