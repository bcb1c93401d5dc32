//! See `bftfs_fuzz::fs`.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| bftfs_fuzz::fs::run(data));
