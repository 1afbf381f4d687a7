"""Put defenses into one arena: the same data, the same attacks, and attacks that know the defense.

A configuration lists contestants: a network, from a training configuration, a run directory or an exported file, and
what is put around it. Networks that are not there yet are trained. All are attacked by transfer, without adaptation, as
a black box, and adaptively; what counts is the worst of these. The output folder gets

  arena.html    the page: robust accuracy by attack, published claims and what is left of them, detectors, cost
  arena.json    everything that was measured
  arena.csv     the table
  journal/      every attack's outcome; runs/: what was trained

What is finished is kept: the same command goes on where it was interrupted, and does again only what has changed.

In use:
  python experiments/arena/arena.py --config experiments/arena/mini.yaml --output arena
        a small arena on the embedded images, half a minute
  python experiments/arena/arena.py --config experiments/arena/fashion_mnist.yaml --output arena --runs runs
        the whole one; finished runs in runs/ are used
  python experiments/arena/arena.py --config experiments/arena/fashion_mnist.yaml --output arena --runs runs --only jpeg
        one defense, beside the undefended network; --samples 100 for a first look

exit codes: 0 the page was written; 2 unusable input or an interruption, one line on stderr
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

import torch
from arena_page import render_page
from assembly import Fighter, assembled, built, check_classes, lent
from contest import Arena
from lineup import KINDS, Contestant, Lineup, Source
from reading import read_lineup
from scoreboard import Entry, contestants_record, csv_table, warnings_of
from tqdm import tqdm
from trainings import Trained, trained

from lipcert.data import ImageData, ImageSet
from lipcert.errors import EXIT_UNUSABLE, InputError, one_line_errors
from lipcert.files import write_atomically, write_json
from lipcert.harness.environment import environment

SCHEMA = "lipcert.arena/1"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; see python experiments/arena/arena.py --help")


def arena_parser() -> argparse.ArgumentParser:
    """Return the command's parser."""
    parser = _Parser(
        prog="python experiments/arena/arena.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--config", metavar="FILE", type=Path, required=True, help="who takes part and what is attacked"
    )
    parser.add_argument("--output", metavar="DIR", type=Path, required=True, help="folder of the results")
    parser.add_argument(
        "--runs",
        metavar="DIR",
        type=Path,
        nargs="+",
        default=[],
        help="folders in which finished runs are looked for by name before anything is trained",
    )
    parser.add_argument("--only", metavar="NAME", nargs="+", help="these contestants, and the undefended one")
    parser.add_argument(
        "--samples", metavar="N", type=int, help="attacked test images, in place of the configuration's"
    )
    parser.add_argument(
        "--keep", metavar="DIR", type=Path, help="write table and page there too, named after the configuration"
    )
    parser.add_argument("--command", help="command that the record names, in place of the one that was typed")
    parser.add_argument("--seed", metavar="N", type=int, help="seed of the attacks, in place of the configuration's")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0, or 2 after one clear line on stderr.

    Args:
        argv: command line without the program's name; ``sys.argv`` if None.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        with one_line_errors("arena"):
            options = arena_parser().parse_args(arguments)
            try:
                return _run(options, shlex.join(["python", "experiments/arena/arena.py", *arguments]))
            except KeyboardInterrupt:
                kept = f"what is finished is kept in {options.output}: the same command goes on from there"
                raise InputError(f"interrupted; {kept}") from None
    except SystemExit as stop:  # --help, or the one line
        return stop.code if isinstance(stop.code, int) else 0
    return EXIT_UNUSABLE


def _run(options: argparse.Namespace, command: str) -> int:
    lineup = chosen(read_lineup(options.config), options.only, options.samples, options.seed)
    check_classes(lineup)
    if options.output.is_file():
        raise InputError(f"expected a folder for --output, got the file {options.output}")
    data: ImageData = built(lineup.data, ImageData)
    test, held_out = data.split("test"), data.split("val")
    lineup = dataclasses.replace(lineup, samples=min(lineup.samples, len(test)))
    networks = all_trained(lineup, [options.output / "runs", *options.runs])
    fighters = [assembled(contestant, lineup, networks, held_out) for contestant in lineup.shown]
    arena = Arena(lineup, test, options.output / "journal")
    entries = contested(arena, fighters, networks)
    record = {
        "schema": SCHEMA,
        "name": lineup.name,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": options.command or command,
        "seed": lineup.seed,
        "data": _data_record(data, test, arena),
        "attacks": {kind: [json.dumps(attack) for attack in lineup.attacks[kind]] for kind in KINDS},
        "environment": environment(torch.device("cpu")),
        **_results(entries, lineup, arena),
    }
    write_results(options.output / "arena", record, lineup)
    if options.keep is not None:
        write_results(options.keep / options.config.stem, record, lineup)
    for found in record["contestants"]:
        shares = ", ".join(f"{name} {under['worst']:.3f}" for name, under in found["threats"].items())
        print(f"{found['title']}: clean {found['clean_accuracy']:.3f}, robust at worst {shares}")
    print(options.output / "arena.html")
    return 0


