use std::os::unix::fs::PermissionsExt as _;

use bftfs_net::Identity;
use bftfs_net::identity::{Certificate, IdentityError};
use bftfs_proto::types::Principal;

use super::*;

fn plan(dir: &Path) -> Plan {
    Plan { clients: vec!["alice".into(), "bob".into()], ..Plan::development(dir) }
}

fn load(dir: &Path, subject: &Subject) -> Identity {
    let (certificate, key) = leaf_paths(dir, subject);
    Identity::load(&certificate, &key).unwrap()
}

#[test]
fn a_cluster_is_made_and_every_member_is_itself() {
    let dir = tempfile::tempdir().unwrap();
    let made = init(&plan(dir.path())).unwrap();
    let file = ClusterFile::load(&cluster_path(dir.path())).unwrap();
    assert_eq!(file, made);
    for id in 0..4 {
        let identity = load(dir.path(), &Subject::Replica(ReplicaId(id)));
        assert!(identity.require_replica(&file, ReplicaId(id)).is_ok());
        let wrong = identity.require_replica(&file, ReplicaId(id + 1)).unwrap_err();
        assert!(matches!(wrong, IdentityError::Wrong { .. }), "{wrong}");
        assert!(matches!(identity.require_client(&file), Err(IdentityError::Wrong { .. })));
    }
    let alice = load(dir.path(), &Subject::Client("alice".into()));
    assert_eq!(alice.require_client(&file).unwrap(), ClientId(1));
    assert_eq!(alice.principal(&file).unwrap(), Principal::Client(ClientId(1)));
}

#[test]
fn names_and_validity_are_explicit_and_distinct() {
    let dir = tempfile::tempdir().unwrap();
    init(&plan(dir.path())).unwrap();
    let mut subjects = std::collections::BTreeSet::new();
    let leaves = ["replica-0/replica", "replica-3/replica", "client-bob/client", "ca"];
    for name in leaves {
        let leaf = Certificate::load(&dir.path().join(name).with_extension("crt")).unwrap();
        assert!(leaf.subject.contains("of dev"), "{}", leaf.subject);
        assert!(subjects.insert(leaf.subject));
        let days = (leaf.validity.to - leaf.validity.from) / 86_400;
        assert_eq!(days, if name == "ca" { i64::from(DAYS_MAX) } else { 365 });
    }
}

#[test]
fn private_keys_are_private() {
    let dir = tempfile::tempdir().unwrap();
    init(&plan(dir.path())).unwrap();
    for name in ["ca.key", "replica-0/replica.key", "client-alice/client.key"] {
        let mode = std::fs::metadata(dir.path().join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    let key = dir.path().join("replica-0/replica.key");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o640)).unwrap();
    let error = Identity::load(&key.with_extension("crt"), &key).unwrap_err();
    assert!(matches!(error, IdentityError::Mode { mode: 0o640, .. }), "{error}");
}

#[test]
fn nothing_is_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let made = init(&plan(dir.path())).unwrap();
    assert!(matches!(init(&plan(dir.path())), Err(CertsError::Exists(_))));
    assert_eq!(ClusterFile::load(&cluster_path(dir.path())).unwrap(), made);
    std::fs::remove_file(cluster_path(dir.path())).unwrap();
    assert!(
        matches!(init(&plan(dir.path())), Err(CertsError::Exists(path)) if path.ends_with("ca.key"))
    );
}

#[test]
fn a_client_is_added_and_the_rest_stays() {
    let dir = tempfile::tempdir().unwrap();
    let before = init(&plan(dir.path())).unwrap();
    assert_eq!(before.administrators(), [ClientId(3)]);
    assert_eq!(add_client(dir.path(), "carol", 30).unwrap(), ClientId(4));
    let after = ClusterFile::load(&cluster_path(dir.path())).unwrap();
    assert_eq!((&after.id, &after.replicas), (&before.id, &before.replicas));
    assert_eq!(after.clients.len(), 4);
    let carol = load(dir.path(), &Subject::Client("carol".into()));
    assert_eq!(carol.require_client(&after).unwrap(), ClientId(4));
    assert!(matches!(carol.require_client(&before), Err(IdentityError::Stranger { .. })));
    let twice = add_client(dir.path(), "carol", 30).unwrap_err();
    assert!(matches!(twice, CertsError::ClientExists(_)), "{twice}");
}

#[test]
fn a_client_is_made_that_no_cluster_file_names() {
    let dir = tempfile::tempdir().unwrap();
    let before = init(&plan(dir.path())).unwrap();
    make_client(dir.path(), "carol", 30).unwrap();
    assert_eq!(ClusterFile::load(&cluster_path(dir.path())).unwrap(), before);
    let carol = load(dir.path(), &Subject::Client("carol".into()));
    assert!(matches!(carol.require_client(&before), Err(IdentityError::Stranger { .. })));
    let twice = make_client(dir.path(), "alice", 30).unwrap_err();
    assert!(matches!(twice, CertsError::ClientExists(_)), "{twice}");
}

#[test]
fn a_key_of_somebody_else_and_an_expired_certificate_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    init(&plan(dir.path())).unwrap();
    let (certificate, _) = leaf_paths(dir.path(), &Subject::Replica(ReplicaId(0)));
    let (_, key) = leaf_paths(dir.path(), &Subject::Replica(ReplicaId(1)));
    let error = Identity::load(&certificate, &key).unwrap_err();
    assert!(matches!(error, IdentityError::Mismatch { .. }), "{error}");

    let authority = Authority::load(dir.path(), "dev").unwrap();
    let period = Period {
        from: std::time::UNIX_EPOCH,
        to: std::time::SystemTime::now() - std::time::Duration::from_secs(60),
    };
    authority.make_leaf(dir.path(), "dev", &Subject::Client("old".into()), period).unwrap();
    let (certificate, key) = leaf_paths(dir.path(), &Subject::Client("old".into()));
    let error = Identity::load(&certificate, &key).unwrap_err();
    assert!(matches!(error, IdentityError::OutOfDate { .. }), "{error}");
}

#[test]
fn wrong_plans_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let plan = plan(&dir.path().join("new"));
    let name = Plan { clients: vec!["../x".into()], ..plan.clone() };
    assert!(matches!(init(&name), Err(CertsError::Name(_))));
    let twice = Plan { clients: vec!["a".into(), "a".into()], ..plan.clone() };
    assert!(matches!(init(&twice), Err(CertsError::ClientExists(_))));
    assert!(matches!(init(&Plan { replicas: 0, ..plan.clone() }), Err(CertsError::Replicas(0))));
    assert!(matches!(init(&Plan { days: 0, ..plan.clone() }), Err(CertsError::Days(0))));
    assert!(matches!(init(&Plan { port: 65_533, ..plan.clone() }), Err(CertsError::Ports { .. })));
    assert!(!plan.dir.exists());
}
