//! Any bytes from clients, hubs and brokers: no panic, and what is understood means the same said again.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| wireline_hub::testing::decode_anything(bytes));
