//! A small file that is written as a whole and verified before it is used.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::{Durability, Error, FORMAT, Seal};

const HEADER: usize = 64;

/// How a small file is framed: magic, format: u32, payload length: u32, tag: 16 bytes,
/// hash: 32 bytes, payload. The hash is over all the rest.
pub(crate) struct Blob;

impl Blob {
    /// Writes the file in place; the payload is at most `max` bytes long.
    pub(crate) fn write(
        path: &Path,
        magic: &[u8; 8],
        seal: &Seal,
        payload: &[u8],
        max: usize,
        durability: Durability,
    ) -> io::Result<()> {
        let bytes = Self::encode(magic, seal, payload, max)?;
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
        file.write_all_at(&bytes, 0)?;
        if durability == Durability::Sync { file.sync_all() } else { Ok(()) }
    }

    /// The bytes of such a file.
    pub(crate) fn encode(
        magic: &[u8; 8],
        seal: &Seal,
        payload: &[u8],
        max: usize,
    ) -> io::Result<Vec<u8>> {
        Self::encode_as(FORMAT, magic, seal, payload, max)
    }

    /// The same with another format: for tests of upgrades.
    pub(crate) fn encode_as(
        format: u32,
        magic: &[u8; 8],
        seal: &Seal,
        payload: &[u8],
        max: usize,
    ) -> io::Result<Vec<u8>> {
        let len = u32::try_from(payload.len()).ok().filter(|&len| len as usize <= max);
        let len = len.ok_or_else(|| io::Error::other("the contents are too long"))?;
        let mut bytes = Vec::with_capacity(HEADER + payload.len());
        bytes.extend_from_slice(magic);
        bytes.extend_from_slice(&format.to_le_bytes());
        bytes.extend_from_slice(&len.to_le_bytes());
        bytes.extend_from_slice(&seal.tag);
        let hash = hash(&bytes, payload, seal);
        bytes.extend_from_slice(&hash);
        bytes.extend_from_slice(payload);
        Ok(bytes)
    }

    /// Reads the payload, of at most `max` bytes, and its format, the present one or an older.
    pub(crate) fn read(
        path: &Path,
        magic: &[u8; 8],
        seal: &Seal,
        max: usize,
    ) -> Result<(Vec<u8>, u32), Error> {
        let mut bytes = Vec::new();
        File::open(path)
            .and_then(|file| file.take((HEADER + max) as u64).read_to_end(&mut bytes))
            .map_err(Error::io("read", path))?;
        let Some((header, rest)) = bytes.split_first_chunk::<HEADER>() else {
            return Err(Error::damaged(path, "it is too short"));
        };
        if header[..8] != *magic {
            return Err(Error::damaged(path, "it does not begin as it should"));
        }
        let format = u32_at(header, 8);
        if !(1..=FORMAT).contains(&format) {
            return Err(Error::Format { path: path.to_owned(), found: format, known: FORMAT });
        }
        if header[16..32] != seal.tag {
            return Err(Error::damaged(path, "it comes from another data directory"));
        }
        let payload = rest.get(..u32_at(header, 12) as usize);
        payload
            .filter(|payload| hash(&header[..32], payload, seal) == header[32..64])
            .map(|payload| (payload.to_vec(), format))
            .ok_or_else(|| Error::damaged(path, "its contents do not have their hash"))
    }
}

fn u32_at(bytes: &[u8; HEADER], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn hash(header: &[u8], payload: &[u8], seal: &Seal) -> [u8; 32] {
    *blake3::Hasher::new_keyed(&seal.key).update(header).update(payload).finalize().as_bytes()
}
