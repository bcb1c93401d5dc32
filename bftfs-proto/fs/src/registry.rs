//! The clients that administrators spoke of: their keys, their rules, and who is refused.
//!
//! A client without a record is one that the cluster file alone names: it may do everything but
//! administer. A record counts more than the cluster file.

use alloc::string::String;
use alloc::vec::Vec;

use bftfs_proto::auth::PublicKey;
use bftfs_proto::types::ClientId;
use bftfs_state::Tree;
use serde::{Deserialize, Serialize};

use crate::errno::Errno;
use crate::inode::{Change, View};
use crate::layout::{self, REGISTRY_KEY, table};
use crate::operation::{Outcome, Reply};
use crate::rules::Rule;

/// Most clients that have a record.
pub const CLIENTS_MAX: u32 = 4096;
/// Most clients in one [`Reply::Clients`].
pub const CLIENTS_PAGE: usize = 256;
/// Bytes of a client's name, as in a cluster file.
const NAME_BYTES_MAX: usize = 50;

/// What is known of a client.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Client {
    /// What people call it. Empty if it was never said.
    pub name: String,
    /// What it signs with; if `None`, the key that the cluster file pins.
    pub key: Option<PublicKey>,
    /// What it may do. `None`: its access was revoked, and it is refused everything.
    pub rule: Option<Rule>,
}

impl Client {
    fn is_admin(&self) -> bool {
        self.rule.as_ref().is_some_and(|rule| rule.admin)
    }

    /// EINVAL unless an administrator may say so.
    pub(crate) fn check(&self) -> Result<(), Errno> {
        let allowed = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-');
        let named = self.name.len() <= NAME_BYTES_MAX && self.name.bytes().all(allowed);
        let sound = named && self.key.is_none_or(|key| key.is_sound());
        if sound { self.rule.as_ref().map_or(Ok(()), Rule::check) } else { Err(Errno::EINVAL) }
    }
}

/// The registry as a whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Registry {
    /// Rises with each change.
    pub(crate) generation: u64,
    /// Clients that have a record.
    pub(crate) clients: u32,
    /// Those of them that are administrators.
    pub(crate) admins: u32,
}

/// Rises with each change of a client's record; 0 if there was never one.
#[must_use]
pub fn generation(tree: &Tree) -> u64 {
    registry(tree).generation
}

/// Each client that has a record, in the order of their ids.
pub fn clients(tree: &Tree) -> impl Iterator<Item = (ClientId, Client)> {
    clients_after(tree, None)
}

/// The record of a client, if it has one.
#[must_use]
pub fn client(tree: &Tree, id: ClientId) -> Option<Client> {
    layout::load(tree, &layout::client_key(id))
}

fn registry(tree: &Tree) -> Registry {
    layout::load(tree, REGISTRY_KEY).unwrap_or_default()
}

fn clients_after(tree: &Tree, after: Option<ClientId>) -> impl Iterator<Item = (ClientId, Client)> {
    let next = after.map_or(Some(0), |id| id.0.checked_add(1));
    let end = [table::CLIENT + 1];
    let from = next.map_or_else(|| end.to_vec(), |id| layout::client_key(ClientId(id)).to_vec());
    tree.range(&from, &end).map(|(key, record)| {
        let id = layout::client_of(key).expect("a client's key has a number");
        let client = postcard::from_bytes(&record.read());
        (id, client.expect("records are as they were written"))
    })
}

/// Writes the administrators of a new cluster.
pub(crate) fn begin(tree: &mut Tree, admins: &[ClientId]) {
    for &admin in admins {
        let rule = Some(Rule { admin: true, ..Rule::default() });
        put(tree, admin, &Client { rule, ..Client::default() });
    }
}

fn put(tree: &mut Tree, id: ClientId, new: &Client) {
    let old = client(tree, id);
    let mut registry = registry(tree);
    registry.generation += 1;
    registry.clients += u32::from(old.is_none());
    registry.admins += u32::from(new.is_admin());
    registry.admins -= u32::from(old.is_some_and(|old| old.is_admin()));
    layout::store(tree, REGISTRY_KEY, &registry);
    layout::store(tree, &layout::client_key(id), new);
}

impl View<'_> {
    /// The next clients after one, for administrators.
    pub(crate) fn list_clients(&self, after: Option<ClientId>) -> Outcome {
        let mut rest = clients_after(self.tree, after);
        let clients: Vec<_> = rest.by_ref().take(CLIENTS_PAGE).collect();
        Ok(Reply::Clients { clients, end: rest.next().is_none() })
    }

    /// Whether a record may be written: EINVAL if it is none, EPERM if it takes the last
    /// administrator away, EEXIST if another client has the key, ENOSPC if there are too many.
    fn check_client(&self, id: ClientId, new: &Client) -> Result<(), Errno> {
        new.check()?;
        let (registry, old) = (registry(self.tree), client(self.tree, id));
        let was_admin = old.as_ref().is_some_and(Client::is_admin);
        if was_admin && !new.is_admin() && registry.admins == 1 {
            return Err(Errno::EPERM);
        }
        let another = |(other, client): (ClientId, Client)| {
            other != id && client.key.is_some() && client.key == new.key
        };
        if clients(self.tree).any(another) {
            return Err(Errno::EEXIST);
        }
        let full = old.is_none() && registry.clients >= CLIENTS_MAX;
        if full { Err(Errno::ENOSPC) } else { Ok(()) }
    }
}

impl Change<'_> {
    /// Adds a client or changes one.
    pub(crate) fn set_client(&mut self, id: ClientId, new: &Client) -> Outcome {
        self.view().check_client(id, new)?;
        if let Some(top) = new.rule.as_ref().and_then(|rule| rule.subtree) {
            self.view().directory(top)?;
            self.start_index();
            if !self.view().is_indexed() {
                return Err(Errno::EBUSY);
            }
        }
        put(self.tree, id, new);
        Ok(Reply::Done)
    }

    /// Takes all access from a client. Its key is kept, so that it is known as refused.
    pub(crate) fn revoke_client(&mut self, id: ClientId) -> Outcome {
        let new = Client { rule: None, ..client(self.tree, id).unwrap_or_default() };
        self.view().check_client(id, &new)?;
        put(self.tree, id, &new);
        Ok(Reply::Done)
    }
}
