//! A pack: a file of blocks one after another, and the list of them beside it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use bftfs_state::{Digest, MAX_VALUE, is_block};

use super::disk::{Disk, DiskFile};
use crate::data::{Blob, Error, Seal};

/// Bytes before a block: kind: u8, zeros: 3, length: u32, digest: 32, check: 8, which is the
/// beginning of the BLAKE3 hash of the rest of these.
pub(super) const HEADER: usize = 48;
const CHECKED: usize = HEADER - 8;

/// A block; its bytes follow.
const ADD: u8 = 1;
/// In packs of format 1: a reference to a block, and one less. They have no bytes and say nothing
/// any more.
const REFER: u8 = 2;
const FREE: u8 = 3;

const LIST_MAGIC: [u8; 8] = *b"bftfs-PL";
/// Bytes of an entry of a list: digest: 32, at: u64, length: u32.
const LISTED: usize = 44;
/// Bytes that are looked through at once for where a damaged pack goes on.
const WINDOW: usize = 1 << 20;

/// Where in a pack a block is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Located {
    pub(super) digest: Digest,
    /// Where its bytes begin.
    pub(super) at: u64,
    pub(super) len: u32,
}

/// What a pack of this size takes for a block of `len` bytes.
pub(super) fn size(len: u32) -> u64 {
    HEADER as u64 + u64::from(len)
}

pub(super) fn name(id: u32) -> String {
    format!("{id:010}.pack")
}

pub(super) fn list_name(id: u32) -> String {
    format!("{id:010}.list")
}

/// The packs in a directory and their lists, by the numbers in their names.
pub(super) fn files(dir: &Path) -> Result<Vec<(u32, PathBuf)>, Error> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).map_err(Error::io("list", dir))? {
        let path = entry.map_err(Error::io("list", dir))?.path();
        let ours = path.extension().is_some_and(|ext| ext == "pack" || ext == "list");
        let stem = path.file_stem().filter(|_| ours).and_then(|stem| stem.to_str());
        if let Some(id) = stem.and_then(|stem| stem.parse().ok()) {
            files.push((id, path));
        }
    }
    files.sort();
    Ok(files)
}

/// Appends a block as it stands in a pack.
pub(super) fn put(buffer: &mut Vec<u8>, digest: &Digest, bytes: &[u8]) {
    let len = u32::try_from(bytes.len()).expect("blocks are at most a MiB");
    buffer.extend_from_slice(&encode(ADD, len, digest));
    buffer.extend_from_slice(bytes);
}

/// What the headers of a pack say.
#[derive(Debug, Default)]
pub(super) struct Scan {
    pub(super) blocks: Vec<Located>,
    /// Where something stands that is no header.
    pub(super) bad: Vec<u64>,
}

/// Reads the headers of the first `end` bytes of a pack. Where one is bad, goes on with the next
/// block that is intact: what else looks like one is named by its content all the same.
pub(super) fn scan(file: &DiskFile, end: u64) -> Scan {
    let mut scan = Scan::default();
    let mut at = 0;
    while at < end {
        match read_header(file, at, end) {
            Some((kind, len, digest)) => {
                let start = at + HEADER as u64;
                if kind == ADD {
                    scan.blocks.push(Located { digest, at: start, len });
                }
                at = start + u64::from(len);
            }
            None => {
                scan.bad.push(at);
                let Ok(Some(next)) = next_intact(file, at + 1, end) else { break };
                at = next;
            }
        }
    }
    scan
}

fn read_header(file: &DiskFile, at: u64, end: u64) -> Option<(u8, u32, Digest)> {
    let mut header = [0; HEADER];
    if at + HEADER as u64 > end {
        return None;
    }
    file.read_exact_at(&mut header, at).ok()?;
    decode(&header).filter(|(_, len, _)| at + size(*len) <= end)
}

/// The next place from which on a whole block stands.
fn next_intact(file: &DiskFile, from: u64, end: u64) -> io::Result<Option<u64>> {
    let mut at = from;
    let mut window = vec![0; WINDOW];
    while at + (HEADER as u64) <= end {
        let len = usize::try_from(end - at).map_or(WINDOW, |rest| rest.min(WINDOW));
        let window = &mut window[..len];
        file.read_exact_at(window, at)?;
        for (start, here) in window.windows(HEADER).zip(at..) {
            if start[0] == ADD
                && start[1..4] == [0; 3]
                && let Some(header) = start.first_chunk()
                && let Some((_, len, digest)) = decode(header)
                && here + size(len) <= end
                && read_block(file, here + HEADER as u64, len, &digest).is_ok()
            {
                return Ok(Some(here));
            }
        }
        at += (len - HEADER + 1) as u64;
    }
    Ok(None)
}

