"""Programs that nobody here wrote for the preload, in three worlds: bare, behind it without limits, and under limits."""

import subprocess
import sys
import unittest
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from machine import ARTEFACTS, BARE, COMPILED, COMPILED_BATCH, CUDA_13, TRANSPARENT, Machine, Outcome, Talk, World

MIB = 1 << 20
GIB = 1 << 30
RESNET = ("resnet50.py", "--batch", COMPILED_BATCH, "--quiet", "--compiled", str(COMPILED))
A_FEW = ("--batches", "3")
SHARE_WINDOW_SECONDS = 4


class Clients(unittest.TestCase):
    """Each test has a machine of its own."""

    maxDiff = 4000
    python = sys.executable

    @classmethod
    def setUpClass(cls):
        """Compiles the network, if no run before has."""
        if not COMPILED.exists():
            machine = Machine()
            cls.addClassCleanup(machine.close)
            machine.run(BARE, *RESNET, *A_FEW)

    def setUp(self):
        self.machine = Machine(self.python)
        self.addCleanup(self.machine.close)

    def run_well(self, world: World, program: str, *arguments: str) -> Outcome:
        outcome = self.machine.run(world, program, *arguments)
        self.assertEqual(outcome.status, 0, f"{program} {arguments} in {world}:\n{outcome.stderr[-3000:]}")
        return outcome

    def account(self, program: Talk) -> dict:
        """What the device has counted of one of its programs."""
        return next(account for account in self.machine.books()["processes"] if account["pid"] == program.pid)

    def assert_moves_real_bytes(self) -> None:
        record = self.run_well(BARE, "bindings.py").record
        self.assertEqual(record["name"], "Tesla T4")
        self.assertTrue(record["copied_there_and_back"])
        self.assertTrue(record["filled"])
        self.assertEqual(record["captured"], {"nothing_ran_during_capture": True, "ran_at_launch": True, "nodes": 2})
        self.assertGreater(record["copy_64_mib_ms"], 0)
        self.assertEqual(record["nonsense_free"], "CUDA_ERROR_INVALID_VALUE")

    def assert_unchanged(self, program: str, *arguments: str) -> tuple[Outcome, Outcome]:
        bare, behind = (self.run_well(world, program, *arguments) for world in (BARE, TRANSPARENT))
        self.assertGreater(len(bare.trace), 10)
        self.assertEqual(bare.trace, behind.trace)
        self.assertEqual(bare.stderr, behind.stderr)
        return bare, behind

    def assert_bindings_unchanged(self) -> None:
        bare, behind = self.assert_unchanged("bindings.py")
        for record in (bare.record, behind.record):
            record.pop("copy_64_mib_ms")  # timed on the device, with the model's noise
        self.assertEqual(bare.record, behind.record)


