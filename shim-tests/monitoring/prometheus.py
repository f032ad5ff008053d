"""Debian's Prometheus and promtool, unpacked into the target folder, and a Prometheus that runs."""

import json
import os
import re
import shutil
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import debian
from debian import Apt

ROOT = Path(__file__).resolve().parents[2]
MONITORING = ROOT / "monitoring"
FOLDER = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).absolute() / "monitoring"
BIN = FOLDER / "root/usr/bin"
SECONDS_MAX = 60  # for whatever is waited for


def fetch() -> None:
    """Unpacks them where they are not there yet: 19 MB."""
    if (FOLDER / "done").exists():
        return
    shutil.rmtree(FOLDER, ignore_errors=True)
    (FOLDER / "apt").mkdir(parents=True)
    apt = Apt(FOLDER / "apt", debian.this_release(), "main")
    debian.unpack(apt.download("prometheus", FOLDER), FOLDER / "root")
    (FOLDER / "done").touch()


def promtool(*arguments: object, **options) -> subprocess.CompletedProcess:
    command = [str(word) for word in (BIN / "promtool", *arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=MONITORING, timeout=SECONDS_MAX, **options)


def until(condition: Callable[[], object], what: str) -> object:
    """What the condition says once it says anything."""
    ends, never = time.monotonic() + SECONDS_MAX, threading.Event()
    while not (found := condition()):
        if time.monotonic() > ends:
            raise AssertionError(f"{SECONDS_MAX} s have passed without {what}")
        never.wait(0.2)
    return found


class Prometheus:
    def __init__(self, address: str):
        self.address = address

    def ask(self, path: str, **parameters: str) -> dict | None:
        """The answer of its API; nothing where it does not answer yet."""
        url = f"http://{self.address}{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=SECONDS_MAX) as answer:
                return json.load(answer)
        except (urllib.error.URLError, ConnectionError):
            return None

    def query(self, expression: str) -> list[tuple[dict, float]]:
        """Labels and value of each series of an expression, now."""
        answer = self.ask("/api/v1/query", query=expression)
        return [(series["metric"], float(series["value"][1])) for series in answer["data"]["result"]] if answer else []

    def targets(self) -> list[dict]:
        answer = self.ask("/api/v1/targets")
        return answer["data"]["activeTargets"] if answer else []


@contextmanager
def running(folder: Path, target: str) -> Iterator[Prometheus]:
    """A Prometheus with the shipped configuration, but for where the agent is and how often it is asked."""
    shutil.copy(MONITORING / "alerts.yml", folder)
    shipped = (MONITORING / "scrape.yml").read_text()
    text = re.sub(r"targets: \[.*?\]", f'targets: ["{target}"]', shipped)
    config = folder / "prometheus.yml"
    config.write_text("global:\n  scrape_interval: 1s\n  scrape_timeout: 1s\n" + text)
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = [BIN / "prometheus", f"--config.file={config}", f"--storage.tsdb.path={folder}/data", f"--web.listen-address={address}"]
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
    try:
        yield Prometheus(address)
    finally:
        process.kill()
        process.wait()
