//! A development cluster on this machine, from the command line.

use std::env;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use bftfs_dev::{DevCluster, Durability, Lie, Mode, MountOptions, ReplicaReport, UpOptions};
use bftfs_dev::{cpu_time, interrupt};
use clap::{Args, Parser, Subcommand};
use comfy_table::{Table, presets};
use serde_json::{Value, json};

/// A development cluster on this machine
#[derive(Debug, Parser)]
#[command(name = "bftfs-dev", version)]
struct Cli {
    /// The cluster's directory [default: run/dev, or what BFTFS_DEV_DIR says]
    #[arg(long, global = true, value_name = "DIR")]
    dir: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start a cluster, with new certificates if the directory has none
    Up(Up),
    /// Unmount and stop everything; what was written stays
    Down,
    /// Tell how every replica is
    Status {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Kill a replica with SIGKILL
    Kill {
        /// Its number
        id: u32,
    },
    /// Start a replica, after stopping it if it is running
    Restart {
        /// Its number
        id: u32,
    },
    /// Bring a replica back whose data directory was lost: it listens until it may vote again
    Recover {
        /// Its number
        id: u32,
    },
    /// Mount the cluster on an empty directory
    Mount(Mount),
    /// Unmount a directory
    Unmount {
        /// Where the cluster is mounted
        point: PathBuf,
    },
}

#[derive(Debug, Args)]
struct Up {
    /// Replicas: 4 tolerate one fault, 1 is the unreplicated server
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=19))]
    replicas: u32,
    /// When a replica's vote counts as kept
    #[arg(long, value_enum, default_value_t)]
    durability: Durability,
    /// A client that gets a certificate; may be given more than once
    #[arg(long = "client", value_name = "NAME", default_value = "dev")]
    clients: Vec<String>,
    /// The UDP port of the first replica; the others follow [default: any that are free]
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    port: u16,
    /// What to log, as RUST_LOG says it
    #[arg(long)]
    log: Option<String>,
    /// The CPUs to run on, as taskset(1) lists them
    #[arg(long, value_name = "CPUS")]
    pin: Option<String>,
    /// A replica that lies, and its role, as in 2=equivocate; may be given more than once
    #[arg(long = "byzantine", value_name = "ID=ROLE", value_parser = liar)]
    liars: Vec<(u32, Lie)>,
}

#[derive(Debug, Args)]
struct Mount {
    /// How reads are carried out
    #[arg(long, value_enum, default_value_t)]
    mode: Mode,
    /// The client to be [default: the first of `up`]
    #[arg(long, value_name = "NAME")]
    client: Option<String>,
    /// The directory: it must be there and empty
    point: PathBuf,
    /// Further arguments of bftfs-mount
    #[arg(last = true)]
    extra: Vec<String>,
}

fn liar(text: &str) -> Result<(u32, Lie), String> {
    let (id, role) = text.split_once('=').ok_or("it is not ID=ROLE, as in 2=equivocate")?;
    let id = id.parse().map_err(|_| format!("{id:?} is not the number of a replica"))?;
    Ok((id, Lie { role: role.to_owned(), on_signal: false }))
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bftfs-dev: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let cli = Cli::parse();
    let dir = cli.dir.or_else(|| env::var_os("BFTFS_DEV_DIR").map(PathBuf::from));
    let dir = dir.unwrap_or_else(|| PathBuf::from("run/dev"));
    match cli.command {
        Command::Up(up) => bring_up(dir, up),
        Command::Down => DevCluster::open(&dir)?.down(),
        Command::Status { json } => {
            let cluster = DevCluster::open(&dir)?;
            if json {
                println!("{}", as_json(&cluster));
            } else {
                println!("{}", as_table(&cluster));
            }
            Ok(())
        }
        Command::Kill { id } => DevCluster::open(&dir)?.kill(id),
        Command::Restart { id } => DevCluster::open(&dir)?.restart(id),
        Command::Recover { id } => {
            let tell = |step: &str| println!("replica {id}: {step}");
            DevCluster::open(&dir)?.recover(id, tell)?;
            println!("replica {id} votes again");
            Ok(())
        }
        Command::Mount(Mount { mode, client, point, extra }) => {
            let cluster = DevCluster::open(&dir)?;
            let options = MountOptions { client, extra, ..MountOptions::new(&point, mode) };
            let mount = cluster.mount(&options)?;
            println!("mounted on {}", mount.point().display());
            mount.leave_mounted();
            Ok(())
        }
        Command::Unmount { point } => bftfs_dev::unmount(&dir, &point),
    }
}

fn bring_up(dir: PathBuf, up: Up) -> Result<()> {
    interrupt::stop_clusters_on_signals()?;
    let Up { replicas, durability, clients, port, log, pin, liars } = up;
    let byzantine = liars.into_iter().collect();
    let options = UpOptions { dir, replicas, durability, clients, port, log, pin, byzantine };
    let cluster = DevCluster::up(&options)?;
    println!("{} replicas are up in {}", cluster.replicas(), cluster.dir().display());
    cluster.leave_running();
    Ok(())
}

fn as_json(cluster: &DevCluster) -> Value {
    let replicas = cluster.status().into_iter().map(|replica| {
        json!({"id": replica.id, "up": replica.counters.is_some(), "pid": replica.pid,
               "role": replica.role, "status": replica.counters})
    });
    json!({"dir": cluster.dir(), "replicas": replicas.collect::<Vec<_>>()})
}

fn as_table(cluster: &DevCluster) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    let status = cluster.status();
    let mut titles =
        vec!["replica", "state", "pid", "view", "primary", "executed", "stable", "cpu"];
    let liars = status.iter().any(|replica| replica.role.is_some());
    if liars {
        titles.push("lies");
    }
    table.set_header(titles);
    for replica in &status {
        let role = replica.role.clone().unwrap_or_else(dash);
        table.add_row(row(replica).into_iter().chain(liars.then_some(role)));
    }
    table
}

fn row(replica: &ReplicaReport) -> [String; 8] {
    let state = match (&replica.counters, replica.pid) {
        (Some(counters), _) if counters.active => "up",
        (Some(_), _) => "view change",
        (None, Some(_)) => "silent",
        (None, None) => "down",
    };
    let told = |number: fn(&bftfs_dev::Counters) -> u64| {
        replica.counters.as_ref().map_or_else(dash, |counters| number(counters).to_string())
    };
    let cpu = replica.pid.and_then(cpu_time);
    [
        replica.id.to_string(),
        state.to_owned(),
        replica.pid.map_or_else(dash, |pid| pid.to_string()),
        told(|c| c.view),
        told(|c| c.primary.into()),
        told(|c| c.last_executed),
        told(|c| c.last_stable),
        cpu.map_or_else(dash, |cpu| format!("{:.1} s", cpu.as_secs_f64())),
    ]
}

fn dash() -> String {
    "-".to_owned()
}
