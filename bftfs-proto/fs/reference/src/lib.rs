//! The file service once more, written for clarity alone: the model that the real one must equal.
//!
//! It counts links, sizes and free space anew whenever it is asked, in maps of plain values, and
//! shares no code with [`bftfs_fs::FileSystem`] but the types of calls and outcomes. The tests of
//! the file service compare the two after every operation, the simulator along the order that the
//! replicas decided on.

mod limbo;
mod locks;
mod looks;
mod perform;
mod ranges;
mod xattr;

use std::collections::{BTreeMap, BTreeSet};

use bftfs_fs::{
    Attributes, Credentials, Entry, Errno, FileType, Ino, Outcome, RenameMode, Reply, Time,
};
use bytes::Bytes;
pub use looks::looks;
use xattr::{Acl, granted};

const BLOCK: u64 = 32 * 1024;

#[derive(Clone, Debug)]
struct File {
    /// All but `size`, `blocks` and `nlink`, which are counted when asked for.
    stat: Attributes,
    size: u64,
    /// Contents that were written, by block.
    blocks: BTreeMap<u64, Vec<u8>>,
    target: Bytes,
    names: BTreeMap<u64, (Bytes, u64)>,
    next_cookie: u64,
    parent: u64,
    /// Extended attributes, but for ACLs.
    attributes: BTreeMap<Bytes, Bytes>,
    acl: Option<Acl>,
    default_acl: Option<Acl>,
}

impl File {
    fn is_dir(&self) -> bool {
        self.stat.kind == FileType::Directory
    }

    fn cookie(&self, name: &Bytes) -> Option<u64> {
        self.names.iter().find(|(_, (other, _))| other == name).map(|(cookie, _)| *cookie)
    }

    fn held(&self) -> u64 {
        let blocks: usize = self.blocks.values().map(Vec::len).sum();
        let names: usize = self.names.values().map(|(name, _)| 64 + name.len()).sum();
        (blocks + names + self.target.len() + self.held_by_xattrs()) as u64
    }

    fn resize(&mut self, size: u64) {
        self.size = size;
        for (index, block) in &mut self.blocks {
            let room = size.saturating_sub(index * BLOCK).min(BLOCK);
            block.truncate(usize::try_from(room).unwrap());
        }
        self.blocks.retain(|_, block| !block.is_empty());
    }

    fn byte(&self, offset: u64) -> u8 {
        let block = self.blocks.get(&(offset / BLOCK));
        let at = usize::try_from(offset % BLOCK).unwrap();
        block.and_then(|block| block.get(at)).copied().unwrap_or(0)
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        for (offset, byte) in (offset..).zip(data) {
            let block = self.blocks.entry(offset / BLOCK).or_default();
            let at = usize::try_from(offset % BLOCK).unwrap();
            if block.len() <= at {
                block.resize(at + 1, 0);
            }
            block[at] = *byte;
        }
        self.size = self.size.max(offset + data.len() as u64);
    }
}

/// A file system.
#[derive(Clone, Debug)]
pub struct Reference {
    files: BTreeMap<u64, File>,
    bytes_max: u64,
    inodes_max: u64,
    next: u64,
    /// Files without a name, by the session that keeps them.
    kept: BTreeSet<(u64, u64)>,
    limbo: limbo::Limbo,
    locks: locks::Locks,
}

fn may(who: &Credentials, file: &File, mask: u8) -> Result<(), Errno> {
    let mode = file.stat.mode;
    let bits = if who.uid == 0 {
        if file.is_dir() || mode & 0o111 != 0 { 7 } else { 6 }
    } else if who.uid == file.stat.uid {
        mode / 0o100 % 8
    } else if let Some(acl) = file.access_acl() {
        return when(Errno::EACCES, !granted(&acl, who, file.stat.gid, mask));
    } else if in_group(who, file.stat.gid) {
        mode / 0o10 % 8
    } else {
        mode % 8
    };
    if u16::from(mask) & !bits == 0 { Ok(()) } else { Err(Errno::EACCES) }
}

fn in_group(who: &Credentials, gid: u32) -> bool {
    who.gid == gid || who.groups.contains(&gid)
}

fn owner(who: &Credentials, file: &File) -> bool {
    who.uid == 0 || who.uid == file.stat.uid
}

