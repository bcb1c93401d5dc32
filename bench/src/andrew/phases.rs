//! The five phases of the modified Andrew benchmark (Howard et al. 1988; Castro and Liskov,
//! OSDI '99, section 7.3), each over one copy of the source tree.
//!
//! Every phase checks what the file system gives back, so that a broken one cannot look fast.

use std::collections::BTreeSet;
use std::fs::{self, DirEntry, File, Metadata, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

use super::make;
use super::tree::{Source, Tree};
use crate::interrupt;

/// How much one read(2) or write(2) moves: what cp(1) uses.
const CHUNK_BYTES: usize = 128 << 10;

/// One phase of the benchmark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Make the tree's directories.
    Mkdir,
    /// Copy every file.
    Copy,
    /// Get the attributes of every file, without its contents.
    Stat,
    /// Read every byte of every file.
    Read,
    /// Compile and link.
    Make,
}

impl Phase {
    /// All phases in their order.
    pub(crate) const ALL: [Self; 5] = [Self::Mkdir, Self::Copy, Self::Stat, Self::Read, Self::Make];

    /// The phase's name in tables and JSON.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Mkdir => "mkdir",
            Self::Copy => "copy",
            Self::Stat => "stat",
            Self::Read => "read",
            Self::Make => "make",
        }
    }

    /// Runs the phase in `root`, the place of one copy of `tree`.
    ///
    /// # Errors
    /// If an operation fails, the file system gives back something else than was put there, or
    /// the person asked to stop.
    pub(crate) fn run(self, tree: &Tree, root: &Path) -> Result<()> {
        match self {
            Self::Mkdir => make_dirs(tree, root),
            Self::Copy => copy_files(tree, root),
            Self::Stat => stat_files(tree, root),
            Self::Read => read_files(tree, root),
            Self::Make => make::build(tree, root),
        }
        .with_context(|| format!("phase {} in {}", self.name(), root.display()))
    }
}

fn make_dirs(tree: &Tree, root: &Path) -> Result<()> {
    create_dir(root)?;
    for dir in &tree.dirs {
        interrupt::check()?;
        create_dir(&root.join(dir))?;
    }
    Ok(())
}

fn create_dir(dir: &Path) -> Result<()> {
    fs::create_dir(dir).with_context(|| format!("cannot make the directory {}", dir.display()))
}

fn copy_files(tree: &Tree, root: &Path) -> Result<()> {
    for (path, source) in &tree.files {
        interrupt::check()?;
        let path = root.join(path);
        write_file(&path, source).with_context(|| format!("cannot copy to {}", path.display()))?;
    }
    Ok(())
}

fn write_file(path: &Path, source: &Source) -> Result<()> {
    let mode = if source.executable { 0o755 } else { 0o644 };
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    for chunk in source.bytes.chunks(CHUNK_BYTES) {
        file.write_all(chunk)?;
    }
    Ok(())
}

fn stat_files(tree: &Tree, root: &Path) -> Result<()> {
    let found = walk(root, &mut |path, entry| check_size(tree, path, &entry.metadata()?))?;
    check_complete(tree, &found)
}

fn check_size(tree: &Tree, path: &Path, metadata: &Metadata) -> Result<()> {
    if metadata.is_dir() {
        return Ok(());
    }
    let source = expected(tree, path)?;
    let (wanted, found) = (source.bytes.len() as u64, metadata.len());
    ensure!(found == wanted, "{} has {found} bytes, not {wanted}", path.display());
    Ok(())
}

fn read_files(tree: &Tree, root: &Path) -> Result<()> {
    let mut buffer = vec![0; CHUNK_BYTES];
    let found = walk(root, &mut |path, entry| {
        if entry.file_type()?.is_dir() {
            return Ok(());
        }
        compare_file(&entry.path(), &expected(tree, path)?.bytes, &mut buffer)
    })?;
    check_complete(tree, &found)
}

/// Reads the file at `path` to its end and compares it with `wanted`.
fn compare_file(path: &Path, wanted: &[u8], buffer: &mut [u8]) -> Result<()> {
    let mut file = File::open(path)?;
    let mut rest = wanted;
    loop {
        let count = file.read(buffer)?;
        if count == 0 {
            break;
        }
        let offset = wanted.len() - rest.len();
        rest = rest
            .strip_prefix(&buffer[..count])
            .with_context(|| format!("{} differs after byte {offset}", path.display()))?;
    }
    ensure!(rest.is_empty(), "{} lacks its last {} bytes", path.display(), rest.len());
    Ok(())
}

