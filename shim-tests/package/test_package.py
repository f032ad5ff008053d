"""What `scripts/package` has made, started in several C libraries, with a driver that does nothing (`benches/null-driver`).

Debian 11 has glibc 2.31, which keeps threads and `dlopen` in libraries of their own; Debian 13 has 2.41. Of both only the C library is
fetched: there is no libgcc_s in their folders, as in many a small image.
"""

import gzip
import hashlib
import json
import os
import re
import shutil
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


def debian_package() -> Path:
    (package,) = (TARGET / "package").glob("cuda-hook_*_amd64.deb")
    return package


class Package(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.scratch = Path(scratch.name)
        with tarfile.open(packed()) as archive:
            archive.extractall(self.scratch, filter="data")
        (self.root,) = self.scratch.iterdir()

    def start(
        self, c_library: Path | None, program: Path, *arguments: str, stdin: str = "", **environment: str
    ) -> subprocess.CompletedProcess:
        """A program in a C library, `None` being this machine's, or its own loader's."""
        command = [str(program), *arguments]
        environment = {"CUDA_HOOK_DIR": str(self.scratch / "state"), "LD_LIBRARY_PATH": str(WORK / "driver"), **environment}
        if c_library:
            path = f"{environment.pop('LD_LIBRARY_PATH')}:{c_library}"
            command = [str(c_library / "ld-linux-x86-64.so.2"), "--library-path", path, *command]
        return subprocess.run(command, env=environment, input=stdin, capture_output=True, text=True, timeout=120)

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

    def test_the_command_starts_where_there_is_nothing_else(self):
        folder = self.scratch / "empty"
        folder.mkdir()
        shutil.copy(self.root / "bin/cuda-hook", folder)
        command = ["chroot", str(folder), "/cuda-hook"]
        done = subprocess.run([*command, "--version"], capture_output=True, text=True, timeout=120)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assertIn(done.stdout.split()[1], packed().name)
        limited = subprocess.run([*command, "run", "--memory", "1GiB", "--", "/cuda-hook"], capture_output=True, text=True, timeout=120)
        self.assertNotEqual(limited.returncode, 0)
        self.assertIn("Is /proc mounted?", limited.stderr, "without it nobody knows where the library lies")

    def test_the_companion_answers_in_every_c_library(self):
        for name, c_library in self.in_each():
            with self.subTest(name):
                companion = self.root / "lib/cuda-hook/cuda-hook-libraries"
                done = self.start(c_library, companion, stdin='"c_library"\n')
                self.assertEqual((done.returncode, done.stderr), (0, ""))
                self.assertRegex(done.stdout, r'^"2\.\d+"\n$')

    def test_the_command_has_its_companion_ask(self):
        driver = {"CUDA_HOOK_DRIVER": str(WORK / "driver/libcuda.so.1")}
        done = self.start(None, self.root / "bin/cuda-hook", "doctor", "--json", **driver)
        self.assertNotIn("cuda-hook-libraries", done.stdout + done.stderr)
        (self.root / "lib/cuda-hook/cuda-hook-libraries").unlink()
        done = self.start(None, self.root / "bin/cuda-hook", "doctor", "--json", **driver)
        self.assertIn("cuda-hook-libraries", done.stdout + done.stderr)

    def test_the_command_finds_what_is_packed_with_it(self):
        command = self.root / "bin/cuda-hook"
        done = self.start(None, command, "run", "--memory", "8MiB", "--sm", "50", "--", str(WORK / "tenant"))
        self.assertEqual(done.returncode, 0, done.stderr)

    def test_nothing_tells_where_it_was_built(self):
        for file in sorted(path for path in self.root.rglob("*") if path.is_file()):
            content = file.read_bytes()
            for place in (ROOT, TARGET, Path.home() / ".cargo"):
                self.assertNotIn(str(place).encode() + b"/", content, f"{file.relative_to(self.root)} names {place}")


class Installed(unittest.TestCase):
    """By dpkg, into roots that have the C library of a Debian release and nothing else."""

    def root_of(self, release: str) -> Path:
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        root = Path(scratch.name) / "root"
        shutil.copytree(WORK / release, root, symlinks=True, ignore=shutil.ignore_patterns("apt", "done"))
        for folder in ("lib", "lib64"):  # of Debian's base-files, since these folders are below /usr
            if not (root / folder).exists():
                (root / folder).symlink_to(f"usr/{folder}")
        for folder in ("info", "updates", "triggers"):
            (root / "var/lib/dpkg" / folder).mkdir(parents=True)
        changes = gzip.decompress((root / "usr/share/doc/libc6/changelog.Debian.gz").read_bytes()).decode()
        version = re.match(r"\S+ \((\S+)\)", changes)[1]
        fields = ("Package: libc6", "Status: install ok installed", "Architecture: amd64", "Maintainer: Debian", f"Version: {version}")
        (root / "var/lib/dpkg/status").write_text("\n".join((*fields, "Description: the C library", "", "")))
        return root

    def test_it_installs_starts_and_leaves_nothing_when_it_is_removed(self):
        if os.geteuid():
            print("NOT CHECKED: the package in a root of its own, which takes root", flush=True)
            self.skipTest("not root")
        for release in C_LIBRARIES:
            with self.subTest(release):
                root = self.root_of(release)
                before = files_of(root)
                dpkg = ("dpkg", f"--root={root}")
                run(*dpkg, "--install", debian_package())
                state = run("dpkg-query", f"--root={root}", "--show", "--showformat=${Status}", "cuda-hook")
                self.assertEqual(state, "install ok installed")
                version = run("dpkg-deb", "--field", debian_package(), "Version").strip()
                self.assertEqual(run("chroot", root, "/usr/bin/cuda-hook", "--version"), f"cuda-hook {version}\n")
                run(*dpkg, "--remove", "cuda-hook")
                self.assertEqual(files_of(root), before)
                known = run("dpkg-query", f"--root={root}", "--show", "--showformat=${Package}\n")
                self.assertEqual(known, "libc6\n")


def files_of(root: Path) -> set[str]:
    """All but dpkg's own books."""
    books = root / "var"
    return {str(path.relative_to(root)) for path in root.rglob("*") if not path.is_relative_to(books)}


class DebianPackage(unittest.TestCase):
    """As dpkg installs it, into a folder of its own."""

    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.root = Path(scratch.name)
        run("dpkg-deb", "--extract", debian_package(), self.root)
        self.command = self.root / "usr/bin/cuda-hook"
        self.doc = self.root / "usr/share/doc/cuda-hook"

    def test_it_needs_only_the_c_library_and_runs_nothing_when_it_is_installed(self):
        fields = run("dpkg-deb", "--field", debian_package(), "Package", "Architecture", "Depends")
        self.assertEqual(fields, "Package: cuda-hook\nArchitecture: amd64\nDepends: libc6 (>= 2.17)\n")
        control = self.root / "control"
        run("dpkg-deb", "--control", debian_package(), control)
        self.assertEqual({file.name for file in control.iterdir()}, {"control", "md5sums"})
        subprocess.run(["md5sum", "--check", "--quiet", control / "md5sums"], check=True, cwd=self.root)

    def test_all_of_it_is_roots_and_below_usr(self):
        for line in run("dpkg-deb", "--contents", debian_package()).splitlines():
            mode, owner, *_, path = line.split()
            self.assertEqual(owner, "root/root", line)
            self.assertRegex(path, r"^\./(usr/.*)?$")
            self.assertIn(mode, ("drwxr-xr-x", "-rwxr-xr-x", "-rw-r--r--"), line)

    def test_it_has_the_files_of_the_archive(self):
        with tarfile.open(packed()) as archive:
            names = {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}
        installed = {str(path.relative_to(self.root / "usr")) for path in self.root.rglob("*") if path.is_file()}
        self.assertEqual(installed, names)

    def test_the_command_finds_the_library_that_is_installed_with_it(self):
        environment = {"CUDA_HOOK_DIR": str(self.root / "state"), "LD_LIBRARY_PATH": str(WORK / "driver")}
        command = [self.command, "run", "--memory", "8MiB", "--sm", "50", "--", WORK / "tenant"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
        self.assertEqual(done.returncode, 0, done.stderr)

    def test_the_manual_is_what_groff_renders_without_a_warning(self):
        if not shutil.which("groff"):
            print("NOT CHECKED: the manual, as there is no groff", flush=True)
            return
        pages = sorted((self.root / "usr/share/man/man1").iterdir())
        self.assertIn("cuda-hook-run.1.gz", [page.name for page in pages])
        for page in pages:
            command = ["groff", "-man", "-ww", "-Tascii", "-P-cbou"]
            done = subprocess.run(command, input=gzip.decompress(page.read_bytes()), capture_output=True, check=True)
            self.assertEqual(done.stderr, b"", page.name)
            self.assertIn(b"SYNOPSIS", done.stdout, page.name)

    def test_bash_completes_the_commands(self):
        script = self.root / "usr/share/bash-completion/completions/cuda-hook"
        ask = """
            source "$1"
            function=$(complete -p cuda-hook | sed 's/.* -F \\([^ ]*\\) .*/\\1/')
            COMP_WORDS=(cuda-hook sta) COMP_CWORD=1
            "$function" cuda-hook sta cuda-hook
            echo "${COMPREPLY[@]}"
        """
        self.assertEqual(run("bash", "-c", ask, "bash", script), "status\n")

    def test_systemd_finds_nothing_wrong_with_the_service(self):
        if not shutil.which("systemd-analyze"):
            print("NOT CHECKED: the service by systemd-analyze, as there is none", flush=True)
            self.skipTest("no systemd-analyze")
        verify = ["systemd-analyze", "verify", f"--root={self.root}", "--man=no", "--recursive-errors=no", "cuda-hook-agent.service"]
        done = subprocess.run(verify, capture_output=True, text=True, timeout=120)
        self.assertEqual((done.returncode, done.stdout + done.stderr), (0, ""))

    def test_the_service_starts_the_installed_command_with_options_that_it_has(self):
        unit = (self.root / "usr/lib/systemd/system/cuda-hook-agent.service").read_text()
        (start,) = re.findall(r"^ExecStart=(.*)$", unit, re.MULTILINE)
        program, *words = start.split()
        self.assertEqual(program, "/usr/bin/cuda-hook")
        run(self.command, *words, "--help")
        for line in unit.splitlines():
            self.assertRegex(line, r"^(#.*|\[(Unit|Service|Install)\]|[A-Z]\w+=.*|)$")

    def test_no_option_of_the_service_closes_the_gpus(self):
        unit = (self.root / "usr/lib/systemd/system/cuda-hook-agent.service").read_text()
        options = set(re.findall(r"^(\w+)=", unit, re.MULTILINE))
        self.assertIn("CapabilityBoundingSet", options)
        # ProtectClock= lets systemd before 253 allow the clock's device alone: seen with 247 (systemd issue 18142).
        closing = {"DeviceAllow", "DevicePolicy", "PrivateDevices", "PrivatePIDs", "ProtectClock", "ProtectProc"}
        self.assertEqual(options & closing, set())

    def test_the_examples_are_ones_that_the_command_takes(self):
        hook = json.loads((self.doc / "examples/oci-hook.json").read_text())
        self.assertEqual(hook["hook"]["path"], "/usr/bin/cuda-hook")
        for example in ("config.toml", "slices/small.toml"):
            state = ("--dir", self.root / "state")
            described = json.loads(run(self.command, "cdi", "generate", "small", "--config", self.doc / "examples" / example, *state))
            self.assertEqual(described["kind"], "cuda-hook/slice")

    def test_the_bill_of_materials_names_each_crate_that_is_linked_in(self):
        bill = json.loads((self.doc / "sbom.cdx.json").read_text())
        self.assertEqual((bill["bomFormat"], bill["specVersion"]), ("CycloneDX", "1.5"))
        named = {component["bom-ref"]: component for component in bill["components"]}
        self.assertEqual(len(named), len(bill["components"]))
        for dependency in bill["dependencies"]:
            self.assertLessEqual(set(dependency["dependsOn"]), set(named))
        for component in named.values():
            if component["type"] == "library":
                self.assertTrue(component["version"] and component["licenses"][0]["expression"], component)
        names = {component["name"] for component in named.values()}
        content = self.command.read_bytes()  # panics in a crate's code bear its folder in the registry
        crates = {name.decode() for name in re.findall(rb"cargo/registry/src/[^/]+/([a-z0-9_-]+?)-\d+\.\d+\.\d+", content)}
        self.assertGreater(len(crates), 10)
        self.assertLessEqual(crates, names)

    def test_the_same_commit_gives_the_same_bytes(self):
        before = [hashlib.sha256(path.read_bytes()).hexdigest() for path in (packed(), debian_package())]
        environment = {**os.environ, "CARGO_TARGET_DIR": str(TARGET)}
        subprocess.run([ROOT / "scripts/package"], check=True, env=environment, umask=0o077, capture_output=True)
        after = [hashlib.sha256(path.read_bytes()).hexdigest() for path in (packed(), debian_package())]
        self.assertEqual(after, before)


if __name__ == "__main__":
    unittest.main()
