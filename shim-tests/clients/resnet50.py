#!/usr/bin/env python3
"""ResNet-50 v1.5 inference with tinygrad on CUDA: how many images a second?

The weights are random: speed does not depend on them. The whole network is one
TinyJit, so that it reaches the driver as CUDA graphs. Nothing in here knows
whether the driver is real, simulated or limited.

Prints one JSON line for each measured window, on stdout.
"""

import argparse
import array
import json
import math
import os
import pickle
import random
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path


def point_tinygrad_at_cuda() -> None:
    """tinygrad reads these when it is imported; what the caller has set stands."""
    os.environ.setdefault("DEV", "CUDA")
    os.environ.setdefault("PARALLEL", "0")  # its pool of compilers waits for ever for one that has died
    if "NVRTC_PATH" not in os.environ:
        for folder in sys.path:
            for library in Path(folder).glob("nvidia/cuda_nvrtc/lib/libnvrtc.so.*"):
                os.environ.setdefault("NVRTC_PATH", str(library))


point_tinygrad_at_cuda()

from tinygrad import Device, Tensor, TinyJit, dtypes, nn  # noqa: E402
from tinygrad.nn.state import get_state_dict, load_state_dict  # noqa: E402

IMAGE_PIXELS = 224
CLASSES = 1000
STAGES = ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2))  # width, blocks, stride of the first
EXPANSION = 4
WARMUP_CALLS = 4  # the first compiles, the second captures, the third builds the graphs


