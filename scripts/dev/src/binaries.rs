//! Finds the other programs of the workspace.

use std::env;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

/// The environment variable that names the folder of the programs.
const BIN_DIR: &str = "BFTFS_BIN_DIR";

/// The path of the program `name`: in `BFTFS_BIN_DIR` if that is set, else beside this program
/// (or, for a test, beside the folder of this program).
///
/// # Errors
/// If it is not there, because it was not built.
pub fn find(name: &str) -> Result<PathBuf> {
    let folders = folders()?;
    for folder in &folders {
        let path = folder.join(name);
        if path.is_file() {
            return Ok(path);
        }
    }
    bail!(
        "{name} is not in {}: build it with `cargo build --release`, or set {BIN_DIR} to its folder",
        folders.iter().map(|f| f.display().to_string()).collect::<Vec<_>>().join(" or ")
    )
}

/// A command that runs the program `name`, pinned to the CPUs `pin` (as taskset(1) lists them).
///
/// # Errors
/// As [`find`].
pub fn command(name: &str, pin: Option<&str>) -> Result<Command> {
    let program = find(name)?;
    let Some(cpus) = pin else { return Ok(Command::new(program)) };
    // taskset replaces itself by the program, so the PID is the program's.
    let mut command = Command::new("taskset");
    command.args(["--cpu-list", cpus]).arg(program);
    Ok(command)
}

fn folders() -> Result<Vec<PathBuf>> {
    if let Some(folder) = env::var_os(BIN_DIR) {
        return Ok(vec![PathBuf::from(folder)]);
    }
    let program = env::current_exe().context("cannot find the path of this program")?;
    let beside = program.parent().map(PathBuf::from);
    let above = beside.as_ref().and_then(|b| b.parent()).map(PathBuf::from);
    Ok(beside.into_iter().chain(above).collect())
}
