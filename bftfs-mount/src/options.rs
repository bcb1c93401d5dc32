//! Mount options: what mount(8) and mount.fuse3(8) call `-o`.

use bftfs_fs::Touch;
use fuser::{Config, MountOption, SessionACL};
use rustix::mount::MountFlags;

use crate::volume::{Mode, Policy};

/// The mount options in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Users other than the one who mounts may use the file system.
    pub allow_other: bool,
    /// The kernel checks permissions too. The replicas always do.
    pub default_permissions: bool,
    /// Nothing may be changed through this mount.
    pub read_only: bool,
    /// Device files work.
    pub dev: bool,
    /// Set-user-id bits work.
    pub suid: bool,
    /// Programs can be run.
    pub exec: bool,
    /// Listings bring the attributes of what they list (nfs(5) calls it so).
    pub rdirplus: bool,
    /// The mode that `strictatime`, `relatime` or `noatime` asks for.
    pub mode: Option<Mode>,
    /// The name of the source in the mount table.
    pub fsname: String,
    /// The file system's type in the mount table, after `fuse.`.
    pub subtype: String,
}

/// Why the options after `-o` were refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum OptionsError {
    /// Not an option of this file system.
    #[error(
        "-o {0}: unknown option. Known are allow_other, default_permissions, ro, rw, dev, nodev, \
         suid, nosuid, exec, noexec, rdirplus, nordirplus, strictatime, relatime, noatime, \
         fsname=NAME, subtype=NAME"
    )]
    Unknown(String),
    /// An option without the value that it needs, or with a comma or line end in it.
    #[error("-o {0}: it needs a value without commas, backslashes and control characters")]
    Value(String),
    /// Two of `strictatime`, `relatime` and `noatime`.
    #[error("-o {0} and -o {1} contradict each other: give one of them")]
    TwoModes(&'static str, &'static str),
}

impl Default for Options {
    fn default() -> Self {
        Self {
            allow_other: false,
            default_permissions: false,
            read_only: false,
            dev: false,
            suid: false,
            exec: true,
            rdirplus: false,
            mode: None,
            fsname: "bftfs".to_owned(),
            subtype: "bftfs".to_owned(),
        }
    }
}

