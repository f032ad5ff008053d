"""scripts/gpu-report on the simulated GPU: every question is answered or its failure recorded, and none takes the others along."""

import importlib.machinery
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

from machine import PROFILE, ROOT

REPORT = ROOT / "scripts/gpu-report"
CRASH = "crash=echo '{\"before\": 1}'; kill -SEGV $$"
HANG = "hang=sleep 1000 & echo '{\"pid\": '$!'}'; echo waits >&2; wait"
HANG_SECONDS = 3  # what it is given
# Of a simulated GPU: its kernels compute nothing, and PyTorch wants NVIDIA's driver.
UNANSWERED = {"clock", "torch", "crash", "hang"}


def report(*words: str, **environment: str) -> tuple[subprocess.CompletedProcess, Path]:
    folder = Path(tempfile.mkdtemp())
    command = [sys.executable, str(REPORT), "--out", str(folder), *words]
    return subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False), folder


def is_running(pid: int) -> bool:
    """What has ended, and nobody has waited for yet, has no command line any more."""
    try:
        return bool(Path(f"/proc/{pid}/cmdline").read_bytes())
    except FileNotFoundError:
        return False


class GpuReport(unittest.TestCase):
    def test_every_question_has_figures_or_a_recorded_failure(self):
        done, folder = report("--sim", PROFILE, "--quick", "--also", CRASH)
        self.assertEqual(done.returncode, 0, done.stderr)
        record = json.loads((folder / "gpu-report.json").read_text())
        page = (folder / "gpu-report.md").read_text()
        self.assertTrue(record["simulated"])
        self.assertIn("Simulated Tesla T4", page)
        probes = {probe["name"]: probe for probe in record["probes"]}
        self.assertEqual({name for name, probe in probes.items() if probe["verdict"] != "answered"}, UNANSWERED - {"hang"}, done.stderr)
        for name, probe in probes.items():
            self.assertIn(f"## {name}\n", page)
            self.assertTrue(probe["figures"] if name not in UNANSWERED else probe["said"] or probe["figures"], probe)
        self.assertEqual((probes["crash"]["verdict"], probes["crash"]["figures"]), ("failed (signal SIGSEGV)", {"before": 1}))
        kept = probes["quota"]["figures"]["kept"]
        self.assertTrue(all(kept.values()), kept)
        self.assertEqual(probes["harm"]["figures"]["differing"], [])
        self.assertIn("past the preload: none", probes["doors"]["figures"]["headline"])

    def test_a_question_that_hangs_is_ended_with_all_that_it_started_and_the_others_are_asked(self):
        also = ("--also", HANG, "--also", "after=echo '{\"seen\": true}'")
        done, folder = report("--sim", PROFILE, "--only", "identity", "--box", str(HANG_SECONDS), *also)
        self.assertEqual(done.returncode, 0, done.stderr)
        identity, hang, after = json.loads((folder / "gpu-report.json").read_text())["probes"]
        self.assertEqual(identity["figures"]["device"], "Tesla T4")
        self.assertEqual(hang["verdict"], f"timed out after {HANG_SECONDS} s")
        self.assertEqual(hang["said"], "waits")
        self.assertFalse(is_running(hang["figures"]["pid"]))
        self.assertEqual(after["figures"], {"seen": True})

    def test_what_the_time_is_up_for_is_recorded_as_not_asked(self):
        done, folder = report("--sim", PROFILE, "--only", "identity", "--minutes", "0.001")
        self.assertEqual(done.returncode, 0, done.stderr)
        (identity,) = json.loads((folder / "gpu-report.json").read_text())["probes"]
        self.assertEqual(identity["verdict"], "not asked: the time was up")

    def test_without_a_gpu_it_says_what_it_looked_for_and_the_way_out(self):
        without = {"LD_LIBRARY_PATH": "/nowhere"}
        done, folder = report("--only", "identity", **without)
        if (folder / "gpu-report.json").exists():
            self.skipTest("a GPU answers here")
        self.assertEqual(done.returncode, 3, done.stderr)
        for part in ("no NVIDIA GPU answers here", "libcuda.so.1", "scripts/gpu-report --sim t4"):
            self.assertIn(part, done.stderr)
        self.assertEqual(list(folder.iterdir()), [])

    def test_parts_of_figures_stand_in_rows_of_their_own(self):
        loader = importlib.machinery.SourceFileLoader("gpu_report", str(REPORT))
        sys.path.insert(0, str(REPORT.parent))
        self.addCleanup(sys.path.remove, str(REPORT.parent))
        module = importlib.util.module_from_spec(importlib.util.spec_from_loader("gpu_report", loader))
        sys.modules["gpu_report"] = module
        loader.exec_module(module)
        self.assertEqual(module.flat("a", {"b": {"c": 1, "d": 2.5}, "e": [{"f": "x|y"}]}), [("a: b", "c 1, d 2.5"), ("a: e 1", "f x\\|y")])
        self.assertEqual(module.flat("a", list(range(21))), [("a", "21 values, in the JSON")])


if __name__ == "__main__":
    unittest.main()
