//! fallocate(2): room for what is to be written, and holes in what was.
//!
//! Nothing is set aside: where blocks are written anew and counted when they are, a promise of room
//! would be a second quota. So an allocation says whether there is room now.

use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::attributes::Ino;
use crate::errno::Errno;
use crate::inode::{Change, check_regular};
use crate::layout::{self, BLOCK_BYTES, FILE_BYTES_MAX, Inode};
use crate::operation::{Outcome, Reply};

/// What becomes of a part of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Allocation {
    /// It stays as it is. Refused if there is no room for it; but none is kept free.
    Reserve {
        /// Whether the file does not grow to its end (`FALLOC_FL_KEEP_SIZE`).
        keep_size: bool,
    },
    /// A hole (`FALLOC_FL_PUNCH_HOLE`). The file does not grow.
    Punch,
    /// Zeros (`FALLOC_FL_ZERO_RANGE`); refused as in [`Self::Reserve`].
    Zero {
        /// As in [`Self::Reserve`].
        keep_size: bool,
    },
}

impl Allocation {
    /// Whether the file grows to its end.
    const fn extends(self) -> bool {
        matches!(self, Self::Reserve { keep_size: false } | Self::Zero { keep_size: false })
    }
}

/// Makes the bytes from `start` to `end` of a block zeros; those at its end it need not hold.
pub(crate) fn erase(block: &mut Vec<u8>, start: usize, end: usize) {
    if end < block.len() {
        block[start..end].fill(0);
    } else {
        block.truncate(start);
    }
}

impl Change<'_> {
    pub(crate) fn fallocate(
        &mut self,
        ino: Ino,
        offset: u64,
        length: u64,
        how: Allocation,
    ) -> Outcome {
        let mut inode = self.view().inode(ino)?;
        check_regular(&inode)?;
        self.view().check_write_open(ino, &inode)?;
        if length == 0 {
            return Err(Errno::EINVAL);
        }
        let end = offset.checked_add(length).filter(|&end| end <= FILE_BYTES_MAX);
        let end = end.ok_or(Errno::EFBIG)?;
        if how != Allocation::Punch {
            let contents = inode.held - self.view().held_by_xattrs(ino);
            self.view().check_room(length.saturating_sub(contents), 0)?;
        }

        let reached = match how {
            Allocation::Reserve { .. } => end,
            Allocation::Punch | Allocation::Zero { .. } => self.punch(&mut inode, offset, end),
        };
        if reached == end && how.extends() {
            inode.size = inode.size.max(end);
        }
        self.lose_privileges(ino, &mut inode);
        (inode.mtime, inode.ctime) = (self.now, self.now);
        self.save(ino, &inode);
        Ok(if reached == end { Reply::Done } else { Reply::Reached(reached) })
    }

    /// Makes a hole from `offset` to `end`, as far as this operation may remove blocks; returns how
    /// far it came.
    fn punch(&mut self, inode: &mut Inode, offset: u64, end: u64) -> u64 {
        let (first, start) = layout::place(offset);
        let (last, rest) = layout::place(end);
        if first == last {
            self.erase_in_block(inode, first, start, rest);
            return end;
        }
        // The blocks from `whole` on and below `last` lie in the range as a whole.
        let whole = if start == 0 { first } else { first + 1 };
        if start > 0 {
            self.erase_in_block(inode, first, start, BLOCK_BYTES);
        }
        if let Some(left) = self.remove_some_blocks(inode, whole, last) {
            return left * BLOCK_BYTES as u64;
        }
        if rest > 0 {
            self.erase_in_block(inode, last, 0, rest);
        }
        end
    }

    fn erase_in_block(&mut self, inode: &mut Inode, index: u64, start: usize, end: usize) {
        let key = layout::block_key(inode.fork, index);
        let len = self.view().block_len(inode.fork, index);
        if len <= start {
            return;
        }
        if start == 0 && len <= end {
            self.tree.remove(&key);
        } else {
            self.tree.update(&key, |block| erase(block, start, end));
        }
        let removed = if len <= end { len - start } else { 0 };
        self.resize_held(inode, 0, removed as u64);
    }

    /// Removes blocks from `first` on and below `last`, as many as this operation may; returns the
    /// first that is left.
    fn remove_some_blocks(&mut self, inode: &mut Inode, first: u64, last: u64) -> Option<u64> {
        let (from, below) =
            (layout::block_key(inode.fork, first), layout::block_key(inode.fork, last));
        let mut blocks = self.tree.range(&from, &below);
        let gone = blocks.by_ref().take(self.removals);
        let gone: Vec<_> = gone.map(|(key, block)| (Vec::from(key), block.len() as u64)).collect();
        let left = blocks.next().and_then(|(key, _)| layout::split_two(key));
        self.removals -= gone.len();
        for (key, _) in &gone {
            self.tree.remove(key);
        }
        self.resize_held(inode, 0, gone.iter().map(|(_, len)| len).sum());
        left.map(|(_, index)| index)
    }
}
