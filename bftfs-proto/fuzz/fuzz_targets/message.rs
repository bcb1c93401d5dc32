//! See `bftfs_fuzz::message`.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| bftfs_fuzz::message::run(data));
