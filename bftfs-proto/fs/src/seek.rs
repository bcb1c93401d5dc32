//! lseek(2): where a file has data and where holes.

use serde::{Deserialize, Serialize};

use crate::attributes::Ino;
use crate::errno::Errno;
use crate::inode::{View, check_regular};
use crate::layout::{self, BLOCK_BYTES, Inode};
use crate::operation::{Outcome, Reply};

/// What a file is searched for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Sought {
    /// Bytes that are kept (`SEEK_DATA`).
    Data,
    /// Bytes that are zeros because none are kept, or the end of the file (`SEEK_HOLE`).
    Hole,
}

/// Blocks that one search for a hole looks at: 64 MiB of data. Their contents are not read.
pub(crate) const SOUGHT_BLOCKS_MAX: u64 = 2048;

impl View<'_> {
    pub(crate) fn seek(&self, ino: Ino, offset: u64, sought: Sought) -> Outcome {
        let inode = self.inode(ino)?;
        check_regular(&inode)?;
        // Whatever it was opened for, it may be sought in.
        self.check_read_open(ino, &inode).or_else(|_| self.check_write_open(ino, &inode))?;
        if offset >= inode.size {
            return Err(Errno::ENXIO);
        }
        match sought {
            Sought::Data => self.seek_data(inode.fork, offset).map(Reply::Found),
            Sought::Hole => Ok(self.seek_hole(&inode, offset)),
        }
    }

    /// The first byte from `offset` on that a block holds.
    fn seek_data(&self, fork: u64, offset: u64) -> Result<u64, Errno> {
        let (index, place) = layout::place(offset);
        if place < self.block_len(fork, index) {
            return Ok(offset);
        }
        let from = layout::block_key(fork, index + 1);
        let next = self.tree.range(&from, &layout::block_key(fork, u64::MAX)).next();
        let (key, _) = next.ok_or(Errno::ENXIO)?;
        let (_, index) = layout::split_two(key).expect("a block's key has two numbers");
        Ok(index * BLOCK_BYTES as u64)
    }

    /// The first byte from `offset` on that no block holds, if it is near. The end of the file is
    /// one: no block reaches beyond it.
    fn seek_hole(&self, inode: &Inode, offset: u64) -> Reply {
        let (first, place) = layout::place(offset);
        let end = first + SOUGHT_BLOCKS_MAX;
        let (from, below) =
            (layout::block_key(inode.fork, first), layout::block_key(inode.fork, end));
        let mut blocks = self.tree.range(&from, &below);
        for index in first..end {
            let start = index * BLOCK_BYTES as u64;
            let here = layout::block_key(inode.fork, index);
            let len = blocks.next().filter(|(key, _)| *key == here).map_or(0, |(_, b)| b.len());
            if len < BLOCK_BYTES {
                let len = if index == first { len.max(place) } else { len };
                return Reply::Found(start + len as u64);
            }
        }
        let reached = end * BLOCK_BYTES as u64;
        if reached < inode.size { Reply::Reached(reached) } else { Reply::Found(inode.size) }
    }
}
