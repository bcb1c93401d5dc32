//! NFSv3: nfs-ganesha over ext4, and the kernel's client where there is one.

use std::env;
use std::fs;
use std::net::TcpStream;
use std::path::Path;
use std::rc::Rc;

use anyhow::{Context as _, Result};

use super::Peers;
use super::daemon::{Daemon, folder, run, words};
use super::mount::{How, PeerMount};
use super::sandbox::ADDRESS;
use crate::columns::spread_subdirectories;
use crate::nfs::Writes;

const NFS_PORT: u16 = 20490;
const MOUNT_PORT: u16 = 20491;
/// In which one of the two columns works at a time.
const EXPORT: &str = "export";

/// What stands in the report about the client.
pub(super) fn client() -> &'static str {
    if in_kernel() { "the kernel's NFS client" } else { "an NFSv3 client in user space over FUSE" }
}

/// What it may have cached.
pub(super) fn stale() -> &'static str {
    if in_kernel() {
        "names and attributes, 3 to 60 s; contents until opened anew"
    } else {
        "nothing"
    }
}

fn in_kernel() -> bool {
    let known = || fs::read_to_string("/proc/filesystems").is_ok_and(|all| all.contains("\tnfs\n"));
    known() || (run("modprobe", &["nfs"]).is_ok() && known())
}

/// Mounts the export below `place`, on a new server if none is up.
pub(super) fn mount(peers: &mut Peers, place: &Path, writes: Writes) -> Result<PeerMount> {
    let servers = match &peers.nfs {
        Some(servers) => servers.clone(),
        None => serve(&peers.dir)?,
    };
    peers.nfs = Some(servers.clone());
    let export = peers.dir.join("ganesha").join(EXPORT);
    let point = folder(place, "mnt")?;
    let how = if in_kernel() {
        let sync = if writes == Writes::Sync { ",sync" } else { "" };
        let options =
            format!("vers=3,proto=tcp,nolock,port={NFS_PORT},mountport={MOUNT_PORT}{sync}");
        let source = format!("{ADDRESS}:{}", export.display());
        How::Kernel(words([&"-t", &"nfs", &"-o", &options, &source, &point]))
    } else {
        let program = env::current_exe().context("cannot find this program")?;
        let (server, port) = (format!("{ADDRESS}:{NFS_PORT}"), MOUNT_PORT.to_string());
        let writes = format!("--writes={}", writes.name());
        How::Process(words([&program, &"nfs", &writes, &server, &port, &export, &point]))
    };
    PeerMount::new(point, how, servers)
}

/// Starts the server, and the port mapper without which it does not start.
fn serve(dir: &Path) -> Result<Vec<Rc<Daemon>>> {
    let dir = folder(dir, "ganesha")?;
    spread_subdirectories(&folder(&dir, EXPORT)?);
    fs::create_dir_all("/var/lib/nfs/ganesha/v4recov").context("cannot make its state folder")?;
    let mut mapper = Daemon::server(dir.join("rpcbind.log"), &["rpcbind", "-f"])?;
    mapper.wait("rpcbind", || TcpStream::connect((ADDRESS, 111)).is_ok())?;
    let config = dir.join("ganesha.conf");
    fs::write(&config, configuration(&dir.join(EXPORT)))?;
    let log = dir.join("ganesha.log");
    let pid = dir.join("pid");
    let command = words([&"ganesha.nfsd", &"-F", &"-L", &"STDERR", &"-f", &config, &"-p", &pid]);
    let mut server = Daemon::server(log, &command)?;
    server.wait("nfs-ganesha", || TcpStream::connect((ADDRESS, NFS_PORT)).is_ok())?;
    Ok(vec![Rc::new(mapper), Rc::new(server)])
}

fn configuration(export: &Path) -> String {
    format!(
        "NFS_CORE_PARAM {{ Protocols = 3; Enable_NLM = false; Enable_RQUOTA = false; \
         Enable_UDP = false; NFS_Port = {NFS_PORT}; MNT_Port = {MOUNT_PORT}; }}\n\
         EXPORT {{ Export_Id = 1; Path = {}; Protocols = 3; Access_Type = RW; \
         Squash = No_Root_Squash; SecType = sys; Transports = TCP; FSAL {{ Name = VFS; }} }}\n\
         LOG {{ Default_Log_Level = WARN; }}\n",
        export.display()
    )
}
