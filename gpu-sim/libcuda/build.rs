//! Names the library as the loader knows the driver, and generates what is exported but not simulated.
//!
//! Every symbol of `cuda-sys-stubs` that no row of `src/export` defines gets a stub, which answers what `absent.tsv` says; a symbol
//! in neither, or in both, fails the build. The table of all addresses is what `cuGetProcAddress` answers from.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::{env, fs, io};

use cuda_sys_stubs::symbols::{DRIVER, Symbol, SymbolKind};

fn main() -> io::Result<()> {
    // As the real one is linked: no preload catches what the library calls inside itself.
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libcuda.so.1");
    println!("cargo:rustc-cdylib-link-arg=-Wl,-Bsymbolic");
    println!("cargo:rerun-if-changed=src/export");
    println!("cargo:rerun-if-changed=absent.tsv");
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
    let absent = absent(&fs::read_to_string("absent.tsv")?)?;
    check(&defined, &absent)?;
    let out = env::var_os("OUT_DIR").ok_or_else(|| io::Error::other("OUT_DIR is not set"))?;
    fs::write(
        Path::new(&out).join("symbols.rs"),
        generate(&defined, &absent),
    )
}

/// What a stub answers, and why.
struct Answer {
    status: String,
    why: String,
}

/// Reads the table of what is not simulated: answer, why, symbols.
fn absent(table: &str) -> io::Result<BTreeMap<String, Answer>> {
    let mut answers = BTreeMap::new();
    for line in table.lines().skip(1) {
        let mut columns = line.split('\t');
        let (Some(status), Some(why), Some(symbols), None) = (
            columns.next(),
            columns.next(),
            columns.next(),
            columns.next(),
        ) else {
            return Err(io::Error::other(format!("absent.tsv: {line:?}")));
        };
        for symbol in symbols.split(' ') {
            let (status, why) = (format!("CUDA_ERROR_{status}"), why.to_owned());
            if answers
                .insert(symbol.to_owned(), Answer { status, why })
                .is_some()
            {
                return Err(io::Error::other(format!("absent.tsv: {symbol} twice")));
            }
        }
    }
    Ok(answers)
}

/// Silence is no decision: every function has a row or an answer, and not both.
fn check(defined: &BTreeSet<String>, absent: &BTreeMap<String, Answer>) -> io::Result<()> {
    let functions = DRIVER
        .iter()
        .filter(|symbol| symbol.kind == SymbolKind::Function);
    let functions: BTreeSet<&str> = functions.map(|symbol| symbol.name).collect();
    let undecided = functions
        .iter()
        .filter(|name| defined.contains(**name) == absent.contains_key(**name));
    let unknown = absent
        .keys()
        .map(String::as_str)
        .filter(|name| !functions.contains(name));
    let wrong: Vec<&str> = undecided.copied().chain(unknown).collect();
    if wrong.is_empty() {
        Ok(())
    } else {
        Err(io::Error::other(format!(
            "simulated and in absent.tsv, or neither, or unknown: {wrong:?}"
        )))
    }
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

fn generate(defined: &BTreeSet<String>, absent: &BTreeMap<String, Answer>) -> String {
    let (data, functions): (Vec<_>, Vec<_>) = DRIVER
        .iter()
        .partition(|symbol| symbol.kind == SymbolKind::Data);
    let (rows, stubs): (Vec<_>, Vec<_>) = functions
        .into_iter()
        .partition(|symbol| defined.contains(symbol.name));
    let each = |symbols: &[&Symbol], write: &dyn Fn(&Symbol) -> String| -> String {
        symbols.iter().map(|symbol| write(symbol)).collect()
    };
    let stub = |symbol: &Symbol| {
        let answer = absent.get(symbol.name);
        let written = answer
            .map(|Answer { status, why }| format!("    {}, {status}, {why:?};\n", symbol.name));
        written.unwrap_or_default()
    };
    let all: Vec<&Symbol> = DRIVER.iter().collect();
    format!(
        "stubs! {{\n{}}}\nvariables! {{\n{}}}\nunsafe extern \"C\" {{\n{}}}\n\
         static EXPORTS: &[Export] = &[\n{}];\n",
        each(&stubs, &stub),
        each(&data, &|symbol| format!("    {},\n", symbol.name)),
        each(&rows, &|symbol| format!("    fn {}();\n", symbol.name)),
        each(&all, &address),
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
