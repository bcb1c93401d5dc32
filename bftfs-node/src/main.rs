//! `bftfs-node`: one replica of a bftfs cluster.

fn main() -> std::process::ExitCode {
    bftfs_node::cli::main()
}