class Bare(Clients):
    """The simulated driver serves them."""

    def test_copies_fills_and_graphs_move_real_bytes(self):
        self.assert_moves_real_bytes()

    def test_a_kernel_of_cuda_core_takes_time_and_computes_nothing(self):
        few_ns, many_ns = (self.saxpy_busy_ns(launches) for launches in (20, 2000))
        self.assertTrue(50 * few_ns < many_ns < 200 * few_ns, f"{few_ns} ns for 20 launches, {many_ns} ns for 2000")

    def saxpy_busy_ns(self, launches: int) -> int:
        """How long so many launches kept the device busy."""
        with self.machine.talking(BARE, "saxpy.py", "--launches", str(launches), "--stay") as saxpy:
            record = saxpy.record()
            counted = self.account(saxpy)
        self.assertFalse(record["computed"])
        self.assertGreater(record["device_ms"], 0)
        self.assertEqual(counted["kernels_total"], launches)
        return counted["gpu_busy_ns_total"]

    def test_a_greedy_program_gets_most_of_the_board_and_then_out_of_memory(self):
        record = self.run_well(BARE, "greedy.py").record
        self.assertEqual(record["refusal"], "CUDA_ERROR_OUT_OF_MEMORY")
        self.assertTrue(13 * GIB < record["granted_bytes"] < 15 * GIB, record)
        self.assertLessEqual(record["granted_bytes"], record["before"]["free_bytes"])
        self.assertEqual(record["before"]["free_bytes"] - record["full"]["free_bytes"], record["granted_bytes"])

    def test_resnet50_runs_as_cuda_graphs(self):
        outcome = self.run_well(BARE, *RESNET, *A_FEW)
        called = {call.split()[0] for call in outcome.trace}
        self.assertLessEqual({"cuGraphLaunch", "cuGraphExecKernelNodeSetParams", "cuModuleLoadData"}, called)
        self.assertEqual(outcome.record["images"], 48)

    def test_nvml_and_nvitop_see_the_whole_board(self):
        (gpu,) = self.run_well(BARE, "nvml.py").record["gpus"]
        for memory in (gpu["memory_v1"], gpu["memory_v2"]):
            self.assertEqual(memory["total_bytes"], 15360 * MIB, "what NVML says of a T4")
        self.assertEqual(gpu["memory_v2"]["used_bytes"], 0, "nobody has a context")
        nvitop = self.run_well(BARE, "nvitop_once.py").record
        self.assertTrue(nvitop["screen_names_each"])
        self.assertEqual(nvitop["gpus"][0]["total_bytes"], gpu["memory_v1"]["total_bytes"])


class Transparent(Clients):
    """Without limits, the preload changes no call, no answer and no word."""

    def test_cuda_bindings_makes_the_same_calls(self):
        self.assert_bindings_unchanged()

    def test_cuda_core_makes_the_same_calls(self):
        self.assert_unchanged("saxpy.py")

    def test_a_greedy_program_makes_the_same_calls_and_gets_the_same(self):
        bare, behind = self.assert_unchanged("greedy.py")
        self.assertEqual(bare.records, behind.records)

    def test_resnet50_makes_the_same_calls(self):
        self.assert_unchanged(*RESNET, *A_FEW)

    def test_nvml_gets_the_same_answers(self):
        bare, behind = (self.run_well(world, "nvml.py") for world in (BARE, TRANSPARENT))
        self.assertEqual(bare.records, behind.records)