fn expected<'a>(tree: &'a Tree, path: &Path) -> Result<&'a Source> {
    tree.files
        .get(path)
        .with_context(|| format!("{} is there, but nobody put it there", path.display()))
}

/// Fails if `found` lacks a file or directory of the tree.
fn check_complete(tree: &Tree, found: &BTreeSet<PathBuf>) -> Result<()> {
    match tree.dirs.iter().chain(tree.files.keys()).find(|path| !found.contains(*path)) {
        Some(lost) => Err(anyhow::anyhow!("{} is lost", lost.display())),
        None => Ok(()),
    }
}

/// Visits everything below `root` with its path relative to it, parents first, and tells all
/// these paths.
pub(super) fn walk(
    root: &Path,
    visit: &mut impl FnMut(&Path, &DirEntry) -> Result<()>,
) -> Result<BTreeSet<PathBuf>> {
    let mut found = BTreeSet::new();
    let mut pending = vec![PathBuf::new()];
    while let Some(dir) = pending.pop() {
        let full_dir = root.join(&dir);
        let entries = fs::read_dir(&full_dir)
            .with_context(|| format!("cannot list {}", full_dir.display()))?;
        for entry in entries {
            interrupt::check()?;
            let entry = entry.with_context(|| format!("cannot list {}", full_dir.display()))?;
            let path = dir.join(entry.file_name());
            visit(&path, &entry)
                .with_context(|| format!("cannot check {}", entry.path().display()))?;
            if entry.file_type()?.is_dir() {
                pending.push(path.clone());
            }
            ensure!(found.insert(path), "{} is listed twice", entry.path().display());
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tree on a plain directory after its first two phases.
    fn copied() -> (Tree, tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let root = dir.path().join("copy");
        let tree = Tree::lua();
        Phase::Mkdir.run(&tree, &root).expect("mkdir");
        Phase::Copy.run(&tree, &root).expect("copy");
        (tree, dir, root)
    }

    fn error(phase: Phase, tree: &Tree, root: &Path) -> String {
        format!("{:#}", phase.run(tree, root).expect_err("a broken target"))
    }

    #[test]
    fn a_faithful_target_passes() {
        let (tree, _dir, root) = copied();
        Phase::Stat.run(&tree, &root).expect("stat");
        Phase::Read.run(&tree, &root).expect("read");
    }

    #[test]
    fn a_flipped_bit_is_seen_by_read() {
        let (tree, _dir, root) = copied();
        let victim = root.join("core/vm/lvm.c");
        let mut bytes = fs::read(&victim).expect("read");
        bytes[5000] ^= 1;
        fs::write(&victim, bytes).expect("write");
        Phase::Stat.run(&tree, &root).expect("the size is right");
        assert!(error(Phase::Read, &tree, &root).contains("lvm.c differs"));
    }

    #[test]
    fn a_truncated_or_grown_file_is_seen_by_stat_and_read() {
        let (tree, _dir, root) = copied();
        let victim = OpenOptions::new().write(true).open(root.join("lib/base/linit.c"));
        let victim = victim.expect("open");
        let size = victim.metadata().expect("stat").len();
        for wrong in [size - 1, size + 1] {
            victim.set_len(wrong).expect("truncate");
            assert!(error(Phase::Stat, &tree, &root).contains("linit.c has"));
            assert!(error(Phase::Read, &tree, &root).contains("linit.c"));
        }
    }

    #[test]
    fn lost_and_strange_files_are_seen() {
        let (tree, _dir, root) = copied();
        fs::rename(root.join("core/gc/lgc.c"), root.join("core/gc/other.c")).expect("rename");
        assert!(error(Phase::Stat, &tree, &root).contains("other.c is there"));
        fs::remove_file(root.join("core/gc/other.c")).expect("unlink");
        assert!(error(Phase::Stat, &tree, &root).contains("core/gc/lgc.c is lost"));
        assert!(error(Phase::Read, &tree, &root).contains("core/gc/lgc.c is lost"));
    }
}
