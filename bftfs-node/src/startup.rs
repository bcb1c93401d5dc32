//! From files to a replica: the cluster file, the certificate, the data directory.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow, ensure};
use bftfs_fs::FileSystem;
use bftfs_net::{Clock, ClusterFile, Durability, Identity};
use bftfs_proto::engine::Record;
use bftfs_proto::message::StateRoot;
use bftfs_proto::replica::{Loaded, Recovery, Replica, Setup};
use bftfs_proto::types::ReplicaId;
use bftfs_proto::{Digest, Tree, codec};
use tokio::sync::mpsc::UnboundedReceiver;

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
        let loaded = checkpoint.map(|checkpoint| load(&store, &checkpoint)).transpose();
        let loaded = loaded.with_context(|| unusable("the checkpoint", &paths.data))?;
        let records = records.iter().map(|bytes| codec::decode(bytes)).collect::<Result<_, _>>();
        let records: Vec<Record> = records.with_context(|| unusable("the journal", &paths.data))?;
        if let Some(Loaded { root, .. }) = &loaded {
            let known =
                |r: &Record| matches!(r, Record::Stable(_, stable) if stable.seq >= root.seq);
            // It is stored after that: a journal without it has lost what was promised since, too.
            let lost = || unusable("the journal, which does not know the checkpoint,", &paths.data);
            ensure!(records.iter().any(known), lost());
        }
        let setup = Setup { cluster: file.cluster(), me, signer: identity.signer() };
        let service = FileSystem::new(file.capacity_bytes, file.capacity_inodes);
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
            blocks: store.blocks(),
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

/// Opens the trees of a checkpoint, each block verified.
fn load(store: &Store, checkpoint: &LoadedCheckpoint) -> anyhow::Result<Loaded> {
    let root: StateRoot = codec::decode(&checkpoint.meta)?;
    let mut failure = None;
    let mut fetch = |digest: &Digest| match store.get(digest) {
        Ok(block) => block,
        Err(error) => {
            failure = Some(error);
            None
        }
    };
    let trees = Tree::open(root.sessions, &mut fetch)
        .and_then(|sessions| Ok((sessions, Tree::open(root.service, &mut fetch)?)));
    match (trees, failure) {
        (_, Some(error)) => Err(error.into()),
        (Err(error), None) => Err(error.into()),
        (Ok((sessions, service)), None) => Ok(Loaded { root, sessions, service }),
    }
}
