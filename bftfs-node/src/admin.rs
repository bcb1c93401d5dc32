//! What an administrator does: says who may use the cluster, and how.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail, ensure};
use bftfs_fs::{
    Call, Client, Credentials, Errno, IdRange, Ino, Operation, Outcome, ROOT, Reply, Rule,
    decode_outcome,
};
use bftfs_net::cluster_file::{ClientMember, client_entry, is_client_name};
use bftfs_net::identity::Certificate;
use bftfs_net::{ClientHandle, ClusterFile};
use bftfs_proto::Digest;
use bftfs_proto::auth::PublicKey;
use bftfs_proto::client::How;
use bftfs_proto::types::{ClientId, Principal};
use bytes::Bytes;
use clap::{Args, Subcommand};
use serde_json::{Value, json};

/// The cluster, the administrator, and what to do.
#[derive(Args)]
pub(crate) struct Admin {
    /// The cluster file
    #[arg(long)]
    cluster: PathBuf,
    /// The administrator's certificate (PEM)
    #[arg(long)]
    cert: PathBuf,
    /// The administrator's private key (PEM)
    #[arg(long)]
    key: PathBuf,
    /// Seconds to wait for a quorum, and for each answer
    #[arg(long, default_value_t = 30)]
    timeout: u64,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Show the clients and what they may do
    List {
        /// Print them as one line of JSON
        #[arg(long)]
        json: bool,
    },
    /// Admit a client by its certificate (`bftfs-certs client --unlisted`), and print what its
    /// user needs
    Add {
        /// Its certificate (PEM)
        #[arg(long)]
        certificate: PathBuf,
        /// What to call it
        name: String,
        /// Write the cluster file for its user to this new file
        #[arg(long)]
        out: Option<PathBuf>,
        #[command(flatten)]
        rule: RuleOptions,
    },
    /// Say anew what a client may do: all of it, what is not given is as when it was added
    Set {
        /// The client, by its id or its name
        client: String,
        #[command(flatten)]
        rule: RuleOptions,
    },
    /// Take all access from a client, at once; `set` gives it back
    Revoke {
        /// The client, by its id or its name
        client: String,
    },
}

/// What a client may do: everything that is not forbidden here.
#[derive(Args)]
struct RuleOptions {
    /// It may change nothing
    #[arg(long)]
    read_only: bool,
    /// The directory that it takes for the root, by its path in the file system
    #[arg(long)]
    subtree: Option<PathBuf>,
    /// The users it may act as, like 1000,2000-2999 [default: any]
    #[arg(long, value_delimiter = ',')]
    uids: Vec<Ids>,
    /// The groups it may act as [default: any]
    #[arg(long, value_delimiter = ',')]
    gids: Vec<Ids>,
    /// The user and group that root acts as, UID:GID
    #[arg(long)]
    squash: Option<Pair>,
    /// It may do what this program does
    #[arg(long, conflicts_with = "subtree")]
    admin: bool,
}

/// A number or a range of numbers.
#[derive(Clone, Copy)]
struct Ids(IdRange);

impl FromStr for Ids {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        match (first.parse(), last.parse()) {
            (Ok(first), Ok(last)) if first <= last => Ok(Self(IdRange { first, last })),
            _ => Err(format!("\"{text}\" is no number or range like 2000-2999")),
        }
    }
}

/// A user and a group.
#[derive(Clone, Copy)]
struct Pair(u32, u32);

impl FromStr for Pair {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':').map(|(uid, gid)| (uid.parse(), gid.parse())) {
            Some((Ok(uid), Ok(gid))) => Ok(Self(uid, gid)),
            _ => Err(format!("\"{text}\" is not like 65534:65534")),
        }
    }
}

/// Does what an administrator wants.
pub(crate) fn run(admin: Admin) -> anyhow::Result<()> {
    let session = Session::start(&admin)?;
    let done = match admin.command {
        Command::List { json } => session.list(json),
        Command::Add { certificate, name, out, rule } => {
            session.add(&certificate, &name, out.as_deref(), &rule)
        }
        Command::Set { client, rule } => session.set(&client, &rule),
        Command::Revoke { client } => session.revoke(&client),
    };
    session.end();
    done
}

/// A client whom the cluster file names, or an administrator spoke of.
struct Known {
    id: ClientId,
    client: Client,
    /// Only the cluster file names it.
    listed_only: bool,
}

/// An administrator's connection to the cluster.
struct Session {
    file: ClusterFile,
    client: ClientHandle,
    timeout: Duration,
}

impl Session {
    fn start(admin: &Admin) -> anyhow::Result<Self> {
        let timeout = Duration::from_secs(admin.timeout);
        let file = ClusterFile::load(&admin.cluster)?;
        let client = ClientHandle::spawn(&admin.cluster, &admin.cert, &admin.key)?;
        let readiness = client.ready_blocking(timeout);
        ensure!(readiness.is_ready(), "no quorum within {timeout:?}: {readiness}");
        Ok(Self { file, client, timeout })
    }

