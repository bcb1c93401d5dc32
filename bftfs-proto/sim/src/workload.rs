//! What clients ask for, and how their histories are judged.

mod files;
mod lists;

use bftfs_proto::Tree;
use bftfs_proto::client::How;
use bftfs_proto::service::Service;
use bytes::Bytes;
use fastrand::Rng;

use crate::invariants::Violation;
use crate::order::Order;

pub use files::FilesLoad;
pub use lists::ListsLoad;

/// A load and its judge.
pub trait Workload {
    /// The service it is for.
    type Service: Service + Clone;

    /// The service.
    fn service(&self) -> Self::Service;

    /// The next operation, to be known as `ticket`.
    fn ask(&mut self, rng: &mut Rng, ticket: u64) -> (Bytes, How);

    /// An operation that a Byzantine client asks for. It is not judged, but part of the order.
    fn rogue_operation(&self, rng: &mut Rng) -> Bytes;

    /// The result of an operation.
    ///
    /// # Errors
    /// A violation that shows at once.
    fn told(&mut self, ticket: u64, result: &Bytes) -> Result<(), Violation>;

    /// Whether the result of an operation may be lost: a large one, that no replica keeps on disk.
    fn may_be_lost(&self, _ticket: u64) -> bool {
        false
    }

    /// Judges the whole history against the decided order and the final state.
    ///
    /// # Errors
    /// The violation.
    fn judge(&self, order: &Order, state: &Tree) -> Result<(), Violation>;
}
