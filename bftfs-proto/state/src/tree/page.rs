//! A page: sorted keys, each with a payload, packed in the bytes that are hashed, stored and sent.
//!
//! ```text
//! page   level: u8, then entries in ascending order of their keys
//! entry  key length: u16, tag: u16, key, payload
//! tag    0..=512: the payload is that many bytes, the value itself
//!        0xffff:  the payload is a reference: digest: 32 bytes, weight: u64
//! ```
//! Integers are little-endian. A leaf (level 0) refers to values, whose weight is their length in
//! bytes; a page of level k refers to pages of level k-1, whose weight is the number of keys below.
//! The packed form costs one `memmove` of a few KiB per change and makes a copy one `memcpy`.

use alloc::vec::Vec;
use core::cmp::Ordering;
use core::ops::Range;

use crate::Digest;

/// Longest key, in bytes.
pub const MAX_KEY: usize = 512;
/// Longest value, in bytes.
pub const MAX_VALUE: usize = 1 << 20;
/// Values up to this length, in bytes, are kept within their leaf.
pub(super) const MAX_INLINE: usize = 512;
/// A page longer than this is split in two.
pub(super) const MAX_PAGE: usize = 4096;
/// A page shorter than this is merged with its neighbour, unless it is the root.
pub(super) const MIN_PAGE: usize = MAX_PAGE / 4;

const PAGE_HEADER: usize = 1;
const ENTRY_HEADER: usize = 4;
const DIGEST: usize = 32;
const REFERENCE: usize = DIGEST + 8;
const TAG_REFERENCE: u16 = u16::MAX;

// Both halves of a split page are well above the least size, so that a page just split is not
// merged at once, and a page of the least size has at least two entries of its neighbour's size.
const _: () = {
    let entry = ENTRY_HEADER + MAX_KEY + MAX_INLINE;
    assert!((MAX_PAGE - entry) / 2 > MIN_PAGE);
    assert!(ENTRY_HEADER + MAX_KEY + REFERENCE < MIN_PAGE);
    assert!(2 * MAX_PAGE + entry <= u16::MAX as usize);
    assert!(MAX_INLINE < TAG_REFERENCE as usize && MAX_KEY <= u16::MAX as usize);
};

/// What a page says of a block that it refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reference {
    /// [`Digest::ZERO`] while the block has changes that are not sealed.
    pub(super) digest: Digest,
    /// Bytes of a value, or keys below a page.
    pub(super) weight: u64,
}

impl Reference {
    /// Refers to a block that is not sealed.
    pub(super) const DIRTY: Self = Self { digest: Digest::ZERO, weight: 0 };

    fn encode(self) -> [u8; REFERENCE] {
        let mut bytes = [0; REFERENCE];
        bytes[..DIGEST].copy_from_slice(&self.digest.0);
        bytes[DIGEST..].copy_from_slice(&self.weight.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (digest, weight) = bytes.split_first_chunk::<DIGEST>()?;
        let weight = u64::from_le_bytes(weight.try_into().ok()?);
        Some(Self { digest: Digest(*digest), weight })
    }
}

/// The payload of an entry.
#[derive(Clone, Copy, Debug)]
pub(super) enum Payload<'a> {
    /// The value itself.
    Inline(&'a [u8]),
    /// The name of the block that holds it.
    Reference(Reference),
}

/// A packed page; `L` is what an entry of it links to in memory.
#[derive(Clone)]
pub(super) struct Page<L> {
    bytes: Vec<u8>,
    /// Where the entries start; apart from the links, so that a search touches few cache lines.
    starts: Vec<u16>,
    links: Vec<L>,
}

impl<L> Page<L> {
    /// A page without entries.
    pub(super) fn new(level: u8) -> Self {
        Self { bytes: [level].to_vec(), starts: Vec::new(), links: Vec::new() }
    }

