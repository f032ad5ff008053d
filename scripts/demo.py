"""The scenes of scripts/demo, and the table that they fill. Only the standard library.

Three ResNet-50 services are started and warmed up: one bare, one under 2 GiB and 30 % of SM time, one under 4 GiB and 60 %.
Each scene then opens a window of time in which some of them classify batch after batch. What the device did in that window is read
from the device's own books, never from the limiter.
"""

import argparse
import contextlib
import ctypes
import json
import os
import re
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ARTEFACTS = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).absolute() / "release"
PYTHON = ROOT / ".venv/bin/python"
CLIENTS = ROOT / "shim-tests/clients"

WARM_UP_SECONDS_MAX = 600  # a first compilation on a busy machine
ANSWER_SECONDS_MAX = 60  # beyond the window itself
EDGE_SECONDS = 0.3  # between the device's two readings and the ends of the window
CHUNK_MIB = 256
SPEED_EXPLAINED = "images/s: as the program counted them."
SIMULATED_EXPLAINED = """\
SM measured: the time for which the GPU's compute engine was the program's, in percent of the window. memory peak: the most device
memory that the program held, with its context. Both from the simulated device's own books, not from the limiter."""
REAL_EXPLAINED = "not measured: a real GPU keeps no such books that every user may read; `cuda-hook status` has the limiter's."


@dataclass(frozen=True)
class Limits:
    """What `cuda-hook run` is told. Nothing set: the program runs bare, without the preload."""

    memory: str | None = None
    sm_percent: int | None = None

    def options(self) -> list[str]:
        options = ["--memory", self.memory] if self.memory else []
        return options + (["--sm", str(self.sm_percent)] if self.sm_percent else [])


@dataclass(frozen=True)
class Gpu:
    """The GPU that the scenes run on, and how a program finds it."""

    title: str
    environment: dict[str, str]
    sim_profile: str | None = None

    def command(self, limits: Limits, container: str) -> list[str]:
        """What stands before the program on its command line."""
        if limits == Limits():
            return []
        sim = ["--sim", self.sim_profile] if self.sim_profile else []
        return [str(ARTEFACTS / "cuda-hook"), "run", *sim, *limits.options(), "--container", container, "--"]

    def bare_environment(self) -> dict[str, str]:
        if not self.sim_profile:
            return {}
        inherited = os.environ.get("LD_LIBRARY_PATH")
        return {"LD_LIBRARY_PATH": f"{ARTEFACTS / 'gpu-sim'}" + (f":{inherited}" if inherited else "")}


def compiled(gpu: Gpu, batch: int) -> Path:
    """Where ResNet-50, compiled for that GPU, is kept from one run to the next."""
    name = re.sub(r"\W+", "-", gpu.title.lower())
    return ROOT / f".venv/resnet50-{name}-batch-{batch}.pickle"


@dataclass
class Reading:
    """What the device has counted of one process by a moment of its own clock."""

    now_ns: int
    gpu_busy_ns: int | None = None
    memory_bytes_peak: int | None = None


@dataclass
class Row:
    """One program in one scene."""

    scene: str
    program: str
    limits: Limits
    images_per_second: float | None = None
    sm_percent_measured: float | None = None
    memory_bytes_peak: int | None = None
    remark: str = ""
    detail: dict = field(default_factory=dict)


class Failure(RuntimeError):
    """What went wrong, for a person to read."""


class Program:
    """A running client that prints JSON lines; its stderr goes to a file that is shown when it fails."""

    def __init__(self, gpu: Gpu, name: str, limits: Limits, program: list[str], folder: Path, **environment: str):
        self.name, self.limits, self.log = name, limits, folder / f"{name}.log"
        environment = {**os.environ, **gpu.environment, **(gpu.bare_environment() if limits == Limits() else {}), **environment}
        command = [*gpu.command(limits, name), *program]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env=environment)
        os.set_blocking(self.process.stdout.fileno(), False)
        self.unread = b""
        self.lines: list[dict] = []

    @property
    def pid(self) -> int:
        return self.process.pid  # `cuda-hook run` becomes the program

    def open_window(self) -> None:
        self.process.stdin.write(b"\n")
        self.process.stdin.flush()

    def read(self) -> None:
        """Takes what has been printed, without waiting."""
        while data := self.process.stdout.read():
            self.unread += data
        *whole, self.unread = self.unread.split(b"\n")
        self.lines += [json.loads(line) for line in whole]
        if data == b"" and not self.lines:
            raise Failure(f"{self.name} ended with status {self.process.wait()}:\n{self.log.read_text(errors='replace')[-3000:]}")

    def answer(self, seconds_max: float) -> dict:
        wait_for(seconds_max, f"an answer from {self.name}", {self})
        return self.lines.pop(0)

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        with contextlib.suppress(BrokenPipeError):  # an interrupt came before the window was opened
            self.process.stdin.close()
        self.process.stdout.close()


