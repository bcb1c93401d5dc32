//! What is wrong is refused with a clear message, and the cluster goes on.

use std::fs;
use std::net::UdpSocket;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, ensure};
use bftfs_certs::{Authority, Key, Period, Plan, Subject};
use bftfs_dev::{Mode, find};

use crate::lab::{Lab, refused, with_cluster};
use crate::workload::{Load, Numbers};

/// The unit in which a journal is written.
const PAGE: usize = 4096;

/// What a mount is told.
struct Mount {
    cluster: PathBuf,
    certificate: PathBuf,
    key: PathBuf,
    point: PathBuf,
}

impl Mount {
    /// What a mount of the lab's cluster is rightly told.
    fn right(lab: &Lab, name: &str) -> Result<Self> {
        let client = lab.cluster.dir().join("client-dev");
        Ok(Self {
            cluster: lab.cluster.cluster_file(),
            certificate: client.join("client.crt"),
            key: client.join("client.key"),
            point: lab.directory(name)?,
        })
    }

    /// Mounts, which is to fail and to say each of `reasons`.
    fn refused(&self, reasons: &[&str]) -> Result<()> {
        let path = |path: &Path| path.display().to_string();
        let said = refused(
            "bftfs-mount",
            &[
                "--cluster",
                &path(&self.cluster),
                "--cert",
                &path(&self.certificate),
                "--key",
                &path(&self.key),
                "--mode",
                "strict",
                "--connect-timeout",
                "3s",
                &path(&self.point),
            ],
        )?;
        ensure!(!bftfs_dev::is_mounted(&self.point), "it is mounted all the same");
        says(&said, reasons)
    }
}

fn says(said: &str, reasons: &[&str]) -> Result<()> {
    for reason in reasons {
        ensure!(said.contains(reason), "{reason:?} is not said in: {said}");
    }
    Ok(())
}

/// Runs `test` on a cluster that works before it and has to work after it.
fn undisturbed(test: impl FnOnce(&Lab) -> Result<()>) {
    with_cluster(4, |lab| {
        let mount = lab.mount("witness", Mode::Strict)?;
        let load = Load::start(mount.point());
        test(lab)?;
        let ledger = load.stop();
        assert_eq!(ledger.failures, [""; 0], "the workload notices nothing");
        ensure!(ledger.len() > 0, "the workload worked");
        ledger.verify(mount.point())
    });
}

#[test]
fn wrong_certificates_are_refused() {
    undisturbed(|lab| {
        let dir = lab.cluster.dir().to_owned();
        let right = Mount::right(lab, "a")?;
        let replica = dir.join("replica-1");
        let certificate = replica.join("replica.crt");
        let key = replica.join("replica.key");
        Mount { certificate: certificate.clone(), ..Mount::right(lab, "b")? }
            .refused(&["does not belong to the certificate"])?;
        Mount { certificate, key, ..Mount::right(lab, "c")? }
            .refused(&["is that of replica 1, not of a client"])?;
        Mount { key: dir.join("missing"), ..Mount::right(lab, "d")? }
            .refused(&["cannot read", "missing"])?;
        Mount { key: right.certificate.clone(), ..Mount::right(lab, "e")? }.refused(&[""])?;

        let open = lab.directory("open")?.join("client.key");
        fs::copy(&right.key, &open)?;
        fs::set_permissions(&open, fs::Permissions::from_mode(0o644))?;
        Mount { key: open, ..right }.refused(&["chmod 600"])
    });
}

#[test]
fn an_expired_certificate_is_refused() {
    undisturbed(|lab| {
        let authority = Authority::load(lab.cluster.dir(), "dev")?;
        let ago = |hours: u64| SystemTime::now() - Duration::from_secs(hours * 3600);
        let period = Period { from: ago(48), to: ago(24) };
        let key = Key::generate()?;
        let subject = Subject::Client("dev".to_owned());
        let right = Mount::right(lab, "mnt")?;
        let dir = lab.directory("expired")?;
        let expired =
            Mount { certificate: dir.join("client.crt"), key: dir.join("client.key"), ..right };
        fs::write(&expired.certificate, authority.issue("dev", &subject, &key, period)?)?;
        fs::write(&expired.key, key.pem())?;
        fs::set_permissions(&expired.key, fs::Permissions::from_mode(0o600))?;
        expired.refused(&["is valid from", "make a new one"])
    });
}

