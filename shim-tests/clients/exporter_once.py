#!/usr/bin/env python3
"""nvitop-exporter, scraped once: what Prometheus would read of the GPUs and of one process on them.

Starts the exporter on a port of the kernel's choice, scrapes it until it has looked at the process, and interrupts it. Prints what the
exporter says on stderr and one JSON line on stdout.
"""

import argparse
import json
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

EXPORTER = (sys.executable, "-m", "nvitop_exporter", "--bind-address", "127.0.0.1", "--port", "0")
SERVES = "Start the exporter"
SCRAPES_SECONDS_MAX = 60
SCRAPE_SECONDS_MAX = 10
# What the exporter sets last when it has looked at a device and at its processes.
SET_LAST = "process_gpu_decoder_utilization_Percentage"


@contextmanager
def exporter() -> Iterator[int]:
    """The port that a running exporter listens on."""
    # What a shell starts in the background ignores interrupts, and so would what it starts in turn.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with subprocess.Popen(EXPORTER, stderr=subprocess.PIPE, text=True) as process:
        try:
            for line in process.stderr:
                print(line, end="", file=sys.stderr)
                if SERVES in line:
                    break
            yield listening_port(process.pid)
            process.send_signal(signal.SIGINT)
            _, said = process.communicate()
            print(said, end="", file=sys.stderr)
            if process.returncode:
                sys.exit(f"the exporter ended with {process.returncode}")
        finally:
            process.kill()


def listening_port(pid: int) -> int:
    sockets = psutil.Process(pid).net_connections("tcp")
    return next(socket.laddr.port for socket in sockets if socket.status == psutil.CONN_LISTEN)


def scrape(port: int) -> dict[str, Metric]:
    """The metrics of now, by their names."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=SCRAPE_SECONDS_MAX) as answer:
        return {metric.name: metric for metric in text_string_to_metric_families(answer.read().decode())}


def scrape_with_process(port: int, pid: int) -> dict[str, Metric]:
    """The metrics, as soon as those of the process are complete: the exporter serves before it has looked at anything."""
    until = time.monotonic() + SCRAPES_SECONDS_MAX
    while time.monotonic() < until:
        metrics = scrape(port)
        if any(sample.labels["pid"] == str(pid) for sample in metrics[SET_LAST].samples):
            return metrics
    sys.exit(f"the exporter does not show process {pid}")


def gpus(metrics: dict[str, Metric]) -> list[dict]:
    """Each GPU's memory and its processes', in MiB."""
    by_index: dict[str, dict] = {}
    for quantity in ("total", "used", "free"):
        for sample in metrics[f"gpu_memory_{quantity}_MiB"].samples:
            gpu = by_index.setdefault(sample.labels["index"], {"name": sample.labels["devicename"], "uuid": sample.labels["uuid"]})
            gpu[f"{quantity}_mib"] = sample.value
    for sample in metrics["process_gpu_memory_MiB"].samples:
        by_index[sample.labels["index"]].setdefault("processes_mib", {})[sample.labels["pid"]] = sample.value
    return [by_index[index] for index in sorted(by_index)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pid", type=int, required=True, help="a process that uses a GPU")
    args = parser.parse_args()
    with exporter() as port:
        metrics = scrape_with_process(port, args.pid)
    (info,) = metrics["nvitop_info"].samples
    print(json.dumps({"program": "nvitop-exporter", "device_count": int(info.labels["device_count"]), "gpus": gpus(metrics)}), flush=True)


if __name__ == "__main__":
    main()
