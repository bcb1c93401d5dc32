//! Between the kernel's terms and those of the calls below.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::time::{SystemTime, UNIX_EPOCH};

use fuser::TimeOrNow;
use rustix::fs::{OFlags, Timespec, UTIME_NOW, UTIME_OMIT};

/// The flags of open(2).
pub(super) fn open_flags(flags: i32) -> OFlags {
    OFlags::from_bits_truncate(flags.cast_unsigned())
}

/// How a file of ours is opened: appending is the kernel's business, which knows the offset.
pub(super) fn io_flags(flags: i32) -> OFlags {
    let kept = OFlags::RWMODE | OFlags::SYNC | OFlags::DSYNC;
    (open_flags(flags) & kept) | OFlags::CLOEXEC | OFlags::NOFOLLOW
}

/// A time to set, or not to.
pub(super) fn timespec(time: Option<TimeOrNow>) -> Timespec {
    match time {
        None => Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        Some(TimeOrNow::Now) => Timespec { tv_sec: 0, tv_nsec: UTIME_NOW },
        Some(TimeOrNow::SpecificTime(time)) => since_epoch(time),
    }
}

fn since_epoch(time: SystemTime) -> Timespec {
    let (seconds, nanoseconds) = match time.duration_since(UNIX_EPOCH) {
        Ok(after) => (i64::try_from(after.as_secs()).unwrap_or(i64::MAX), after.subsec_nanos()),
        Err(error) => {
            let before = error.duration();
            let seconds = i64::try_from(before.as_secs()).unwrap_or(i64::MAX);
            match before.subsec_nanos() {
                0 => (-seconds, 0),
                part => (-seconds - 1, 1_000_000_000 - part),
            }
        }
    };
    Timespec { tv_sec: seconds, tv_nsec: nanoseconds.into() }
}

/// Reads up to `size` bytes at `offset`: fewer only at the end of the file.
pub(super) fn read_full(file: &File, offset: u64, size: u32) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0; size as usize];
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    buffer.truncate(filled);
    Ok(buffer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn times_before_the_epoch_count_nanoseconds_upwards() {
        let at = |time| {
            let Timespec { tv_sec, tv_nsec } = since_epoch(time);
            (tv_sec, tv_nsec)
        };
        assert_eq!(at(UNIX_EPOCH + Duration::new(5, 6)), (5, 6));
        assert_eq!(at(UNIX_EPOCH - Duration::from_secs(5)), (-5, 0));
        assert_eq!(at(UNIX_EPOCH - Duration::from_millis(1)), (-1, 999_000_000));
    }
}
