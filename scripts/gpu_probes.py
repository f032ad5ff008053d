"""The questions of scripts/gpu-report, each in a process of its own: `gpu_probes.py NAME SETTINGS` prints lines of JSON, each with figures.
What was printed before a failure counts. Only the standard library, and what a bundle or scripts/build has.
"""

import contextlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
GIB = 1 << 30


@dataclass(frozen=True)
class Settings:
    """What every probe is told."""

    release: str  # the folder that scripts/build fills
    simulated: bool
    quick: bool

    def seconds(self, usual: float) -> float:
        """The length of a window."""
        return usual / 8 if self.quick else usual

    @property
    def hook(self) -> str:
        return f"{self.release}/libcuda_hook.so"


class Probes:
    """One method a question; its first line of documentation is the question as the report tells it."""

    def __init__(self, settings: Settings, folder: Path):
        self.settings, self.folder = settings, folder

    # Worlds

    def limits(self, container: str = "report", **limits: object) -> dict[str, str]:
        """The preload's environment: memory="2GiB", sm=30, sm_max=100."""
        variables = {f"CUDA_HOOK_{name.upper()}": str(value) for name, value in limits.items()}
        return {"LD_PRELOAD": self.settings.hook, "CUDA_HOOK_DIR": str(self.folder), "CUDA_HOOK_CONTAINER": container, **variables}

    def run(self, command: list[object], world: dict[str, str] | None = None) -> str:
        """What a program says on standard output."""
        done = subprocess.run([str(word) for word in command], env={**os.environ, **(world or {})}, stdout=subprocess.PIPE, text=True)
        if done.returncode:
            raise RuntimeError(f"{' '.join(map(str, command))} ended with status {done.returncode}")
        return done.stdout

    def ask(self, *words: object, world: dict[str, str] | None = None) -> dict:
        """One answer of gpu-probe."""
        return json.loads(self.run([f"{self.settings.release}/gpu-probe", *words], world))

    @contextlib.contextmanager
    def beside(self, *words: object, world: dict[str, str] | None = None) -> Iterator[subprocess.Popen]:
        """A program that runs meanwhile, and is ended."""
        command = [str(word) for word in (f"{self.settings.release}/{words[0]}", *words[1:])]
        process = subprocess.Popen(command, env={**os.environ, **(world or {})}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        try:
            yield process
        finally:
            process.kill()
            process.wait()
            with contextlib.suppress(BrokenPipeError):  # what was meant for it
                process.stdin.close()
            process.stdout.close()

    @contextlib.contextmanager
    def neighbour(self, what: str, *options: object) -> Iterator[None]:
        """gpu-probe's kernels or copies, that have begun and go on until the end."""
        with self.beside("gpu-probe", what, "--gate", "--seconds", 600, *options) as process:
            ready(process)
            process.stdin.close()
            yield

    def together(self, *tenants: tuple[list[object], dict[str, str]]) -> list[dict]:
        """The answers of gpu-probe's kernels that begin together; each of the tenants is its options and its world."""
        with contextlib.ExitStack() as stack:
            started = []
            for options, world in tenants:
                started.append(stack.enter_context(self.beside("gpu-probe", "kernels", "--gate", *options, world=world)))
                ready(started[-1])  # it has measured what its kernels take: nobody else is to be in the way of that
            for process in started:
                process.stdin.close()
            return [json.loads(answer(process)) for process in started]

    # Questions

    def identity(self) -> None:
        """What the GPU is, and the machine"""
        device = self.ask("identity")
        tell(headline=f"{device['device']}, driver {device['driver_version']}", **device)
        libc = " ".join(platform.libc_ver())
        tell(machine={"kernel": platform.release(), "libc": libc, "processors": os.cpu_count(), "python": platform.python_version()})
        if shutil.which("nvidia-smi") and not self.settings.simulated:
            fields = (
                "name,driver_version,mig.mode.current,compute_mode,persistence_mode,accounting.mode,clocks.sm,temperature.gpu,power.draw"
            )
            tell(nvidia_smi=self.run(["nvidia-smi", f"--query-gpu={fields}", "--format=csv"]).splitlines())

    def launches(self) -> None:
        """What launches, events and written words take; how finely events tell the time"""
        costs = self.ask("launches")
        told = (
            (name, costs[name].get("p50")) for name in ("launch_ns", "timing_event_record_ns", "plain_event_record_ns", "write_word_ns")
        )
        tell(headline=", ".join(f"{name.removesuffix('_ns')} {ns:.0f} ns" for name, ns in told if ns is not None), **costs)

    def queue(self) -> None:
        """How many launches are taken before one waits"""
        depth = self.ask("queue")
        tell(headline=f"{depth['queue_depth']:.0f} launches" if depth["waited"] else "none waited", **depth)

    def slices(self) -> None:
        """How long the slices of two and three processes are, what a switch costs, how event times are inflated"""
        options = ["--seconds", self.settings.seconds(2)]
        cases: dict[str, list[list[object]]] = {
            "alone": [[]],
            "two": [[], []],
            "three": [[], [], []],
            "one and four streams": [[], ["--streams", 4]],
            "100 µs and 5 ms": [[], ["--kernel-us", 5000]],
        }
        for name, tenants in cases.items():
            answers = self.together(*(([*options, *tenant], {}) for tenant in tenants))
            if name == "two":
                one = answers[0]
                slices = (
                    f"the other's slice with its switches {one['inserted_us']['p50']:.0f} µs, own run {one['own_run_us']['p50']:.0f} µs"
                )
                headline = f"{slices}; event times up to {one['event_time_us']['most'] / one['kernel_us_alone']:.0f} × alone"
                tell(headline=headline)
            tell(**{name: answers})
        with self.neighbour("copies"):
            tell(**{"beside copies": self.ask("kernels", *options)})

    def clock(self) -> None:
        """Slices by the device's own clock, in a kernel that watches it"""
        seconds = self.settings.seconds(2)
        tell(alone=self.ask("clock", "--seconds", seconds))
        with self.neighbour("kernels"):
            beside = self.ask("clock", "--seconds", seconds)
        tell(headline=f"own slice {beside['own_slice_us']['p50']:.0f} µs, held up for {beside['held_up_us']['p50']:.0f} µs", beside=beside)

    def ring(self) -> None:
        """NVML's utilization of processes: period, lag, σ, cost of a question"""
        seconds = self.settings.seconds(12)
        with self.neighbour("kernels"):
            alone = self.ask("ring", "--seconds", seconds)
            tell(alone=alone)
            with self.neighbour("kernels"):
                two = self.ask("ring", "--seconds", seconds)
        sigma = ", ".join(f"{each['sm_percent_mean']:.0f} ± {each['sm_percent_deviation']:.0f} %" for each in two["processes"])
        period = f"a sample every {alone['period_ms']['p50']:.0f} ms, {alone['lag_ms']['p50']:.0f} ms late"
        tell(headline=f"{period}, a question {alone['query_us']['p50']:.0f} µs; of two equal ones: {sigma or 'none seen'}", two=two)

    def quota(self) -> None:
        """Whether a memory quota is told and kept"""
        bare = self.ask("quota", "--most-mib", 3072)
        tell(bare=bare)
        limited = self.ask("quota", world=self.limits(memory="2GiB"))
        fine = self.ask("quota", "--chunk-mib", 1, world=self.limits("fine", memory="2GiB"))
        kept = {
            "total is told as the quota": limited["total_bytes"] == limited["device_memory_bytes"] == 2 * GIB,
            "no more is granted": max(limited["granted_bytes"], fine["granted_bytes"]) <= 2 * GIB,
            "what is past it is out of memory": "CUDA_ERROR_OUT_OF_MEMORY" in (limited["refusal"] or ""),
            "what is freed is granted again": limited["granted_again_after_free"],
            "less than 2 MiB is left when 1 MiB is refused": fine["free_bytes_full"] < 2 << 20,
        }
        broken = [what for what, is_so in kept.items() if not is_so]
        tell(headline=f"not so: {'; '.join(broken)}" if broken else "kept", kept=kept, limited=limited, fine=fine)

    def overhead(self) -> None:
        """What contexts, streams and modules take of the board's memory"""
        steps = self.ask("overhead")
        first = steps["steps"][0]["bytes"]
        tell(headline=f"a context {first / (1 << 20):.0f} MiB", **steps)

    def harm(self) -> None:
        """Whether statuses are the same bare, behind the preload and under limits; what starting /bin/true takes"""
        worlds = {"preload": {"LD_PRELOAD": self.settings.hook}, "limits": self.limits(memory="4GiB")}
        bare = self.ask("statuses")
        tell(bare=bare)
        differing = []
        for name, world in worlds.items():
            there = self.ask("statuses", world=world)
            pairs = zip(bare["calls"], there["calls"], strict=True)
            differing += [f"{name}: {one['call']}: {one['status']} became {two['status']}" for one, two in pairs if one != two]
        tell(headline=f"{len(differing)} statuses differ", differing=differing)
        rounds = 50 if self.settings.quick else 1000
        command = [f"{self.settings.release}/start-cost", "--preload", self.settings.hook, "--rounds", rounds, "--json"]
        tell(true=json.loads(self.run(command))["rows"])

    def doors(self) -> None:
        """Whether cuGetProcAddress and the loader lead to the preload"""
        tell(bare=self.ask("doors"))
        there = self.ask("doors", world=self.limits(memory="4GiB"))
        hook = Path(self.settings.hook).name
        past = [
            name["name"]
            for name in there["names"]
            if hook not in (name["by_driver"], name["by_loader"]) and name["name"] != "cuCtxGetDevice"
        ]
        apart = [name["name"] for name in there["names"] if not name["same"]]
        tell(headline=f"past the preload: {', '.join(past) or 'none'}; two places: {', '.join(apart) or 'none'}", preload=there)

    def calls(self) -> None:
        """What hooked calls cost beside the driver's own"""
        worlds = {
            "no limits": {},
            "memory": {"CUDA_HOOK_MEMORY": "4GiB"},
            "memory and a share": {"CUDA_HOOK_MEMORY": "4GiB", "CUDA_HOOK_SM": "50", "CUDA_HOOK_SM_MAX": "100"},
        }
        few = (
            ["--batches", 5, "--calls", 20, "--singles", 200]
            if self.settings.quick
            else ["--batches", 31, "--calls", 100, "--singles", 2000]
        )
        for threads in (1,) if self.settings.quick else (1, 2):
            for name, limits in worlds.items():
                world = {"CUDA_HOOK_DIR": str(self.folder), "CUDA_HOOK_CONTAINER": "calls", **limits}
                command = [f"{self.settings.release}/call-cost", "--hook", self.settings.hook, *few, "--threads", threads, "--json"]
                report = json.loads(self.run(command, world))
                launch = next(row for row in report["rows"] if row["call"] == "cuLaunchKernel")
                added = launch["hooked_ns"]["p50"] - launch["driver_ns"]["p50"]
                tell(**{f"{name}, {threads}": report}, headline=f"{name}, {threads} thread(s): cuLaunchKernel {added:+.0f} ns")

    def starts(self) -> None:
        """What cuInit takes of one process and of eight at once"""
        rounds = 2 if self.settings.quick else 5
        command = [f"{self.settings.release}/start-many", "--hook", self.settings.hook, "--processes", 1, "--processes", 8]
        rows = json.loads(self.run([*command, "--rounds", rounds, "--json"]))["rows"]
        told = (f"{row['processes']} {'under a limit' if row['hooked'] else 'bare'} {row['init_ms']['p50']:.1f} ms" for row in rows)
        tell(headline=", ".join(told), rows=rows)

    def shares(self) -> None:
        """Whether caps and guarantees hold: GPU time by throughput and calibration"""
        kernels = 'summary = "kernels of 1.25 ms"\nunit = "kernels"\n[[step]]\nkernel = { duration_us = 1250.0, repeat = 8 }\n'
        file = self.folder / "kernels.toml"
        file.write_text(kernels)
        scenarios: dict[str, list[tuple[object, dict]]] = {
            "1.25 ms beside 1.25 ms, bare": [(file, {}), (file, {})],
            "1.25 ms, cap of 50 %": [(file, {"sm": 50})],
            "1.25 ms, caps of 30 and 60 %": [(file, {"sm": 30}), (file, {"sm": 60})],
            "1.25 ms, guarantees of 30 and 70 %": [(file, {"sm": 30, "sm_max": 100}), (file, {"sm": 70, "sm_max": 100})],
            "graphs of 2 ms, caps of 30 and 60 %": [("graph-2ms", {"sm": 30}), ("graph-2ms", {"sm": 60})],
            "ResNet-50, caps of 30 and 60 %": [("resnet50", {"sm": 30}), ("resnet50", {"sm": 60})],
        }
        for name, tenants in scenarios.items():
            percents = self.window(
                [
                    (each[0], self.limits(f"tenant-{len(name)}-{number}", **each[1]) if each[1] else {})
                    for number, each in enumerate(tenants)
                ]
            )
            told = " and ".join(f"{percent:.1f} %" for percent in percents)
            tell(headline=f"{name}: {told}", **{name: percents})

    def window(self, tenants: list[tuple[object, dict[str, str]]]) -> list[float]:
        """What workloads that play together have of the GPU's time, in percent, after a window to settle."""
        seconds = self.settings.seconds(4)
        with contextlib.ExitStack() as stack:
            started = [
                stack.enter_context(self.beside("workload", name, "--seconds", seconds, "--gate", world=world)) for name, world in tenants
            ]
            for process in started:
                ready(process)
            for _ in range(2):
                for process in started:
                    process.stdin.write("\n")
                    process.stdin.flush()
                answers = [json.loads(process.stdout.readline()) for process in started]
        return [answer["iterations"] * answer["gpu_ms_calibrated_per_iteration"] / answer["seconds"] / 10 for answer in answers]

    def resnet50(self) -> None:
        """What the workload ResNet-50 loses behind the preload"""
        self.lost("workload", ["1", "4", "16"])

    def torch(self) -> None:
        """What ResNet-50 in PyTorch loses behind the preload"""
        if self.settings.simulated:
            raise RuntimeError("PyTorch takes no other driver than NVIDIA's")
        self.run([sys.executable, "-c", "import torch, torchvision; assert torch.cuda.is_available()"])
        self.lost("torch", ["1", "16"])

    def lost(self, framework: str, batches: list[str]) -> None:
        batches = ["16"] if self.settings.quick else batches
        rounds = "1" if self.settings.quick else "3"
        sim = ["--sim", os.environ["GPU_SIM_PROFILE"]] if self.settings.simulated else []
        for batch in batches:
            command = [sys.executable, ROOT / "scripts/resnet50.py", *sim, "--framework", framework, "--batch", batch]
            report = json.loads(self.run([*command, "--rounds", rounds, "--seconds", "1", "--json"]))
            lost = (f"{row['world']} {row['lost_percent']:.1f} %" for row in report["results"][1:])
            tell(headline=f"batch {batch}, lost: {', '.join(lost)}", **{f"batch {batch}": report["results"]})

    def command(self) -> None:
        """Whether the command finds what it needs: cuda-hook run, doctor, status"""
        command = f"{self.settings.release}/cuda-hook"
        world = {"CUDA_HOOK_DIR": str(self.folder)}
        ran = self.run([command, "run", "--memory", "1GiB", "--", f"{self.settings.release}/gpu-probe", "quota"], world)
        granted = json.loads(ran)["granted_bytes"]
        tell(headline=f"{granted >> 20} MiB granted of 1 GiB", run=json.loads(ran))
        for words in (["doctor"], ["status"]):
            done = subprocess.run([command, *words], env={**os.environ, **world}, capture_output=True, text=True)
            tell(**{words[0]: {"status": done.returncode, "said": (done.stdout + done.stderr).splitlines()}})


def ready(process: subprocess.Popen) -> None:
    line = process.stdout.readline()
    if not line or not json.loads(line).get("ready"):
        raise RuntimeError(f"{process.args[0]} ended before it was ready, or said {line!r}")


def answer(process: subprocess.Popen) -> str:
    line = process.stdout.readline()
    if not line:
        raise RuntimeError(f"{process.args[0]} ended without an answer")
    return line


def tell(**figures: object) -> None:
    """Figures, at once: who waits for them has them also if nothing more comes."""
    print(json.dumps(figures), flush=True)


def questions() -> dict[str, Callable[[Probes], None]]:
    """All of them, in the order in which they are asked: the quick and the important ones first."""
    first = ("identity", "launches", "queue", "slices", "clock", "quota", "doors", "harm", "overhead", "shares", "calls", "ring")
    return {name: getattr(Probes, name) for name in (*first, "starts", "command", "resnet50", "torch")}


def main() -> None:
    name, settings = sys.argv[1], Settings(**json.loads(sys.argv[2]))
    with tempfile.TemporaryDirectory() as folder:
        questions()[name](Probes(settings, Path(folder)))


if __name__ == "__main__":
    main()
