//! See `bftfs_fuzz::client`.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| bftfs_fuzz::client::run(data));
