//! GlusterFS: a volume of three bricks that mirror each other, and one of a single brick.

use std::fs;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use anyhow::Result;

use super::Peers;
use super::daemon::{Daemon, folder, run, words};
use super::mount::{How, PeerMount};
use super::sandbox::ADDRESS;
use crate::columns::spread_subdirectories;

/// The folder that holds a brick's files.
const BRICK: &str = "brick";

/// Makes, starts and mounts a volume of `replicas` bricks below `place`.
pub(super) fn mount(peers: &mut Peers, place: &Path, replicas: usize) -> Result<PeerMount> {
    let daemon = match &peers.gluster {
        Some(daemon) => Rc::clone(daemon),
        None => Rc::new(serve(&peers.dir)?),
    };
    peers.gluster = Some(Rc::clone(&daemon));
    let bricks: Vec<_> = (0..replicas)
        .map(|brick| folder(place, &format!("{BRICK}-{brick}")))
        .collect::<Result<_>>()?;
    let volume = format!("gluster{replicas}");
    create(&volume, &bricks)?;
    let point = folder(place, "mnt")?;
    let log = place.join("client.log");
    let id = format!("--volfile-id={volume}");
    let command = words([&"glusterfs", &"-N", &"-l", &log, &"-s", &ADDRESS, &id, &point]);
    let mut mount = PeerMount::new(point.clone(), How::Process(command), vec![daemon])?;
    // It mounts before it has reached every brick.
    let probe = point.join("probe");
    mount.process()?.wait("every brick", || {
        let _ = fs::remove_file(&probe);
        fs::write(&probe, "probe").is_ok() && bricks.iter().all(|b| b.join("probe").exists())
    })?;
    fs::remove_file(&probe)?;
    Ok(mount)
}

fn serve(dir: &Path) -> Result<Daemon> {
    let log = folder(dir, "gluster")?.join("glusterd.log");
    let mut daemon = Daemon::server(log, &["glusterd", "-N", "-l", "/dev/stderr"])?;
    daemon.wait("glusterd", || gluster(&["volume", "list"]).is_ok())?;
    Ok(daemon)
}

fn create(volume: &str, bricks: &[PathBuf]) -> Result<()> {
    let count = bricks.len().to_string();
    let places: Vec<_> =
        bricks.iter().map(|brick| format!("{ADDRESS}:{}", brick.display())).collect();
    let mut create = vec!["volume", "create", volume];
    if bricks.len() > 1 {
        create.extend(["replica", &count]);
    }
    create.extend(places.iter().map(String::as_str));
    // All bricks are on one disk of the machine, of which it would warn.
    create.push("force");
    gluster(&create)?;
    bricks.iter().for_each(|brick| spread_subdirectories(brick));
    gluster(&["volume", "start", volume])?;
    Ok(())
}

fn gluster(arguments: &[&str]) -> Result<String> {
    run("gluster", &[&["--mode=script"], arguments].concat())
}
