//! Names the library as the loader knows the driver, and lists the driver's functions that no row hooks.

use std::collections::BTreeSet;
use std::path::Path;
use std::{env, fs, io};

use cuda_sys_stubs::symbols::{DRIVER, SymbolKind};

#[path = "../link.rs"]
mod link;

const TABLE: &str = "../src/table.rs";

fn main() -> io::Result<()> {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=../link.rs");
    println!("cargo:rerun-if-changed={TABLE}");
    println!("cargo:rustc-check-cfg=cfg(second_door)");
    println!("cargo:rustc-cfg=second_door");
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libcuda.so.1");
    link::arguments();
    let table = fs::read_to_string(TABLE)?;
    let hooked: BTreeSet<&str> = table.lines().filter_map(hooked_by).collect();
    let out = env::var_os("OUT_DIR").ok_or_else(|| io::Error::other("OUT_DIR is not set"))?;
    fs::write(Path::new(&out).join("jumps.rs"), jumps(&hooked))
}

/// The symbol of a row: `Charge fn cuMemAlloc_v2(…`. One that is overlooked here is defined twice, and does not compile.
fn hooked_by(line: &str) -> Option<&str> {
    let (effect, rest) = line.trim_start().split_once(" fn ")?;
    let (name, _) = rest.split_once('(')?;
    (effect.trim_end().chars().all(char::is_alphabetic) && name.starts_with("cu")).then_some(name)
}

/// Variables are the debugger's, which is to find those of the real driver.
fn jumps(hooked: &BTreeSet<&str>) -> String {
    let functions = DRIVER
        .iter()
        .filter(|symbol| symbol.kind == SymbolKind::Function && !hooked.contains(symbol.name));
    let lines: String = functions
        .enumerate()
        .map(|(index, symbol)| format!("    {index} {}\n", symbol.name))
        .collect();
    format!("jumps! {{\n{lines}}}\n")
}
