//! A development cluster on this machine: one process per replica, and mounts over them.
//!
//! Everything that is needed to find and stop a cluster is in its directory: certificates and
//! cluster file as `bftfs-certs` writes them, and for each process a folder with its PID file and
//! its log. So a cluster may outlive the process that started it, and any other may end it.
//!
//! ```text
//! DIR/cluster.toml  ca.crt  ca.key  client-NAME/{client.crt,client.key}  dev.json
//! DIR/replica-N/{replica.crt,replica.key}  data/  pid  log
//! DIR/mounts/N/{point,stats.sock}          pid  log
//! ```

mod binaries;
mod cluster;
pub mod interrupt;
mod mount;
mod process;
mod status;

pub use binaries::{command, find};
pub use cluster::{DevCluster, Durability, Lie, ReplicaReport, UpOptions};
pub use mount::{Mode, MountGuard, MountOptions, is_mounted, unmount};
pub use process::{Process, cpu_time, wait_until};
pub use status::{Counters, query};
