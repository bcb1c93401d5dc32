//! The journal, when its disk did not keep what was written.

use bftfs_node::journal::{Entry, Journal, Keep};

use crate::disk::{Disk, PAGE};
use crate::pick::Pick;

/// What was written to a journal.
#[derive(Default)]
struct Written {
    /// The records that count until the journal is truncated at their number, which is their
    /// place here and one.
    numbered: Vec<Vec<u8>>,
    /// The last of each kind of those that stay.
    latest: [Option<Vec<u8>>; 3],
    truncated: usize,
}

/// Records, restarts, then damage. What is read is what was written, from the oldest that counts
/// on, without a gap: only from the end may something be missing, as after a torn write.
pub fn run(data: &[u8]) {
    let (disk, mut pick) = (Disk::new(), Pick::new(data));
    if pick.rarely(16) {
        disk.forge_identity(pick.rest());
        let _ = disk.open();
        return;
    }
    let mut written = Written::default();
    let (mut journal, records) = open(&disk).expect("a new journal opens");
    written.check(&records, true);
    for _ in 0..pick.below(32) {
        match pick.byte() % 16 {
            0..=11 => written.append(&mut journal, &mut pick),
            12..=14 => written.truncate(&mut journal, &mut pick),
            _ => {
                drop(journal);
                let (again, records) = open(&disk).expect("what is whole opens");
                written.check(&records, true);
                journal = again;
            }
        }
    }
    drop(journal);
    let mut intact = true;
    while !pick.is_empty() {
        disk.damage(if pick.rarely(32) { "." } else { "journal" }, &mut pick);
        intact = false;
    }
    let Some((journal, records)) = open(&disk) else {
        assert!(!intact, "what is whole opens");
        return;
    };
    written.check(&records, intact);
    go_on(&disk, journal);
}

fn open(disk: &Disk) -> Option<(Journal, Vec<Vec<u8>>)> {
    disk.open().map(|opened| (opened.journal, opened.records)).ok()
}

/// A journal that opened keeps what is written to it from now on.
fn go_on(disk: &Disk, mut journal: Journal) {
    let bytes = b"\xffone more".to_vec();
    let entry = Entry { keep: Keep::Until(u64::MAX), bytes: bytes.clone() };
    if journal.append(&[entry]).is_err() {
        return;
    }
    drop(journal);
    let (_, records) = open(disk).expect("what was accepted and written opens");
    assert_eq!(records.last(), Some(&bytes), "what was written last is read last");
}

impl Written {
    fn append(&mut self, journal: &mut Journal, pick: &mut Pick<'_>) {
        let entries: Vec<Entry> = (0..1 + pick.below(4)).map(|_| self.entry(pick)).collect();
        journal.append(&entries).expect("the journal has room");
    }

    /// A record unlike any other.
    fn entry(&mut self, pick: &mut Pick<'_>) -> Entry {
        let most = if pick.rarely(4) { PAGE } else { 64 };
        let len = pick.index(most);
        if pick.rarely(4) {
            let kind = pick.byte() % 3;
            let mut bytes = vec![kind; 3 + len / 8];
            bytes[0] = 1;
            self.latest[usize::from(kind)] = Some(bytes.clone());
            return Entry { keep: Keep::Latest(kind), bytes };
        }
        let number = self.numbered.len() as u64 + 1;
        let mut bytes = [&[0], &number.to_le_bytes()[..]].concat();
        bytes.resize(9 + len, pick.byte());
        self.numbered.push(bytes.clone());
        Entry { keep: Keep::Until(number), bytes }
    }

    fn truncate(&mut self, journal: &mut Journal, pick: &mut Pick<'_>) {
        let upto = pick.index(self.numbered.len() + 1);
        self.truncated = self.truncated.max(upto);
        journal.truncate(upto as u64);
    }

    fn check(&self, records: &[Vec<u8>], whole: bool) {
        let of = |form: u8| records.iter().filter(move |record| record.first() == Some(&form));
        let numbered: Vec<&Vec<u8>> = of(0).collect();
        let first = numbered.first().map(|record| number(record) - 1);
        let from = first.unwrap_or(self.numbered.len());
        let to = from + numbered.len();
        assert!(self.numbered.get(from..to).is_some_and(|w| w.iter().eq(numbered)), "no gap");
        assert!(from <= self.truncated || (first.is_none() && !whole), "all that counts");
        assert!(to == self.numbered.len() || !whole, "up to the end");
        for (kind, last) in (0..).zip(&self.latest) {
            let found = of(1).rfind(|record| record[1] == kind);
            assert!(found == last.as_ref() || !whole, "the last of each kind");
        }
    }
}

fn number(record: &[u8]) -> usize {
    let number = record.get(1..).and_then(<[u8]>::first_chunk);
    usize::try_from(u64::from_le_bytes(*number.expect("it was written here"))).unwrap_or(0)
}
