//! The tool of administrators, against a running cluster.

use std::process::Output;

use bftfs_certs::make_client;
use bftfs_proto::client::Failure;

use super::*;

/// Runs `bftfs-node admin` as a client.
fn admin(cluster: &Cluster, who: &str, arguments: &[&str]) -> Output {
    let (certificate, key) = leaf_paths(cluster.dir.path(), &Subject::Client(who.into()));
    let mut command = Command::new(env!("CARGO_BIN_EXE_bftfs-node"));
    command.arg("admin").arg("--cluster").arg(cluster_path(cluster.dir.path()));
    command.arg("--cert").arg(certificate).arg("--key").arg(key);
    command.args(arguments).stdin(Stdio::null()).output().unwrap()
}

fn done(cluster: &Cluster, arguments: &[&str]) -> String {
    let output = admin(cluster, "admin", arguments);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

fn refused(cluster: &Cluster, who: &str, arguments: &[&str]) -> String {
    let output = admin(cluster, who, arguments);
    assert_eq!(output.status.code(), Some(1), "{arguments:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn listed(cluster: &Cluster, name: &str) -> Value {
    let list: Value = serde_json::from_str(&done(cluster, &["list", "--json"])).unwrap();
    let found = list.as_array().unwrap().iter().find(|client| client["name"] == name);
    found.unwrap_or_else(|| panic!("{name}: {list}")).clone()
}

/// What a client is told whose access may have been revoked.
fn told(client: &ClientHandle) -> Outcome {
    let operation = Operation::Lookup { parent: ROOT, name: Bytes::from_static(b"hers") };
    let call = Call { credentials: Credentials::default(), operation }.encode();
    match client.call_blocking(call, How::Read, PATIENCE) {
        Ok(answer) => decode_outcome(&answer).unwrap(),
        Err(failure) => {
            assert_eq!(failure, Failure::Refused);
            Err(Errno::EACCES)
        }
    }
}

#[test]
fn a_client_is_admitted_confined_and_revoked_and_a_restart_keeps_it() {
    let mut cluster = Cluster::start(4);
    let alice = cluster.client("alice");
    mkdir(&alice, "hers").unwrap();
    mkdir(&alice, "outside").unwrap();
    make_client(cluster.dir.path(), "carol", 1).unwrap();
    let (certificate, key) = leaf_paths(cluster.dir.path(), &Subject::Client("carol".into()));
    let file = cluster.dir.path().join("carol.toml");
    let (certificate_text, out) = (certificate.to_str().unwrap(), file.to_str().unwrap());
    let add = ["add", "--certificate", certificate_text, "carol", "--subtree", "/hers"];
    let said = done(&cluster, &[&add[..], &["--read-only", "--out", out]].concat());
    assert!(said.starts_with("client 3 \"carol\" is admitted"), "{said}");
    let twice = refused(&cluster, "admin", &add);
    assert!(twice.contains("that of client 3 already"), "{twice}");

    let carol = ClientHandle::spawn(&file, &certificate, &key).unwrap();
    assert!(carol.ready_blocking(PATIENCE).is_ready());
    assert_eq!(lookup(&carol, "outside"), Err(Errno::ENOENT));
    assert_eq!(mkdir(&carol, "d"), Err(Errno::EROFS));
    let said = done(&cluster, &["set", "carol", "--subtree", "hers", "--uids", "0,7-9"]);
    assert!(said.contains("read-write, within directory 2, users 0-0 7-9"), "{said}");
    mkdir(&carol, "d").unwrap();
    assert!(lookup(&alice, "d").is_err() && lookup(&carol, "d").is_ok());

    (0..4).for_each(|id| cluster.kill(id));
    cluster.start_all();
    assert!(carol.ready_blocking(PATIENCE).is_ready());
    assert_eq!(lookup(&carol, "outside"), Err(Errno::ENOENT));
    assert_eq!(listed(&cluster, "carol")["rule"]["uids"][1]["last"], 9);
    done(&cluster, &["revoke", "3"]);
    let start = Instant::now();
    assert_eq!(told(&carol), Err(Errno::EACCES));
    assert!(start.elapsed() < PATIENCE / 4, "at once, and not at a deadline");
    assert_eq!(listed(&cluster, "carol")["revoked"], true);
    // The cluster file names alice, but that counts for less.
    done(&cluster, &["revoke", "alice"]);
    (0..4).for_each(|id| cluster.kill(id));
    cluster.start_all();
    let (certificate, key) = leaf_paths(cluster.dir.path(), &Subject::Client("alice".into()));
    let cluster_file = cluster_path(cluster.dir.path());
    let again = ClientHandle::spawn(&cluster_file, &certificate, &key).unwrap();
    // She may be let in until the replicas have executed again what says that she is not to be.
    assert_eq!(told(&again), Err(Errno::EACCES));
    done(&cluster, &["set", "alice"]);
    assert!(again.ready_blocking(PATIENCE).is_ready());
    assert!(lookup(&again, "hers").is_ok());
}

#[test]
fn what_an_administrator_may_not_do_is_told() {
    let cluster = Cluster::start(1);
    let said = refused(&cluster, "alice", &["list"]);
    assert!(said.contains("is not an administrator's"), "{said}");
    let certificate = cluster.dir.path().join("client-alice/client.crt");
    let replica = cluster.dir.path().join("replica-0/replica.crt");
    let (certificate, replica) = (certificate.to_str().unwrap(), replica.to_str().unwrap());
    let cases: [(&[&str], &str); 9] = [
        (&["revoke", "nobody"], "there is no client \"nobody\""),
        (&["set", "7"], "there is no client \"7\""),
        (&["revoke", "admin"], "is the last administrator"),
        (&["set", "admin", "--read-only"], "is the last administrator"),
        (&["set", "alice", "--subtree", "/none"], "the subtree /none cannot be had"),
        (&["add", "--certificate", "/none", "x"], "cannot read /none"),
        (&["add", "--certificate", replica, "x"], "which is no client"),
        (&["add", "--certificate", certificate, "X y"], "must be lower-case letters"),
        (&["add", "--certificate", certificate, "admin"], "has the name \"admin\" already"),
    ];
    for (arguments, expected) in cases {
        let said = refused(&cluster, "admin", arguments);
        assert!(said.contains(expected), "{arguments:?}: {said}");
    }
    for wrong in [["--uids", "9-7"], ["--gids", "x"], ["--squash", "1"]] {
        let output = admin(&cluster, "admin", &[&["set", "alice"][..], &wrong].concat());
        assert_eq!(output.status.code(), Some(2), "{wrong:?}");
    }
    let mut ended = cluster;
    ended.kill(0);
    let said = refused(&ended, "admin", &["--timeout", "1", "list"]);
    assert!(said.contains("no quorum within 1s"), "{said}");
}
