"""What is shipped for Prometheus and Grafana, checked by Debian's promtool; and what Prometheus reads from an agent, beside the device's
own books.
"""

import json
import os
import re
import subprocess
import tempfile
import unittest
import urllib.request
from pathlib import Path

import prometheus
from debian import Unavailable
from prometheus import MONITORING, ROOT, promtool, until

BUILT = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).absolute() / "debug"
TENANT = ROOT / "shim-tests/programs/tenant.c"
GUIDE = ROOT / "docs/operations.md"
MIB = 1 << 20
METRIC = r"\bcuda_hook_\w+\b"


def setUpModule() -> None:
    try:
        prometheus.fetch()
    except (Unavailable, OSError, subprocess.SubprocessError) as error:
        print(f"NOT CHECKED: Prometheus and what is shipped for it: {error}", flush=True)
        raise unittest.SkipTest(str(error)) from error


def told_metrics() -> set[str]:
    """As the guide has them, which a test of the command holds against what the agent tells."""
    return set(re.findall(rf"^\| `({METRIC})`", GUIDE.read_text(), re.MULTILINE))


def expressions() -> list[str]:
    """Of the dashboard, with a time in the place of Grafana's own variable."""
    dashboard = json.loads((MONITORING / "dashboard.json").read_text())
    return [target["expr"].replace("$__rate_interval", "5m") for panel in dashboard["panels"] for target in panel["targets"]]


class Shipped(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.scratch = Path(scratch.name)

    def checked(self, *arguments: object) -> None:
        done = promtool(*arguments)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def test_the_configuration_and_its_rules_are_valid(self):
        self.checked("check", "config", "scrape.yml")
        self.checked("check", "rules", "--lint-fatal", "alerts.yml")

    def test_each_alert_begins_when_it_should_and_not_before(self):
        self.checked("test", "rules", "alerts_test.yml")

    def test_each_alert_is_tested_and_in_the_guide(self):
        alerts = re.findall(r"- alert: (\w+)", (MONITORING / "alerts.yml").read_text())
        tests = re.findall(r"alertname: (\w+)", (MONITORING / "alerts_test.yml").read_text())
        guide = re.findall(r"^### (CudaHook\w+)$", GUIDE.read_text(), re.MULTILINE)
        self.assertEqual(sorted(set(tests)), sorted(alerts))
        self.assertEqual(guide, alerts)

    def test_each_expression_of_the_dashboard_can_be_evaluated(self):
        rules = [{"record": f"panel:{number}", "expr": one} for number, one in enumerate(expressions())]
        file = self.scratch / "dashboard.yml"
        file.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))  # JSON is YAML
        self.checked("check", "rules", file)
        self.assertGreater(len(rules), 12)

    def test_alerts_and_dashboard_name_what_the_agent_tells(self):
        known = told_metrics()
        for file in ("alerts.yml", "dashboard.json"):
            named = set(re.findall(METRIC, (MONITORING / file).read_text()))
            self.assertEqual(named - known, set(), file)