    /// A page of bytes that have been checked, and a link for each of its entries in order.
    pub(super) fn from_parts(bytes: Vec<u8>, entries: &[RawEntry<'_>], links: Vec<L>) -> Self {
        let starts = entries.iter().map(|entry| u16_of(entry.start)).collect();
        Self { bytes, starts, links }
    }

    pub(super) fn level(&self) -> u8 {
        self.bytes[0]
    }

    /// The encoding; final when no reference is [`Reference::DIRTY`].
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The number of entries.
    pub(super) fn len(&self) -> usize {
        self.starts.len()
    }

    pub(super) fn key(&self, at: usize) -> &[u8] {
        self.key_from(self.start(at))
    }

    pub(super) fn link(&self, at: usize) -> &L {
        &self.links[at]
    }

    pub(super) fn link_mut(&mut self, at: usize) -> &mut L {
        &mut self.links[at]
    }

    /// The position of `key`, or the position where it belongs.
    pub(super) fn search(&self, key: &[u8]) -> Result<usize, usize> {
        // The standard library's search has no branches, so it waits for each cache line in turn;
        // with branches the processor fetches the likely next ones ahead: half the time at 1 M keys.
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = low.midpoint(high);
            match self.key(middle).cmp(key) {
                Ordering::Less => low = middle + 1,
                Ordering::Equal => return Ok(middle),
                Ordering::Greater => high = middle,
            }
        }
        Err(low)
    }

    /// The payload's bytes as they are encoded: a value or a reference.
    pub(super) fn payload(&self, at: usize) -> &[u8] {
        &self.bytes[self.payload_range(at)]
    }

    /// The reference at `at`, if its payload is one.
    pub(super) fn reference(&self, at: usize) -> Option<Reference> {
        let start = self.start(at);
        (self.u16_from(start + 2) == TAG_REFERENCE)
            .then(|| Reference::decode(self.payload(at)).expect("a reference has one length"))
    }

    /// Inserts an entry before the one at `at`.
    pub(super) fn insert(&mut self, at: usize, key: &[u8], payload: Payload<'_>, link: L) {
        let start = self.start_or_end(at);
        let header = start + ENTRY_HEADER;
        self.resize(start..start, ENTRY_HEADER + key.len(), at);
        self.bytes[start..start + 2].copy_from_slice(&u16_of(key.len()).to_le_bytes());
        self.bytes[start + 2..header].fill(0);
        self.bytes[header..header + key.len()].copy_from_slice(key);
        self.starts.insert(at, u16_of(start));
        self.links.insert(at, link);
        self.set_payload(at, payload);
    }

    /// Replaces the payload of an entry; its link is the caller's to set.
    pub(super) fn set_payload(&mut self, at: usize, payload: Payload<'_>) {
        let range = self.payload_range(at);
        let encoded;
        let (tag, bytes) = match payload {
            Payload::Inline(value) => (u16_of(value.len()), value),
            Payload::Reference(reference) => {
                encoded = reference.encode();
                (TAG_REFERENCE, encoded.as_slice())
            }
        };
        let from = range.start;
        self.resize(range, bytes.len(), at + 1);
        self.bytes[from..from + bytes.len()].copy_from_slice(bytes);
        let start = self.start(at);
        self.bytes[start + 2..start + 4].copy_from_slice(&tag.to_le_bytes());
    }

    /// Removes an entry; its reference, if it had one, and its link are left to the caller.
    pub(super) fn remove(&mut self, at: usize) -> (Option<Reference>, L) {
        let reference = self.reference(at);
        let range = self.start(at)..self.start_or_end(at + 1);
        self.resize(range, 0, at + 1);
        self.starts.remove(at);
        (reference, self.links.remove(at))
    }

