//! See `bftfs_fuzz::tree`.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| bftfs_fuzz::tree::run(data));
