//! How reads are carried out, and what that means for the time of last access.

use std::fmt;

use bftfs_fs::Touch;
use bftfs_proto::client::How;

/// How a mount reads: its mode and what mount options make of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Ordered or not.
    pub mode: Mode,
    /// Whether reading moves atime. As the mode says, but never in a read-only mount.
    pub touch: Touch,
    /// Whether listings bring the attributes of what they list (`READDIRPLUS`).
    pub plus: bool,
    /// Whether the kernel checks permissions too, and so asks for ACLs (`FUSE_POSIX_ACL`).
    pub kernel_checks: bool,
}

impl From<Mode> for Policy {
    fn from(mode: Mode) -> Self {
        let touch = match mode {
            Mode::Strict => Touch::Always,
            Mode::Relatime => Touch::Relative,
            Mode::RoLookup => Touch::Never,
        };
        Self { mode, touch, plus: false, kernel_checks: false }
    }
}

/// How a mount carries out lookups and reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Ordered among all operations; reads move atime as POSIX says (`strictatime`).
    Strict,
    /// Answered by a quorum without ordering, but for the first read after a change and one a
    /// day, which move atime (`relatime`).
    #[default]
    Relatime,
    /// Answered by a quorum without ordering; atime never moves (`noatime`).
    RoLookup,
}

impl Mode {
    /// How lookups and reads are carried out. Replicas do not answer a fast read that moves atime,
    /// so the client orders it.
    #[must_use]
    pub const fn how(self) -> How {
        match self {
            Self::Strict => How::Ordered,
            Self::Relatime | Self::RoLookup => How::Read,
        }
    }

    /// The mount option that asks for this mode.
    #[must_use]
    pub const fn option(self) -> &'static str {
        match self {
            Self::Strict => "strictatime",
            Self::Relatime => "relatime",
            Self::RoLookup => "noatime",
        }
    }

    /// What is in force, for the person who mounts.
    #[must_use]
    pub const fn policy(self) -> &'static str {
        match self {
            Self::Strict => "lookups and reads are ordered operations; reads move atime",
            Self::Relatime => {
                "lookups and reads are answered by a quorum without ordering, but for the first \
                 read after a change and one a day, which move atime"
            }
            Self::RoLookup => {
                "lookups and reads are answered by a quorum without ordering; atime never moves"
            }
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Strict => "strict",
            Self::Relatime => "relatime",
            Self::RoLookup => "ro-lookup",
        })
    }
}
