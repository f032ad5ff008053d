//! Where the things lie that are built together with this command.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use cuda_hook_libraries::FILE as COMPANION_FILE;

use crate::failure::Failure;

/// Names another `libcuda_hook.so`; the `gpu-sim` folder is then looked for beside that one.
pub(crate) const LIBRARY_VARIABLE: &str = "CUDA_HOOK_LIBRARY";

const PRELOAD_FILE: &str = "libcuda_hook.so";
const SIM_FOLDER: &str = "gpu-sim";
const DRIVER_FILE: &str = "libcuda.so.1";

/// The folders in which artefacts are looked for, best first.
#[derive(Debug)]
pub(crate) struct Artefacts {
    named: Option<PathBuf>,
    folders: Vec<PathBuf>,
}

impl Artefacts {
    /// Those of the running command: beside it (a build folder), or in `../lib/cuda-hook/` (an installation).
    pub(crate) fn locate() -> Result<Self, Failure> {
        let executable = executable()?;
        Ok(Self::of(&executable, std::env::var_os(LIBRARY_VARIABLE)))
    }

    fn of(executable: &Path, named: Option<OsString>) -> Self {
        let named = named.map(PathBuf::from);
        let beside = named
            .as_deref()
            .unwrap_or(executable)
            .parent()
            .unwrap_or(Path::new("/"));
        let mut folders = vec![beside.to_owned()];
        if named.is_none() {
            folders.extend(beside.parent().map(|prefix| prefix.join("lib/cuda-hook")));
        }
        Self { named, folders }
    }

    /// The absolute path of `libcuda_hook.so`.
    ///
    /// # Errors
    /// It is nowhere, or its path cannot stand in `LD_PRELOAD`, which splits at spaces and colons (ld.so(8)).
    pub(crate) fn preload(&self) -> Result<PathBuf, Failure> {
        let path = match &self.named {
            Some(path) if path.is_file() => path.clone(),
            Some(path) => {
                let path = path.display();
                return Err(Failure::failed(format_args!(
                    "{LIBRARY_VARIABLE}={path}: there is no such file"
                )));
            }
            None => self.first(
                Path::new(PRELOAD_FILE),
                "set CUDA_HOOK_LIBRARY to its path, or build it: scripts/build",
            )?,
        };
        let path = absolute(&path)?;
        if path.to_string_lossy().contains([' ', ':']) {
            return Err(Failure::failed(format_args!(
                "{}: LD_PRELOAD cannot hold a path with a space or a colon; move it, or set {LIBRARY_VARIABLE} to a copy elsewhere",
                path.display()
            )));
        }
        Ok(path)
    }

    /// The absolute path of the folder with the simulated `libcuda.so.1` and `libnvidia-ml.so.1`.
    pub(crate) fn sim_folder(&self) -> Result<PathBuf, Failure> {
        let driver = self.first(
            &Path::new(SIM_FOLDER).join(DRIVER_FILE),
            "build it: scripts/build",
        )?;
        let folder = driver.parent().unwrap_or(Path::new("/"));
        absolute(folder)
    }

    fn first(&self, file: &Path, way_out: &str) -> Result<PathBuf, Failure> {
        let mut candidates = self.folders.iter().map(|folder| folder.join(file));
        candidates
            .find(|candidate| candidate.exists())
            .ok_or_else(|| {
                let folders: Vec<_> = self
                    .folders
                    .iter()
                    .map(|folder| folder.display().to_string())
                    .collect();
                Failure::failed(format_args!(
                    "{} is not in {}; {way_out}",
                    file.display(),
                    folders.join(" or ")
                ))
            })
    }
}

/// The absolute path of the companion of the running command: the one that is of the same version, whichever library is named.
pub(crate) fn companion() -> Result<PathBuf, Failure> {
    let own = Artefacts::of(&executable()?, None);
    let path = own.first(
        Path::new(COMPANION_FILE),
        "install cuda-hook as a whole, or build it: scripts/build",
    )?;
    absolute(&path)
}

/// Where this command lies.
pub(crate) fn executable() -> Result<PathBuf, Failure> {
    std::env::current_exe().map_err(|error| {
        Failure::failed(format_args!(
            "cannot find out where this command lies: {error}"
        ))
    })
}

/// A path as it is from everywhere.
pub(crate) fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(path)
        .map_err(|error| Failure::failed(format_args!("{}: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn touch(path: &Path) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, "").unwrap();
    }

    #[test]
    fn a_build_folder_comes_before_an_installation() {
        let root = tempfile::tempdir().unwrap();
        let executable = root.path().join("bin/cuda-hook");
        let installed = root.path().join("lib/cuda-hook/libcuda_hook.so");
        touch(&installed);
        assert_eq!(
            Artefacts::of(&executable, None).preload().unwrap(),
            installed
        );
        let built = root.path().join("bin/libcuda_hook.so");
        touch(&built);
        assert_eq!(Artefacts::of(&executable, None).preload().unwrap(), built);
    }

    #[test]
    fn the_simulation_lies_beside_a_library_that_was_named() {
        let root = tempfile::tempdir().unwrap();
        touch(&root.path().join("bin/gpu-sim/libcuda.so.1"));
        touch(&root.path().join("mine/libcuda_hook.so"));
        touch(&root.path().join("mine/gpu-sim/libcuda.so.1"));
        let named = root.path().join("mine/libcuda_hook.so");
        let artefacts = Artefacts::of(&root.path().join("bin/cuda-hook"), Some(named.into()));
        assert_eq!(
            artefacts.sim_folder().unwrap(),
            root.path().join("mine/gpu-sim")
        );
    }

    #[test]
    fn a_path_that_ld_preload_would_split_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let named = root.path().join("a b/libcuda_hook.so");
        touch(&named);
        let refused = Artefacts::of(Path::new("/bin/cuda-hook"), Some(named.into()))
            .preload()
            .unwrap_err();
        assert!(
            refused.to_string().contains("space or a colon"),
            "{refused}"
        );
    }

    #[test]
    fn what_is_missing_is_named_with_the_places_that_were_looked_at() {
        let refused = Artefacts::of(Path::new("/nonexistent/bin/cuda-hook"), None)
            .preload()
            .unwrap_err();
        let message = refused.to_string();
        assert!(
            message.contains("/nonexistent/bin or /nonexistent/lib/cuda-hook"),
            "{message}"
        );
    }
}
