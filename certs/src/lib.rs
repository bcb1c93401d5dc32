//! Makes the directory of a cluster: its CA, a certificate and key for every replica and client,
//! and the cluster file that pins the keys.
//!
//! ```text
//! DIR/cluster.toml            what every replica and client reads
//! DIR/ca.crt, DIR/ca.key      the cluster's CA; only `client` needs the key again
//! DIR/replica-N/replica.crt, replica.key
//! DIR/client-NAME/client.crt, client.key
//! ```

mod authority;
mod files;

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use bftfs_net::cluster_file::{
    ClientMember, ClusterFile, ClusterFileError, Durability, ReplicaMember, client_entry,
    is_client_name,
};
use bftfs_proto::Digest;
use bftfs_proto::config::REPLICAS_MAX;
use bftfs_proto::types::{ClientId, ReplicaId};

pub use authority::{Authority, Key, Period, Subject};

/// Days that a certificate may be valid.
pub const DAYS_MAX: u32 = 36_500;

/// The client that says what clients may do. Each cluster has it from the start.
pub const ADMIN: &str = "admin";

/// Why something was not made.
#[derive(Debug, thiserror::Error)]
pub enum CertsError {
    /// There is a cluster already.
    #[error("{0} is there already: nothing was changed; choose another directory or remove it")]
    Exists(PathBuf),
    /// A file could not be read or written.
    #[error("cannot {doing} {path}: {error}", path = path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// On which file.
        path: PathBuf,
        /// What happened.
        error: std::io::Error,
    },
    /// The cluster file is unreadable or breaks rules.
    #[error(transparent)]
    ClusterFile(#[from] ClusterFileError),
    /// A client of that name is there already.
    #[error("the cluster has a client named \"{0}\" already")]
    ClientExists(String),
    /// A name that a certificate or directory cannot carry.
    #[error("the client name \"{0}\" must be lower-case letters, digits and hyphens, at most 50")]
    Name(String),
    /// Fewer than one or more than the protocol allows.
    #[error("a cluster has 1 to {REPLICAS_MAX} replicas, not {0}")]
    Replicas(u32),
    /// Too many ports.
    #[error("{replicas} replicas need ports {port} to {}, and 65535 is the last", u32::from(*port) + replicas - 1)]
    Ports {
        /// The first.
        port: u16,
        /// How many.
        replicas: u32,
    },
    /// Too few or too many days.
    #[error("certificates are valid for 1 to {DAYS_MAX} days, not {0}")]
    Days(u32),
    /// A certificate could not be made.
    #[error("cannot make the certificate of {of}: {error}")]
    Certificate {
        /// Whose.
        of: String,
        /// Why not.
        error: rcgen::Error,
    },
    /// The system gave no randomness.
    #[error("the system gives no random numbers: {0}")]
    Random(getrandom::Error),
}

/// What is to be made by [`init`].
#[derive(Clone, Debug)]
pub struct Plan {
    /// The directory, made if it is not there.
    pub dir: PathBuf,
    /// What people call the cluster.
    pub name: String,
    /// How many replicas (n): 3f+1 tolerate f faulty ones.
    pub replicas: u32,
    /// The clients' names.
    pub clients: Vec<String>,
    /// Where the replicas listen.
    pub host: IpAddr,
    /// The UDP port of replica 0; the others follow.
    pub port: u16,
    /// When a vote counts as kept.
    pub durability: Durability,
    /// Days until the certificates expire.
    pub days: u32,
}

impl Plan {
    /// A development cluster of four on loopback with one client, `alice`.
    #[must_use]
    pub fn development(dir: &Path) -> Self {
        Self {
            dir: dir.into(),
            name: "dev".into(),
            replicas: 4,
            clients: vec!["alice".into()],
            host: IpAddr::from([127, 0, 0, 1]),
            port: 4800,
            durability: Durability::Sync,
            days: 365,
        }
    }

    fn check(&self) -> Result<(), CertsError> {
        if !(1..=REPLICAS_MAX).contains(&(self.replicas as usize)) {
            return Err(CertsError::Replicas(self.replicas));
        }
        if u32::from(self.port) + self.replicas - 1 > u32::from(u16::MAX) {
            return Err(CertsError::Ports { port: self.port, replicas: self.replicas });
        }
        self.clients.iter().enumerate().try_for_each(|(index, name)| {
            check_name(name)?;
            let twice = self.clients.iter().take(index).any(|other| other == name);
            if twice { Err(CertsError::ClientExists(name.clone())) } else { Ok(()) }
        })
    }