#[test]
fn unknown_clients_are_refused() {
    undisturbed(|lab| {
        // Of another cluster, which this cluster's file does not know.
        let other = lab.directory("other")?;
        let plan = Plan { clients: vec!["dev".to_owned()], ..Plan::development(&other) };
        bftfs_certs::init(&plan)?;
        let certificate = other.join("client-dev/client.crt");
        let key = other.join("client-dev/client.key");
        let stranger = Mount { certificate, key, ..Mount::right(lab, "a")? };
        stranger.refused(&["is in no [[replica]] or [[client]]"])?;

        // Of this cluster's CA, and in the file that it uses, but not in that of the replicas.
        let copy = lab.directory("copy")?;
        for file in ["cluster.toml", "ca.crt", "ca.key"] {
            fs::copy(lab.cluster.dir().join(file), copy.join(file))?;
        }
        bftfs_certs::add_client(&copy, "mallory", 1)?;
        let mallory = copy.join("client-mallory");
        let unknown = Mount {
            cluster: copy.join("cluster.toml"),
            certificate: mallory.join("client.crt"),
            key: mallory.join("client.key"),
            ..Mount::right(lab, "b")?
        };
        unknown.refused(&["replica"])?;

        // Once the replicas know it, it is welcome, without a restart.
        bftfs_certs::add_client(lab.cluster.dir(), "late", 1)?;
        let mut options = bftfs_dev::MountOptions::new(&lab.directory("late")?, Mode::Strict);
        options.client = Some("late".to_owned());
        let mount = lab.cluster.mount(&options)?;
        fs::write(mount.point().join("late"), "late")?;
        mount.unmount()
    });
}

#[test]
fn a_malformed_cluster_file_is_refused_with_every_broken_rule() {
    undisturbed(|lab| {
        let right = fs::read_to_string(lab.cluster.cluster_file())?;
        let dir = lab.directory("wrong")?;
        for (number, (from, to, reasons)) in BROKEN.iter().enumerate() {
            ensure!(right.contains(from), "{from:?} is in the cluster file");
            let cluster = dir.join(format!("cluster-{number}.toml"));
            fs::write(&cluster, right.replacen(from, to, 1))?;
            let mount = Mount { cluster, ..Mount::right(lab, &format!("mnt-{number}"))? };
            mount.refused(reasons)?;
            let said =
                run_replica(lab, 1, &mount.cluster, &lab.cluster.replica_dir(1).join("data"))?;
            says(&said, reasons)?;
        }
        let missing = Mount { cluster: dir.join("missing"), ..Mount::right(lab, "mnt")? };
        missing.refused(&["cannot read the cluster file"])
    });
}

/// Something to replace in a cluster file, by what, and what is to be said of it.
const BROKEN: &[(&str, &str, &[&str])] = &[
    ("version = 1", "version = 2", &["version 2 is not known"]),
    ("durability = \"sync\"", "durability = \"none\"", &["durability \"none\" is unknown"]),
    ("name = ", "colour = \"blue\"\nname = ", &["colour"]),
    ("id = 3", "id = 2", &["replica id 2 is used twice"]),
    ("address = \"", "address = \"nowhere", &["is not IP:PORT"]),
    ("[[replica]]", "[[replica", &["refused"]),
];

#[test]
fn wrong_mount_points_are_refused() {
    undisturbed(|lab| {
        let right = Mount::right(lab, "mnt")?;
        let point = right.point.join("missing");
        Mount { point, ..Mount::right(lab, "a")? }.refused(&["does not exist"])?;
        fs::write(right.point.join("file"), "")?;
        let point = right.point.join("file");
        Mount { point, ..Mount::right(lab, "b")? }.refused(&["is not a directory"])?;
        right.refused(&["is not empty"])
    });
}

#[test]
fn a_port_in_use_is_refused() {
    undisturbed(|lab| {
        // A cluster of its own, whose first port somebody else has.
        let dir = lab.directory("other")?;
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        let port = socket.local_addr()?.port();
        bftfs_certs::init(&Plan { replicas: 1, port, ..Plan::development(&dir) })?;
        let (cluster, replica) = (dir.join("cluster.toml"), dir.join("replica-0"));
        let arguments = arguments("format", &cluster, 0, &replica, &replica.join("data"));
        let made = std::process::Command::new(find("bftfs-node")?).args(arguments).status()?;
        ensure!(made.success(), "the data directory is made");
        let said = run(&cluster, 0, &replica, &replica.join("data"))?;
        says(&said, &["in use", &port.to_string()])
    });
}

