//! What an operator looks at a stopped replica with. Nothing is changed.

use std::io::{IsTerminal as _, stderr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use bftfs_fs::{Call, Credentials, FileSystem, Operation, Reply, Statistics, decode_outcome};
use bftfs_net::ClusterFile;
use bftfs_proto::engine::Record;
use bftfs_proto::message::StateRoot;
use bftfs_proto::service::{Context, Service as _};
use bftfs_proto::types::{ClientId, ReplicaId, SessionId, View};
use bftfs_proto::{Tree, codec};
use indicatif::{ProgressBar, ProgressStyle};
use serde::{Deserialize, Serialize};

use crate::archive;
use crate::data::{self, Error, Look};
use crate::status;
use crate::store::{Contents, Damage, ScrubReport};

/// What a data directory holds.
#[derive(Debug, Serialize)]
pub struct Inspection {
    /// The data directory.
    pub data: PathBuf,
    /// The cluster's name.
    pub cluster: String,
    /// The replica.
    pub replica: u32,
    /// The format of the directory.
    pub format: u32,
    /// Records in the journal.
    pub journal_records: usize,
    /// The view that the replica is in or has promised to move to.
    pub view: u64,
    /// The last checkpoint that it knew to be stable.
    pub stable: u64,
    /// The highest number that it has a vote for.
    pub last_vote: u64,
    /// What the store holds.
    pub store: Contents,
    /// The newest checkpoint in the store.
    pub checkpoint: Option<CheckpointInspection>,
}

/// A checkpoint in the store.
#[derive(Debug, Serialize)]
pub struct CheckpointInspection {
    /// Its sequence number.
    pub seq: u64,
    /// The digest that replicas vote on.
    pub state: String,
    /// The root of the session table.
    pub sessions: String,
    /// The root of the file system.
    pub service: String,
    /// Bytes that the file system uses, unless it cannot be read.
    pub used_bytes: Option<u64>,
    /// Inodes that it has.
    pub used_inodes: Option<u64>,
}

/// A replica's cluster file and data directory, read.
struct Site {
    file: ClusterFile,
    look: Look,
}

impl Site {
    fn open(cluster: &Path, me: ReplicaId, data: &Path) -> anyhow::Result<Result<Self, Damage>> {
        let file = ClusterFile::load(cluster)?;
        let n = file.replicas.len();
        if me.0 as usize >= n {
            let path = cluster.display();
            bail!("{path} has no replica {me}: its {n} have the ids 0 to {}", n - 1);
        }
        let owner = data::Identity { cluster: file.id, replica: me.0 };
        match data::look(data, &owner) {
            Ok(look) => Ok(Ok(Self { file, look })),
            Err(Error::Damaged { path, reason }) => {
                Ok(Err(Damage::new(&path, None, reason, RECOVER)))
            }
            Err(error) => Err(error.into()),
        }
    }
}

const RECOVER: &str = "move the data directory away and bring the replica back with `bftfs-node \
                       recover`: it may have forgotten what it promised";

/// Looks at what the data directory of a stopped replica holds.
///
/// # Errors
/// If it runs, or the directory is missing, damaged or another replica's.
pub fn inspect(cluster: &Path, me: ReplicaId, data: &Path) -> anyhow::Result<Inspection> {
    let Site { file, look } = match Site::open(cluster, me, data)? {
        Ok(site) => site,
        Err(damage) => bail!("{damage}"),
    };
    let (store, found) = look.store()?;
    let records = look.records?;
    let (mut view, mut stable, mut last_vote) = (View(0), 0, 0);
    for bytes in &records {
        match codec::decode(bytes).context("the journal was written by another version")? {
            Record::View(of) => view = view.max(of),
            Record::NewView(new) => view = view.max(new.view),
            Record::Stable(_, root) => stable = stable.max(root.seq.0),
            other => last_vote = last_vote.max(other.seq().map_or(0, |seq| seq.0)),
        }
    }
    let checkpoint = found.map(|found| -> anyhow::Result<_> {
        let root: StateRoot = codec::decode(&found.meta)?;
        let tree = Tree::open_over(root.service, Arc::new(store.blocks()));
        let used = tree.ok().and_then(|tree| statistics(&tree, &root));
        Ok(CheckpointInspection {
            seq: root.seq.0,
            state: root.digest(&file.cluster().id).to_string(),
            sessions: root.sessions.to_string(),
            service: root.service.to_string(),
            used_bytes: used.as_ref().map(|used| used.used_bytes),
            used_inodes: used.as_ref().map(|used| used.used_inodes),
        })
    });
    Ok(Inspection {
        data: data.to_owned(),
        cluster: file.name,
        replica: me.0,
        format: look.format,
        journal_records: records.len(),
        view: view.0,
        stable,
        last_vote,
        store: store.contents(),
        checkpoint: checkpoint.transpose()?,
    })
}

/// What the file system says of itself.
fn statistics(tree: &Tree, root: &StateRoot) -> Option<Statistics> {
    let call = Call { credentials: Credentials::default(), operation: Operation::Statfs };
    let context = Context { client: ClientId(0), session: SessionId(0), time: root.time };
    let answer = FileSystem::new(0, 0).query(tree, &context, &call.encode())?;
    match decode_outcome(&answer).ok()?.ok()? {
        Reply::Statistics(statistics) => Some(statistics),
        _ => None,
    }
}

/// Checks all that a stopped replica has on its disk; returns what is damaged.
///
/// # Errors
/// If it cannot be checked.
pub fn verify(cluster: &Path, me: ReplicaId, data: &Path) -> anyhow::Result<Vec<Damage>> {
    let Site { look, .. } = match Site::open(cluster, me, data)? {
        Ok(site) => site,
        Err(damage) => return Ok(vec![damage]),
    };
    let journal = data.join("journal");
    let mut damages = Vec::new();
    match &look.records {
        Ok(records) => check_records(records, &journal, &mut damages),
        Err(Error::Damaged { path, reason }) => {
            damages.push(Damage::new(path, None, reason.clone(), RECOVER));
        }
        Err(error) => bail!("{error}"),
    }
    let bar = progress_bar("checking");
    damages.extend(look.verify_store(&mut |done, total| {
        bar.set_length(total);
        bar.set_position(done);
    })?);
    bar.finish_and_clear();
    if damages.is_empty() {
        damages.extend(check_file_system(&look, data)?);
    }
    Ok(damages)
}

/// Writes the file system of the newest checkpoint that a stopped replica has to an archive.
///
/// # Errors
/// If there is no checkpoint, something is damaged, or the archive is there or cannot be written.
pub fn export(cluster: &Path, me: ReplicaId, data: &Path, out: &Path) -> anyhow::Result<Exported> {
    let look = match Site::open(cluster, me, data)? {
        Ok(site) => site.look,
        Err(damage) => bail!("{damage}"),
    };
    let (store, found) = look.store()?;
    let found = found.with_context(|| {
        format!("{} has no checkpoint yet: let the replica run on", data.display())
    })?;
    let root: StateRoot = codec::decode(&found.meta)?;
    let elsewhere = "part of the file system is damaged: export it from another replica";
    let blocks = store.blocks_below(&root.service).context(elsewhere)?;
    let failed = || format!("cannot write {}", out.display());
    let head = archive::Head { time: root.time.0, root: root.service };
    let mut writer = archive::Writer::create(out, &head).with_context(failed)?;
    let bar = progress_bar("exporting");
    bar.set_length(store.live());
    let mut copy = || -> anyhow::Result<u64> {
        let mut bytes = 0;
        for digest in &blocks {
            let block = store.get(digest).context(elsewhere)?.context(elsewhere)?;
            writer.add(digest, &block).with_context(failed)?;
            bytes += block.len() as u64;
            bar.set_position(bytes);
        }
        Ok(bytes)
    };
    let copied = copy();
    bar.finish_and_clear();
    match copied {
        Ok(bytes) => {
            writer.finish().with_context(failed)?;
            Ok(Exported { seq: root.seq.0, blocks: blocks.len(), bytes })
        }
        Err(error) => {
            writer.remove();
            Err(error)
        }
    }
}

/// What was exported.
#[derive(Clone, Copy, Debug)]
pub struct Exported {
    /// The checkpoint.
    pub seq: u64,
    /// Its blocks.
    pub blocks: usize,
    /// Their bytes.
    pub bytes: u64,
}

/// Has a running replica scrub its store and waits until it did; false if damage was found.
///
/// # Errors
/// If no replica answers.
pub fn scrub(socket: &Path) -> anyhow::Result<bool> {
    let before = Scrubbed::parse(&status::ask_to_scrub(socket)?)?;
    let bar = progress_bar("scrubbing");
    let after = loop {
        std::thread::sleep(POLL);
        let now = Scrubbed::parse(&status::ask(socket)?)?;
        bar.set_length(now.scrub.total_bytes);
        bar.set_position(now.scrub.done_bytes.min(now.scrub.total_bytes));
        if now.scrub.finished > before.scrub.requested {
            break now;
        }
    };
    bar.finish_and_clear();
    let (read, found) = (after.scrub.total_bytes, after.scrub.damaged);
    let (left, repaired) = (after.damaged, after.repaired - before.repaired.min(after.repaired));
    println!(
        "{read} bytes were read: {found} blocks are damaged; {repaired} were repaired meanwhile, \
         {left} are still to be"
    );
    Ok(found == 0 && left == 0)
}

/// How often a replica that scrubs is asked how far it is.
const POLL: Duration = Duration::from_millis(200);

/// What a replica says of its store.
#[derive(Deserialize)]
struct Scrubbed {
    damaged: u64,
    repaired: u64,
    scrub: ScrubReport,
}

impl Scrubbed {
    fn parse(line: &str) -> anyhow::Result<Self> {
        #[derive(Deserialize)]
        struct Status {
            store: Scrubbed,
        }
        let status: Status = serde_json::from_str(line).context("the answer is not understood")?;
        Ok(status.store)
    }
}

fn check_records(records: &[Vec<u8>], journal: &Path, damages: &mut Vec<Damage>) {
    for (n, bytes) in records.iter().enumerate() {
        if let Err(error) = codec::decode::<Record>(bytes) {
            let what = format!("record {} of the journal is not understood: {error}", n + 1);
            damages.push(Damage::new(journal, None, what, RECOVER));
        }
    }
}

/// Checks the rules of the file system in the newest checkpoint, and that the journal knows it.
fn check_file_system(look: &Look, data: &Path) -> anyhow::Result<Vec<Damage>> {
    let (store, found) = look.store()?;
    let Some(found) = found else { return Ok(Vec::new()) };
    let path = data.join("store");
    let mut damages = Vec::new();
    let Ok(root) = codec::decode::<StateRoot>(&found.meta) else {
        let what = format!("what checkpoint {} is made of is not understood", found.seq);
        return Ok(vec![Damage::new(&path, None, what, RECOVER)]);
    };
    let stable = |bytes: &Vec<u8>| match codec::decode(bytes) {
        Ok(Record::Stable(_, stable)) => stable.seq >= root.seq,
        _ => false,
    };
    if root.seq.0 > 0 && !look.records.iter().flatten().any(stable) {
        let what = format!("the journal does not know the stored checkpoint {}", root.seq);
        damages.push(Damage::new(&data.join("journal"), None, what, RECOVER));
    }
    let tree = Tree::open_over(root.service, Arc::new(store.blocks()))?;
    for broken in bftfs_fs::check(&tree) {
        let what = format!("the file system of checkpoint {} breaks a rule: {broken}", found.seq);
        damages.push(Damage::new(&path, None, what, RECOVER));
    }
    Ok(damages)
}

/// A bar that shows bytes on the standard error, if that is a terminal.
pub(crate) fn progress_bar(what: &'static str) -> ProgressBar {
    if !stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = "{msg} {wide_bar} {bytes}/{total_bytes} {binary_bytes_per_sec} {eta}";
    let style = ProgressStyle::with_template(style).expect("the template is a good one");
    ProgressBar::new(0).with_style(style).with_message(what)
}
