//! `bftfs-node` with the roles of a replica that lies on purpose, for tests and measurements.

fn main() -> std::process::ExitCode {
    bftfs_node::cli::main()
}
