//! What seeking, allocating and copying do to the model.

use std::ops::Range;

use bftfs_fs::{Allocation, COPY_BYTES_MAX, Errno, Ino, Outcome, Reply, Sought, Touch};

use super::{BLOCK, Circumstances, File, Reference, may, owner, readable, strip_privileges, when};

fn may_read(at: Circumstances<'_>, file: &File) -> bool {
    owner(at.who, file) || may(at.who, file, 4).is_ok() || may(at.who, file, 1).is_ok()
}

fn may_write(at: Circumstances<'_>, file: &File) -> bool {
    owner(at.who, file) || may(at.who, file, 2).is_ok()
}

impl File {
    fn holds(&self, offset: u64) -> bool {
        let block = self.blocks.get(&(offset / BLOCK));
        block.is_some_and(|block| offset % BLOCK < block.len() as u64)
    }

    /// Makes bytes zeros, and does not keep those at the end of a block.
    fn erase(&mut self, range: &Range<u64>) {
        for (index, block) in &mut self.blocks {
            for at in (0..block.len()).rev() {
                match range.contains(&(index * BLOCK + at as u64)) {
                    true if at + 1 == block.len() => block.truncate(at),
                    true => block[at] = 0,
                    false => {}
                }
            }
        }
        self.blocks.retain(|_, block| !block.is_empty());
    }

    fn written_now(&mut self, at: Circumstances<'_>) {
        if at.who.uid != 0 {
            strip_privileges(at.who, &mut self.stat);
        }
        self.lose_capability();
        (self.stat.mtime, self.stat.ctime) = (at.now, at.now);
    }
}

impl Reference {
    pub(crate) fn seek(
        &self,
        at: Circumstances<'_>,
        ino: Ino,
        offset: u64,
        sought: Sought,
    ) -> Outcome {
        let file = self.file(ino)?;
        readable(file)?;
        when(Errno::EACCES, !may_read(at, file) && !may_write(at, file))?;
        when(Errno::ENXIO, offset >= file.size)?;
        let found = match sought {
            Sought::Hole => (offset..).find(|offset| !file.holds(*offset)),
            Sought::Data if file.holds(offset) => Some(offset),
            Sought::Data => {
                let starts = file.blocks.keys().map(|index| index * BLOCK);
                starts.filter(|start| *start > offset).min()
            }
        };
        found.map(Reply::Found).ok_or(Errno::ENXIO)
    }

    pub(crate) fn allocate(
        &mut self,
        at: Circumstances<'_>,
        ino: Ino,
        (offset, length): (u64, u64),
        how: Allocation,
    ) -> Outcome {
        let file = self.file(ino)?;
        readable(file)?;
        when(Errno::EACCES, !may_write(at, file))?;
        when(Errno::EINVAL, length == 0)?;
        when(Errno::EFBIG, u128::from(offset) + u128::from(length) > i64::MAX as u128)?;
        if how != Allocation::Punch {
            let contents = file.held() - file.held_by_xattrs() as u64;
            self.room(length.saturating_sub(contents), 0)?;
        }
        let end = offset + length;
        let file = self.at(ino.0);
        if !matches!(how, Allocation::Reserve { .. }) {
            file.erase(&(offset..end));
        }
        if let Allocation::Reserve { keep_size: false } | Allocation::Zero { keep_size: false } =
            how
        {
            file.size = file.size.max(end);
        }
        file.written_now(at);
        Ok(Reply::Done)
    }

    pub(crate) fn copy(
        &mut self,
        at: Circumstances<'_>,
        (from, offset): (Ino, u64),
        (to, target): (Ino, u64),
        length: u64,
        touch: Touch,
    ) -> Outcome {
        let (source, file) = (self.file(from)?, self.file(to)?);
        readable(source)?;
        readable(file)?;
        when(Errno::EACCES, !may_read(at, source) || !may_write(at, file))?;
        let length = length.min(source.size.saturating_sub(offset));
        let overlap = offset < target.saturating_add(length) && target < offset + length;
        when(Errno::EINVAL, from == to && overlap)?;
        let largest = i64::MAX as u64;
        when(Errno::EFBIG, length > 0 && target >= largest)?;
        let length = length.min(COPY_BYTES_MAX).min(largest.saturating_sub(target));
        if length > 0 {
            let mut after = file.clone();
            after.erase(&(target..target + length));
            for step in (0..length).filter(|step| source.holds(offset + step)) {
                after.write(target + step, &[source.byte(offset + step)]);
            }
            after.size = after.size.max(target + length);
            self.room(after.held().saturating_sub(file.held()), 0)?;
            after.written_now(at);
            self.files.insert(to.0, after);
            self.touch(from, at.now, touch);
        }
        let count = u32::try_from(length).unwrap();
        Ok(Reply::Written { count, attributes: self.stat(to.0) })
    }
}
