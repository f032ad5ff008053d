"""The simulated machine that a test runs its programs on, and the worlds that a program can be in."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

CLIENTS = Path(__file__).resolve().parent
ROOT = CLIENTS.parent.parent
ARTEFACTS = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).absolute() / "release"
COMMAND = ARTEFACTS / "cuda-hook"
PROFILE = "t4"
# Compiling ResNet-50 takes half a minute: once is enough, for all tests, for the demo, and for all runs of them.
COMPILED_BATCH = "16"
COMPILED = ROOT / f".venv/resnet50-simulated-{PROFILE}-batch-{COMPILED_BATCH}.pickle"
CUDA_13 = str(ROOT / ".venv-cuda-13/bin/python")  # the environment of the clients for CUDA 13; ours is that of CUDA 12
PROGRAM_SECONDS_MAX = 300
SLOWED = 8  # times, on a slow board

# Where the program stands: without the preload; with it and without limits; or a dictionary of `cuda-hook run` options.
BARE = None
TRANSPARENT: dict[str, str] = {}
World = dict[str, str] | None


@dataclass
class Outcome:
    """What a program did and said."""

    status: int
    stdout: str
    stderr: str
    records: list[dict]
    trace: list[str]

    @property
    def record(self) -> dict:
        return self.records[-1]


@dataclass
class Talk:
    """A program that is running, and that is spoken to line by line."""

    process: subprocess.Popen

    @property
    def pid(self) -> int:
        return self.process.pid  # `cuda-hook run` becomes the program

    def record(self) -> dict:
        """What it says next."""
        return json.loads(self.process.stdout.readline())

    def ask(self) -> dict:
        """Its answer to a line."""
        print(file=self.process.stdin, flush=True)
        return self.record()


class Machine:
    """A simulated machine in folders of its own. The device goes when the last of its programs has gone."""

    def __init__(self, python: str = sys.executable):
        self.python = python
        self.folder = Path(tempfile.mkdtemp(prefix="clients-", dir="/dev/shm"))
        (self.folder / "hook").mkdir()
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("CUDA_HOOK_", "GPU_SIM_", "LD_"))},
            "GPU_SIM_PROFILE": PROFILE,
            "GPU_SIM_DIR": str(self.folder / "sim"),
            "CUDA_HOOK_DIR": str(self.folder / "hook"),
            "CACHEDB": str(ROOT / ".venv/tinygrad.db"),
            # tinygrad walks over sets: the order of its calls is the order of their hashes.
            "PYTHONHASHSEED": "0",
        }

    def close(self) -> None:
        shutil.rmtree(self.folder)

    def slow_down(self) -> None:
        """Makes the board so slow, before its first use, that beside its time the host's hardly counts."""
        text = (ROOT / f"gpu-sim/profiles/{PROFILE}.toml").read_text()
        slow = re.sub(r"(?m)^(sm_clock_mhz = )(\d+)$", lambda found: f"{found[1]}{int(found[2]) // SLOWED}", text)
        file = self.folder / "slow.toml"
        file.write_text(slow)
        self.environment["GPU_SIM_PROFILE"] = str(file)

    def command(self, world: World, program: str, *arguments: str) -> list[str]:
        client = [self.python, str(CLIENTS / program), *arguments]
        if world is BARE:
            return client
        options = [text for name, value in world.items() for text in (f"--{name}", value)]
        return [str(COMMAND), "run", *options, "--", *client]

    def start(self, world: World, program: str, *arguments: str, environment: dict[str, str] | None = None, **popen) -> subprocess.Popen:
        """Every world has the simulated driver, found as any other: by the loader."""
        surroundings = {**self.environment, "LD_LIBRARY_PATH": str(ARTEFACTS / "gpu-sim"), **(environment or {})}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL, **popen}
        return subprocess.Popen(self.command(world, program, *arguments), env=surroundings, text=True, **pipes)

    def run(self, world: World, program: str, *arguments: str, environment: dict[str, str] | None = None) -> Outcome:
        traces = Path(tempfile.mkdtemp(dir=self.folder))
        process = self.start(world, program, *arguments, environment={"GPU_SIM_TRACE": str(traces), **(environment or {})})
        try:
            stdout, stderr = process.communicate(timeout=PROGRAM_SECONDS_MAX)
        finally:
            process.kill()
            process.wait()
        trace = traces / f"{process.pid}.trace"
        return Outcome(
            process.returncode,
            stdout,
            stderr,
            [json.loads(line) for line in stdout.splitlines()],
            trace.read_text().splitlines() if trace.exists() else [],
        )

    @contextmanager
    def talking(self, world: World, program: str, *arguments: str) -> Iterator[Talk]:
        """A program to speak to, which keeps the machine; what it says on standard error is shown. Killed at the end."""
        with self.start(world, program, *arguments, stdin=subprocess.PIPE, stderr=None) as process:
            try:
                yield Talk(process)
            finally:
                process.kill()

    def books(self) -> dict:
        """What the simulated device itself has counted."""
        command = [COMMAND, "sim", "status", "--json"]
        return json.loads(subprocess.run(command, env=self.environment, capture_output=True, text=True, check=True).stdout)
