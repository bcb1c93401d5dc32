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
mod output;
mod passthrough;
mod procstat;
mod progress;
mod room;
mod stats;
mod store;
mod target;

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
    /// Mount a FUSE file system that passes everything to a directory: the floor of any FUSE mount
    Passthrough(passthrough::Options),
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<()> {
    match command {
        Command::Andrew(options) => {
            interrupt::install()?;
            andrew::run(&options)
        }
        Command::Micro(options) => {
            interrupt::install()?;
            micro::run(&options)
        }
        Command::Faults(options) => {
            interrupt::install()?;
            faults::run(&options)
        }
        Command::Store(options) => {
            interrupt::install()?;
            store::run(&options)
        }
        Command::Passthrough(options) => passthrough::run(&options),
    }
}