    /// Tells the replicas that nobody is here any more.
    fn end(&self) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        if let Ok(runtime) = runtime {
            // Whoever does not answer finds out by itself.
            let closing = async { tokio::time::timeout(self.timeout, self.client.close()).await };
            let _ = runtime.block_on(closing);
        }
    }

    fn ask(&self, operation: Operation) -> anyhow::Result<Outcome> {
        let how = if operation.is_read_only() { How::Read } else { How::Ordered };
        let call = Call { credentials: Credentials::default(), operation }.encode();
        let answer = self.client.call_blocking(call, how, self.timeout)?;
        decode_outcome(&answer).context("the replicas are of another version")
    }

    /// All clients, in the order of their ids.
    fn clients(&self) -> anyhow::Result<Vec<Known>> {
        let (mut known, mut after) = (Vec::new(), None);
        loop {
            let (clients, end) = match self.ask(Operation::ListClients { after })? {
                Ok(Reply::Clients { clients, end }) => (clients, end),
                Err(Errno::EPERM) => bail!(
                    "this certificate is not an administrator's. The first are the clients with \
                     `admin = true` in the cluster file when the cluster was made; they name others"
                ),
                Err(errno) => bail!("the replicas do not show the clients: {errno}"),
                Ok(_) => bail!("the replicas answer another question"),
            };
            after = clients.last().map(|(id, _)| *id);
            let spoken = clients.into_iter();
            known.extend(spoken.map(|(id, client)| Known { id, client, listed_only: false }));
            if end || after.is_none() {
                break;
            }
        }
        for (&id, member) in &self.file.clients {
            match known.iter_mut().find(|known| known.id == id) {
                // Of the first administrators only the cluster file knows the names.
                Some(known) if known.client.name.is_empty() => {
                    known.client.name.clone_from(&member.name);
                }
                Some(_) => {}
                None => {
                    let (name, rule) = (member.name.clone(), Some(Rule::default()));
                    let client = Client { name, key: None, rule };
                    known.push(Known { id, client, listed_only: true });
                }
            }
        }
        known.sort_by_key(|known| known.id);
        Ok(known)
    }

    /// A client by its id or its name.
    fn find(&self, which: &str) -> anyhow::Result<Known> {
        let id = which.parse().ok().map(ClientId);
        let is_it = |known: &Known| Some(known.id) == id || known.client.name == which;
        let found = self.clients()?.into_iter().find(is_it);
        found.ok_or_else(|| anyhow!("there is no client \"{which}\": see `bftfs-node admin list`"))
    }

    fn list(&self, as_json: bool) -> anyhow::Result<()> {
        let clients = self.clients()?;
        if as_json {
            let all: Vec<Value> = clients.iter().map(|known| self.to_json(known)).collect();
            println!("{}", Value::Array(all));
        } else {
            clients.iter().for_each(|known| println!("{known}"));
        }
        Ok(())
    }

    fn to_json(&self, known: &Known) -> Value {
        let Known { id, client, listed_only } = known;
        let pinned = || self.file.clients.get(id).map(|member| member.key);
        let key = client.key.or_else(pinned).map(|key| Digest(key.0).to_string());
        json!({
            "id": id.0,
            "name": client.name,
            "key": key,
            "revoked": client.rule.is_none(),
            "rule": client.rule,
            "only_in_cluster_file": listed_only,
        })
    }

    fn add(
        &self,
        certificate: &Path,
        name: &str,
        out: Option<&Path>,
        options: &RuleOptions,
    ) -> anyhow::Result<()> {
        ensure!(
            is_client_name(name),
            "the name \"{name}\" must be lower-case letters, digits and hyphens, at most 50"
        );
        let key = Certificate::load(certificate)?.key;
        let clients = self.clients()?;
        let id = self.place(&key, name, &clients)?;
        let rule = self.rule(options)?;
        self.put(id, &Client { name: name.into(), key: Some(key), rule: Some(rule) })?;
        let member = ClientMember { name: name.into(), key, admin: false };
        let listed = self.file.clients.contains_key(&id);
        let entry = if listed { String::new() } else { client_entry(id, &member) };
        println!("client {id} \"{name}\" is admitted");
        match out {
            Some(out) => {
                let text = std::fs::read_to_string(&self.file.path)
                    .with_context(|| format!("cannot read {}", self.file.path.display()))?;
                let made = std::fs::File::create_new(out).and_then(|mut file| {
                    std::io::Write::write_all(&mut file, (text + &entry).as_bytes())
                });
                made.with_context(|| format!("cannot make {}", out.display()))?;
                println!("its user needs {}, ca.crt, the certificate and its key", out.display());
            }
            None if listed => println!("its user needs the cluster file, ca.crt, and its key"),
            None => println!(
                "its user needs ca.crt, the certificate and its key, and the cluster file with \
                 this at its end:\n{entry}"
            ),
        }
        Ok(())
    }

    /// The id of a client that is to be admitted: its own if it is known, otherwise a new one.
    fn place(&self, key: &PublicKey, name: &str, clients: &[Known]) -> anyhow::Result<ClientId> {
        let listed = match self.file.principal(key) {
            Some(Principal::Client(id)) => Some(id),
            Some(replica) => bail!("this certificate is that of {replica}, which is no client"),
            None => None,
        };
        let spoken = clients.iter().find(|known| known.client.key == Some(*key));
        if let Some(known) = spoken.filter(|known| known.client.rule.is_some()) {
            bail!("its key is that of client {} already: use `admin set`", known.id);
        }
        let own = spoken.map(|known| known.id).or(listed);
        let namesake = clients.iter().find(|known| known.client.name == name);
        if let Some(other) = namesake.filter(|other| Some(other.id) != own) {
            bail!("client {} has the name \"{name}\" already: choose another", other.id);
        }
        let next = clients.iter().map(|known| known.id.0).max().unwrap_or(0).checked_add(1);
        own.or_else(|| next.map(ClientId)).context("there are no more client ids")
    }

    fn set(&self, which: &str, options: &RuleOptions) -> anyhow::Result<()> {
        let Known { id, client, .. } = self.find(which)?;
        let rule = Some(self.rule(options)?);
        let known = Known { id, client: Client { rule, ..client }, listed_only: false };
        self.put(id, &known.client)?;
        println!("{known}");
        Ok(())
    }

    fn revoke(&self, which: &str) -> anyhow::Result<()> {
        let Known { id, client, .. } = self.find(which)?;
        settle(&client.name, &self.ask(Operation::RevokeClient { client: id })?)?;
        println!("client {id} \"{}\" has no access any more", client.name);
        Ok(())
    }

    /// Has a record written, as soon as the replicas can tell where files lie.
    fn put(&self, client: ClientId, record: &Client) -> anyhow::Result<()> {
        let mut waiting = false;
        loop {
            let operation = Operation::SetClient { client, record: record.clone() };
            match self.ask(operation)? {
                Err(Errno::EBUSY) if waiting => {}
                Err(Errno::EBUSY) => {
                    eprintln!("the replicas take in where all files lie; this may take a while");
                    waiting = true;
                }
                outcome => return settle(&record.name, &outcome),
            }
        }
    }

    fn rule(&self, options: &RuleOptions) -> anyhow::Result<Rule> {
        let ranges = |ids: &[Ids]| ids.iter().map(|ids| ids.0).collect();
        let subtree = options.subtree.as_deref().map(|path| self.directory(path)).transpose()?;
        Ok(Rule {
            read_only: options.read_only,
            subtree: subtree.filter(|ino| *ino != ROOT),
            uids: ranges(&options.uids),
            gids: ranges(&options.gids),
            squash: options.squash.map(|Pair(uid, gid)| (uid, gid)),
            admin: options.admin,
        })
    }

    /// The directory at a path in the file system.
    fn directory(&self, path: &Path) -> anyhow::Result<Ino> {
        use std::os::unix::ffi::OsStrExt as _;
        let mut at = ROOT;
        for part in path.iter().filter(|part| *part != "/") {
            let name = Bytes::copy_from_slice(part.as_bytes());
            match self.ask(Operation::Lookup { parent: at, name })? {
                Ok(Reply::Attributes(found)) => at = found.ino,
                Err(errno) => {
                    let (part, path) = (part.display(), path.display());
                    bail!("the subtree {path} cannot be had: {part}: {errno}");
                }
                Ok(_) => bail!("the replicas answer another question"),
            }
        }
        Ok(at)
    }
}

