# shellcheck shell=bash disable=SC2164 # common.sh says set -e
prepare() {
    mkdir -p crate/src crate/tests
    cat >crate/Cargo.toml <<'END'
[package]
name = "tiny"
version = "0.1.0"
edition = "2021"
[workspace]
END
    cat >crate/build.rs <<'END'
fn main() {
    let out = std::env::var("OUT_DIR").unwrap();
    std::fs::write(format!("{out}/made.rs"), "pub const MADE: u32 = 42;").unwrap();
    println!("cargo:rerun-if-changed=build.rs");
}
END
    cat >crate/src/lib.rs <<'END'
include!(concat!(env!("OUT_DIR"), "/made.rs"));
pub fn answer() -> u32 { MADE }
END
    echo 'fn main() { println!("the answer is {}", tiny::answer()); }' >crate/src/main.rs
    echo '#[test] fn it_is() { assert_eq!(tiny::answer(), 42); }' >crate/tests/it.rs
}

work() {
    cp -r "$IN/crate" crate
    cd crate
    cargo build --offline --quiet
    target/debug/tiny
    # Nothing has changed, so nothing is built.
    cargo build --offline 2>&1 | grep -c Compiling || true
    if [[ -n $FULL ]]; then cargo test --offline --quiet >/dev/null; fi
    sed -i 's/MADE }/MADE + 1 }/' src/lib.rs
    cargo build --offline --quiet
    target/debug/tiny
    cargo clean --offline --quiet
    ls
}
