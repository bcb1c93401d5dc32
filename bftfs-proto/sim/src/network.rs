//! A network of links with real MACs, that loses, delays, reorders and repeats.

use std::collections::{BTreeMap, BTreeSet};

use bftfs_proto::Digest;
use bftfs_proto::auth::MacKey;
use bftfs_proto::types::{Principal, ReplicaId};
use fastrand::Rng;

use crate::faults::Plan;

/// The links of a cluster.
#[derive(Debug)]
pub struct Network {
    cluster: Digest,
    secret: [u8; 32],
    keys: BTreeMap<(Principal, Principal), MacKey>,
    /// Replicas that are cut off from the others in one direction: `(from, to)`.
    cut: BTreeSet<(ReplicaId, ReplicaId)>,
}

impl Network {
    /// A network whose link keys come from `secret`.
    #[must_use]
    pub fn new(cluster: Digest, secret: [u8; 32]) -> Self {
        Self { cluster, secret, keys: BTreeMap::new(), cut: BTreeSet::new() }
    }

    /// The key of the link `from` → `to`.
    pub fn key(&mut self, from: Principal, to: Principal) -> &MacKey {
        let (secret, cluster) = (&self.secret, &self.cluster);
        let derive = || MacKey::derive(secret, cluster, from, to);
        self.keys.entry((from, to)).or_insert_with(derive)
    }

    /// When copies of a message arrive, in nanoseconds from now; none if it is lost.
    pub fn fate(&self, rng: &mut Rng, plan: &Plan, from: Principal, to: Principal) -> Vec<u64> {
        if let (Principal::Replica(from), Principal::Replica(to)) = (from, to)
            && self.cut.contains(&(from, to))
        {
            return Vec::new();
        }
        let lost = rng.u64(0..1000) < plan.loss;
        let twice = rng.u64(0..1000) < plan.duplication;
        let copies = if lost { 0 } else { 1 + usize::from(twice) };
        let delay = |rng: &mut Rng| {
            let unlucky = rng.u64(0..8) == 0;
            plan.delay / 2 + rng.u64(0..=if unlucky { plan.delay_max } else { plan.delay })
        };
        (0..copies).map(|_| delay(rng)).collect()
    }

    /// Cuts some links, perhaps in one direction only.
    pub fn partition(&mut self, rng: &mut Rng, replicas: usize) {
        let lonely = ReplicaId(u32::try_from(rng.usize(0..replicas)).unwrap_or(0));
        let (deaf, mute) = (rng.bool(), rng.bool());
        for other in (0..u32::try_from(replicas).unwrap_or(0)).map(ReplicaId) {
            if deaf {
                self.cut.insert((other, lonely));
            }
            if mute {
                self.cut.insert((lonely, other));
            }
        }
    }

    /// Mends all links.
    pub fn heal(&mut self) {
        self.cut.clear();
    }
}
