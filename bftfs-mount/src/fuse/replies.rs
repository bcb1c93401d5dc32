//! From the answer to a call to the reply to the kernel.

use std::sync::Arc;
use std::time::Instant;

use bftfs_fs::Attributes;
use bytes::Bytes;
use fuser::{Errno, ReplyAttr, ReplyEmpty, ReplyEntry, ReplyXattr, Request};

use super::{Fuse, GENERATION, TTL, convert};
use crate::stats::Kind;
use crate::volume::{Cluster, Error, Process};

/// Who asks.
pub(super) fn process(request: &Request) -> Process {
    Process { pid: request.pid(), uid: request.uid(), gid: request.gid() }
}

impl<C: Cluster> Fuse<C> {
    /// What to do with an answer: count it, then `reply` with it.
    pub(super) fn then<T, R>(
        &self,
        request: &Request,
        kind: Kind,
        reply: R,
    ) -> impl FnOnce(Result<T, Error>) + Send + use<C, T, R>
    where
        T: 'static,
        R: FnOnce(Result<T, Errno>) + Send + 'static,
    {
        self.then_or(request, kind, reply, drop)
    }

    /// The same; what comes when the caller was killed and is gone is given to `unwanted`.
    pub(super) fn then_or<T, R, U>(
        &self,
        request: &Request,
        kind: Kind,
        reply: R,
        unwanted: U,
    ) -> impl FnOnce(Result<T, Error>) + Send + use<C, T, R, U>
    where
        T: 'static,
        R: FnOnce(Result<T, Errno>) + Send + 'static,
        U: FnOnce(T) + Send + 'static,
    {
        let (stats, start) = (Arc::clone(&self.stats), Instant::now());
        let then = move |result: Result<T, Error>| {
            // Before the reply: who waited for it finds it counted.
            stats.note(kind, start, result.is_err());
            reply(result.map_err(convert::errno));
        };
        self.volume.killable(process(request), then, unwanted)
    }

    pub(super) fn entry(
        &self,
        request: &Request,
        kind: Kind,
        reply: ReplyEntry,
    ) -> impl FnOnce(Result<Attributes, Error>) + Send + use<C> {
        self.then(request, kind, move |result| match result {
            Ok(attributes) => reply.entry(&TTL, &convert::attributes(&attributes), GENERATION),
            Err(errno) => reply.error(errno),
        })
    }

    pub(super) fn attr(
        &self,
        request: &Request,
        kind: Kind,
        reply: ReplyAttr,
    ) -> impl FnOnce(Result<Attributes, Error>) + Send + use<C> {
        self.then(request, kind, move |result| match result {
            Ok(attributes) => reply.attr(&TTL, &convert::attributes(&attributes)),
            Err(errno) => reply.error(errno),
        })
    }

    pub(super) fn empty(
        &self,
        request: &Request,
        kind: Kind,
        reply: ReplyEmpty,
    ) -> impl FnOnce(Result<(), Error>) + Send + use<C> {
        self.then(request, kind, move |result| match result {
            Ok(()) => reply.ok(),
            Err(errno) => reply.error(errno),
        })
    }

    pub(super) fn xattr(
        &self,
        request: &Request,
        kind: Kind,
        room: u32,
        reply: ReplyXattr,
    ) -> impl FnOnce(Result<Bytes, Error>) + Send + use<C> {
        self.then(request, kind, move |result: Result<Bytes, _>| match result {
            Ok(bytes) => convert::xattr(reply, room, &bytes),
            Err(errno) => reply.error(errno),
        })
    }
}