    /// Moves the upper half of the bytes, to the nearest entry, to a page of its own.
    pub(super) fn split(&mut self) -> Self {
        let middle = self.bytes.len() / 2;
        let above = self.starts.partition_point(|&start| usize::from(start) < middle);
        let (after, before) = (self.start_or_end(above), self.start(above - 1));
        let at = if after - middle > middle - before { above - 1 } else { above };
        assert!(at > 0 && at < self.len(), "a page that is too long has many entries");

        let from = self.start(at);
        let mut right = Self::new(self.level());
        right.bytes.extend_from_slice(&self.bytes[from..]);
        right.starts = self.starts.split_off(at);
        right.starts.iter_mut().for_each(|start| *start -= u16_of(from - PAGE_HEADER));
        right.links = self.links.split_off(at);
        self.bytes.truncate(from);
        self.bytes.shrink_to_fit();
        right
    }

    /// Appends the entries of the page that follows this one.
    pub(super) fn absorb(&mut self, right: Self) {
        let shift = u16_of(self.bytes.len() - PAGE_HEADER);
        self.bytes.extend_from_slice(&right.bytes[PAGE_HEADER..]);
        self.starts.extend(right.starts.iter().map(|start| start + shift));
        self.links.extend(right.links);
    }

    fn start(&self, at: usize) -> usize {
        usize::from(self.starts[at])
    }

    fn key_from(&self, start: usize) -> &[u8] {
        let from = start + ENTRY_HEADER;
        &self.bytes[from..from + usize::from(self.u16_from(start))]
    }

    fn u16_from(&self, at: usize) -> u16 {
        u16::from_le_bytes([self.bytes[at], self.bytes[at + 1]])
    }

    fn start_or_end(&self, at: usize) -> usize {
        self.starts.get(at).map_or(self.bytes.len(), |&start| usize::from(start))
    }

    fn payload_range(&self, at: usize) -> Range<usize> {
        let start = self.start(at);
        let from = start + ENTRY_HEADER + usize::from(self.u16_from(start));
        from..from + payload_len(self.u16_from(start + 2))
    }

    /// Makes `range` of the bytes `len` long; the entries from `next` on follow it.
    fn resize(&mut self, range: Range<usize>, len: usize, next: usize) {
        let (old, end) = (range.len(), self.bytes.len());
        if len > old {
            self.bytes.resize(end + len - old, 0);
            self.bytes.copy_within(range.end..end, range.start + len);
            let shift = u16_of(len - old);
            self.starts[next..].iter_mut().for_each(|start| *start += shift);
        } else if len < old {
            self.bytes.drain(range.start + len..range.end);
            let shift = u16_of(old - len);
            self.starts[next..].iter_mut().for_each(|start| *start -= shift);
        }
    }
}

fn payload_len(tag: u16) -> usize {
    if tag == TAG_REFERENCE { REFERENCE } else { usize::from(tag) }
}

fn u16_of(len: usize) -> u16 {
    u16::try_from(len).expect("pages and what is in them are short")
}

/// An entry of a page that came from elsewhere.
#[derive(Clone, Copy, Debug)]
pub(super) struct RawEntry<'a> {
    pub(super) start: usize,
    pub(super) key: &'a [u8],
    pub(super) payload: Payload<'a>,
}

/// Reads the next entry from `rest`, the bytes of a page from `start` on; `None` if malformed.
pub(super) fn read_entry(rest: &[u8], start: usize) -> Option<(RawEntry<'_>, &[u8])> {
    let (key_len, rest) = rest.split_first_chunk::<2>()?;
    let (tag, rest) = rest.split_first_chunk::<2>()?;
    let tag = u16::from_le_bytes(*tag);
    let (key, rest) = rest.split_at_checked(usize::from(u16::from_le_bytes(*key_len)))?;
    let (payload, rest) = rest.split_at_checked(payload_len(tag))?;
    let payload = match tag {
        TAG_REFERENCE => Payload::Reference(Reference::decode(payload)?),
        _ => Payload::Inline(payload),
    };
    Some((RawEntry { start, key, payload }, rest))
}
