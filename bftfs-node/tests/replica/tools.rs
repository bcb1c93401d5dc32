//! What an operator looks at stopped replicas with.

use std::collections::BTreeMap;
use std::fs;

use super::*;

/// The contents of all files below a directory, and when they were changed.
fn files(dir: &Path) -> BTreeMap<PathBuf, (Vec<u8>, std::time::SystemTime)> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(self::files(&path));
        } else if path.is_file() {
            let changed = path.metadata().unwrap().modified().unwrap();
            files.insert(path.clone(), (fs::read(&path).unwrap(), changed));
        }
    }
    files
}

fn write_file(client: &ClientHandle, name: &str, contents: &[u8]) {
    let name = Bytes::copy_from_slice(name.as_bytes());
    let (mode, mask, exclusive, truncate) = (0o644, 0, true, false);
    let create = Operation::Create { parent: ROOT, name, mode, mask, exclusive, truncate };
    let Ok(bftfs_fs::Reply::Attributes(file)) = call(client, create, How::Ordered) else {
        panic!("the file is made")
    };
    let data = Bytes::copy_from_slice(contents);
    let write = Operation::Write { ino: file.ino, offset: 0, data, append: false };
    call(client, write, How::Ordered).unwrap();
}

/// A replica that has stored a checkpoint, stopped.
pub(super) fn stopped() -> Cluster {
    let mut cluster = Cluster::start(1);
    let client = cluster.client("alice");
    for number in 0..8_u8 {
        write_file(&client, &format!("f{number}"), &[number; 20_000]);
    }
    let stable = |cluster: &Cluster| cluster.status(0).unwrap()["last_stable"].as_u64();
    for number in 0.. {
        mkdir(&client, &format!("d{number}")).unwrap();
        if stable(&cluster) > Some(0) {
            break;
        }
    }
    cluster.stop(0);
    cluster
}

impl Cluster {
    pub(super) fn stop(&mut self, id: usize) {
        let mut child = self.replicas[id].take().unwrap();
        kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
        assert!(child.wait().unwrap().success());
    }

    /// Runs `verb` on a data directory; returns its exit code and what it printed.
    pub(super) fn look(&self, verb: &str, id: usize) -> (i32, Value) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bftfs-node"));
        command.arg(verb).arg("--cluster").arg(cluster_path(self.dir.path()));
        command.arg("--id").arg(id.to_string()).arg("--data").arg(self.data(id)).arg("--json");
        let output = command.stdin(Stdio::null()).output().unwrap();
        let said = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| {
            Value::String(String::from_utf8_lossy(&output.stderr).into_owned())
        });
        (output.status.code().unwrap(), said)
    }
}

#[test]
fn a_stopped_replica_is_inspected_and_verified_and_not_changed() {
    let mut cluster = stopped();
    let before = files(&cluster.data(0));
    let (code, found) = cluster.look("inspect", 0);
    assert_eq!(code, 0, "{found}");
    let seq = found["checkpoint"]["seq"].as_u64().unwrap();
    assert!(seq > 0 && found["stable"].as_u64().unwrap() >= seq, "{found}");
    assert_eq!((found["format"].as_u64(), found["replica"].as_u64()), (Some(2), Some(0)));
    assert!(found["journal_records"].as_u64().unwrap() > 1, "{found}");
    assert!(found["store"]["live_bytes"].as_u64().unwrap() > 8 * 20_000, "{found}");
    assert!(found["checkpoint"]["used_inodes"].as_u64().unwrap() > 100, "{found}");
    assert!(found["checkpoint"]["used_bytes"].as_u64().unwrap() > 8 * 20_000, "{found}");
    let (code, said) = cluster.look("verify", 0);
    assert_eq!((code, &said["damages"]), (0, &serde_json::json!([])), "{said}");
    assert_eq!(files(&cluster.data(0)), before, "nothing was changed");

    cluster.start_all();
    let (code, said) = cluster.look("verify", 0);
    assert_eq!(code, 2, "one that runs cannot be checked");
    assert!(said.as_str().unwrap().contains("in use by another process"), "{said}");
}

#[test]
fn verify_lists_what_is_damaged() {
    let cluster = stopped();
    let data = cluster.data(0);
    let pack = data.join("store/0000000001.pack");
    let segment = data.join("journal/0000000000.segment");
    let cases = [
        (pack, 30_000, "block"),
        (segment, 200, "group"),
        (data.join("store/superblock.0"), 70, "superblock"),
        (data.join("identity"), 70, "hash"),
    ];
    for (path, at, what) in cases {
        let whole = fs::read(&path).unwrap();
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        fs::write(&path, &bytes).unwrap();
        let (code, said) = cluster.look("verify", 0);
        assert_eq!(code, 1, "{}: {said}", path.display());
        let damage = said["damages"].as_array().unwrap().first().unwrap().clone();
        assert_eq!(damage["file"].as_str(), path.to_str(), "{said}");
        assert!(damage["what"].as_str().unwrap().contains(what), "{said}");
        assert!(!damage["remedy"].as_str().unwrap().is_empty());
        fs::write(&path, &whole).unwrap();
    }
    assert_eq!(cluster.look("verify", 0).0, 0, "it is whole again");
}

