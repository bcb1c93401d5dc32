//! `cluster.toml`: who the members are, where they are, and what they agreed to keep.
//!
//! Every replica and every client reads the same file. It pins the public key of each of them, so
//! that a certificate of the cluster's CA alone makes nobody a member.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::{fmt, io};

use bftfs_proto::Digest;
use bftfs_proto::auth::PublicKey;
use bftfs_proto::config::{Cluster, REPLICAS_MAX};
use bftfs_proto::types::{ClientId, Principal, ReplicaId};
use serde::{Deserialize, Serialize};

/// The version of the file that this program reads and writes.
pub const VERSION: u32 = 1;
/// Bytes of a cluster file. Far more than any needs; a wrong file is refused before it is read.
const FILE_BYTES_MAX: u64 = 4 << 20;
/// Bytes of a client's name: it is one label of a DNS name (RFC 1035 section 2.3.4), prefixed.
const NAME_BYTES_MAX: usize = 50;

/// When a replica's vote counts as kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// A vote is on disk before it is sent: everything survives the crash of all replicas.
    Sync,
    /// A vote is kept by the quorum's memory, as BFS did (OSDI'99 section 6.2): what is
    /// acknowledged survives the crash of up to f replicas.
    Replicated,
}

impl Durability {
    /// Its name in the file.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sync => "sync",
            Self::Replicated => "replicated",
        }
    }
}

impl fmt::Display for Durability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for Durability {
    type Err = Problem;

    fn from_str(name: &str) -> Result<Self, Problem> {
        [Self::Sync, Self::Replicated]
            .into_iter()
            .find(|durability| durability.name() == name)
            .ok_or_else(|| Problem::Durability(name.into()))
    }
}

/// A replica's place and key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplicaMember {
    /// Where it listens.
    pub address: SocketAddr,
    /// What it signs with.
    pub key: PublicKey,
}

/// A client's name and key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientMember {
    /// What people call it. Letters, digits and hyphens.
    pub name: String,
    /// What it signs with.
    pub key: PublicKey,
    /// It is an administrator of the cluster when that is made: it may say what clients may do.
    /// Later, the agreed state says who is.
    pub admin: bool,
}

/// A cluster file that keeps every rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterFile {
    /// Where it was read from. Its `ca` is relative to this file.
    pub path: PathBuf,
    /// What people call the cluster.
    pub name: String,
    /// Names the cluster in every MAC, signature and digest. Random.
    pub id: Digest,
    /// When a vote counts as kept.
    pub durability: Durability,
    /// The certificate of the cluster's CA, as written in the file.
    pub ca: PathBuf,
    /// Bytes of file contents that the cluster holds; `ENOSPC` beyond. Agreed, so equal for all.
    pub capacity_bytes: u64,
    /// Inodes that the cluster holds; `ENOSPC` beyond.
    pub capacity_inodes: u64,
    /// Each replica, by its id.
    pub replicas: Vec<ReplicaMember>,
    /// Each client.
    pub clients: BTreeMap<ClientId, ClientMember>,
}

