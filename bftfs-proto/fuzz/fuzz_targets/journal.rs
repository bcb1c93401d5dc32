//! See `bftfs_fuzz::journal`.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| bftfs_fuzz::journal::run(data));