def wait_for(seconds_max: float, what: str, programs: set[Program], told=lambda program: None) -> None:
    """Until each of the programs has printed a line; `told` hears of each as it comes."""
    waiting = {program for program in programs if not program.lines}
    until = time.monotonic() + seconds_max
    with selectors.DefaultSelector() as selector:
        for program in waiting:
            selector.register(program.process.stdout, selectors.EVENT_READ, program)
        while waiting:
            ready = selector.select(until - time.monotonic())
            if not ready:
                raise Failure(f"{what}: nothing after {seconds_max:.0f} s")
            for key, _ in ready:
                program = key.data
                program.read()
                if program.lines:
                    waiting.discard(program)
                    selector.unregister(key.fileobj)
                    told(program)


def idle(seconds: float, programs: list[Program]) -> None:
    """Lets the time pass unless one of the programs ends before it."""
    until = time.monotonic() + seconds
    with selectors.DefaultSelector() as selector:
        for program in programs:
            selector.register(program.process.stdout, selectors.EVENT_READ, program)
        while (left := until - time.monotonic()) > 0:
            for key, _ in selector.select(left):
                key.data.read()


class Stage:
    """The GPU, the running programs, and the rows so far."""

    def __init__(self, gpu: Gpu, folder: Path, seconds: float, batch: int):
        self.gpu, self.folder, self.seconds, self.batch = gpu, folder, seconds, batch
        self.programs: list[Program] = []
        self.rows: list[Row] = []

    def start(self, name: str, limits: Limits, arguments: list[str]) -> Program:
        program = Program(self.gpu, name, limits, [str(PYTHON), *arguments], self.folder)
        self.programs.append(program)
        return program

    def resnet(self, name: str, limits: Limits) -> Program:
        return self.start(
            name,
            limits,
            [*self.service(), "--gate", "--seconds", str(self.seconds)],
        )

    def service(self) -> list[str]:
        return [str(CLIENTS / "resnet50.py"), "--batch", str(self.batch), "--compiled", str(compiled(self.gpu, self.batch))]

    def end(self) -> None:
        for program in self.programs:
            program.end()

    def reading(self, program: Program) -> Reading:
        """From the simulated device's books. A real GPU keeps none that an ordinary user may read."""
        if not self.gpu.sim_profile:
            return Reading(time.monotonic_ns())
        books = sim_status(self.gpu)
        for process in books["processes"]:
            if process["pid"] == program.pid:
                return Reading(books["now_ns"], process["gpu_busy_ns_total"], process["memory_bytes_peak"])
        return Reading(books["now_ns"])

    def window(self, scene: str, programs: list[Program]) -> list[Row]:
        """One window for all of the programs at once."""
        say(f"{scene}: {self.seconds:g} s")
        for program in programs:
            program.open_window()
        idle(EDGE_SECONDS, programs)
        first = [self.reading(program) for program in programs]
        idle(self.seconds - 2 * EDGE_SECONDS, programs)
        last = [self.reading(program) for program in programs]
        rows = [
            row_of(scene, program, program.answer(self.seconds + ANSWER_SECONDS_MAX), before, after)
            for program, before, after in zip(programs, first, last, strict=True)
        ]
        self.rows += rows
        return rows


def row_of(scene: str, program: Program, answer: dict, before: Reading, after: Reading) -> Row:
    row = Row(scene, program.name, program.limits, answer["images_per_second"], detail=answer)
    if after.gpu_busy_ns is not None:
        row.sm_percent_measured = 100 * (after.gpu_busy_ns - (before.gpu_busy_ns or 0)) / (after.now_ns - before.now_ns)
        row.memory_bytes_peak = after.memory_bytes_peak
    return row


