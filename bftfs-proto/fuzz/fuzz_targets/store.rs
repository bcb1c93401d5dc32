//! See `bftfs_fuzz::store`.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| bftfs_fuzz::store::run(data));
