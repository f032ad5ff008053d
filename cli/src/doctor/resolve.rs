//! Which file the kernel starts in the end when a shell is asked for a program.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// How many `#!` lines may lead to each other; Linux follows four (execve(2)).
const SCRIPTS_MAX: usize = 4;

/// The kernel reads this much of a `#!` line (execve(2), Linux 5.1 and newer).
const SCRIPT_LINE_BYTES_MAX: u64 = 256;

/// The way to a program's file.
#[derive(Debug)]
pub(crate) struct Resolved {
    /// Scripts on the way, each with what runs it.
    pub(crate) scripts: Vec<(PathBuf, PathBuf)>,
    /// The file at its end, which is no script.
    pub(crate) binary: PathBuf,
}

/// Why there is no such way.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unresolved {
    #[error("{}: not found", _0.display())]
    NotFound(PathBuf),
    #[error("{}: not an executable file", _0.display())]
    NotExecutable(PathBuf),
    #[error("{}: {source}", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("{}: its first line, #!{}, names no program that is there", path.display(), line.display())]
    NoInterpreter { path: PathBuf, line: OsString },
    #[error("{}: scripts that interpret each other without end", _0.display())]
    Endless(PathBuf),
}

impl Unresolved {
    /// What the user can do about it.
    pub(crate) fn way_out(&self) -> &'static str {
        match self {
            Self::NotFound(_) => "give its path, or a name that is in a folder of PATH",
            Self::NotExecutable(_) => "chmod +x it, or start it through its interpreter",
            Self::Unreadable { .. } => "make it readable for this user",
            Self::NoInterpreter { .. } | Self::Endless(_) => "correct the #! line",
        }
    }
}

/// Finds `program` as a shell does, and follows `#!` lines.
pub(crate) fn resolve(program: &OsStr) -> Result<Resolved, Unresolved> {
    let search_path = std::env::var_os("PATH").unwrap_or_default();
    let found = find(program, &search_path);
    let mut path = found.ok_or_else(|| Unresolved::NotFound(program.into()))?;
    let mut scripts = Vec::new();
    while scripts.len() <= SCRIPTS_MAX {
        if !is_executable(&path) {
            return Err(Unresolved::NotExecutable(path));
        }
        let line = script_line(&path).map_err(|source| Unresolved::Unreadable {
            path: path.clone(),
            source,
        })?;
        let Some(line) = line else {
            return Ok(Resolved {
                scripts,
                binary: path,
            });
        };
        let Some(interpreter) = interpreter_of(&line, &search_path) else {
            return Err(Unresolved::NoInterpreter { path, line });
        };
        scripts.push((path, interpreter.clone()));
        path = interpreter;
    }
    Err(Unresolved::Endless(path))
}

/// Finds `program` in `search_path` unless it names a path.
fn find(program: &OsStr, search_path: &OsStr) -> Option<PathBuf> {
    if program.as_bytes().contains(&b'/') {
        return Path::new(program).exists().then(|| PathBuf::from(program));
    }
    let mut candidates = std::env::split_paths(search_path).map(|folder| folder.join(program));
    candidates.find(|candidate| is_executable(candidate))
}

fn is_executable(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.is_file() && metadata.mode() & 0o111 != 0)
}

/// What follows `#!`, without blanks at either end; `None` for anything but a script.
fn script_line(path: &Path) -> io::Result<Option<OsString>> {
    let mut head = Vec::new();
    File::open(path)?
        .take(SCRIPT_LINE_BYTES_MAX)
        .read_to_end(&mut head)?;
    let Some(rest) = head.strip_prefix(b"#!") else {
        return Ok(None);
    };
    let line = rest.split(|byte| *byte == b'\n').next().unwrap_or_default();
    Ok(Some(OsString::from_vec(line.trim_ascii().to_vec())))
}

/// The program that a `#!` line starts; `env NAME` is followed, as it is how most scripts find theirs.
fn interpreter_of(line: &OsStr, search_path: &OsStr) -> Option<PathBuf> {
    let words = line
        .as_bytes()
        .split(u8::is_ascii_whitespace)
        .filter(|word| !word.is_empty());
    let mut words = words.map(OsStr::from_bytes);
    let interpreter = Path::new(words.next()?);
    let is_name =
        |word: &&OsStr| !word.as_bytes().starts_with(b"-") && !word.as_bytes().contains(&b'=');
    if interpreter.file_name() == Some(OsStr::new("env"))
        && let Some(name) = words.find(is_name)
    {
        return find(name, search_path);
    }
    interpreter.exists().then(|| interpreter.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn script(folder: &Path, text: &str) -> PathBuf {
        let path = folder.join("script");
        test_support::script(&path, text);
        path
    }

    #[test]
    fn a_script_leads_to_what_runs_it() {
        let folder = tempfile::tempdir().unwrap();
        for line in [
            "#!/bin/sh",
            "#! /bin/sh -e ",
            "#!/usr/bin/env sh",
            "#!/usr/bin/env -S A=b sh -e",
        ] {
            let path = script(folder.path(), &format!("{line}\necho\n"));
            let resolved = resolve(path.as_os_str()).unwrap();
            assert_eq!(
                resolved.scripts,
                [(path, resolved.binary.clone())],
                "{line}"
            );
            assert_eq!(
                resolved.binary.file_name(),
                Some(OsStr::new("sh")),
                "{line}"
            );
        }
    }

    #[test]
    fn scripts_that_interpret_each_other_end() {
        let folder = tempfile::tempdir().unwrap();
        let line = format!("#!{}\n", folder.path().join("script").display());
        let path = script(folder.path(), &line);
        assert!(matches!(
            resolve(path.as_os_str()),
            Err(Unresolved::Endless(_))
        ));
    }

    #[test]
    fn what_cannot_be_started_is_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(matches!(
            resolve(file.as_os_str()),
            Err(Unresolved::NotExecutable(_))
        ));
        assert!(matches!(
            resolve(folder.path().as_os_str()),
            Err(Unresolved::NotExecutable(_))
        ));
        assert!(matches!(
            resolve(OsStr::new("no-such-program")),
            Err(Unresolved::NotFound(_))
        ));
        let path = script(folder.path(), "#!/no/such/interpreter\n");
        assert!(matches!(
            resolve(path.as_os_str()),
            Err(Unresolved::NoInterpreter { .. })
        ));
    }
}
