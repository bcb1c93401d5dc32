//! An archive: a whole file system in one file that proves itself whole.
//!
//! ```text
//!  0  magic    8   "bftfs-AR"
//!  8  version  4   1
//! 12  zeros    4
//! 16  time     8   the agreed time of the last operation
//! 24  root    32   of the file system's tree
//! 56  blocks       each: length 4, digest 32, and `length` bytes; every block once
//!     end      4   zeros
//!     count    8   of the blocks
//!     hash    32   BLAKE3 of all before it
//! ```

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use bftfs_state::{Block, Digest, MAX_VALUE, is_block};

const MAGIC: [u8; 8] = *b"bftfs-AR";
const VERSION: u32 = 1;
const BUFFER: usize = 1 << 20;

/// What an archive begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    /// The agreed time of the last operation.
    pub(crate) time: u64,
    /// The root of the file system's tree.
    pub(crate) root: Digest,
}

/// Writes an archive beside its place; it gets its name when it is whole.
pub(crate) struct Writer {
    path: PathBuf,
    new: PathBuf,
    file: Hashed<BufWriter<File>>,
    count: u64,
}

impl Writer {
    /// Begins an archive at `path`, where there must be nothing.
    pub(crate) fn create(path: &Path, head: &Head) -> io::Result<Self> {
        if path.try_exists()? {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "there is a file already"));
        }
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(".new");
        let new = path.with_file_name(name);
        let mut file = Hashed::new(BufWriter::with_capacity(BUFFER, File::create(&new)?));
        file.write_all(&MAGIC)?;
        file.write_all(&VERSION.to_le_bytes())?;
        file.write_all(&[0; 4])?;
        file.write_all(&head.time.to_le_bytes())?;
        file.write_all(&head.root.0)?;
        Ok(Self { path: path.to_owned(), new, file, count: 0 })
    }

    /// Adds a block that was not added before.
    pub(crate) fn add(&mut self, digest: &Digest, bytes: &[u8]) -> io::Result<()> {
        let len = u32::try_from(bytes.len()).map_err(io::Error::other)?;
        assert!(len > 0, "no block is empty, that would be the end");
        self.file.write_all(&len.to_le_bytes())?;
        self.file.write_all(&digest.0)?;
        self.count += 1;
        self.file.write_all(bytes)
    }

    /// Ends the archive and makes it durable.
    pub(crate) fn finish(mut self) -> io::Result<()> {
        self.file.write_all(&[0; 4])?;
        self.file.write_all(&self.count.to_le_bytes())?;
        let hash = self.file.hasher.finalize();
        let mut file = self.file.inner;
        file.write_all(hash.as_bytes())?;
        file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
        fs::rename(&self.new, &self.path)?;
        let dir = self.path.parent().filter(|dir| !dir.as_os_str().is_empty());
        File::open(dir.unwrap_or_else(|| Path::new(".")))?.sync_all()
    }

    /// Gives it up.
    pub(crate) fn remove(self) {
        // What cannot be removed is called .new, and nobody takes it for an archive.
        let _ = fs::remove_file(&self.new);
    }
}

/// Reads an archive. Every block is verified; that all of them are there and nothing else, and that
/// nothing was altered, is known when [`Iterator::next`] has given `None`.
pub(crate) struct Reader {
    file: Hashed<BufReader<File>>,
    seen: HashSet<Digest>,
    done: bool,
}

impl Reader {
    pub(crate) fn open(path: &Path) -> io::Result<(Self, Head)> {
        let mut file = Hashed::new(BufReader::with_capacity(BUFFER, File::open(path)?));
        if file.array()? != MAGIC {
            return Err(bad("it is not an archive of a bftfs file system"));
        }
        let version = u32::from_le_bytes(file.array()?);
        if version != VERSION {
            return Err(bad(&format!(
                "it has version {version}, this program knows version {VERSION}"
            )));
        }
        if file.array()? != [0; 4] {
            return Err(bad("its head was altered"));
        }
        let head = Head { time: u64::from_le_bytes(file.array()?), root: Digest(file.array()?) };
        Ok((Self { file, seen: HashSet::new(), done: false }, head))
    }

