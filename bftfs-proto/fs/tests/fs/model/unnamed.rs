//! Files that lose their names, on the file service and on the model of it.

use bftfs_fs::{Operation, ROOT, RenameMode};
use bftfs_fs_reference::{Circumstances, Reference};
use bftfs_proto::types::SessionId;
use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::{aim, compare, ino};
use crate::harness::{Host, create, rename, root};

/// What matters to files that lose their names.
#[derive(Clone, Debug)]
enum Unnaming {
    Call(Operation),
    Close,
    Seconds(u64),
}

fn unnaming() -> impl Strategy<Value = Unnaming> {
    let name = || select(["a", "b", "c"].to_vec());
    let operation = prop_oneof![
        4 => name().prop_map(|name| create(ROOT, name, 0o644)),
        4 => (name(), any::<bool>()).prop_map(|(name, keep)| {
            Operation::Unlink { parent: ROOT, name: Bytes::from(name), keep }
        }),
        1 => (name(), name()).prop_map(|(from, to)| {
            rename((ROOT, from), (ROOT, to), RenameMode::Replace)
        }),
        3 => vec(ino(), 0..4).prop_map(|inos| Operation::Hold { inos }),
        2 => vec(ino(), 0..4).prop_map(|inos| Operation::Release { inos }),
        8 => prop_oneof![0..9_u64, Just(u64::MAX)].prop_map(|seen| Operation::Attend { seen }),
    ];
    prop_oneof![
        20 => operation.prop_map(Unnaming::Call),
        1 => Just(Unnaming::Close),
        2 => select(vec![10, 50]).prop_map(Unnaming::Seconds),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn files_live_as_long_as_in_the_model(steps in vec((1..5_u64, unnaming()), 1..100)) {
        let mut host = Host::new();
        let mut model = Reference::new(1 << 40, 1 << 20, 0o777);
        let who = root();
        for (session, step) in steps {
            host.session = SessionId(session);
            match step {
                Unnaming::Call(mut operation) => {
                    aim(&mut operation, &model);
                    let found = host.call(&who, operation.clone());
                    let at = Circumstances { who: &who, session, now: host.now() };
                    prop_assert_eq!(found, model.perform(at, &operation), "{:?}", operation);
                }
                Unnaming::Close => {
                    host.close(SessionId(session));
                    model.close(session);
                }
                Unnaming::Seconds(seconds) => host.time += seconds * 1_000_000_000,
            }
            compare(&mut host, &mut model);
        }
    }
}
