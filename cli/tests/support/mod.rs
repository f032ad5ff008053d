//! A folder in which the command finds everything that it needs, and nothing of the machine's own settings.
#![allow(dead_code, reason = "each test program uses a part of it")]
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Once;

use tempfile::TempDir;

/// Exits with status 7 without any library.
const STATIC_PROGRAM: &str = r#"
void _start(void) {
#if defined(__x86_64__)
    __asm__ volatile("mov $60, %eax; mov $7, %edi; syscall");
#elif defined(__aarch64__)
    __asm__ volatile("mov x8, #93; mov x0, #7; svc #0");
#endif
}
"#;

pub(crate) struct Sandbox {
    folder: TempDir,
}

/// What cargo builds for these tests is the command alone; this is the companion, beside it.
fn build_companion() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let folder = Path::new(env!("CARGO_BIN_EXE_cuda-hook")).parent().unwrap();
        let profile = match folder.file_name().unwrap().to_str().unwrap() {
            "debug" => "dev",
            name => name,
        };
        let status = Command::new(env!("CARGO"))
            .args(["build", "--quiet", "--locked", "--offline"])
            .args(["--package", cuda_hook_libraries::FILE])
            .args(["--profile", profile, "--target-dir"])
            .arg(folder.parent().unwrap())
            .status();
        assert!(status.unwrap().success(), "cargo build");
    });
}

impl Sandbox {
    /// With a stand-in for the preload: a library without any symbol, which is all that the command itself needs.
    pub(crate) fn new() -> Self {
        build_companion();
        let sandbox = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        fs::write(sandbox.path("config.toml"), "").unwrap();
        fs::create_dir(sandbox.path("gpu-sim")).unwrap();
        sandbox.compile("", &["-shared"], "libcuda_hook.so");
        sandbox.compile("", &["-shared"], "gpu-sim/libcuda.so.1");
        sandbox
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    /// `cuda-hook` with these arguments, in this folder and with an environment of its own.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        self.command_at(Path::new(env!("CARGO_BIN_EXE_cuda-hook")), arguments)
    }

    /// The same by a copy of the command that has no companion beside it.
    pub(crate) fn command_alone(&self, arguments: &[&str]) -> Command {
        let copy = self.path("alone/cuda-hook");
        test_support::install(env!("CARGO_BIN_EXE_cuda-hook").as_ref(), &copy);
        self.command_at(&copy, arguments)
    }

    fn command_at(&self, program: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        command
            .args(arguments)
            .current_dir(self.folder.path())
            .env_clear()
            .envs(std::env::vars_os().filter(|(name, _)| name == "PATH"))
            .env("CUDA_HOOK_CONFIG", self.path("config.toml"))
            .env("CUDA_HOOK_DIR", self.path("state"))
            .env("CUDA_HOOK_LIBRARY", self.path("libcuda_hook.so"))
            .env("GPU_SIM_DIR", self.path("machine"));
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    pub(crate) fn compile(&self, source: &str, flags: &[&str], name: &str) -> PathBuf {
        let (input, output) = (self.path("source.c"), self.path(name));
        fs::write(&input, source).unwrap();
        let status = Command::new("cc")
            .args(flags)
            .arg("-o")
            .arg(&output)
            .arg(&input)
            .status();
        assert!(status.unwrap().success(), "cc {flags:?}");
        output
    }

    pub(crate) fn static_program(&self) -> PathBuf {
        self.compile(
            STATIC_PROGRAM,
            &["-static", "-nostdlib", "-ffreestanding"],
            "static",
        )
    }

    pub(crate) fn script(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        test_support::script(&path, text);
        path
    }
}

pub(crate) fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

pub(crate) fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap()
}

pub(crate) fn shown(path: &Path) -> &str {
    path.to_str().unwrap()
}
