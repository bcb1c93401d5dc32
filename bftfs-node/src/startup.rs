//! From files to a replica: the cluster file, the certificate, the data directory.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, anyhow, ensure};
use bftfs_fs::FileSystem;
use bftfs_net::{Clock, ClusterFile, Durability, Identity};
use bftfs_proto::engine::Record;
use bftfs_proto::message::StateRoot;
use bftfs_proto::replica::{Loaded, Recovery, Replica, Setup};
use bftfs_proto::types::{ReplicaId, Seq, Wall};
use bftfs_proto::{Digest, Tree, codec};
use bftfs_state::{OpenError, Source};
use tokio::sync::mpsc::UnboundedReceiver;
use tracing::warn;

use crate::archive;
use crate::data::{self, Opened, Options};
use crate::journal::Journal;
use crate::store::{Blocks, LoadedCheckpoint, Store};
use crate::writer::entry;

/// Where everything is.
#[derive(Clone, Debug)]
pub struct Paths {
    /// The cluster file.
    pub cluster: PathBuf,
    /// The replica's certificate.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// Its data directory.
    pub data: PathBuf,
}

/// A replica that is ready to be run.
#[derive(Debug)]
pub struct Node {
    /// Which one it is.
    pub me: ReplicaId,
    /// Its cluster.
    pub file: ClusterFile,
    /// Its certificate and key.
    pub identity: Identity,
    /// The clocks it is driven with.
    pub clock: Clock,
    /// The agreement and the file service, as the disk left them.
    pub replica: Replica<FileSystem>,
    /// When its records count as kept.
    pub durability: data::Durability,
    /// Where its records go.
    pub journal: Journal,
    /// Where its checkpoints go.
    pub store: Store,
    /// The blocks of the store: where long values are read and kept, and damaged ones mended.
    pub blocks: Blocks,
    /// The digests of blocks that turned out to be damaged or lost.
    pub damaged: UnboundedReceiver<Digest>,
    /// How it lies.
    #[cfg(feature = "byzantine")]
    pub lies: crate::byzantine::Options,
}

impl Node {
    /// Reads and checks everything, and locks the data directory. So many bytes of the store are
    /// looked through for damage each second.
    ///
    /// # Errors
    /// If a file is missing, malformed, damaged or another replica's, or another process runs
    /// this replica. The message says which and what to do.
    pub fn open(paths: &Paths, me: ReplicaId, scrub_bytes_per_second: u64) -> anyhow::Result<Self> {
        let Who { file, identity, owner, options } = Who::load(paths, me)?;
        let options = Options { scrub_bytes_per_second, ..options };
        let durability = options.durability;
        let Opened { journal, records, mut store, checkpoint } =
            data::open(&paths.data, &owner, &options)?;
        let damaged = store.take_damaged().expect("nobody took it before");
        let records = records.iter().map(|bytes| codec::decode(bytes)).collect::<Result<_, _>>();
        let records: Vec<Record> = records.with_context(|| unusable("the journal", &paths.data))?;
        let blocks = store.blocks();
        let source: Arc<dyn Source> = Arc::new(blocks.clone());
        let mut loaded = match checkpoint {
            Some(checkpoint) => {
                let root: StateRoot = codec::decode(&checkpoint.meta)
                    .with_context(|| unusable("the checkpoint", &paths.data))?;
                // It is stored after that: a journal without it has lost what was promised since.
                let known = |record: &Record| match record {
                    Record::Stable(_, stable) => stable.seq >= root.seq,
                    _ => false,
                };
                // But one that was imported has number 0, and no certificate.
                let lost =
                    || unusable("the journal, which does not know the checkpoint,", &paths.data);
                ensure!(root.seq == Seq(0) || records.iter().any(known), lost());
                load(root, &source, file.replicas.len() > 1)
                    .with_context(|| unusable("the checkpoint", &paths.data))?
            }
            None => None,
        };
        let (cluster, signer) = (file.cluster(), identity.signer());
        let setup = Setup { cluster, me, signer, source };
        let service = FileSystem {
            administrators: file.administrators(),
            ..FileSystem::new(file.capacity_bytes, file.capacity_inodes)
        };
        if let Some(imported) = loaded.as_mut().filter(|loaded| loaded.root.seq == Seq(0)) {
            service.begin_anew(&mut imported.service, imported.root.time);
        }
        let clock = Clock::default();
        let replica = Replica::recover(setup, service, clock.now(), loaded, records);
        let replica = replica.with_context(|| unusable("the journal", &paths.data))?;
        Ok(Self {
            me,
            file,
            identity,
            clock,
            replica,
            durability,
            journal,
            blocks,
            damaged,
            store,
            #[cfg(feature = "byzantine")]
            lies: crate::byzantine::Options::default(),
        })
    }
}

