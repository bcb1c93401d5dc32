//! How long the file service takes for an operation, encoding and decoding included.
//!
//! `cargo run --release -p bftfs-fs --example speed`

use std::time::Instant;

use bftfs_fs::{
    Allocation, Call, Credentials, FileSystem, Ino, Operation, Outcome, ROOT, Reply, Sought, Touch,
    decode_outcome,
};
use bftfs_proto::Tree;
use bftfs_proto::service::{Context, Service};
use bftfs_proto::types::{ClientId, SessionId, Wall};
use bytes::Bytes;

const COUNT: u64 = 100_000;
/// As between two checkpoints.
const SEAL_EVERY: u64 = 1000;

struct Bench {
    service: FileSystem,
    tree: Tree,
    time: u64,
}

impl Bench {
    fn call(&mut self, operation: Operation) -> Outcome {
        self.time += 1;
        let session = SessionId(1);
        let context = Context { client: ClientId(1), session, time: Wall(self.time) };
        let call = Call { credentials: Credentials::default(), operation }.encode();
        let outcome = self.service.execute(&mut self.tree, &context, &call, &mut Vec::new());
        decode_outcome(&outcome).expect("outcomes are well-formed")
    }

    fn measure(&mut self, what: &str, count: u64, operation: impl Fn(u64) -> Operation) {
        let mut sealing = 0;
        let start = Instant::now();
        for number in 0..count {
            self.call(operation(number)).expect("accepted");
            if number % SEAL_EVERY == SEAL_EVERY - 1 {
                let start = Instant::now();
                self.tree.seal();
                sealing += start.elapsed().as_nanos();
            }
        }
        let (all, count) = (start.elapsed().as_nanos() - sealing, u128::from(count));
        let (all, sealing) = (all / count, sealing / count);
        println!("{what:24} {all:6} ns/op, and {sealing:6} ns/op for checkpoints");
    }
}

fn name(number: u64) -> Bytes {
    format!("file-{number}").into()
}

fn main() {
    let service = FileSystem::new(1 << 40, 1 << 30);
    let mut tree = Tree::new();
    service.genesis(&mut tree);
    let mut bench = Bench { service, tree, time: 1 << 60 };
    let make = |number| Operation::Mkdir { parent: ROOT, name: name(number), mode: 0o755 };
    let mut made = |number| match bench.call(make(number)) {
        Ok(Reply::Attributes(attributes)) => attributes.ino,
        other => panic!("{other:?}"),
    };
    let dirs: Vec<Ino> = (0..100).map(&mut made).collect();
    let parent = |number: u64| dirs[usize::try_from(number % 100).expect("small")];
    measure_names(&mut bench, &parent);
    measure_contents(&mut bench);
    bench.measure("readdir of 1000, plus", 1000, |number| Operation::Readdir {
        ino: parent(number),
        cookie: 0,
        bytes_max: 1 << 20,
        plus: true,
        touch: Touch::Never,
    });
    bench.measure("unlink", COUNT, |number| Operation::Unlink {
        parent: parent(number),
        name: name(number),
        keep: false,
    });
}

fn measure_names(bench: &mut Bench, parent: &dyn Fn(u64) -> Ino) {
    bench.measure("null", COUNT, |_| Operation::Null);
    bench.measure("create", COUNT, |number| Operation::Create {
        parent: parent(number),
        name: name(number),
        mode: 0o644,
        exclusive: true,
        mask: 6,
        truncate: false,
    });
    bench.measure("lookup", COUNT, |number| Operation::Lookup {
        parent: parent(number),
        name: name(number),
    });
    bench.measure("getattr", COUNT, |number| Operation::Getattr { ino: file(number) });
}

/// What is most work in one operation, on the big file that was written before.
fn measure_ranges(bench: &mut Bench) {
    let (ino, target) = (file(0), file(1));
    for (what, shift) in [("copy 1 MiB", 0), ("copy 1 MiB, unaligned", 5000)] {
        bench.measure(what, 400, |number| Operation::Copy {
            ino,
            offset: number << 20,
            target,
            target_offset: (number << 20) + shift,
            length: 1 << 20,
            touch: Touch::Relative,
        });
    }
    bench.measure("seek a hole, 64 MiB on", 400, |number| Operation::Seek {
        ino,
        offset: number << 20,
        sought: Sought::Hole,
    });
    bench.measure("punch 8 MiB", 40, |number| Operation::Allocate {
        ino: target,
        offset: number << 23,
        length: 1 << 23,
        how: Allocation::Punch,
    });
}

/// The files that were created follow the root and its directories.
fn file(number: u64) -> Ino {
    Ino(102 + number)
}

fn measure_contents(bench: &mut Bench) {
    let data = Bytes::from(vec![7; 4096]);
    let big = Bytes::from(vec![7; 1 << 17]);
    bench.measure("write 4 KiB, new", COUNT, |number| Operation::Write {
        ino: file(number),
        offset: 0,
        append: false,
        data: data.clone(),
    });
    bench.measure("write 4 KiB, in place", COUNT, |number| Operation::Write {
        ino: file(number),
        offset: 0,
        append: false,
        data: data.clone(),
    });
    bench.measure("read 4 KiB", COUNT, |number| Operation::Read {
        ino: file(number),
        offset: 0,
        length: 4096,
        touch: Touch::Never,
    });
    bench.measure("read 4 KiB, atime", COUNT, |number| Operation::Read {
        ino: file(number),
        offset: 0,
        length: 4096,
        touch: Touch::Always,
    });
    bench.measure("write 128 KiB, append", 4000, |_| Operation::Write {
        ino: file(0),
        offset: 0,
        append: true,
        data: big.clone(),
    });
    bench.measure("read 128 KiB", 4000, |number| Operation::Read {
        ino: file(0),
        offset: number << 17,
        length: 1 << 17,
        touch: Touch::Never,
    });
    measure_ranges(bench);
}
