//! Operations without a mount: what agreement and reading cost before FUSE comes on top.

use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use bftfs_fs::{Credentials, Operation, Outcome, ROOT, Reply, decode_outcome};
use bftfs_net::ClientHandle;
use bftfs_proto::client::How;

use super::ops::Step;
use crate::clusters::Replicas;
use crate::target::{Backing, Counters, Target};

/// How long one operation may take.
const DEADLINE: Duration = Duration::from_secs(30);

/// One kind of operation, which a client asks of the replicas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    /// Nothing, but ordered among all operations.
    Null,
    /// The attributes of the root, asked of all replicas without ordering.
    FastRead,
}

impl Call {
    /// All of them, in the table's order.
    pub(crate) const ALL: [Self; 2] = [Self::Null, Self::FastRead];

    /// The operation's name in tables and JSON.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Null => "ordered_null",
            Self::FastRead => "fast_read",
        }
    }

    fn operation(self) -> (Operation, How) {
        match self {
            Self::Null => (Operation::Null, How::Ordered),
            Self::FastRead => (Operation::Getattr { ino: ROOT }, How::Read),
        }
    }

    fn check(self, outcome: &Outcome) -> Result<()> {
        match (self, outcome) {
            (Self::Null, Ok(Reply::Done)) => Ok(()),
            (Self::FastRead, Ok(Reply::Attributes(attributes))) if attributes.ino == ROOT => Ok(()),
            _ => bail!("the replicas answered {outcome:?}"),
        }
    }
}

/// A client of a column's cluster, beside the mount.
#[derive(Debug)]
pub(crate) struct Direct {
    client: ClientHandle,
    /// The replicas and this process, for accounting.
    pub target: Target,
}

impl Direct {
    /// Connects to the cluster behind `target`; `None` if there is none.
    ///
    /// # Errors
    /// If no quorum of replicas answers.
    pub(crate) fn connect(target: &Target) -> Result<Option<Self>> {
        let Some(replicas) = target.backing.replicas() else { return Ok(None) };
        let client =
            ClientHandle::spawn(&replicas.cluster_file(), &replicas.certificate(), &replicas.key())
                .with_context(|| {
                    format!("target {}: cannot connect to the replicas", target.name)
                })?;
        let readiness = client.ready_blocking(DEADLINE);
        ensure!(readiness.is_ready(), "target {}: {readiness}", target.name);
        let backing = DirectBacking { replicas, client: client.clone() };
        let target = Target {
            name: target.name.clone(),
            dir: target.dir.clone(),
            backing: Box::new(backing),
        };
        Ok(Some(Self { client, target }))
    }

    /// What one thread repeats.
    pub(crate) fn step(&self, call: Call) -> Step {
        let client = self.client.clone();
        let (operation, how) = call.operation();
        let body = bftfs_fs::Call { credentials: Credentials::default(), operation }.encode();
        Box::new(move |_| {
            let outcome = client.call_blocking(body.clone(), how, DEADLINE)?;
            let outcome = decode_outcome(&outcome).map_err(|_| anyhow!("a malformed outcome"))?;
            call.check(&outcome)
        })
    }

    /// Fast reads so far that were not answered as such, but ordered.
    pub(crate) fn fallbacks(&self) -> u64 {
        self.client.report_blocking().operations.fallbacks
    }
}

/// The replicas, and the client in this process.
#[derive(Debug)]
struct DirectBacking {
    replicas: Replicas,
    client: ClientHandle,
}

impl Backing for DirectBacking {
    fn pids(&self) -> Vec<u32> {
        self.replicas.pids().into_iter().chain([std::process::id()]).collect()
    }

    fn counters(&self) -> Result<Option<Counters>> {
        let client = self.client.report_blocking();
        let messages = self.replicas.messages() + client.messages.total_sent().messages;
        let operations = client.operations.ordered + client.operations.reads;
        Ok(Some(Counters { messages, operations }))
    }

    fn remount(&mut self) -> Result<()> {
        Ok(())
    }

    fn replicas(&self) -> Option<Replicas> {
        Some(self.replicas.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bftfs_fs::Errno;

    #[test]
    fn a_wrong_answer_is_an_error() {
        assert!(Call::Null.check(&Ok(Reply::Done)).is_ok());
        assert!(Call::Null.check(&Err(Errno::EINVAL)).is_err());
        assert!(Call::FastRead.check(&Ok(Reply::Done)).is_err());
    }
}
