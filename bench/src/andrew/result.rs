//! What a run left in the target, to be compared between targets.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use serde::Serialize;

use super::phases::walk;
use super::tree::{Build, Tree};

/// The state of a copy of the tree after all phases.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct TreeResult {
    /// Files there, sources and products.
    pub files: usize,
    /// Directories there, without the root.
    pub dirs: usize,
    /// BLAKE3 over names and contents, in hex. Products count only where we chose the compiler's
    /// flags: a foreign Makefile may write dates into them.
    pub digest: String,
}

impl TreeResult {
    /// Reads back everything under `root`.
    ///
    /// # Errors
    /// If a source is not what was copied, or something cannot be read.
    pub(crate) fn read(tree: &Tree, root: &Path) -> Result<Self> {
        let mut files = BTreeSet::new();
        let found = walk(root, &mut |path, entry| {
            if !entry.file_type()?.is_dir() {
                files.insert(path.to_owned());
            }
            Ok(())
        })?;
        let mut hasher = blake3::Hasher::new();
        for path in &files {
            let full = root.join(path);
            let source = tree.files.get(path);
            if source.is_none() && tree.build == Build::Make {
                continue;
            }
            let bytes =
                fs::read(&full).with_context(|| format!("cannot read {}", full.display()))?;
            ensure!(
                source.is_none_or(|source| source.bytes == bytes),
                "{} is no longer the file that was copied",
                full.display()
            );
            hasher.update(&(path.as_os_str().len() as u64).to_le_bytes());
            hasher.update(path.as_os_str().as_encoded_bytes());
            hasher.update(&(bytes.len() as u64).to_le_bytes());
            hasher.update(&bytes);
        }
        if let Some(lost) = tree.files.keys().find(|path| !files.contains(*path)) {
            bail!("{} is lost", lost.display());
        }
        Ok(Self {
            files: files.len(),
            dirs: found.len() - files.len(),
            digest: hasher.finalize().to_hex().to_string(),
        })
    }
}
