//! How a group of records is laid out in the pages of a segment.

use super::segment::PAGE;
use super::{Entry, Keep};
use crate::data::Seal;

pub(super) type Hash = [u8; 32];

const MAGIC: [u8; 8] = *b"bftfsLOG";
/// The version of groups, apart from that of the rest of the directory.
pub(super) const FORMAT: u32 = 1;
/// Bytes before the entries: magic, format: u32, length of the entries: u32, number: u64,
/// oldest: u64, count: u32, zero: u32, tag: 16, previous: 32, hash: 32.
pub(super) const HEADER: usize = 120;
const HASH_AT: usize = HEADER - 32;
/// Bytes before a record: form: u8, kind: u8, number: u64, length: u32.
const ENTRY_HEADER: usize = 14;

/// What a group says beside its records.
#[derive(Clone, Copy, Debug)]
pub(super) struct Header {
    /// One more than the group before it.
    pub(super) number: u64,
    /// The oldest group that counts.
    pub(super) oldest: u64,
    /// The hash of the group before it.
    pub(super) previous: Hash,
}

/// A group that was read.
pub(super) struct Group<'a> {
    pub(super) header: Header,
    pub(super) hash: Hash,
    /// The pages it takes, in bytes.
    pub(super) len: usize,
    entries: &'a [u8],
}

pub(super) fn entry_len(entry: &Entry) -> usize {
    ENTRY_HEADER + entry.bytes.len()
}

/// The bytes of the pages that a group of these entries takes.
pub(super) fn padded_len(entries: &[Entry]) -> usize {
    (HEADER + entries.iter().map(entry_len).sum::<usize>()).next_multiple_of(PAGE)
}

/// Fills `pages` with a group and returns its hash.
pub(super) fn write(pages: &mut [u8], header: &Header, entries: &[Entry], seal: &Seal) -> Hash {
    let (head, mut body) = pages.split_at_mut(HEADER);
    let mut len = 0;
    for entry in entries {
        let (form, kind, number) = match entry.keep {
            Keep::Until(number) => (0, 0, number),
            Keep::Latest(kind) => (1, kind, 0),
        };
        put(&mut body, &[form, kind]);
        put(&mut body, &number.to_le_bytes());
        put(&mut body, &u32_of(entry.bytes.len()).to_le_bytes());
        put(&mut body, &entry.bytes);
        len += entry_len(entry);
    }
    body.fill(0);

    let mut rest = &mut head[..];
    put(&mut rest, &MAGIC);
    put(&mut rest, &FORMAT.to_le_bytes());
    put(&mut rest, &u32_of(len).to_le_bytes());
    put(&mut rest, &header.number.to_le_bytes());
    put(&mut rest, &header.oldest.to_le_bytes());
    put(&mut rest, &u32_of(entries.len()).to_le_bytes());
    put(&mut rest, &[0; 4]);
    put(&mut rest, &seal.tag);
    put(&mut rest, &header.previous);
    let hash = hash(pages, len, seal);
    pages[HASH_AT..HEADER].copy_from_slice(&hash);
    hash
}

/// The group at the start of `pages`, if there is an intact one of this journal.
pub(super) fn read<'a>(pages: &'a [u8], seal: &Seal) -> Option<Group<'a>> {
    let (_, rest) = pages.split_at_checked(HEADER)?;
    if !starts(pages) || foreign(pages, seal) {
        return None;
    }
    let len = u32_at(pages, 12) as usize;
    let entries = rest.get(..len)?;
    let stored: Hash = array(pages, HASH_AT);
    (hash(pages, len, seal) == stored).then(|| Group {
        header: Header {
            number: number(pages),
            oldest: u64::from_le_bytes(array(pages, 24)),
            previous: array(pages, 56),
        },
        hash: stored,
        len: (HEADER + len).next_multiple_of(PAGE),
        entries,
    })
}

impl Group<'_> {
    /// The records; `None` if they are not as this program writes them.
    pub(super) fn entries(&self) -> Option<Vec<Entry>> {
        let mut entries = Vec::new();
        let mut rest = self.entries;
        while !rest.is_empty() {
            let (head, after) = rest.split_first_chunk::<ENTRY_HEADER>()?;
            let keep = match head[0] {
                0 => Keep::Until(u64::from_le_bytes(array(head, 2))),
                1 => Keep::Latest(head[1]),
                _ => return None,
            };
            let (bytes, after) = after.split_at_checked(u32_at(head, 10) as usize)?;
            entries.push(Entry { keep, bytes: bytes.to_vec() });
            rest = after;
        }
        Some(entries)
    }
}

/// Whether a page begins as a group does.
pub(super) fn starts(page: &[u8]) -> bool {
    page.len() >= HEADER && page.starts_with(&MAGIC)
}

/// The format of a page that begins as a group does.
pub(super) fn format(page: &[u8]) -> u32 {
    u32_at(page, 8)
}

/// Whether a page that begins as a group does comes from another data directory.
pub(super) fn foreign(page: &[u8], seal: &Seal) -> bool {
    page[40..56] != seal.tag
}

/// The number of a page that begins as a group does, intact or not.
pub(super) fn number(page: &[u8]) -> u64 {
    u64::from_le_bytes(array(page, 16))
}

fn hash(pages: &[u8], len: usize, seal: &Seal) -> Hash {
    let mut hasher = blake3::Hasher::new_keyed(&seal.key);
    hasher.update(&pages[..HASH_AT]).update(&pages[HEADER..HEADER + len]);
    *hasher.finalize().as_bytes()
}

fn put(rest: &mut &mut [u8], bytes: &[u8]) {
    let (head, after) = std::mem::take(rest).split_at_mut(bytes.len());
    head.copy_from_slice(bytes);
    *rest = after;
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    *bytes[at..].first_chunk().expect("within the header")
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array(bytes, at))
}

fn u32_of(len: usize) -> u32 {
    u32::try_from(len).expect("groups are at most half a segment")
}
