//! A cluster's directory on free ports, members of it, and somebody who speaks raw QUIC.

use std::collections::BTreeSet;
use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use bftfs_certs::{Authority, Period, Plan, Subject, cluster_path, init, leaf_paths};
use bftfs_net::cluster_file::{ClientMember, client_entry};
use bftfs_net::{ClusterFile, Event, Identity, Links};
use bftfs_proto::message::{Answer, Message, Reply, Tag};
use bftfs_proto::types::{ClientId, Principal, ReplicaId, View};
use bytes::Bytes;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::sync::mpsc::Receiver;

/// Nothing here takes longer, or it hangs.
const PATIENCE: Duration = Duration::from_secs(10);

/// A time that is over.
pub(crate) const PERIOD: Period =
    Period { from: SystemTime::UNIX_EPOCH, to: SystemTime::UNIX_EPOCH };

/// A cluster's directory.
pub(crate) struct Dir(tempfile::TempDir);

impl Dir {
    pub(crate) fn new(replicas: u32) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let clients = vec!["alice".into(), "bob".into()];
        let port = free_ports(replicas);
        init(&Plan { replicas, clients, port, ..Plan::development(dir.path()) }).unwrap();
        Self(dir)
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn file(&self) -> ClusterFile {
        ClusterFile::load(&cluster_path(self.path())).unwrap()
    }

    pub(crate) fn identity(&self, subject: &Subject) -> Identity {
        let (certificate, key) = files(self.path(), subject);
        Identity::load(&certificate, &key).unwrap()
    }

    /// A leaf of the cluster's CA that is in no cluster file.
    pub(crate) fn leaf(&self, ca: &Authority, name: &str, period: Period) -> (PathBuf, PathBuf) {
        let subject = Subject::Client(name.into());
        ca.make_leaf(self.path(), "dev", &subject, period).unwrap();
        files(self.path(), &subject)
    }

    /// A leaf whose key is in the cluster file.
    pub(crate) fn pin_leaf(
        &self,
        ca: &Authority,
        name: &str,
        period: Period,
    ) -> (PathBuf, PathBuf) {
        let subject = Subject::Client(name.into());
        let key = ca.make_leaf(self.path(), "dev", &subject, period).unwrap();
        let path = cluster_path(self.path());
        let entry =
            client_entry(ClientId(77), &ClientMember { name: name.into(), key, admin: false });
        std::fs::write(&path, std::fs::read_to_string(&path).unwrap() + &entry).unwrap();
        files(self.path(), &subject)
    }
}

/// The certificate and key of `subject`.
pub(crate) fn files(dir: &Path, subject: &Subject) -> (PathBuf, PathBuf) {
    leaf_paths(dir, subject)
}

/// The first of `count` UDP ports that are free now. Tests run at once, so it is drawn at random.
fn free_ports(count: u32) -> u16 {
    loop {
        let random = u16::try_from(getrandom::u32().unwrap() % 4_900).unwrap();
        // Below those that the kernel hands out: a client may have one of them at any moment.
        let base = 15_000 + random;
        let count = u16::try_from(count).unwrap();
        let bound: Result<Vec<_>, _> =
            (base..base + count).map(|port| UdpSocket::bind(("127.0.0.1", port))).collect();
        if bound.is_ok() {
            return base;
        }
    }
}

/// A member with its links.
pub(crate) struct Node {
    pub(crate) links: Links,
    pub(crate) events: Receiver<Event>,
}

impl Node {
    pub(crate) fn replica(dir: &Dir, id: u32) -> Self {
        let identity = dir.identity(&Subject::Replica(ReplicaId(id)));
        let (links, events) = Links::serve(&dir.file(), &identity, ReplicaId(id)).unwrap();
        Self { links, events }
    }

    pub(crate) fn client(dir: &Dir, name: &str) -> Self {
        Self::client_of(dir, &dir.file(), name)
    }

    pub(crate) fn client_of(dir: &Dir, file: &ClusterFile, name: &str) -> Self {
        let identity = dir.identity(&Subject::Client(name.into()));
        let (links, _, events) = Links::client(file, &identity).unwrap();
        Self { links, events }
    }

