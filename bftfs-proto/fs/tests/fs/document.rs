//! The document of what is promised names tests that exist, and each of them.

use std::collections::BTreeSet;

const DOCUMENT: &str = include_str!("../../../../docs/semantics.md");
const TESTS: [(&str, &str); 13] = [
    ("acl", include_str!("acl.rs")),
    ("contents", include_str!("contents.rs")),
    ("damage", include_str!("damage.rs")),
    ("keeping", include_str!("keeping.rs")),
    ("limbo", include_str!("limbo.rs")),
    ("locks", include_str!("locks.rs")),
    ("model", include_str!("model.rs")),
    ("model::unnamed", include_str!("model/unnamed.rs")),
    ("names", include_str!("names.rs")),
    ("ranges", include_str!("ranges.rs")),
    ("rights", include_str!("rights.rs")),
    ("rules", include_str!("rules.rs")),
    ("xattr", include_str!("xattr.rs")),
];

#[test]
fn every_promise_has_its_test_and_every_test_its_promise() {
    let mut tests = BTreeSet::new();
    for (module, source) in TESTS {
        for part in source.split("#[test]").skip(1) {
            let name = part.split("fn ").nth(1).and_then(|rest| rest.split('(').next());
            tests.insert(format!("{module}::{}", name.expect("a test is a function")));
        }
    }
    let quoted: BTreeSet<&str> = DOCUMENT.split('`').skip(1).step_by(2).collect();
    let ours =
        |name: &&str| TESTS.iter().any(|(module, _)| name.starts_with(&format!("{module}::")));
    let named: BTreeSet<String> = quoted.into_iter().filter(ours).map(Into::into).collect();
    let either: Vec<_> = named.symmetric_difference(&tests).collect();
    assert!(either.is_empty(), "only in the document or only in the tests: {either:#?}");
}
