//! The cluster file, written by people.

use std::path::Path;

use bftfs_net::ClusterFile;

/// Any text. What is accepted keeps the rules, and is written and read again as the same.
pub fn run(data: &[u8]) {
    let (Ok(text), path) = (std::str::from_utf8(data), Path::new("dir/cluster.toml")) else {
        return;
    };
    match ClusterFile::parse(text, path) {
        Err(error) => assert!(error.to_string().contains("cluster.toml"), "it names the file"),
        Ok(file) => {
            let again = ClusterFile::parse(&file.to_toml(), path);
            assert_eq!(again.ok().as_ref(), Some(&file), "what is written is read again");
            let cluster = file.cluster();
            assert!((cluster.f() + 1..=cluster.n()).contains(&cluster.quorum()));
            let keys = cluster.replicas.iter().chain(cluster.clients.values());
            assert!(keys.clone().all(|key| file.principal(key).is_some()));
            let distinct: std::collections::BTreeSet<_> = keys.clone().collect();
            assert_eq!(distinct.len(), keys.count(), "a key is one member's");
        }
    }
}