fn strip_privileges(who: &Credentials, stat: &mut Attributes) {
    stat.mode &= !0o4000;
    if stat.mode & 0o010 != 0 || !(who.uid == 0 || in_group(who, stat.gid)) {
        stat.mode &= !0o2000;
    }
}

fn when(errno: Errno, wrong: bool) -> Result<(), Errno> {
    if wrong { Err(errno) } else { Ok(()) }
}

fn legal(name: &Bytes) -> Result<(), Errno> {
    when(Errno::ENAMETOOLONG, name.len() > 255)?;
    let text: &[u8] = name;
    let odd = text.is_empty() || text == b"." || text == b"..";
    when(Errno::EINVAL, odd || text.contains(&b'/') || text.contains(&0))
}

/// Under which circumstances an operation is done.
#[derive(Clone, Copy, Debug)]
pub struct Circumstances<'a> {
    /// On whose behalf.
    pub who: &'a Credentials,
    /// In which session.
    pub session: u64,
    /// When.
    pub now: Time,
}

impl Reference {
    /// A file system with only a root directory of this mode, that holds so much.
    #[must_use]
    pub fn new(bytes_max: u64, inodes_max: u64, mode: u16) -> Self {
        let mut new = Self {
            files: BTreeMap::new(),
            bytes_max,
            inodes_max,
            next: 1,
            kept: BTreeSet::new(),
            limbo: limbo::Limbo::default(),
            locks: locks::Locks::default(),
        };
        let root = Credentials::default();
        let at = Circumstances { who: &root, session: 0, now: Time::default() };
        new.add_file(at, FileType::Directory, mode, 0, 1);
        new
    }

    /// All files of some kinds.
    pub fn inos(&self, kinds: impl Fn(FileType) -> bool) -> Vec<Ino> {
        let files = self.files.values().filter(|file| kinds(file.stat.kind));
        files.map(|file| file.stat.ino).collect()
    }

    fn file(&self, ino: Ino) -> Result<&File, Errno> {
        self.files.get(&ino.0).ok_or(Errno::ESTALE)
    }

    fn at(&mut self, ino: u64) -> &mut File {
        self.files.get_mut(&ino).unwrap()
    }

    fn stat(&self, ino: u64) -> Attributes {
        let file = &self.files[&ino];
        let named = |name: &&(Bytes, u64)| name.1 == ino;
        let names = self.files.values().flat_map(|file| file.names.values()).filter(named).count();
        let subdirectories =
            file.names.values().filter(|name| self.files[&name.1].is_dir()).count();
        let nlink = match (file.is_dir(), ino == 1 || names == 1) {
            (false, _) => names,
            (true, true) => 2 + subdirectories,
            (true, false) => 0,
        };
        Attributes {
            nlink: u32::try_from(nlink).unwrap(),
            size: if file.is_dir() { file.names.len() as u64 } else { file.size },
            blocks: file.held().div_ceil(512),
            ..file.stat
        }
    }

    fn reply(&self, ino: u64) -> Outcome {
        Ok(Reply::Attributes(self.stat(ino)))
    }

    fn used(&self) -> u64 {
        self.files.values().map(File::held).sum()
    }

    fn room(&self, bytes: u64, inodes: u64) -> Result<(), Errno> {
        let full = self.used() + bytes > self.bytes_max
            || self.files.len() as u64 + inodes > self.inodes_max;
        when(Errno::ENOSPC, full)
    }

    fn find(&self, who: &Credentials, dir: Ino, name: &Bytes) -> Result<Option<u64>, Errno> {
        let file = self.file(dir)?;
        when(Errno::ENOTDIR, !file.is_dir())?;
        legal(name)?;
        may(who, file, 1)?;
        Ok(file.cookie(name).map(|cookie| file.names[&cookie].1))
    }

    fn find_free(&self, who: &Credentials, dir: Ino, name: &Bytes) -> Result<(), Errno> {
        when(Errno::EEXIST, self.find(who, dir, name)?.is_some())?;
        when(Errno::ENOENT, self.stat(dir.0).nlink == 0)?;
        may(who, self.file(dir)?, 2)
    }

    fn removable(&self, who: &Credentials, dir: Ino, ino: u64) -> Result<(), Errno> {
        let dir = self.file(dir)?;
        may(who, dir, 2)?;
        let sticky = dir.stat.mode & 0o1000 != 0;
        when(Errno::EPERM, sticky && !owner(who, dir) && !owner(who, &self.files[&ino]))
    }

