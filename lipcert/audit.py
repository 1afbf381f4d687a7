"""``python -m lipcert.audit RUN``: attack the certificates of a run and write a report."""

from __future__ import annotations

import functools
import os
import re
import shlex
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from jsonargparse import ArgumentError, ArgumentParser, DefaultHelpFormatter, Namespace

from lipcert.errors import EXIT_UNUSABLE, InputError, one_line_errors

if TYPE_CHECKING:  # what is heavy is imported once the arguments are known to be good: --help answers at once
    from lipcert.harness import AuditResult

COMMAND = "lipcert audit"
EXIT_STOOD, EXIT_VIOLATED = 0, 1

DESCRIPTION = """
Certify the test images of a run, attack some of them, and check that no adversarial example lies within its
certified radius. Radii, distances and budgets are L2, in units of pixels in [0, 1].

examples:
  python -m lipcert.audit runs/quickstart
        attack the first correctly classified test image of each class
  python -m lipcert.audit runs/quickstart --samples 100
        attack the first 100 test images, right or wrong
  python -m lipcert.audit runs/quickstart --binary-search-steps 6 --steps 8000
        search longer: minutes rather than seconds

It writes report.html (to look at), report.json and samples.csv (to compute with) and adversarial.safetensors.

exit codes: 0 every attacked certificate stood; 1 at least one was violated, its adversarial input is saved;
            2 unusable input or interrupted, one line on stderr
"""


class _HelpFormatter(DefaultHelpFormatter):
    """Keeps the lines of the description as they are written."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "".join(indent + line for line in text.strip().splitlines(keepends=True))


def audit_parser() -> ArgumentParser:
    """Return the command's parser; it imports nothing heavy."""
    parser = ArgumentParser(
        prog="python -m lipcert.audit", description=DESCRIPTION, formatter_class=_HelpFormatter, exit_on_error=False
    )
    parser.add_argument("run", metavar="RUN", type=str, help="run directory that lipcert.train has left")
    parser.add_argument(
        "--samples",
        metavar="N",
        type=int | None,
        help="attack the first N test images; by default the first correctly classified image of each class",
    )
    parser.add_argument(
        "--steps", metavar="N", type=int, default=500, help="Adam steps of each Carlini-Wagner optimisation"
    )
    parser.add_argument(
        "--binary-search-steps",
        metavar="N",
        type=int,
        default=3,
        help="Carlini-Wagner optimisations, each with another weight of the penalty",
    )
    parser.add_argument(
        "--epsilons",
        metavar="EPSILON",
        type=float,
        nargs="+",
        default=[0.1, 0.25, 0.5, 1.0, 1.58],
        help="L2 budgets, in [0,1] pixel units, at which the report gives accuracies",
    )
    parser.add_argument(
        "--arithmetic",
        type=Literal["float32", "float64", "real"],
        default="float32",
        help="what is certified: the network as it executes, or with real numbers; float32 counts every rounding",
    )
    parser.add_argument("--output", metavar="DIR", type=str | None, help="folder of the report; by default RUN/audit")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0, 1, or 2 after one clear line on stderr.

    Args:
        argv: command line without the program's name; ``sys.argv`` if None.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        with one_line_errors(COMMAND):
            return _audit(_parsed(arguments), "python -m lipcert.audit " + shlex.join(arguments))
    except SystemExit as stop:  # --help, or the one line
        return stop.code if isinstance(stop.code, int) else EXIT_STOOD
    except KeyboardInterrupt:
        return _unusable("interrupted before anything was attacked; no report was written")
    return EXIT_UNUSABLE


def _parsed(arguments: list[str]) -> Namespace:
    try:
        options = audit_parser().parse_args(arguments)
    except ArgumentError as error:
        raise InputError(f"{_complaint(str(error))}; see python -m lipcert.audit --help") from error
    if options.samples is not None and options.samples < 1:
        raise InputError(f"expected --samples >= 1, got {options.samples}")
    for name in ("steps", "binary_search_steps"):
        if options[name] < 1:
            raise InputError(f"expected --{name.replace('_', '-')} >= 1, got {options[name]}")
    for epsilon in options.epsilons:
        if not 0 <= epsilon < float("inf"):
            raise InputError(f"expected every epsilon to be finite and >= 0, got {epsilon:g}")
    return options