impl Options {
    /// Reads single options; of two that contradict each other the later counts, as in mount(8).
    ///
    /// # Errors
    /// The first option that is unknown, lacks its value, or asks for a second mode.
    pub fn parse<'a>(words: impl IntoIterator<Item = &'a str>) -> Result<Self, OptionsError> {
        let mut options = Self::default();
        for word in words {
            options.set(word)?;
        }
        Ok(options)
    }

    fn set(&mut self, word: &str) -> Result<(), OptionsError> {
        match word {
            "allow_other" => self.allow_other = true,
            "default_permissions" => self.default_permissions = true,
            "ro" => self.read_only = true,
            "rw" => self.read_only = false,
            "dev" => self.dev = true,
            "nodev" => self.dev = false,
            "suid" => self.suid = true,
            "nosuid" => self.suid = false,
            "exec" => self.exec = true,
            "noexec" => self.exec = false,
            "rdirplus" => self.rdirplus = true,
            "nordirplus" => self.rdirplus = false,
            "strictatime" => self.set_mode(Mode::Strict)?,
            "relatime" => self.set_mode(Mode::Relatime)?,
            "noatime" => self.set_mode(Mode::RoLookup)?,
            // For other readers of /etc/fstab.
            "" | "_netdev" | "nofail" | "user" | "users" | "auto" | "noauto" | "defaults" => {}
            other if other.starts_with("x-") => {}
            other => self.set_value(other)?,
        }
        Ok(())
    }

    fn set_value(&mut self, word: &str) -> Result<(), OptionsError> {
        let (key, value) = word.split_once('=').unwrap_or((word, ""));
        let place = match key {
            "fsname" => &mut self.fsname,
            "subtype" => &mut self.subtype,
            _ => return Err(OptionsError::Unknown(word.to_owned())),
        };
        if value.is_empty() || value.contains(|c: char| c == ',' || c == '\\' || c.is_control()) {
            return Err(OptionsError::Value(word.to_owned()));
        }
        value.clone_into(place);
        Ok(())
    }

    fn set_mode(&mut self, mode: Mode) -> Result<(), OptionsError> {
        match self.mode.replace(mode) {
            Some(other) if other != mode => {
                Err(OptionsError::TwoModes(other.option(), mode.option()))
            }
            _ => Ok(()),
        }
    }

    /// How the volume is to be read.
    #[must_use]
    pub fn policy(&self, mode: Mode) -> Policy {
        let policy = Policy::from(mode);
        let touch = if self.read_only { Touch::Never } else { policy.touch };
        let (plus, kernel_checks) = (self.rdirplus, self.default_permissions);
        Policy { touch, plus, kernel_checks, ..policy }
    }

    /// The same for fuser. A mount without atime updates says so to the kernel.
    #[must_use]
    pub fn to_fuser(&self, mode: Mode) -> Config {
        let pick = |yes: bool, on: MountOption, off: MountOption| if yes { on } else { off };
        let mut mount_options = vec![
            MountOption::FSName(self.fsname.clone()),
            MountOption::Subtype(self.subtype.clone()),
            pick(self.read_only, MountOption::RO, MountOption::RW),
            pick(self.dev, MountOption::Dev, MountOption::NoDev),
            pick(self.suid, MountOption::Suid, MountOption::NoSuid),
            pick(self.exec, MountOption::Exec, MountOption::NoExec),
        ];
        if self.default_permissions {
            mount_options.push(MountOption::DefaultPermissions);
        }
        if mode == Mode::RoLookup {
            mount_options.push(MountOption::NoAtime);
        }
        let mut config = Config::default();
        config.mount_options = mount_options;
        config.acl = if self.allow_other { SessionACL::All } else { SessionACL::Owner };
        config
    }

    /// The flags of mount(2).
    #[must_use]
    pub fn flags(&self, mode: Mode) -> MountFlags {
        let set = |yes: bool, flag: MountFlags| if yes { flag } else { MountFlags::empty() };
        set(self.read_only, MountFlags::RDONLY)
            | set(!self.dev, MountFlags::NODEV)
            | set(!self.suid, MountFlags::NOSUID)
            | set(!self.exec, MountFlags::NOEXEC)
            | set(mode == Mode::RoLookup, MountFlags::NOATIME)
    }

    /// The options of the FUSE file system type, for the device that is open as `fd`.
    #[must_use]
    pub fn data(&self, fd: i32, uid: u32, gid: u32) -> String {
        let mut data = format!("fd={fd},rootmode=40000,user_id={uid},group_id={gid}");
        for (set, option) in
            [(self.allow_other, ",allow_other"), (self.default_permissions, ",default_permissions")]
        {
            if set {
                data.push_str(option);
            }
        }
        data
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_later_of_two_counts_and_foreign_words_pass() {
        let words = "ro,_netdev,nofail,user,x-systemd.automount,rw,allow_other,noexec,fsname=a b";
        let options = Options::parse(words.split(',')).expect("options");
        let expected = Options {
            allow_other: true,
            exec: false,
            fsname: "a b".to_owned(),
            ..Options::default()
        };
        assert_eq!(options, expected);
    }

    #[test]
    fn what_is_unknown_is_refused_by_name() {
        let error = Options::parse(["ro", "big_writes"]).expect_err("unknown");
        assert_eq!(error, OptionsError::Unknown("big_writes".to_owned()));
        assert!(error.to_string().starts_with("-o big_writes: unknown option"), "{error}");
        for wrong in ["fsname", "fsname=", "subtype=a\\b", "fsname=a\nb"] {
            assert_eq!(Options::parse([wrong]), Err(OptionsError::Value(wrong.to_owned())));
        }
        let two = Options::parse(["noatime", "relatime"]);
        assert_eq!(two, Err(OptionsError::TwoModes("noatime", "relatime")));
    }

    #[test]
    fn the_kernel_is_told_the_same() {
        let options = Options::parse(["ro", "default_permissions", "suid"]).expect("options");
        let config = options.to_fuser(Mode::RoLookup);
        for option in [
            MountOption::RO,
            MountOption::Suid,
            MountOption::NoDev,
            MountOption::DefaultPermissions,
            MountOption::NoAtime,
        ] {
            assert!(config.mount_options.contains(&option), "{option:?}");
        }
        assert_eq!(config.acl, SessionACL::Owner);
        let flags = MountFlags::RDONLY | MountFlags::NODEV | MountFlags::NOATIME;
        assert_eq!(options.flags(Mode::RoLookup), flags);
        assert_eq!(
            options.data(7, 1, 2),
            "fd=7,rootmode=40000,user_id=1,group_id=2,default_permissions"
        );
        for mode in [Mode::Strict, Mode::Relatime] {
            assert!(!options.to_fuser(mode).mount_options.contains(&MountOption::NoAtime));
        }
    }
}
