//! Test suites that crates.io has.

use std::env;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};

use super::NotThere;

/// The program of the crate `name`, installed beside our own programs if it is not there yet.
///
/// # Errors
/// [`NotThere`] if it cannot be installed.
pub(super) fn installed(name: &str, version: &str) -> Result<PathBuf> {
    let own = env::current_exe().context("cannot find the path of this program")?;
    let target = own.ancestors().nth(2).context("this program is in no folder of a build")?;
    let tools = target.join("tools");
    let program = tools.join("bin").join(name);
    let there = Command::new(&program).arg("--version").output();
    if there.is_ok_and(|said| String::from_utf8_lossy(&said.stdout).contains(version)) {
        return Ok(program);
    }
    eprintln!("installing {name} {version} from crates.io into {}", tools.display());
    let build = tools.join("build");
    let status = Command::new("cargo")
        .args(["install", "--quiet", "--locked", "--force", "--version", version, name])
        .arg("--root")
        .arg(&tools)
        .arg("--target-dir")
        .arg(&build)
        .stdin(Stdio::null())
        .status()
        .context("cannot run cargo")?;
    // Only the program is of use.
    let _ = std::fs::remove_dir_all(&build);
    if !status.success() {
        let why =
            format!("{name} {version} cannot be installed from crates.io; is there a network?");
        return Err(NotThere(why).into());
    }
    Ok(program)
}
