//! What each operation does to the model.

use bftfs_fs::{
    Errno, FileType, Ino, Operation, Outcome, Reply, SetAttributes, SetTime, Statistics, Time,
    Touch,
};
use bytes::Bytes;

use super::{
    Circumstances, File, Reference, in_group, may, owner, readable, strip_privileges, when,
};

impl Reference {
    /// Does an operation and says what came of it. The service's caps on the size of calls are not
    /// the model's: calls beyond them are another matter.
    pub fn perform(&mut self, at: Circumstances<'_>, operation: &Operation) -> Outcome {
        match operation {
            Operation::Null => Ok(Reply::Done),
            Operation::Open { ino, mask, truncate } => self.open(at, *ino, *mask, *truncate),
            Operation::Setattr { ino, set, open } => self.setattr(at, *ino, set, *open),
            Operation::Create { parent, name, mode, exclusive, mask, truncate } => {
                match self.find(at.who, *parent, name)? {
                    Some(_) if *exclusive => Err(Errno::EEXIST),
                    Some(ino) => self.create_existing(at, ino, *mask, *truncate),
                    None => self.make(at, (*parent, name), (FileType::Regular, *mode, 0), b""),
                }
            }
            Operation::Mknod { parent, name, kind, mode, rdev } => {
                let device = matches!(kind, FileType::CharDevice | FileType::BlockDevice);
                when(Errno::EINVAL, *kind == FileType::Symlink)?;
                let only_root = device && at.who.uid != 0;
                when(Errno::EPERM, *kind == FileType::Directory || only_root)?;
                let rdev = if device { *rdev } else { 0 };
                self.make(at, (*parent, name), (*kind, *mode, rdev), b"")
            }
            Operation::Mkdir { parent, name, mode } => {
                self.make(at, (*parent, name), (FileType::Directory, *mode, 0), b"")
            }
            Operation::Symlink { parent, name, target } => {
                when(Errno::ENOENT, target.is_empty())?;
                when(Errno::ENAMETOOLONG, target.len() > 4095)?;
                when(Errno::EINVAL, target.contains(&0))?;
                self.make(at, (*parent, name), (FileType::Symlink, 0o777, 0), target)
            }
            Operation::Link { ino, parent, name } => self.link(at, *ino, *parent, name),
            Operation::Unlink { parent, name, keep } => {
                self.remove(at, *parent, name, false, *keep)
            }
            Operation::Rmdir { parent, name, keep } => self.remove(at, *parent, name, true, *keep),
            Operation::Rename { parent, name, new_parent, new_name, mode, keep } => {
                self.rename(at, (*parent, name), (*new_parent, new_name), *mode, *keep)
            }
            Operation::Release { inos } => {
                for ino in inos {
                    self.kept.remove(&(at.session, ino.0));
                }
                self.bury();
                Ok(Reply::Done)
            }
            Operation::Attend { seen } => Ok(self.attend(at, *seen)),
            Operation::Hold { inos } => Ok(self.hold(at, inos)),
            Operation::Write { ino, offset, append, data } => {
                self.write(at, *ino, (!append).then_some(*offset), data)
            }
            Operation::Setxattr { ino, name, value, mode } => {
                self.setxattr(at, *ino, (name, value), *mode)
            }
            Operation::Removexattr { ino, name } => self.removexattr(at, *ino, name),
            Operation::Allocate { ino, offset, length, how } => {
                self.allocate(at, *ino, (*offset, *length), *how)
            }
            Operation::Copy { ino, offset, target, target_offset, length, touch } => {
                self.copy(at, (*ino, *offset), (*target, *target_offset), *length, *touch)
            }
            Operation::SetLock { .. }
            | Operation::GetLock { .. }
            | Operation::CancelLock { .. }
            | Operation::ReleaseLocks { .. } => self.perform_lock(at, operation),
            _ => self.look(at, operation),
        }
    }

    /// What an operation gives that changes nothing now; `None` if it would.
    pub fn query(&mut self, at: Circumstances<'_>, operation: &Operation) -> Option<Outcome> {
        let changes = match operation {
            Operation::Read { ino, touch: Touch::Relative, length: 1.., .. }
            | Operation::Readlink { ino, touch: Touch::Relative }
            | Operation::Readdir { ino, touch: Touch::Relative, .. } => self.is_due(*ino, at.now),
            Operation::Read { touch: Touch::Relative, .. } => false,
            _ => !operation.is_read_only(),
        };
        (!changes).then(|| self.perform(at, operation))
    }

