//! Finds damage: every rule that the tables keep, recomputed from all of them.

mod attendance;
mod locks;

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use bftfs_proto::types::{ClientId, SessionId};
use bftfs_state::{Entry, Found, Tree};
use serde::de::DeserializeOwned;

use crate::acl::{Acl, AclKind};
use crate::attendance::{Attendance, Attendant, Limbo, Unnamed};
use crate::attributes::{FileType, Ino, ROOT};
use crate::directory::entry_bytes;
use crate::layout::{
    self, ATTENDANCE_KEY, BLOCK_BYTES, COOKIE_FIRST, Dentry, FILE_BYTES_MAX, Garbage, INDEX_KEY,
    Inode, NAME_BYTES_MAX, REGISTRY_KEY, Slot, Superblock, TARGET_BYTES_MAX, table,
};
use crate::locks::{FileLocks, SessionLocks};
use crate::registry::{Client, Registry};
use crate::xattr::{VALUE_BYTES_MAX, XATTRS_MAX, mark_of, xattr_bytes};

/// A broken rule, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage(String);

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Checks the whole state of a file system; nothing is found in a sound one.
///
/// Takes memory and time in proportion to the keys of the tree. Contents are not looked at.
#[must_use]
pub fn check(tree: &Tree) -> Vec<Damage> {
    let mut tables = Tables::default();
    for (key, record) in tree.prefix(&[]) {
        if tables.read(key, record).is_none() {
            tables.damage(format!("key {key:02x?} or its record is malformed"));
        }
    }
    tables.check_names();
    tables.check_inodes();
    tables.check_orphans();
    tables.check_attendance();
    tables.check_xattrs();
    tables.check_forks();
    tables.check_locks();
    tables.check_superblock();
    tables.check_clients();
    tables.check_index();
    tables.damages
}

#[derive(Default)]
struct Tables {
    superblock: Option<Superblock>,
    inodes: BTreeMap<Ino, Inode>,
    dentries: BTreeMap<(Ino, Vec<u8>), Dentry>,
    slots: BTreeMap<(Ino, u64), Slot>,
    /// Blocks of each fork: the end of the last one, and their bytes.
    forks: BTreeMap<u64, (u64, u64)>,
    targets: BTreeMap<Ino, u64>,
    /// Kept files and how many sessions keep each.
    orphans: BTreeMap<Ino, u64>,
    attendance: Option<Attendance>,
    attendants: BTreeMap<SessionId, Attendant>,
    limbo: BTreeMap<u64, Limbo>,
    unnamed: BTreeMap<Ino, Unnamed>,
    xattrs: BTreeMap<Ino, Xattrs>,
    garbage: BTreeSet<Garbage>,
    locks: BTreeMap<Ino, FileLocks>,
    session_locks: BTreeMap<SessionId, SessionLocks>,
    /// Which sessions say that they have locks of which files.
    locked: BTreeSet<(SessionId, Ino)>,
    registry: Option<Registry>,
    clients: BTreeMap<ClientId, Client>,
    indexed_below: Option<Vec<u8>>,
    named: BTreeSet<(Ino, Ino, u64)>,
    damages: Vec<Damage>,
}

/// The attributes of an inode.
#[derive(Clone, Copy, Debug, Default)]
struct Xattrs {
    count: usize,
    /// Bytes that they take of the quota.
    held: u64,
    /// What they mark the inode with.
    marks: u16,
    /// Permission bits that an access ACL asks for.
    mode: Option<u16>,
}

fn record<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    match postcard::take_from_bytes(bytes) {
        Ok((record, [])) => Some(record),
        _ => None,
    }
}

