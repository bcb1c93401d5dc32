//! What was decided, put together from what is on the disks.

use bftfs_proto::message::Batch;
use bftfs_proto::types::{ClientId, Seq};

use super::World;
use crate::invariants::Violation;
use crate::order::Order;
use crate::workload::Workload;

impl<W: Workload> World<W> {
    /// The order of all that was decided. A batch that any replica executed is on a disk with its
    /// bodies, under its digest.
    pub(super) fn order(&self, last: Seq) -> Result<Order, Violation> {
        let rogues = (1..=self.cast.rogues).map(|i| ClientId(self.plan.clients + i));
        let mut order = Order::new(self.cluster.session_nanos);
        order.strangers.extend(rogues);
        let null = Batch::null().digest(&self.cluster.id);
        for seq in (1..=last.0).map(Seq) {
            let digest = self.history.decided(seq).or_else(|| self.alone(seq));
            let Some(digest) = digest else {
                return Err(format!("I5: nobody knows what was decided for {seq:?}"));
            };
            let mut disks = self.correct().map(|id| self.node(id).disk());
            match disks.find_map(|disk| disk.batch(&digest)) {
                Some((batch, requests)) => order.append(batch, requests),
                None if digest == null => order.append(&Batch::null(), &[]),
                None => return Err(format!("I5: nobody has the batch decided for {seq:?}")),
            }
        }
        Ok(order)
    }

    /// A cluster of one decides by writing to its disk, and forgets at once: its checkpoints are
    /// stable as soon as they are made.
    fn alone(&self, seq: Seq) -> Option<bftfs_proto::Digest> {
        let [node] = &self.nodes[..] else { return None };
        node.disk().accepted(seq)
    }
}