/// A rule of the cluster file that is broken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// Not TOML, a field missing, unknown or of the wrong type.
    #[error("{0}")]
    Syntax(String),
    /// Made by a later program.
    #[error("version {0} is not known to this program, which reads version {VERSION}")]
    Version(i64),
    /// No `version`.
    #[error("no `version`: it must say `version = {VERSION}`")]
    NoVersion,
    /// An empty name.
    #[error("the cluster's `name` is empty")]
    NoName,
    /// Not 32 bytes in hexadecimal.
    #[error("the {field} of {of} is not 64 hexadecimal digits")]
    Hex {
        /// Which field.
        field: &'static str,
        /// Of what.
        of: String,
    },
    /// 32 bytes that are no key, or one that anybody can sign for.
    #[error("the key of {0} is not a valid Ed25519 public key")]
    Key(String),
    /// Neither `sync` nor `replicated`.
    #[error("durability \"{0}\" is unknown: say \"sync\" or \"replicated\"")]
    Durability(String),
    /// A quota of zero.
    #[error("`{0}` is 0: nothing could be stored")]
    Capacity(&'static str),
    /// No `[[replica]]`.
    #[error("there is no [[replica]]: at least one is needed")]
    NoReplica,
    /// More replicas than the protocol allows.
    #[error("{0} replicas: at most {REPLICAS_MAX} are allowed")]
    TooManyReplicas(usize),
    /// Two replicas with one id.
    #[error("replica id {0} is used twice")]
    ReplicaTwice(u32),
    /// An id that is not below the number of replicas.
    #[error("replica id {id} is out of place: {n} replicas have the ids 0 to {}", n - 1)]
    ReplicaId {
        /// The id.
        id: u32,
        /// The number of replicas.
        n: usize,
    },
    /// Not `IP:PORT`.
    #[error("the address \"{address}\" of replica {id} is not IP:PORT")]
    Address {
        /// The replica.
        id: u32,
        /// What it says.
        address: String,
    },
    /// Port 0, or an address that nobody can dial.
    #[error("nobody can dial the address {address} of replica {id}")]
    Undialable {
        /// The replica.
        id: u32,
        /// What it says.
        address: SocketAddr,
    },
    /// Two replicas at one address.
    #[error("the address {0} is used twice")]
    AddressTwice(SocketAddr),
    /// Two clients with one id.
    #[error("client id {0} is used twice")]
    ClientTwice(u32),
    /// Two clients with one name.
    #[error("the client name \"{0}\" is used twice")]
    NameTwice(String),
    /// A client's name that no certificate can carry.
    #[error(
        "the client name \"{0}\" is not 1 to {NAME_BYTES_MAX} lower-case letters, digits and \
         hyphens, with a letter or digit at both ends"
    )]
    Name(String),
    /// One key for two members: nobody could tell them apart.
    #[error("{0} and {1} have the same key")]
    KeyTwice(String, String),
}

/// Why there is no cluster file.
#[derive(Debug, thiserror::Error)]
pub enum ClusterFileError {
    /// It cannot be read.
    #[error("cannot read the cluster file {path}: {error}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// It breaks rules.
    #[error("the cluster file {path} is refused:{}", list(problems), path = path.display())]
    Rules {
        /// The file.
        path: PathBuf,
        /// Each broken rule.
        problems: Vec<Problem>,
    },
}

