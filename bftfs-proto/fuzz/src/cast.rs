//! Who takes part: a cluster on paper, everybody's keys, and the only way in.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::LazyLock;

use bftfs_proto::Digest;
use bftfs_proto::auth::{MacKey, PublicKey, Reject, Signature, Signer, Verified, verify};
use bftfs_proto::config::{Cluster, REPLICAS_MAX};
use bftfs_proto::message::{Body, Checkpoint, Message, Request};
use bftfs_proto::types::{ClientId, Mono, Now, Principal, ReplicaId, Seq, Wall};

/// The clock of every replica when a run begins, in nanoseconds since the epoch.
pub const EPOCH: u64 = 1_800_000_000_000_000_000;
/// Sequence numbers between two checkpoints: few, so that short inputs get there.
pub const K: u64 = 4;
/// Sequence numbers that may be open.
pub const L: u64 = 8;
/// Clients in the cluster file: 1 to this.
pub const CLIENTS: u32 = 2;

/// Keys that are made once: making one costs more than most steps of a run.
const SIGNERS: u32 = 24;

static ID: LazyLock<Digest> = LazyLock::new(|| Digest::of(b"cluster"));
static REPLICA_SIGNERS: LazyLock<Vec<Signer>> =
    LazyLock::new(|| (0..SIGNERS).map(|index| signer(0, index)).collect());
static CLIENT_SIGNERS: LazyLock<Vec<Signer>> =
    LazyLock::new(|| (0..SIGNERS).map(|index| signer(1, index)).collect());
static CLUSTERS: LazyLock<Vec<Cluster>> =
    LazyLock::new(|| (0..=REPLICAS_MAX).map(make_cluster).collect());

/// The name of the cluster.
#[must_use]
pub fn id() -> Digest {
    *ID
}

/// The key of a replica, in the cluster or not.
#[must_use]
pub fn replica_signer(index: u32) -> &'static Signer {
    &REPLICA_SIGNERS[(index % SIGNERS) as usize]
}

/// The key of a client, in the cluster or not.
#[must_use]
pub fn client_signer(index: u32) -> &'static Signer {
    &CLIENT_SIGNERS[(index % SIGNERS) as usize]
}

fn signer(kind: u8, index: u32) -> Signer {
    let mut seed = [kind; 32];
    seed[..4].copy_from_slice(&index.to_le_bytes());
    Signer::from_seed(&seed)
}

/// n replicas and [`CLIENTS`] clients.
#[must_use]
pub fn cluster(n: u32) -> &'static Cluster {
    &CLUSTERS[n as usize]
}

fn make_cluster(n: usize) -> Cluster {
    let keys = REPLICA_SIGNERS.iter().take(n).map(Signer::public).collect();
    let clients = (1..=CLIENTS).map(|i| (ClientId(i), client_signer(i).public())).collect();
    let mut cluster = Cluster::new(id(), keys, clients);
    (cluster.checkpoint_interval, cluster.window) = (K, L);
    cluster.verify = check;
    cluster
}

/// Signatures that are remembered, so that most runs have none to check or make.
const MEMO_MAX: usize = 1 << 16;

type Checked = HashMap<(PublicKey, Digest, Signature), Result<(), Reject>>;

thread_local! {
    static CHECKED: RefCell<Checked> = RefCell::default();
    static CLAIMS: RefCell<HashMap<(u32, Seq, Digest), Checkpoint>> = RefCell::default();
}

/// As [`PublicKey::verify`].
fn check(key: &PublicKey, digest: &Digest, signature: &Signature) -> Result<(), Reject> {
    CHECKED.with_borrow_mut(|checked| {
        if checked.len() > MEMO_MAX {
            checked.clear();
        }
        let result = checked.entry((*key, *digest, *signature));
        *result.or_insert_with(|| key.verify(digest, signature))
    })
}

/// A replica's claim of a state.
#[must_use]
pub fn claim(by: u32, seq: Seq, state: Digest) -> Checkpoint {
    CLAIMS.with_borrow_mut(|claims| {
        if claims.len() > MEMO_MAX {
            claims.clear();
        }
        let sign = || Checkpoint::sign(&id(), replica_signer(by), ReplicaId(by), seq, state);
        claims.entry((by, seq, state)).or_insert_with(sign).clone()
    })
}

/// A replica as a principal.
#[must_use]
pub const fn replica(index: u32) -> Principal {
    Principal::Replica(ReplicaId(index))
}

/// A client as a principal.
#[must_use]
pub const fn client(index: u32) -> Principal {
    Principal::Client(ClientId(index))
}

/// Both clocks, this long after the beginning.
#[must_use]
pub const fn at(nanos: u64) -> Now {
    Now { mono: Mono(nanos), wall: Wall(EPOCH.saturating_add(nanos)) }
}

/// The MAC key of one direction of a link.
#[must_use]
pub fn link(from: Principal, to: Principal) -> MacKey {
    MacKey::derive(&[7; 32], &id(), from, to)
}

/// A message as its receiver gets it: encoded, sealed, verified.
///
/// # Errors
/// Why the receiver refuses it at once.
pub fn deliver(
    from: Principal,
    to: Principal,
    message: &Message,
) -> Result<Verified<Message>, Reject> {
    let key = link(from, to);
    verify(&key, from, &key.seal(&message.encode()))
}

/// A request with its client's signature.
#[must_use]
pub fn signed(client: u32, body: Body, replier: u32) -> Request {
    let (signature, replier) = (Signature::NONE, ReplicaId(replier));
    let mut request = Request { client: ClientId(client), body, signature, replier };
    request.signature = client_signer(client).sign(&request.digest(&id()));
    request
}