impl Tables {
    /// Takes in one key; `None` if it belongs to no table or its record is none.
    fn read(&mut self, key: &[u8], entry: Entry<'_>) -> Option<()> {
        let bytes = if entry.away().is_some() { Found::Here(&[]) } else { entry.read() };
        match *key.first()? {
            table::SUPERBLOCK if key.len() == 1 => self.superblock = Some(record(&bytes)?),
            table::INODE => {
                self.inodes.insert(Ino(layout::number_of(key)?), record(&bytes)?);
            }
            table::DENTRY => {
                let (directory, name) = layout::split_named(key)?;
                self.dentries.insert((directory, name.into()), record(&bytes)?);
            }
            table::SLOT => {
                let (directory, cookie) = layout::split_two(key)?;
                self.slots.insert((Ino(directory), cookie), record(&bytes)?);
            }
            table::BLOCK if (1..=BLOCK_BYTES).contains(&entry.len()) => {
                let (fork, index) = layout::split_two(key)?;
                let start = index.checked_mul(BLOCK_BYTES as u64)?;
                let (end, held) = self.forks.entry(fork).or_default();
                *end = start.checked_add(entry.len() as u64)?;
                *held += entry.len() as u64;
            }
            table::TARGET if (1..=TARGET_BYTES_MAX).contains(&entry.len()) => {
                self.targets.insert(Ino(layout::number_of(key)?), entry.len() as u64);
            }
            table::ORPHAN if entry.is_empty() => {
                let (_, ino) = layout::split_two(key)?;
                *self.orphans.entry(Ino(ino)).or_default() += 1;
            }
            table::GARBAGE if entry.is_empty() => {
                self.garbage.insert(Garbage::from_key(key)?);
            }
            table::XATTR if entry.len() <= VALUE_BYTES_MAX => self.read_xattr(key, entry)?,
            table::LOCKS => {
                self.locks.insert(Ino(layout::number_of(key)?), record(&entry.read())?);
            }
            table::SESSION_LOCKS if key.len() == 9 => {
                self.session_locks
                    .insert(SessionId(layout::number_of(key)?), record(&entry.read())?);
            }
            table::SESSION_LOCKS if entry.is_empty() => {
                let (session, ino) = layout::split_two(key)?;
                self.locked.insert((SessionId(session), Ino(ino)));
            }
            table::CLIENT if key == REGISTRY_KEY => self.registry = Some(record(&bytes)?),
            table::CLIENT => {
                self.clients.insert(layout::client_of(key)?, record(&entry.read())?);
            }
            table::INDEX if key == INDEX_KEY && !bytes.is_empty() => {
                self.indexed_below = Some(bytes.to_vec());
            }
            table::INDEX if entry.is_empty() => {
                self.named.insert(layout::split_indexed(key)?);
            }
            table::ATTENDANCE if key == ATTENDANCE_KEY => self.attendance = Some(record(&bytes)?),
            table::ATTENDANCE => {
                self.attendants.insert(SessionId(layout::number_of(key)?), record(&bytes)?);
            }
            table::LIMBO => {
                self.limbo.insert(layout::number_of(key)?, record(&bytes)?);
            }
            table::UNNAMED => {
                self.unnamed.insert(Ino(layout::number_of(key)?), record(&bytes)?);
            }
            _ => return None,
        }
        Some(())
    }

    fn read_xattr(&mut self, key: &[u8], entry: Entry<'_>) -> Option<()> {
        let (ino, name) = layout::split_named(key)?;
        let xattrs = self.xattrs.entry(ino).or_default();
        xattrs.count += 1;
        xattrs.held += xattr_bytes(name, entry.len());
        xattrs.marks |= mark_of(name);
        if let Some(kind) = AclKind::of(name)
            && entry.away().is_none()
        {
            let bytes = entry.read();
            let acl = Acl::decode(&bytes).ok().filter(|acl| acl.encode() == *bytes)?;
            if kind == AclKind::Access {
                xattrs.mode = Some(acl.mode()).filter(|_| !acl.is_minimal());
                xattrs.mode?;
            }
        }
        (1..=NAME_BYTES_MAX).contains(&name.len()).then_some(())
    }

    fn damage(&mut self, what: String) {
        self.damages.push(Damage(what));
    }

    fn require(&mut self, sound: bool, what: impl FnOnce() -> String) {
        if !sound {
            self.damage(what());
        }
    }

    /// Names and slots belong to each other, and to directories and files that exist.
    fn check_names(&mut self) {
        for ((directory, name), dentry) in self.dentries.clone() {
            let slot = self.slots.get(&(directory, dentry.cookie));
            let matches = slot.is_some_and(|slot| {
                (slot.ino, slot.kind, slot.name.as_ref()) == (dentry.ino, dentry.kind, &name[..])
            });
            let parent = self.inodes.get(&directory).copied();
            let cookies = COOKIE_FIRST..parent.map_or(0, |parent| parent.next_cookie);
            let kind = self.inodes.get(&dentry.ino).map(|inode| inode.kind);
            let name = String::from_utf8_lossy(&name).into_owned();
            let at = || format!("name {name:?} in directory {directory}");
            self.require(matches, || format!("{} has no slot like it", at()));
            self.require(cookies.contains(&dentry.cookie), || {
                format!("{} has a cookie that was not given", at())
            });
            self.require(parent.is_some_and(|parent| parent.is_directory()), || {
                format!("{} is in no directory", at())
            });
            self.require(kind == Some(dentry.kind), || format!("{} stands for no such file", at()));
        }
        let (names, slots) = (self.dentries.len(), self.slots.len());
        self.require(names == slots, || format!("there are {names} names but {slots} slots"));
    }