    fn read(&mut self) -> io::Result<Option<Block>> {
        let len = u32::from_le_bytes(self.file.array()?) as usize;
        if len == 0 {
            return self.end().map(|()| None);
        }
        if len > MAX_VALUE {
            return Err(bad("a block is too long: it was altered"));
        }
        let digest = Digest(self.file.array()?);
        let mut bytes = vec![0; len];
        self.file.fill(&mut bytes)?;
        if !is_block(&digest, &bytes) || !self.seen.insert(digest) {
            return Err(bad(&format!("block {digest} was altered")));
        }
        Ok(Some(Block { digest, bytes: bytes.into() }))
    }

    fn end(&mut self) -> io::Result<()> {
        let count = u64::from_le_bytes(self.file.array()?);
        let hash = self.file.hasher.finalize();
        let stored: [u8; 32] = self.file.array()?;
        if count != self.seen.len() as u64 || hash != stored {
            return Err(bad("it was altered: it does not have its hash"));
        }
        if self.file.inner.read(&mut [0])? > 0 {
            return Err(bad("something stands behind its end"));
        }
        Ok(())
    }
}

impl Iterator for Reader {
    type Item = io::Result<Block>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let read = self.read().transpose();
        self.done = !matches!(read, Some(Ok(_)));
        read
    }
}

fn bad(reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason.to_owned())
}

/// Hashes what goes through it.
struct Hashed<F> {
    inner: F,
    hasher: blake3::Hasher,
}

impl<F> Hashed<F> {
    fn new(inner: F) -> Self {
        Self { inner, hasher: blake3::Hasher::new() }
    }
}

impl<F: Write> Hashed<F> {
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hasher.update(bytes);
        self.inner.write_all(bytes)
    }
}

impl<F: Read> Hashed<F> {
    fn fill(&mut self, bytes: &mut [u8]) -> io::Result<()> {
        self.inner.read_exact(bytes).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => bad("it is cut short"),
            _ => error,
        })?;
        self.hasher.update(bytes);
        Ok(())
    }

    fn array<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use bftfs_state::Tree;
    use tempfile::TempDir;

    use super::*;

    fn blocks() -> Vec<Block> {
        let mut tree = Tree::new();
        (0..200_u8).for_each(|n| tree.insert(&[n, 1], vec![n; 600]));
        tree.seal().added
    }

    fn read(path: &Path) -> io::Result<(Head, Vec<Block>)> {
        let (reader, head) = Reader::open(path)?;
        Ok((head, reader.collect::<io::Result<_>>()?))
    }

    #[test]
    fn what_is_written_is_read_and_whatever_is_altered_or_cut_is_refused() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("archive");
        let (head, blocks) = (Head { time: 77, root: Digest([4; 32]) }, blocks());
        let mut writer = Writer::create(&path, &head).unwrap();
        blocks.iter().for_each(|block| writer.add(&block.digest, &block.bytes).unwrap());
        assert!(!path.exists(), "it has its name only when it is whole");
        writer.finish().unwrap();
        assert_eq!(read(&path).unwrap(), (head, blocks));
        assert!(Writer::create(&path, &head).is_err(), "what is there is not overwritten");

        let whole = fs::read(&path).unwrap();
        for at in (0..whole.len()).step_by(37).chain(whole.len() - 48..whole.len()) {
            let mut altered = whole.clone();
            altered[at] ^= 8;
            fs::write(&path, &altered).unwrap();
            assert!(read(&path).is_err(), "byte {at}");
            fs::write(&path, &whole[..at]).unwrap();
            assert!(read(&path).unwrap_err().to_string().contains("cut short"), "{at}");
        }
        fs::write(&path, [&whole[..], b"x"].concat()).unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("behind its end"));
    }
}
