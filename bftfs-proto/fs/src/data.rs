//! Contents of regular files: reading, writing and cutting.

use alloc::vec::Vec;

use bytes::Bytes;

use crate::attributes::Ino;
use crate::errno::Errno;
use crate::inode::{Change, View, check_regular};
use crate::layout::{self, BLOCK_BYTES, FILE_BYTES_MAX, Garbage, Inode, REMOVED_BLOCKS_MAX};
use crate::operation::{Outcome, READ_BYTES_MAX, Reply, WRITE_BYTES_MAX};

/// The part of a range of bytes that lies in one block.
#[derive(Clone, Copy)]
pub(crate) struct Piece {
    pub(crate) index: u64,
    /// Where in the block.
    pub(crate) start: usize,
    pub(crate) length: usize,
}

impl Piece {
    pub(crate) fn end(self) -> usize {
        self.start + self.length
    }
}

/// Cuts a range into what lies in each block.
pub(crate) fn pieces(mut offset: u64, mut length: usize) -> impl Iterator<Item = Piece> {
    core::iter::from_fn(move || {
        let (index, start) = layout::place(offset);
        let piece = Piece { index, start, length: length.min(BLOCK_BYTES - start) };
        offset += piece.length as u64;
        length -= piece.length;
        (piece.length > 0).then_some(piece)
    })
}

impl View<'_> {
    pub(crate) fn read(&self, ino: Ino, offset: u64, length: u32) -> Outcome {
        let inode = self.inode(ino)?;
        check_regular(&inode)?;
        self.check_read_open(ino, &inode)?;
        let wanted = u64::from(length.min(READ_BYTES_MAX));
        let length = usize::try_from(wanted.min(inode.size.saturating_sub(offset)));
        let length = length.expect("at most what is wanted");
        let mut data = Vec::with_capacity(length);
        for piece in pieces(offset, length) {
            let end = data.len() + piece.length;
            if let Some(block) = self.tree.get(&layout::block_key(inode.fork, piece.index)) {
                let there = piece.start.min(block.len())..piece.end().min(block.len());
                data.extend_from_slice(&block[there]);
            }
            data.resize(end, 0);
        }
        Ok(Reply::Data(data.into()))
    }

    /// Bytes that a block holds; 0 if it is missing.
    pub(crate) fn block_len(&self, fork: u64, index: u64) -> usize {
        self.tree.entry(&layout::block_key(fork, index)).map_or(0, |block| block.len())
    }
}

