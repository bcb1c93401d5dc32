//! Calls to the server, over connections that wait for their answers.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::pin::pin;
use std::sync::Mutex;
use std::task::{Context, Poll, Waker};

use anyhow::Context as _;
use fuser::Errno;
use nfs3_client::io::{AsyncRead, AsyncWrite};
use nfs3_client::net::Connector;
use nfs3_client::nfs3_types::nfs3::{Nfs3Result, nfs_fh3};
use nfs3_client::nfs3_types::rpc::{auth_unix, opaque_auth};
use nfs3_client::{Nfs3Client, Nfs3ConnectionBuilder, RpcError};

use super::convert;
use crate::serving::lock;

/// A connection on which every call waits: each is used by one thread at a time.
#[derive(Debug)]
pub(super) struct Wire(TcpStream);

impl AsyncRead for Wire {
    async fn async_read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self.0.read(buf)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            count => Ok(count),
        }
    }
}

impl AsyncWrite for Wire {
    async fn async_write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.write(buf)
    }
}

/// Opens connections.
struct Wires;

impl Connector for Wires {
    type Connection = Wire;

    async fn connect(&self, addr: SocketAddr) -> io::Result<Wire> {
        let stream = TcpStream::connect(addr)?;
        stream.set_nodelay(true)?;
        Ok(Wire(stream))
    }

    async fn connect_with_port(&self, addr: SocketAddr, _local_port: u16) -> io::Result<Wire> {
        self.connect(addr).await
    }
}

/// The result of a future that never waits, as all over [`Wire`] are.
pub(super) fn now<F: Future>(future: F) -> F::Output {
    let mut context = Context::from_waker(Waker::noop());
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
    }
}

/// The caller on whose behalf everything is done; the kernel has checked the real one.
fn root() -> opaque_auth<'static> {
    opaque_auth::auth_unix(&auth_unix::default())
}

/// Connections to one server: as many as there are calls at once.
#[derive(Debug)]
pub(super) struct Pool {
    server: SocketAddr,
    idle: Mutex<Vec<Nfs3Client<Wire>>>,
}

impl Pool {
    /// Asks for the export's root.
    ///
    /// # Errors
    /// If the server cannot be reached or has no such export.
    pub(super) fn connect(
        server: SocketAddr,
        mount_port: u16,
        export: &str,
    ) -> anyhow::Result<(Self, nfs_fh3)> {
        let builder = Nfs3ConnectionBuilder::new(Wires, server.ip().to_string(), export)
            .connect_from_privileged_port(false)
            .mount_port(mount_port)
            .nfs3_port(server.port())
            .credential(root());
        let connection = now(builder.mount()).context("the mount protocol failed")?;
        let root = connection.root_nfs_fh3();
        let idle = Mutex::new(vec![connection.into_nfs3_client()]);
        Ok((Self { server, idle }, root))
    }

    /// Makes one call. A connection on which it failed is not used again.
    ///
    /// # Errors
    /// What the server refused, or EIO if it did not answer.
    pub(super) fn call<T, E>(
        &self,
        call: impl AsyncFnOnce(&mut Nfs3Client<Wire>) -> Result<Nfs3Result<T, E>, RpcError>,
    ) -> Result<T, Errno> {
        let idle = lock(&self.idle).pop();
        let mut client = match idle {
            Some(client) => client,
            None => self.another().map_err(|error| lost(&error))?,
        };
        let result = now(call(&mut client)).map_err(|error| lost(&error))?;
        lock(&self.idle).push(client);
        match result {
            Nfs3Result::Ok(value) => Ok(value),
            Nfs3Result::Err((status, _)) => Err(convert::errno(status)),
        }
    }

    fn another(&self) -> io::Result<Nfs3Client<Wire>> {
        let wire = now(Wires.connect(self.server))?;
        Ok(Nfs3Client::new_with_auth(wire, root(), opaque_auth::default()))
    }
}

fn lost(error: &dyn std::error::Error) -> Errno {
    eprintln!("the NFS server does not answer: {error}");
    Errno::EIO
}