    /// The clients' names, with the administrator's last: so the others keep their ids.
    fn members(&self) -> impl Iterator<Item = &str> {
        let named = self.clients.iter().map(String::as_str);
        let admin = named.clone().all(|name| name != ADMIN).then_some(ADMIN);
        named.chain(admin)
    }

    fn address(&self, id: u32) -> SocketAddr {
        let offset = u16::try_from(id).expect("checked: the last port fits");
        SocketAddr::new(self.host, self.port + offset)
    }
}

/// Makes a whole cluster's directory. The cluster file is written last, so a directory with one
/// is complete.
///
/// # Errors
/// If the plan breaks a rule, anything that would be made is there already, or the disk says no.
pub fn init(plan: &Plan) -> Result<ClusterFile, CertsError> {
    plan.check()?;
    let period = Period::days(plan.days)?;
    let path = cluster_path(&plan.dir);
    if path.exists() {
        return Err(CertsError::Exists(path));
    }
    files::make_dir(&plan.dir)?;
    let authority = Authority::create(&plan.dir, &plan.name)?;
    let replica = |id: u32| {
        let subject = Subject::Replica(ReplicaId(id));
        let key = authority.make_leaf(&plan.dir, &plan.name, &subject, period)?;
        Ok(ReplicaMember { address: plan.address(id), key })
    };
    let client = |(id, name): (u32, &str)| {
        let subject = Subject::Client(name.into());
        let key = authority.make_leaf(&plan.dir, &plan.name, &subject, period)?;
        Ok((ClientId(id), ClientMember { name: name.into(), key, admin: name == ADMIN }))
    };
    let file = ClusterFile {
        path: path.clone(),
        name: plan.name.clone(),
        id: Digest(authority::random()?),
        durability: plan.durability,
        ca: authority::CA_CERTIFICATE.into(),
        capacity_bytes: 1 << 40,
        capacity_inodes: 1 << 24,
        replicas: (0..plan.replicas).map(replica).collect::<Result<_, CertsError>>()?,
        clients: (1..).zip(plan.members()).map(client).collect::<Result<_, CertsError>>()?,
    };
    let file = ClusterFile::parse(&file.to_toml(), &path)?;
    files::create(&path, &file.to_toml(), files::PUBLIC)?;
    Ok(file)
}

/// Makes one client more: its certificate and key, and its entry in the cluster file.
/// Running replicas read the file again when they meet a key that they do not know.
///
/// # Errors
/// If there is such a client, the cluster file breaks rules, or the disk says no.
pub fn add_client(dir: &Path, name: &str, days: u32) -> Result<ClientId, CertsError> {
    check_name(name)?;
    let period = Period::days(days)?;
    let _lock = files::lock(dir)?;
    let path = cluster_path(dir);
    let text = files::read(&path)?;
    let file = ClusterFile::parse(&text, &path)?;
    if file.clients.values().any(|client| client.name == name) {
        return Err(CertsError::ClientExists(name.into()));
    }
    let id = ClientId(file.clients.keys().last().map_or(1, |last| last.0 + 1));
    let authority = Authority::load(dir, &file.name)?;
    let key = authority.make_leaf(dir, &file.name, &Subject::Client(name.into()), period)?;
    let text = text + &client_entry(id, &ClientMember { name: name.into(), key, admin: false });
    ClusterFile::parse(&text, &path)?;
    files::replace(&path, &text)?;
    Ok(id)
}

/// Makes the certificate and key of a client that is in no cluster file: an administrator admits
/// it, with a rule from the start.
///
/// # Errors
/// If there is such a client, the cluster file breaks rules, or the disk says no.
pub fn make_client(dir: &Path, name: &str, days: u32) -> Result<(), CertsError> {
    check_name(name)?;
    let period = Period::days(days)?;
    let file = ClusterFile::load(&cluster_path(dir))?;
    if file.clients.values().any(|client| client.name == name) {
        return Err(CertsError::ClientExists(name.into()));
    }
    let authority = Authority::load(dir, &file.name)?;
    authority.make_leaf(dir, &file.name, &Subject::Client(name.into()), period).map(drop)
}

/// Where the cluster file of `dir` is.
#[must_use]
pub fn cluster_path(dir: &Path) -> PathBuf {
    dir.join("cluster.toml")
}

/// The certificate and the key of `subject` in `dir`.
#[must_use]
pub fn leaf_paths(dir: &Path, subject: &Subject) -> (PathBuf, PathBuf) {
    let dir = dir.join(subject.dir());
    (dir.join(subject.kind()).with_extension("crt"), dir.join(subject.kind()).with_extension("key"))
}

fn check_name(name: &str) -> Result<(), CertsError> {
    if is_client_name(name) { Ok(()) } else { Err(CertsError::Name(name.into())) }
}

#[cfg(test)]
mod tests;
