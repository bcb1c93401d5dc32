//! The Debian packages of a peer.

use std::fs;
use std::os::unix::fs::OpenOptionsExt as _;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};

use super::daemon::run;

/// Asked by Debian's packages whether they may start their servers.
const POLICY: &str = "/usr/sbin/policy-rc.d";
/// Nobody may.
const REFUSE: &str = "#!/bin/sh\nexit 101\n";

/// Installs what is missing of `packages`; tells the version of the first.
///
/// # Errors
/// If this is no Debian, not root, or apt-get fails.
pub(super) fn ensure_installed(packages: &[&str]) -> Result<String> {
    let missing: Vec<_> =
        packages.iter().copied().filter(|package| version(package).is_none()).collect();
    if !missing.is_empty() {
        install(&missing).with_context(|| format!("cannot install {}", missing.join(", ")))?;
    }
    let first = packages.first().context("a peer has packages")?;
    version(first).with_context(|| format!("{first} is not installed"))
}

/// The version of an installed package.
fn version(package: &str) -> Option<String> {
    let format = "--showformat=${db:Status-Abbrev}${Version}";
    let told = run("dpkg-query", &["--show", format, package]).ok()?;
    told.strip_prefix("ii ").map(|version| version.trim().to_owned())
}

fn install(packages: &[&str]) -> Result<()> {
    run("apt-get", &["--version"]).context("is this Debian?")?;
    ensure!(rustix::process::geteuid().is_root(), "not root");
    eprintln!("installing from Debian: {}", packages.join(", "));
    let _policy = Policy::refuse()?;
    apt(&["update", "--quiet=2"])?;
    let options = ["install", "--yes", "--quiet=2", "--no-install-recommends"];
    apt(&[&options[..], packages].concat())
}

fn apt(arguments: &[&str]) -> Result<()> {
    let status = Command::new("apt-get")
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()
        .context("cannot run apt-get")?;
    if !status.success() {
        bail!("apt-get {} failed: {status}", arguments.join(" "));
    }
    Ok(())
}

/// While it lives, nothing that is installed is started. A policy that is there is left as it is.
struct Policy {
    ours: bool,
}

impl Policy {
    fn refuse() -> Result<Self> {
        let mut options = fs::OpenOptions::new();
        match options.write(true).create_new(true).mode(0o755).open(POLICY) {
            Ok(mut file) => {
                let this = Self { ours: true };
                std::io::Write::write_all(&mut file, REFUSE.as_bytes())?;
                Ok(this)
            }
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                Ok(Self { ours: false })
            }
            Err(error) => Err(error).with_context(|| format!("cannot write {POLICY}")),
        }
    }
}

impl Drop for Policy {
    fn drop(&mut self) {
        if self.ours
            && let Err(error) = fs::remove_file(POLICY)
        {
            eprintln!("cannot remove {POLICY}, which keeps servers from starting: {error}");
        }
    }
}