    fn look(&mut self, at: Circumstances<'_>, operation: &Operation) -> Outcome {
        let who = at.who;
        match operation {
            Operation::Lookup { parent, name } => {
                self.reply(self.find(who, *parent, name)?.ok_or(Errno::ENOENT)?)
            }
            Operation::Getattr { ino } => self.file(*ino).and_then(|_| self.reply(ino.0)),
            Operation::Access { ino, mask } => {
                when(Errno::EINVAL, *mask > 7)?;
                may(who, self.file(*ino)?, *mask).map(|()| Reply::Done)
            }
            Operation::Statfs => Ok(Reply::Statistics(Statistics {
                capacity_bytes: self.bytes_max,
                used_bytes: self.used(),
                capacity_inodes: self.inodes_max,
                used_inodes: self.files.len() as u64,
                block_bytes: 32768,
                name_bytes_max: 255,
            })),
            Operation::Seek { ino, offset, sought } => self.seek(at, *ino, *offset, *sought),
            Operation::Read { ino, offset, length, touch } => {
                let file = self.file(*ino)?;
                readable(file)?;
                let x = file.stat.kind == FileType::Regular && may(who, file, 1).is_ok();
                when(Errno::EACCES, !(owner(who, file) || may(who, file, 4).is_ok() || x))?;
                let end = file.size.min(offset.saturating_add(u64::from(*length)));
                let data: Vec<u8> = (*offset..end).map(|offset| file.byte(offset)).collect();
                let touch = if *length > 0 { *touch } else { Touch::Never };
                self.touch(*ino, at.now, touch);
                Ok(Reply::Data(data.into()))
            }
            Operation::Readlink { ino, touch } => {
                let target = self.file(*ino)?.target.clone();
                when(Errno::EINVAL, target.is_empty())?;
                self.touch(*ino, at.now, *touch);
                Ok(Reply::Target(target))
            }
            Operation::Readdir { ino, cookie, bytes_max, plus, touch } => {
                let file = self.file(*ino)?;
                when(Errno::ENOTDIR, !file.is_dir())?;
                when(Errno::EACCES, !owner(who, file) && may(who, file, 4).is_err())?;
                let entries = self.entries(ino.0, *cookie, *bytes_max, *plus)?;
                self.touch(*ino, at.now, *touch);
                Ok(entries)
            }
            Operation::Getxattr { ino, name } => self.getxattr(who, *ino, name),
            Operation::Listxattr { ino } => self.listxattr(who, *ino),
            other => panic!("{other:?} does not only look"),
        }
    }

    fn create_existing(
        &mut self,
        at: Circumstances<'_>,
        ino: u64,
        mask: u8,
        truncate: bool,
    ) -> Outcome {
        match self.files[&ino].stat.kind {
            FileType::Regular => self.open(at, Ino(ino), mask, truncate),
            FileType::Directory => Err(Errno::EISDIR),
            _ => Err(Errno::ESTALE),
        }
    }

    fn remove(
        &mut self,
        at: Circumstances<'_>,
        dir: Ino,
        name: &Bytes,
        directory: bool,
        keep: bool,
    ) -> Outcome {
        let ino = self.find(at.who, dir, name)?.ok_or(Errno::ENOENT)?;
        self.removable(at.who, dir, ino)?;
        let file = &self.files[&ino];
        when(Errno::EISDIR, !directory && file.is_dir())?;
        when(Errno::ENOTDIR, directory && !file.is_dir())?;
        when(Errno::ENOTEMPTY, !file.names.is_empty())?;
        self.take_name(at.now, dir.0, name);
        self.settle(at, ino, keep)
    }

    pub(crate) fn touch(&mut self, ino: Ino, now: Time, touch: Touch) {
        if touch == Touch::Always || touch == Touch::Relative && self.is_due(ino, now) {
            self.at(ino.0).stat.atime = now;
        }
    }

    /// Whether a file was not read since it changed, or not for a day.
    fn is_due(&self, ino: Ino, now: Time) -> bool {
        self.file(ino).is_ok_and(|File { stat, .. }| {
            let changed = stat.mtime >= stat.atime || stat.ctime >= stat.atime;
            changed || i128::from(now.sec) - i128::from(stat.atime.sec) >= 86400
        })
    }

    fn open(&mut self, at: Circumstances<'_>, ino: Ino, mask: u8, truncate: bool) -> Outcome {
        let file = self.file(ino)?;
        let mask = if truncate { mask | 2 } else { mask };
        when(Errno::EISDIR, file.is_dir() && mask & 2 != 0)?;
        when(Errno::EINVAL, truncate && file.stat.kind != FileType::Regular || mask > 7)?;
        may(at.who, file, mask)?;
        if truncate {
            self.cut(at, ino.0, 0);
            self.at(ino.0).stat.ctime = at.now;
        }
        self.reply(ino.0)
    }