class Limited(Clients):
    """Limits hold, and are what the program is shown."""

    def test_the_quota_is_the_memory_that_there_is(self):
        self.assertEqual(self.run_well({"memory": "2GiB"}, "bindings.py").record["total_bytes"], 2 * GIB)

    def test_a_greedy_program_is_refused_at_its_quota_and_gets_back_what_it_frees(self):
        got, later = self.run_well({"memory": "1GiB"}, "greedy.py", "--chunk-mib", "64", "--seconds", "0.2").records
        self.assertEqual(got["refusal"], "CUDA_ERROR_OUT_OF_MEMORY")
        self.assertEqual(got["before"]["total_bytes"], GIB)
        self.assertLessEqual(got["granted_bytes"], GIB)
        self.assertGreater(got["granted_bytes"], GIB // 2)
        self.assertLess(got["full"]["free_bytes"], 64 * MIB)
        self.assertEqual(set(later["later_answers"]), {"CUDA_ERROR_OUT_OF_MEMORY"})
        self.assertEqual(later["freed"], got["before"])

    def test_tinygrad_hears_of_a_quota_that_is_too_small(self):
        outcome = self.machine.run({"memory": "64MiB"}, *RESNET, *A_FEW)
        self.assertNotEqual(outcome.status, 0)
        self.assertIn("CUDA Error 2, out of memory", outcome.stderr)

    def test_nvml_and_nvitop_show_the_quota(self):
        (gpu,) = self.run_well({"memory": "1GiB"}, "nvml.py").record["gpus"]
        self.assertEqual([gpu["memory_v1"]["total_bytes"], gpu["memory_v2"]["total_bytes"]], [GIB, GIB])
        (gpu,) = self.run_well({"memory": "1GiB"}, "nvitop_once.py").record["gpus"]
        self.assertEqual(gpu["total_bytes"], GIB)

    def test_every_look_up_of_nvidia_ml_py_leads_to_nvml_or_to_our_function_for_that_very_name(self):
        bare, behind = (self.run_well(world, "nvml_lookups.py").record["places"] for world in (BARE, {"memory": "1GiB"}))
        self.assertGreaterEqual(len(bare), 408, "what version 13.615.71 asks for")
        self.assertGreater(sum(place is not None for place in bare.values()), 300)
        library, hook = "libnvidia-ml.so.1", "libcuda_hook.so"
        exported = subprocess.run(["nm", "-D", "--defined-only", ARTEFACTS / hook], check=True, capture_output=True, text=True).stdout
        hooked = {line.split()[-1] for line in exported.splitlines()}
        for name, place in bare.items():
            expected = [hook, name] if place == [library, name] and name in hooked else place
            self.assertEqual(behind[name], expected, name)
        self.assertIn([hook, "nvmlDeviceGetMemoryInfo"], behind.values())

    def test_nvml_and_nvitop_list_the_containers_own_processes_and_nobody_elses(self):
        mine, other = ({"memory": "1GiB", "container": name} for name in ("mine", "other"))
        holds = ("greedy.py", "--gib-max", "0.25", "--stay")
        with self.machine.talking(other, *holds) as neighbour, self.machine.talking(mine, *holds) as holder:
            neighbour.record(), holder.record()
            held_bytes = self.account(holder)["memory_bytes_current"]
            (gpu,) = self.run_well(mine, "nvml.py").record["gpus"]
            self.assertEqual(gpu["processes"], [{"pid": holder.pid, "used_bytes": held_bytes}])
            self.assertEqual(gpu["memory_v2"]["used_bytes"], held_bytes)
            (gpu,) = self.run_well(mine, "nvitop_once.py").record["gpus"]
            self.assertEqual(gpu["pids"], [holder.pid])
            (gpu,) = self.run_well(BARE, "nvitop_once.py").record["gpus"]
            self.assertEqual(gpu["pids"], sorted([holder.pid, neighbour.pid]))

    def test_resnet50_gets_its_share_of_sm_time_and_no_more(self):
        """A slow host leaves a part of any share unused: how much it can use is measured before and after, without a limit."""
        self.machine.slow_down()
        with self.resnet50(BARE) as unlimited:
            before = self.window_percent(unlimited)
            for percent in (20, 40):
                with self.resnet50({"sm": str(percent)}) as limited:
                    got = self.window_percent(limited)
                after = self.window_percent(unlimited)
                usable = (before + after) / 2
                said = f"{got:.1f} % of SM time under a limit of {percent} %, {before:.1f} % and {after:.1f} % without one"
                self.assertLess(got, 1.1 * percent, said)
                self.assertGreater(got, 0.8 * min(percent, usable / 2), said)
                self.assertGreater(usable, 1.2 * got, said)
                before = after

    @contextmanager
    def resnet50(self, world: World) -> Iterator[Talk]:
        """The service, warm."""
        with self.machine.talking(world, *RESNET, "--gate", "--seconds", str(SHARE_WINDOW_SECONDS)) as service:
            self.assertTrue(service.record()["ready"])
            yield service

    def window_percent(self, service: Talk) -> float:
        """The device's own figure for a window in which nobody else asks for it."""
        before_ns = self.account(service)["gpu_busy_ns_total"]
        seconds = service.ask()["seconds"]
        return 100 * (self.account(service)["gpu_busy_ns_total"] - before_ns) / (seconds * 1e9)

    def test_a_limit_that_means_nothing_fails_at_cu_init_with_one_line(self):
        preload = {"LD_PRELOAD": str(ARTEFACTS / "libcuda_hook.so"), "CUDA_HOOK_MEMORY": "abc"}
        outcome = self.machine.run(BARE, "bindings.py", environment=preload)
        self.assertNotEqual(outcome.status, 0)
        self.assertIn("DriverError: CUDA_ERROR_INVALID_VALUE", outcome.stderr)
        self.assertEqual(len([line for line in outcome.stderr.splitlines() if "CUDA_HOOK_MEMORY" in line and "abc" in line]), 1)


class Cuda13(Clients):
    """The clients for CUDA 13, in all three worlds. They are other builds, and ask the driver for other versions."""

    python = CUDA_13

    def test_copies_fills_and_graphs_move_real_bytes(self):
        self.assert_moves_real_bytes()

    def test_cuda_bindings_makes_the_same_calls(self):
        self.assert_bindings_unchanged()

    def test_cuda_core_makes_the_same_calls(self):
        bare, _ = self.assert_unchanged("saxpy.py")
        self.assertGreater(bare.record["device_ms"], 0)

    def test_numba_compiles_links_and_launches(self):
        outcome = self.run_well(BARE, "numba_saxpy.py", "--launches", "7")
        self.assertEqual([outcome.record["copied"], outcome.record["computed"]], [True, False])
        self.assertGreater(outcome.record["device_ms"], 0)
        called = Counter(call.split()[0] for call in outcome.trace)
        self.assertEqual(called["cuLaunchKernelEx"], 7)
        self.assertGreater(called["cuLinkComplete"], 0)

    def test_numba_makes_the_same_calls(self):
        self.assert_unchanged("numba_saxpy.py")

    def test_the_quota_is_the_memory_that_there_is(self):
        for program in ("bindings.py", "numba_saxpy.py"):
            with self.subTest(program=program):
                self.assertEqual(self.run_well({"memory": "2GiB"}, program).record["total_bytes"], 2 * GIB)

    def test_numba_is_refused_at_its_quota(self):
        outcome = self.machine.run({"memory": "256MiB"}, "numba_saxpy.py", "--count", str(64 << 20))
        self.assertNotEqual(outcome.status, 0)
        self.assertIn("CUDA_ERROR_OUT_OF_MEMORY", outcome.stderr)

    def test_gpustat_shows_the_whole_board_or_the_quota(self):
        for world, total_mib in ((BARE, 15360), (TRANSPARENT, 15360), ({"memory": "1GiB"}, 1024)):
            with self.subTest(world=world):
                record = self.run_well(world, "gpustat_once.py").record
                self.assertTrue(record["totals_shown"])
                self.assertEqual(record["gpus"], [{"name": "Tesla T4", "used_mib": 0, "total_mib": total_mib}])

    def assert_exporter_shows(self, world: World, total_mib: int) -> None:
        """The total, and what one program holds as the device counts it."""
        with self.machine.talking(world, "greedy.py", "--gib-max", "0.5", "--stay") as holder:
            self.assertEqual(holder.record()["granted_bytes"], GIB // 2)
            record = self.run_well(world, "exporter_once.py", "--pid", str(holder.pid)).record
            devices = self.machine.books()["devices"]
            held_mib = self.account(holder)["memory_bytes_current"] / MIB
        self.assertGreater(held_mib, 512)
        self.assertEqual(record["device_count"], len(devices))
        (gpu,) = record["gpus"]
        self.assertEqual([gpu["name"], gpu["uuid"]], [devices[0]["name"], devices[0]["uuid"]])
        self.assertEqual(devices[0]["memory_bytes_used"] / MIB, held_mib, "nobody else holds memory")
        self.assertEqual([gpu["total_mib"], gpu["used_mib"]], [total_mib, held_mib])
        self.assertEqual(gpu["processes_mib"], {str(holder.pid): held_mib})

    def test_a_prometheus_exporter_shows_the_whole_board_and_what_a_program_holds(self):
        self.assert_exporter_shows(BARE, 15360)

    def test_without_limits_a_prometheus_exporter_shows_the_same(self):
        self.assert_exporter_shows(TRANSPARENT, 15360)

    def test_a_prometheus_exporter_shows_the_quota_and_what_a_program_holds(self):
        self.assert_exporter_shows({"memory": "1GiB", "container": "scraped"}, 1024)


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0], "--verbose", *sys.argv[1:]])
