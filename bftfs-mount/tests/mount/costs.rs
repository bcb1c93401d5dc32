//! What calls cost: requests of the kernel and operations of the cluster. The table of
//! `bftfs_mount::volume` follows from this one.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, PermissionsExt};

use bftfs_mount::volume::Mode;
use rustix::fs::{Access, FallocateFlags, SeekFrom, XattrFlags, copy_file_range};
use serde_json::Value;

use crate::double::Double;
use crate::mounted::{Mounted, has_fuse};

/// Operations that were ordered and operations that were read.
type Operations = (u64, u64);

struct Cost {
    call: &'static str,
    act: fn(&Mounted, &File),
    /// Kinds of requests, in the order of their names, but those that nobody waits for.
    requests: &'static str,
    strict: Operations,
    ro_lookup: Operations,
}

impl Cost {
    /// In `relatime`, of what was read since it changed: atime stays. Only a listing costs more
    /// than in `ro-lookup`, as opening the directory may not move atime.
    fn relatime(&self) -> Operations {
        let (ordered, reads) = self.ro_lookup;
        (ordered, reads + u64::from(self.requests.contains("opendir")))
    }
}

const fn cost(
    call: &'static str,
    act: fn(&Mounted, &File),
    requests: &'static str,
    strict: Operations,
    ro_lookup: Operations,
) -> Cost {
    Cost { call, act, requests, strict, ro_lookup }
}

#[rustfmt::skip]
const COSTS: &[Cost] = &[
    cost("stat", |m, _| { fs::metadata(m.at("f")).expect("stat"); }, "getattr lookup", (1, 1), (0, 2)),
    cost("stat of nothing", |m, _| { fs::metadata(m.at("x")).expect_err("stat"); }, "lookup", (1, 0), (0, 1)),
    cost("fstat", |_, f| { f.metadata().expect("fstat"); }, "getattr", (0, 1), (0, 1)),
    cost("access", |m, _| { rustix::fs::access(m.at("f"), Access::READ_OK).expect("access"); }, "access lookup", (1, 1), (0, 2)),
    cost("open, close", |m, _| { File::open(m.at("f")).expect("open"); }, "flush lookup open", (1, 1), (0, 2)),
    cost("read", |_, f| { f.read_at(&mut [0; 4096], 0).expect("read"); }, "read", (1, 0), (0, 1)),
    cost("open, fstat, read to the end, close", |m, _| { fs::read(m.at("f")).expect("read"); }, "flush getattr lookup open read", (3, 2), (0, 5)),
    cost("write", |_, f| { f.write_at(&[0; 4096], 0).expect("write"); }, "write", (1, 0), (1, 0)),
    cost("lseek to data", |_, f| { rustix::fs::seek(f, SeekFrom::Data(0)).expect("lseek"); }, "lseek", (0, 1), (0, 1)),
    cost("fallocate", |_, f| rustix::fs::fallocate(f, FallocateFlags::KEEP_SIZE, 0, 9).expect("fallocate"), "fallocate getxattr", (1, 1), (1, 1)),
    cost("copy_file_range", |_, f| { copy_file_range(f, Some(&mut 0), f, Some(&mut 50_000), 9).expect("copy"); }, "copy_file_range", (1, 0), (1, 0)),
    cost("lock and unlock", |_, f| { f.lock().expect("lock"); f.unlock().expect("unlock"); }, "setlk", (2, 0), (2, 0)),
    cost("fsync", |_, f| f.sync_all().expect("fsync"), "fsync", (0, 0), (0, 0)),
    cost("create, close", |m, _| { File::create(m.at("new")).expect("create"); }, "create flush lookup", (2, 0), (1, 1)),
    cost("open and truncate", |m, _| { File::create(m.at("new")).expect("open"); }, "flush getxattr lookup open", (2, 1), (1, 2)),
    cost("chmod", |m, _| fs::set_permissions(m.at("new"), PermissionsExt::from_mode(0o600)).expect("chmod"), "lookup setattr", (2, 0), (1, 1)),
    cost("rename", |m, _| fs::rename(m.at("new"), m.at("new2")).expect("rename"), "lookup rename", (3, 0), (1, 2)),
    cost("link", |m, _| fs::hard_link(m.at("new2"), m.at("new")).expect("link"), "link lookup", (3, 0), (1, 2)),
    cost("unlink", |m, _| fs::remove_file(m.at("new2")).expect("unlink"), "lookup unlink", (2, 0), (1, 1)),
    cost("mkdir", |m, _| fs::create_dir(m.at("d")).expect("mkdir"), "lookup mkdir", (2, 0), (1, 1)),
    cost("rmdir", |m, _| fs::remove_dir(m.at("d")).expect("rmdir"), "lookup rmdir", (2, 0), (1, 1)),
    cost("list 1000 names", |m, _| list(m), "getattr lookup opendir readdir", (2, 2), (0, 3)),
    cost("setxattr", |m, _| rustix::fs::setxattr(m.at("f"), "user.a", b"v", XattrFlags::empty()).expect("setxattr"), "lookup setxattr", (2, 0), (1, 1)),
    cost("getxattr", |m, _| { rustix::fs::getxattr(m.at("f"), "user.a", &mut [0; 9]).expect("getxattr"); }, "getxattr lookup", (1, 1), (0, 2)),
    cost("listxattr", |m, _| { rustix::fs::listxattr(m.at("f"), &mut [0; 99]).expect("listxattr"); }, "listxattr lookup", (1, 1), (0, 2)),
    cost("removexattr", |m, _| rustix::fs::removexattr(m.at("f"), "user.a").expect("removexattr"), "lookup removexattr", (2, 0), (1, 1)),
    cost("ftruncate", |_, f| f.set_len(50_000).expect("ftruncate"), "getxattr setattr", (1, 1), (1, 1)),
    cost("statfs", |m, _| { rustix::fs::statvfs(m.path()).expect("statfs"); }, "statfs", (0, 1), (0, 1)),
];

