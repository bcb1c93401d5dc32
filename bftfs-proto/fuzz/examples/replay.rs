//! Runs a target on one input: `cargo run --example replay -- TARGET FILE`.

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [target, file] = &arguments[..] else { panic!("say TARGET FILE") };
    let input = std::fs::read(file).expect("the file can be read");
    let (_, run) =
        bftfs_fuzz::TARGETS.into_iter().find(|(name, _)| name == target).expect("a target");
    run(&input);
}
