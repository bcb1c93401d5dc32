//! The workloads that there are. What they do is written in `bench/assets/workloads`.

use std::collections::BTreeSet;

use super::shell::Shell;
use crate::suites::features::Feature;

/// A program, and the Debian package that brings it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Need {
    package: &'static str,
    program: &'static str,
}

/// Work that a person does.
#[derive(Debug)]
pub(super) struct Workload {
    pub(super) name: &'static str,
    pub(super) about: &'static str,
    /// Functions of bash: `work`, and `prepare` if it has input.
    pub(super) script: &'static str,
    needs: &'static [Need],
    /// What the mount has to offer.
    pub(super) wants: &'static [Feature],
    /// Seconds that it may take: a little of it, and all.
    pub(super) seconds: [u64; 2],
}

const fn need(package: &'static str, program: &'static str) -> Need {
    Need { package, program }
}

const SQLITE: &[Need] = &[need("sqlite3", "sqlite3")];

macro_rules! script {
    ($($name:literal),+) => {
        concat!($(include_str!(concat!("../../../assets/workloads/", $name, ".sh"))),+)
    };
}

/// All of them.
pub(super) const ALL: &[Workload] = &[
    Workload {
        name: "cargo",
        about: "a small crate is built and tested offline, and built again after a change",
        script: script!("cargo"),
        needs: &[need("cargo", "cargo"), need("gcc", "cc")],
        wants: &[],
        seconds: [300, 1800],
    },
    Workload {
        name: "dbench",
        about: "the calls of a file server's clients, for a given time",
        script: script!("dbench"),
        needs: &[need("dbench", "dbench")],
        wants: &[],
        seconds: [300, 1800],
    },
    Workload {
        name: "editor",
        about: "files are saved as editors save them: aside, synced, renamed, with a backup",
        script: script!("editor"),
        needs: &[],
        wants: &[],
        seconds: [300, 1800],
    },
    Workload {
        name: "fio",
        about: "random reads and writes of several processes, each block verified, mapped too",
        script: script!("fio"),
        needs: &[need("fio", "fio")],
        wants: &[],
        seconds: [300, 1800],
    },
    Workload {
        name: "git",
        about: "clone, commit, merge, rebase, gc, fsck and worktree",
        script: script!("git"),
        needs: &[need("git", "git")],
        wants: &[],
        seconds: [300, 1800],
    },
    Workload {
        name: "make",
        about: "Lua is compiled by make -j2, and again after a change",
        script: script!("make"),
        needs: &[need("make", "make"), need("gcc", "cc")],
        wants: &[],
        seconds: [300, 1800],
    },
    Workload {
        name: "many-files",
        about: "many files are made, found, counted by du and removed: 100,000 in full",
        script: script!("many-files"),
        needs: &[need("findutils", "find")],
        wants: &[],
        seconds: [300, 7200],
    },
    Workload {
        name: "pip",
        about: "a wheel is installed and imported",
        script: script!("pip"),
        needs: &[need("python3-pip", "pip3")],
        wants: &[],
        seconds: [300, 1800],
    },
    Workload {
        name: "postgres",
        about: "initdb, pgbench, and a server that stops at once and recovers",
        script: script!("postgres"),
        needs: &[need("postgresql", "initdb"), need("postgresql", "pgbench")],
        wants: &[],
        seconds: [300, 1800],
    },
    Workload {
        name: "rsync",
        about: "a tree is copied in and back, changed, and copied again; checksums compared",
        script: script!("rsync"),
        needs: &[need("rsync", "rsync")],
        wants: &[],
        seconds: [300, 1800],
    },
    Workload {
        name: "sqlite-journal",
        about: "transactions with a rollback journal, by two processes",
        script: script!("sqlite-journal"),
        needs: SQLITE,
        wants: &[],
        seconds: [300, 1800],
    },
    // Its write-ahead log takes memory that processes share: sqlite does not support that on any
    // network file system, so all processes are on one mount.
    Workload {
        name: "sqlite-wal",
        about: "transactions with a write-ahead log, by two processes on one mount",
        script: script!("sqlite-counter", "sqlite-wal"),
        needs: SQLITE,
        wants: &[],
        seconds: [300, 1800],
    },
    Workload {
        name: "sqlite-two-mounts",
        about: "transactions with a rollback journal, by two processes on two mounts",
        script: script!("sqlite-counter", "sqlite-two-mounts"),
        needs: SQLITE,
        wants: &[Feature::Locks],
        seconds: [300, 1800],
    },
    Workload {
        name: "tar",
        about: "a tree with sparse files, links and odd names goes into an archive and back",
        script: script!("tar"),
        needs: &[need("tar", "tar")],
        wants: &[],
        seconds: [300, 1800],
    },
    Workload {
        name: "tar-xattrs",
        about: "extended attributes and ACLs go into an archive and back",
        script: script!("tar-xattrs"),
        needs: &[need("tar", "tar"), need("attr", "getfattr"), need("acl", "setfacl")],
        wants: &[Feature::Xattrs, Feature::Acls],
        seconds: [300, 1800],
    },
];

impl Workload {
    /// The programs that this machine lacks, for people.
    pub(super) fn missing(&self, shell: &Shell) -> Vec<String> {
        let missing = self.needs.iter().filter(|need| !shell.has(need.program));
        missing.map(|need| format!("{} (package {})", need.program, need.package)).collect()
    }
}

/// The workload of this name.
pub(super) fn find(name: &str) -> Result<&'static Workload, String> {
    ALL.iter().find(|workload| workload.name == name).ok_or_else(|| {
        let names: Vec<&str> = ALL.iter().map(|workload| workload.name).collect();
        format!("there is no workload {name:?}; there are {}", names.join(", "))
    })
}

/// What these workloads need, as scripts/install takes it.
pub(super) fn packages(workloads: &[&Workload]) -> BTreeSet<String> {
    let needs = workloads.iter().flat_map(|workload| workload.needs);
    needs.map(|need| format!("{}:{}", need.package, need.program)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_workload_is_found_by_its_name_and_has_work() {
        for workload in ALL {
            assert_eq!(find(workload.name).expect("it is there").name, workload.name);
            assert!(workload.script.contains("\nwork() {"), "{}", workload.name);
            assert!(workload.seconds[0] <= workload.seconds[1], "{}", workload.name);
        }
        assert!(find("nothing").expect_err("it is not there").contains("many-files"));
    }

    #[test]
    fn a_package_is_named_once() {
        let names = packages(&[&ALL[0], &ALL[0]]);
        assert_eq!(names.into_iter().collect::<Vec<_>>(), ["cargo:cargo", "gcc:cc"]);
    }
}
