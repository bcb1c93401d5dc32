//! Access given, changed and taken while the cluster runs and its user has it mounted.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use bftfs_dev::{Durability, Mode, MountGuard, MountOptions, find};
use rustix::io::Errno;

use crate::lab::{Lab, with_cluster, with_options};

/// Within this, a call of a client that is refused ends. The mount's own deadline is longer.
const AT_ONCE: Duration = Duration::from_secs(4);
const PATIENCE: Duration = Duration::from_secs(30);
/// Operations that the others have forgotten the first of: more than a window and a checkpoint.
const PAST_ITS_LOG: u64 = 256 + 128 + 32;

#[test]
fn access_is_given_changed_and_taken_while_it_is_used() {
    with_cluster(4, |lab| {
        let dev = lab.mount("dev", Mode::Strict)?;
        fs::create_dir(dev.point().join("hers"))?;
        fs::write(dev.point().join("hers/text"), "text")?;
        fs::write(dev.point().join("outside"), "secret")?;
        let carol = Guest::admit(lab, &["--subtree", "/hers", "--read-only"])?;
        for mode in [Mode::Strict, Mode::RoLookup] {
            let mount = carol.mount(lab, mode)?;
            is_read_only(mount.point())?;
            mount.unmount()?;
        }
        let mount = carol.mount(lab, Mode::Strict)?;
        admin(lab, &["set", "carol", "--subtree", "/hers"])?;
        fs::write(mount.point().join("new"), "new").context("she may write now")?;
        ensure!(fs::read(dev.point().join("hers/new"))? == b"new", "it is where it belongs");
        fs::hard_link(dev.point().join("outside"), dev.point().join("hers/shared"))?;
        ensure!(fs::read(mount.point().join("shared"))? == b"secret", "what is shared is seen");

        admin(lab, &["revoke", "carol"])?;
        for what in ["stat", "read", "write"] {
            let (start, path) = (Instant::now(), mount.point().join("text"));
            let error = match what {
                "stat" => fs::metadata(&path).map(drop),
                "read" => fs::read(&path).map(drop),
                _ => fs::write(mount.point().join("more"), "more"),
            };
            let errno = error.err().and_then(|error| error.raw_os_error());
            ensure!(errno == Some(Errno::ACCESS.raw_os_error()), "{what} ends with {errno:?}");
            ensure!(start.elapsed() < AT_ONCE, "{what} takes {:?}", start.elapsed());
        }
        ensure!(fs::read(dev.point().join("hers/text"))? == b"text", "others go on");
        admin(lab, &["set", "carol", "--subtree", "/hers"])?;
        recovers(mount.point())
    });
}

#[test]
fn a_restart_and_a_state_transfer_keep_the_rules() {
    // Nothing here waits for disks: it is about states, of which there must be many.
    with_options(
        |options| options.durability = Durability::Replicated,
        |lab| {
            let dev = lab.mount("dev", Mode::Strict)?;
            fs::create_dir(dev.point().join("hers"))?;
            fs::write(dev.point().join("hers/text"), "text")?;
            // Replica 3 knows nothing of her until it fetches a state that is past its log.
            lab.cluster.kill(3)?;
            let carol = Guest::admit(lab, &["--subtree", "/hers", "--read-only"])?;
            let mut number = 0;
            while lab.executed()[0].context("replica 0 answers")? < PAST_ITS_LOG {
                number += 1;
                fs::create_dir(dev.point().join(format!("d{number}")))?;
            }
            lab.cluster.restart(3)?;
            let level = lab.executed()[0].context("replica 0 answers")?;
            lab.wait_until_level(level, PATIENCE)?;
            for id in 0..3 {
                lab.cluster.restart(id)?;
                lab.wait_until_level(level, PATIENCE)?;
            }
            // Without another one, whatever she gets replica 3 agrees to.
            lab.cluster.kill(1)?;
            let mount = carol.mount(lab, Mode::RoLookup)?;
            is_read_only(mount.point())
        },
    );
}

/// A client that no cluster file but its own names.
struct Guest {
    cluster_file: PathBuf,
}

impl Guest {
    fn admit(lab: &Lab, rule: &[&str]) -> Result<Self> {
        let dir = lab.cluster.dir();
        run(Command::new(find("bftfs-certs")?)
            .args(["client", "--unlisted", "carol", "--dir"])
            .arg(dir))?;
        let certificate = dir.join("client-carol/client.crt");
        let cluster_file = dir.join("carol.toml");
        let [certificate, out] =
            [&certificate, &cluster_file].map(|path| path.display().to_string());
        let add = ["add", "carol", "--certificate", &certificate, "--out", &out];
        admin(lab, &[&add[..], rule].concat())?;
        Ok(Self { cluster_file })
    }

    fn mount(&self, lab: &Lab, mode: Mode) -> Result<MountGuard> {
        let point = lab.directory(&format!("carol-{}-{}", mode.name(), rank()))?;
        let extra = ["-o", "allow_other", "--timeout", "20s"].map(ToString::to_string).to_vec();
        lab.cluster.mount(&MountOptions {
            client: Some("carol".into()),
            cluster_file: Some(self.cluster_file.clone()),
            extra,
            ..MountOptions::new(&point, mode)
        })
    }
}

/// A number that was not drawn before.
fn rank() -> u32 {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

fn admin(lab: &Lab, arguments: &[&str]) -> Result<()> {
    let keys = lab.cluster.dir().join("client-admin");
    let mut command = Command::new(find("bftfs-node")?);
    command.arg("admin").arg("--cluster").arg(lab.cluster.cluster_file());
    command.arg("--cert").arg(keys.join("client.crt")).arg("--key").arg(keys.join("client.key"));
    run(command.args(arguments))
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {said}");
    Ok(())
}

/// Her directory is the root, and nothing can be changed.
fn is_read_only(point: &Path) -> Result<()> {
    ensure!(fs::read(point.join("text"))? == b"text", "she sees what is hers");
    ensure!(!point.join("outside").exists(), "and nothing else");
    let names = fs::read_dir(point)?.map(|entry| Ok(entry?.file_name()));
    ensure!(names.collect::<Result<Vec<_>>>()? == ["text"], "her directory is the root");
    let Err(error) = fs::write(point.join("text"), "changed") else { bail!("she may write") };
    ensure!(error.raw_os_error() == Some(Errno::ROFS.raw_os_error()), "{error}");
    let Err(error) = fs::create_dir(point.join("d")) else { bail!("she may make directories") };
    ensure!(error.raw_os_error() == Some(Errno::ROFS.raw_os_error()), "{error}");
    Ok(())
}

fn recovers(point: &Path) -> Result<()> {
    let start = Instant::now();
    while let Err(error) = fs::write(point.join("again"), "again") {
        ensure!(start.elapsed() < PATIENCE, "it does not come back: {error}");
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}
