//! copy_file_range(2): contents from one place to another without a way through the client.

use alloc::vec::Vec;

use crate::allocate::erase;
use crate::attributes::Ino;
use crate::data::{Piece, pieces};
use crate::errno::Errno;
use crate::inode::{Change, View, check_regular};
use crate::layout::{self, FILE_BYTES_MAX, Inode};
use crate::operation::{COPY_BYTES_MAX, Outcome, Reply, Touch};

/// Where bytes come from, or where they go.
pub(crate) type Place = (Ino, u64);

impl View<'_> {
    /// How many bytes one operation copies of `length`: none beyond the end of the source.
    fn copy_length(
        &self,
        from: Place,
        to: Place,
        length: u64,
        (source, target): (&Inode, &Inode),
    ) -> Result<usize, Errno> {
        for inode in [source, target] {
            check_regular(inode)?;
        }
        self.check_read_open(from.0, source)?;
        self.check_write_open(to.0, target)?;
        let length = length.min(source.size.saturating_sub(from.1));
        if from.0 == to.0 && length > 0 && from.1.abs_diff(to.1) < length {
            return Err(Errno::EINVAL);
        }
        let room = FILE_BYTES_MAX.saturating_sub(to.1);
        if length > 0 && room == 0 {
            return Err(Errno::EFBIG);
        }
        let length = length.min(room).min(COPY_BYTES_MAX);
        Ok(usize::try_from(length).expect("at most what one operation copies"))
    }

    /// The block of `target` that a piece lies in, as it is with what `source` has from `offset` on
    /// in its place. What is a hole there becomes one here.
    fn copied_into(&self, piece: Piece, target: &Inode, source: &Inode, offset: u64) -> Vec<u8> {
        let key = layout::block_key(target.fork, piece.index);
        let mut block = self.tree.get(&key).map_or_else(Vec::new, |block| Vec::from(&*block));
        erase(&mut block, piece.start, piece.end());
        let mut at = piece.start;
        for part in pieces(offset, piece.length) {
            if let Some(bytes) = self.tree.get(&layout::block_key(source.fork, part.index)) {
                let there = part.start.min(bytes.len())..part.end().min(bytes.len());
                overlay(&mut block, at, &bytes[there]);
            }
            at += part.length;
        }
        block
    }
}

fn overlay(block: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    if bytes.is_empty() {
        return;
    }
    block.resize(block.len().max(at + bytes.len()), 0);
    block[at..at + bytes.len()].copy_from_slice(bytes);
}

impl Change<'_> {
    pub(crate) fn copy(&mut self, from: Place, to: Place, length: u64, touch: Touch) -> Outcome {
        let (source, mut target) = (self.view().inode(from.0)?, self.view().inode(to.0)?);
        let length = self.view().copy_length(from, to, length, (&source, &target))?;
        let mut blocks = Vec::new();
        let (mut offset, mut added, mut removed) = (from.1, 0, 0);
        for piece in pieces(to.1, length) {
            let block = self.view().copied_into(piece, &target, &source, offset);
            added += block.len() as u64;
            removed += self.view().block_len(target.fork, piece.index) as u64;
            blocks.push((layout::block_key(target.fork, piece.index), block));
            offset += piece.length as u64;
        }
        self.view().check_room(added.saturating_sub(removed), 0)?;

        if length > 0 {
            for (key, block) in blocks {
                if block.is_empty() {
                    self.tree.remove(&key);
                } else {
                    self.tree.insert(&key, block);
                }
            }
            self.resize_held(&mut target, added, removed);
            target.size = target.size.max(to.1 + length as u64);
            self.lose_privileges(to.0, &mut target);
            (target.mtime, target.ctime) = (self.now, self.now);
            self.save(to.0, &target);
            if self.view().is_due(from.0, touch, self.now) {
                self.touch(from.0);
            }
        }
        let count = u32::try_from(length).expect("at most what one operation copies");
        let attributes = self.view().inode(to.0)?.attributes(to.0);
        Ok(Reply::Written { count, attributes })
    }
}
