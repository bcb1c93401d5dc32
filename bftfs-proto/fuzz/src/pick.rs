//! Choices made from a target's input bytes. When they are used up, every choice is the first.

use arbitrary::Unstructured;

/// The input of a structured target.
#[derive(Debug)]
pub struct Pick<'a>(Unstructured<'a>);

impl<'a> Pick<'a> {
    /// Chooses by these bytes.
    #[must_use]
    pub fn new(data: &'a [u8]) -> Self {
        Self(Unstructured::new(data))
    }

    /// Whether all bytes are used up: time to stop.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Any byte.
    pub fn byte(&mut self) -> u8 {
        self.0.arbitrary().unwrap_or_default()
    }

    /// One of two.
    pub fn flip(&mut self) -> bool {
        self.byte() & 1 == 1
    }

    /// One time in `of`.
    pub fn rarely(&mut self, of: u8) -> bool {
        self.byte() % of == of - 1
    }

    /// A number below `end`, which is at least 1.
    pub fn below(&mut self, end: u64) -> u64 {
        match end {
            0..=256 => u64::from(self.byte()) % end.max(1),
            _ => self.word() % end,
        }
    }

    /// As [`Self::below`], for places in slices.
    pub fn index(&mut self, len: usize) -> usize {
        usize::try_from(self.below(len as u64)).unwrap_or(0)
    }

    /// Any number of 64 bits.
    pub fn word(&mut self) -> u64 {
        self.0.arbitrary().unwrap_or_default()
    }

    /// One of these, `None` if there are none.
    pub fn one<'b, T>(&mut self, of: &'b [T]) -> Option<&'b T> {
        of.get(self.index(of.len()))
    }

    /// A number that is small as a rule, else near an end of its range, else anything.
    pub fn number(&mut self, usual: u64) -> u64 {
        match self.byte() {
            0..=223 => self.below(usual),
            224..=231 => u64::MAX,
            232..=239 => u64::MAX - self.below(2 * usual),
            240..=247 => 1 << self.below(64),
            248..=255 => self.word(),
        }
    }

    /// Up to `most` bytes.
    pub fn bytes(&mut self, most: usize) -> Vec<u8> {
        let len = self.index(most + 1).min(self.0.len());
        self.0.bytes(len).map(<[u8]>::to_vec).unwrap_or_default()
    }

    /// All bytes that are left.
    pub fn rest(&mut self) -> &'a [u8] {
        self.0.bytes(self.0.len()).unwrap_or_default()
    }
}
