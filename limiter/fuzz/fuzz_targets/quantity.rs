#![no_main]

#[path = "../properties.rs"]
#[allow(dead_code, reason = "the other target's")]
mod properties;

libfuzzer_sys::fuzz_target!(|text: &str| properties::quantity(text));
