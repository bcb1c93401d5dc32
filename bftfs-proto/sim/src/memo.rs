//! Signatures are checked once in a run, not once by every replica that is shown one: a check is a
//! function of its arguments, and would take half of the time of a run.

use std::cell::RefCell;
use std::collections::HashMap;

use bftfs_proto::Digest;
use bftfs_proto::auth::{PublicKey, Reject, Signature};

type Checked = HashMap<(PublicKey, Digest, Signature), Result<(), Reject>>;

thread_local! {
    static CHECKED: RefCell<Checked> = RefCell::default();
}

/// As [`PublicKey::verify`].
///
/// # Errors
/// [`Reject::Signature`].
pub fn verify(key: &PublicKey, digest: &Digest, signature: &Signature) -> Result<(), Reject> {
    CHECKED.with_borrow_mut(|checked| {
        let result = checked.entry((*key, *digest, *signature));
        *result.or_insert_with(|| key.verify(digest, signature))
    })
}

/// Forgets what was checked: a run begins.
pub fn forget() {
    CHECKED.with_borrow_mut(HashMap::clear);
}