/// Makes the data directory of a replica: of a new cluster, or of one whose data is `lost`. That
/// one begins by listening (`docs/protocol.md`, a lost disk).
///
/// # Errors
/// As [`Node::open`]; or if there is data already.
pub fn format(paths: &Paths, me: ReplicaId, lost: bool) -> anyhow::Result<()> {
    let Who { owner, options, .. } = Who::load(paths, me)?;
    let begun = entry(&Record::Recovery(Recovery::Begun));
    let records = if lost { vec![begun] } else { Vec::new() };
    Ok(data::format(&paths.data, &owner, &options, &records)?)
}

/// Makes the data directory of a replica of a new cluster that begins with the file system in an
/// archive. All replicas of the cluster must begin with the same.
///
/// # Errors
/// As [`format()`]; or if the archive is cut short, altered, or not that of a sound file system. Then
/// there is no data directory.
pub fn import(paths: &Paths, me: ReplicaId, archive: &Path) -> anyhow::Result<()> {
    let Who { owner, options, .. } = Who::load(paths, me)?;
    let unusable = || format!("the archive {} cannot be used", archive.display());
    let (reader, head) = archive::Reader::open(archive).with_context(unusable)?;
    // Nobody has a session there.
    let sessions = Tree::new().seal();
    let time = Wall(head.time);
    let root = StateRoot { seq: Seq(0), time, sessions: sessions.root, service: head.root };
    let roots = vec![root.sessions, root.service];
    let checkpoint = LoadedCheckpoint { seq: 0, meta: codec::encode(&root), roots };
    let mut pieces = Some((checkpoint, sessions.added.into_iter().map(Ok).chain(reader)));
    let mut fill = |store: &mut Store| {
        let (checkpoint, blocks) = pieces.take().expect("it is filled once");
        store.import(checkpoint.clone(), blocks)?;
        let source: Arc<dyn Source> = Arc::new(store.blocks());
        let loaded = Loaded::open(root, &source).map_err(io::Error::other)?;
        match bftfs_fs::check(&loaded.service).first() {
            Some(broken) => Err(io::Error::other(format!("its file system is broken: {broken}"))),
            None => Ok(()),
        }
    };
    data::format_with(&paths.data, &owner, &options, &[], Some(&mut fill)).with_context(unusable)
}

/// A replica by its cluster file, certificate and key.
struct Who {
    file: ClusterFile,
    identity: Identity,
    owner: data::Identity,
    options: Options,
}

impl Who {
    fn load(paths: &Paths, me: ReplicaId) -> anyhow::Result<Self> {
        let file = ClusterFile::load(&paths.cluster)?;
        let n = file.replicas.len();
        if me.0 as usize >= n {
            let path = paths.cluster.display();
            return Err(anyhow!("{path} has no replica {me}: its {n} have the ids 0 to {}", n - 1));
        }
        let identity = Identity::load(&paths.certificate, &paths.key)?;
        identity.require_replica(&file, me)?;
        let durability = match file.durability {
            Durability::Sync => data::Durability::Sync,
            Durability::Replicated => data::Durability::Replicated,
        };
        let owner = data::Identity { cluster: file.id, replica: me.0 };
        Ok(Self { file, identity, owner, options: Options::new(durability) })
    }
}

fn unusable(what: &str, data: &Path) -> String {
    format!(
        "{what} in {} cannot be used: it was written by another version of this program, or is \
         damaged; move the directory away and have the replica admitted anew",
        data.display()
    )
}

/// Opens the trees of a checkpoint, each page verified. Where pages are damaged, the others' state
/// takes the place of this one, if there are others: what was promised is in the journal.
fn load(root: StateRoot, source: &Arc<dyn Source>, others: bool) -> anyhow::Result<Option<Loaded>> {
    match Loaded::open(root, source) {
        Ok(loaded) => Ok(Some(loaded)),
        Err(error @ (OpenError::Missing(_) | OpenError::Mismatch(_))) if others => {
            warn!("checkpoint {} is damaged: {error}; what is missing is fetched", root.seq.0);
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}