    fn cut(&mut self, at: Circumstances<'_>, ino: u64, size: u64) {
        let file = self.at(ino);
        file.resize(size);
        file.stat.mtime = at.now;
        file.lose_capability();
        if at.who.uid != 0 {
            strip_privileges(at.who, &mut file.stat);
        }
    }

    fn setattr(
        &mut self,
        at: Circumstances<'_>,
        ino: Ino,
        set: &SetAttributes,
        open: bool,
    ) -> Outcome {
        let file = self.file(ino)?;
        let stat = file.stat;
        let owns = owner(at.who, file);
        let root = at.who.uid == 0;
        let odd = |time| matches!(time, Some(SetTime::At(time)) if time.nsec >= 1_000_000_000);
        when(Errno::EINVAL, odd(set.atime) || odd(set.mtime))?;
        if let Some(size) = set.size {
            readable(file)?;
            when(Errno::EFBIG, size > i64::MAX as u64)?;
        }
        when(Errno::EPERM, set.mode.is_some() && !owns)?;
        let same = set.uid == Some(stat.uid) && owns;
        when(Errno::EPERM, set.uid.is_some() && !root && !same)?;
        if let Some(gid) = set.gid {
            let may = root || owns && (gid == stat.gid || in_group(at.who, gid));
            when(Errno::EPERM, !may)?;
        }
        if set.size.is_some() && !(open && owns) {
            may(at.who, file, 2)?;
        }
        let implied = set.atime.is_none() && set.mtime == Some(SetTime::Now) && set.size.is_some();
        if (set.atime, set.mtime) == (Some(SetTime::Now), Some(SetTime::Now)) && !owns {
            may(at.who, file, 2)?;
        } else if !implied {
            when(Errno::EPERM, !owns && (set.atime.is_some() || set.mtime.is_some()))?;
        }

        if let Some(size) = set.size {
            self.cut(at, ino.0, size);
        }
        if set.uid.is_some() || set.gid.is_some() {
            self.at(ino.0).lose_capability();
        }
        let stat = &mut self.at(ino.0).stat;
        if (set.uid.is_some() || set.gid.is_some()) && stat.kind != FileType::Directory {
            strip_privileges(at.who, stat);
        }
        stat.uid = set.uid.unwrap_or(stat.uid);
        stat.gid = set.gid.unwrap_or(stat.gid);
        if let Some(mode) = set.mode {
            let drop = if root || in_group(at.who, stat.gid) { 0 } else { 0o2000 };
            stat.mode = u16::try_from(mode % 0o10000).unwrap() & !drop;
        }
        for (time, set) in [(&mut stat.atime, set.atime), (&mut stat.mtime, set.mtime)] {
            match set {
                Some(SetTime::Now) => *time = at.now,
                Some(SetTime::At(at)) => *time = at,
                None => {}
            }
        }
        if *set != SetAttributes::default() {
            stat.ctime = at.now;
        }
        self.reply(ino.0)
    }

    fn link(&mut self, at: Circumstances<'_>, ino: Ino, dir: Ino, name: &Bytes) -> Outcome {
        let is_dir = self.file(ino)?.is_dir();
        self.find_free(at.who, dir, name)?;
        when(Errno::EPERM, is_dir)?;
        when(Errno::ENOENT, self.stat(ino.0).nlink == 0)?;
        self.room(64 + name.len() as u64, 0)?;
        self.add_name(at.now, dir.0, name, ino.0);
        self.at(ino.0).stat.ctime = at.now;
        self.reply(ino.0)
    }

    fn write(
        &mut self,
        at: Circumstances<'_>,
        ino: Ino,
        offset: Option<u64>,
        data: &Bytes,
    ) -> Outcome {
        let file = self.file(ino)?;
        readable(file)?;
        when(Errno::EACCES, !owner(at.who, file) && may(at.who, file, 2).is_err())?;
        let offset = offset.unwrap_or(file.size);
        let end = u128::from(offset) + data.len() as u128;
        when(Errno::EFBIG, end > i64::MAX as u128)?;
        if !data.is_empty() {
            let mut after = file.clone();
            after.write(offset, data);
            let after_held = after.held();
            self.room(after_held - file.held(), 0)?;
            if at.who.uid != 0 {
                strip_privileges(at.who, &mut after.stat);
            }
            after.lose_capability();
            (after.stat.mtime, after.stat.ctime) = (at.now, at.now);
            self.files.insert(ino.0, after);
        }
        let count = u32::try_from(data.len()).unwrap();
        Ok(Reply::Written { count, attributes: self.stat(ino.0) })
    }
}