class Bottleneck:
    """1×1, 3×3, 1×1 with a shortcut. v1.5: the 3×3 carries the stride."""

    def __init__(self, channels_in: int, width: int, stride: int):
        channels_out = width * EXPANSION
        self.conv1 = nn.Conv2d(channels_in, width, 1, bias=False)
        self.bn1 = nn.BatchNorm(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm(width)
        self.conv3 = nn.Conv2d(width, channels_out, 1, bias=False)
        self.bn3 = nn.BatchNorm(channels_out)
        self.shortcut = []
        if stride != 1 or channels_in != channels_out:
            self.shortcut = [nn.Conv2d(channels_in, channels_out, 1, stride=stride, bias=False), nn.BatchNorm(channels_out)]

    def __call__(self, x: Tensor) -> Tensor:
        y = self.bn1(self.conv1(x)).relu()
        y = self.bn2(self.conv2(y)).relu()
        y = self.bn3(self.conv3(y))
        return (y + x.sequential(self.shortcut)).relu()


class ResNet50:
    """Images (N, 3, 224, 224) in, the most likely class of each out."""

    def __init__(self):
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm(64)
        self.blocks = []
        channels = 64
        for width, count, stride in STAGES:
            for index in range(count):
                self.blocks.append(Bottleneck(channels, width, stride if index == 0 else 1))
                channels = width * EXPANSION
        self.fc = nn.Linear(channels, CLASSES)

    def __call__(self, images: Tensor) -> Tensor:
        x = self.bn1(self.conv1(images)).relu().pad((1, 1, 1, 1)).max_pool2d((3, 3), 2)
        x = x.sequential(self.blocks)
        return self.fc(x.mean((2, 3))).argmax(axis=1)


def floats(shape: tuple[int, ...], bound: float, source: random.Random) -> Tensor:
    """A tensor of numbers within ±bound, made on the host: a few thousand, again and again, for speed."""
    count = math.prod(shape)
    numbers = array.array("f", (source.uniform(-bound, bound) for _ in range(min(count, 4096)))).tobytes()
    copies = math.ceil(count * 4 / len(numbers))
    return Tensor((numbers * copies)[: count * 4], dtype=dtypes.float32).reshape(shape)


def checkpoint(network: ResNet50, source: random.Random) -> dict[str, Tensor]:
    """What a file of weights would hold: He's bound for what is multiplied, the network's own for the rest."""
    weights = {}
    for name, parameter in get_state_dict(network).items():
        if len(parameter.shape) > 1:
            weights[name] = floats(parameter.shape, math.sqrt(6 / math.prod(parameter.shape[1:])), source)
    return weights


class Service:
    """The network, compiled and warm, that classifies one batch a call."""

    def __init__(self, batch: int, compiled: Path | None):
        self.batch = batch
        self.images = floats((batch, 3, IMAGE_PIXELS, IMAGE_PIXELS), 1.0, random.Random(2)).to(Device.DEFAULT).realize()
        kept = self.load(compiled) if compiled else None
        self.forward = kept or self.compile()
        began = time.monotonic()
        for _ in range(WARMUP_CALLS):
            self.classify()
        self.warm_up_seconds = time.monotonic() - began
        if compiled and not kept:
            self.save(compiled)

    def classify(self) -> list[int]:
        """One batch. Returns when the classes have arrived on the host."""
        return self.forward(self.images).tolist()

    def compile(self) -> Callable:
        """Says what is to be compiled; the first calls do it, and take their time."""
        network = ResNet50()
        load_state_dict(network, checkpoint(network, random.Random(1)), strict=False, verbose=False)
        Tensor.realize(*get_state_dict(network).values())
        return TinyJit(lambda images: network(images).realize())

    def made_for(self) -> tuple:
        """What a compiled network depends on."""
        return self.batch, Device[Device.DEFAULT].arch, version("tinygrad")

    def load(self, file: Path) -> Callable | None:
        """The network that an earlier run has compiled, with its weights; none if it was for something else.

        A pickle runs what it says: FILE is to be one's own.
        """
        if not file.exists():
            return None
        with file.open("rb") as stream:
            fits = pickle.load(stream) == self.made_for()
            return pickle.load(stream) if fits else None

    def save(self, file: Path) -> None:
        """Whole or not at all: several programs may do so at once."""
        with tempfile.NamedTemporaryFile(dir=file.parent, delete=False) as stream:
            pickle.dump(self.made_for(), stream)
            pickle.dump(self.forward, stream)
        Path(stream.name).replace(file)


def measure(service: Service, seconds: float, batches: int | None) -> dict:
    """Classifies batches, one after the other, for `seconds` or so many; the last one is counted whole, and so is its time."""
    began_ns = time.monotonic_ns()
    ends_ns: list[int] = []

    def done() -> bool:
        if batches:
            return len(ends_ns) == batches
        return bool(ends_ns) and ends_ns[-1] - began_ns >= seconds * 1e9

    while not done():
        service.classify()
        ends_ns.append(time.monotonic_ns())
    took_ns = ends_ns[-1] - began_ns
    latencies_ns = sorted(end - start for start, end in pairwise([began_ns, *ends_ns]))
    return {
        "program": "resnet50",
        "batch": service.batch,
        "images": len(ends_ns) * service.batch,
        "seconds": round(took_ns / 1e9, 3),
        "images_per_second": round(len(ends_ns) * service.batch / (took_ns / 1e9), 2),
        "batch_ms_median": round(latencies_ns[len(latencies_ns) // 2] / 1e6, 2),
        "batch_ms_max": round(latencies_ns[-1] / 1e6, 2),
    }


def say(record: dict) -> None:
    print(json.dumps(record), flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=8, metavar="N", help="images in a batch (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=5.0, metavar="S", help="length of a window (default: %(default)s)")
    parser.add_argument("--batches", type=int, metavar="N", help="length of a window in batches instead")
    parser.add_argument(
        "--gate",
        action="store_true",
        help='say {"ready": true} when warm, then measure one window for each line on stdin, until its end: '
        "so that several programs can be started together",
    )
    parser.add_argument(
        "--compiled", type=Path, metavar="FILE", help="keep the compiled network here: made by the first run, used by the next"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress on stderr")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    service = Service(args.batch, args.compiled)
    if not args.quiet:
        print(f"resnet50: warm after {service.warm_up_seconds:.1f} s", file=sys.stderr, flush=True)
    if not args.gate:
        say(measure(service, args.seconds, args.batches))
        return
    say({"ready": True, "device": Device.DEFAULT})
    for _ in sys.stdin:
        say(measure(service, args.seconds, args.batches))


if __name__ == "__main__":
    main()
