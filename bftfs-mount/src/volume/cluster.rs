//! What a volume asks of the cluster, whoever plays it.

use bftfs_proto::client::{Failure, How};
use bytes::Bytes;

/// Called once with the result of an operation.
pub type Done = Box<dyn FnOnce(Result<Bytes, Failure>) + Send>;

/// Carries out operations. In production the replicas, in tests one file service in memory.
pub trait Cluster: Send + Sync + 'static {
    /// Has `operation` carried out as `how` says and calls `done` with the result, or with a
    /// failure when the deadline of a request has passed. Returns at once.
    fn submit(&self, operation: Bytes, how: How, done: Done);
}