    fn check_inodes(&mut self) {
        let mut names: BTreeMap<Ino, Vec<Ino>> = BTreeMap::new();
        let mut contents: BTreeMap<Ino, (u64, u64, u32)> = BTreeMap::new();
        for ((directory, name), dentry) in &self.dentries {
            names.entry(dentry.ino).or_default().push(*directory);
            let (entries, held, subdirectories) = contents.entry(*directory).or_default();
            *entries += 1;
            *held += entry_bytes(name);
            *subdirectories += u32::from(dentry.kind == FileType::Directory);
        }
        for (ino, mut inode) in self.inodes.clone() {
            let parents = names.get(&ino).map_or(&[][..], Vec::as_slice);
            self.check_common(ino, &inode, parents);
            self.check_marks(ino, &inode);
            // What is left is what the rest of the inode takes.
            let xattrs = self.xattrs.get(&ino).copied().unwrap_or_default();
            self.require(inode.held >= xattrs.held, || {
                format!("inode {ino} counts less than its attributes take")
            });
            inode.held = inode.held.saturating_sub(xattrs.held);
            match inode.kind {
                FileType::Directory => {
                    let within = contents.get(&ino).copied().unwrap_or_default();
                    self.check_directory(ino, &inode, parents, within);
                }
                FileType::Symlink => {
                    let len = self.targets.get(&ino).copied();
                    self.require(len == Some(inode.size) && inode.held == inode.size, || {
                        format!("link {ino} and its target differ in length")
                    });
                }
                FileType::Regular => self.check_file(ino, &inode),
                _ => self.require(inode.size == 0 && inode.held == 0, || {
                    format!("inode {ino} has contents but is no file")
                }),
            }
        }
        let links = self.inodes.values().filter(|inode| inode.kind == FileType::Symlink).count();
        let targets = self.targets.len();
        self.require(links == targets, || format!("there are {links} links, {targets} targets"));
    }

    fn check_common(&mut self, ino: Ino, inode: &Inode, parents: &[Ino]) {
        let times = [inode.atime, inode.mtime, inode.ctime, inode.btime];
        self.require(times.iter().all(|time| time.nsec < 1_000_000_000), || {
            format!("inode {ino} has a malformed time")
        });
        let nlink = inode.nlink as usize;
        self.require(inode.is_directory() || nlink == parents.len(), || {
            format!("inode {ino} counts {nlink} names but has {}", parents.len())
        });
    }

    fn check_marks(&mut self, ino: Ino, inode: &Inode) {
        let Xattrs { count, marks, mode, .. } = self.xattrs.get(&ino).copied().unwrap_or_default();
        self.require(inode.mode & !0o7777 == marks, || {
            format!("inode {ino} has a malformed mode or other attributes than it is marked with")
        });
        self.require(mode.is_none_or(|mode| mode == inode.mode & 0o777), || {
            format!("inode {ino} has a mode and an ACL that contradict each other")
        });
        self.require(count <= XATTRS_MAX, || format!("inode {ino} has {count} attributes"));
    }

    fn check_directory(
        &mut self,
        ino: Ino,
        inode: &Inode,
        parents: &[Ino],
        (entries, held, subdirectories): (u64, u64, u32),
    ) {
        self.require((inode.size, inode.held) == (entries, held), || {
            format!("directory {ino} counts its entries wrongly: {entries} of {held} bytes")
        });
        let (nlink, named): (u32, &[Ino]) = match inode.nlink {
            0 => (0, &[]),
            _ if ino == ROOT => (2 + subdirectories, &[]),
            _ => (2 + subdirectories, &[inode.parent]),
        };
        self.require(inode.nlink == nlink && parents == named, || {
            format!("directory {ino} counts its links wrongly or is not where it says")
        });
        self.require(self.leads_to_root(ino), || format!("directory {ino} is cut off"));
    }

    /// Whether a directory's parents end at the root, or at one without name.
    fn leads_to_root(&self, mut ino: Ino) -> bool {
        for _ in 0..self.inodes.len() {
            match self.inodes.get(&ino) {
                Some(inode) if inode.parent == ino => return ino == ROOT || inode.nlink == 0,
                Some(inode) => ino = inode.parent,
                None => return false,
            }
        }
        false
    }