/// What the outcome of a change means.
fn settle(name: &str, outcome: &Outcome) -> anyhow::Result<()> {
    match outcome {
        Ok(_) => Ok(()),
        Err(Errno::EPERM) => bail!(
            "\"{name}\" is the last administrator: make another client one first, or nobody could \
             say what clients may do"
        ),
        Err(Errno::EEXIST) => bail!("another client has the key of \"{name}\" already"),
        Err(Errno::ENOSPC) => bail!("there are as many clients as a cluster can know"),
        Err(Errno::ENOTDIR) => bail!("the subtree of \"{name}\" is not a directory"),
        Err(Errno::EINVAL) => bail!(
            "the rule of \"{name}\" is refused: at most {} ranges of users and of groups",
            bftfs_fs::RANGES_MAX
        ),
        Err(errno) => bail!("\"{name}\" was not changed: {errno}"),
    }
}

impl fmt::Display for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "client {} \"{}\": ", self.id, self.client.name)?;
        let Some(rule) = &self.client.rule else { return f.write_str("revoked") };
        f.write_str(if rule.read_only { "read-only" } else { "read-write" })?;
        if let Some(top) = rule.subtree {
            write!(f, ", within directory {top}")?;
        }
        for (what, ranges) in [("users", &rule.uids), ("groups", &rule.gids)] {
            let ranges: Vec<_> =
                ranges.iter().map(|IdRange { first, last }| format!("{first}-{last}")).collect();
            if !ranges.is_empty() {
                write!(f, ", {what} {}", ranges.join(" "))?;
            }
        }
        if let Some((uid, gid)) = rule.squash {
            write!(f, ", root acts as {uid}:{gid}")?;
        }
        if rule.admin {
            f.write_str(", administrator")?;
        }
        if self.listed_only {
            f.write_str(" (only the cluster file names it)")?;
        }
        Ok(())
    }
}
