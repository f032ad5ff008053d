//! Names the library as NVIDIA's is named, and makes an answer for every NVML symbol that the sources do not define.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

fn main() -> io::Result<()> {
    println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libnvidia-ml.so.1");
    println!("cargo::rerun-if-changed=src");
    let defined = symbols_defined_in(Path::new("src"))?;
    let mut rows = String::from("unsimulated! {\n");
    for symbol in cuda_sys_stubs::symbols::NVML
        .iter()
        .filter(|symbol| !defined.contains(symbol.name))
    {
        writeln!(rows, "    {}", symbol.name).map_err(io::Error::other)?;
    }
    rows.push_str("}\n");
    let out = env::var_os("OUT_DIR").ok_or_else(|| io::Error::other("cargo sets OUT_DIR"))?;
    fs::write(PathBuf::from(out).join("unsimulated.rs"), rows)
}

/// Every `nvml…` that a row of `exports!` or a function defines: the names between `fn` and the parameters.
fn symbols_defined_in(folder: &Path) -> io::Result<BTreeSet<String>> {
    let mut symbols = BTreeSet::new();
    for entry in fs::read_dir(folder)? {
        let text = fs::read_to_string(entry?.path())?;
        for names in text
            .split("fn ")
            .skip(1)
            .filter_map(|row| row.split('(').next())
        {
            symbols.extend(
                names
                    .split('/')
                    .map(str::trim)
                    .filter(|name| name.starts_with("nvml"))
                    .map(str::to_owned),
            );
        }
    }
    Ok(symbols)
}
