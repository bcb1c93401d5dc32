use bftfs_proto::auth::Signer;

use super::*;

fn key(seed: u8) -> PublicKey {
    Signer::from_seed(&[seed; 32]).public()
}

fn cluster(n: u8) -> ClusterFile {
    let replica = |id: u8| ReplicaMember {
        address: SocketAddr::from(([127, 0, 0, 1], 4800 + u16::from(id))),
        key: key(id),
    };
    let client =
        |name: &str, seed| ClientMember { name: name.into(), key: key(seed), admin: seed == 102 };
    ClusterFile {
        path: "dir/cluster.toml".into(),
        name: "dev".into(),
        id: Digest([7; 32]),
        durability: Durability::Sync,
        ca: "ca.crt".into(),
        capacity_bytes: 1 << 40,
        capacity_inodes: 1 << 24,
        replicas: (0..n).map(replica).collect(),
        clients: [(ClientId(1), client("alice", 101)), (ClientId(2), client("bob", 102))].into(),
    }
}

fn problems(text: &str) -> Vec<Problem> {
    match ClusterFile::parse(text, Path::new("cluster.toml")) {
        Err(ClusterFileError::Rules { problems, .. }) => problems,
        other => panic!("expected broken rules, got {other:?}"),
    }
}

#[test]
fn what_is_written_is_read_again() {
    for n in [1, 4, 7] {
        let file = cluster(n);
        let parsed = ClusterFile::parse(&file.to_toml(), &file.path).unwrap();
        assert_eq!(parsed, file);
        assert_eq!(parsed.administrators(), [ClientId(2)]);
        assert_eq!(parsed.cluster().n(), usize::from(n));
        assert_eq!(parsed.ca_path(), Path::new("dir/ca.crt"));
    }
}

#[test]
fn a_client_is_appended() {
    let carol = ClientMember { name: "carol".into(), key: key(103), admin: false };
    let text = cluster(4).to_toml() + &client_entry(ClientId(3), &carol);
    let parsed = ClusterFile::parse(&text, Path::new("cluster.toml")).unwrap();
    assert_eq!(parsed.clients[&ClientId(3)], carol);
    assert_eq!(parsed.principal(&carol.key), Some(Principal::Client(ClientId(3))));
    assert_eq!(parsed.principal(&key(2)), Some(Principal::Replica(ReplicaId(2))));
    assert_eq!(parsed.principal(&key(99)), None);
}

#[test]
fn each_broken_rule_is_named() {
    let good = cluster(4).to_toml();
    let [key0, key1, alice] = [key(0), key(1), key(101)].map(|key| hex(&key));
    let cases: [(&str, &str, Problem); 17] = [
        ("version = 1", "version = 2", Problem::Version(2)),
        ("version = 1\n", "", Problem::NoVersion),
        ("name = \"dev\"", "name = \"\"", Problem::NoName),
        ("\"sync\"", "\"fast\"", Problem::Durability("fast".into())),
        ("1099511627776", "0", Problem::Capacity("capacity_bytes")),
        ("16777216", "0", Problem::Capacity("capacity_inodes")),
        ("id = \"0707", "id = \"xx07", Problem::Hex { field: "id", of: "the cluster".into() }),
        (&key0, "abc", Problem::Hex { field: "key", of: "replica 0".into() }),
        (&key0, &"00".repeat(32), Problem::Key("replica 0".into())),
        (&key0, &key1, Problem::KeyTwice("replica 0".into(), "replica 1".into())),
        (&alice, &key1, Problem::KeyTwice("replica 1".into(), "client 1 \"alice\"".into())),
        (":4801", ":4800", Problem::AddressTwice("127.0.0.1:4800".parse().unwrap())),
        ("127.0.0.1:4801", "somewhere", Problem::Address { id: 1, address: "somewhere".into() }),
        (
            "127.0.0.1:4801",
            "0.0.0.0:4801",
            Problem::Undialable { id: 1, address: "0.0.0.0:4801".parse().unwrap() },
        ),
        ("\nid = 3", "\nid = 4", Problem::ReplicaId { id: 4, n: 4 }),
        ("\"bob\"", "\"alice\"", Problem::NameTwice("alice".into())),
        ("\"bob\"", "\"Bob/\"", Problem::Name("Bob/".into())),
    ];
    for (from, to, problem) in cases {
        let text = good.replacen(from, to, 1);
        assert_ne!(text, good, "{from} is in the file");
        assert_eq!(problems(&text), [problem]);
    }
}

#[test]
fn ids_are_unique_and_dense() {
    let twice = cluster(4).to_toml().replacen("\nid = 3", "\nid = 2", 1);
    assert_eq!(problems(&twice), [Problem::ReplicaTwice(2)]);
    let client = cluster(4).to_toml().replacen("id = 2\nname", "id = 1\nname", 1);
    assert_eq!(problems(&client), [Problem::ClientTwice(1)]);
    let mut none = cluster(1);
    none.replicas.clear();
    assert_eq!(problems(&none.to_toml()), [Problem::NoReplica]);
}

#[test]
fn unknown_and_missing_fields_are_refused() {
    let unknown = cluster(4).to_toml().replacen("name", "colour = \"red\"\nname", 1);
    let missing = cluster(4).to_toml().replacen("name = \"dev\"\n", "", 1);
    for (text, word) in [(unknown, "colour"), (missing, "name"), ("[[".into(), "1")] {
        let problems = problems(&text);
        let [Problem::Syntax(message)] = &problems[..] else { panic!("{problems:?}") };
        assert!(message.contains(word), "{message}");
    }
}

#[test]
fn all_problems_are_named_at_once() {
    let text = cluster(4).to_toml().replace("\"sync\"", "\"\"").replace(":4802", "");
    let error = ClusterFile::parse(&text, Path::new("x/cluster.toml")).unwrap_err().to_string();
    assert!(error.contains("x/cluster.toml"), "{error}");
    assert!(error.contains("durability") && error.contains("replica 2"), "{error}");
}
