//! Is `libcuda_hook.so` there, and will the loader take it into a program?

use std::path::Path;
use std::process::Command;

use super::elf::{self, Image};
use super::finding::Finding;
use super::loader;
use crate::artefacts::Artefacts;
use crate::failure::Failure;

const PRELOAD: &str = "preload";
const GLIBC: &str = "glibc";

/// Examines the preload; hands back its image for further checks.
pub(crate) fn examine(artefacts: &Artefacts) -> (Vec<Finding>, Option<Image>) {
    let path = match artefacts.preload() {
        Ok(path) => path,
        Err(failure) => {
            let finding = Finding::problem(
                PRELOAD,
                failure.to_string(),
                "without the library no limit can be enforced",
            );
            return (vec![finding], None);
        }
    };
    match Image::read(&path) {
        Ok(image) => (
            vec![glibc(&image, loader::glibc_version()), loadable(&path)],
            Some(image),
        ),
        Err(error) => {
            let found = format!("{}: {error}", path.display());
            (
                vec![Finding::problem(
                    PRELOAD,
                    found,
                    "install or build libcuda_hook.so again",
                )],
                None,
            )
        }
    }
}

/// An unmet version would not make the loader skip the preload: it ends every program that is started with it.
fn glibc(preload: &Image, here: Result<String, Failure>) -> Finding {
    let here = match here {
        Ok(here) => here,
        Err(failure) => {
            let found = format!("nobody could ask for its version: {failure}");
            return Finding::problem(GLIBC, found, loader::WAY_OUT);
        }
    };
    let Some((major, minor)) = preload.glibc_needed() else {
        return Finding::ok(
            GLIBC,
            format!("{here}; the preload needs no particular version"),
        );
    };
    let found = format!("{here}; the preload needs {major}.{minor}");
    if elf::glibc_version(&here) >= Some((major, minor)) {
        return Finding::ok(GLIBC, found);
    }
    Finding::problem(
        GLIBC,
        found,
        "use a release build, which needs no newer glibc than 2.17, or a newer image",
    )
}

/// Starts a small program with the preload and looks for it in that program's memory.
fn loadable(path: &Path) -> Finding {
    let shown = path.display();
    let way_out = "run it by hand: LD_PRELOAD=PATH cat /proc/self/maps";
    let output = match Command::new("cat")
        .arg("/proc/self/maps")
        .env("LD_PRELOAD", path)
        .output()
    {
        Ok(output) => output,
        Err(error) => {
            return Finding::warning(
                PRELOAD,
                format!("{shown}: not tried, as cat cannot be started: {error}"),
                way_out,
            );
        }
    };
    let real_path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let mapped = String::from_utf8_lossy(&output.stdout).contains(&*real_path.to_string_lossy());
    let complaint = String::from_utf8_lossy(&output.stderr)
        .trim()
        .replace('\n', "; ");
    match (mapped && output.status.success(), complaint.is_empty()) {
        (true, true) => Finding::ok(PRELOAD, format!("{shown}: loads")),
        (true, false) => Finding::warning(
            PRELOAD,
            format!("{shown}: loads, but something complains: {complaint}"),
            way_out,
        ),
        (false, _) => Finding::problem(
            PRELOAD,
            format!("{shown}: does not load ({}): {complaint}", output.status),
            way_out,
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;

    #[test]
    fn a_file_that_is_no_library_does_not_load() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let finding = loadable(file.path());
        assert_eq!(finding.level, Level::Problem, "{finding:?}");
    }

    #[test]
    fn a_glibc_older_than_the_preload_needs_is_a_problem() {
        let versions_needed = vec![
            ("libc.so.6".into(), "GLIBC_2.34".into()),
            ("libc.so.6".into(), "GLIBC_2.4".into()),
        ];
        let image = Image {
            versions_needed,
            ..Image::empty()
        };
        let level = |here: &str| glibc(&image, Ok(here.to_owned())).level;
        assert_eq!([level("2.31"), level("2.34")], [Level::Problem, Level::Ok]);
    }
}
