//! Whose key is whose, kept up to date with the cluster file while the cluster runs.

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

#[derive(Debug)]
struct State {
    keys: BTreeMap<PublicKey, Principal>,
    added: Vec<(ClientId, PublicKey)>,
    reloaded: Option<Instant>,
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
        let state = Mutex::new(State { keys, added: Vec::new(), reloaded: None });
        Self { file: file.clone(), state }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The member whose pinned key this certificate has.
    pub(crate) fn find(&self, certificate: &CertificateDer<'_>) -> Option<Principal> {
        let key = public_key(certificate)?;
        let mut state = self.state();
        if !state.keys.contains_key(&key) {
            self.reload(&mut state);
        }
        state.keys.get(&key).copied()
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
                state.added.push((id, member.key));
            }
        }
    }
}
