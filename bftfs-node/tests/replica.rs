//! Replicas as processes, and a client that talks to them without a mount.

use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bftfs_certs::{Plan, Subject, add_client, cluster_path, init, leaf_paths};
use bftfs_fs::{Call, Credentials, Errno, Operation, Outcome, ROOT, decode_outcome};
use bftfs_net::ClientHandle;
use bftfs_node::status::ask;
use bftfs_proto::client::How;
use bftfs_proto::types::ReplicaId;
use bytes::Bytes;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

#[path = "replica/admin.rs"]
mod admin;
#[path = "replica/tools.rs"]
mod tools;

/// Nothing here takes longer on a busy machine, or it hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// A cluster of processes, ended with it.
struct Cluster {
    dir: tempfile::TempDir,
    replicas: Vec<Option<Child>>,
}

impl Cluster {
    fn start(replicas: u32) -> Self {
        Self::start_from(replicas, None)
    }

    /// A new cluster, with the file system in an archive if there is one.
    fn start_from(replicas: u32, archive: Option<&Path>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let port = free_ports(replicas);
        init(&Plan { replicas, port, ..Plan::development(dir.path()) }).unwrap();
        let mut cluster = Self { dir, replicas: (0..replicas).map(|_| None).collect() };
        for id in 0..cluster.replicas.len() {
            let mut format = cluster.command_with("format", id, &cluster.data(id));
            if let Some(archive) = archive {
                format.arg("--import").arg(archive);
            }
            assert!(format.status().unwrap().success());
        }
        cluster.start_all();
        cluster
    }

    fn start_all(&mut self) {
        for id in 0..self.replicas.len() {
            self.replicas[id] = Some(self.command(id).spawn().unwrap());
        }
        for id in 0..self.replicas.len() {
            self.wait_until(id, |_| true);
        }
    }

    fn command(&self, id: usize) -> Command {
        self.command_with("run", id, &self.data(id))
    }

    fn command_with(&self, verb: &str, id: usize, data: &Path) -> Command {
        let subject = Subject::Replica(ReplicaId(u32::try_from(id).unwrap()));
        let (certificate, key) = leaf_paths(self.dir.path(), &subject);
        let mut command = Command::new(env!("CARGO_BIN_EXE_bftfs-node"));
        command.arg(verb).arg("--cluster").arg(cluster_path(self.dir.path()));
        command.arg("--id").arg(id.to_string()).arg("--cert").arg(certificate);
        command.arg("--key").arg(key).arg("--data").arg(data);
        command.stdin(Stdio::null()).stderr(Stdio::null());
        command
    }

    fn data(&self, id: usize) -> PathBuf {
        self.dir.path().join(format!("replica-{id}")).join("data")
    }

    fn status(&self, id: usize) -> Option<Value> {
        let line = ask(&self.data(id).join("status.sock")).ok()?;
        serde_json::from_str(&line).ok()
    }

