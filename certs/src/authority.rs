//! The cluster's CA and what it signs: X.509 certificates of Ed25519 keys.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bftfs_proto::auth::{PublicKey, Signer};
use bftfs_proto::types::ReplicaId;
use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use ed25519_dalek::pkcs8::{EncodePrivateKey as _, KeypairBytes};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ED25519,
};

use crate::{CertsError, DAYS_MAX, files, leaf_paths};

/// The CA's certificate, in the cluster's directory.
pub(crate) const CA_CERTIFICATE: &str = "ca.crt";
/// The CA's private key, in the cluster's directory.
const CA_KEY: &str = "ca.key";
/// Days that a CA is valid: longer than what it signs.
const CA_DAYS: u32 = DAYS_MAX;
/// Certificates are valid from a little before they are made: clocks differ.
const SKEW: Duration = Duration::from_secs(3600);

/// From when to when a certificate is valid.
#[derive(Clone, Copy, Debug)]
pub struct Period {
    /// The first moment.
    pub from: SystemTime,
    /// The last moment.
    pub to: SystemTime,
}

impl Period {
    /// From now on for so many days.
    ///
    /// # Errors
    /// [`CertsError::Days`] if there are none or more than [`DAYS_MAX`].
    pub fn days(days: u32) -> Result<Self, CertsError> {
        if !(1..=DAYS_MAX).contains(&days) {
            return Err(CertsError::Days(days));
        }
        let now = SystemTime::now();
        Ok(Self { from: now - SKEW, to: now + Duration::from_secs(u64::from(days) * 86_400) })
    }

    fn apply(self, params: &mut CertificateParams) {
        let epoch = rcgen::date_time_ymd(1970, 1, 1);
        params.not_before = epoch + self.from.duration_since(UNIX_EPOCH).unwrap_or_default();
        params.not_after = epoch + self.to.duration_since(UNIX_EPOCH).unwrap_or_default();
    }
}

/// Whom a certificate is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// A replica: it accepts connections and dials.
    Replica(ReplicaId),
    /// A client, by its name: it dials.
    Client(String),
}

impl Subject {
    /// What its files are called.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Replica(_) => "replica",
            Self::Client(_) => "client",
        }
    }

    /// Its directory within the cluster's.
    #[must_use]
    pub fn dir(&self) -> String {
        match self {
            Self::Replica(id) => format!("replica-{id}"),
            Self::Client(name) => format!("client-{name}"),
        }
    }

    /// The DNS name in its certificate, which a dialer asks for.
    #[must_use]
    pub fn dns_name(&self) -> String {
        format!("{}.bftfs", self.dir())
    }

    fn usages(&self) -> Vec<ExtendedKeyUsagePurpose> {
        match self {
            Self::Replica(_) => {
                vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth]
            }
            Self::Client(_) => vec![ExtendedKeyUsagePurpose::ClientAuth],
        }
    }
}

/// A new Ed25519 key.
pub struct Key {
    seed: [u8; 32],
    pair: KeyPair,
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "private half of {:?}", self.public())
    }
}

impl Key {
    /// A key made of the system's randomness.
    ///
    /// # Errors
    /// If the system has none.
    pub fn generate() -> Result<Self, CertsError> {
        let seed = random()?;
        let pair = KeyPair::from_pkcs8_pem_and_sign_algo(&pem(&seed), &PKCS_ED25519);
        let of = "a new key".into();
        let pair = pair.map_err(|error| CertsError::Certificate { of, error })?;
        Ok(Self { seed, pair })
    }

    /// The key that others verify with.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        Signer::from_seed(&self.seed).public()
    }

    /// The private key as PKCS#8 PEM.
    #[must_use]
    pub fn pem(&self) -> String {
        pem(&self.seed)
    }
}

/// PKCS#8 version 1: the one form that every library reads.
fn pem(seed: &[u8; 32]) -> String {
    let bytes = KeypairBytes { secret_key: *seed, public_key: None };
    bytes.to_pkcs8_pem(LineEnding::LF).expect("32 bytes have a PKCS#8 form").to_string()
}

/// A cluster's CA, with its private key.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Makes a CA and its files in `dir`.
    ///
    /// # Errors
    /// If there is one, or it cannot be written.
    pub fn create(dir: &Path, cluster: &str) -> Result<Self, CertsError> {
        let of = format!("the CA of {cluster}");
        let mut params = params(&format!("bftfs CA of {cluster}"));
        Period::days(CA_DAYS)?.apply(&mut params);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = Key::generate()?;
        let certificate = params.self_signed(&key.pair);
        let certificate = certificate.map_err(|error| CertsError::Certificate { of, error })?;
        files::create(&dir.join(CA_KEY), &key.pem(), files::PRIVATE)?;
        files::create(&dir.join(CA_CERTIFICATE), &certificate.pem(), files::PUBLIC)?;
        Ok(Self { issuer: Issuer::new(params, key.pair) })
    }

    /// Reads the CA of the cluster in `dir`.
    ///
    /// # Errors
    /// If its certificate or key cannot be read.
    pub fn load(dir: &Path, cluster: &str) -> Result<Self, CertsError> {
        let certificate = files::read(&dir.join(CA_CERTIFICATE))?;
        let key = files::read(&dir.join(CA_KEY))?;
        let issuer = KeyPair::from_pkcs8_pem_and_sign_algo(&key, &PKCS_ED25519)
            .and_then(|pair| Issuer::from_ca_cert_pem(&certificate, pair));
        let of = format!("the CA of {cluster}");
        Ok(Self { issuer: issuer.map_err(|error| CertsError::Certificate { of, error })? })
    }

    /// Signs a certificate for `subject` and the key `key`, as PEM.
    ///
    /// # Errors
    /// If the name cannot be encoded.
    pub fn issue(
        &self,
        cluster: &str,
        subject: &Subject,
        key: &Key,
        period: Period,
    ) -> Result<String, CertsError> {
        let name = match subject {
            Subject::Replica(id) => format!("bftfs replica {id} of {cluster}"),
            Subject::Client(name) => format!("bftfs client {name} of {cluster}"),
        };
        let mut params = params(&name);
        period.apply(&mut params);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = subject.usages();
        params.use_authority_key_identifier_extension = true;
        let dns = subject.dns_name().try_into().map(rcgen::SanType::DnsName);
        let signed = dns.and_then(|dns| {
            params.subject_alt_names = vec![dns];
            params.signed_by(&key.pair, &self.issuer)
        });
        let certificate = signed.map_err(|error| CertsError::Certificate { of: name, error })?;
        Ok(certificate.pem())
    }

    /// Makes the key and the certificate of `subject` and their files in `dir`.
    ///
    /// # Errors
    /// If they are there already or cannot be written.
    pub fn make_leaf(
        &self,
        dir: &Path,
        cluster: &str,
        subject: &Subject,
        period: Period,
    ) -> Result<PublicKey, CertsError> {
        let key = Key::generate()?;
        let certificate = self.issue(cluster, subject, &key, period)?;
        let (certificate_path, key_path) = leaf_paths(dir, subject);
        files::make_dir(&dir.join(subject.dir()))?;
        files::create(&key_path, &key.pem(), files::PRIVATE)?;
        files::create(&certificate_path, &certificate, files::PUBLIC)?;
        Ok(key.public())
    }
}

/// Parameters that inherit nothing from rcgen's defaults that two certificates could share.
fn params(common_name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.distinguished_name.push(DnType::OrganizationName, "bftfs");
    params
}

/// 32 bytes of the system's randomness.
pub(crate) fn random() -> Result<[u8; 32], CertsError> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(CertsError::Random)?;
    Ok(bytes)
}