fn list(mount: &Mounted) {
    assert_eq!(fs::read_dir(mount.at("many")).expect("list").count(), 1000);
}

/// Requests so far, by kind. Nobody waits for the answer to some: when they come is chance.
fn requests(mount: &Mounted) -> Vec<(String, u64)> {
    let Value::Object(kinds) = mount.stats.to_json()["fuse"].clone() else {
        panic!("statistics without requests");
    };
    let waited_for = |kind: &str| !["forget", "release", "releasedir"].contains(&kind);
    let count = |value: &Value| value["count"].as_u64().expect("count");
    let kinds = kinds.iter().filter(|(kind, _)| waited_for(kind));
    kinds.map(|(kind, value)| (kind.clone(), count(value))).collect()
}

#[test]
fn calls_cost_what_is_written_down() {
    if !has_fuse() {
        return;
    }
    for mode in [Mode::Strict, Mode::Relatime, Mode::RoLookup] {
        let double = Double::default();
        let mount = Mounted::new(&double, mode);
        fs::write(mount.at("f"), vec![1; 100_000]).expect("write");
        fs::create_dir(mount.at("many")).expect("mkdir");
        for i in 0..1000 {
            File::create(mount.at(&format!("many/{i:016}"))).expect("create");
        }
        let open = OpenOptions::new().read(true).write(true).open(mount.at("f")).expect("open");
        open.read_at(&mut [0; 1], 0).expect("read");
        list(&mount);
        for cost in COSTS {
            let (before, operations) = (requests(&mount), double.counts());
            (cost.act)(&mount, &open);
            let now = double.counts();
            let spent = (now.0 - operations.0, now.1 - operations.1);
            let new = requests(&mount).into_iter().filter(|after| !before.contains(after));
            // Processes that other tests start close what they inherited, each with a flush.
            let own = |kind: &String| kind != "flush" || cost.requests.contains("flush");
            let kinds: Vec<String> = new.map(|(kind, _)| kind).filter(own).collect();
            let expected = match mode {
                Mode::Strict => cost.strict,
                Mode::Relatime => cost.relatime(),
                Mode::RoLookup => cost.ro_lookup,
            };
            let seen = (kinds.join(" "), spent);
            assert_eq!(seen, (cost.requests.to_owned(), expected), "{mode} {}", cost.call);
        }
    }
}
