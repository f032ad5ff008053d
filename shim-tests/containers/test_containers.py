"""Containers of podman and runc, limited by `cuda-hook oci-hook`, on one simulated GPU.

Their images are made on the spot of this machine's own bash, coreutils and C library.
"""

import json
import os
import re
import shutil
import subprocess
import tempfile
import unittest
from pathlib import Path

import podman

ROOT = Path(__file__).resolve().parents[2]
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).absolute()
BUILT = TARGET / "debug"
PROGRAMS = ("bash", "cat", "env", "sleep", "setpriv")
IMAGE = "localhost/limited:1"
GREEDY = "/usr/bin/greedy"
GIB = "cuda-hook.memory=1GiB"
OUT_OF_MEMORY = 2
DRIVER = ("LD_LIBRARY_PATH=/opt/driver", "GPU_SIM_DIR=/sim", "GPU_SIM_PROFILE=t4")
CLEARED = f"env -i {' '.join(DRIVER)}"  # but for what leads to the simulated GPU


def setUpModule() -> None:
    global WORK, PODMAN
    scratch = tempfile.TemporaryDirectory(prefix="cuda-hook-containers-", dir="/var/tmp")
    unittest.addModuleCleanup(scratch.cleanup)
    WORK = Path(scratch.name)
    try:
        podman.install()
        hooks = WORK / "hooks"
        hooks.mkdir()
        written = cuda_hook("oci-hook", "config", "--dir", WORK / "state")
        (hooks / "cuda-hook.json").write_text(written.stdout)
        PODMAN = podman.Podman(WORK / "podman", hooks)
        unittest.addModuleCleanup(PODMAN.end)
        root = WORK / "root"
        make_root(root)
        PODMAN.image(IMAGE, root)
        tried = PODMAN.run("run", "--rm", *podman.RUN_FLAGS, IMAGE, "/bin/bash", "-c", "echo works")
        if tried.stdout != "works\n":
            raise podman.Unavailable(f"podman cannot run a container here: {tried.stderr.strip()}")
    except podman.Unavailable as error:
        print(f"NOT CHECKED: containers: {error}", flush=True)
        raise unittest.SkipTest(str(error)) from error


def cuda_hook(*arguments: object, **options) -> subprocess.CompletedProcess:
    command = [str(word) for word in (BUILT / "cuda-hook", *arguments)]
    return subprocess.run(command, capture_output=True, text=True, **options)


def copy_with_libraries(program: Path, root: Path) -> None:
    (root / "usr/bin").mkdir(parents=True, exist_ok=True)
    shutil.copy(program, root / "usr/bin")
    listed = subprocess.run(["ldd", program], capture_output=True, text=True).stdout
    for library in re.findall(r"/\S+", listed):
        place = root / library.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(library, place)


def make_root(root: Path) -> None:
    for program in PROGRAMS:
        copy_with_libraries(Path(shutil.which(program)), root)
    compile_c(root / "usr/bin/greedy")
    for folder in ("etc", "proc", "run", "tmp", "sim"):
        (root / folder).mkdir(exist_ok=True)
    (root / "bin").symlink_to("usr/bin")
    for library in (BUILT / "gpu-sim/libcuda.so.1", BUILT / "gpu-sim/gpu-sim-device"):
        copy_with_libraries(library, WORK / "libraries")
        shutil.copytree(WORK / "libraries/lib", root / "lib", dirs_exist_ok=True)


def compile_c(to: Path, *flags: str) -> None:
    source = Path(__file__).with_name("greedy.c")
    # Of a static program the linker says that dlopen needs more than it: it is never started.
    subprocess.run(["cc", "-Wall", "-Werror", *flags, "-o", to, source, "-ldl"], check=True, capture_output=True)


