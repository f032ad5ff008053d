"""What containers are tried on: podman with the command's hook, an image made of this machine's own files, and a simulated GPU.

The image has bash, a few programs and this machine's C library; what it runs on the GPU is `greedy` and `workload`.
"""

import json
import os
import re
import selectors
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import podman

HERE = Path(__file__).resolve().parent
PROGRAMS = ("bash", "cat", "env", "id", "mount", "sleep", "setpriv", "su", "true", "umount", "unshare")
IMAGE = "localhost/limited:1"
GREEDY = "/usr/bin/greedy"
BUSY = ("/usr/bin/workload", "/etc/kernels.toml", "--seconds", "3600")
DRIVER = ("LD_LIBRARY_PATH=/opt/driver", "GPU_SIM_DIR=/sim", "GPU_SIM_PROFILE=t4")
OUT_OF_MEMORY = 2
ANSWER_SECONDS_MAX = 60

# su(1) asks PAM: root may become anybody.
PAM = "auth sufficient pam_rootok.so\naccount required pam_permit.so\nsession required pam_permit.so\n"
USER = "root:x:0:0::/:/bin/bash\nsomebody:x:1000:1000::/tmp:/bin/bash\n"

# Loads the simulated driver and stays: so the simulated device runs outside all containers, and outlives them.
HOLDER = "import ctypes, sys; print(ctypes.CDLL('libcuda.so.1').cuInit(0), flush=True); sys.stdin.read()"


class Failure(RuntimeError):
    """What went wrong, for a person to read."""


class Stage:
    """A podman of its own, all of whose containers are offered to the hook; gone with its folder."""

    def __init__(self, folder: Path, built: Path):
        self.folder, self.built = folder, built
        self.state = folder / "state"
        hooks = folder / "hooks"
        hooks.mkdir()
        (hooks / "cuda-hook.json").write_text(self.cuda_hook("oci-hook", "config", "--dir", self.state).stdout)
        self.podman = podman.Podman(folder / "podman", hooks)

    def prepare(self) -> None:
        """Makes the image, and tries whether containers run here at all."""
        root = self.folder / "root"
        self.make_root(root)
        self.podman.image(IMAGE, root)
        tried = self.podman.run("run", "--rm", *podman.RUN_FLAGS, IMAGE, "/bin/bash", "-c", "echo works")
        if tried.stdout != "works\n":
            raise podman.Unavailable(f"podman cannot run a container here: {tried.stderr.strip()}")

    def cuda_hook(self, *arguments: object, **options) -> subprocess.CompletedProcess:
        command = [str(word) for word in (self.built / "cuda-hook", *arguments)]
        return subprocess.run(command, capture_output=True, text=True, **options)

    def make_root(self, root: Path) -> None:
        for program in PROGRAMS:
            copy_with_libraries(Path(shutil.which(program)), root)
        copy_with_libraries(self.built / "workload", root)
        compile_c(root / "usr/bin/greedy")
        for folder in ("etc/pam.d", "proc", "run", "tmp", "sim", "dev"):
            (root / folder).mkdir(parents=True, exist_ok=True)
        shutil.copy(HERE / "kernels.toml", root / "etc")
        (root / "etc/passwd").write_text(USER)
        for name in ("su", "su-l"):
            (root / "etc/pam.d" / name).write_text(PAM)
        (root / "bin").symlink_to("usr/bin")
        libraries = self.folder / "libraries"
        modules = [next(Path("/").glob(f"*/*/security/pam_{name}.so")) for name in ("rootok", "permit")]
        for library in (self.built / "gpu-sim/libcuda.so.1", self.built / "gpu-sim/gpu-sim-device", *modules):
            copy_with_libraries(library, libraries)
        shutil.copytree(libraries / "lib", root / "lib", dirs_exist_ok=True)
        for module in modules:
            place = root / module.relative_to("/")
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(module, place)

    def flags(self, machine: Path, *annotations: str) -> list[str]:
        """What gives a container the simulated GPU of that machine, and these limits."""
        volumes = [f"--volume={self.built / 'gpu-sim'}:/opt/driver:ro", f"--volume={machine}:/sim"]
        variables = [*DRIVER, "CUDA_HOOK_LOG=warn"]
        asked = [f"--annotation={annotation}" for annotation in annotations]
        return [*podman.RUN_FLAGS, *volumes, *(f"--env={variable}" for variable in variables), *asked]

    def environment(self, machine: Path) -> dict[str, str]:
        """What leads a program outside to the same GPU and the same books."""
        return {
            **os.environ,
            "CUDA_HOOK_DIR": str(self.state),
            "GPU_SIM_DIR": str(machine),
            "GPU_SIM_PROFILE": "t4",
            "LD_LIBRARY_PATH": str(self.built / "gpu-sim"),
        }

    def status(self, machine: Path) -> dict:
        """What the operator sees."""
        return json.loads(self.cuda_hook("status", "--json", env=self.environment(machine)).stdout)

    def books(self, machine: Path) -> dict:
        """What the device itself has counted."""
        return json.loads(self.cuda_hook("sim", "status", "--json", env=self.environment(machine)).stdout)

    @contextmanager
    def device(self, machine: Path) -> Iterator[None]:
        """The simulated device, kept alive from outside."""
        with subprocess.Popen(
            ["python3", "-c", HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=self.environment(machine)
        ) as holder:
            try:
                if holder.stdout.readline() != b"0\n":
                    raise Failure("the simulated GPU does not start")
                yield
            finally:
                holder.kill()

    @contextmanager
    def agent(self, machine: Path) -> Iterator[subprocess.Popen]:
        """The node's agent; its log is its standard error."""
        command = [self.built / "cuda-hook", "agent", "--dir", self.state, "--listen", "127.0.0.1:0", "--socket", machine / "agent"]
        with subprocess.Popen(command, stderr=subprocess.PIPE, env=self.environment(machine)) as agent:
            try:
                yield agent
            finally:
                agent.kill()

    @contextmanager
    def watched(self, machine: Path, period: str = "250ms") -> Iterator[Iterator[dict]]:
        """The device's books, again and again; ends with an error where none come."""
        command = [self.built / "cuda-hook", "sim", "watch", "--json", "--every", period]
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=self.environment(machine)) as watcher:
            try:
                yield map(json.loads, lines(watcher.stdout))
            finally:
                watcher.kill()


