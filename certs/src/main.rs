//! `bftfs-certs`: makes and shows the certificates of a cluster.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use bftfs_certs::{Plan, Subject, add_client, cluster_path, init, leaf_paths, make_client};
use bftfs_net::cluster_file::{ClusterFile, Durability};
use bftfs_net::identity::Certificate;
use bftfs_proto::Digest;
use bftfs_proto::types::ReplicaId;
use clap::{Parser, Subcommand};

/// Makes and shows the certificates of a bftfs cluster.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make a whole cluster's directory: CA, certificates, keys, cluster file
    Init {
        /// The directory; made if it is not there
        #[arg(long)]
        dir: PathBuf,
        /// What to call the cluster
        #[arg(long, default_value = "dev")]
        name: String,
        /// How many replicas: 3f+1 tolerate f faulty ones, 1 tolerates none
        #[arg(long, default_value_t = 4)]
        replicas: u32,
        /// The clients' names
        #[arg(long = "client", num_args = 1.., default_value = "alice")]
        clients: Vec<String>,
        /// The IP address that the replicas listen on
        #[arg(long, default_value = "127.0.0.1")]
        host: IpAddr,
        /// The UDP port of replica 0; the others follow
        #[arg(long, default_value_t = 4800)]
        port: u16,
        /// `sync`: a vote is on disk before it is sent; `replicated`: in a quorum's memory
        #[arg(long, default_value = "sync")]
        durability: Durability,
        /// Days until the certificates expire
        #[arg(long, default_value_t = 365)]
        days: u32,
    },
    /// Make one client more, also while the cluster runs
    Client {
        /// The cluster's directory
        #[arg(long)]
        dir: PathBuf,
        /// Days until its certificate expires
        #[arg(long, default_value_t = 365)]
        days: u32,
        /// Leave it out of the cluster file: an administrator admits it, with a rule from the
        /// start (`bftfs-node admin add`)
        #[arg(long)]
        unlisted: bool,
        /// The client's name
        name: String,
    },
    /// Show the members of a cluster
    Show {
        /// The cluster's directory
        #[arg(long)]
        dir: PathBuf,
    },
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bftfs-certs: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Init { dir, name, replicas, clients, host, port, durability, days } => {
            let plan = Plan { dir, name, replicas, clients, host, port, durability, days };
            let file = init(&plan).context("no cluster was made")?;
            println!("made {}", plan.dir.display());
            show(&plan.dir, &file);
        }
        Command::Client { dir, days, unlisted: true, name } => {
            make_client(&dir, &name, days).context("no client was made")?;
            let (certificate, key) = leaf_paths(&dir, &Subject::Client(name.clone()));
            println!("made client \"{name}\"; an administrator admits it with");
            println!("  bftfs-node admin ... add --certificate {} {name}", certificate.display());
            println!("Its key is {}", key.display());
        }
        Command::Client { dir, days, unlisted: false, name } => {
            let id = add_client(&dir, &name, days).context("no client was added")?;
            let (certificate, key) = leaf_paths(&dir, &Subject::Client(name.clone()));
            println!("added client {id} \"{name}\" to {}", cluster_path(&dir).display());
            println!("  --cert {} --key {}", certificate.display(), key.display());
        }
        Command::Show { dir } => show(&dir, &ClusterFile::load(&cluster_path(&dir))?),
    }
    Ok(())
}

fn show(dir: &Path, file: &ClusterFile) {
    let cluster = file.cluster();
    println!("cluster \"{}\" {}", file.name, file.id);
    println!(
        "  {} replicas, {} of them may be faulty, quorum {}; durability {}",
        cluster.n(),
        cluster.f(),
        cluster.quorum(),
        file.durability
    );
    for (id, member) in (0..).zip(&file.replicas) {
        let subject = Subject::Replica(ReplicaId(id));
        println!("  replica {id} at {}, key {}", member.address, Digest(member.key.0));
        show_certificate(dir, &subject);
    }
    for (id, member) in &file.clients {
        let subject = Subject::Client(member.name.clone());
        let admin = if member.admin { ", administrator" } else { "" };
        println!("  client {id} \"{}\"{admin}, key {}", member.name, Digest(member.key.0));
        show_certificate(dir, &subject);
    }
}

/// A member's certificate may well be on another machine.
fn show_certificate(dir: &Path, subject: &Subject) {
    let (path, _) = leaf_paths(dir, subject);
    match Certificate::load(&path) {
        Ok(leaf) => {
            println!("    {}: \"{}\", valid {}", path.display(), leaf.subject, leaf.validity);
        }
        Err(error) => println!("    {error}"),
    }
}
