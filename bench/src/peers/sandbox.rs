//! Namespaces in which servers of others see a network and state of their own.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use nix::sched::{CloneFlags, unshare};
use rustix::mount::{MountPropagationFlags, mount_bind, mount_change};

use super::daemon::{folder, run};

/// The address of all servers: loopback, but not called so, since some refuse that.
pub(super) const ADDRESS: &str = "192.0.2.1";
/// Where servers keep their state whatever they are told.
const HIDDEN: [&str; 4] = ["/run", "/var/lib/nfs", "/var/lib/glusterd", "/var/log/glusterfs"];
/// Folders that they expect in `/run`.
const EXPECTED: [&str; 5] = ["ganesha", "gluster", "rpcbind", "sshd", "lock"];

/// Moves this process, and all that it starts from now on, into network and mount namespaces of
/// their own, with empty folders in `dir` in place of those that belong to the machine's servers.
///
/// # Errors
/// If it may not: that takes root.
pub(super) fn enter(dir: &Path) -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET)
        .context("cannot make namespaces; that takes root")?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .context("cannot make the mount namespace private")?;
    run("ip", &["link", "set", "lo", "up"])?;
    run("ip", &["address", "add", &format!("{ADDRESS}/32"), "dev", "lo"])?;
    for place in HIDDEN.into_iter().filter(|place| Path::new(place).is_dir()) {
        let own = folder(dir, &place[1..].replace('/', "-"))?;
        mount_bind(&own, place).with_context(|| format!("cannot hide {place}"))?;
    }
    for name in EXPECTED {
        fs::create_dir_all(Path::new("/run").join(name))
            .with_context(|| format!("cannot make /run/{name}"))?;
    }
    Ok(())
}
