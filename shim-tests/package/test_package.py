"""What `scripts/package` has made, started in several C libraries, with a driver that does nothing (`benches/null-driver`).

Debian 11 has glibc 2.31, which keeps threads and `dlopen` in libraries of their own; Debian 13 has 2.41. Of both only the C library is
fetched: there is no libgcc_s in their folders, as in many a small image.
"""

import os
import re
import subprocess
import tarfile
import tempfile
import unittest
from pathlib import Path

import debian

ROOT = Path(__file__).resolve().parents[2]
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).absolute()
WORK = TARGET / "test-package"
TOOLS = ROOT / ".venv-package/bin"
ZIG_TARGET = "x86_64-linux-gnu.2.17"
RELEASES = ("bullseye", "trixie")
MACHINE = "lib/x86_64-linux-gnu"  # where a Debian release keeps its C library

C_LIBRARIES: dict[str, Path] = {}


def setUpModule() -> None:
    WORK.mkdir(parents=True, exist_ok=True)
    for release in RELEASES:
        folder = WORK / release
        if not (folder / "done").exists():
            try:
                state = folder / "apt"
                state.mkdir(parents=True, exist_ok=True)
                archives = debian.Apt(state, release, "main").download("libc6", folder)
                debian.unpack(archives, folder)
                (folder / "done").touch()
            except (debian.Unavailable, OSError, subprocess.SubprocessError) as error:
                print(f"NOT CHECKED: the C library of {release}: {error}", flush=True)
                continue
        found = [found for place in (MACHINE, f"usr/{MACHINE}") if (found := folder / place / "ld-linux-x86-64.so.2").exists()]
        C_LIBRARIES[release] = found[0].parent
    run(TOOLS / "python", "-m", "ziglang", "cc", "-target", ZIG_TARGET, "-Wall", "-Werror", "-o", WORK / "tenant", tenant(), "-ldl")
    environment = {**os.environ, "PATH": f"{TOOLS}:{os.environ['PATH']}", "CARGO_TARGET_DIR": str(TARGET)}
    build = [TOOLS / "cargo-zigbuild", "zigbuild", "--quiet", "--locked", "--profile", "dist"]
    subprocess.run([*build, "--target", "x86_64-unknown-linux-gnu.2.17", "--package", "null-driver"], check=True, cwd=ROOT, env=environment)
    driver = WORK / "driver"
    driver.mkdir(exist_ok=True)
    link = driver / "libcuda.so.1"
    link.unlink(missing_ok=True)
    link.symlink_to(TARGET / "x86_64-unknown-linux-gnu/dist/libnull_driver.so")


def tenant() -> Path:
    return Path(__file__).with_name("tenant.c")


def run(*command: object) -> str:
    return subprocess.run([str(word) for word in command], check=True, capture_output=True, text=True).stdout


def packed() -> Path:
    """The archive."""
    (archive,) = (TARGET / "package").glob("cuda-hook-*-linux-x86_64.tar.gz")
    return archive


class Package(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.scratch = Path(scratch.name)
        with tarfile.open(packed()) as archive:
            archive.extractall(self.scratch, filter="data")
        (self.root,) = self.scratch.iterdir()

    def start(self, c_library: Path | None, program: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
        """A program in a C library, `None` being this machine's, or its own loader's."""
        command = [str(program), *arguments]
        environment = {"CUDA_HOOK_DIR": str(self.scratch / "state"), "LD_LIBRARY_PATH": str(WORK / "driver"), **environment}
        if c_library:
            path = f"{environment.pop('LD_LIBRARY_PATH')}:{c_library}"
            command = [str(c_library / "ld-linux-x86-64.so.2"), "--library-path", path, *command]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)

    def in_each(self):
        yield "this machine", None
        yield from C_LIBRARIES.items()

    def test_the_preload_limits_a_program_in_every_c_library(self):
        preload = str(self.root / "lib/cuda-hook/libcuda_hook.so")
        for name, c_library in self.in_each():
            with self.subTest(name):
                done = self.start(c_library, WORK / "tenant", LD_PRELOAD=preload, CUDA_HOOK_MEMORY="8MiB", CUDA_HOOK_SM="50")
                self.assertEqual((done.returncode, [line for line in done.stderr.splitlines() if "refused" not in line]), (0, []))

    def test_the_second_door_limits_a_program_in_every_c_library(self):
        driver = str(WORK / "driver/libcuda.so.1")
        door = str(self.root / "lib/cuda-hook/second-door")
        for name, c_library in self.in_each():
            with self.subTest(name):
                limits = {"CUDA_HOOK_MEMORY": "8MiB", "CUDA_HOOK_SM": "50", "CUDA_HOOK_DRIVER": driver}
                done = self.start(c_library, WORK / "tenant", LD_LIBRARY_PATH=door, **limits)
                self.assertEqual((done.returncode, [line for line in done.stderr.splitlines() if "refused" not in line]), (0, []))

    def test_every_c_library_has_what_is_found_when_it_is_called(self):
        source = (ROOT / "cuda-hook/src/late.rs").read_text()
        (block,) = re.findall(r"\nlate! \{\n(.*?)\n\}\n", source, re.DOTALL)
        groups = re.findall(r"or -?\d:\s*([\w\s]*);", block)
        late = {name for group in groups for name in group.split() if not name.startswith("_Unwind_")}
        self.assertIn("mkdir", late)
        for release, c_library in C_LIBRARIES.items():
            listings = [run("nm", "-D", "--defined-only", library) for library in c_library.glob("lib*.so.?")]
            exported = {line.split()[-1].split("@@")[0] for listing in listings for line in listing.splitlines()}
            self.assertEqual(late - exported, set(), release)

    def test_without_the_hook_the_program_is_not_limited(self):
        done = self.start(None, WORK / "tenant")
        self.assertEqual((done.returncode, done.stderr), (1, "a block too many: 0, not 2\n"))

    def test_the_command_starts_in_every_c_library(self):
        for name, c_library in self.in_each():
            with self.subTest(name):
                done = self.start(c_library, self.root / "bin/cuda-hook", "--version")
                self.assertEqual((done.returncode, done.stderr), (0, ""))
                self.assertIn(done.stdout.split()[1], packed().name)

    def test_the_command_finds_what_is_packed_with_it(self):
        command = self.root / "bin/cuda-hook"
        done = self.start(None, command, "run", "--memory", "8MiB", "--sm", "50", "--", str(WORK / "tenant"))
        self.assertEqual(done.returncode, 0, done.stderr)

    def test_nothing_tells_where_it_was_built(self):
        for file in sorted(path for path in self.root.rglob("*") if path.is_file()):
            content = file.read_bytes()
            for place in (ROOT, TARGET, Path.home() / ".cargo"):
                self.assertNotIn(str(place).encode() + b"/", content, f"{file.relative_to(self.root)} names {place}")


if __name__ == "__main__":
    unittest.main()