class Scraped(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        scratch = tempfile.TemporaryDirectory(prefix="cuda-hook-monitoring-", dir="/dev/shm")
        cls.addClassCleanup(scratch.cleanup)
        cls.folder = Path(scratch.name)
        cls.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("CUDA_HOOK_")},
            "CUDA_HOOK_DIR": f"{cls.folder}/state",
            "CUDA_HOOK_CONFIG": f"{cls.folder}/config.toml",
            "GPU_SIM_DIR": f"{cls.folder}/sim",
            "GPU_SIM_PROFILE": "t4",
            "GPU_SIM_LINGER_MS": "0",
        }
        (cls.folder / "config.toml").touch()
        cls.program = cls.folder / "tenant"
        subprocess.run(["gcc", "-std=gnu11", "-O1", "-pthread", "-o", cls.program, TENANT, "-ldl"], check=True)

    def command(self, *arguments: object) -> str:
        command = [str(word) for word in (BUILT / "cuda-hook", *arguments)]
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, check=True).stdout

    def spawn(self, *arguments: object, **pipes) -> subprocess.Popen:
        command = [str(word) for word in (BUILT / "cuda-hook", *arguments)]
        process = subprocess.Popen(command, env=self.environment, text=True, **pipes)

        def end() -> None:
            process.kill()
            process.communicate()

        self.addCleanup(end)
        return process

    def agent(self) -> str:
        """Where it listens."""
        process = self.spawn("agent", "--listen", "127.0.0.1:0", "--socket", self.folder / "socket", stderr=subprocess.PIPE)
        for line in process.stderr:
            if found := re.search(r"metrics on http://([\d.:]+)/", line):
                return found[1]
        raise AssertionError("the agent has ended")

    def tenant(self, container: str, *limits: str) -> subprocess.Popen:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        process = self.spawn("run", "--sim", "t4", "--container", container, *limits, "--", self.program, "dlopen", **pipes)
        self.assertEqual(self.say(process, "context"), "0")
        return process

    def say(self, tenant: subprocess.Popen, line: str) -> str:
        """The driver's status."""
        tenant.stdin.write(f"{line}\n")
        tenant.stdin.flush()
        return tenant.stdout.readline().split()[0]

    def books(self) -> dict[str, dict]:
        """The simulated device's own, by container."""
        report = json.loads(self.command("sim", "status", "--json"))
        return {row["container"]: row for row in report["containers"]}

    def test_prometheus_reads_what_the_device_has_in_its_books(self):
        one, two = self.tenant("one", "--memory", "2GiB", "--sm", "30"), self.tenant("two", "--memory", "4GiB", "--sm", "60")
        self.assertEqual(self.say(one, f"alloc a cuMemAlloc_v2 {700 * MIB}"), "0")
        self.assertEqual(self.say(one, f"alloc b cuMemAlloc_v2 {1400 * MIB}"), "2")
        self.assertEqual(self.say(two, f"alloc a cuMemAlloc_v2 {3000 * MIB}"), "0")
        self.assertEqual((self.say(two, "kernel 10000"), self.say(two, "launch kernel 100")), ("0", "0"))
        books, address = self.books(), self.agent()
        with prometheus.running(self.folder, address) as server:
            self.assertEqual(until(lambda: server.query('up{job="cuda-hook"} == 1'), "a scrape")[0][0]["instance"], address)
            self.compare(server, books)
            self.assertEqual([target["lastError"] for target in server.targets()], [""])
            # Gone with its program, and seen to be.
            one.kill()
            one.wait()
            ended = 'cuda_hook_processes{container="one"} == 0'
            until(lambda: server.query(ended), "the end of a container's program")
            self.assertEqual(self.value(server, "memory_used_bytes", "one"), 0)
            self.assertEqual(self.value(server, "memory_used_bytes", "two"), books["two"]["memory_bytes_current"])

    def compare(self, server: prometheus.Prometheus, books: dict[str, dict]) -> None:
        expected = {"one": (2 << 30, 0.3, 1), "two": (4 << 30, 0.6, 0)}
        for container, (quota, share, refusals) in expected.items():
            row = books[container]
            with self.subTest(container):
                self.assertEqual(self.value(server, "memory_used_bytes", container), row["memory_bytes_current"])
                self.assertEqual(self.value(server, "memory_peak_bytes", container), row["memory_bytes_peak"])
                self.assertEqual(self.value(server, "memory_quota_bytes", container), quota)
                self.assertEqual(self.value(server, "share_guaranteed_ratio", container), share)
                self.assertEqual(self.value(server, "refusals_total", container), refusals)
                self.assertEqual(self.value(server, "launches_total", container), row["kernels_total"])
                seconds = self.value(server, "gpu_time_seconds_total", container)
                truth = row["gpu_busy_ns_total"] / 1e9
                self.assertAlmostEqual(seconds, truth, delta=0.1 * truth)
        self.assertGreater(books["two"]["kernels_total"], 0)

    def value(self, server: prometheus.Prometheus, metric: str, container: str) -> float:
        ((labels, value),) = server.query(f'cuda_hook_{metric}{{container="{container}"}}')
        self.assertRegex(labels["gpu"], r"^GPU-[0-9a-f-]{36}$")
        return value

    def test_promtool_finds_nothing_in_a_scrape(self):
        tenant = self.tenant("one", "--memory", "2GiB", "--sm", "30")
        self.assertEqual(self.say(tenant, f"alloc a cuMemAlloc_v2 {700 * MIB}"), "0")
        with urllib.request.urlopen(f"http://{self.agent()}/metrics") as answer:
            scrape = answer.read().decode()
        done = promtool("check", "metrics", input=scrape)
        self.assertEqual((done.returncode, done.stdout + done.stderr), (0, ""), scrape)
        described = set(re.findall(rf"^# TYPE ({METRIC}) ", scrape, re.MULTILINE))
        self.assertEqual(described, told_metrics())


if __name__ == "__main__":
    unittest.main()
