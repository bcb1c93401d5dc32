//! Who I am: a certificate and the Ed25519 key that belongs to it.
//!
//! One key serves both purposes: it proves who holds a connection, and it signs what is passed on.

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use bftfs_proto::auth::{PublicKey, Signer};
use bftfs_proto::types::{ClientId, Principal, ReplicaId};
use ed25519_dalek::SigningKey;
use ed25519_dalek::pkcs8::DecodePrivateKey as _;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use rustls::server::ParsedCertificate;
use x509_parser::prelude::{FromDer as _, X509Certificate};
use x509_parser::time::ASN1Time;

use crate::cluster_file::ClusterFile;

/// Bytes of a certificate or key file. Far more than any needs.
const FILE_BYTES_MAX: u64 = 64 << 10;
/// What precedes the 32 bytes of an Ed25519 key in a certificate (RFC 8410 section 4).
const ED25519_SPKI_PREFIX: [u8; 12] =
    [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
/// Permission bits that let others than the owner at a private key.
const LAX_MODE: u32 = 0o077;

/// Why a certificate and key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The file cannot be read.
    #[error("cannot read {path}: {error}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// Others may read the private key.
    #[error(
        "the private key {path} has mode {mode:03o}, so that others can use it: run `chmod 600 {path}`",
        path = path.display()
    )]
    Mode {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// No certificate in the file.
    #[error("{path} holds no certificate in PEM form", path = path.display())]
    NoCertificate {
        /// The file.
        path: PathBuf,
    },
    /// A certificate that cannot be parsed, or has another kind of key.
    #[error("the certificate {path} is not an X.509 certificate of an Ed25519 key", path = path.display())]
    BadCertificate {
        /// The file.
        path: PathBuf,
    },
    /// No private key in the file.
    #[error("{path} holds no Ed25519 private key in PKCS#8 PEM form", path = path.display())]
    BadKey {
        /// The file.
        path: PathBuf,
    },
    /// Key and certificate are not a pair.
    #[error(
        "the private key {key} does not belong to the certificate {certificate}",
        key = key.display(), certificate = certificate.display()
    )]
    Mismatch {
        /// The key's file.
        key: PathBuf,
        /// The certificate's file.
        certificate: PathBuf,
    },
    /// The certificate is out of date.
    #[error("the certificate {path} is valid {validity}: make a new one", path = path.display())]
    OutOfDate {
        /// The file.
        path: PathBuf,
        /// From when to when.
        validity: Validity,
    },
    /// The key is nobody's in this cluster.
    #[error(
        "the key of the certificate {certificate} is in no [[replica]] or [[client]] of {cluster}",
        certificate = certificate.display(), cluster = cluster.display()
    )]
    Stranger {
        /// The certificate's file.
        certificate: PathBuf,
        /// The cluster file.
        cluster: PathBuf,
    },
    /// The key is somebody else's in this cluster.
    #[error("the certificate {certificate} is that of {is}, not of {wanted}", certificate = certificate.display())]
    Wrong {
        /// The certificate's file.
        certificate: PathBuf,
        /// Whose it is.
        is: Principal,
        /// Whose it should be.
        wanted: String,
    },
}

/// From when to when a certificate is valid, in seconds since the epoch, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// The first second.
    pub from: i64,
    /// The last second.
    pub to: i64,
}

impl Validity {
    /// Whether `time` lies within.
    #[must_use]
    pub fn contains(&self, time: SystemTime) -> bool {
        let seconds = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        i64::try_from(seconds).is_ok_and(|now| (self.from..=self.to).contains(&now))
    }
}

impl fmt::Display for Validity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let date = |seconds| ASN1Time::from_timestamp(seconds).map_err(|_| fmt::Error);
        write!(f, "from {} to {}", date(self.from)?, date(self.to)?)
    }
}

/// A leaf certificate, parsed but trusted by nobody yet.
#[derive(Clone, Debug)]
pub struct Certificate {
    /// Its public key.
    pub key: PublicKey,
    /// When it is valid.
    pub validity: Validity,
    /// Its subject, for people.
    pub subject: String,
}

impl Certificate {
    /// Reads the first certificate in the PEM file at `path`.
    ///
    /// # Errors
    /// If the file cannot be read or holds no certificate of an Ed25519 key.
    pub fn load(path: &Path) -> Result<Self, IdentityError> {
        let chain = load_chain(path)?;
        let leaf = chain.first().and_then(Self::parse);
        leaf.ok_or_else(|| IdentityError::BadCertificate { path: path.into() })
    }

    fn parse(der: &CertificateDer<'_>) -> Option<Self> {
        let (_, x509) = X509Certificate::from_der(der).ok()?;
        let dates = x509.validity();
        let validity =
            Validity { from: dates.not_before.timestamp(), to: dates.not_after.timestamp() };
        Some(Self { key: public_key(der)?, validity, subject: x509.subject().to_string() })
    }
}

