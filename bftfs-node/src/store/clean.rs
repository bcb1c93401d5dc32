//! Cleaning: moving what is needed out of packs that are mostly dead, a little at a time.

use std::io;
use std::sync::Arc;

use super::blocks::Shared;
use super::disk::DiskFile;
use super::pack;

/// Moves blocks until so many bytes were moved or the packs are dense enough. Returns the packs
/// that nothing needs any more; they are out of the index, and on the disk.
pub(super) fn clean(shared: &Shared, mut budget: u64) -> io::Result<Vec<u32>> {
    let mut emptied = drop_empty(shared);
    for (id, file, len) in sparse(shared) {
        let (total, live) = shared.index().bytes();
        if budget == 0 || total <= 2 * live + shared.options.dead_bytes {
            break;
        }
        let moved = empty(shared, id, &file, len, budget)?;
        budget = budget.saturating_sub(moved);
        emptied.extend(drop_empty(shared));
    }
    Ok(emptied)
}

/// The packs of which less than half is needed, the emptiest first.
fn sparse(shared: &Shared) -> Vec<(u32, Arc<DiskFile>, u64)> {
    let index = shared.index();
    let full = index.packs.iter().filter(|(_, pack)| pack.full && 2 * pack.live < pack.len);
    let mut sparse: Vec<_> =
        full.map(|(id, pack)| (pack.live, *id, pack.file.clone(), pack.len)).collect();
    drop(index);
    sparse.sort_by_key(|(live, id, ..)| (*live, *id));
    sparse.into_iter().map(|(_, id, file, len)| (id, file, len)).collect()
}

/// Appends what is needed of a pack to the current one; returns the bytes moved. What is damaged
/// stays, and its pack with it, until it is mended.
fn empty(shared: &Shared, id: u32, file: &DiskFile, len: u64, budget: u64) -> io::Result<u64> {
    let (scan, _) = pack::blocks(&shared.disk, file, id, len, &shared.seal);
    let mut moved = 0;
    let mut appender = shared.appender();
    for block in scan.blocks {
        if moved >= budget {
            break;
        }
        if !shared.index().is_at(&block.digest, id, block.at) {
            continue;
        }
        match pack::read_block(file, block.at, block.len, &block.digest) {
            Ok(bytes) => {
                appender.append(shared, &block.digest, &bytes)?;
                moved += pack::size(block.len);
            }
            Err(error) => shared.note_damage(block.digest, &error.to_string()),
        }
    }
    appender.flush(shared)?;
    shared.index().moved += moved;
    Ok(moved)
}

/// Takes the packs that nothing needs out of the index.
fn drop_empty(shared: &Shared) -> Vec<u32> {
    let mut index = shared.index();
    let empty = |(_, pack): &(&u32, &super::index::Pack)| pack.full && pack.live == 0;
    let ids: Vec<u32> = index.packs.iter().filter(empty).map(|(id, _)| *id).collect();
    for id in &ids {
        index.packs.remove(id);
    }
    ids
}