def chosen(lineup: Lineup, only: Sequence[str] | None, samples: int | None, seed: int | None) -> Lineup:
    """Return the line-up with what the command line changes.

    Raises:
        InputError: no such contestant, or fewer samples than one.
    """
    if samples is not None and samples < 1:
        raise InputError(f"expected --samples >= 1, got {samples}")
    changes: dict[str, Any] = {"samples": samples or lineup.samples, "seed": lineup.seed if seed is None else seed}
    if only is not None:
        unknown = sorted(set(only) - set(lineup.contestants))
        if unknown:
            raise InputError(f"expected contestants among {', '.join(lineup.contestants)}, got {', '.join(unknown)}")
        kept = {lineup.undefended, *only}
        changes["contestants"] = {
            name: contestant if name in kept else dataclasses.replace(contestant, shown=False)
            for name, contestant in lineup.contestants.items()
        }
    return dataclasses.replace(lineup, **changes)


def all_trained(lineup: Lineup, folders: Sequence[Path]) -> dict[str, Trained]:
    """Return every network that the line-up needs, by contestant, after training those that are not there."""
    needed = dict.fromkeys(lineup.sources)
    for contestant in lineup.shown:
        needed |= dict.fromkeys((contestant.name, *contestant.trained_with, *lent(contestant)))
    found: dict[str, Trained] = {}
    for name in needed:
        owner = _owner(lineup.contestants[name], lineup)
        if owner.name not in found:
            assert isinstance(owner.network, Source)
            runs = {other: network.path for other, network in found.items()}
            found[owner.name] = trained(owner.network, folders, runs)
        found[name] = found[owner.name]
    return found


def _owner(contestant: Contestant, lineup: Lineup) -> Contestant:
    """The contestant whose network it is."""
    return lineup.contestants[contestant.network] if isinstance(contestant.network, str) else contestant


def contested(arena: Arena, fighters: Sequence[Fighter], networks: Mapping[str, Trained]) -> list[Entry]:
    """Let all contestants stand all attacks, and return what came out."""
    sources = {name: networks[name].network for name in arena.lineup.sources}
    pixels = arena.inputs[0].numel()
    rounds = sum(len(list(arena.rounds(fighter))) for fighter in fighters)
    entries = []
    with tqdm(total=rounds, unit="attack", disable=None, leave=False) as bar:
        for fighter in fighters:
            name = fighter.contestant.name
            bar.set_description(name)
            facts = arena.facts(fighter)

            def shown(threat: Any, turn: Any, name: str = name) -> None:
                bar.set_description(f"{name}, {threat.name}, {turn.kind}")
                bar.update()

            outcomes = arena.fought(fighter, facts, sources, shown)
            controls = {threat.name: arena.controlled(fighter, facts, threat) for threat in arena.lineup.threats}
            entries.append(Entry(fighter, facts, outcomes, controls, pixels))
    return entries


def _results(entries: Sequence[Entry], lineup: Lineup, arena: Arena) -> dict[str, Any]:
    contestants = contestants_record(entries, lineup, arena.labels)
    seconds = sum(
        attack["seconds"] for found in contestants for under in found["threats"].values() for attack in under["attacks"]
    )
    return {
        "threats": [dataclasses.asdict(threat) for threat in lineup.threats],
        "control": lineup.control,
        "attack_seconds": round(seconds, 1),
        "contestants": contestants,
        "warnings": warnings_of(contestants, lineup),
    }


def _data_record(data: ImageData, test: ImageSet, arena: Arena) -> dict[str, Any]:
    return {
        "name": data.name,
        "split": "test",
        "split_samples": len(test),
        "samples": len(arena.index),
        "pixels": arena.inputs[0].numel(),
        "sha256": arena.data_sha256,
    }


def write_results(place: Path, record: Mapping[str, Any], lineup: Lineup) -> None:
    """Write table and page, each in one step, with endings of their own."""
    page = render_page(record, lineup)
    write_json(place.with_suffix(".json"), record)
    write_atomically(place.with_suffix(".csv"), csv_table(record["contestants"], lineup).encode())
    write_atomically(place.with_suffix(".html"), page.encode("utf-8", errors="backslashreplace"))


if __name__ == "__main__":
    sys.exit(main())
