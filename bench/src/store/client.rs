//! A client beside the mount: each of its calls is one operation, and no other.

use std::fmt::Debug;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use bftfs_dev::DevCluster;
use bftfs_fs::{Call, Credentials, Ino, Operation, Reply, Touch, access, decode_outcome};
use bftfs_net::ClientHandle;
use bftfs_proto::client::How;

/// How long one operation may take.
const DEADLINE: Duration = Duration::from_secs(120);

/// A client of the replicas, as the superuser.
#[derive(Clone, Debug)]
pub(super) struct Client(ClientHandle);

impl Client {
    /// Connects, and waits until the replicas answer.
    ///
    /// # Errors
    /// If they do not.
    pub(super) fn connect(cluster: &DevCluster, name: &str) -> Result<Self> {
        let keys = cluster.dir().join(format!("client-{name}"));
        let (certificate, key) = (keys.join("client.crt"), keys.join("client.key"));
        let client = ClientHandle::spawn(&cluster.cluster_file(), &certificate, &key)?;
        let readiness = client.ready_blocking(DEADLINE);
        ensure!(readiness.is_ready(), "{readiness}");
        Ok(Self(client))
    }

    /// Nothing, but in order.
    pub(super) fn null(&self) -> Result<()> {
        self.ask(Operation::Null, How::Ordered).map(drop)
    }

    pub(super) fn mkdir(&self, parent: Ino, name: &str) -> Result<Ino> {
        ino(self.ask(Operation::Mkdir { parent, name: bytes(name), mode: 0o755 }, How::Ordered)?)
    }

    pub(super) fn create(&self, parent: Ino, name: &str) -> Result<Ino> {
        let operation = Operation::Create {
            parent,
            name: bytes(name),
            mode: 0o644,
            exclusive: true,
            mask: access::WRITE,
            truncate: false,
        };
        ino(self.ask(operation, How::Ordered)?)
    }

    /// Writes at the beginning.
    pub(super) fn write(&self, ino: Ino, data: &[u8]) -> Result<()> {
        let operation =
            Operation::Write { ino, offset: 0, append: false, data: data.to_vec().into() };
        match self.ask(operation, How::Ordered)? {
            Reply::Written { count, .. } if count as usize == data.len() => Ok(()),
            other => unexpected(&other),
        }
    }

    /// Looks at the attributes, in order.
    pub(super) fn stat(&self, ino: Ino) -> Result<()> {
        self.ask(Operation::Getattr { ino }, How::Ordered).map(drop)
    }

    pub(super) fn unlink(&self, parent: Ino, name: &str) -> Result<()> {
        let operation = Operation::Unlink { parent, name: bytes(name), keep: false };
        self.ask(operation, How::Ordered).map(drop)
    }

    /// What a name stands for; takes no number.
    pub(super) fn lookup(&self, parent: Ino, name: &str) -> Result<Ino> {
        let found = self.ask(Operation::Lookup { parent, name: bytes(name) }, How::Read);
        ino(found.with_context(|| format!("cannot find {name}"))?)
    }

    /// The beginning of a file; takes no number.
    pub(super) fn read(&self, ino: Ino, length: usize) -> Result<Vec<u8>> {
        let length = u32::try_from(length)?;
        let operation = Operation::Read { ino, offset: 0, length, touch: Touch::Never };
        match self.ask(operation, How::Read)? {
            Reply::Data(data) => Ok(data.to_vec()),
            other => unexpected(&other),
        }
    }

    fn ask(&self, operation: Operation, how: How) -> Result<Reply> {
        let call = Call { credentials: Credentials::default(), operation };
        let outcome = self.0.call_blocking(call.encode(), how, DEADLINE)?;
        let outcome = decode_outcome(&outcome).map_err(|_| anyhow!("a malformed outcome"))?;
        outcome.map_err(|errno| anyhow!("the replica refuses it: {errno:?}"))
    }
}

fn bytes<T: From<Vec<u8>>>(text: &str) -> T {
    T::from(text.as_bytes().to_vec())
}

fn ino(reply: Reply) -> Result<Ino> {
    match reply {
        Reply::Attributes(attributes) => Ok(attributes.ino),
        other => unexpected(&other),
    }
}

fn unexpected<T>(reply: &impl Debug) -> Result<T> {
    bail!("an unexpected answer: {reply:?}")
}