impl Change<'_> {
    pub(crate) fn write(&mut self, ino: Ino, offset: u64, append: bool, data: &Bytes) -> Outcome {
        let mut inode = self.view().inode(ino)?;
        check_regular(&inode)?;
        self.view().check_write_open(ino, &inode)?;
        if data.len() > WRITE_BYTES_MAX {
            return Err(Errno::EINVAL);
        }
        let offset = if append { inode.size } else { offset };
        let end = offset.checked_add(data.len() as u64).filter(|&end| end <= FILE_BYTES_MAX);
        let end = end.ok_or(Errno::EFBIG)?;
        if !data.is_empty() {
            let grown = |piece: Piece| {
                piece.end().saturating_sub(self.view().block_len(inode.fork, piece.index)) as u64
            };
            let grown = pieces(offset, data.len()).map(grown).sum();
            self.view().check_room(grown, 0)?;
            self.put(inode.fork, offset, data);
            self.resize_held(&mut inode, grown, 0);
            inode.size = inode.size.max(end);
            self.lose_privileges(ino, &mut inode);
            (inode.mtime, inode.ctime) = (self.now, self.now);
            self.save(ino, &inode);
        }
        let count = u32::try_from(data.len()).expect("its length was checked");
        Ok(Reply::Written { count, attributes: inode.attributes(ino) })
    }

    fn put(&mut self, fork: u64, offset: u64, mut data: &[u8]) {
        for piece in pieces(offset, data.len()) {
            let (now, rest) = data.split_at(piece.length);
            data = rest;
            self.tree.upsert(&layout::block_key(fork, piece.index), |block| {
                if block.len() < piece.start {
                    block.resize(piece.start, 0);
                }
                let over = now.len().min(block.len() - piece.start);
                block[piece.start..piece.start + over].copy_from_slice(&now[..over]);
                block.extend_from_slice(&now[over..]);
            });
        }
    }

    /// Counts bytes that an inode got and lost, in it and in the quota.
    pub(crate) fn resize_held(&mut self, inode: &mut Inode, added: u64, removed: u64) {
        inode.held = inode.held + added - removed;
        if added != removed {
            self.edit_superblock(|superblock| {
                superblock.used_bytes = superblock.used_bytes + added - removed;
            });
        }
    }

    /// Makes a file `size` bytes long; whatever it is enlarged by is zeros.
    ///
    /// Removes at most as many blocks as an operation may, unless more than that both stay and
    /// go: then all that go, about a microsecond for each.
    pub(crate) fn cut(&mut self, ino: Ino, inode: &mut Inode, size: u64) {
        if size < inode.size && inode.held > 0 {
            let (index, end) = layout::place(size);
            let removed = self.shorten_block(inode.fork, index, end);
            self.resize_held(inode, 0, removed);
            self.drop_blocks(ino, inode, size.div_ceil(BLOCK_BYTES as u64));
        }
        inode.size = size;
    }

    /// Cuts a block that stays, if `end` is not 0; returns by how many bytes.
    fn shorten_block(&mut self, fork: u64, index: u64, end: usize) -> u64 {
        let len = self.view().block_len(fork, index);
        if end == 0 || len <= end {
            return 0;
        }
        self.tree.update(&layout::block_key(fork, index), |block| block.truncate(end));
        (len - end) as u64
    }

    /// Removes the blocks of a file from `first` on.
    fn drop_blocks(&mut self, ino: Ino, inode: &mut Inode, first: u64) {
        let (start, from) =
            (layout::block_key(inode.fork, 0), layout::block_key(inode.fork, first));
        let end = layout::block_key(inode.fork, u64::MAX);
        let few = self.tree.range(&from, &end).nth(self.removals).is_none();
        if !few && self.tree.range(&start, &from).nth(REMOVED_BLOCKS_MAX).is_none() {
            return self.replace_fork(ino, inode, first);
        }
        let gone = self.tree.range(&from, &end).map(|(key, block)| (Vec::from(key), block.len()));
        let gone: Vec<_> = gone.collect();
        self.removals = self.removals.saturating_sub(gone.len());
        let removed = gone.iter().map(|(_, len)| *len as u64).sum();
        for (key, _) in gone {
            self.tree.remove(&key);
        }
        self.resize_held(inode, 0, removed);
    }

    /// Moves the blocks below `first`, which are few, to a new fork and discards the others.
    fn replace_fork(&mut self, ino: Ino, inode: &mut Inode, first: u64) {
        let (old, new) = (inode.fork, self.view().superblock().next_number);
        self.edit_superblock(|superblock| superblock.next_number += 1);
        let mut held = self.view().held_by_xattrs(ino);
        let kept = self.tree.range(&layout::block_key(old, 0), &layout::block_key(old, first));
        let kept = kept.map(|(key, block)| (Vec::from(key), Vec::from(&*block.read())));
        let kept: Vec<_> = kept.collect();
        for (key, block) in kept {
            let (_, index) = layout::split_two(&key).expect("a block's key has two numbers");
            held += block.len() as u64;
            self.tree.remove(&key);
            self.tree.insert(&layout::block_key(new, index), block);
        }
        inode.fork = new;
        let removed = inode.held - held;
        self.resize_held(inode, 0, removed);
        self.discard(Garbage::Fork(old));
    }
}