/// Reads a block and verifies it.
pub(super) fn read_block(
    file: &DiskFile,
    at: u64,
    len: u32,
    digest: &Digest,
) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; len as usize];
    let path = file.path().display();
    let damaged = |what: &str| {
        let reason = format!("block {digest} at byte {at} of {path} {what}");
        io::Error::new(io::ErrorKind::InvalidData, reason)
    };
    file.read_exact_at(&mut bytes, at)
        .map_err(|error| damaged(&format!("cannot be read: {error}")))?;
    if is_block(digest, &bytes) { Ok(bytes) } else { Err(damaged("is damaged")) }
}

/// The list of a pack that takes `len` bytes, as a file.
pub(super) fn encode_list(blocks: &[Located], len: u64, seal: &Seal) -> io::Result<Vec<u8>> {
    let mut payload = Vec::with_capacity(8 + LISTED * blocks.len());
    payload.extend_from_slice(&len.to_le_bytes());
    for block in blocks {
        payload.extend_from_slice(&block.digest.0);
        payload.extend_from_slice(&block.at.to_le_bytes());
        payload.extend_from_slice(&block.len.to_le_bytes());
    }
    Blob::encode(&LIST_MAGIC, seal, &payload, longest_list(len))
}

/// Reads the list of a pack of which `len` bytes count.
pub(super) fn read_list(path: &Path, len: u64, seal: &Seal) -> Result<Vec<Located>, Error> {
    let (payload, _) = Blob::read(path, &LIST_MAGIC, seal, longest_list(len))?;
    parse_list(&payload, len).ok_or_else(|| Error::damaged(path, "it is of another pack"))
}

fn parse_list(payload: &[u8], len: u64) -> Option<Vec<Located>> {
    let (covered, mut rest) = payload.split_first_chunk::<8>()?;
    if u64::from_le_bytes(*covered) != len {
        return None;
    }
    let mut blocks = Vec::with_capacity(rest.len() / LISTED);
    while !rest.is_empty() {
        let (digest, after) = rest.split_first_chunk::<32>()?;
        let (at, after) = after.split_first_chunk::<8>()?;
        let (length, after) = after.split_first_chunk::<4>()?;
        let block = Located {
            digest: Digest(*digest),
            at: u64::from_le_bytes(*at),
            len: u32::from_le_bytes(*length),
        };
        let end = block.at.checked_add(block.len.into())?;
        if block.len as usize > MAX_VALUE || end > len {
            return None;
        }
        blocks.push(block);
        rest = after;
    }
    Some(blocks)
}

/// Bytes of a list of as many blocks as fit.
fn longest_list(len: u64) -> usize {
    let blocks = usize::try_from(len / HEADER as u64).unwrap_or(usize::MAX / LISTED - 1);
    8 + blocks.saturating_mul(LISTED)
}

/// The blocks of a pack, from its list or, if that is of no use, from the pack itself. With them,
/// whether the list was good.
pub(super) fn blocks(disk: &Disk, file: &DiskFile, id: u32, len: u64, seal: &Seal) -> (Scan, bool) {
    match read_list(&disk.path(&list_name(id)), len, seal) {
        Ok(blocks) => (Scan { blocks, bad: Vec::new() }, true),
        Err(_) => {
            let actual = file.len().unwrap_or(0);
            (scan(file, len.min(actual)), false)
        }
    }
}

fn encode(kind: u8, len: u32, digest: &Digest) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[0] = kind;
    header[4..8].copy_from_slice(&len.to_le_bytes());
    header[8..CHECKED].copy_from_slice(&digest.0);
    let hash = blake3::hash(&header[..CHECKED]);
    header[CHECKED..].copy_from_slice(&hash.as_bytes()[..HEADER - CHECKED]);
    header
}

fn decode(header: &[u8; HEADER]) -> Option<(u8, u32, Digest)> {
    let len = u32::from_le_bytes(*header[4..].first_chunk()?);
    let digest = Digest(*header[8..].first_chunk()?);
    let kind = header[0];
    let known = match kind {
        ADD => len as usize <= MAX_VALUE,
        REFER | FREE => len == 0,
        _ => false,
    };
    (known && encode(kind, len, &digest) == *header).then_some((kind, len, digest))
}
