#!/usr/bin/env python3
"""ResNet-50 v1.5 inference with PyTorch, eager: how many images a second? Wants torch and torchvision, and a GPU of NVIDIA's.

The weights are random: speed does not depend on them. Says {"ready": true} when warm, then measures one window for each line on stdin.
Nobody has run it: there was no GPU where it was written.
"""

import argparse
import json
import sys
import time

import torch
import torchvision

WARM_UP_BATCHES = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--gate", action="store_true", help="has no effect: windows always wait for a line on stdin")
    args = parser.parse_args()
    network = torchvision.models.resnet50(weights=None).cuda().eval()
    images = torch.randn(args.batch, 3, 224, 224, device="cuda")
    with torch.inference_mode():
        for _ in range(WARM_UP_BATCHES):
            network(images).argmax(1).tolist()
        print(json.dumps({"ready": True}), flush=True)
        for _ in sys.stdin:
            began, batches = time.monotonic(), 0
            while time.monotonic() - began < args.seconds:
                network(images).argmax(1).tolist()
                batches += 1
            took = time.monotonic() - began
            print(json.dumps({"images_per_second": batches * args.batch / took, "seconds": took}), flush=True)


if __name__ == "__main__":
    main()
