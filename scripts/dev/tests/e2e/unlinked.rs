//! Files that one mount has open and another unlinks, on a cluster of four replicas.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use bftfs_dev::{Mode, wait_until};

use crate::lab::with_cluster;

/// How often the mounts ask what was unlinked, as they are told and in fact.
const RENEWAL: &str = "2s";
const RENEWAL_TIME: Duration = Duration::from_secs(2);
/// Contents of the file.
const BYTES: usize = 4 << 20;
/// What is freed is seen to be after so long.
const SOON: Duration = Duration::from_secs(20);

#[test]
fn a_file_that_another_mount_unlinks_lives_until_it_is_closed() {
    with_cluster(4, |lab| {
        let here = lab.mount_with("here", Mode::RoLookup, &["--renewal", RENEWAL])?;
        let there = lab.mount_with("there", Mode::Strict, &["--renewal", RENEWAL])?;
        let (one, two) = (here.point().join("f"), there.point().join("f"));
        let before = used(here.point())?;
        fs::write(&one, vec![b'x'; BYTES])?;
        let open = OpenOptions::new().read(true).write(true).open(&one)?;
        fs::remove_file(&two)?;
        fs::write(&two, "another")?;
        let start = Instant::now();
        let mut seen = vec![0; BYTES];
        while start.elapsed() < 3 * RENEWAL_TIME {
            open.write_all_at(b"y", 0)?;
            open.read_exact_at(&mut seen, 0)?;
            ensure!(seen[0] == b'y' && seen[1..].iter().all(|byte| *byte == b'x'));
            thread::sleep(RENEWAL_TIME / 4);
        }
        ensure!(open.metadata()?.nlink() == 0);
        ensure!(fs::read(&one)? == b"another");
        ensure!(used(there.point())? >= before + BYTES as u64, "it takes its space");
        drop(open);
        let is_free = || used(there.point()).is_ok_and(|used| used < before + BYTES as u64);
        ensure!(wait_until(SOON, is_free), "its space is not free");
        here.unmount()?;
        there.unmount()
    });
}

fn used(point: &Path) -> Result<u64> {
    let stat = rustix::fs::statvfs(point)?;
    Ok((stat.f_blocks - stat.f_bfree) * stat.f_frsize)
}
