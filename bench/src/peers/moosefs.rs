//! MooseFS: a master and three chunk servers, each of which holds every file.

use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use anyhow::{Context as _, Result};

use super::daemon::{Daemon, folder, run, words};
use super::mount::{How, PeerMount};
use super::sandbox::ADDRESS;

/// The master's port for mounts.
const PORT: u16 = 9421;
const CHUNK_SERVERS: u16 = 3;
/// What Debian's package has for a file system that is empty.
const EMPTY: &str = "/var/lib/mfs/metadata.mfs.empty";

/// Mounts a new file system that lives below `place`.
pub(super) fn mount(place: &Path) -> Result<PeerMount> {
    let mut servers = vec![Rc::new(master(place)?)];
    let mut chunks = Vec::new();
    for number in 0..CHUNK_SERVERS {
        let (server, dir) = chunk_server(place, number)?;
        servers.push(Rc::new(server));
        chunks.push(dir);
    }
    let point = folder(place, "mnt")?;
    let command =
        words([&"mfsmount", &point, &"-f", &"-H", &ADDRESS, &"-o", &"mfsdonotrememberpassword"]);
    let mut mount = PeerMount::new(point.clone(), How::Process(command), servers)?;
    // It mounts before there is anybody to hold a byte.
    let room = || rustix::fs::statvfs(&point).is_ok_and(|stat| stat.f_blocks > 0);
    mount.process()?.wait("a chunk server", room)?;
    run("mfssetgoal", &words([&CHUNK_SERVERS.to_string(), &point]))?;
    let probe = point.join("probe");
    mount.process()?.wait("every chunk server", || {
        let _ = fs::remove_file(&probe);
        fs::write(&probe, "probe").is_ok() && chunks.iter().all(|dir| holds_a_chunk(dir))
    })?;
    fs::remove_file(&probe)?;
    Ok(mount)
}

fn holds_a_chunk(dir: &Path) -> bool {
    let folders = fs::read_dir(dir).into_iter().flatten().flatten();
    let files = folders.flat_map(|folder| fs::read_dir(folder.path()).into_iter().flatten());
    files.flatten().any(|file| file.file_name().as_encoded_bytes().starts_with(b"chunk_"))
}

fn master(place: &Path) -> Result<Daemon> {
    let dir = folder(place, "master")?;
    fs::copy(EMPTY, dir.join("metadata.mfs")).with_context(|| format!("cannot copy {EMPTY}"))?;
    let (config, exports, topology) =
        (place.join("master.cfg"), place.join("exports.cfg"), place.join("topology.cfg"));
    fs::write(&exports, "* / rw,alldirs,admin,maproot=0:0\n")?;
    fs::write(&topology, "")?;
    let settings = format!(
        "WORKING_USER = root\nWORKING_GROUP = root\nDATA_PATH = {}\nEXPORTS_FILENAME = {}\n\
         TOPOLOGY_FILENAME = {}\n",
        dir.display(),
        exports.display(),
        topology.display()
    );
    fs::write(&config, settings)?;
    let command = words([&"mfsmaster", &"-f", &"-c", &config, &"start"]);
    let mut master = Daemon::server(place.join("master.log"), &command)?;
    master.wait("mfsmaster", || TcpStream::connect((ADDRESS, PORT)).is_ok())?;
    Ok(master)
}

/// Starts one; tells also where it keeps chunks.
fn chunk_server(place: &Path, number: u16) -> Result<(Daemon, PathBuf)> {
    let dir = folder(place, &format!("chunks-{number}"))?;
    let (data, disk) = (folder(&dir, "state")?, folder(&dir, "disk")?);
    let (config, disks) = (dir.join("server.cfg"), dir.join("disks.cfg"));
    fs::write(&disks, format!("{}\n", disk.display()))?;
    let port = 9430 + number;
    let settings = format!(
        "WORKING_USER = root\nWORKING_GROUP = root\nDATA_PATH = {}\nHDD_CONF_FILENAME = {}\n\
         MASTER_HOST = {ADDRESS}\nCSSERV_LISTEN_HOST = {ADDRESS}\nCSSERV_LISTEN_PORT = {port}\n",
        data.display(),
        disks.display()
    );
    fs::write(&config, settings)?;
    let command = words([&"mfschunkserver", &"-f", &"-c", &config, &"start"]);
    let mut server = Daemon::server(dir.join("server.log"), &command)?;
    server.wait("mfschunkserver", || TcpStream::connect((ADDRESS, port)).is_ok())?;
    Ok((server, disk))
}
