//! Names the library as the loader knows the driver, and generates what is exported but not simulated.
//!
//! Every symbol of `cuda-sys-stubs` that no row of `src/export` defines gets a stub; the table of all addresses is what
//! `cuGetProcAddress` answers from.

use std::collections::BTreeSet;
use std::path::Path;
use std::{env, fs, io};

use cuda_sys_stubs::symbols::{DRIVER, Symbol, SymbolKind};

fn main() -> io::Result<()> {
    // As the real one is linked: no preload catches what the library calls inside itself.
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libcuda.so.1");
    println!("cargo:rustc-cdylib-link-arg=-Wl,-Bsymbolic");
    println!("cargo:rerun-if-changed=src/export");
    println!("cargo:rerun-if-changed=build.rs");
    let defined = defined(Path::new("src/export"))?;
    let unknown: Vec<_> = defined
        .iter()
        .filter(|name| cuda_sys_stubs::symbols::driver(name).is_none())
        .collect();
    if !unknown.is_empty() {
        return Err(io::Error::other(format!(
            "rows for symbols that are in no table: {unknown:?}"
        )));
    }
    let out = env::var_os("OUT_DIR").ok_or_else(|| io::Error::other("OUT_DIR is not set"))?;
    fs::write(Path::new(&out).join("symbols.rs"), generate(&defined))
}

/// Names that the rows of `exports!` define: `fn cuName(…` or `fn cuName / cuName_ptsz |null| (…`.
fn defined(folder: &Path) -> io::Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for file in fs::read_dir(folder)? {
        for line in fs::read_to_string(file?.path())?.lines() {
            let Some(row) = line.strip_prefix("    fn cu") else {
                continue;
            };
            let head = row.split(['(', '|']).next().unwrap_or("");
            names.extend(
                format!("cu{head}")
                    .split('/')
                    .map(|name| name.trim().to_owned()),
            );
        }
    }
    Ok(names)
}

fn generate(defined: &BTreeSet<String>) -> String {
    let (data, functions): (Vec<_>, Vec<_>) = DRIVER
        .iter()
        .partition(|symbol| symbol.kind == SymbolKind::Data);
    let (rows, stubs): (Vec<_>, Vec<_>) = functions
        .into_iter()
        .partition(|symbol| defined.contains(symbol.name));
    let each = |symbols: &[&Symbol], write: fn(&Symbol) -> String| -> String {
        symbols.iter().map(|symbol| write(symbol)).collect()
    };
    let all: Vec<&Symbol> = DRIVER.iter().collect();
    format!(
        "stubs! {{\n{}}}\nvariables! {{\n{}}}\nunsafe extern \"C\" {{\n{}}}\n\
         static EXPORTS: &[Export] = &[\n{}];\n",
        each(&stubs, |symbol| format!("    {},\n", symbol.name)),
        each(&data, |symbol| format!("    {},\n", symbol.name)),
        each(&rows, |symbol| format!("    fn {}();\n", symbol.name)),
        each(&all, address),
    )
}

/// A line of the table of addresses.
fn address(symbol: &Symbol) -> String {
    let name = symbol.name;
    match symbol.kind {
        SymbolKind::Data => format!("    ({name:?}, || (&raw const {name}).cast()),\n"),
        SymbolKind::Function => format!("    ({name:?}, || {name} as *const c_void),\n"),
    }
}
