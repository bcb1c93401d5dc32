//! A file system to try things on, and short ways to say what to try.

use bftfs_fs::{
    Attributes, Call, Credentials, Entry, Errno, FileSystem, FileType, Ino, Operation, Outcome,
    RenameMode, Reply, SetAttributes, Statistics, Time, Touch, XattrMode, check, decode_outcome,
};
use bftfs_proto::Tree;
use bftfs_proto::service::{Context, Nudge, Service};
use bftfs_proto::types::{ClientId, SessionId, Wall};
use bytes::Bytes;

/// One replica's file system. Its state is checked after every operation.
pub(crate) struct Host {
    pub(crate) service: FileSystem,
    pub(crate) tree: Tree,
    pub(crate) client: ClientId,
    pub(crate) session: SessionId,
    /// Nanoseconds; the next operation has one more.
    pub(crate) time: u64,
    /// Whether every operation is followed by a check of the whole state.
    pub(crate) checked: bool,
    /// Whom the last operation nudged.
    pub(crate) nudges: Vec<Nudge>,
}

impl Host {
    /// A big file system that everybody may write to.
    pub(crate) fn new() -> Self {
        Self::with(FileSystem { root_mode: 0o777, ..FileSystem::new(1 << 40, 1 << 20) })
    }

    pub(crate) fn with(service: FileSystem) -> Self {
        let mut tree = Tree::new();
        service.genesis(&mut tree);
        let time = 1_700_000_000_000_000_000;
        let (client, session) = (ClientId(1), SessionId(1));
        Self { service, tree, client, session, time, checked: true, nudges: Vec::new() }
    }

    fn context(&self) -> Context {
        Context { client: self.client, session: self.session, time: Wall(self.time) }
    }

    /// Orders the bytes of a call.
    pub(crate) fn execute(&mut self, call: &Bytes) -> Bytes {
        self.time += 1;
        let context = self.context();
        self.nudges.clear();
        let outcome = self.service.execute(&mut self.tree, &context, call, &mut self.nudges);
        self.check();
        outcome
    }

    pub(crate) fn query(&self, call: &Bytes) -> Option<Bytes> {
        self.service.query(&self.tree, &self.context(), call)
    }

    /// Orders a call. One that only looks gives the same unordered and changes nothing.
    pub(crate) fn call(&mut self, who: &Credentials, operation: Operation) -> Outcome {
        let read_only = operation.is_read_only();
        let relative = operation.touch() == Touch::Relative;
        let call = Call { credentials: who.clone(), operation }.encode();
        let (before, query) = (self.tree.seal().root, self.query(&call));
        let bytes = self.execute(&call);
        assert!(query.is_some() == read_only || relative);
        if let Some(query) = query {
            assert_eq!(query, bytes);
            assert_eq!(self.tree.seal().root, before);
        }
        decode_outcome(&bytes).expect("outcomes are well-formed")
    }

    /// The same as the superuser and nothing but ordered: for operations by the thousand.
    pub(crate) fn order(&mut self, operation: Operation) -> Outcome {
        let call = Call { credentials: root(), operation }.encode();
        decode_outcome(&self.execute(&call)).expect("outcomes are well-formed")
    }

    pub(crate) fn close(&mut self, session: SessionId) {
        self.time += 1;
        self.nudges.clear();
        let time = Wall(self.time);
        self.service.session_closed(&mut self.tree, session, time, &mut self.nudges);
        self.check();
    }

    pub(crate) fn begin_anew(&mut self) {
        self.service.begin_anew(&mut self.tree, Wall(self.time));
        self.check();
    }

    fn check(&self) {
        if self.checked {
            assert_eq!(check(&self.tree), []);
        }
    }

    /// The time of the last operation.
    pub(crate) fn now(&self) -> Time {
        Wall(self.time).into()
    }

    /// As the superuser, and it must succeed with attributes.
    pub(crate) fn make(&mut self, operation: Operation) -> Attributes {
        attributes(self.call(&root(), operation))
    }

    /// As the superuser.
    pub(crate) fn root(&mut self, operation: Operation) -> Outcome {
        self.call(&root(), operation)
    }

    pub(crate) fn getattr(&mut self, ino: Ino) -> Attributes {
        self.make(Operation::Getattr { ino })
    }

