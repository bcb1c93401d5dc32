//! Embeds the C sources of Lua 5.4, which the crate `lua-src` ships, as the benchmark's source
//! tree.
//!
//! The crate does not tell where its files lie, so cargo is asked: a one-dependency package with
//! our lock file beside it, resolved offline, names the folder whatever registry or vendor
//! directory the crate came from.

use std::env;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The tree of the benchmark: Lua 5.4, not the newest, whose code has settled.
const TREE_PREFIX: &str = "lua-5.4.";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let out_dir = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let sources = lua_sources(&package_dir("lua-src", &out_dir.join("probe")));
    println!("cargo::rerun-if-changed={}", sources.display());

    let mut names: Vec<PathBuf> = fs::read_dir(&sources)
        .unwrap_or_else(|e| panic!("cannot read {}: {e}", sources.display()))
        .map(|entry| entry.expect("a readable directory entry").path())
        .collect();
    names.sort();
    let mut code = String::from("pub(crate) const LUA_SOURCES: &[(&str, &[u8])] = &[\n");
    for path in &names {
        let name = path.file_name().expect("an entry has a name").to_str().expect("UTF-8");
        writeln!(code, "    ({name:?}, include_bytes!({path:?})),").expect("a string grows");
    }
    code.push_str("];\n");
    let version = sources.file_name().expect("a folder").to_str().expect("UTF-8");
    writeln!(code, "pub(crate) const LUA_VERSION: &str = {version:?};").expect("a string grows");
    fs::write(out_dir.join("lua_sources.rs"), code).expect("OUT_DIR can be written");
}

/// The folder of package `name` as cargo resolves it under our lock file.
fn package_dir(name: &str, probe: &Path) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a workspace above us");
    fs::create_dir_all(probe.join("src")).expect("OUT_DIR can be written");
    fs::write(probe.join("src/lib.rs"), "").expect("OUT_DIR can be written");
    fs::write(
        probe.join("Cargo.toml"),
        format!(
            "[package]\nname = \"probe\"\nedition = \"2024\"\n\
             [dependencies]\n{name} = \"*\"\n[workspace]\n"
        ),
    )
    .expect("OUT_DIR can be written");
    fs::copy(root.join("Cargo.lock"), probe.join("Cargo.lock")).expect("Cargo.lock is in the root");

    let output = Command::new(env::var_os("CARGO").expect("cargo sets CARGO"))
        .args(["metadata", "--format-version=1", "--offline", "--filter-platform"])
        .arg(env::var_os("TARGET").expect("cargo sets TARGET"))
        .arg("--manifest-path")
        .arg(probe.join("Cargo.toml"))
        // Where cargo's own configuration (a vendor directory, a mirror) is found.
        .current_dir(root)
        .output()
        .expect("cargo runs");
    assert!(
        output.status.success(),
        "cargo metadata cannot find {name}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let metadata: serde_json::Value =
        serde_json::from_slice(&output.stdout).expect("cargo metadata writes JSON");
    let manifest = metadata["packages"]
        .as_array()
        .and_then(|packages| packages.iter().find(|package| package["name"] == name))
        .and_then(|package| package["manifest_path"].as_str())
        .unwrap_or_else(|| panic!("cargo metadata does not list {name}"));
    Path::new(manifest).parent().expect("a manifest is in a folder").to_owned()
}

/// The folder of the wanted Lua release inside the crate.
fn lua_sources(package: &Path) -> PathBuf {
    fs::read_dir(package)
        .unwrap_or_else(|e| panic!("cannot read {}: {e}", package.display()))
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| {
            path.file_name()
                .and_then(|name| name.to_str())
                .is_some_and(|name| name.starts_with(TREE_PREFIX))
        })
        .unwrap_or_else(|| panic!("{} ships no {TREE_PREFIX}x", package.display()))
}
