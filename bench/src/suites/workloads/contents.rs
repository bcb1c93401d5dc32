//! What work leaves behind, in a form that can be compared.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use anyhow::{Context as _, Result, bail};

/// Times before this second were set by the work; no clock says them any more.
const SET_BEFORE: i64 = 1_000_000_000;
/// Differences that are told.
const TOLD: usize = 12;

/// All that is below `root`, a line each: kind and mode, owner, size, links, time, contents.
///
/// # Errors
/// If something cannot be read.
pub(super) fn describe(root: &Path) -> Result<String> {
    let mut lines = BTreeMap::new();
    let mut open = vec![root.to_owned()];
    while let Some(dir) = open.pop() {
        let entries = fs::read_dir(&dir).with_context(|| format!("{}", dir.display()))?;
        for entry in entries {
            let path = entry?.path();
            let line = line(&path).with_context(|| format!("{}", path.display()))?;
            if path.symlink_metadata()?.is_dir() {
                open.push(path.clone());
            }
            lines.insert(path.strip_prefix(root)?.to_owned(), line);
        }
    }
    Ok(lines.iter().map(|(path, line)| format!("{}: {line}\n", path.display())).collect())
}

fn line(path: &Path) -> io::Result<String> {
    let stat = path.symlink_metadata()?;
    let mut text = format!("{:o} {}:{}", stat.mode(), stat.uid(), stat.gid());
    if !stat.is_dir() {
        // Links and sizes of directories are each file system's own affair.
        let _ = write!(text, " {} links, {} bytes", stat.nlink(), stat.size());
        if stat.mtime() < SET_BEFORE {
            let _ = write!(text, ", modified {}.{:09}", stat.mtime(), stat.mtime_nsec());
        }
    }
    if stat.is_symlink() {
        let _ = write!(text, ", to {}", fs::read_link(path)?.display());
    } else if stat.is_file() {
        let hash = blake3::hash(&fs::read(path)?);
        let _ = write!(text, ", {}", &hash.to_hex()[..16]);
    }
    Ok(text)
}

/// Compares two texts line by line.
///
/// # Errors
/// The lines in which they differ.
pub(super) fn ensure_same(what: &str, local: &str, mounted: &str) -> Result<()> {
    if local == mounted {
        return Ok(());
    }
    let mut text = String::new();
    let [mut ours, mut theirs] = [local, mounted].map(str::lines);
    let mut differences = 0;
    loop {
        let (a, b) = (ours.next(), theirs.next());
        if a.is_none() && b.is_none() {
            break;
        }
        if a != b {
            differences += 1;
            if differences <= TOLD {
                let [a, b] = [a, b].map(|line| line.unwrap_or("(nothing)"));
                let _ = write!(text, "\n    local:   {a}\n    mounted: {b}");
            }
        }
    }
    bail!("{what} differs in {differences} lines:{text}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_is_told() {
        ensure_same("it", "a\nb\n", "a\nb\n").expect("it is the same");
        let error = ensure_same("it", "a\nb\n", "a\nc\nd\n").expect_err("it differs").to_string();
        assert!(error.starts_with("it differs in 2 lines:"), "{error}");
        assert!(error.contains("local:   b\n    mounted: c"), "{error}");
        assert!(error.contains("local:   (nothing)\n    mounted: d"), "{error}");
    }

    #[test]
    fn contents_names_and_kinds_are_described() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("file");
        fs::write(&file, "text").expect("a file");
        std::os::unix::fs::symlink("file", dir.path().join("link")).expect("a link");
        let before = describe(dir.path()).expect("it can be read");
        assert_eq!(before.lines().count(), 2, "{before}");
        assert!(before.contains("link: 120777") && before.contains(", to file"), "{before}");
        fs::write(&file, "next").expect("another");
        assert_ne!(describe(dir.path()).expect("it can be read"), before);
    }
}