#[test]
fn a_replica_without_its_data_does_not_begin_anew() {
    undisturbed(|lab| {
        let cluster = lab.cluster.cluster_file();
        let said = run_replica(lab, 3, &cluster, &lab.directory("nothing")?)?;
        says(&said, &["there is no data of replica 3", "bftfs-node recover"])
    });
}

#[test]
fn the_data_of_another_replica_or_cluster_is_refused() {
    undisturbed(|lab| {
        let cluster = lab.cluster.cluster_file();
        let keys = lab.cluster.replica_dir(3);
        says(&run_replica(lab, 3, &cluster, &keys.join("data"))?, &["in use"])?;
        says(&run(&cluster, 2, &keys, &keys.join("data"))?, &["of replica 3, not of replica 2"])?;

        lab.cluster.kill(3)?;
        let data = lab.directory("copy")?;
        copy_all(&keys.join("data"), &data)?;
        lab.cluster.restart(3)?;
        level_soon(lab, 3)?;

        let other = lab.directory("other")?;
        bftfs_certs::init(&Plan { port: 4900, ..Plan::development(&other) })?;
        let said = run(&other.join("cluster.toml"), 3, &other.join("replica-3"), &data)?;
        says(&said, &["belongs to replica 3 of cluster"])?;

        // Its port is free only while it is away.
        lab.cluster.kill(2)?;
        let said = run_replica(lab, 2, &cluster, &data);
        lab.cluster.restart(2)?;
        says(&said?, &["belongs to replica 3", "not to replica 2"])?;
        level_soon(lab, 2)
    });
}

/// Copies the files of a directory, and of those in it.
fn copy_all(from: &Path, to: &Path) -> Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        let kind = entry.file_type()?;
        if kind.is_dir() {
            fs::create_dir(&to)?;
            copy_all(&entry.path(), &to)?;
        } else if kind.is_file() {
            fs::copy(entry.path(), &to)?;
        }
    }
    Ok(())
}

#[test]
fn a_torn_end_of_a_journal_is_no_harm() {
    undisturbed(|lab| {
        lab.cluster.kill(3)?;
        let journal = lab.cluster.replica_dir(3).join("data/journal");
        let newest = fs::read_dir(&journal)?
            .map(|entry| Ok(entry?.path()))
            .collect::<Result<Vec<_>>>()?
            .into_iter()
            .max()
            .context("a journal has segments")?;
        let bytes = fs::read(&newest)?;
        let written = bytes.chunks(PAGE).rposition(|page| page.iter().any(|byte| *byte != 0));
        let end = written.map_or(0, |last| (last + 1) * PAGE);
        ensure!(end + 2 * PAGE <= bytes.len(), "the segment has room for a torn write");
        let mut numbers = Numbers::new(99);
        let torn: Vec<u8> = (0..PAGE + 100).map(|_| numbers.byte()).collect();
        fs::OpenOptions::new().write(true).open(&newest)?.write_all_at(&torn, end as u64)?;
        lab.cluster.restart(3)?;
        level_soon(lab, 3)
    });
}

/// Waits until replica `id` has executed what the others had executed when this was called.
fn level_soon(lab: &Lab, id: usize) -> Result<()> {
    let target = lab.executed().into_iter().flatten().max();
    for _ in 0..600 {
        if lab.executed()[id] >= target {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    anyhow::bail!("replica {id} does not catch up to {target:?}: {:?}", lab.executed())
}

/// Runs replica `id` with the lab's keys, which is to fail; returns what it says.
fn run_replica(lab: &Lab, id: u32, cluster: &Path, data: &Path) -> Result<String> {
    run(cluster, id, &lab.cluster.replica_dir(id), data)
}

fn run(cluster: &Path, id: u32, keys: &Path, data: &Path) -> Result<String> {
    let arguments = arguments("run", cluster, id, keys, data);
    refused("bftfs-node", &arguments.each_ref().map(String::as_str))
}

fn arguments(verb: &str, cluster: &Path, id: u32, keys: &Path, data: &Path) -> [String; 11] {
    let path = |path: &Path| path.display().to_string();
    [
        verb.into(),
        "--cluster".into(),
        path(cluster),
        "--id".into(),
        id.to_string(),
        "--cert".into(),
        path(&keys.join("replica.crt")),
        "--key".into(),
        path(&keys.join("replica.key")),
        "--data".into(),
        path(data),
    ]
}
