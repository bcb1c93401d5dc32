//! Rules that a test has a replica break, to see that somebody notices.
//!
//! Each stands for a fault that an implementation of the protocol had once, or for a rule that
//! looks as if it could be left out. Without the feature `faults` nothing can break them.

use core::fmt;
use core::str::FromStr;

use alloc::vec::Vec;

use crate::message::ViewChange;
use crate::service::Service;

use super::Replica;

macro_rules! faults {
    ($($(#[$doc:meta])* $fault:ident = $name:literal,)*) => {
        /// A rule that is broken.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Fault {
            $($(#[$doc])* $fault,)*
        }

        impl Fault {
            /// Every fault.
            pub const ALL: &[Self] = &[$(Self::$fault),*];

            /// Its name, as on command lines.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$fault => $name,)*
                }
            }
        }
    };
}

faults! {
    /// Votes are counted whatever their digest (PBFT-Java).
    AnyDigest = "any-digest",
    /// Whoever accepts a batch takes it for prepared.
    NoCertificate = "no-certificate",
    /// Whoever prepared a batch takes it for committed.
    NoCommits = "no-commits",
    /// A PRE-PREPARE is accepted from any replica.
    AnyPrimary = "any-primary",
    /// COMMIT is said without a record of what prepared.
    NoPreparedRecord = "no-prepared-record",
    /// A view-change leaves out what prepared (raijin).
    DropPrepared = "drop-prepared",
    /// A new primary believes the latest view that anybody says to have prepared something in, and
    /// backups believe it (concord-bft).
    TrustTestimony = "trust-testimony",
    /// A new primary counts only the view-changes that have its checkpoint (Fabric).
    SameCheckpoint = "same-checkpoint",
    /// NEW-VIEWs are not recomputed.
    AnyChoice = "any-choice",
    /// View-changes within a NEW-VIEW are not verified (FISCO-BCOS).
    UnsignedTestimony = "unsigned-testimony",
    /// One view-change for a later view is enough to follow (FISCO-BCOS).
    FollowOne = "follow-one",
    /// Whoever missed the NEW-VIEW is not shown it (Sawtooth).
    HideNewView = "hide-new-view",
    /// Requests that were ordered in the view before are not proposed again (Fabric).
    LoseRequests = "lose-requests",
    /// A batch that a new view chose and that is not here is not asked for (Fabric).
    LoseBatch = "lose-batch",
    /// A restart forgets which view was promised (concord-bft).
    ForgetPromise = "forget-promise",
    /// Certificates of stable checkpoints are not passed on (concord-bft).
    HideStable = "hide-stable",
    /// Certificates of stable checkpoints are not verified.
    AnyCertificate = "any-certificate",
    /// Pieces of fetched state are not compared with their digests.
    AnyBlock = "any-block",
    /// Requests that were executed before are not answered again (BFT-SMaRt).
    AnswerOnce = "answer-once",
    /// Fast reads are answered right after a restart.
    NoBarrier = "no-barrier",
    /// Requests are proposed with bad signatures (big MAC attack).
    ProposeUnsigned = "propose-unsigned",
    /// Requests with bad signatures count against the primary.
    SuspectUnsigned = "suspect-unsigned",
    /// Requests that cannot be executed count against the primary.
    SuspectRefused = "suspect-refused",
    /// Proposed times are not compared with the clock.
    AnyTime = "any-time",
    /// Operations are executed at the local time.
    LocalTime = "local-time",
    /// Clients may have any number of requests pending.
    NoQuota = "no-quota",
    /// Whoever lags is told no decisions (libbyz; Berger et al. on the isolation attack).
    HideDecided = "hide-decided",
    /// One replica's word is enough for a decision.
    BelieveOne = "believe-one",
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A name that no fault has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no such fault; docs/testing.md lists them")]
pub struct UnknownFault;

impl FromStr for Fault {
    type Err = UnknownFault;

    fn from_str(name: &str) -> Result<Self, UnknownFault> {
        Self::ALL.iter().find(|fault| fault.name() == name).copied().ok_or(UnknownFault)
    }
}

impl<S: Service> Replica<S> {
    /// Whether this rule is to be broken.
    #[cfg(feature = "faults")]
    pub(super) fn broken(&self, fault: Fault) -> bool {
        self.fault == Some(fault)
    }

    /// Whether this rule is to be broken: none is.
    #[cfg(not(feature = "faults"))]
    #[expect(clippy::unused_self, reason = "with the feature it depends on the replica")]
    pub(super) const fn broken(&self, _: Fault) -> bool {
        false
    }

    /// The view-changes as a primary reads them that breaks a rule.
    pub(super) fn misread(&self, mut changes: Vec<ViewChange>) -> Vec<ViewChange> {
        if self.broken(Fault::SameCheckpoint) {
            let stable = changes.iter().map(|change| change.stable).max();
            changes.retain(|change| Some(change.stable) == stable);
        }
        if self.broken(Fault::TrustTestimony) {
            let mut said: Vec<_> = changes.iter().flat_map(|c| c.prepared.clone()).collect();
            said.sort_by_key(|vote| (vote.seq, core::cmp::Reverse(vote.view)));
            said.dedup_by_key(|vote| vote.seq);
            for change in &mut changes {
                change.prepared.clone_from(&said);
                change.prepared.retain(|vote| vote.seq > change.stable);
            }
        }
        changes
    }
}
