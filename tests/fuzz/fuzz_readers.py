"""Hand every reader of a user's files thousands of damaged ones; none may crash, hang, fill memory or be deceived.

    python tests/fuzz/fuzz_readers.py --inputs 10000 --seed 0 --output experiments/results/fuzz.json

Input n of a reader depends on its name, the seed and n alone: ``--only idx --first 4711 --inputs 1`` makes it again.
Each reader's result is written when it is known, and with ``--only`` those of the others are kept. What fails is
written to ``--failures``, from where it goes into ``regressions.zip``, which the tests read for ever after. A reader
has a process of its own: one that dies is a failure too, and the results name the input.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import random
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent)]  # where the tests keep their cases

import torch  # noqa: E402
from guard import Tally, Victim, limited_memory, own_folder, verdict  # noqa: E402
from victims import VICTIMS  # noqa: E402

from lipcert.errors import one_line_errors  # noqa: E402
from lipcert.files import write_json  # noqa: E402

SHOWN = 20  # failures of a reader that the results name


def made(victim: Victim, seed: int, number: int) -> bytes:
    """Input ``number`` of a reader."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of archives with a name twice
        return victim.make(random.Random(f"{victim.name}/{seed}/{number}"))


def fuzzed(victim: Victim, numbers: Iterator[int] | Sequence[int], *, seed: int, failures: Path | None = None) -> Tally:
    """What became of some inputs of a reader.

    Args:
        victim: the reader.
        numbers: which inputs.
        seed: of all of them.
        failures: folder for the inputs that were not taken as they should be.
    """
    tally = Tally()
    with own_folder() as folder:
        for number in numbers:
            content = made(victim, seed, number)
            said = verdict(victim, folder, content)
            tally.inputs += 1
            tally.refused += said == "refused"
            tally.accepted += said == "accepted"
            if said not in ("refused", "accepted"):
                tally.failures.append((number, said))
                if failures is not None:
                    _keep(failures, victim, seed, number)
    return tally


def main() -> None:
    """Parse the command line, fuzz the readers one after the other, write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=10_000, help="damaged files a reader")
    parser.add_argument("--first", type=int, default=0, help="number of the first of them")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=sorted(VICTIMS), default=list(VICTIMS), metavar="READER")
    parser.add_argument("--jobs", type=int, default=1, help="readers at a time")
    parser.add_argument("--failures", type=Path, help="folder for the inputs that were taken wrongly")
    parser.add_argument("--output", type=Path, help="results file")
    options = parser.parse_args()
    with one_line_errors("fuzz"):
        failed = _in_own_processes(options)
    sys.exit(1 if failed else 0)


def _write(options: argparse.Namespace, found: dict[str, Any]) -> None:
    """Write what is known, beside what the file knows of other readers."""
    if options.output is None:
        return
    known = json.loads(options.output.read_text())["readers"] if options.output.is_file() else {}
    readers = {name: found.get(name, known.get(name)) for name in VICTIMS if name in found or name in known}
    record = {
        "failed": sum(len(each["failures"]) for each in readers.values()),
        "readers": readers,
        "hardware": f"{os.cpu_count()} CPU cores, {platform.machine()}",
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
    }
    write_json(options.output, record)


def _in_own_processes(options: argparse.Namespace) -> int:
    """How many inputs failed; what became of them is written reader by reader."""
    found: dict[str, Any] = {}
    waiting, running = list(options.only), dict[str, BaseProcess]()
    with tempfile.TemporaryDirectory() as folder:
        while waiting or running:
            while waiting and len(running) < options.jobs:
                name = waiting.pop(0)
                place = Path(folder) / name
                place.with_suffix(".last").write_bytes(bytes(8))
                running[name] = multiprocessing.get_context("fork").Process(target=_serve, args=(name, options, place))
                running[name].start()
            wait([process.sentinel for process in running.values()])
            for name in [name for name, process in running.items() if process.exitcode is not None]:
                answer = _answer(name, options, Path(folder) / name, running.pop(name).exitcode)
                found[name] = {"command": _command(name, options), "seed": options.seed, **answer}
                _write(options, found)
                print(f"{name:<18}{json.dumps(found[name])[:600]}", flush=True)
    return sum(len(each["failures"]) for each in found.values())


def _command(name: str, options: argparse.Namespace) -> str:
    """What makes a reader's result again, wherever the files are written."""
    which = f"--inputs {options.inputs} --first {options.first} --seed {options.seed}"
    return f"python tests/fuzz/fuzz_readers.py --only {name} {which}"


def _answer(name: str, options: argparse.Namespace, place: Path, code: int | None) -> dict[str, Any]:
    answer = place.with_suffix(".json")
    if answer.exists():
        found: dict[str, Any] = json.loads(answer.read_text())
        return {**found, "failures": found["failures"][:SHOWN]}
    number = int.from_bytes(place.with_suffix(".last").read_bytes(), "little")
    if options.failures is not None:
        _keep(options.failures, VICTIMS[name], options.seed, number)
    return {"inputs": number - options.first + 1, "failures": [(number, f"the process ended with {code}")]}


def _serve(name: str, options: argparse.Namespace, place: Path) -> None:
    victim = VICTIMS[name]
    fuzzed(victim, range(2), seed=-1)  # what is imported and made on first use is no growth
    begun = time.perf_counter()
    with limited_memory(), place.with_suffix(".last").open("r+b", buffering=0) as file:
        numbers = _told(range(options.first, options.first + options.inputs), file.fileno())
        tally = fuzzed(victim, numbers, seed=options.seed, failures=options.failures)
    seconds = round(time.perf_counter() - begun, 1)
    place.with_suffix(".json").write_text(json.dumps({**asdict(tally), "seconds": seconds}))


def _told(numbers: range, file: int) -> Iterator[int]:
    """The numbers, each written down before it is used: a process that dies says nothing any more."""
    for number in numbers:
        os.pwrite(file, number.to_bytes(8, "little"), 0)
        yield number


def _keep(failures: Path, victim: Victim, seed: int, number: int) -> None:
    (failures / victim.name).mkdir(parents=True, exist_ok=True)
    (failures / victim.name / f"{seed}-{number}").write_bytes(made(victim, seed, number))


if __name__ == "__main__":
    main()
