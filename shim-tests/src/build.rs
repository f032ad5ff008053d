//! What the tests run: the project's artefacts, built by `scripts/build`, and the C programs, built here.

use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Where the artefacts of the tests' own profile lie.
#[derive(Debug)]
pub struct Artefacts {
    /// `target/<profile>`.
    pub folder: PathBuf,
    /// The preload, `libcuda_hook.so`.
    pub hook: PathBuf,
    /// The folder with the same library as `libcuda.so.1`.
    pub second_door: PathBuf,
    /// The command, `cuda-hook`.
    pub command: PathBuf,
    /// The folder with the simulated `libcuda.so.1`, `libnvidia-ml.so.1` and `gpu-sim-device`.
    pub sim: PathBuf,
}

impl Artefacts {
    /// Of the program that is running: a test in `target/<profile>/deps`, or a program of this crate in `target/<profile>`.
    fn beside_the_program() -> Self {
        let program = std::env::current_exe().expect("a program has a path");
        let mut folders = program.ancestors().skip(1);
        let folder = folders
            .find(|folder| !folder.ends_with("deps"))
            .expect("a program lies in a folder")
            .to_owned();
        Self {
            hook: folder.join("libcuda_hook.so"),
            second_door: folder.join("second-door"),
            command: folder.join("cuda-hook"),
            sim: folder.join("gpu-sim"),
            folder,
        }
    }

    fn complete(&self) -> bool {
        let sim =
            ["libcuda.so.1", "libnvidia-ml.so.1", "gpu-sim-device"].map(|name| self.sim.join(name));
        [
            &self.hook,
            &self.command,
            &self.folder.join(cuda_hook_libraries::FILE),
            &self.second_door.join("libcuda.so.1"),
        ]
        .into_iter()
        .chain(&sim)
        .all(|path| path.exists())
    }

    /// Calls `scripts/build` for the same target folder and profile.
    fn build(&self) {
        let mut build = Command::new(repository().join("scripts/build"));
        if self
            .folder
            .file_name()
            .is_some_and(|profile| profile == "debug")
        {
            build.arg("--debug");
        }
        let target = self.folder.parent().expect("a profile folder has a parent");
        let status = build
            .env("CARGO_TARGET_DIR", target)
            .status()
            .expect("scripts/build starts");
        assert!(
            status.success() && self.complete(),
            "scripts/build: {status}, and {} is not complete",
            self.folder.display()
        );
    }
}

/// The root of the repository.
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the crate lies in the repository")
}

/// The artefacts, built if any is missing. They are not rebuilt when they are old: `scripts/build` does that.
pub fn artefacts() -> &'static Artefacts {
    static ARTEFACTS: OnceLock<Artefacts> = OnceLock::new();
    ARTEFACTS.get_or_init(|| {
        let artefacts = Artefacts::beside_the_program();
        let _alone = lock(&artefacts.folder);
        if !artefacts.complete() {
            artefacts.build();
        }
        artefacts
    })
}

/// One builder at a time, across test processes; the kernel drops the lock with its holder.
fn lock(folder: &Path) -> File {
    let file =
        File::create(folder.join("shim-tests.lock")).expect("a lock file in the target folder");
    file.lock().expect("a lock on it");
    file
}

/// How a program reaches the driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// Linked with `-lcuda -lnvidia-ml`.
    Linked,
    /// `dlopen`, then `dlsym` on the handle.
    Dlopen,
    /// `dlopen` with `RTLD_GLOBAL`, then `dlsym(RTLD_DEFAULT, …)`.
    Default,
    /// `dlsym(RTLD_NEXT, …)` out of a shared object that stands before the driver.
    Next,
    /// `cuGetProcAddress` or `cuGetProcAddress_v2`, with these flags.
    GetProcAddress {
        /// 1 or 2.
        api: u8,
        /// 0 (default), 1 (legacy stream) or 2 (per-thread stream).
        flags: u8,
    },
}

impl Door {
    /// Every door.
    pub const ALL: [Self; 10] = [
        Self::Linked,
        Self::Dlopen,
        Self::Default,
        Self::Next,
        Self::GetProcAddress { api: 1, flags: 0 },
        Self::GetProcAddress { api: 1, flags: 1 },
        Self::GetProcAddress { api: 1, flags: 2 },
        Self::GetProcAddress { api: 2, flags: 0 },
        Self::GetProcAddress { api: 2, flags: 1 },
        Self::GetProcAddress { api: 2, flags: 2 },
    ];

