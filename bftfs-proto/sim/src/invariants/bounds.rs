//! Bounds: on agreed time and on memory.

use bftfs_proto::config::TIME_BOUND_NANOS;
use bftfs_proto::types::{ReplicaId, Wall};

use super::{History, Violation};

impl History {
    /// I15 (section 6.2): a batch that a correct replica accepts is not further ahead of the
    /// fastest correct clock than the bound.
    ///
    /// # Errors
    /// The violation.
    pub fn time(&self, id: ReplicaId, proposed: Wall, fastest: Wall) -> Result<(), Violation> {
        if proposed.0 <= fastest.0.saturating_add(TIME_BOUND_NANOS) {
            Ok(())
        } else {
            Err(format!("I15: {id:?} accepted {proposed:?}, its fastest clock shows {fastest:?}"))
        }
    }
}