    pub(crate) fn read(&mut self, ino: Ino, offset: u64, length: u32) -> Bytes {
        match self.root(Operation::Read { ino, offset, length, touch: Touch::Never }) {
            Ok(Reply::Data(data)) => data,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn statistics(&mut self) -> Statistics {
        match self.root(Operation::Statfs) {
            Ok(Reply::Statistics(statistics)) => statistics,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn list(&mut self, ino: Ino, cookie: u64) -> Vec<Entry> {
        match self.root(readdir(ino, cookie, 1 << 20)) {
            Ok(Reply::Entries { entries, end: true }) => entries,
            other => panic!("{other:?}"),
        }
    }

    /// The names in a directory, in order of their cookies.
    pub(crate) fn names(&mut self, ino: Ino) -> Vec<Bytes> {
        self.list(ino, 2).into_iter().map(|entry| entry.name).collect()
    }
}

pub(crate) fn attributes(outcome: Outcome) -> Attributes {
    match outcome {
        Ok(Reply::Attributes(attributes) | Reply::Written { attributes, .. }) => attributes,
        other => panic!("{other:?}"),
    }
}

pub(crate) fn errno(outcome: Outcome) -> Errno {
    outcome.expect_err("refused")
}

pub(crate) fn kept(outcome: Outcome) -> Option<Ino> {
    match outcome {
        Ok(Reply::Removed { kept }) => kept,
        other => panic!("{other:?}"),
    }
}

pub(crate) fn root() -> Credentials {
    Credentials::default()
}

pub(crate) fn user(uid: u32, gid: u32, groups: &[u32]) -> Credentials {
    Credentials { uid, gid, groups: groups.into() }
}

pub(crate) fn name(name: &str) -> Bytes {
    Bytes::copy_from_slice(name.as_bytes())
}

pub(crate) fn lookup(parent: Ino, at: &str) -> Operation {
    Operation::Lookup { parent, name: name(at) }
}

pub(crate) fn create(parent: Ino, at: &str, mode: u32) -> Operation {
    let name = name(at);
    Operation::Create { parent, name, mode, exclusive: false, mask: 6, truncate: false }
}

pub(crate) fn mkdir(parent: Ino, at: &str, mode: u32) -> Operation {
    Operation::Mkdir { parent, name: name(at), mode }
}

pub(crate) fn mknod(parent: Ino, at: &str, kind: FileType) -> Operation {
    Operation::Mknod { parent, name: name(at), kind, mode: 0o644, rdev: 0x0102 }
}

pub(crate) fn symlink(parent: Ino, at: &str, target: &str) -> Operation {
    Operation::Symlink { parent, name: name(at), target: name(target) }
}

pub(crate) fn link(ino: Ino, parent: Ino, at: &str) -> Operation {
    Operation::Link { ino, parent, name: name(at) }
}

pub(crate) fn unlink(parent: Ino, at: &str) -> Operation {
    Operation::Unlink { parent, name: name(at), keep: false }
}

pub(crate) fn unlink_kept(parent: Ino, at: &str) -> Operation {
    Operation::Unlink { parent, name: name(at), keep: true }
}

pub(crate) fn rmdir(parent: Ino, at: &str) -> Operation {
    Operation::Rmdir { parent, name: name(at), keep: false }
}

pub(crate) fn rename(from: (Ino, &str), to: (Ino, &str), mode: RenameMode) -> Operation {
    Operation::Rename {
        parent: from.0,
        name: name(from.1),
        new_parent: to.0,
        new_name: name(to.1),
        mode,
        keep: false,
    }
}

pub(crate) fn write(ino: Ino, offset: u64, data: impl Into<Bytes>) -> Operation {
    Operation::Write { ino, offset, append: false, data: data.into() }
}

pub(crate) fn readdir(ino: Ino, cookie: u64, bytes_max: u32) -> Operation {
    Operation::Readdir { ino, cookie, bytes_max, plus: true, touch: Touch::Never }
}

pub(crate) fn setattr(ino: Ino, set: SetAttributes) -> Operation {
    Operation::Setattr { ino, set, open: false }
}

pub(crate) fn chmod(ino: Ino, mode: u32) -> Operation {
    setattr(ino, SetAttributes { mode: Some(mode), ..SetAttributes::default() })
}

pub(crate) fn chown(ino: Ino, uid: Option<u32>, gid: Option<u32>) -> Operation {
    setattr(ino, SetAttributes { uid, gid, ..SetAttributes::default() })
}

pub(crate) fn truncate(ino: Ino, size: u64) -> Operation {
    setattr(ino, SetAttributes { size: Some(size), ..SetAttributes::default() })
}

pub(crate) fn setxattr(ino: Ino, at: &str, value: impl Into<Bytes>) -> Operation {
    Operation::Setxattr { ino, name: name(at), value: value.into(), mode: XattrMode::Set }
}

pub(crate) fn getxattr(ino: Ino, at: &str) -> Operation {
    Operation::Getxattr { ino, name: name(at) }
}

pub(crate) fn removexattr(ino: Ino, at: &str) -> Operation {
    Operation::Removexattr { ino, name: name(at) }
}

/// An ACL as Linux encodes it, of entries with tag, permissions and id.
pub(crate) fn acl_bytes(entries: &[(u16, u16, u32)]) -> Bytes {
    let entry = |(tag, permissions, id): &(u16, u16, u32)| {
        [&tag.to_le_bytes()[..], &permissions.to_le_bytes(), &id.to_le_bytes()].concat()
    };
    [vec![2, 0, 0, 0], entries.iter().flat_map(entry).collect()].concat().into()
}