def lines(pipe) -> Iterator[bytes]:
    """The lines of a pipe, each within the time that an answer may take."""
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        unread = b""
        while selector.select(ANSWER_SECONDS_MAX):
            data = os.read(pipe.fileno(), 1 << 16)
            if not data:
                return
            *whole, unread = (unread + data).split(b"\n")
            yield from whole
    raise Failure(f"nothing was said for {ANSWER_SECONDS_MAX} s")


def wait_for(watched: Iterator[dict], container: str) -> None:
    """Until the container has had the compute engine."""
    until = time.monotonic() + ANSWER_SECONDS_MAX
    for books in watched:
        if busy_ns(books).get(container):
            return
        if time.monotonic() > until:
            break
    raise Failure(f"{container} does nothing on the GPU")


def busy_ns(books: dict) -> dict[str, int]:
    """For how long the compute engine has been each container's."""
    return {row["container"]: row["gpu_busy_ns_total"] for row in books["containers"]}


def shares(watched: Iterator[dict], containers: list[str], seconds: float, seconds_max: float) -> Iterator[list[float]]:
    """What each of the containers had of the compute engine, in percent, in one window of the device's time after another."""
    until = time.monotonic() + seconds_max
    begin: dict | None = None
    for books in watched:
        if time.monotonic() > until:
            return
        busy = busy_ns(books)
        if not all(busy.get(name) for name in containers):
            continue
        begin = begin or {"now_ns": books["now_ns"], **busy}
        passed_ns = books["now_ns"] - begin["now_ns"]
        if passed_ns >= seconds * 1e9:
            yield [100 * (busy[name] - begin[name]) / passed_ns for name in containers]
            begin = {"now_ns": books["now_ns"], **busy}


def copy_with_libraries(program: Path, root: Path) -> None:
    (root / "usr/bin").mkdir(parents=True, exist_ok=True)
    shutil.copy(program, root / "usr/bin")
    listed = subprocess.run(["ldd", program], capture_output=True, text=True).stdout
    for library in re.findall(r"/\S+", listed):
        place = root / library.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(library, place)


def compile_c(to: Path, *flags: str) -> None:
    # Of a static program the linker says that dlopen needs more than it: it is never started.
    subprocess.run(["cc", "-Wall", "-Werror", *flags, "-o", to, HERE / "greedy.c", "-ldl"], check=True, capture_output=True)
