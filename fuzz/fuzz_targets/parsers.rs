//! Gives what libFuzzer makes up to the parser that `HYDRA_FUZZ_TARGET` names: one of
//! `hydra_core::fuzzing::TARGETS`, or `map` for client maps.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;

static TARGET: LazyLock<String> =
    LazyLock::new(|| std::env::var("HYDRA_FUZZ_TARGET").unwrap_or_else(|_| "chunk".to_owned()));

fuzz_target!(|data: &[u8]| {
    if *TARGET == "map" {
        if let Ok(text) = std::str::from_utf8(data) {
            let _ = text.parse::<hydra_sdk::ClientMap>();
        }
        return;
    }
    hydra_core::fuzzing::run(&TARGET, data);
});
