use std::fs;
use std::path::Path;

use tempfile::TempDir;

use super::*;
use crate::journal::{Entry, Keep};

const IDENTITY: Identity = Identity { cluster: Digest([7; 32]), replica: 2 };

fn options() -> Options {
    Options { segment_bytes: 64 << 10, ..Options::new(Durability::Sync) }
}

fn open_it(dir: &TempDir) -> Result<Opened, Error> {
    open(dir.path(), &IDENTITY, &options())
}

fn message(result: Result<Opened, Error>) -> String {
    result.expect_err("it must be refused").to_string()
}

/// A data directory of a replica of a new cluster.
fn new() -> TempDir {
    let dir = TempDir::new().unwrap();
    format(dir.path(), &IDENTITY, &options(), &[]).unwrap();
    dir
}

/// A data directory with one record.
fn used() -> TempDir {
    let dir = new();
    let mut opened = open_it(&dir).unwrap();
    opened.journal.append(&[Entry { keep: Keep::Until(1), bytes: vec![1] }]).unwrap();
    dir
}

fn patch(path: &Path, at: usize, byte: u8) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] = byte;
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_new_directory_is_empty_and_a_used_one_is_found_again() {
    let dir = new();
    let opened = open_it(&dir).unwrap();
    assert!(opened.records.is_empty() && opened.checkpoint.is_none());
    drop(opened);
    assert!(open_it(&dir).unwrap().records.is_empty());
    assert_eq!(open_it(&used()).unwrap().records, [vec![1]]);
}

#[test]
fn a_replica_does_not_begin_anew_by_itself() {
    let dir = TempDir::new().unwrap();
    let refused = message(open_it(&dir));
    assert!(refused.contains("no data of replica 2") && refused.contains("recover"), "{refused}");
    let dir = used();
    fs::remove_file(dir.path().join("identity")).unwrap();
    assert!(message(open_it(&dir)).contains("it must not begin anew"));
    let taken = format(used().path(), &IDENTITY, &options(), &[]).unwrap_err().to_string();
    assert!(taken.contains("already"), "{taken}");
}

#[test]
fn a_directory_can_be_made_with_a_record() {
    let dir = TempDir::new().unwrap();
    let record = Entry { keep: Keep::Latest(4), bytes: vec![9] };
    format(dir.path(), &IDENTITY, &options(), &[record]).unwrap();
    assert_eq!(open_it(&dir).unwrap().records, [vec![9]]);
}

#[test]
fn two_processes_cannot_share_it() {
    let dir = used();
    let first = open_it(&dir).unwrap();
    assert!(message(open_it(&dir)).contains("in use by another process"));
    drop(first);
    assert!(open_it(&dir).is_ok());
}

#[test]
fn that_of_another_replica_or_cluster_is_refused() {
    let dir = used();
    let other = Identity { replica: 1, ..IDENTITY };
    let refused = message(open(dir.path(), &other, &options()));
    assert!(refused.contains("belongs to replica 2") && refused.contains("not to replica 1"));
    let other = Identity { cluster: Digest([8; 32]), ..IDENTITY };
    assert!(message(open(dir.path(), &other, &options())).contains("cluster 0808"));
}

#[test]
fn other_formats_are_refused() {
    for file in ["identity", "journal/0000000000.segment", "store/superblock.0"] {
        let dir = used();
        patch(&dir.path().join(file), 8, 3);
        if file.starts_with("store") {
            patch(&dir.path().join("store/superblock.1"), 8, 3);
        }
        let refused = message(open_it(&dir));
        let known = if file.starts_with("journal") { 1 } else { 2 };
        let said = format!("has format 3, this program knows format {known}");
        assert!(refused.contains(&said), "{refused}");
    }
}

#[test]
fn whatever_is_lost_is_missed() {
    for lost in ["identity", "journal", "store"] {
        let dir = used();
        let path = dir.path().join(lost);
        if path.is_dir() {
            fs::remove_dir_all(&path).unwrap();
        } else {
            fs::remove_file(&path).unwrap();
        }
        assert!(open_it(&dir).is_err(), "{lost}");
        // Nor does an empty directory in its place look new.
        if lost != "identity" {
            fs::create_dir(&path).unwrap();
            assert!(open_it(&dir).is_err(), "{lost}");
        }
    }
}

#[test]
fn a_damaged_identity_is_refused() {
    let dir = used();
    patch(&dir.path().join("identity"), 80, 0xff);
    assert!(message(open_it(&dir)).contains("damaged"));
}

#[test]
fn files_of_another_directory_are_refused() {
    let (dir, other) = (used(), used());
    for file in ["journal/0000000000.segment", "store/superblock.0"] {
        fs::copy(other.path().join(file), dir.path().join(file)).unwrap();
    }
    assert!(message(open_it(&dir)).contains("comes from another data directory"));
}

#[test]
fn a_directory_that_was_half_made_is_made_anew() {
    let dir = new();
    fs::remove_file(dir.path().join("identity")).unwrap();
    fs::write(dir.path().join("identity.new"), [1, 2, 3]).unwrap();
    fs::write(dir.path().join("journal/0000000009.new"), [1, 2, 3]).unwrap();
    format(dir.path(), &IDENTITY, &options(), &[]).unwrap();
    assert!(open_it(&dir).unwrap().records.is_empty());
}

#[test]
fn a_path_that_cannot_be_a_directory_is_named() {
    let refused = message(open(Path::new("/dev/null/data"), &IDENTITY, &options()));
    assert!(refused.contains("/dev/null/data"), "{refused}");
}
