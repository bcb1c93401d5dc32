//! The roles by name.

use std::fmt;
use std::str::FromStr;

macro_rules! roles {
    ($($(#[$doc:meta])* $role:ident = $name:literal,)*) => {
        /// A way to be faulty.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Role {
            $($(#[$doc])* $role,)*
        }

        impl Role {
            /// Every role.
            pub const ALL: &[Self] = &[$(Self::$role),*];

            /// Its name, as on command lines.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$role => $name,)*
                }
            }
        }
    };
}

roles! {
    /// As primary, two batches for one number, one for each half of the backups; as backup, votes
    /// for whatever each replica votes for.
    Equivocate = "equivocate",
    /// Hears all and says nothing.
    Silent = "silent",
    /// Leaves one replica out and answers no client: the isolation attack on fast reads.
    SilentToOne = "silent-to-one",
    /// Says everything so late that it is just not suspected.
    Slow = "slow",
    /// Wrong digests in votes, claims, checkpoints and replies.
    WrongVotes = "wrong-votes",
    /// MACs that are wrong for some receivers; wrong signatures under right MACs.
    BadAuth = "bad-auth",
    /// Says again what it said long ago, and moves votes to other views.
    Replay = "replay",
    /// Bytes that are no message, cut messages, lengths that lie, counts beyond all caps.
    Garbage = "garbage",
    /// Proposes what nobody has the body of, gives no body away, or a wrong one.
    WithholdBodies = "withhold-bodies",
    /// False VIEW-CHANGEs, and unasked ones.
    VcLies = "vc-lies",
    /// False NEW-VIEWs.
    BadNewView = "bad-new-view",
    /// Stale and forged certificates, and a flood of CHECKPOINTs.
    BadCheckpoint = "bad-checkpoint",
    /// Wrong pieces of state, endless ones, and none any more when most are through.
    PoisonTransfer = "poison-transfer",
    /// Wrong and stale answers to fast reads, none to ordered requests.
    WrongReads = "wrong-reads",
    /// As primary, times at the bounds, beyond them, and the same for ever.
    BadTime = "bad-time",
    /// As primary, never orders the requests of one client, and turns the order of others around.
    Starve = "starve",
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A name that no role has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownRole(String);

impl fmt::Display for UnknownRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = Role::ALL.iter().map(|role| role.name()).collect();
        write!(f, "there is no role {:?}; the roles are {}", self.0, names.join(", "))
    }
}

impl std::error::Error for UnknownRole {}

impl FromStr for Role {
    type Err = UnknownRole;

    fn from_str(name: &str) -> Result<Self, UnknownRole> {
        let known = Self::ALL.iter().find(|role| role.name() == name);
        known.copied().ok_or_else(|| UnknownRole(name.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_role_is_found_by_its_name() {
        assert!(Role::ALL.iter().all(|role| role.to_string().parse() == Ok(*role)));
        assert!("honest".parse::<Role>().is_err());
    }
}
