//! The index of names: in which directories a file is named, so that it can be told whether it lies
//! within a subtree.
//!
//! It is begun when a client is first confined to a subtree, and built bit by bit by the operations
//! that follow. What is before the cursor in the table of names is in the index; a cluster that
//! confines nobody has none. Directories need none: they know their parent.

use alloc::vec::Vec;

use crate::attributes::{FileType, Ino, ROOT};
use crate::inode::{Change, View};
use crate::layout::{self, Dentry, INDEX_KEY, table};

/// Names that one operation adds to an index that is being built.
const INDEXED_MAX: usize = 1024;
/// Directories that are looked at to tell where an inode lies. Whoever is deeper, or has so many
/// names elsewhere, is not found.
const STEPS_MAX: usize = 1 << 12;
/// The cursor when all names are in the index: it is after every key of the table.
const END: [u8; 1] = [table::DENTRY + 1];

impl View<'_> {
    /// Whether all names are in the index.
    pub(crate) fn is_indexed(&self) -> bool {
        self.tree.get(INDEX_KEY).is_some_and(|cursor| *cursor == END)
    }

    /// Whether an inode lies within the directory `top`, or is it: a directory by its parents, a
    /// file by any of its names, or in limbo by its last.
    pub(crate) fn is_within(&self, ino: Ino, top: Ino) -> bool {
        let Ok(inode) = self.inode(ino) else { return false };
        let mut steps = STEPS_MAX;
        if inode.is_directory() {
            return self.leads_to(ino, top, &mut steps);
        }
        if inode.nlink == 0 {
            return self.was_within(ino, top);
        }
        let mut from = layout::named_key(ino, Ino(0), 0);
        let end = layout::named_key(ino, Ino(u64::MAX), u64::MAX);
        while steps > 0
            && let Some((key, _)) = self.tree.range(&from, &end).next()
        {
            let (_, directory, _) =
                layout::split_indexed(key).expect("a key of the index has three numbers");
            if self.leads_to(directory, top, &mut steps) {
                return true;
            }
            from = layout::named_key(ino, Ino(directory.0 + 1), 0);
        }
        false
    }

    fn leads_to(&self, mut directory: Ino, top: Ino, steps: &mut usize) -> bool {
        while *steps > 0 && directory != top {
            *steps -= 1;
            match self.inode(directory) {
                Ok(inode) if directory != ROOT && inode.parent != directory => {
                    directory = inode.parent;
                }
                _ => return false,
            }
        }
        directory == top
    }
}

impl Change<'_> {
    /// Begins the index, unless it was begun.
    pub(crate) fn start_index(&mut self) {
        if self.tree.get(INDEX_KEY).is_none() {
            self.tree.insert(INDEX_KEY, [table::DENTRY].to_vec());
            self.build_index();
        }
    }

    /// Adds the next names to an index that is being built.
    pub(crate) fn build_index(&mut self) {
        let Some(cursor) = self.tree.get(INDEX_KEY).map(|cursor| cursor.to_vec()) else { return };
        if cursor == END {
            return;
        }
        let next: Vec<(Vec<u8>, Dentry)> = self
            .tree
            .range(&cursor, &END)
            .take(INDEXED_MAX)
            .map(|(key, record)| {
                let dentry = postcard::from_bytes(&record.read());
                (key.into(), dentry.expect("records are as they were written"))
            })
            .collect();
        // The first key after the last one that was seen.
        let cursor = match next.last() {
            Some((last, _)) if next.len() == INDEXED_MAX => [last.as_slice(), &[0]].concat(),
            _ => END.to_vec(),
        };
        for (key, dentry) in next {
            let directory = layout::directory_of(&key).expect("a name's key has a number");
            self.add_to_index(directory, dentry);
        }
        self.tree.insert(INDEX_KEY, cursor);
    }

    fn add_to_index(&mut self, directory: Ino, dentry: Dentry) {
        if dentry.kind != FileType::Directory {
            let key = layout::named_key(dentry.ino, directory, dentry.cookie);
            self.tree.insert(&key, Vec::new());
        }
    }

    /// Takes in a name that was made.
    pub(crate) fn index_name(&mut self, directory: Ino, name: &[u8], dentry: Dentry) {
        if self.has_index_reached(directory, name) {
            self.add_to_index(directory, dentry);
        }
    }

    /// Forgets a name that was removed.
    pub(crate) fn unindex_name(&mut self, directory: Ino, name: &[u8], dentry: Dentry) {
        if self.has_index_reached(directory, name) {
            self.tree.remove(&layout::named_key(dentry.ino, directory, dentry.cookie));
        }
    }

    fn has_index_reached(&self, directory: Ino, name: &[u8]) -> bool {
        let cursor = self.tree.get(INDEX_KEY);
        cursor.is_some_and(|cursor| *layout::dentry_key(directory, name) < *cursor)
    }
}
