//! Files that the kernel refers to, by the server's handles.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use fuser::{Errno, INodeNo};
use nfs3_client::nfs3_types::nfs3::nfs_fh3;

use crate::serving::References;

/// A file that the kernel knows.
#[derive(Debug)]
pub(super) struct Node {
    handle: nfs_fh3,
    /// Something was written that the server may not have on its disk.
    uncommitted: AtomicBool,
}

impl Node {
    fn new(handle: nfs_fh3) -> Self {
        Self { handle, uncommitted: AtomicBool::new(false) }
    }

    /// The server's name of it.
    pub(super) fn handle(&self) -> nfs_fh3 {
        self.handle.clone()
    }

    /// Notes a write that was not synchronous.
    pub(super) fn written(&self) {
        self.uncommitted.store(true, Ordering::Relaxed);
    }

    /// Whether a COMMIT is due; the caller sends it.
    pub(super) fn take_uncommitted(&self) -> bool {
        self.uncommitted.swap(false, Ordering::Relaxed)
    }
}

/// All of them.
#[derive(Debug)]
pub(super) struct Nodes {
    root: Arc<Node>,
    known: References<Node>,
}

impl Nodes {
    /// Begins with the export's root only.
    pub(super) fn new(root: nfs_fh3) -> Self {
        Self { root: Arc::new(Node::new(root)), known: References::default() }
    }

    /// The file that the kernel means.
    pub(super) fn node(&self, ino: INodeNo) -> Result<Arc<Node>, Errno> {
        if ino == INodeNo::ROOT {
            return Ok(Arc::clone(&self.root));
        }
        self.known.get(ino).ok_or(Errno::ESTALE)
    }

    /// Counts one more reference to a file that was looked up or made.
    pub(super) fn refer(&self, ino: INodeNo, handle: nfs_fh3) {
        // The number of a removed file may name a new one before the kernel forgets the old.
        if ino != INodeNo::ROOT {
            self.known.refer(ino, Node::new(handle), |known, found| known.handle == found.handle);
        }
    }

    /// Forgets `count` references, and the file with the last.
    pub(super) fn forget(&self, ino: INodeNo, count: u64) {
        self.known.forget(ino, count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handle(byte: u8) -> nfs_fh3 {
        nfs_fh3 { data: vec![byte].into() }
    }

    #[test]
    fn a_file_is_known_until_the_last_reference_is_forgotten() {
        let nodes = Nodes::new(handle(0));
        nodes.refer(INodeNo(5), handle(1));
        nodes.refer(INodeNo(5), handle(1));
        nodes.node(INodeNo(5)).expect("it is known").written();
        nodes.forget(INodeNo(5), 1);
        assert!(nodes.node(INodeNo(5)).expect("one is left").take_uncommitted());
        nodes.forget(INodeNo(5), 1);
        assert!(nodes.node(INodeNo(5)).is_err());
        assert_eq!(nodes.node(INodeNo::ROOT).expect("always").handle(), handle(0));
    }

    #[test]
    fn a_number_that_is_used_anew_names_the_new_file() {
        let nodes = Nodes::new(handle(0));
        nodes.refer(INodeNo(5), handle(1));
        nodes.node(INodeNo(5)).expect("it is known").written();
        nodes.refer(INodeNo(5), handle(2));
        let node = nodes.node(INodeNo(5)).expect("it is known");
        assert_eq!(node.handle(), handle(2));
        assert!(!node.take_uncommitted(), "what was written belongs to the old file");
    }
}