    fn add_name(&mut self, now: Time, dir: u64, name: &Bytes, ino: u64) {
        let file = self.at(dir);
        file.names.insert(file.next_cookie, (name.clone(), ino));
        file.next_cookie += 1;
        (file.stat.mtime, file.stat.ctime) = (now, now);
        if self.files[&ino].is_dir() {
            self.at(ino).parent = dir;
        }
    }

    fn take_name(&mut self, now: Time, dir: u64, name: &Bytes) {
        let file = self.at(dir);
        let cookie = file.cookie(name).unwrap();
        file.names.remove(&cookie);
        (file.stat.mtime, file.stat.ctime) = (now, now);
    }

    /// A file lost a name; maybe its last.
    fn settle(&mut self, at: Circumstances<'_>, ino: u64, keep: bool) -> Outcome {
        self.at(ino).stat.ctime = at.now;
        if self.stat(ino).nlink > 0 {
            return Ok(Reply::Removed { kept: None });
        }
        self.at(ino).parent = ino;
        if keep {
            self.kept.insert((at.session, ino));
        }
        self.enter_limbo(at.session, ino);
        self.bury();
        Ok(Reply::Removed { kept: keep.then_some(Ino(ino)) })
    }

    fn add_file(
        &mut self,
        at: Circumstances<'_>,
        kind: FileType,
        mut mode: u16,
        rdev: u32,
        dir: u64,
    ) -> u64 {
        let mut gid = at.who.gid;
        let parent = self.files.get(&dir).map(|dir| dir.stat);
        let inherits = parent.is_some_and(|parent| parent.mode & 0o2000 != 0);
        if inherits {
            gid = parent.unwrap().gid;
        }
        if kind == FileType::Directory {
            mode = mode & 0o1777 | if inherits { 0o2000 } else { 0 };
        } else if mode & 0o010 != 0 && !(at.who.uid == 0 || in_group(at.who, gid)) {
            mode &= !0o2000;
        }
        let ino = self.next;
        self.next += 1;
        let (uid, now) = (at.who.uid, at.now);
        let times = (now, now, now, now);
        let (atime, mtime, ctime, btime) = times;
        let stat = Attributes {
            ino: Ino(ino),
            kind,
            mode,
            nlink: 0,
            uid,
            gid,
            rdev,
            size: 0,
            blocks: 0,
            atime,
            mtime,
            ctime,
            btime,
        };
        let file = File {
            stat,
            size: 0,
            blocks: BTreeMap::new(),
            target: Bytes::new(),
            names: BTreeMap::new(),
            next_cookie: 3,
            parent: dir,
            attributes: BTreeMap::new(),
            acl: None,
            default_acl: None,
        };
        self.files.insert(ino, file);
        ino
    }

    fn make(
        &mut self,
        at: Circumstances<'_>,
        (dir, name): (Ino, &Bytes),
        (kind, mode, rdev): (FileType, u32, u32),
        target: &[u8],
    ) -> Outcome {
        self.find_free(at.who, dir, name)?;
        let default = self.file(dir)?.default_acl.clone().filter(|_| kind != FileType::Symlink);
        // What the umask took.
        let masked = if default.is_some() { (mode >> 16) & 0o777 } else { 0 };
        let mode = u16::try_from((mode | masked) % 0o10000).unwrap();
        let mut after = self.clone();
        let ino = after.add_file(at, kind, mode, rdev, dir.0);
        if let Some(default) = default {
            after.at(ino).inherit(&default);
        }
        let inherited = after.at(ino).held();
        self.room((64 + name.len() + target.len()) as u64 + inherited, 1)?;
        *self = after;
        let file = self.at(ino);
        file.target = Bytes::copy_from_slice(target);
        file.size = target.len() as u64;
        self.add_name(at.now, dir.0, name, ino);
        self.reply(ino)
    }

    fn remove_file(&mut self, ino: u64) {
        self.files.remove(&ino);
        self.locks.release(|file, _| file == ino);
    }

    /// A session ends: what it alone kept is gone, and so are its locks.
    pub fn close(&mut self, session: u64) {
        self.locks.release(|_, owner| owner.0 == session);
        self.kept.retain(|kept| kept.0 != session);
        self.limbo.forget(session);
        self.bury();
    }

