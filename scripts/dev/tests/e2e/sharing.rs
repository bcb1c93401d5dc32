//! Two mounts of one cluster at the same time: what returned on one is seen on the other.

use std::fs::{self, File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::thread;

use anyhow::{Result, ensure};
use bftfs_dev::Mode;

use crate::lab::with_cluster;

const PAIRS: [(Mode, Mode); 4] = [
    (Mode::Strict, Mode::Strict),
    (Mode::Relatime, Mode::Relatime),
    (Mode::RoLookup, Mode::RoLookup),
    (Mode::Strict, Mode::RoLookup),
];

#[test]
fn what_one_mount_did_the_other_sees_at_once() {
    with_cluster(4, |lab| {
        for (one, two) in PAIRS {
            let one = lab.mount("one", one)?;
            let two = lab.mount("two", two)?;
            contents_are_seen(one.point(), two.point())?;
            contents_are_seen(two.point(), one.point())?;
            names_are_seen(one.point(), two.point())?;
            names_are_seen(two.point(), one.point())?;
            one.unmount()?;
            two.unmount()?;
        }
        Ok(())
    });
}

#[test]
fn of_two_mounts_that_create_one_name_one_wins() {
    with_cluster(4, |lab| {
        let one = lab.mount("one", Mode::Strict)?;
        let two = lab.mount("two", Mode::RoLookup)?;
        let winners = thread::scope(|scope| {
            let points = [one.point().to_owned(), two.point().to_owned()];
            points
                .map(|point| scope.spawn(move || create_all(&point)))
                .map(|thread| thread.join().expect("no panic"))
        });
        let [first, second] = winners;
        for (name, (a, b)) in first?.into_iter().zip(second?).enumerate() {
            ensure!(a != b, "name {name}: the first wins: {a}, the second wins: {b}");
        }
        Ok(())
    });
}

/// Tries to create a hundred files; tells which of them were new.
fn create_all(point: &Path) -> Result<Vec<bool>> {
    let mut new = Vec::new();
    for name in 0..100 {
        let path = point.join(format!("race-{name}"));
        match OpenOptions::new().write(true).create_new(true).open(path) {
            Ok(_) => new.push(true),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => new.push(false),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(new)
}

fn contents_are_seen(writer: &Path, reader: &Path) -> Result<()> {
    let name = "contents";
    fs::write(writer.join(name), "first")?;
    // Held open from before the changes.
    let held = File::open(reader.join(name))?;
    for round in 0..50_u64 {
        let text = format!("round {round} {}", "x".repeat(usize::try_from(round * 199)?));
        fs::write(writer.join(name), &text)?;
        ensure!(fs::read_to_string(reader.join(name))? == text, "round {round}: opened anew");
        let mut bytes = vec![0; text.len() + 1];
        let read = held.read_at(&mut bytes, 0)?;
        ensure!(bytes[..read] == *text.as_bytes(), "round {round}: held open");
        ensure!(held.metadata()?.len() == text.len() as u64, "round {round}: the size");
        ensure!(fs::metadata(reader.join(name))?.len() == text.len() as u64, "round {round}: stat");
    }
    fs::remove_file(writer.join(name))?;
    Ok(())
}

fn names_are_seen(writer: &Path, reader: &Path) -> Result<()> {
    let missing = |name: &str| {
        fs::symlink_metadata(reader.join(name)).is_err_and(|e| e.kind() == ErrorKind::NotFound)
    };
    for round in 0..20 {
        ensure!(missing("dir"), "round {round}: it is not there yet");
        fs::create_dir(writer.join("dir"))?;
        ensure!(fs::read_dir(reader.join("dir"))?.next().is_none(), "round {round}: it is empty");
        fs::write(writer.join("dir/file"), "")?;
        ensure!(fs::read_dir(reader.join("dir"))?.count() == 1, "round {round}: it is listed");
        fs::rename(writer.join("dir/file"), writer.join("moved"))?;
        ensure!(missing("dir/file") && !missing("moved"), "round {round}: it was moved");
        fs::remove_file(writer.join("moved"))?;
        fs::remove_dir(writer.join("dir"))?;
        ensure!(missing("moved"), "round {round}: it was removed");
    }
    Ok(())
}
