//! sshfs: OpenSSH's server over ext4.

use std::fs;
use std::net::TcpStream;
use std::path::Path;
use std::rc::Rc;

use anyhow::Result;

use super::daemon::{Daemon, folder, run, words};
use super::mount::{How, PeerMount};
use super::sandbox::ADDRESS;
use crate::columns::spread_subdirectories;

const PORT: u16 = 22;

/// Mounts a directory below `place` through a server of its own.
pub(super) fn mount(place: &Path) -> Result<PeerMount> {
    let (data, point) = (folder(place, "data")?, folder(place, "mnt")?);
    spread_subdirectories(&data);
    let (host, user) = (place.join("host"), place.join("user"));
    for key in [&host, &user] {
        run("ssh-keygen", &words([&"-q", &"-t", &"ed25519", &"-N", &"", &"-f", key]))?;
    }
    let config = place.join("sshd.conf");
    fs::write(&config, configuration(&host, &user.with_extension("pub")))?;
    let command = words([&"/usr/sbin/sshd", &"-D", &"-e", &"-f", &config]);
    let mut server = Daemon::server(place.join("sshd.log"), &command)?;
    server.wait("sshd", || TcpStream::connect((ADDRESS, PORT)).is_ok())?;
    let options = format!(
        "IdentityFile={},StrictHostKeyChecking=no,UserKnownHostsFile=/dev/null,BatchMode=yes",
        user.display()
    );
    let source = format!("root@{ADDRESS}:{}", data.display());
    let command = words([&"sshfs", &"-f", &"-o", &options, &source, &point]);
    PeerMount::new(point, How::Process(command), vec![Rc::new(server)])
}

fn configuration(host: &Path, user: &Path) -> String {
    format!(
        "ListenAddress {ADDRESS}:{PORT}\nHostKey {}\nAuthorizedKeysFile {}\nStrictModes no\n\
         UsePAM no\nPermitRootLogin prohibit-password\nPasswordAuthentication no\nPidFile none\n\
         Subsystem sftp internal-sftp\n",
        host.display(),
        user.display()
    )
}
