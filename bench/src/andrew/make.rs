//! The fifth phase: the tree is compiled and linked in the target, one process at a time.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use super::phases::walk;
use super::tree::{Build, Tree};
use crate::interrupt;

/// The program that a compiled tree is linked to, in the root of its copy.
const PROGRAM: &str = "andrew-program";

/// Builds the copy of `tree` in `root` and tries out the result.
pub(super) fn build(tree: &Tree, root: &Path) -> Result<()> {
    match &tree.build {
        Build::Make => make(root),
        Build::Compile { output } => {
            let objects = compile(tree, root)?;
            link(root, &objects)?;
            try_out(root, output.as_deref())
        }
    }
}

fn make(root: &Path) -> Result<()> {
    let before = walk(root, &mut |_, _| Ok(()))?;
    // An outer make's jobserver must not make this one parallel.
    run(Command::new("make").arg("-j1").env_remove("MAKEFLAGS").env_remove("MFLAGS"), root)?;
    let after = walk(root, &mut |_, _| Ok(()))?;
    ensure!(after.len() > before.len(), "make succeeded but made no file");
    Ok(())
}

fn compile(tree: &Tree, root: &Path) -> Result<Vec<PathBuf>> {
    let includes: Vec<OsString> = tree
        .include_dirs()
        .into_iter()
        .map(|dir| if dir.as_os_str().is_empty() { Path::new(".") } else { dir })
        .map(|dir| [OsStr::new("-I"), dir.as_os_str()].into_iter().collect())
        .collect();
    let mut objects = Vec::new();
    for source in tree.c_files() {
        let object = source.with_extension("o");
        let mut cc = Command::new(compiler());
        cc.args(["-O0", "-w"]).args(&includes).arg("-c").arg(source).arg("-o").arg(&object);
        run(&mut cc, root)?;
        objects.push(object);
    }
    Ok(objects)
}

fn link(root: &Path, objects: &[PathBuf]) -> Result<()> {
    run(Command::new(compiler()).args(["-o", PROGRAM]).args(objects).arg("-lm"), root).map(drop)
}

/// Runs the linked program once; it must succeed and print what it should.
fn try_out(root: &Path, wanted: Option<&str>) -> Result<()> {
    let printed = run(&mut Command::new(root.join(PROGRAM)), root)?;
    if let Some(wanted) = wanted {
        ensure!(
            printed == wanted.as_bytes(),
            "the linked program printed {:?}, not {wanted:?}",
            String::from_utf8_lossy(&printed)
        );
    }
    Ok(())
}

/// The C compiler: `$CC`, or cc.
pub(crate) fn compiler() -> OsString {
    env::var_os("CC").filter(|cc| !cc.is_empty()).unwrap_or_else(|| "cc".into())
}

/// Compiles an empty program on the local disk, so that after caches were dropped the compiler
/// itself is in memory again before the clock runs.
pub(super) fn warm_compiler() -> Result<()> {
    let dir = tempfile::tempdir().context("cannot make a temporary directory")?;
    fs::write(dir.path().join("warm.c"), "int main(void) { return 0; }\n")?;
    run(Command::new(compiler()).args(["-O0", "warm.c", "-o", PROGRAM, "-lm"]), dir.path())?;
    run(&mut Command::new(dir.path().join(PROGRAM)), dir.path()).map(drop)
}

/// Runs `command` in `dir` to its end and gives what it printed.
fn run(command: &mut Command, dir: &Path) -> Result<Vec<u8>> {
    interrupt::check()?;
    let output = command
        .current_dir(dir)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {}", command.get_program().display()))?;
    // Ctrl-C reaches the compiler too: it is then no failure of the compiler.
    interrupt::check()?;
    ensure!(
        output.status.success(),
        "{} failed ({}): {}",
        command_line(command),
        output.status,
        String::from_utf8_lossy(&output.stderr).trim_end()
    );
    Ok(output.stdout)
}

fn command_line(command: &Command) -> String {
    let words = [command.get_program()].into_iter().chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}