fn list(problems: &[Problem]) -> String {
    problems.iter().fold(String::new(), |mut text, problem| {
        let _ = write!(text, "\n  - {problem}");
        text
    })
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Schema {
    version: u32,
    name: String,
    id: String,
    durability: String,
    ca: PathBuf,
    capacity_bytes: u64,
    capacity_inodes: u64,
    #[serde(default)]
    replica: Vec<ReplicaSchema>,
    #[serde(default)]
    client: Vec<ClientSchema>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ReplicaSchema {
    id: u32,
    address: String,
    key: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ClientSchema {
    id: u32,
    name: String,
    key: String,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    admin: bool,
}

impl ClusterFile {
    /// Reads and checks the file at `path`.
    ///
    /// # Errors
    /// If it cannot be read, or with every rule that it breaks.
    pub fn load(path: &Path) -> Result<Self, ClusterFileError> {
        let read = |error| ClusterFileError::Read { path: path.into(), error };
        let length = std::fs::metadata(path).map_err(read)?.len();
        if length > FILE_BYTES_MAX {
            let message = format!("{length} bytes are more than any cluster file has");
            return Err(read(io::Error::new(io::ErrorKind::FileTooLarge, message)));
        }
        let text = std::fs::read_to_string(path).map_err(read)?;
        Self::parse(&text, path)
    }

    /// Checks `text`, which is or is to become the file at `path`.
    ///
    /// # Errors
    /// With every rule that it breaks; if it has not the shape of a cluster file, the first.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ClusterFileError> {
        let schema = schema(text).map_err(|problem| vec![problem]);
        let checked = schema.and_then(|schema| check(&schema, path));
        checked.map_err(|problems| ClusterFileError::Rules { path: path.into(), problems })
    }

    /// The members as the protocol knows them.
    #[must_use]
    pub fn cluster(&self) -> Cluster {
        Cluster::new(
            self.id,
            self.replicas.iter().map(|replica| replica.key).collect(),
            self.clients.iter().map(|(id, client)| (*id, client.key)).collect(),
        )
    }

    /// Who may say what clients may do when the cluster is made.
    #[must_use]
    pub fn administrators(&self) -> Vec<ClientId> {
        let admins = self.clients.iter().filter(|(_, member)| member.admin);
        admins.map(|(id, _)| *id).collect()
    }

    /// Where the CA's certificate is.
    #[must_use]
    pub fn ca_path(&self) -> PathBuf {
        self.path.parent().unwrap_or_else(|| Path::new(".")).join(&self.ca)
    }

    /// Whose key this is.
    #[must_use]
    pub fn principal(&self, key: &PublicKey) -> Option<Principal> {
        let replicas = (0_u32..)
            .zip(&self.replicas)
            .map(|(id, replica)| (Principal::Replica(ReplicaId(id)), replica.key));
        let clients = self.clients.iter().map(|(id, client)| (Principal::Client(*id), client.key));
        replicas.chain(clients).find(|(_, pinned)| pinned == key).map(|(principal, _)| principal)
    }

    /// The text of the file.
    ///
    /// # Panics
    /// Never: these fields have a TOML form.
    #[must_use]
    pub fn to_toml(&self) -> String {
        let replica = (0_u32..).zip(&self.replicas).map(|(id, member)| ReplicaSchema {
            id,
            address: member.address.to_string(),
            key: hex(&member.key),
        });
        let client = self.clients.iter().map(|(id, member)| client_schema(*id, member));
        let schema = Schema {
            version: VERSION,
            name: self.name.clone(),
            id: self.id.to_string(),
            durability: self.durability.name().into(),
            ca: self.ca.clone(),
            capacity_bytes: self.capacity_bytes,
            capacity_inodes: self.capacity_inodes,
            replica: replica.collect(),
            client: client.collect(),
        };
        toml::to_string(&schema).expect("these fields have a TOML form")
    }
}

/// The `[[client]]` entry of one client, to be appended to a cluster file.
///
/// # Panics
/// Never: these fields have a TOML form.
#[must_use]
pub fn client_entry(id: ClientId, member: &ClientMember) -> String {
    let entry = toml::to_string(&client_schema(id, member)).expect("it has a TOML form");
    format!("\n[[client]]\n{entry}")
}

fn client_schema(id: ClientId, member: &ClientMember) -> ClientSchema {
    ClientSchema { id: id.0, name: member.name.clone(), key: hex(&member.key), admin: member.admin }
}

fn hex(key: &PublicKey) -> String {
    Digest(key.0).to_string()
}

/// The version comes first: a later one may have any fields.
fn schema(text: &str) -> Result<Schema, Problem> {
    let syntax = |error: toml::de::Error| Problem::Syntax(error.to_string().trim_end().into());
    let table: toml::Table = toml::from_str(text).map_err(syntax)?;
    match table.get("version").and_then(toml::Value::as_integer) {
        Some(version) if version == i64::from(VERSION) => toml::from_str(text).map_err(syntax),
        Some(version) => Err(Problem::Version(version)),
        None => Err(Problem::NoVersion),
    }
}

/// Collects what is wrong, so that one run names all of it.
#[derive(Default)]
struct Checker {
    problems: Vec<Problem>,
    keys: BTreeMap<PublicKey, String>,
}

impl Checker {
    fn require(&mut self, holds: bool, problem: impl FnOnce() -> Problem) {
        if !holds {
            self.problems.push(problem());
        }
    }

    fn hex(&mut self, field: &'static str, of: &str, text: &str) -> Option<[u8; 32]> {
        let bytes = parse_hex(text);
        self.require(bytes.is_some(), || Problem::Hex { field, of: of.into() });
        bytes
    }

    fn key(&mut self, of: &str, text: &str) -> Option<PublicKey> {
        let key = PublicKey(self.hex("key", of, text)?);
        self.require(key.is_sound(), || Problem::Key(of.into()));
        if let Some(other) = self.keys.insert(key, of.into()) {
            self.problems.push(Problem::KeyTwice(other, of.into()));
        }
        Some(key)
    }

    fn replicas(&mut self, entries: &[ReplicaSchema]) -> Vec<ReplicaMember> {
        let n = entries.len();
        self.require(n > 0, || Problem::NoReplica);
        self.require(n <= REPLICAS_MAX, || Problem::TooManyReplicas(n));
        let mut members = BTreeMap::new();
        let mut ids = BTreeSet::new();
        let mut addresses = BTreeSet::new();
        for &ReplicaSchema { id, ref address, ref key } in entries {
            self.require((id as usize) < n, || Problem::ReplicaId { id, n });
            self.require(ids.insert(id), || Problem::ReplicaTwice(id));
            let key = self.key(&format!("replica {id}"), key);
            let Ok(address) = address.parse::<SocketAddr>() else {
                self.problems.push(Problem::Address { id, address: address.clone() });
                continue;
            };
            let dialable = address.port() != 0 && !address.ip().is_unspecified();
            self.require(dialable, || Problem::Undialable { id, address });
            self.require(addresses.insert(address), || Problem::AddressTwice(address));
            if let Some(key) = key {
                members.insert(id, ReplicaMember { address, key });
            }
        }
        members.into_values().collect()
    }

    fn clients(&mut self, entries: &[ClientSchema]) -> BTreeMap<ClientId, ClientMember> {
        let mut members = BTreeMap::new();
        let mut ids = BTreeSet::new();
        let mut names = BTreeSet::new();
        for &ClientSchema { id, ref name, ref key, admin } in entries {
            self.require(ids.insert(id), || Problem::ClientTwice(id));
            self.require(is_client_name(name), || Problem::Name(name.clone()));
            self.require(names.insert(name), || Problem::NameTwice(name.clone()));
            if let Some(key) = self.key(&format!("client {id} \"{name}\""), key) {
                members.insert(ClientId(id), ClientMember { name: name.clone(), key, admin });
            }
        }
        members
    }
}

fn check(schema: &Schema, path: &Path) -> Result<ClusterFile, Vec<Problem>> {
    let mut checker = Checker::default();
    checker.require(!schema.name.trim().is_empty(), || Problem::NoName);
    checker.require(schema.capacity_bytes > 0, || Problem::Capacity("capacity_bytes"));
    checker.require(schema.capacity_inodes > 0, || Problem::Capacity("capacity_inodes"));
    let id = checker.hex("id", "the cluster", &schema.id);
    let durability = schema.durability.parse().map_err(|problem| checker.problems.push(problem));
    let replicas = checker.replicas(&schema.replica);
    let clients = checker.clients(&schema.client);
    match (id, durability) {
        (Some(id), Ok(durability)) if checker.problems.is_empty() => Ok(ClusterFile {
            path: path.into(),
            name: schema.name.clone(),
            id: Digest(id),
            durability,
            ca: schema.ca.clone(),
            capacity_bytes: schema.capacity_bytes,
            capacity_inodes: schema.capacity_inodes,
            replicas,
            clients,
        }),
        _ => Err(checker.problems),
    }
}

/// Whether a client may have this name: a certificate must be able to carry it.
#[must_use]
pub fn is_client_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=NAME_BYTES_MAX).contains(&name.len())
        && name.bytes().all(allowed)
        && !name.starts_with('-')
        && !name.ends_with('-')
}

fn parse_hex(text: &str) -> Option<[u8; 32]> {
    let digits: Vec<u8> = text
        .chars()
        .map(|c| c.to_digit(16).and_then(|d| u8::try_from(d).ok()))
        .collect::<Option<_>>()?;
    let (pairs, []) = digits.as_chunks::<2>() else { return None };
    let bytes: Vec<u8> = pairs.iter().map(|[high, low]| high << 4 | low).collect();
    bytes.try_into().ok()
}

#[cfg(test)]
mod tests;
