//! A history that correct replicas could have had: what is plausible is taken from it.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use bftfs_fs::{Call, Credentials, FileSystem, Ino, Operation, ROOT};
use bftfs_proto::engine::{Output, Record};
use bftfs_proto::message::{Batch, Body, Request, StateRoot};
use bftfs_proto::replica::{Replica, Setup};
use bftfs_proto::service::{Context, Nudge, Service};
use bftfs_proto::types::{ReplicaId, Seq, SessionId, SlotIndex, Wall};
use bftfs_proto::{Digest, Tree};
use bftfs_state_memory::Memory;
use bytes::Bytes;

use crate::cast::{EPOCH, at, cluster, id, replica_signer, signed};

/// Batches of the history: four checkpoints.
pub(super) const SEQS: u64 = 16;

/// One string to which operations append themselves; the result is the whole of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Appends;

impl Service for Appends {
    fn genesis(&self, _: &mut Tree) {}

    fn execute(
        &self,
        state: &mut Tree,
        _: &Context,
        operation: &Bytes,
        _: &mut Vec<Nudge>,
    ) -> Bytes {
        state.upsert(b"text", |text| text.extend_from_slice(&operation[..operation.len().min(9)]));
        text(state)
    }

    fn query(&self, state: &Tree, _: &Context, operation: &Bytes) -> Option<Bytes> {
        operation.is_empty().then(|| text(state))
    }

    fn session_closed(&self, state: &mut Tree, session: SessionId, _: Wall, _: &mut Vec<Nudge>) {
        state.insert(b"closed", session.0.to_le_bytes());
    }
}

fn text(state: &Tree) -> Bytes {
    state.get(b"text").map(|text| Bytes::copy_from_slice(&text)).unwrap_or_default()
}

/// The file service of the history.
pub(super) fn files() -> FileSystem {
    FileSystem { root_mode: 0o777, ..FileSystem::new(1 << 30, 1 << 10) }
}

pub(super) static APPENDS_CHRONICLE: LazyLock<Chronicle> =
    LazyLock::new(|| Chronicle::of(Appends, |seq| vec![seq.to_le_bytes()[0]; 600].into()));
pub(super) static FILES_CHRONICLE: LazyLock<Chronicle> =
    LazyLock::new(|| Chronicle::of(files(), file_operation));

fn file_operation(seq: u64) -> Bytes {
    let name = Bytes::from(format!("file {seq}"));
    let operation = match seq % 3 {
        0 => Operation::Mkdir { parent: ROOT, name, mode: 0o777 },
        1 => Operation::Mknod {
            parent: ROOT,
            name,
            kind: bftfs_fs::FileType::Regular,
            mode: 0o666,
            rdev: 0,
        },
        _ => Operation::Write {
            ino: Ino(seq - 1),
            offset: 0,
            append: true,
            data: vec![1; 3000].into(),
        },
    };
    Call { credentials: Credentials::default(), operation }.encode()
}

/// What was asked and ordered, and the checkpoints that came of it.
#[derive(Debug)]
pub(super) struct Chronicle {
    pub(super) requests: BTreeMap<Digest, Request>,
    /// By sequence number, from 1 on.
    pub(super) batches: Vec<Batch>,
    pub(super) roots: BTreeMap<Seq, StateRoot>,
    pub(super) blocks: BTreeMap<Digest, Bytes>,
}

impl Chronicle {
    /// Two clients open sessions; then both have operations ordered. A replica executes it all.
    fn of<S: Service>(service: S, operation: fn(u64) -> Bytes) -> Self {
        let (mut requests, mut batches) = (BTreeMap::new(), Vec::new());
        let mut records = Vec::new();
        for seq in 1..=SEQS {
            let of_seq = requests_of(seq, operation);
            let digests: Vec<Digest> = of_seq.iter().map(|r| r.digest(&id())).collect();
            requests.extend(digests.iter().copied().zip(of_seq.clone()));
            let batch = Batch { requests: digests, time: Wall(EPOCH + 1_000_000 * seq) };
            batches.push(batch.clone());
            records.push(Record::Learned { seq: Seq(seq), batch, requests: of_seq });
        }
        let setup = Setup {
            cluster: cluster(1).clone(),
            me: ReplicaId(0),
            signer: replica_signer(0).clone(),
            source: Memory::new(),
        };
        let mut replica =
            Replica::recover(setup, service, at(0), None, records).expect("as written");
        assert_eq!(replica.executed(), Seq(SEQS));
        let (mut roots, mut blocks) = (BTreeMap::new(), BTreeMap::new());
        while let Some(output) = replica.poll_output() {
            if let Output::Checkpoint(snapshots) = output {
                roots.insert(snapshots.root.seq, snapshots.root);
                let all = snapshots.trees.iter().flat_map(bftfs_state::Snapshot::blocks);
                blocks.extend(all.map(|block| (block.digest, block.bytes)));
            }
        }
        Self { requests, batches, roots, blocks }
    }

    /// The batch of a number; after the last there is nothing.
    pub(super) fn batch(&self, seq: Seq) -> Batch {
        let index = usize::try_from(seq.0.saturating_sub(1)).unwrap_or(usize::MAX);
        self.batches.get(index).cloned().unwrap_or_else(Batch::null)
    }
}

fn requests_of(seq: u64, operation: fn(u64) -> Bytes) -> Vec<Request> {
    if seq == 1 {
        return (1..=2).map(|client| signed(client, Body::Open(client.into()), 0)).collect();
    }
    let body =
        |session, number| Body::Operation(SessionId(session), SlotIndex(0), number, operation(seq));
    let mut requests = vec![signed(1, body(1, seq - 1), 0)];
    if seq.is_multiple_of(2) {
        requests.push(signed(2, body(2, seq / 2), 1));
    }
    requests
}
