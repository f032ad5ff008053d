//! The library in the driver's place, as a file: named and exporting as the driver does.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;

use cuda_sys_stubs::symbols::{DRIVER, NVML, SymbolKind};

/// The library that `cargo test` has built for this test.
fn library() -> PathBuf {
    let deps = std::env::current_exe()
        .unwrap()
        .parent()
        .unwrap()
        .to_owned();
    const NAME: &str = "libcuda_hook_second_door.so";
    [deps.parent().unwrap().join(NAME), deps.join(NAME)]
        .into_iter()
        .filter(|path| path.exists())
        .max_by_key(|path| path.metadata().unwrap().modified().unwrap())
        .expect("the library beside the test")
}

fn output_of(tool: &str, arguments: &[&str]) -> String {
    let output = Command::new(tool)
        .args(arguments)
        .arg(library())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{tool}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn every_function_of_every_known_driver_is_exported() {
    let listing = output_of("nm", &["-D", "--defined-only", "--format=posix"]);
    let exported: BTreeSet<_> = listing
        .lines()
        .filter_map(|line| line.split(' ').next())
        .collect();
    let functions: BTreeSet<_> = DRIVER
        .iter()
        .filter(|symbol| symbol.kind == SymbolKind::Function)
        .map(|symbol| symbol.name)
        .collect();
    let missing: Vec<_> = functions.difference(&exported).collect();
    assert!(missing.is_empty(), "{missing:?}");
    let beyond = exported.difference(&functions);
    let unexplained: Vec<_> = beyond
        .filter(|name| !["dlsym", "dlvsym"].contains(name))
        .filter(|name| !NVML.iter().any(|symbol| symbol.name == **name))
        .collect();
    assert!(unexplained.is_empty(), "{unexplained:?}");
}

#[test]
fn the_loader_knows_it_as_the_driver_and_keeps_it() {
    let dynamic = output_of("readelf", &["--dynamic", "--wide"]);
    assert!(dynamic.contains("soname: [libcuda.so.1]"), "{dynamic}");
    assert!(dynamic.contains("NODELETE"), "{dynamic}");
    assert!(!dynamic.contains("TEXTREL"), "{dynamic}");
    let needed: BTreeSet<_> = dynamic
        .lines()
        .filter(|line| line.contains("(NEEDED)"))
        .filter_map(|line| line.split(['[', ']']).nth(1))
        .collect();
    assert_eq!(
        needed,
        BTreeSet::from(["ld-linux-x86-64.so.2", "libc.so.6", "libgcc_s.so.1"])
    );
}
