//! Whose key is whose, kept up to date with the cluster file and with the agreed state while the
//! cluster runs.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bftfs_proto::auth::PublicKey;
use bftfs_proto::types::{ClientId, Principal, ReplicaId};
use rustls::pki_types::CertificateDer;
use tracing::{info, warn};

use crate::cluster_file::ClusterFile;
use crate::identity::public_key;

/// The cluster file is read again at most this often, whatever strangers do.
const RELOAD_INTERVAL: Duration = Duration::from_secs(1);

/// What the agreed state says of a client. It counts more than the cluster file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Its key, if it is not the one in the cluster file.
    pub key: Option<PublicKey>,
    /// Its access was revoked.
    pub revoked: bool,
}

/// Why a key is nobody's that may connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unknown {
    /// It was never anybody's.
    Stranger,
    /// The client's access was revoked.
    Revoked(ClientId),
}

#[derive(Debug)]
struct State {
    /// As the cluster file has them.
    keys: BTreeMap<PublicKey, Principal>,
    /// As the agreed state has them.
    standings: BTreeMap<ClientId, Standing>,
    added: Vec<(ClientId, PublicKey)>,
    reloaded: Option<Instant>,
}

impl State {
    fn find(&self, key: &PublicKey) -> Result<Principal, Unknown> {
        let listed = self.keys.get(key).copied();
        if let Some(Principal::Replica(_)) = listed {
            return listed.ok_or(Unknown::Stranger);
        }
        let named = self.standings.iter().find(|(_, standing)| standing.key == Some(*key));
        let id = match (named, listed) {
            (Some((id, _)), _) => *id,
            (None, Some(Principal::Client(id))) => id,
            _ => return Err(Unknown::Stranger),
        };
        match self.standings.get(&id) {
            Some(Standing { revoked: true, .. }) => Err(Unknown::Revoked(id)),
            // It has another key now.
            Some(Standing { key: Some(current), .. }) if current != key => Err(Unknown::Stranger),
            _ => Ok(Principal::Client(id)),
        }
    }
}

/// The members by key. A key that is not there makes it look into the file again.
#[derive(Debug)]
pub(crate) struct Members {
    file: ClusterFile,
    state: Mutex<State>,
}

impl Members {
    pub(crate) fn new(file: &ClusterFile) -> Self {
        let replicas = (0_u32..).zip(&file.replicas);
        let replicas = replicas.map(|(id, member)| (member.key, Principal::Replica(ReplicaId(id))));
        let clients = file.clients.iter().map(|(id, member)| (member.key, Principal::Client(*id)));
        let keys = replicas.chain(clients).collect();
        let (standings, added) = (BTreeMap::new(), Vec::new());
        let state = Mutex::new(State { keys, standings, added, reloaded: None });
        Self { file: file.clone(), state }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The member whose key this certificate has.
    pub(crate) fn find(&self, certificate: &CertificateDer<'_>) -> Result<Principal, Unknown> {
        let key = public_key(certificate).ok_or(Unknown::Stranger)?;
        let mut state = self.state();
        if state.find(&key) == Err(Unknown::Stranger) {
            self.reload(&mut state);
        }
        state.find(&key)
    }

    /// Whether the client's access was revoked.
    pub(crate) fn is_revoked(&self, client: ClientId) -> bool {
        self.state().standings.get(&client).is_some_and(|standing| standing.revoked)
    }

    /// Takes over what the agreed state says, and returns the clients that have to prove anew who
    /// they are: those revoked, and those with another key.
    pub(crate) fn set_standings(&self, new: BTreeMap<ClientId, Standing>) -> Vec<ClientId> {
        let mut state = self.state();
        let old = std::mem::replace(&mut state.standings, new);
        let changed = state.standings.iter().filter(|(id, standing)| {
            standing.revoked || old.get(id).and_then(|before| before.key) != standing.key
        });
        changed.map(|(id, _)| *id).collect()
    }

    /// The clients that were found in the file since the last call.
    pub(crate) fn take_added(&self) -> Vec<(ClientId, PublicKey)> {
        std::mem::take(&mut self.state().added)
    }

    /// Takes over new clients and new keys of clients. Replicas change only by a restart.
    fn reload(&self, state: &mut State) {
        if state.reloaded.is_some_and(|time| time.elapsed() < RELOAD_INTERVAL) {
            return;
        }
        state.reloaded = Some(Instant::now());
        let file = match ClusterFile::load(&self.file.path) {
            Ok(file) => file,
            Err(error) => return warn!("the changed cluster file is not used: {error}"),
        };
        if (&file.id, &file.replicas) != (&self.file.id, &self.file.replicas) {
            let path = self.file.path.display();
            return warn!("{path} has changed replicas: nothing is used of it before a restart");
        }
        for (id, member) in file.clients {
            let principal = Principal::Client(id);
            if state.keys.get(&member.key) != Some(&principal) {
                info!("client {id} \"{}\" was added to the cluster file", member.name);
                state.keys.retain(|_, other| *other != principal);
                state.keys.insert(member.key, principal);
                // The agreed state counts more.
                if state.standings.get(&id).is_none_or(|standing| standing.key.is_none()) {
                    state.added.push((id, member.key));
                }
            }
        }
    }
}
