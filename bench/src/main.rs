//! Benchmarks of bftfs mounts and of any other directory.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

mod andrew;
mod bytes;
mod caches;
mod clusters;
mod columns;
mod faults;
mod fill;
mod interrupt;
mod machine;
mod micro;
mod nfs;
mod output;
mod passthrough;
mod peers;
mod procstat;
mod progress;
mod promises;
mod room;
mod serving;
mod stats;
mod store;
mod suites;
mod target;

/// The exit code of what cannot be run on this machine, as Automake has it.
const NOT_THERE: u8 = 77;

/// Benchmarks of bftfs mounts and of any other directory
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The modified Andrew benchmark: mkdir, copy, stat, read, make
    Andrew(andrew::Options),
    /// Latency, throughput and cost of single operations
    Micro(micro::Options),
    /// Replicas that die, lie or come back: what a mount notices of it
    Faults(faults::Options),
    /// What a replica's store costs: with many files, large files, and over its starts
    Store(store::Options),
    /// pjdfstest on ext4 and on a mount: what POSIX says about files
    Pjdfstest(suites::pjdfstest::Options),
    /// fsx on mounts: random changes of a file of which every byte is known
    Fsx(suites::fsx::Options),
    /// Real work on a mount and in a local directory: git, databases, compilers and more
    Workloads(suites::workloads::Options),
    /// Mount a FUSE file system that passes everything to a directory: the floor of any FUSE mount
    Passthrough(passthrough::Options),
    /// Mount an NFSv3 export without the kernel's client
    Nfs(nfs::Options),
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            match error.downcast_ref() {
                Some(suites::NotThere(_)) => ExitCode::from(NOT_THERE),
                None => ExitCode::FAILURE,
            }
        }
    }
}

fn run(command: Command) -> Result<()> {
    // They end by a signal like any mount; all others clean up first.
    if !matches!(command, Command::Passthrough(_) | Command::Nfs(_)) {
        interrupt::install()?;
    }
    match command {
        Command::Andrew(options) => andrew::run(&options),
        Command::Micro(options) => micro::run(&options),
        Command::Faults(options) => faults::run(&options),
        Command::Store(options) => store::run(&options),
        Command::Pjdfstest(options) => suites::pjdfstest::run_both(&options),
        Command::Fsx(options) => suites::fsx::exercise(&options),
        Command::Workloads(options) => suites::workloads::run(&options),
        Command::Passthrough(options) => passthrough::run(&options),
        Command::Nfs(options) => nfs::run(&options),
    }
}
