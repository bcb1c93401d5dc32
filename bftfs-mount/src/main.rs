//! `bftfs-mount`: mounts a cluster of replicas on a directory.

use std::process::ExitCode;

use bftfs_mount::cli::Cli;
use bftfs_mount::{daemon, run};
use clap::Parser;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let usage = error.use_stderr();
            // Without a terminal to write to, the exit status says it all.
            let _printed = error.print();
            return if usage { ExitCode::from(run::EXIT_USAGE) } else { ExitCode::SUCCESS };
        }
    };
    if cli.daemon {
        return daemon::start().unwrap_or_else(|error| {
            eprintln!("bftfs-mount: {error:#}");
            ExitCode::from(run::EXIT_SYSTEM)
        });
    }
    match run::run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("bftfs-mount: {:#}", failure.error);
            ExitCode::from(failure.status)
        }
    }
}
