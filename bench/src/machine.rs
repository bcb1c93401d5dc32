//! What numbers were measured on and how: they mean little without it.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use serde_json::{Value, json};

use crate::andrew::compiler;

/// Restricts this process, and all that it starts from now on, to the CPUs `cpus`.
///
/// # Errors
/// If there is no such CPU.
pub(crate) fn pin(cpus: &[usize]) -> Result<()> {
    let mut set = CpuSet::new();
    for &cpu in cpus {
        if cpu >= CpuSet::MAX_CPU {
            bail!("--pin {cpu}: there is no such CPU");
        }
        set.set(cpu);
    }
    sched_setaffinity(None, &set).with_context(|| format!("cannot pin to the CPUs {cpus:?}"))
}

/// The pinning, as it is stated with every result.
pub(crate) fn pinning(pin: Option<&[usize]>) -> String {
    match (pin, sched_getaffinity(None)) {
        (Some(cpus), _) => format!("all processes on CPUs {cpus:?}"),
        (None, Ok(set)) => format!("unpinned, {} CPUs", set.count()),
        (None, Err(error)) => format!("unknown: {error}"),
    }
}

/// The machine and the versions of what ran on it.
pub(crate) fn describe() -> BTreeMap<&'static str, Value> {
    let cpus = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    BTreeMap::from([
        ("kernel", json!(read_line("/proc/sys/kernel/osrelease"))),
        ("cpu", json!(field("/proc/cpuinfo", "model name"))),
        ("cpus", json!(cpus)),
        ("memory", json!(field("/proc/meminfo", "MemTotal"))),
        ("compiler", json!(compiler_version())),
        ("bftfs", json!(env!("CARGO_PKG_VERSION"))),
        ("build", json!(if cfg!(debug_assertions) { "debug" } else { "release" })),
    ])
}

fn read_line(path: &str) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

/// The first value of `name` in a file of `name : value` lines.
fn field(path: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let (_, value) = text.lines().find(|line| line.starts_with(name))?.split_once(':')?;
    Some(value.trim().to_owned())
}

fn compiler_version() -> Option<String> {
    let output = Command::new(compiler()).arg("--version").output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().next().map(str::to_owned)
}
