//! CPU time of processes, with nanosecond resolution; their memory, and what they write.
//!
//! `/proc/PID/stat` counts ticks of 10 ms, too coarse for a phase of 20 ms; the process clock
//! (clock_getcpuclockid(3)) measures the same user and system time of all threads exactly.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::time::clock_getcpuclockid;
use nix::unistd::Pid;

/// CPU time that the processes `pids` have used since they started, all threads together.
///
/// # Errors
/// If one of them has ended: then the measurement is void.
pub(crate) fn cpu_time(pids: &[u32]) -> Result<Duration> {
    pids.iter().try_fold(Duration::ZERO, |sum, &pid| {
        let used = cpu_time_of(pid).with_context(|| {
            format!("process {pid} cannot be measured; a server or mount may have ended")
        })?;
        Ok(sum + used)
    })
}

fn cpu_time_of(pid: u32) -> Result<Duration> {
    let clock = clock_getcpuclockid(Pid::from_raw(i32::try_from(pid)?))?;
    Ok(Duration::from(clock.now()?))
}

/// Bytes of memory of the process `pid`: the line `name` of `/proc/PID/status`, `VmRSS` say.
///
/// # Errors
/// If it has ended.
pub(crate) fn memory(pid: u32, name: &str) -> Result<u64> {
    Ok(field(pid, "status", name)? << 10)
}

/// Bytes that the process `pid` has written to files by its calls: `wchar` of `/proc/PID/io`. Its
/// answers on pipes and Unix sockets are among them, what it sends over the network is not.
///
/// `write_bytes` would count what the process makes dirty, but by whole folios: since ext4 has
/// large ones, 4 KiB that are written to a page of a file of zeros may count as 1 MiB.
///
/// # Errors
/// If it has ended, or belongs to somebody else.
pub(crate) fn written(pid: u32) -> Result<u64> {
    field(pid, "io", "wchar")
}

/// A number that grows whenever the process `pid` changes pages of files, by calls or in a mapping.
///
/// # Errors
/// If it has ended, or belongs to somebody else.
pub(crate) fn dirtied(pid: u32) -> Result<u64> {
    field(pid, "io", "write_bytes")
}

/// Bytes that the disk of `dir` has written since the machine started, for whomever; `None` where
/// there is no single disk.
pub(crate) fn disk_written(dir: &Path) -> Option<u64> {
    // In sectors of 512 bytes whatever the disk has.
    Some(disk_count(dir, 6)? * 512)
}

/// Flushes of its cache that the disk of `dir` has done since the machine started, for whomever:
/// those that were asked for at the same time are one. `None` where it does not count them.
pub(crate) fn disk_flushes(dir: &Path) -> Option<u64> {
    disk_count(dir, 15)
}

/// A field of `/sys/block/DISK/stat`, the first being 0.
fn disk_count(dir: &Path, field: usize) -> Option<u64> {
    let device = fs::metadata(dir).ok()?.dev();
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let stat = fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/stat")).ok()?;
    stat.split_whitespace().nth(field)?.parse().ok()
}

/// A number of a file of `name: number` lines.
fn field(pid: u32, file: &str, name: &str) -> Result<u64> {
    let path = format!("/proc/{pid}/{file}");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let number = value.and_then(|value| value.split_whitespace().next()?.parse().ok());
    number.with_context(|| format!("{path} does not tell {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_grows_with_work_and_counts_each_process() {
        let own = std::process::id();
        let before = cpu_time(&[own]).expect("own process is alive");
        let mut sum = 0_u64;
        while cpu_time(&[own]).expect("own process is alive") < before + Duration::from_millis(5) {
            sum = std::hint::black_box(sum + 1);
        }
        let once = cpu_time(&[own]).expect("own process is alive");
        let twice = cpu_time(&[own, own]).expect("own process is alive");
        assert!(twice >= once * 2);
        assert_eq!(cpu_time(&[]).expect("nothing to measure"), Duration::ZERO);
    }

    #[test]
    fn memory_and_what_is_written_are_known_of_the_living() {
        let own = std::process::id();
        let resident = memory(own, "VmRSS").expect("own process is alive");
        assert!(resident > 1 << 20 && resident <= memory(own, "VmHWM").expect("it is alive"));
        let before = written(own).expect("own process is alive");
        let mut file = tempfile::tempfile().expect("a file");
        std::io::Write::write_all(&mut file, &[7; 1 << 16]).expect("there is room");
        assert!(written(own).expect("own process is alive") >= before + (1 << 16));
        assert!(written(u32::MAX).is_err() && dirtied(u32::MAX).is_err());
    }

    #[test]
    fn a_process_that_has_ended_is_an_error() {
        let mut child = std::process::Command::new("true").spawn().expect("true(1) exists");
        child.wait().expect("it ends");
        assert!(cpu_time(&[child.id()]).is_err());
    }
}
