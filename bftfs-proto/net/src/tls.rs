//! Mutual TLS 1.3: a certificate must chain to the cluster's CA, be valid now, and hold the key
//! that the cluster file pins for whoever it is taken for.

use std::sync::Arc;

use bftfs_proto::types::{ClientId, Principal, ReplicaId};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, OtherError,
    RootCertStore, ServerConfig, SignatureScheme,
};

use crate::cluster_file::ClusterFile;
use crate::counters::Counters;
use crate::identity::{Identity, IdentityError, load_chain};
use crate::members::{Members, Unknown};

/// What both ends must say they speak.
const ALPN: &[u8] = b"bftfs/1";

/// Why there can be no TLS at all.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The CA's certificate cannot be read.
    #[error(transparent)]
    Ca(#[from] IdentityError),
    /// rustls refuses the CA, the certificate or the key.
    #[error("TLS cannot be set up with these certificates: {0}")]
    Refused(String),
    /// QUIC needs AES-128-GCM for its first packets (RFC 9001 section 5.2).
    #[error("the TLS library lacks the cipher that QUIC begins with")]
    Cipher,
}

impl From<Error> for TlsError {
    fn from(error: Error) -> Self {
        Self::Refused(error.to_string())
    }
}

/// Why a certificate that the CA signed is refused all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum Refusal {
    #[error("its key is nobody's in the cluster file")]
    Stranger,
    #[error("the access of client {0} was revoked")]
    Revoked(ClientId),
    #[error("it is that of {0}, which does not dial here")]
    Direction(Principal),
    #[error("it is not that of replica {0}, which was dialled")]
    Impostor(ReplicaId),
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        Self::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(refusal))))
    }
}

/// What a handshake needs to know of the cluster.
#[derive(Debug)]
pub(crate) struct Trust {
    provider: Arc<CryptoProvider>,
    roots: Arc<RootCertStore>,
    members: Arc<Members>,
    counters: Arc<Counters>,
}

impl Trust {
    pub(crate) fn new(
        file: &ClusterFile,
        members: Arc<Members>,
        counters: Arc<Counters>,
    ) -> Result<Self, TlsError> {
        let mut roots = RootCertStore::empty();
        for certificate in load_chain(&file.ca_path())? {
            roots.add(certificate)?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        Ok(Self { provider, roots: Arc::new(roots), members, counters })
    }

    /// The TLS of whoever accepts connections: replica `me`.
    pub(crate) fn acceptor(
        &self,
        identity: &Identity,
        me: ReplicaId,
    ) -> Result<QuicServerConfig, TlsError> {
        let (roots, provider) = (self.roots.clone(), self.provider.clone());
        let chain = WebPkiClientVerifier::builder_with_provider(roots, provider).build();
        let verifier = AcceptorsVerifier {
            chain: chain.map_err(|error| TlsError::Refused(error.to_string()))?,
            me,
            members: self.members.clone(),
            counters: self.counters.clone(),
        };
        let mut config = ServerConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(Arc::new(verifier))
            .with_single_cert(identity.chain.clone(), private(identity))?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        // Neither tickets nor early data: whoever comes back proves who it is again.
        config.send_tls13_tickets = 0;
        config.max_early_data_size = 0;
        config.try_into().map_err(|_| TlsError::Cipher)
    }

    /// The TLS of whoever dials replica `target`.
    pub(crate) fn dialer(
        &self,
        identity: &Identity,
        target: ReplicaId,
    ) -> Result<QuicClientConfig, TlsError> {
        let (roots, provider) = (self.roots.clone(), self.provider.clone());
        let chain = WebPkiServerVerifier::builder_with_provider(roots, provider).build();
        let verifier = DialersVerifier {
            chain: chain.map_err(|error| TlsError::Refused(error.to_string()))?,
            target,
            members: self.members.clone(),
            counters: self.counters.clone(),
        };
        let mut config = ClientConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_auth_cert(identity.chain.clone(), private(identity))?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.resumption = Resumption::disabled();
        config.enable_early_data = false;
        config.try_into().map_err(|_| TlsError::Cipher)
    }
}

fn private(identity: &Identity) -> PrivateKeyDer<'static> {
    PrivateKeyDer::Pkcs8(identity.key.clone_key())
}

/// The name that a replica's certificate carries.
pub(crate) fn replica_name(id: ReplicaId) -> String {
    format!("replica-{id}.bftfs")
}

/// What a refused handshake is counted as.
fn reason(error: &Error) -> String {
    match error {
        Error::InvalidCertificate(
            CertificateError::Expired | CertificateError::ExpiredContext { .. },
        ) => "expired certificate".into(),
        Error::InvalidCertificate(
            CertificateError::UnknownIssuer | CertificateError::BadSignature,
        ) => "certificate of another authority".into(),
        Error::InvalidCertificate(CertificateError::Other(other)) => {
            format!("certificate refused: {other}")
        }
        _ => "bad certificate".into(),
    }
}

#[derive(Debug)]
struct AcceptorsVerifier {
    chain: Arc<dyn ClientCertVerifier>,
    me: ReplicaId,
    members: Arc<Members>,
    counters: Arc<Counters>,
}

impl AcceptorsVerifier {
    /// Between replicas the higher id dials, so that each pair has one connection.
    fn admit(&self, certificate: &CertificateDer<'_>) -> Result<(), Refusal> {
        match self.members.find(certificate) {
            Ok(Principal::Client(_)) => Ok(()),
            Ok(Principal::Replica(id)) if id > self.me => Ok(()),
            Ok(other) => Err(Refusal::Direction(other)),
            Err(Unknown::Stranger) => Err(Refusal::Stranger),
            Err(Unknown::Revoked(id)) => Err(Refusal::Revoked(id)),
        }
    }
}

impl ClientCertVerifier for AcceptorsVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let chained = self.chain.verify_client_cert(end_entity, intermediates, now);
        let verified = chained
            .and_then(|verified| self.admit(end_entity).map(|()| verified).map_err(Into::into));
        verified.inspect_err(|error| self.counters.reject(None, reason(error)))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

#[derive(Debug)]
struct DialersVerifier {
    chain: Arc<WebPkiServerVerifier>,
    target: ReplicaId,
    members: Arc<Members>,
    counters: Arc<Counters>,
}

impl DialersVerifier {
    fn admit(&self, certificate: &CertificateDer<'_>) -> Result<(), Refusal> {
        let target = Principal::Replica(self.target);
        let is_target = self.members.find(certificate) == Ok(target);
        if is_target { Ok(()) } else { Err(Refusal::Impostor(self.target)) }
    }
}

impl ServerCertVerifier for DialersVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let chained = self.chain.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        );
        let verified = chained
            .and_then(|verified| self.admit(end_entity).map(|()| verified).map_err(Into::into));
        verified.inspect_err(|error| {
            self.counters.reject(Some(Principal::Replica(self.target)), reason(error));
        })
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}
