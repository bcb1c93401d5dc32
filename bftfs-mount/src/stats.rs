//! Counters of a mount: the kernel's requests by kind, with their latencies.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use hdrhistogram::Histogram;
use serde_json::{Map, Value, json};

macro_rules! kinds {
    ($($kind:ident $name:literal),* $(,)?) => {
        /// The kernel's requests (`FUSE_LOOKUP` and so on), as far as they are served.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[expect(missing_docs, reason = "each is named as in fuse(4)")]
        pub enum Kind { $($kind),* }

        const KINDS: &[(Kind, &str)] = &[$((Kind::$kind, $name)),*];
    };
}

kinds! {
    Lookup "lookup", Forget "forget", Getattr "getattr", Setattr "setattr", Readlink "readlink",
    Mknod "mknod", Mkdir "mkdir", Unlink "unlink", Rmdir "rmdir", Symlink "symlink",
    Rename "rename", Link "link", Open "open", Read "read", Write "write", Flush "flush",
    Release "release", Fsync "fsync", Opendir "opendir", Readdir "readdir",
    Readdirplus "readdirplus", Releasedir "releasedir", Fsyncdir "fsyncdir", Statfs "statfs", Access "access",
    Create "create", Lseek "lseek", Fallocate "fallocate", CopyFileRange "copy_file_range",
    Setxattr "setxattr", Getxattr "getxattr", Listxattr "listxattr", Removexattr "removexattr",
    Getlk "getlk", Setlk "setlk",
}

/// Requests of one kind.
#[derive(Debug)]
struct Meter {
    errors: u64,
    micros: Histogram<u64>,
}

/// The counters of one mount.
#[derive(Debug)]
pub struct Stats {
    started: Instant,
    meters: Vec<Mutex<Meter>>,
}

const MICROS_MAX: u64 = 3_600_000_000;

impl Default for Stats {
    fn default() -> Self {
        let meter = || {
            let micros = Histogram::new_with_bounds(1, MICROS_MAX, 2).expect("constant bounds");
            Mutex::new(Meter { errors: 0, micros })
        };
        Self { started: Instant::now(), meters: KINDS.iter().map(|_| meter()).collect() }
    }
}

impl Stats {
    /// Notes a request that took from `start` until now.
    pub fn note(&self, kind: Kind, start: Instant, failed: bool) {
        let micros = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
        let meter = &self.meters[kind as usize];
        let mut meter = meter.lock().unwrap_or_else(PoisonError::into_inner);
        meter.micros.saturating_record(micros);
        meter.errors += u64::from(failed);
    }

    /// Requests of `kind` answered so far.
    #[must_use]
    pub fn count(&self, kind: Kind) -> u64 {
        let meter = &self.meters[kind as usize];
        meter.lock().unwrap_or_else(PoisonError::into_inner).micros.len()
    }

    /// What a person or a benchmark reads: counts, errors and latencies by kind of request.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let mut requests = Map::new();
        for ((_, name), meter) in KINDS.iter().zip(&self.meters) {
            let meter = meter.lock().unwrap_or_else(PoisonError::into_inner);
            if meter.micros.is_empty() {
                continue;
            }
            let value = json!({
                "count": meter.micros.len(),
                "errors": meter.errors,
                "p50_us": meter.micros.value_at_quantile(0.50),
                "p99_us": meter.micros.value_at_quantile(0.99),
                "max_us": meter.micros.max(),
            });
            requests.insert((*name).to_owned(), value);
        }
        json!({
            "pid": std::process::id(),
            "uptime_ms": u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            "fuse": requests,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_its_own_meter() {
        let stats = Stats::default();
        for (index, (kind, _)) in KINDS.iter().enumerate() {
            assert_eq!(*kind as usize, index);
            stats.note(*kind, Instant::now(), index == 0);
        }
        let value = stats.to_json();
        let requests = value["fuse"].as_object().expect("object");
        assert_eq!(requests.len(), KINDS.len());
        assert_eq!(value["fuse"]["lookup"]["errors"], 1);
        assert_eq!(value["fuse"]["create"]["count"], 1);
    }
}