    fn check_file(&mut self, ino: Ino, inode: &Inode) {
        let (end, held) = self.forks.get(&inode.fork).copied().unwrap_or_default();
        self.require(end <= inode.size && inode.size <= FILE_BYTES_MAX, || {
            format!("file {ino} of {} bytes has a block up to {end}", inode.size)
        });
        self.require(inode.held == held, || {
            format!("file {ino} holds {held} bytes but counts {}", inode.held)
        });
    }

    /// Attributes belong to an inode, or are garbage.
    fn check_xattrs(&mut self) {
        let owners: Vec<Ino> = self.xattrs.keys().copied().collect();
        for ino in owners {
            let garbage = self.garbage.contains(&Garbage::Xattrs(ino));
            self.require(self.inodes.contains_key(&ino) != garbage, || {
                format!("attributes belong to no inode, or to {ino} although they are garbage")
            });
        }
    }

    /// Each fork belongs to one file, or is garbage.
    fn check_forks(&mut self) {
        let files = self.inodes.values().filter(|inode| inode.kind == FileType::Regular);
        let mut owned = BTreeSet::new();
        let shared: Vec<u64> =
            files.map(|file| file.fork).filter(|&fork| !owned.insert(fork)).collect();
        for fork in shared {
            self.damage(format!("fork {fork} belongs to several files"));
        }
        let forks: Vec<u64> = self.forks.keys().copied().collect();
        for fork in forks {
            let garbage = self.garbage.contains(&Garbage::Fork(fork));
            self.require(owned.contains(&fork) != garbage, || {
                format!("fork {fork} belongs to no file, or to one although it is garbage")
            });
        }
    }

    fn check_superblock(&mut self) {
        let Some(superblock) = self.superblock else {
            return self.damage("there is no superblock".into());
        };
        let held = self.inodes.values().fold(0, |sum: u64, inode| sum.saturating_add(inode.held));
        let used = (superblock.used_bytes, superblock.used_inodes);
        let found = (held, self.inodes.len() as u64);
        self.require(used == found, || {
            format!("bytes and inodes are counted as {used:?} but are {found:?}")
        });
        let capacity = (superblock.capacity_bytes, superblock.capacity_inodes);
        self.require(used.0 <= capacity.0 && used.1 <= capacity.1, || {
            format!("bytes and inodes in use are {used:?}, more than {capacity:?}")
        });
        let inos = self.inodes.keys().chain(self.xattrs.keys()).map(|ino| ino.0);
        let last = inos.chain(self.forks.keys().copied()).max();
        self.require(last < Some(superblock.next_number), || {
            format!("the next number is {} but {last:?} is taken", superblock.next_number)
        });
    }

    fn check_clients(&mut self) {
        let unsound = self.clients.iter().find(|(_, client)| client.check().is_err());
        if let Some((id, _)) = unsound {
            let damage = format!("the rule of client {id} is malformed");
            self.damage(damage);
        }
        let admin = |client: &&Client| client.rule.as_ref().is_some_and(|rule| rule.admin);
        let admins = self.clients.values().filter(admin).count();
        let (found, counted) = ((self.clients.len(), admins), self.registry.unwrap_or_default());
        let counted = (counted.clients as usize, counted.admins as usize);
        self.require(found == counted && (self.registry.is_some() == (found.0 > 0)), || {
            format!("clients and administrators are counted as {counted:?} but are {found:?}")
        });
    }

    /// The index has the names of files below its cursor, and no others.
    fn check_index(&mut self) {
        let names = self.dentries.iter().filter(|((directory, name), dentry)| {
            dentry.kind != FileType::Directory
                && self
                    .indexed_below
                    .as_ref()
                    .is_some_and(|cursor| layout::dentry_key(*directory, name) < *cursor)
        });
        let names: BTreeSet<_> =
            names.map(|((directory, _), name)| (name.ino, *directory, name.cookie)).collect();
        let wrong = names.symmetric_difference(&self.named).count();
        self.require(wrong == 0, || format!("{wrong} names are not as the index has them"));
        let confined =
            |client: &Client| client.rule.as_ref().is_some_and(|rule| rule.subtree.is_some());
        let begun = self.indexed_below.is_some() || !self.clients.values().any(confined);
        self.require(begun, || "clients are confined but there is no index of names".into());
    }
}
