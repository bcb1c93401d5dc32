//! The command line.

use std::io::{IsTerminal as _, stderr};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use bftfs_proto::types::ReplicaId;
use clap::{Args, Parser, Subcommand};
use serde_json::Value;
use tracing_subscriber::EnvFilter;

use crate::admin::{self, Admin};
#[cfg(feature = "byzantine")]
use crate::byzantine;
use crate::startup::{self, Node, Paths};
use crate::{driver, status, tools};

/// What is logged unless `RUST_LOG` says otherwise.
const LOG: &str = "info,quinn=warn,quinn_proto=warn,quinn_udp=error";

/// One replica of a bftfs cluster.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make the data directory of a replica of a new cluster
    Format {
        #[command(flatten)]
        which: Which,
        /// Begin with the file system in this archive; all replicas must begin with the same
        #[arg(long)]
        import: Option<PathBuf>,
    },
    /// Make the data directory of a replica that lost it: it listens to the others, and votes again
    /// when it has passed all that it may have promised
    Recover(Which),
    /// Run a replica until SIGTERM or SIGINT; SIGUSR2 has it ask for another primary
    Run(Run),
    /// Look at what a stopped replica has in its data directory, without changing it
    Inspect(Look),
    /// Check all that a stopped replica has in its data directory, without changing it: exit code
    /// 0 if it is clean, 1 if something is damaged, 2 if it cannot be checked
    Verify(Look),
    /// Write the file system that a stopped replica has stored last to an archive: a backup, and
    /// what `format --import` begins a new cluster with
    Export {
        #[command(flatten)]
        which: Stopped,
        /// The archive to make
        #[arg(long)]
        out: PathBuf,
    },
    /// Have a running replica read all of its store and look for damage, and wait until it did:
    /// exit code 0 if there is none, 1 if some was found; it is fetched from other replicas
    Scrub {
        /// Its status socket
        #[arg(long)]
        socket: PathBuf,
    },
    /// Say who may use a running cluster, and how
    Admin(Admin),
    /// Ask a running replica where it is
    Status {
        /// Its status socket
        #[arg(long)]
        socket: PathBuf,
        /// Print all that it says, as one line of JSON
        #[arg(long)]
        json: bool,
    },
}

/// A replica and where everything of it is.
#[derive(Args)]
struct Which {
    /// The cluster file
    #[arg(long)]
    cluster: PathBuf,
    /// Which replica this is
    #[arg(long)]
    id: u32,
    /// Its certificate (PEM)
    #[arg(long)]
    cert: PathBuf,
    /// Its private key (PEM)
    #[arg(long)]
    key: PathBuf,
    /// Its data directory
    #[arg(long)]
    data: PathBuf,
}

impl Which {
    fn split(self) -> (Paths, ReplicaId) {
        let Self { cluster, id, cert, key, data } = self;
        (Paths { cluster, certificate: cert, key, data }, ReplicaId(id))
    }
}

/// A stopped replica.
#[derive(Args)]
struct Stopped {
    /// The cluster file
    #[arg(long)]
    cluster: PathBuf,
    /// Which replica this is
    #[arg(long)]
    id: u32,
    /// Its data directory
    #[arg(long)]
    data: PathBuf,
}

/// A stopped replica to look at.
#[derive(Args)]
struct Look {
    #[command(flatten)]
    which: Stopped,
    /// Print all of it as one line of JSON
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct Run {
    #[command(flatten)]
    which: Which,
    /// Where it answers `status` [default: status.sock in the data directory]
    #[arg(long)]
    status_socket: Option<PathBuf>,
    /// How much of the store is read each second to look for damage, in MiB; 0 to do that only
    /// when `scrub` asks for it
    #[arg(long, default_value_t = 16)]
    scrub_rate: u32,
    #[cfg(feature = "byzantine")]
    #[command(flatten)]
    lies: byzantine::Options,
}

/// Runs the program.
#[must_use]
pub fn main() -> ExitCode {
    let command = Cli::parse().command;
    // Whoever runs a tool wants its result, and not who is connected.
    let log = if matches!(command, Command::Admin(_)) { "error" } else { LOG };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(log));
    let colours = stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(stderr).with_ansi(colours).init();
    abort_on_panic();
    let unchecked = matches!(command, Command::Verify(_));
    match execute(command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("bftfs-node: {error:#}");
            if unchecked { ExitCode::from(2) } else { ExitCode::FAILURE }
        }
    }
}

/// A replica whose own rule is broken must not go on with the threads that are left.
fn abort_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        report(info);
        std::process::abort();
    }));
}

fn execute(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Format { which, import } => {
            let (paths, id) = which.split();
            match import {
                None => startup::format(&paths, id, false)?,
                Some(archive) => startup::import(&paths, id, &archive)?,
            }
        }
        Command::Export { which, out } => {
            let id = ReplicaId(which.id);
            let done = tools::export(&which.cluster, id, &which.data, &out)?;
            println!(
                "{} has the file system of checkpoint {}: {} blocks, {} bytes",
                out.display(),
                done.seq,
                done.blocks,
                done.bytes
            );
        }
        Command::Recover(which) => {
            let (paths, id) = which.split();
            startup::format(&paths, id, true)?;
        }
        Command::Run(options) => run(options)?,
        Command::Inspect(look) => inspect(&look)?,
        Command::Verify(look) => return verify(&look),
        Command::Admin(admin) => admin::run(admin)?,
        Command::Scrub { socket } => {
            if !tools::scrub(&socket)? {
                return Ok(ExitCode::FAILURE);
            }
        }
        Command::Status { socket, json } => {
            let line = status::ask(&socket)?;
            if json {
                print!("{line}");
            } else {
                show(&line)?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn inspect(look: &Look) -> anyhow::Result<()> {
    let Stopped { cluster, id, data } = &look.which;
    let found = tools::inspect(cluster, ReplicaId(*id), data)?;
    let line = serde_json::to_string(&found)?;
    if look.json {
        println!("{line}");
        return Ok(());
    }
    show(&line)?;
    show(&serde_json::to_string(&found.store)?)?;
    match found.checkpoint {
        Some(checkpoint) => show(&serde_json::to_string(&checkpoint)?),
        None => {
            println!("it has no checkpoint yet");
            Ok(())
        }
    }
}

fn verify(look: &Look) -> anyhow::Result<ExitCode> {
    let Stopped { cluster, id, data } = &look.which;
    let damages = tools::verify(cluster, ReplicaId(*id), data)?;
    if look.json {
        println!("{}", serde_json::to_string(&serde_json::json!({ "damages": damages }))?);
    } else if damages.is_empty() {
        println!("{} is clean", data.display());
    } else {
        damages.iter().for_each(|damage| println!("{damage}"));
    }
    Ok(if damages.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn run(options: Run) -> anyhow::Result<()> {
    let data = &options.which.data;
    let socket = options.status_socket.unwrap_or_else(|| data.join("status.sock"));
    let (paths, id) = options.which.split();
    let node = Node::open(&paths, id, u64::from(options.scrub_rate) << 20)?;
    #[cfg(feature = "byzantine")]
    let node = Node { lies: options.lies, ..node };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(driver::run(node, &socket))
}

/// Prints the fields that are plain values, one a line.
fn show(line: &str) -> anyhow::Result<()> {
    let report: Value = serde_json::from_str(line).context("the answer is not understood")?;
    for (name, value) in report.as_object().into_iter().flatten() {
        match value {
            Value::Object(_) | Value::Array(_) => {}
            plain => println!("{name:<18}{plain}"),
        }
    }
    Ok(())
}
