//! `cuda-hook oci-hook`: what a runtime calls when it has made a container and before it enters it.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::bundle::{Container, State};
use super::root::{Access, Root};
use super::{LIBRARY, PRELOADS, STATE, config, image};
use crate::args::{OciHookArgs, OciHookCommand};
use crate::artefacts::{self, Artefacts};
use crate::failure::Failure;
use crate::output;

/// Where the library reads its limits.
const CONFIG: &str = limiter::config::CONFIG_PATH;

/// Limits the container that the runtime is making, prints the hook's own configuration, or looks at an image.
pub(crate) fn hook(args: &OciHookArgs) -> Result<(), Failure> {
    match &args.command {
        Some(OciHookCommand::Config) => print_config(&args.dir),
        Some(OciHookCommand::Examine(args)) => image::examine(args),
        None => called(&args.dir, args.config.as_deref()),
    }
}

fn called(dir: &Path, slice: Option<&Path>) -> Result<(), Failure> {
    let state = State::read()?;
    let made = folder_of(dir, &state);
    if state.status == "stopped" {
        return tidy(&made);
    }
    let container = state.container()?;
    let Some(file) = config::of(&state, &container, slice)? else {
        return Ok(());
    };
    inject((&state, &container), &file, dir, &made).inspect_err(|_| {
        // Of a container that does not start the runtime tells no hook that it has stopped; why it does not is what counts.
        drop(tidy(&made));
    })
}

/// The folder of what is made for a container, which no container sees: beside that of the shared state.
fn folder_of(dir: &Path, state: &State) -> PathBuf {
    let mut name = dir.file_name().unwrap_or_default().to_owned();
    name.push("-containers");
    dir.with_file_name(name).join(&state.id)
}

fn tidy(folder: &Path) -> Result<(), Failure> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(folder)(error)),
        _ => Ok(()),
    }
}

fn inject(
    (state, container): (&State, &Container),
    file: &config::File,
    dir: &Path,
    made: &Path,
) -> Result<(), Failure> {
    let (path, library) = (state.root(container), Artefacts::locate()?.preload()?);
    image::check(&path, &container.process, &library)?;
    let root = Root::open(&path).map_err(failed(&path))?;
    let (config, preloads) = (made.join("config.toml"), made.join("ld.so.preload"));
    let of_image = root.read(PRELOADS).map_err(failed(PRELOADS))?;
    write(&config, &file.text()?)?;
    write(&preloads, &with_library(&of_image))?;
    config::check(&config)?;
    // Programs of all users meet there; the kernel's sticky bit keeps them from removing each other's.
    lend(dir, 0o1777)?;
    lend(&dir.join(file.container()), 0o777)?;
    let mounts = [
        (library.as_path(), LIBRARY, Access::Read),
        (dir, STATE, Access::Write),
        (config.as_path(), CONFIG, Access::Read),
        (preloads.as_path(), PRELOADS, Access::Read),
    ];
    for (source, target, access) in mounts {
        let bound = root.bind(source, target, access);
        bound.map_err(|error| {
            Failure::failed(format_args!(
                "cannot mount {target} into the container: {error}"
            ))
        })?;
    }
    Ok(())
}

/// What the image preloads, behind ours.
fn with_library(of_image: &str) -> String {
    let others = of_image.lines().filter(|line| *line != LIBRARY);
    let all: Vec<&str> = [LIBRARY].into_iter().chain(others).collect();
    format!("{}\n", all.join("\n"))
}

fn write(path: &Path, text: &str) -> Result<(), Failure> {
    let written = path
        .parent()
        .map_or(Ok(()), |folder| {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o711)
                .create(folder)
        })
        .and_then(|()| fs::write(path, text))
        .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o644)));
    written.map_err(failed(path))
}

/// A folder for several users. One that is there already is whose it is, and as it is.
fn lend(folder: &Path, mode: u32) -> Result<(), Failure> {
    match fs::create_dir(folder) {
        Ok(()) => {
            fs::set_permissions(folder, fs::Permissions::from_mode(mode)).map_err(failed(folder))
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(failed(folder)(error)),
    }
}

fn failed(path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> Failure {
    let shown = path.as_ref().display().to_string();
    move |error| Failure::failed(format_args!("{shown}: {error}"))
}

/// The hook's own description (oci-hooks(5)).
fn print_config(dir: &Path) -> Result<(), Failure> {
    let (command, dir) = (artefacts::executable()?, artefacts::absolute(dir)?);
    output::print_json(&serde_json::json!({
        "version": "1.0.0",
        "hook": { "path": command, "args": ["cuda-hook", "oci-hook", "--dir", dir] },
        "when": { "annotations": { "^cuda-hook\\.": ".*" } },
        "stages": ["createContainer", "poststop"],
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_image_preloads_stays_behind_ours() {
        assert_eq!(with_library(""), format!("{LIBRARY}\n"));
        let other = "/lib/other.so\n";
        let both = with_library(other);
        assert_eq!(both, format!("{LIBRARY}\n{other}"));
        assert_eq!(with_library(&both), both);
    }
}
