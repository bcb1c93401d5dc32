//! Walking the trees on disk, page by page; values are not read.

use bftfs_state::{Children, Digest, block_children};

use super::blocks::Shared;

/// Calls `visit` with every block below `roots`, as often as it occurs; it says whether to go on
/// below a page. Returns the pages that could not be read: what is below them is not known.
pub(super) fn walk(
    shared: &Shared,
    roots: &[Digest],
    visit: &mut dyn FnMut(&Digest) -> bool,
) -> Vec<Digest> {
    let mut unreadable = Vec::new();
    let mut pages = roots.to_vec();
    while let Some(digest) = pages.pop() {
        if !visit(&digest) {
            continue;
        }
        let Some(bytes) = shared.read(&digest).ok().flatten() else {
            unreadable.push(digest);
            continue;
        };
        match block_children(&digest, &bytes) {
            Ok(Children::Values(values)) => values.iter().for_each(|value| {
                visit(value);
            }),
            Ok(Children::Pages(children)) => pages.extend(children),
            Err(_) => unreadable.push(digest),
        }
    }
    unreadable
}