    /// Waits until exactly these connected, in any order.
    pub(crate) async fn connected(&mut self, peers: &[Principal]) {
        let mut expected = peers.to_vec();
        while !expected.is_empty() {
            let Event::Connected(peer) = next(self).await else { panic!("not connected") };
            let index = expected.iter().position(|other| *other == peer);
            expected.remove(index.unwrap_or_else(|| panic!("{peer} was not expected")));
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // A test that fails leaves its tasks to the runtime, which ends with it.
        self.events.close();
    }
}

pub(crate) async fn next(node: &mut Node) -> Event {
    tokio::time::timeout(PATIENCE, node.events.recv()).await.expect("an event in time").unwrap()
}

/// The next message, whoever comes and goes meanwhile.
pub(crate) async fn next_message(node: &mut Node) -> (Principal, Message) {
    loop {
        if let Event::Message(from, message) = next(node).await {
            return (from, message.into_inner());
        }
    }
}

/// Waits until `holds` does.
pub(crate) async fn until(holds: impl Fn() -> bool) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.expect("it holds in time");
}

pub(crate) fn reply(tag: Tag) -> Message {
    let answer = Answer::Result(Bytes::from_static(b"a result"));
    Message::Reply(Reply {
        view: View(0),
        tag,
        digest: answer.digest(&bftfs_proto::Digest::ZERO),
        answer: Some(answer),
    })
}

fn roots(dir: &Dir) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(dir.path().join("ca.crt")).unwrap()).unwrap();
    roots
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Dials replica `id` with any certificate, and waits until it says something or hangs up.
pub(crate) async fn dial(
    dir: &Dir,
    (certificate, key): &(PathBuf, PathBuf),
    id: u32,
) -> Result<(quinn::Endpoint, quinn::Connection), String> {
    let chain = vec![CertificateDer::from_pem_file(certificate).unwrap()];
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots(dir))
        .with_client_auth_cert(chain, PrivateKeyDer::from_pem_file(key).unwrap())
        .unwrap();
    config.alpn_protocols = vec![b"bftfs/1".to_vec()];
    let crypto = QuicClientConfig::try_from(config).unwrap();
    let endpoint = quinn::Endpoint::client(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let address = dir.file().replicas[id as usize].address;
    let config = quinn::ClientConfig::new(Arc::new(crypto));
    let connecting = endpoint.connect_with(config, address, &format!("replica-{id}.bftfs"));
    let connection = connecting.unwrap().await.map_err(|error| error.to_string())?;
    connection.accept_uni().await.map_err(|error| error.to_string())?;
    Ok((endpoint, connection))
}

/// Listens in the place of replica `id` with any certificate, and shakes every hand.
pub(crate) fn listen(dir: &Dir, certificate: &str, key: &str, id: u32) -> quinn::Endpoint {
    let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap())
        .unwrap();
    config.alpn_protocols = vec![b"bftfs/1".to_vec()];
    let crypto = QuicServerConfig::try_from(config).unwrap();
    let config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
    let endpoint =
        quinn::Endpoint::server(config, dir.file().replicas[id as usize].address).unwrap();
    let accepting = endpoint.clone();
    tokio::spawn(async move {
        while let Some(incoming) = accepting.accept().await {
            let _ = incoming.await;
        }
    });
    endpoint
}

/// A network of one hop, on which connections can be lost.
pub(crate) struct Proxy {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    losing: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<()>,
}

impl Proxy {
    /// Carries the packets of one peer to `target` and back.
    pub(crate) async fn start(target: SocketAddr) -> Self {
        let here = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let there = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        there.connect(target).await.unwrap();
        let address = here.local_addr().unwrap();
        let losing = Arc::new(AtomicBool::new(false));
        let lost = losing.clone();
        let task = tokio::spawn(async move {
            let (mut out, mut back) = (vec![0; 1 << 16], vec![0; 1 << 16]);
            let (mut known, mut peer) = (BTreeSet::new(), None);
            loop {
                tokio::select! {
                    Ok((length, from)) = here.recv_from(&mut out) => {
                        peer = Some(from);
                        if passes(&out[..length], &mut known, &lost) {
                            let _ = there.send(&out[..length]).await;
                        }
                    }
                    Ok(length) = there.recv(&mut back) => {
                        if passes(&back[..length], &mut known, &lost) {
                            let _ = here.send_to(&back[..length], peer.unwrap()).await;
                        }
                    }
                }
            }
        });
        Self { address, losing, task }
    }

    /// From now on nothing of the present connections gets through.
    pub(crate) fn lose_what_is_connected(&self) {
        self.losing.store(true, Ordering::Relaxed);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Packets of a connection that stands have a short header with its id (RFC 9000 section 17.3).
fn passes(packet: &[u8], known: &mut BTreeSet<Vec<u8>>, losing: &AtomicBool) -> bool {
    let stands = packet.first().is_some_and(|first| first & 0x80 == 0);
    let Some(id) = packet.get(1..9).filter(|_| stands) else { return true };
    if losing.load(Ordering::Relaxed) {
        return !known.contains(id);
    }
    known.insert(id.to_vec());
    true
}