def _audit(options: Namespace, command: str) -> int:
    if not Path(options.run).is_dir():
        raise InputError(f"expected a run directory, found none at {options.run}")
    import torch

    from lipcert.attacks import CarliniWagner
    from lipcert.certificates import certify
    from lipcert.harness import AuditInterrupted, Subject, run_audit
    from lipcert.runs import load_run

    run = load_run(options.run)
    images = run.data.split("test")
    if options.samples is not None and options.samples > len(images):
        raise InputError(f"expected --samples <= {len(images)}, the test images, got {options.samples}")
    directory = Path(options.output) if options.output is not None else Path(options.run) / "audit"
    _prove_writable(directory)
    name = Path(options.run).resolve().name
    try:
        result = run_audit(
            run.network,
            images,
            samples=None if options.samples is None else torch.arange(options.samples),
            attacks=(CarliniWagner(options.binary_search_steps, options.steps),),
            epsilons=options.epsilons,
            certifier=functools.partial(certify, arithmetic=options.arithmetic),
            subject=Subject(name, run.network_sha256, run.data.name, "test", run.data.class_names, command),
        )
    except AuditInterrupted as stop:
        return _conclude_early(stop.result, directory)
    return _conclude(result, directory)


def _conclude(result: AuditResult, directory: Path) -> int:
    from lipcert.report import write_report

    page = write_report(result, directory)
    print(closing_block(result, page))
    return EXIT_VIOLATED if result.violations else EXIT_STOOD


def _conclude_early(result: AuditResult, directory: Path) -> int:
    """Conclude an interrupted audit: what it refuted stays refuted, but that it refuted nothing is no pass."""
    from lipcert.report import write_report

    if result.violations:
        return _conclude(result, directory)
    attacked = sum(row.attacked for row in result.rows)
    page = write_report(result, directory)
    return _unusable(f"interrupted after {attacked:,} samples, none violated; what is known is in {page}")


def closing_block(result: AuditResult, page: Path) -> str:
    """Return the last words of an audit: verdict, nearest miss, where the report is."""
    from lipcert.report.display import rounded_down, rounded_up

    attacked = sum(row.attacked for row in result.rows)
    violated = len(result.violations)
    verdict = "FAIL, certificates violated" if violated else "PASS, every attacked certificate stood"
    lines = [("verdict", f"{verdict}: {attacked:,} of {len(result.rows):,} attacked, {violated:,} violated")]
    nearest = min((row for row in result.rows if row.ratio is not None), key=lambda row: row.ratio or 0.0, default=None)
    if nearest is None:
        lines.append(("smallest ratio", "none, no adversarial example was found"))
    else:
        where = f"distance {rounded_up(nearest.distance)} over radius {rounded_down(nearest.radius)}"
        lines.append(("smallest ratio", f"{rounded_down(nearest.ratio)}, sample {nearest.index}: {where}"))
    lines += [("warning", warning) for warning in result.warnings]
    lines.append(("report", str(page)))
    return "\n".join(f"{title:<16}{text}" for title, text in lines)


def _prove_writable(directory: Path) -> None:
    """Write and remove a small file, so that a full disk is noticed before minutes of work and not after."""
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=directory, prefix=".probe.") as probe:
        probe.write(bytes(4096))
        probe.flush()
        os.fsync(probe.fileno())


def _unusable(message: str) -> int:
    print(f"{COMMAND}: error: {message}", file=sys.stderr)
    return EXIT_UNUSABLE


def _complaint(message: str) -> str:
    """Say in one line what jsonargparse says in several: the option and the value that it does not take."""
    found = re.search(r'Parser key "(\w+)".*value: (.*)', message, re.DOTALL)
    if found is None:
        return message.strip().splitlines()[0]
    kinds = {"epsilons": "numbers", "arithmetic": "float32, float64 or real"}
    kind = kinds.get(found[1], "a whole number")
    return f"expected {kind} for --{found[1].replace('_', '-')}, got {found[2]}"


if __name__ == "__main__":
    sys.exit(main())
