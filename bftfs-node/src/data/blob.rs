//! A small file that is written as a whole and verified before it is used.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::{Durability, Error, FORMAT, Seal};

/// Longest payload, in bytes.
const MAX: usize = 1 << 20;
const HEADER: usize = 64;

/// How a small file is framed: magic, format: u32, payload length: u32, tag: 16 bytes,
/// hash: 32 bytes, payload. The hash is over all the rest.
pub(crate) struct Blob;

impl Blob {
    /// Writes the file in place.
    pub(crate) fn write(
        path: &Path,
        magic: &[u8; 8],
        seal: &Seal,
        payload: &[u8],
        durability: Durability,
    ) -> io::Result<()> {
        let len = u32::try_from(payload.len()).ok().filter(|&len| len as usize <= MAX);
        let len = len.ok_or_else(|| io::Error::other("the contents are too long"))?;
        let mut bytes = Vec::with_capacity(HEADER + payload.len());
        bytes.extend_from_slice(magic);
        bytes.extend_from_slice(&FORMAT.to_le_bytes());
        bytes.extend_from_slice(&len.to_le_bytes());
        bytes.extend_from_slice(&seal.tag);
        let hash = hash(&bytes, payload, seal);
        bytes.extend_from_slice(&hash);
        bytes.extend_from_slice(payload);
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
        file.write_all_at(&bytes, 0)?;
        if durability == Durability::Sync { file.sync_all() } else { Ok(()) }
    }

    /// Reads the payload.
    pub(crate) fn read(path: &Path, magic: &[u8; 8], seal: &Seal) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        File::open(path)
            .and_then(|file| file.take((HEADER + MAX) as u64).read_to_end(&mut bytes))
            .map_err(Error::io("read", path))?;
        let Some((header, rest)) = bytes.split_first_chunk::<HEADER>() else {
            return Err(Error::damaged(path, "it is too short"));
        };
        if header[..8] != *magic {
            return Err(Error::damaged(path, "it does not begin as it should"));
        }
        let format = u32_at(header, 8);
        if format != FORMAT {
            return Err(Error::Format { path: path.to_owned(), found: format });
        }
        if header[16..32] != seal.tag {
            return Err(Error::damaged(path, "it comes from another data directory"));
        }
        let payload = rest.get(..u32_at(header, 12) as usize);
        payload
            .filter(|payload| hash(&header[..32], payload, seal) == header[32..64])
            .map(<[u8]>::to_vec)
            .ok_or_else(|| Error::damaged(path, "its contents do not have their hash"))
    }
}

fn u32_at(bytes: &[u8; HEADER], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn hash(header: &[u8], payload: &[u8], seal: &Seal) -> [u8; 32] {
    *blake3::Hasher::new_keyed(&seal.key).update(header).update(payload).finalize().as_bytes()
}
