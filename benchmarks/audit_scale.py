"""What an audit in shards takes as the number of samples grows: peak of resident memory, and seconds a sample.

Each size is audited in a process of its own: a small 1-Lipschitz network, tiny synthetic images in ``.npy`` files that
are read a shard at a time, DeepFool on every sample, rows in parquet shards, and the report of all of them. The images
are written by another process. Ten times the samples may take at most 5 % more memory. On a machine that does other
work as well, the processor's time a sample tells more than the clock's.

    python benchmarks/audit_scale.py --output experiments/results/benchmarks/audit_scale.json
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

from lipcert import export
from lipcert.attacks import DeepFool
from lipcert.data import StreamedArrays
from lipcert.files import write_json
from lipcert.harness import Subject
from lipcert.layers import OrthogonalLinear
from lipcert.report import write_report
from lipcert.shards import audit_in_shards

CLASSES = 10
AT_ONCE = 10_000  # images drawn at a time


def network(side: int) -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Flatten(), OrthogonalLinear(side * side, 16), nn.ReLU(), OrthogonalLinear(16, CLASSES)]
    return export(nn.Sequential(*layers).eval())


def write_images(folder: Path, samples: int, side: int) -> None:
    """Write images of noise; nine tenths of the labels are what the network says, so that it is right as often."""
    shape = (samples, 1, side, side)
    images = np.lib.format.open_memmap(folder / "test_images.npy", "w+", np.uint8, shape)
    labels = np.lib.format.open_memmap(folder / "test_labels.npy", "w+", np.int64, (samples,))
    judge, random = network(side), np.random.default_rng(0)
    for begin in range(0, samples, AT_ONCE):
        part = slice(begin, min(begin + AT_ONCE, samples))
        images[part] = random.integers(256, size=images[part].shape, dtype=np.uint8)
        with torch.no_grad():
            said = judge(torch.from_numpy(images[part] / np.float32(255))).argmax(1).numpy()
        wrong = random.random(len(said)) < 0.1
        labels[part] = np.where(wrong, (said + 1) % CLASSES, said)


def peak_megabytes() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / 1e6


def cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def audit(folder: Path, shard_size: int, budget: str) -> dict[str, float | int | str]:
    """Audit the images of a folder, write the report, and say what that took."""
    images = StreamedArrays(folder).source("test")
    started, used = time.perf_counter(), cpu_seconds()
    found = audit_in_shards(
        network(images.block(0, 1).images.shape[-1]),
        images,
        folder / "audit",
        shard_size=shard_size,
        attacks=[DeepFool(steps=5)],
        budget=budget,
        subject=Subject("tiny", data_name="noise", class_names=tuple(map(str, range(CLASSES)))),
    )
    audited = time.perf_counter() - started
    page = write_report(found.result, folder / "audit", found.numbers)
    seconds = time.perf_counter() - started
    return {
        "samples": found.numbers.samples,
        "attacked": found.numbers.attacked,
        "violations": found.numbers.violated,
        "verdict": found.result.verdict,
        "seconds": round(seconds, 2),
        "report_seconds": round(seconds - audited, 2),
        "milliseconds_a_sample": round(1000 * seconds / found.numbers.samples, 4),
        "cpu_milliseconds_a_sample": round(1000 * (cpu_seconds() - used) / found.numbers.samples, 4),
        "peak_resident_megabytes": round(peak_megabytes(), 1),
        "megabytes_of_rows": round(sum(file.stat().st_size for file in (folder / "audit/samples").iterdir()) / 1e6, 2),
        "megabytes_of_report": round(page.stat().st_size / 1e6, 3),
    }


def of_a_process(folder: Path, *arguments: str) -> str:
    command = [sys.executable, __file__, "--folder", str(folder), *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, nargs="+", default=[10_000, 100_000, 1_000_000], help="sizes to audit")
    parser.add_argument("--side", type=int, default=6, help="height and width of an image")
    parser.add_argument("--shard-size", type=int, default=5_000, help="samples a shard")
    parser.add_argument("--budget", default="standard", help="quick: one sample a class in each shard is attacked")
    parser.add_argument("--output", type=Path, help="where to keep the figures as JSON")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)  # of the images of one size
    parser.add_argument("--write", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.folder and options.write:
        return write_images(options.folder, options.write, options.side)
    if options.folder:
        return print(json.dumps(audit(options.folder, options.shard_size, options.budget)))
    sizes = []
    for samples in options.samples:
        with tempfile.TemporaryDirectory() as folder:
            of_a_process(Path(folder), "--write", str(samples), "--side", str(options.side))
            audited = of_a_process(Path(folder), "--shard-size", str(options.shard_size), "--budget", options.budget)
            sizes.append(json.loads(audited))
        print(json.dumps(sizes[-1]), flush=True)
    peaks = [size["peak_resident_megabytes"] for size in sizes]
    figures = {
        "benchmark": "audit_scale",
        "command": "python benchmarks/audit_scale.py",
        "hardware": f"{os.cpu_count()} CPU cores, {torch.get_num_threads()} threads, {platform.machine()}",
        "torch": torch.__version__,
        "network": f"{options.side**2}-16-{CLASSES}, orthogonal, on images of {options.side} x {options.side}",
        "attack": f"deepfool, 5 steps, {options.budget}",
        "shard_size": options.shard_size,
        "sizes": sizes,
        "growth_of_memory": [round(later / earlier, 4) for earlier, later in itertools.pairwise(peaks)],
    }
    print(json.dumps(figures, indent=2))
    if options.output:
        write_json(options.output, figures)
    return None


if __name__ == "__main__":
    main()
