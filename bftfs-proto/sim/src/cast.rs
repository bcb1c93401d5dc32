//! Who lies in a run, and how.

use std::collections::BTreeMap;

use bftfs_adversary::Role;
use bftfs_proto::replica::Fault;
use bftfs_proto::types::ReplicaId;
use fastrand::Rng;

use crate::faults::{Faulty, Sabotage};

/// What a caller wants of a run that the seed would choose otherwise.
#[derive(Clone, Copy, Debug, Default)]
pub struct Choices {
    /// Replicas in the cluster.
    pub replicas: Option<usize>,
    /// Byzantine replicas. More than f of them must make the checkers red.
    pub liars: Option<usize>,
    /// The role that every Byzantine replica plays, from beginning to end.
    pub role: Option<Role>,
    /// Whether the primary of the first view is correct.
    pub backups_only: bool,
    /// Byzantine clients.
    pub rogues: Option<u32>,
    /// Replicas with bad disks or clocks.
    pub faulty: Option<usize>,
    /// A rule of the world to break.
    pub sabotage: Option<Sabotage>,
    /// A rule of the core that every replica breaks. Needs the feature `faults`.
    pub fault: Option<Fault>,
}

impl Choices {
    /// Everybody is correct, but for crashes.
    #[must_use]
    pub fn honest(replicas: Option<usize>) -> Self {
        Self { replicas, liars: Some(0), rogues: Some(0), faulty: Some(0), ..Self::default() }
    }
}

/// The Byzantine members of a run.
#[derive(Clone, Debug, Default)]
pub struct Cast {
    /// Byzantine replicas and the roles they play, one after another.
    pub liars: BTreeMap<ReplicaId, Vec<Role>>,
    /// Byzantine clients, each with a key of its own.
    pub rogues: u32,
    /// Replicas with bad disks or clocks: with the Byzantine ones at most f.
    pub faulty: BTreeMap<ReplicaId, Faulty>,
}

impl Cast {
    /// Whether a replica keeps its promises, and may be judged.
    #[must_use]
    pub fn is_correct(&self, id: ReplicaId) -> bool {
        !self.liars.contains_key(&id) && self.faulty.get(&id) != Some(&Faulty::Memory)
    }

    /// The cast of a seed: nobody in a quarter of the runs, else up to f replicas; clients in a
    /// third.
    #[must_use]
    pub fn of(rng: &mut Rng, replicas: usize, choices: &Choices) -> Self {
        let f = replicas.saturating_sub(1) / 3;
        let some = if f > 0 && rng.u8(0..4) > 0 { rng.usize(1..=f) } else { 0 };
        let count =
            choices.liars.unwrap_or_else(|| some.max(usize::from(choices.role.is_some()).min(f)));
        let first = u32::from(choices.backups_only);
        let mut ids: Vec<u32> = (first..u32::try_from(replicas).unwrap_or(0)).collect();
        rng.shuffle(&mut ids);
        let together = choices.role.or_else(|| rng.bool().then(|| any_role(rng)));
        let roles = |rng: &mut Rng| match together {
            Some(role) => vec![role],
            None => (0..rng.usize(1..4)).map(|_| any_role(rng)).collect(),
        };
        let liars = ids.iter().take(count).map(|id| (ReplicaId(*id), roles(rng))).collect();
        let rogues = if rng.u8(0..3) == 0 { rng.u32(1..3) } else { 0 };
        let left = choices.faulty.unwrap_or_else(|| f.saturating_sub(count));
        let others = ids.iter().skip(count).take(if rng.u8(0..3) == 0 { 0 } else { left });
        let faulty = others.map(|id| (ReplicaId(*id), any_fault(rng))).collect();
        Self { liars, rogues: choices.rogues.unwrap_or(rogues), faulty }
    }
}

fn any_role(rng: &mut Rng) -> Role {
    rng.choice(Role::ALL).copied().unwrap_or(Role::Silent)
}

fn any_fault(rng: &mut Rng) -> Faulty {
    let kinds = [Faulty::Disk, Faulty::Disk, Faulty::Clock, Faulty::Memory];
    kinds[rng.usize(0..kinds.len())]
}
