//! `cuda-hook oci-hook`: what a runtime calls when it has made a container and before it enters it.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::bundle::{Container, State};
use super::labels::{self, Labels};
use super::root::{Access, Root};
use super::{
    CONFIG, LIBRARY, PRELOAD_VARIABLE, PRELOADS, PRELOADS_ALONE, STATE, config, image,
    names_library,
};
use crate::args::{OciHookArgs, OciHookCommand, Preload};
use crate::artefacts::{self, Artefacts};
use crate::failure::Failure;
use crate::folders::{self, failed, lend};
use crate::output;

/// Of a folder's mode (inode(7), S_IWOTH).
const OTHERS_MAY_WRITE: u32 = 0o002;

/// Limits the container that the runtime is making, prints the hook's own configuration, or looks at an image.
pub(crate) fn hook(args: &OciHookArgs) -> Result<(), Failure> {
    match &args.command {
        Some(OciHookCommand::Config) => print_config(&args.dir),
        Some(OciHookCommand::Examine(args)) => image::examine(args),
        None => called(args),
    }
}

fn called(args: &OciHookArgs) -> Result<(), Failure> {
    let state = State::read()?;
    let made = folder_of(&args.dir, &state);
    if state.status == "stopped" {
        return tidy(&made);
    }
    let container = state.container()?;
    let Some(file) = config::of(&state, &container, args.config.as_deref())? else {
        return Ok(());
    };
    let injected =
        inject((&state, &container), &file, &args.dir, &made).and_then(|root| match args.preload {
            Preload::File => preload_by_file(&root, &made),
            Preload::Environment => check_environment(&container),
        });
    injected.inspect_err(|_| {
        // Of a container that does not start the runtime tells no hook that it has stopped; why it does not is what counts.
        drop(tidy(&made));
    })
}

/// The folder of what is made for a container.
fn folder_of(dir: &Path, state: &State) -> PathBuf {
    folders::of_containers(dir).join(&state.id)
}

fn tidy(folder: &Path) -> Result<(), Failure> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(folder)(error)),
        _ => Ok(()),
    }
}

/// Mounts all but what preloads the library.
fn inject(
    (state, container): (&State, &Container),
    file: &config::File,
    dir: &Path,
    made: &Path,
) -> Result<Root, Failure> {
    let (path, library) = (state.root(container), Artefacts::locate()?.preload()?);
    image::check(&path, &container.process, &library)?;
    let root = Root::open(&path).map_err(failed(&path))?;
    let names = folders::lock_names(&folders::of_containers(dir))?;
    let config = made.join(config::FILE);
    write(&config, &file.text()?)?;
    config::check(&config)?;
    if let Some(labels) = Labels::of(container, file.container()) {
        write(&made.join(labels::FILE), &output::json_line(&labels)?)?;
    }
    lend(dir, folders::STATE_MODE)?;
    check_lent(dir)?;
    lend(&dir.join(file.container()), folders::CONTAINER_MODE)?;
    drop(names); // from here on the config file says that the folder is in use
    bind(&root, &library, LIBRARY, Access::Read)?;
    bind(&root, dir, STATE, Access::Write)?;
    bind(&root, &config, CONFIG, Access::Read)?;
    Ok(root)
}

/// The loader of each of the container's programs reads a file, and finds the library named there.
fn preload_by_file(root: &Root, made: &Path) -> Result<(), Failure> {
    let preloads = made.join("ld.so.preload");
    let mut of_image = root.read(PRELOADS).map_err(failed(PRELOADS))?;
    if of_image == PRELOADS_ALONE {
        // A slice's description has mounted this over what the image has there.
        of_image = root.read_under_mounts(PRELOADS).map_err(failed(PRELOADS))?;
    }
    write(&preloads, &with_library(&of_image))?;
    bind(root, &preloads, PRELOADS, Access::Read)
}

/// Whoever describes the container must have set the variable: a hook cannot.
fn check_environment(container: &Container) -> Result<(), Failure> {
    let preloads = container.process.variable(PRELOAD_VARIABLE);
    if preloads.is_some_and(names_library) {
        return Ok(());
    }
    Err(Failure::failed(format_args!(
        "{PRELOAD_VARIABLE} of the container does not name {LIBRARY}: it is to be preloaded by the environment; leave the variable to the slice"
    )))
}

fn bind(root: &Root, source: &Path, target: &str, access: Access) -> Result<(), Failure> {
    let bound = root.bind(source, target, access);
    bound.map_err(|error| {
        Failure::failed(format_args!(
            "cannot mount {target} into the container: {error}"
        ))
    })
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
        .map_or(Ok(()), folders::keep)
        .and_then(|()| fs::write(path, text))
        .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o644)));
    written.map_err(failed(path))
}

/// Refuses a folder of the shared state in which a user of the container could keep no books: the library would keep them elsewhere, with a
/// quota of that user's own.
fn check_lent(dir: &Path) -> Result<(), Failure> {
    let mode = fs::metadata(dir).map_err(failed(dir))?.mode();
    if mode & OTHERS_MAY_WRITE != 0 {
        return Ok(());
    }
    Err(Failure::failed(format_args!(
        "{}: only its owner may write there, and a container's other users would each have a quota of their own; chmod 1777 it",
        dir.display()
    )))
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
    fn a_folder_in_which_only_root_may_write_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let set = |mode| fs::set_permissions(folder.path(), fs::Permissions::from_mode(mode));
        set(folders::STATE_MODE).unwrap();
        check_lent(folder.path()).unwrap();
        set(0o755).unwrap();
        let refused = check_lent(folder.path()).unwrap_err().to_string();
        assert!(refused.contains("chmod 1777"), "{refused}");
    }

    #[test]
    fn what_an_image_preloads_stays_behind_ours() {
        assert_eq!(with_library(""), format!("{LIBRARY}\n"));
        let other = "/lib/other.so\n";
        let both = with_library(other);
        assert_eq!(both, format!("{LIBRARY}\n{other}"));
        assert_eq!(with_library(&both), both);
    }
}
