//! What goes wrong in a run, chosen from its seed.

use fastrand::Rng;

use crate::clock::SKEW_MAX;

/// A millisecond in nanoseconds.
pub const MILLI: u64 = 1_000_000;

/// The longest time that a disk stalls, in nanoseconds.
const STALL_MAX: u64 = 3_000 * MILLI;

/// A rule that a run breaks on purpose, to see that the checkers notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    /// A crash loses the last records that were synced: a disk that lies about its flushes.
    Amnesia,
    /// Messages leave before what they depend on is durable.
    EarlySend,
    /// A replica's state is changed behind its back.
    StateDrift,
    /// Clients believe one replica less than a quorum (concord-bft).
    SmallReadQuorum,
}

/// How a replica is faulty beyond crashing: at most f are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Faulty {
    /// What is on its disk is damaged now and then. It does not start again with that.
    Disk,
    /// Its clock shows anything.
    Clock,
    /// A crash takes the last groups of its journal, synced as they were: damage that cannot be
    /// told from a torn write. It breaks promises without knowing, so it counts as Byzantine.
    Memory,
}

/// The faults and sizes of one run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Replicas.
    pub replicas: usize,
    /// Clients, each with its own key.
    pub clients: u32,
    /// Mounts with the certificate of each client.
    pub mounts: u32,
    /// Operations that each mount asks for.
    pub operations: u64,
    /// Operations that a mount has outstanding.
    pub outstanding: u64,
    /// K of the run's cluster.
    pub checkpoint_interval: u64,
    /// Messages lost, in thousandths.
    pub loss: u64,
    /// Messages delivered twice, in thousandths.
    pub duplication: u64,
    /// The usual delay of a message, in nanoseconds.
    pub delay: u64,
    /// The longest delay of an unlucky message, in nanoseconds: what reorders them.
    pub delay_max: u64,
    /// The longest sync of a journal, in nanoseconds.
    pub sync_max: u64,
    /// Mean time between crashes of a replica, in nanoseconds; 0 for none.
    pub crash_mean: u64,
    /// The longest time a crashed replica stays down, in nanoseconds.
    pub down_max: u64,
    /// Whether all replicas may crash at once.
    pub power_cuts: bool,
    /// Mean time between partitions of the network, in nanoseconds; 0 for none.
    pub partition_mean: u64,
    /// How far replicas' clocks may be off, in nanoseconds.
    pub skew: u64,
    /// Mean time between troubles of a replica with its disk or clock, in nanoseconds; 0 for none.
    pub trouble_mean: u64,
    /// Syncs that take seconds, in thousandths.
    pub stalls: u64,
    /// What is broken on purpose, if anything.
    pub sabotage: Option<Sabotage>,
}

impl Plan {
    /// The plan of a seed: from calm to rough.
    #[must_use]
    pub fn of(rng: &mut Rng, replicas: Option<usize>) -> Self {
        let rough = rng.u64(0..4);
        let delay_max = (1 + rng.u64(0..20) * rough) * MILLI;
        let replicas = replicas.unwrap_or_else(|| [1, 4, 4, 4, 4, 5, 7][rng.usize(0..7)]);
        Self {
            replicas,
            clients: rng.u32(1..4),
            mounts: rng.u32(1..3),
            operations: rng.u64(20..120),
            outstanding: [1, 2, 8, 30][rng.usize(0..4)],
            checkpoint_interval: [4, 8, 16][rng.usize(0..3)],
            loss: rng.u64(0..40) * rough,
            duplication: rng.u64(0..50) * rough,
            delay: rng.u64(20..500) * 1000,
            delay_max,
            sync_max: (1 + rng.u64(0..30)) * MILLI,
            crash_mean: if rough > 0 { rng.u64(50..800) * MILLI } else { 0 },
            down_max: rng.u64(20..3000) * MILLI,
            power_cuts: rng.bool(),
            partition_mean: if rough > 1 { rng.u64(100..1000) * MILLI } else { 0 },
            skew: rng.u64(0..=SKEW_MAX),
            trouble_mean: if rough > 0 { rng.u64(0..4) * 500 * MILLI } else { 0 },
            stalls: [0, 0, 2, 20][rng.usize(0..4)] * rough,
            sabotage: None,
        }
    }

    /// The same without faults: for the part of a run in which all must finish.
    #[must_use]
    pub fn calm(&self) -> Self {
        Self {
            loss: 0,
            duplication: 0,
            crash_mean: 0,
            partition_mean: 0,
            trouble_mean: 0,
            stalls: 0,
            ..self.clone()
        }
    }

    /// How long a sync takes, in nanoseconds.
    #[must_use]
    pub fn sync_time(&self, rng: &mut Rng) -> u64 {
        self.write_time(rng, self.sync_max)
    }

    /// How long the writing of a checkpoint takes, in nanoseconds.
    #[must_use]
    pub fn store_time(&self, rng: &mut Rng) -> u64 {
        self.write_time(rng, 10 * self.sync_max)
    }

    fn write_time(&self, rng: &mut Rng, most: u64) -> u64 {
        let stalled = self.stalls > 0 && rng.u64(0..1000) < self.stalls;
        rng.u64(0..=if stalled { STALL_MAX } else { most })
    }
}
