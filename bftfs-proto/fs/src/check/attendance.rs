//! The rules of files without names: as many keep one as are counted, and all who attend are known.

use alloc::collections::BTreeMap;
use alloc::format;

use super::Tables;
use crate::attributes::Ino;

impl Tables {
    pub(super) fn check_attendance(&mut self) {
        let (found, attendance) = (self.attendants.len() as u64, self.attendance);
        let counted = attendance.map(|attendance| attendance.sessions);
        self.require(counted.unwrap_or_default() == found, || {
            format!("{counted:?} sessions are said to attend but {found} do")
        });
        let last = attendance.map_or(0, |attendance| attendance.last);
        let heard =
            self.attendants.values().map(|attendant| attendant.heard).max().unwrap_or_default();
        let given = self.limbo.keys().next_back().copied().unwrap_or_default();
        self.require(heard <= last && given <= last, || {
            format!("the last number in limbo is {last} but {given} is, and {heard} was heard of")
        });
    }

    /// Whatever has no name is kept, and nothing else is.
    pub(super) fn check_orphans(&mut self) {
        let mut keepers = self.orphans.clone();
        let mut limbo: BTreeMap<Ino, u64> = BTreeMap::new();
        for entry in self.limbo.values() {
            *limbo.entry(entry.ino).or_default() += 1;
            *keepers.entry(entry.ino).or_default() += 1;
        }
        let inodes = core::mem::take(&mut self.inodes);
        for (ino, inode) in &inodes {
            let kept = keepers.remove(ino).unwrap_or_default();
            let unnamed = self.unnamed.remove(ino);
            let counted = unnamed.as_ref().map(|unnamed| unnamed.keepers);
            let due = if inode.nlink == 0 { counted.unwrap_or(1) } else { 0 };
            let idle = counted == Some(0) || (counted.is_some() && inode.nlink > 0);
            self.require(kept == due && !idle, || {
                format!("inode {ino} with {} names is kept {kept} times, not {due}", inode.nlink)
            });
            let times = limbo.remove(ino).unwrap_or_default();
            let placed = unnamed.is_some_and(|unnamed| !unnamed.above.is_empty());
            self.require(times == 0 && !placed || times == 1 && counted.is_some(), || {
                format!("inode {ino} is {times} times in limbo, which its record contradicts")
            });
        }
        self.inodes = inodes;
        let lost = keepers.len() + self.unnamed.len();
        self.require(lost == 0, || format!("{lost} kept files do not exist"));
    }
}
