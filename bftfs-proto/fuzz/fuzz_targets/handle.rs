//! See `bftfs_fuzz::handle`.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| bftfs_fuzz::handle::run(data));
