//! CPU time of processes, with nanosecond resolution.
//!
//! `/proc/PID/stat` counts ticks of 10 ms, too coarse for a phase of 20 ms; the process clock
//! (clock_getcpuclockid(3)) measures the same user and system time of all threads exactly.

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
    fn a_process_that_has_ended_is_an_error() {
        let mut child = std::process::Command::new("true").spawn().expect("true(1) exists");
        child.wait().expect("it ends");
        assert!(cpu_time(&[child.id()]).is_err());
    }
}