    /// Waits until a replica says what is wanted of it.
    fn wait_until(&self, id: usize, holds: impl Fn(&Value) -> bool) -> Value {
        let start = Instant::now();
        loop {
            if let Some(status) = self.status(id).filter(&holds) {
                return status;
            }
            assert!(start.elapsed() < PATIENCE, "replica {id} says {:?}", self.status(id));
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn kill(&mut self, id: usize) {
        let mut child = self.replicas[id].take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    fn client(&self, name: &str) -> ClientHandle {
        let (certificate, key) = leaf_paths(self.dir.path(), &Subject::Client(name.into()));
        let client = ClientHandle::spawn(&cluster_path(self.dir.path()), &certificate, &key);
        let client = client.unwrap();
        let readiness = client.ready_blocking(PATIENCE);
        assert!(readiness.is_ready(), "{readiness}");
        client
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for child in self.replicas.iter_mut().flatten() {
            // A test that fails is told of already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The first of `count` UDP ports that are free now, drawn at random.
fn free_ports(count: u32) -> u16 {
    loop {
        let random = u16::try_from(getrandom::u32().unwrap() % 4_900).unwrap();
        // Below those that the kernel hands out: a client may have one of them at any moment.
        let (base, count) = (10_000 + random, u16::try_from(count).unwrap());
        let bind = |port| UdpSocket::bind(("127.0.0.1", port));
        if (base..base + count).map(bind).all(|bound| bound.is_ok()) {
            return base;
        }
    }
}

fn call(client: &ClientHandle, operation: Operation, how: How) -> Outcome {
    let call = Call { credentials: Credentials::default(), operation };
    let result = client.call_blocking(call.encode(), how, PATIENCE).unwrap();
    decode_outcome(&result).unwrap()
}

fn mkdir(client: &ClientHandle, name: &str) -> Outcome {
    let name = Bytes::copy_from_slice(name.as_bytes());
    call(client, Operation::Mkdir { parent: ROOT, name, mode: 0o755 }, How::Ordered)
}

fn lookup(client: &ClientHandle, name: &str) -> Outcome {
    let name = Bytes::copy_from_slice(name.as_bytes());
    call(client, Operation::Lookup { parent: ROOT, name }, How::Read)
}

#[test]
fn what_is_acknowledged_survives_the_crash_of_all() {
    for replicas in [1, 4] {
        let mut cluster = Cluster::start(replicas);
        let client = cluster.client("alice");
        for number in 0..300 {
            mkdir(&client, &format!("d{number}")).unwrap();
        }
        (0..cluster.replicas.len()).for_each(|id| cluster.kill(id));
        cluster.start_all();
        for number in 0..300 {
            assert!(lookup(&client, &format!("d{number}")).is_ok(), "d{number}, n={replicas}");
        }
        assert_eq!(lookup(&client, "none"), Err(Errno::ENOENT));
        assert_eq!(mkdir(&client, "d7"), Err(Errno::EEXIST));
    }
}

#[test]
fn a_killed_backup_catches_up_and_answers_again() {
    let mut cluster = Cluster::start(4);
    let client = cluster.client("alice");
    mkdir(&client, "before").unwrap();
    cluster.kill(2);
    mkdir(&client, "meanwhile").unwrap();
    cluster.replicas[2] = Some(cluster.command(2).spawn().unwrap());
    let executed = |status: &Value| status["last_executed"].as_u64();
    let level = executed(&cluster.wait_until(0, |_| true)).unwrap();
    cluster.wait_until(2, |status| executed(status) >= Some(level));
    let replies = |status: &Value| status["counters"]["sent"]["reply"]["messages"].as_u64();
    // The client dials it again in its own time: what is asked before that, others answer.
    let answers = (0..600).any(|i| {
        mkdir(&client, &format!("after{i}")).unwrap();
        std::thread::sleep(Duration::from_millis(50));
        cluster.status(2).is_some_and(|status| replies(&status) >= Some(1))
    });
    assert!(answers, "replica 2 answers no client");
}

#[test]
fn a_client_is_added_while_the_cluster_runs() {
    let cluster = Cluster::start(4);
    mkdir(&cluster.client("alice"), "shared").unwrap();
    add_client(cluster.dir.path(), "carol", 1).unwrap();
    let carol = cluster.client("carol");
    assert!(lookup(&carol, "shared").is_ok());
    mkdir(&carol, "hers").unwrap();
}

#[test]
fn a_replica_says_where_it_is_and_ends_when_it_is_told_to() {
    let mut cluster = Cluster::start(1);
    let client = cluster.client("alice");
    mkdir(&client, "d").unwrap();
    let status = cluster.status(0).unwrap();
    let number = |name: &str| status[name].as_u64().unwrap_or_else(|| panic!("{name}: {status}"));
    let mut child = cluster.replicas[0].take().unwrap();
    assert_eq!(number("pid"), u64::from(child.id()));
    assert_eq!((number("id"), number("view"), number("primary")), (0, 0, 0));
    assert!(number("last_executed") >= 2, "a session and a directory");
    assert!(number("fsyncs") >= 2);
    for name in ["messages_sent", "messages_received", "bytes_sent", "bytes_received", "cpu_us"] {
        assert!(number(name) > 0, "{name}");
    }
    let pid = Pid::from_child(&child);
    kill_process(pid, Signal::TERM).unwrap();
    assert!(child.wait().unwrap().success());
    assert!(!cluster.data(0).join("status.sock").exists());
}

#[test]
fn a_second_process_is_refused_and_the_first_goes_on() {
    let cluster = Cluster::start(1);
    let client = cluster.client("alice");
    let output = cluster.command(0).stderr(Stdio::piped()).output().unwrap();
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("in use by another process"), "{said}");
    let data = cluster.dir.path().join("elsewhere");
    assert!(cluster.command_with("format", 0, &data).status().unwrap().success());
    let mut elsewhere = cluster.command_with("run", 0, &data);
    let output = elsewhere.stderr(Stdio::piped()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("UDP port"), "{said}");
    mkdir(&client, "still").unwrap();
}

#[test]
fn a_replica_that_lost_its_disk_says_so_and_comes_back_by_its_operators_word_alone() {
    let mut cluster = Cluster::start(4);
    let client = cluster.client("alice");
    mkdir(&client, "before").unwrap();
    cluster.kill(3);
    std::fs::remove_dir_all(cluster.data(3)).unwrap();
    let output = cluster.command(3).stderr(Stdio::piped()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("bftfs-node recover"), "{said}");
    let again = |cluster: &Cluster| {
        let mut recover = cluster.command_with("recover", 3, &cluster.data(3));
        recover.status().unwrap().success()
    };
    assert!(again(&cluster));
    assert!(!again(&cluster), "what is there is not overwritten");
    cluster.replicas[3] = Some(cluster.command(3).spawn().unwrap());
    // It learns its bounds, and the others go on with nothing for it; then they change the view.
    let bound = |status: &Value| status["listening"][1].as_u64();
    let view = bound(&cluster.wait_until(3, |status| bound(status).is_some())).unwrap();
    for wanted in 1..=view {
        for id in 0..3 {
            let pid = Pid::from_child(cluster.replicas[id].as_ref().unwrap());
            kill_process(pid, Signal::USR2).unwrap();
        }
        cluster.wait_until(0, |status| {
            status["view"].as_u64() >= Some(wanted) && status["active"] == true
        });
    }
    cluster.wait_until(3, |status| status["listening"].is_null());
    cluster.kill(0);
    mkdir(&client, "after").unwrap();
    assert!(lookup(&client, "before").is_ok() && lookup(&client, "after").is_ok());
}

#[test]
fn a_replica_that_the_cluster_does_not_have_is_refused() {
    let cluster = Cluster::start(1);
    let (certificate, key) = leaf_paths(cluster.dir.path(), &Subject::Client("alice".into()));
    let data = cluster.dir.path().join("d");
    let said = |id: &str, certificate: &Path, key: &Path| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bftfs-node"));
        command.arg("run").arg("--cluster").arg(cluster_path(cluster.dir.path()));
        command.args(["--id", id]).arg("--cert").arg(certificate).arg("--key").arg(key);
        let output = command.arg("--data").arg(&data).output().unwrap();
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let unknown = said("7", &certificate, &key);
    assert!(unknown.contains("has no replica 7: its 1 have the ids 0 to 0"), "{unknown}");
    let client = said("0", &certificate, &key);
    assert!(client.contains("is that of client 1, not of replica 0"), "{client}");
    assert!(!data.exists(), "nothing was made for whoever was refused");
}
