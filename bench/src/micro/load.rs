//! A number of threads that repeat a step, and what that took.

use std::sync::Barrier;
use std::thread;
use std::time::Instant;

use anyhow::{Context as _, Result, anyhow};
use hdrhistogram::Histogram;

use crate::interrupt;
use crate::micro::ops::Step;
use crate::target::{Target, Usage};

/// Latencies are kept up to this many nanoseconds; longer ones count as this.
const LATENCY_NS_MAX: u64 = 600_000_000_000;
/// Significant decimal digits of a latency.
const LATENCY_DIGITS: u8 = 3;

/// One measurement: of one operation on one target with some operations in flight.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Point {
    /// Median latency in µs.
    pub p50: f64,
    /// 99th percentile of the latency in µs.
    pub p99: f64,
    /// Operations per second, all threads together.
    pub rate: f64,
    /// CPU µs per operation over all of the target's processes.
    pub cpu: Option<f64>,
    /// Protocol messages per operation.
    pub messages: Option<f64>,
}

/// Lets every thread of `workers` take its `steps` steps, all at once.
///
/// # Errors
/// If a step fails or the person asked to stop.
pub(crate) fn measure(target: &Target, workers: Vec<Step>, steps: usize) -> Result<Point> {
    let operations = (workers.len() * steps) as f64;
    let barrier = Barrier::new(workers.len());
    let meter = target.meter()?;
    let shares: Vec<Share> = thread::scope(|scope| {
        let threads: Vec<_> =
            workers.into_iter().map(|step| scope.spawn(|| work(step, steps, &barrier))).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().map_err(|_| anyhow!("a worker panicked"))?)
            .collect::<Result<_>>()
    })?;
    let mut latencies = histogram()?;
    for share in &shares {
        latencies.add(&share.latencies).context("histograms are alike")?;
    }
    let start = shares.iter().map(|share| share.start).min();
    let end = shares.iter().map(|share| share.end).max();
    let (start, end) = start.zip(end).context("nothing was measured")?;
    let seconds = (end - start).as_secs_f64();
    let Usage { cpu, counters } = target.usage(&meter)?;
    Ok(Point {
        p50: latencies.value_at_quantile(0.5) as f64 / 1e3,
        p99: latencies.value_at_quantile(0.99) as f64 / 1e3,
        rate: operations / seconds,
        cpu: cpu.map(|time| time.as_secs_f64() * 1e6 / operations),
        messages: counters.map(|counters| counters.messages as f64 / operations),
    })
}

/// What one thread measured.
struct Share {
    latencies: Histogram<u64>,
    start: Instant,
    end: Instant,
}

fn work(mut step: Step, steps: usize, barrier: &Barrier) -> Result<Share> {
    let latencies = histogram();
    // Every thread must come here, or the others wait for ever.
    barrier.wait();
    let mut latencies = latencies?;
    let start = Instant::now();
    let mut end = start;
    for index in 0..steps {
        interrupt::check()?;
        let begin = Instant::now();
        step(index)?;
        end = Instant::now();
        let nanoseconds = (end - begin).as_nanos();
        latencies.saturating_record(u64::try_from(nanoseconds).unwrap_or(u64::MAX));
    }
    Ok(Share { latencies, start, end })
}

fn histogram() -> Result<Histogram<u64>> {
    Histogram::new_with_max(LATENCY_NS_MAX, LATENCY_DIGITS).context("the bounds are valid")
}