    /// Files without a name that nobody keeps are gone.
    fn bury(&mut self) {
        let files = self.files.keys().copied();
        let gone = files.filter(|&ino| {
            let kept = self.kept.iter().any(|kept| kept.1 == ino) || self.limbo.has(ino);
            self.stat(ino).nlink == 0 && !kept
        });
        for ino in gone.collect::<Vec<_>>() {
            self.remove_file(ino);
        }
    }

    fn within(&self, mut dir: u64, above: u64) -> bool {
        while dir != above {
            let parent = self.files[&dir].parent;
            if parent == dir {
                return false;
            }
            dir = parent;
        }
        true
    }

    fn movable(&self, who: &Credentials, ino: u64, from: Ino, to: Ino) -> Result<(), Errno> {
        self.removable(who, from, ino)?;
        if self.files[&ino].is_dir() && from != to {
            when(Errno::EINVAL, self.within(to.0, ino))?;
            may(who, &self.files[&ino], 2)?;
        }
        Ok(())
    }

    fn rename(
        &mut self,
        at: Circumstances<'_>,
        (from, name): (Ino, &Bytes),
        (to, new_name): (Ino, &Bytes),
        mode: RenameMode,
        keep: bool,
    ) -> Outcome {
        let source = self.find(at.who, from, name)?;
        let target = self.find(at.who, to, new_name)?;
        let ino = source.ok_or(Errno::ENOENT)?;
        when(Errno::EEXIST, mode == RenameMode::NoReplace && target.is_some())?;
        when(Errno::ENOENT, mode == RenameMode::Exchange && target.is_none())?;
        if target == source {
            return Ok(Reply::Removed { kept: None });
        }
        self.movable(at.who, ino, from, to)?;
        match target {
            Some(other) if mode == RenameMode::Exchange => self.movable(at.who, other, to, from)?,
            Some(other) => {
                self.removable(at.who, to, other)?;
                let (file, other) = (&self.files[&ino], &self.files[&other]);
                when(Errno::ENOTDIR, file.is_dir() && !other.is_dir())?;
                when(Errno::EISDIR, !file.is_dir() && other.is_dir())?;
                when(Errno::ENOTEMPTY, !other.names.is_empty())?;
            }
            None => {
                when(Errno::ENOENT, self.stat(to.0).nlink == 0)?;
                may(at.who, self.file(to)?, 2)?;
                self.room(new_name.len().saturating_sub(name.len()) as u64, 0)?;
            }
        }
        self.take_name(at.now, from.0, name);
        if target.is_some() {
            self.take_name(at.now, to.0, new_name);
        }
        self.add_name(at.now, to.0, new_name, ino);
        self.at(ino).stat.ctime = at.now;
        match target {
            Some(other) if mode == RenameMode::Exchange => {
                self.add_name(at.now, from.0, name, other);
                self.at(other).stat.ctime = at.now;
                Ok(Reply::Removed { kept: None })
            }
            Some(other) => self.settle(at, other, keep),
            None => Ok(Reply::Removed { kept: None }),
        }
    }

    fn entries(&self, ino: u64, after: u64, bytes: u32, plus: bool) -> Outcome {
        let dir = &self.files[&ino];
        let mut all = vec![(1, (Bytes::from("."), ino)), (2, (Bytes::from(".."), dir.parent))];
        all.extend(dir.names.clone());
        let all: Vec<_> = all.into_iter().filter(|(cookie, _)| *cookie > after).collect();
        let header = if plus { 152 } else { 24 };
        let mut sum = 0;
        let fits = |(_, (name, _)): &&(u64, (Bytes, u64))| {
            sum += (header + name.len()).div_ceil(8) * 8;
            sum <= bytes as usize
        };
        let count = all.iter().take_while(fits).count();
        when(Errno::EINVAL, count == 0 && !all.is_empty())?;
        let entry = |(cookie, (name, ino)): &(u64, (Bytes, u64))| Entry {
            cookie: *cookie,
            ino: Ino(*ino),
            kind: self.files[ino].stat.kind,
            name: name.clone(),
            attributes: plus.then(|| self.stat(*ino)),
        };
        let entries = all[..count].iter().map(entry).collect();
        Ok(Reply::Entries { entries, end: count == all.len() })
    }
}

fn readable(file: &File) -> Result<(), Errno> {
    match file.stat.kind {
        FileType::Regular => Ok(()),
        FileType::Directory => Err(Errno::EISDIR),
        _ => Err(Errno::EINVAL),
    }
}