    /// The door that the programs know by this name.
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|door| door.name() == name)
    }

    /// As the programs know it.
    pub fn name(self) -> String {
        match self {
            Self::Linked => "linked".to_owned(),
            Self::Dlopen => "dlopen".to_owned(),
            Self::Default => "default".to_owned(),
            Self::Next => "next".to_owned(),
            Self::GetProcAddress { api, flags } => format!("gpa{api}-{flags}"),
        }
    }

    fn compiler_flags(self) -> Vec<String> {
        let sim = artefacts().sim.display();
        match self {
            Self::Linked => vec![
                "-DLINKED".to_owned(),
                format!("-L{sim}"),
                "-lcuda".to_owned(),
                "-lnvidia-ml".to_owned(),
            ],
            Self::Next => {
                let next = shared_object("next_door", "libnext_door.so");
                let folder = next.parent().expect("it lies in a folder").display();
                let link = format!("-Wl,--no-as-needed,-rpath,{folder}");
                vec![
                    link,
                    next.display().to_string(),
                    format!("-L{sim}"),
                    "-lcuda".to_owned(),
                    "-lnvidia-ml".to_owned(),
                ]
            }
            Self::Dlopen | Self::Default | Self::GetProcAddress { .. } => Vec::new(),
        }
    }
}

/// Compiles `programs/<name>.c` for a door; the same source and flags are compiled once.
pub fn program(name: &str, door: Door) -> PathBuf {
    let mut flags = vec!["-pthread".to_owned()];
    flags.extend(door.compiler_flags());
    compile(name, name, &flags)
}

/// Compiles `programs/<name>.c` into a shared object, a file called `soname` in a folder of its own.
pub fn shared_object(name: &str, soname: &str) -> PathBuf {
    // Nothing of gcc's own, which would bring symbol versions along.
    shared_object_with(name, soname, &["-nostartfiles"])
}

/// As [`shared_object`], linked with the driver.
pub fn linked_object(name: &str, soname: &str) -> PathBuf {
    let sim = format!("-L{}", artefacts().sim.display());
    shared_object_with(name, soname, &[&sim, "-lcuda"])
}

/// As [`shared_object`], with further flags for gcc.
pub fn shared_object_with(name: &str, soname: &str, further: &[&str]) -> PathBuf {
    let mut flags = vec![
        "-shared".to_owned(),
        "-fPIC".to_owned(),
        format!("-Wl,-soname,{soname}"),
    ];
    flags.extend(further.iter().map(|&flag| flag.to_owned()));
    compile(name, soname, &flags)
}

/// Runs gcc unless the very same was compiled before. The result is moved into place whole, so that tests may race.
fn compile(name: &str, file_name: &str, flags: &[String]) -> PathBuf {
    let programs = Path::new(env!("CARGO_MANIFEST_DIR")).join("programs");
    let source = programs.join(format!("{name}.c"));
    let folder = artefacts().folder.join("shim-programs").join(format!(
        "{name}-{:016x}",
        content_hash(&programs, &source, flags)
    ));
    let built = folder.join(file_name);
    if built.exists() {
        return built;
    }
    fs::create_dir_all(&folder).expect("a folder for programs");
    let partial = folder.join(format!(
        "{file_name}.{}.{:?}",
        std::process::id(),
        std::thread::current().id()
    ));
    let output = Command::new("gcc")
        .args(["-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror", "-o"])
        .arg(&partial)
        .arg(&source)
        .args(flags)
        .output()
        .expect("gcc starts");
    assert!(
        output.status.success(),
        "gcc {name}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    fs::rename(&partial, &built).expect("a program can be moved into its folder");
    built
}

fn content_hash(programs: &Path, source: &Path, flags: &[String]) -> u64 {
    let mut hasher = DefaultHasher::new();
    fs::read(source)
        .unwrap_or_else(|error| panic!("{}: {error}", source.display()))
        .hash(&mut hasher);
    for included in [
        "cuda_doors.h",
        "allocators.h",
        "images.h",
        "reach.h",
        "reserves.h",
        "tenant.c",
    ] {
        fs::read(programs.join(included))
            .expect("what programs include")
            .hash(&mut hasher);
    }
    flags.hash(&mut hasher);
    hasher.finish()
}