#[test]
fn a_running_replica_scrubs_its_store_when_it_is_asked() {
    let mut cluster = stopped();
    let data = cluster.data(0);
    cluster.start_all();
    let scrub = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bftfs-node"));
        command.arg("scrub").arg("--socket").arg(data.join("status.sock"));
        let output = command.stdin(Stdio::null()).output().unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
    };
    let (code, said) = scrub();
    assert!(code == 0 && said.contains(" 0 blocks are damaged"), "{said}");
    let store = cluster.status(0).unwrap()["store"].clone();
    assert_eq!(store["scrub"]["finished"], 1, "{store}");
    assert!(store["scrub"]["done_bytes"].as_u64() > Some(8 * 20_000), "{store}");

    let pack = data.join("store/0000000001.pack");
    let bytes = fs::read(&pack).unwrap();
    let damage = std::os::unix::fs::FileExt::write_all_at;
    let file = fs::OpenOptions::new().write(true).open(&pack).unwrap();
    damage(&file, &[bytes[30_000] ^ 1], 30_000).unwrap();
    let (code, said) = scrub();
    assert!(code == 1 && said.contains(" 1 blocks are damaged"), "{said}");
    assert_eq!(cluster.status(0).unwrap()["store"]["damaged"], 1);
}

fn read_file(client: &ClientHandle, name: &str) -> Bytes {
    let Ok(bftfs_fs::Reply::Attributes(file)) = lookup(client, name) else {
        panic!("{name} is there")
    };
    let read = Operation::Read {
        ino: file.ino,
        offset: 0,
        length: 1 << 15,
        touch: bftfs_fs::Touch::Never,
    };
    match call(client, read, How::Read) {
        Ok(bftfs_fs::Reply::Data(bytes)) => bytes,
        other => panic!("{name}: {other:?}"),
    }
}

#[test]
fn a_file_system_is_exported_and_a_new_cluster_begins_with_it() {
    let old = stopped();
    let archive = old.dir.path().join("archive");
    let export = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bftfs-node"));
        command.arg("export").arg("--cluster").arg(cluster_path(old.dir.path()));
        command.args(["--id", "0"]).arg("--data").arg(old.data(0)).arg("--out").arg(&archive);
        command.stdin(Stdio::null()).stderr(Stdio::null()).status().unwrap().success()
    };
    let before = files(&old.data(0));
    assert!(export());
    assert_eq!(files(&old.data(0)), before, "nothing was changed");
    assert!(!export(), "what is there is not overwritten");

    for replicas in [1, 4] {
        let mut cluster = Cluster::start_from(replicas, Some(&archive));
        let client = cluster.client("alice");
        for number in 0..8_u8 {
            assert_eq!(read_file(&client, &format!("f{number}")), vec![number; 20_000]);
        }
        assert_eq!(mkdir(&client, "d0"), Err(Errno::EEXIST));
        mkdir(&client, "new").unwrap();
        // All begin again from the same, and go on beyond the next checkpoint.
        (0..cluster.replicas.len()).for_each(|id| cluster.kill(id));
        cluster.start_all();
        assert!(lookup(&client, "new").is_ok() && lookup(&client, "d0").is_ok());
        for number in 0.. {
            mkdir(&client, &format!("n{number}")).unwrap();
            if cluster.status(0).unwrap()["last_stable"].as_u64() > Some(0) {
                break;
            }
        }
        (0..cluster.replicas.len()).for_each(|id| cluster.stop(id));
        assert_eq!(cluster.look("verify", 0).0, 0);
    }
}

#[test]
fn an_archive_that_is_cut_or_altered_makes_no_replica() {
    let old = stopped();
    let archive = old.dir.path().join("archive");
    let mut export = Command::new(env!("CARGO_BIN_EXE_bftfs-node"));
    export.arg("export").arg("--cluster").arg(cluster_path(old.dir.path()));
    export.args(["--id", "0"]).arg("--data").arg(old.data(0)).arg("--out").arg(&archive);
    assert!(export.stdin(Stdio::null()).status().unwrap().success());
    let whole = fs::read(&archive).unwrap();
    let mut altered = whole.clone();
    altered[50_000] ^= 1;
    let cut = whole[..whole.len() - 100].to_vec();
    let data = old.dir.path().join("other");
    for (bytes, what) in [(altered, "altered"), (cut, "cut short"), (vec![1; 99], "not an archive")]
    {
        fs::write(&archive, bytes).unwrap();
        let mut format = old.command_with("format", 0, &data);
        let output = format.arg("--import").arg(&archive).stderr(Stdio::piped()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(what), "{said}");
    }
    // And what it left does not stand in the way.
    fs::write(&archive, whole).unwrap();
    assert!(
        old.command_with("format", 0, &data)
            .arg("--import")
            .arg(&archive)
            .status()
            .unwrap()
            .success()
    );
}
