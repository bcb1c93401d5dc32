//! Calls about extended attributes.

use bftfs_fs::{Ino, Operation, XattrMode};
use bftfs_proto::client::How;
use bytes::Bytes;

use super::{Cluster, Process, Then, Volume};

impl<C: Cluster> Volume<C> {
    /// Gives an extended attribute a value.
    pub fn setxattr(
        &self,
        process: Process,
        ino: u64,
        name: &[u8],
        value: &[u8],
        mode: XattrMode,
        then: impl Then<()>,
    ) {
        let (name, value) = (Bytes::copy_from_slice(name), Bytes::copy_from_slice(value));
        let operation = Operation::Setxattr { ino: Ino(ino), name, value, mode };
        self.ask(process, operation, How::Ordered, then);
    }

    /// The value of an extended attribute.
    pub fn getxattr(&self, process: Process, ino: u64, name: &[u8], then: impl Then<Bytes>) {
        let name = Bytes::copy_from_slice(name);
        self.ask(process, Operation::Getxattr { ino: Ino(ino), name }, How::Read, then);
    }

    /// The names of all extended attributes, each with a NUL behind it.
    pub fn listxattr(&self, process: Process, ino: u64, then: impl Then<Bytes>) {
        self.ask(process, Operation::Listxattr { ino: Ino(ino) }, How::Read, then);
    }

    /// Removes an extended attribute.
    pub fn removexattr(&self, process: Process, ino: u64, name: &[u8], then: impl Then<()>) {
        let name = Bytes::copy_from_slice(name);
        self.ask(process, Operation::Removexattr { ino: Ino(ino), name }, How::Ordered, then);
    }
}
