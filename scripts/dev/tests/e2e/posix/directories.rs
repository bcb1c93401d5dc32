//! Reading directories.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use rustix::fs::{
    AtFlags, Dir, FileType, Mode, OFlags, fstatvfs, mkdirat, mknodat, openat, unlinkat,
};

use super::same_as_local;
use crate::lab::with_cluster;
use crate::transcript::Script;

const FILE: Mode = Mode::from_bits_retain(0o644);
const NAMES: u32 = 600;

#[test]
fn directories_are_listed_as_on_a_local_directory() {
    same_as_local(|s| {
        populate(s)?;
        let listed = list(s)?;
        s.note("listed once each", listed.values().all(|times| *times == 1));
        s.note("names", listed.keys().collect::<Vec<_>>());
        s.run("mkdir", |d| mkdirat(d, "empty", Mode::from(0o755)));
        let empty = openat(s.dir(), "empty", OFlags::DIRECTORY, Mode::empty())?;
        s.note("names in an empty directory", names(&mut Dir::read_from(empty)?)?);
        Ok(())
    });
}

#[test]
fn a_place_in_a_directory_is_found_again() {
    same_as_local(|s| {
        populate(s)?;
        let mut dir = Dir::read_from(s.dir())?;
        let mut seen: Vec<(String, i64)> = Vec::new();
        while let Some(entry) = dir.read() {
            let entry = entry?;
            seen.push((entry.file_name().to_string_lossy().into_owned(), entry.offset()));
        }
        // After the entry with this cookie comes the next one, in whatever order they are asked.
        let mut found = true;
        for place in [0, 1, 2, 50, 599, 300, 17, 0] {
            dir.seek(seen[place].1)?;
            let next = dir.read().context("there is a next entry")??;
            found &= next.file_name().to_string_lossy() == seen[place + 1].0;
        }
        s.note("every place is found again", found);
        dir.seek(seen.last().context("there are entries")?.1)?;
        s.note("after the last there is none", dir.read().is_none());
        dir.rewind();
        s.note("rewound, all is there again", names(&mut dir)?.len() == seen.len());
        Ok(())
    });
}

#[test]
fn a_listing_goes_on_while_the_directory_changes() {
    same_as_local(|s| {
        populate(s)?;
        let mut dir = Dir::read_from(s.dir())?;
        let mut seen = BTreeMap::new();
        for round in 0..NAMES {
            let Some(entry) = dir.read() else { break };
            let name = entry?.file_name().to_string_lossy().into_owned();
            // What was seen goes, and what may or may not be seen comes.
            if name.starts_with("name-") {
                unlinkat(s.dir(), name.as_str(), AtFlags::empty())?;
            }
            *seen.entry(name).or_insert(0) += 1;
            let fresh = format!("fresh-{round}");
            mknodat(s.dir(), fresh.as_str(), FileType::RegularFile, FILE, 0)?;
        }
        while let Some(entry) = dir.read() {
            *seen.entry(entry?.file_name().to_string_lossy().into_owned()).or_insert(0) += 1;
        }
        let stayed: Vec<_> = seen.iter().filter(|(name, _)| name.starts_with("name-")).collect();
        s.note("every name that was there is seen", stayed.len());
        s.note("and seen once", stayed.iter().all(|(_, times)| **times == 1));
        Ok(())
    });
}

#[test]
fn a_mount_tells_its_size() {
    with_cluster(1, |lab| {
        let mount = lab.mount("mnt", bftfs_dev::Mode::Strict)?;
        let flags = OFlags::DIRECTORY;
        let root = openat(rustix::fs::CWD, mount.point(), flags, Mode::empty())?;
        let before = fstatvfs(&root)?;
        assert!(before.f_blocks > 0 && before.f_files > 0);
        assert!(before.f_bfree <= before.f_blocks && before.f_ffree <= before.f_files);
        assert_eq!(before.f_namemax, 255);
        std::fs::write(mount.point().join("file"), vec![1; 1 << 20])?;
        let after = fstatvfs(&root)?;
        let used = (before.f_bfree - after.f_bfree) * before.f_frsize;
        assert!(used >= 1 << 20, "a mebibyte was written, {used} bytes less are free");
        assert_eq!(before.f_ffree - after.f_ffree, 1, "one file more");
        Ok(())
    });
}

fn populate(s: &mut Script) -> Result<()> {
    for number in 0..NAMES {
        let name = format!("name-{number}");
        mknodat(s.dir(), name.as_str(), FileType::RegularFile, FILE, 0)?;
    }
    Ok(())
}

/// How often each name is listed.
fn list(s: &Script) -> Result<BTreeMap<String, u32>> {
    let mut times = BTreeMap::new();
    for name in names(&mut Dir::read_from(s.dir())?)? {
        *times.entry(name).or_insert(0) += 1;
    }
    Ok(times)
}

fn names(dir: &mut Dir) -> Result<Vec<String>> {
    let mut names = Vec::new();
    while let Some(entry) = dir.read() {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    Ok(names)
}