class Limited(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(dir=WORK)
        self.addCleanup(folder.cleanup)
        self.machine = Path(folder.name) / "machine"
        self.machine.mkdir(mode=0o777)
        self.machine.chmod(0o777)

    def flags(self, *annotations: str) -> list[str]:
        """What gives a container the simulated GPU, and these limits."""
        volumes = [f"--volume={BUILT / 'gpu-sim'}:/opt/driver:ro", f"--volume={self.machine}:/sim"]
        variables = [*DRIVER, "CUDA_HOOK_LOG=warn"]
        asked = [f"--annotation={annotation}" for annotation in annotations]
        return [*podman.RUN_FLAGS, *volumes, *(f"--env={variable}" for variable in variables), *asked]

    def limited(self, *command: str, annotations: tuple[str, ...] = (GIB,), flags: tuple[str, ...] = ()) -> subprocess.CompletedProcess:
        """A container that ends by itself."""
        return PODMAN.run("run", "--rm", *self.flags(*annotations), *flags, IMAGE, *command, stdin=subprocess.DEVNULL)

    def assert_refused_at_a_gib(self, done: subprocess.CompletedProcess) -> None:
        """A context takes some of it, and blocks of 64 MiB the rest."""
        granted = re.search(r"^granted (\d+) MiB, then (\d+)$", done.stdout, re.MULTILINE)
        self.assertTrue(granted, done)
        self.assertEqual(int(granted[2]), OUT_OF_MEMORY)
        self.assertIn(int(granted[1]), range(768, 1024))

    def test_a_container_is_held_to_its_quota_whatever_its_shell_clears(self):
        for line in (GREEDY, f"unset LD_PRELOAD; {GREEDY}", f"{CLEARED} {GREEDY}"):
            with self.subTest(line):
                self.assert_refused_at_a_gib(self.limited("/bin/bash", "-c", line))

    def test_a_container_of_another_user_or_with_a_root_that_is_read_only_is_held_to_it(self):
        for flag in ("--user=1000:1000", "--read-only"):
            with self.subTest(flag):
                self.assert_refused_at_a_gib(self.limited(GREEDY, flags=(flag,)))

    def test_users_of_one_container_share_its_quota(self):
        # A simulated machine is one user's; another of the same description has the same GPU.
        as_user = "GPU_SIM_DIR=/sim/users setpriv --reuid=1000 --regid=1000 --clear-groups"
        line = f"exec 3< <({GREEDY} < <(sleep 60)); read said <&3; {as_user} {GREEDY} one"
        done = self.limited("/bin/bash", "-c", line)
        self.assertIn(f"granted 0 MiB, then {OUT_OF_MEMORY}\n", done.stdout, done)

    def test_containers_have_quotas_of_their_own_and_a_killed_one_gives_its_memory_back(self):
        run = ("run", "--rm", "--interactive", "--name=first", *self.flags(GIB), IMAGE, GREEDY)
        first = PODMAN.start(*run, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.addCleanup(first.stdout.close)
        self.addCleanup(first.stdin.close)
        granted = first.stdout.readline()
        self.assertRegex(granted, rf"^granted \d+ MiB, then {OUT_OF_MEMORY}$")
        entered = PODMAN.run("exec", "first", GREEDY, "one")
        self.assertEqual(entered.stdout, f"granted 0 MiB, then {OUT_OF_MEMORY}\n", entered)
        self.assert_refused_at_a_gib(self.limited(GREEDY))
        uses = lambda: [row["memory_bytes_current"] for row in self.books()]  # noqa: E731
        self.assertGreater(max(uses(), default=0), 0)
        PODMAN.run("kill", "--signal=KILL", "first")
        first.wait(timeout=podman.SECONDS_MAX)
        self.assertEqual(max(uses(), default=0), 0)

    def books(self) -> list[dict]:
        """What the containers use, as the operator sees it."""
        environment = {**os.environ, "CUDA_HOOK_DIR": str(WORK / "state"), "GPU_SIM_DIR": str(self.machine)}
        told = json.loads(cuda_hook("status", "--json", env=environment).stdout)
        return [device for container in told["containers"] for device in container["devices"]]

    def test_limits_may_come_from_the_environment_and_stay_when_it_is_cleared(self):
        named = ("cuda-hook.container=by-environment",)
        done = self.limited("/bin/bash", "-c", f"{CLEARED} {GREEDY}", annotations=named, flags=("--env=CUDA_HOOK_MEMORY=1GiB",))
        self.assert_refused_at_a_gib(done)

    def test_a_container_that_asks_for_nothing_is_left_alone(self):
        done = self.limited("/bin/bash", "-c", "[ -e /etc/ld.so.preload ] || echo alone", annotations=("cuda-hook.container=alone",))
        self.assertEqual(done.stdout, "alone\n", done)

    def test_what_cannot_be_limited_is_not_started(self):
        root = WORK / "foreign"
        (root / "proc").mkdir(parents=True, exist_ok=True)
        compile_c(root / "static", "-static")
        compile_c(root / "musl", "-Wl,--dynamic-linker=/lib/ld-musl-x86_64.so.1")
        PODMAN.image("localhost/foreign:1", root)
        for program, reason in (("/static", "statically linked"), ("/musl", "is not glibc's")):
            with self.subTest(program):
                done = PODMAN.run("run", "--rm", *self.flags(GIB), "localhost/foreign:1", program)
                self.assertIn(reason, done.stderr)
                self.assertEqual((done.returncode, done.stdout), (126, ""))

    def test_a_wrong_annotation_is_refused_by_its_name(self):
        wrong = {"cuda-hook.memory=abc": '"abc": is not a size', "cuda-hook.quota=1GiB": "cuda-hook.quota: no such annotation"}
        for annotation, said in wrong.items():
            done = self.limited("/bin/bash", "-c", "echo started", annotations=(annotation,))
            self.assertIn(said, done.stderr)
            self.assertEqual((done.returncode, done.stdout), (126, ""))

    def test_a_slice_is_a_device_that_a_container_asks_for(self):
        config = WORK / "small.toml"
        config.write_text('[limits]\nmemory = "1GiB"\n')
        name = f"test-{os.getpid()}"
        spec = Path(f"/var/run/cdi/cuda-hook-{name}.json")
        spec.parent.mkdir(exist_ok=True)
        self.addCleanup(spec.unlink)
        made = cuda_hook("cdi", "generate", name, "--config", config, "--dir", WORK / "state", "--output", spec)
        self.assertEqual((made.returncode, made.stdout, made.stderr), (0, "", ""))
        done = self.limited(GREEDY, annotations=(), flags=(f"--device=cuda-hook/slice={name}",))
        self.assert_refused_at_a_gib(done)
        both = self.limited(GREEDY, flags=(f"--device=cuda-hook/slice={name}",))
        self.assertIn("leave one of them out", both.stderr)

    def test_nothing_is_left_of_a_container_that_has_ended(self):
        self.limited(GREEDY, annotations=(GIB, "cuda-hook.container=ended"))
        self.assertEqual(list((WORK / "state-containers").iterdir()), [])


if __name__ == "__main__":
    unittest.main()
