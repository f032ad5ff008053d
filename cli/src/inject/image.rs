//! Whether the library can enter a container's program, judged by its image, before it runs.
//!
//! The image is looked at from inside: by a process of ours that makes it its root. So links, `PATH` and `#!` lines lead where they
//! will lead the container's own.

use std::path::Path;
use std::process::Command;

use super::bundle::Process;
use crate::args::ExamineArgs;
use crate::doctor::elf::{Image, glibc_version};
use crate::doctor::program;
use crate::failure::Failure;

/// Where glibc's loader looks without being told, and Debian's and Fedora's have it.
const LIBRARY_FOLDERS: [&str; 6] = [
    "/lib/x86_64-linux-gnu",
    "/usr/lib/x86_64-linux-gnu",
    "/lib64",
    "/usr/lib64",
    "/lib",
    "/usr/lib",
];

/// Refuses a container whose program the library cannot enter.
pub(crate) fn check(root: &Path, process: &Process, library: &Path) -> Result<(), Failure> {
    let Some(program) = process.args.first() else {
        return Err(Failure::failed("the container has no program"));
    };
    let mut command = Command::new("/proc/self/exe");
    command
        .args(["oci-hook", "examine"])
        .arg(root)
        .arg(&process.cwd);
    command.arg(program).env_clear();
    if let Some((major, minor)) = needed(library)? {
        command.args(["--glibc", &format!("{major}.{minor}")]);
    }
    command.env("PATH", process.variable("PATH").unwrap_or("/usr/bin:/bin"));
    let output = command.output();
    let output = output
        .map_err(|error| Failure::failed(format_args!("cannot look at the image: {error}")))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.trim().trim_start_matches("cuda-hook: ");
    Err(Failure::failed(if said.is_empty() {
        format!("looking at the image ended with {}", output.status)
    } else {
        said.to_owned()
    }))
}

/// Refuses where this very process sees no glibc that is new enough for the library.
pub(crate) fn check_here(library: &Path) -> Result<(), Failure> {
    needed(library)?.map_or(Ok(()), check_glibc)
}

fn needed(library: &Path) -> Result<Option<(u32, u32)>, Failure> {
    let image = Image::read(library);
    image
        .map(|image| image.glibc_needed())
        .map_err(|error| Failure::failed(format_args!("{}: {error}", library.display())))
}

/// The part of the process of ours that looks at the image: it becomes its root.
pub(crate) fn examine(args: &ExamineArgs) -> Result<(), Failure> {
    let entered =
        rustix::process::chroot(&args.root).and_then(|()| rustix::process::chdir(&args.folder));
    entered.map_err(|error| Failure::failed(format_args!("{}: {error}", args.root.display())))?;
    if let Some(problem) = program::obstacle(&args.program) {
        let way_out = problem.way_out.unwrap_or_default();
        return Err(Failure::failed(format_args!(
            "{}; {way_out}",
            problem.found
        )));
    }
    match args.glibc.as_deref().and_then(glibc_version) {
        Some(needed) => check_glibc(needed),
        None => Ok(()),
    }
}

fn check_glibc(needed: (u32, u32)) -> Result<(), Failure> {
    let mut files = LIBRARY_FOLDERS
        .map(|folder| Path::new(folder).join("libc.so.6"))
        .into_iter();
    let found = files.find_map(|file| Image::read(&file).ok()?.glibc_defined());
    compare_glibc(found, needed)
}

/// What the image has, and what the library needs.
fn compare_glibc(found: Option<(u32, u32)>, needed: (u32, u32)) -> Result<(), Failure> {
    let (major, minor) = needed;
    match found {
        Some(here) if here >= needed => Ok(()),
        Some((here_major, here_minor)) => Err(Failure::failed(format_args!(
            "the image's glibc is {here_major}.{here_minor}, and the library needs {major}.{minor}; use a newer image, or the library of scripts/package"
        ))),
        None => Err(Failure::failed(format_args!(
            "the image has no libc.so.6 in {}; use an image with glibc, as NVIDIA's own libcuda needs it too",
            LIBRARY_FOLDERS.join(", ")
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_with_an_older_glibc_than_the_library_needs_is_refused() {
        assert_eq!(compare_glibc(Some((2, 34)), (2, 34)), Ok(()));
        assert_eq!(compare_glibc(Some((2, 36)), (2, 4)), Ok(()));
        let old = compare_glibc(Some((2, 31)), (2, 34))
            .unwrap_err()
            .to_string();
        assert!(
            old.starts_with("the image's glibc is 2.31, and the library needs 2.34;"),
            "{old}"
        );
        let none = compare_glibc(None, (2, 17)).unwrap_err().to_string();
        assert!(none.starts_with("the image has no libc.so.6"), "{none}");
    }
}