/// The Ed25519 public key of a certificate, if it has one.
#[must_use]
pub fn public_key(der: &CertificateDer<'_>) -> Option<PublicKey> {
    let parsed = ParsedCertificate::try_from(der).ok()?;
    let spki = parsed.subject_public_key_info();
    let key = spki.as_ref().strip_prefix(&ED25519_SPKI_PREFIX)?;
    Some(PublicKey(key.try_into().ok()?))
}

/// A certificate with its private key.
pub struct Identity {
    path: PathBuf,
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: PrivatePkcs8KeyDer<'static>,
    signer: Signer,
    reset_key: [u8; 32],
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "identity of {}", self.path.display())
    }
}

impl Identity {
    /// Reads a certificate and its key, both PEM.
    ///
    /// # Errors
    /// If one cannot be read or parsed, others may read the key, the two do not belong together,
    /// or the certificate is out of date.
    pub fn load(certificate: &Path, key: &Path) -> Result<Self, IdentityError> {
        let leaf = Certificate::load(certificate)?;
        if !leaf.validity.contains(SystemTime::now()) {
            let path = certificate.into();
            return Err(IdentityError::OutOfDate { path, validity: leaf.validity });
        }
        let (der, seed) = load_key(key)?;
        let signer = Signer::from_seed(&seed);
        if signer.public() != leaf.key {
            let (key, certificate) = (key.into(), certificate.into());
            return Err(IdentityError::Mismatch { key, certificate });
        }
        Ok(Self {
            path: certificate.into(),
            chain: load_chain(certificate)?,
            key: der,
            signer,
            reset_key: blake3::derive_key("bftfs/1 stateless reset", &seed),
        })
    }

    /// What this identity signs with.
    #[must_use]
    pub fn signer(&self) -> Signer {
        self.signer.clone()
    }

    /// A secret that is the same after a restart, so that peers of the old process can be told
    /// that their connection is gone (RFC 9000 section 10.3).
    pub(crate) fn reset_key(&self) -> [u8; 32] {
        self.reset_key
    }

    /// Who this is in `cluster`.
    ///
    /// # Errors
    /// If the cluster file pins no such key.
    pub fn principal(&self, cluster: &ClusterFile) -> Result<Principal, IdentityError> {
        cluster.principal(&self.signer.public()).ok_or_else(|| IdentityError::Stranger {
            certificate: self.path.clone(),
            cluster: cluster.path.clone(),
        })
    }

    /// Checks that this is replica `id` of `cluster`.
    ///
    /// # Errors
    /// If it is somebody else or nobody.
    pub fn require_replica(
        &self,
        cluster: &ClusterFile,
        id: ReplicaId,
    ) -> Result<(), IdentityError> {
        match self.principal(cluster)? {
            Principal::Replica(is) if is == id => Ok(()),
            is => Err(self.wrong(is, format!("replica {id}"))),
        }
    }

    /// Which client of `cluster` this is.
    ///
    /// # Errors
    /// If it is a replica or nobody.
    pub fn require_client(&self, cluster: &ClusterFile) -> Result<ClientId, IdentityError> {
        match self.principal(cluster)? {
            Principal::Client(id) => Ok(id),
            is @ Principal::Replica(_) => Err(self.wrong(is, "a client".into())),
        }
    }

    fn wrong(&self, is: Principal, wanted: String) -> IdentityError {
        IdentityError::Wrong { certificate: self.path.clone(), is, wanted }
    }
}

/// Reads all certificates in a PEM file.
pub(crate) fn load_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    let read = |error| IdentityError::Read { path: path.into(), error };
    let text = read_bounded(&File::open(path).map_err(read)?).map_err(read)?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match chain {
        Ok(chain) if !chain.is_empty() => Ok(chain),
        _ => Err(IdentityError::NoCertificate { path: path.into() }),
    }
}

fn load_key(path: &Path) -> Result<(PrivatePkcs8KeyDer<'static>, [u8; 32]), IdentityError> {
    let read = |error| IdentityError::Read { path: path.into(), error };
    let file = File::open(path).map_err(read)?;
    let mode = file.metadata().map_err(read)?.permissions().mode() & 0o777;
    if mode & LAX_MODE != 0 {
        return Err(IdentityError::Mode { path: path.into(), mode });
    }
    let text = read_bounded(&file).map_err(read)?;
    let der = PrivatePkcs8KeyDer::from_pem_slice(&text).ok();
    let key = der.and_then(|der| {
        let key = SigningKey::from_pkcs8_der(der.secret_pkcs8_der()).ok()?;
        Some((der, key.to_bytes()))
    });
    key.ok_or_else(|| IdentityError::BadKey { path: path.into() })
}

fn read_bounded(file: &File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}