def sim_status(gpu: Gpu) -> dict:
    command = [str(ARTEFACTS / "cuda-hook"), "sim", "status", "--json"]
    done = subprocess.run(command, env={**os.environ, **gpu.environment}, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failure(f"{' '.join(command)}: {done.stderr.strip()}")
    return json.loads(done.stdout)


def compile_once(stage: Stage) -> None:
    """So that the services need not do it, each for itself."""
    if compiled(stage.gpu, stage.batch).exists():
        return
    say("compiling ResNet-50 with tinygrad (half a minute, the first time)")
    stage.start("compiler", Limits(), [*stage.service(), "--batches", "1"]).answer(WARM_UP_SECONDS_MAX)


def warm_up(stage: Stage, programs: set[Program]) -> None:
    say(f"starting {len(programs)} ResNet-50 services, batch {stage.batch}")
    began = time.monotonic()
    wait_for(
        WARM_UP_SECONDS_MAX, "warm-up", programs, lambda program: say(f"{program.name} is warm after {time.monotonic() - began:.0f} s")
    )
    for program in programs:
        program.lines.clear()


def greedy_scene(stage: Stage, neighbour: Program, alone: Row, limits: Limits) -> None:
    """A program that asks for more than its quota, on and on, while the neighbour works."""
    arguments = [str(CLIENTS / "greedy.py"), "--chunk-mib", str(CHUNK_MIB), "--seconds", str(stage.seconds + 2 * EDGE_SECONDS)]
    greedy = stage.start("greedy", limits, arguments)
    full = greedy.answer(ANSWER_SECONDS_MAX)
    (beside,) = stage.window("a greedy one beside a tenant", [neighbour])
    last = stage.reading(greedy)
    done = greedy.answer(stage.seconds + ANSWER_SECONDS_MAX)
    beside.remark = f"{100 * beside.images_per_second / alone.images_per_second:.0f} % of its speed alone"
    refusals = done["later_answers"].get(full["refusal"], 0)
    remark = f"{full['refusal']} after {size(full['granted_bytes'])}, and {refusals} times more"
    stage.rows.append(
        Row(beside.scene, greedy.name, limits, memory_bytes_peak=last.memory_bytes_peak, remark=remark, detail={**full, **done})
    )


def play(stage: Stage) -> None:
    compile_once(stage)
    bare = stage.resnet("bare", Limits())
    small = stage.resnet("tenant-30", Limits("2GiB", 30))
    large = stage.resnet("tenant-60", Limits("4GiB", 60))
    warm_up(stage, {bare, small, large})
    stage.window("bare", [bare])
    (alone,) = stage.window("one tenant", [small])
    stage.window("two tenants at once", [small, large])
    greedy_scene(stage, small, alone, Limits("1GiB"))


# The GPU


def real_gpu_name() -> str | None:
    """The name of the GPU that the system's own driver offers; asked in a process of its own, as a driver stays for good."""
    done = subprocess.run([sys.executable, __file__, "--only-real-name"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or None


def print_real_gpu_name() -> None:
    with contextlib.suppress(OSError):
        driver = ctypes.CDLL("libcuda.so.1")
        if is_simulation():
            return
        name, device = ctypes.create_string_buffer(128), ctypes.c_int()
        asked = (driver.cuInit, 0), (driver.cuDeviceGet, ctypes.byref(device), 0), (driver.cuDeviceGetName, name, len(name), device)
        if all(call(*arguments) == 0 for call, *arguments in asked):
            print(name.value.decode())


def is_simulation() -> bool:
    """Whether the libcuda of this process is the simulation's: LD_LIBRARY_PATH may lead there, and nothing simulated is called real."""
    mapped = (Path(line.split(maxsplit=5)[5]) for line in Path("/proc/self/maps").read_text().splitlines() if "/libcuda.so" in line)
    return any((library.parent / "gpu-sim-device").exists() for library in mapped)


def simulated(profile: str, folder: Path) -> Gpu:
    asked = subprocess.run([ARTEFACTS / "cuda-hook", "run", "--sim", profile, "--", "true"], capture_output=True, text=True, check=False)
    if asked.returncode:
        raise Failure(asked.stderr.strip())
    environment = {"GPU_SIM_PROFILE": profile, "GPU_SIM_DIR": str(folder / "sim")}
    return Gpu(f"simulated {profile}", environment, profile)


def simulated_title(gpu: Gpu) -> str:
    device = sim_status(gpu)["devices"][0]
    facts = f"{device['sm_count']} SMs, compute capability {device['compute_capability']}, {size(device['memory_bytes_total'])}"
    return f"simulated {device['name']} ({facts}): kernels take modelled time and compute nothing"


def choose_gpu(sim: str | None, folder: Path) -> Gpu:
    shared = {"CUDA_HOOK_DIR": str(folder / "hook"), "CACHEDB": os.environ.get("CACHEDB", str(ROOT / ".venv/tinygrad.db"))}
    name = None if sim else real_gpu_name()
    gpu = Gpu(name, {}) if name else simulated(sim or "t4", folder)
    say(f"on {'the real ' + name if name else f'the simulated {gpu.sim_profile}: ' + ('asked for' if sim else 'no GPU answers here')}")
    return Gpu(gpu.title, {**shared, **gpu.environment}, gpu.sim_profile)


# What a person sees


def say(text: str) -> None:
    print(f"{Path(sys.argv[0]).stem}: {text}", file=sys.stderr, flush=True)


def size(size_bytes: int | None) -> str:
    if size_bytes is None:
        return "not measured"
    for unit, bytes_in in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if size_bytes >= bytes_in:
            return f"{size_bytes / bytes_in:.1f}".removesuffix(".0") + f" {unit}"
    return f"{size_bytes} B"


def cells(row: Row) -> list[str]:
    asked = f"{row.limits.sm_percent} %" if row.limits.sm_percent else "-"
    if row.images_per_second is None:
        speed, measured = "-", "-"
    else:
        speed = f"{row.images_per_second:.1f}"
        measured = "not measured" if row.sm_percent_measured is None else f"{row.sm_percent_measured:.1f} %"
    return [row.scene, row.program, speed, asked, measured, row.limits.memory or "-", size(row.memory_bytes_peak), row.remark]


def table(title: str, rows: list[Row], explained: str) -> str:
    head = ["scene", "program", "images/s", "SM asked", "SM measured", "memory quota", "memory peak", "what the program saw"]
    lines = [head] + [cells(row) for row in rows]
    for above, line in reversed(list(pairwise(lines))):
        if line[0] == above[0]:
            line[0] = ""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    right = {2, 3, 4, 5, 6}

    def text(line: list[str]) -> str:
        return "  ".join(
            cell.rjust(width) if at in right else cell.ljust(width) for at, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()

    rule = "  ".join("-" * width for width in widths)
    return "\n".join(["", title, "", text(head), rule, *map(text, lines[1:]), "", SPEED_EXPLAINED, explained])


def report(title: str, stage: Stage) -> dict:
    return {
        "schema": 1,
        "gpu": title,
        "simulated": stage.gpu.sim_profile is not None,
        "batch": stage.batch,
        "window_seconds": stage.seconds,
        "rows": [asdict(row) for row in stage.rows],
    }


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/demo",
        description="Two tenants share one GPU: ResNet-50 (tinygrad) bare, under limits, two at once, and beside a greedy program. "
        "Installs and builds what it needs. Uses the real GPU where there is one, else the simulated T4.",
    )
    parser.add_argument("--sim", metavar="GPU", help="the simulated GPU of this profile, even where there is a real one")
    parser.add_argument("--seconds", type=float, default=4.0, metavar="S", help="length of a scene (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="scenes of 2 seconds")
    parser.add_argument("--batch", type=int, default=8, metavar="N", help="images in a batch (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    parser.add_argument("--only-check", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--only-real-name", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.seconds = 2.0 if args.quick else args.seconds
    if args.seconds < 1 or args.batch < 1:
        parser.error("--seconds and --batch start at 1")
    return args


def run(args: argparse.Namespace, folder: Path) -> None:
    stage = Stage(choose_gpu(args.sim, folder), folder, args.seconds, args.batch)
    try:
        play(stage)
        title = simulated_title(stage.gpu) if stage.gpu.sim_profile else stage.gpu.title
    finally:
        stage.end()
    explained = SIMULATED_EXPLAINED if stage.gpu.sim_profile else REAL_EXPLAINED
    print(json.dumps(report(title, stage), indent=2) if args.json else table(title, stage.rows, explained))


def status_of(run: Callable[[], None]) -> int:
    """The exit status of a run that may fail, be interrupted or ended; why is said."""
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        run()
    except Failure as failure:
        say(str(failure))
        return 1
    except KeyboardInterrupt:
        say("stopped")
        return 130
    return 0


def main() -> int:
    args = arguments()
    if args.only_check:
        return 0
    if args.only_real_name:
        print_real_gpu_name()
        return 0
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="cuda-hook-demo-", dir=memory if os.access(memory, os.W_OK) else None))
    (folder / "hook").mkdir()
    try:
        return status_of(lambda: run(args, folder))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
