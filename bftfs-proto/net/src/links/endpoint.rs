//! The UDP socket and the QUIC parameters.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use bftfs_proto::types::{Principal, ReplicaId};
use quinn::{EndpointConfig, MtuDiscoveryConfig, TransportConfig, VarInt};
use rustix::net::sockopt;

use super::LinksError;
use crate::cluster_file::ClusterFile;
use crate::identity::Identity;
use crate::tls::Trust;

/// A silent connection is kept up by a packet this often.
const KEEP_ALIVE: Duration = Duration::from_secs(2);
/// A connection on which nothing arrives for so long is gone.
const IDLE_MS: u32 = 10_000;
/// Taken for the round trip until it is measured: a lost first packet is sent again soon.
const INITIAL_RTT: Duration = Duration::from_millis(20);
/// Streams that a peer may have open: one per class.
const STREAMS: u32 = 2;
/// Bytes of one stream that a peer may send ahead of us.
const STREAM_WINDOW_BYTES: u32 = 8 << 20;
/// Bytes that we send ahead of a peer on one connection.
const SEND_WINDOW_BYTES: u64 = 16 << 20;
/// Bytes of a datagram on loopback. With GSO a larger one is lost silently.
const LOOPBACK_DATAGRAM_BYTES: u16 = 6000;
/// Bytes of a connection id.
const CONNECTION_ID_BYTES: usize = 8;
/// Bytes that the kernel keeps for a socket: one burst of bulk from every replica.
const SOCKET_BYTES: usize = 4 << 20;

/// Opens the endpoint of `me`: at its address for a replica, anywhere for a client.
pub(super) fn open(
    file: &ClusterFile,
    identity: &Identity,
    me: Principal,
    trust: &Trust,
) -> Result<quinn::Endpoint, LinksError> {
    let (address, server) = match me {
        Principal::Replica(id) => {
            let crypto = Arc::new(trust.acceptor(identity, id)?);
            let mut config = quinn::ServerConfig::with_crypto(crypto);
            config.transport_config(Arc::new(transport(file)));
            (file.replicas[id.0 as usize].address, Some(config))
        }
        Principal::Client(_) => (unspecified(file), None),
    };
    let bind = |error: io::Error| match error.kind() {
        io::ErrorKind::AddrInUse => LinksError::InUse { address },
        _ => LinksError::Bind { address, error },
    };
    let socket = UdpSocket::bind(address).map_err(bind)?;
    enlarge_buffers(&socket);
    let mut config = EndpointConfig::new(Arc::new(ResetKey(identity.reset_key())));
    config.cid_generator(|| Box::new(ConnectionIds));
    if is_loopback(file) {
        // Never fails: the size is within what QUIC allows.
        let _ = config.max_udp_payload_size(LOOPBACK_DATAGRAM_BYTES);
    }
    let runtime = Arc::new(quinn::TokioRuntime);
    quinn::Endpoint::new(config, server, socket, runtime).map_err(bind)
}

/// How to dial `target`.
pub(super) fn dialer(
    file: &ClusterFile,
    identity: &Identity,
    target: ReplicaId,
    trust: &Trust,
) -> Result<quinn::ClientConfig, LinksError> {
    let mut config = quinn::ClientConfig::new(Arc::new(trust.dialer(identity, target)?));
    config.transport_config(Arc::new(transport(file)));
    Ok(config)
}

fn transport(file: &ClusterFile) -> TransportConfig {
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_uni_streams(STREAMS.into())
        .max_concurrent_bidi_streams(0_u32.into())
        .datagram_receive_buffer_size(None)
        .stream_receive_window(STREAM_WINDOW_BYTES.into())
        .receive_window((STREAMS * STREAM_WINDOW_BYTES).into())
        .send_window(SEND_WINDOW_BYTES)
        .keep_alive_interval(Some(KEEP_ALIVE))
        .max_idle_timeout(Some(VarInt::from_u32(IDLE_MS).into()))
        .initial_rtt(INITIAL_RTT);
    if is_loopback(file) {
        let mut discovery = MtuDiscoveryConfig::default();
        discovery.upper_bound(LOOPBACK_DATAGRAM_BYTES);
        transport.mtu_discovery_config(Some(discovery));
    }
    transport
}

fn is_loopback(file: &ClusterFile) -> bool {
    file.replicas.iter().all(|replica| replica.address.ip().is_loopback())
}

/// Any port; of IPv6, which reaches IPv4 too, only if a replica needs it.
fn unspecified(file: &ClusterFile) -> SocketAddr {
    if file.replicas.iter().all(|replica| replica.address.is_ipv4()) {
        SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))
    } else {
        SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0))
    }
}

/// The force needs privilege; without either, a burst may lose packets and is sent again.
fn enlarge_buffers(socket: &UdpSocket) {
    if sockopt::set_socket_recv_buffer_size_force(socket, SOCKET_BYTES).is_err() {
        let _ = sockopt::set_socket_recv_buffer_size(socket, SOCKET_BYTES);
    }
    let _ = sockopt::set_socket_send_buffer_size(socket, SOCKET_BYTES);
}

/// Random connection ids. Those that quinn makes by itself are bound to the process, so that a
/// restarted one would take packets for its predecessor for noise, and not answer them.
struct ConnectionIds;

impl quinn::ConnectionIdGenerator for ConnectionIds {
    fn generate_cid(&mut self) -> quinn::ConnectionId {
        let mut bytes = [0; CONNECTION_ID_BYTES];
        getrandom::fill(&mut bytes).expect("the system gives random numbers");
        quinn::ConnectionId::new(&bytes)
    }

    fn cid_len(&self) -> usize {
        CONNECTION_ID_BYTES
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

/// The key of stateless resets (RFC 9000 section 10.3): a restarted replica tells whoever still
/// speaks to the old process, which would otherwise wait for the idle timeout.
struct ResetKey([u8; 32]);

impl quinn::crypto::HmacKey for ResetKey {
    fn sign(&self, data: &[u8], signature_out: &mut [u8]) {
        signature_out.copy_from_slice(blake3::keyed_hash(&self.0, data).as_bytes());
    }

    fn signature_len(&self) -> usize {
        blake3::OUT_LEN
    }

    fn verify(&self, data: &[u8], signature: &[u8]) -> Result<(), quinn::crypto::CryptoError> {
        let signature =
            blake3::Hash::from_slice(signature).map_err(|_| quinn::crypto::CryptoError)?;
        let equal = blake3::keyed_hash(&self.0, data) == signature;
        if equal { Ok(()) } else { Err(quinn::crypto::CryptoError) }
    }
}
