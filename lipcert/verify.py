"""``python -m lipcert.verify REPORT``: recompute a report's certificates by other means, say whether they stand."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from lipcert.errors import EXIT_UNUSABLE, InputError, one_line_errors

COMMAND = "lipcert verify"
EXIT_STANDS, EXIT_WRONG, EXIT_OPEN = 0, 1, 3
WORDS = {True: "ok", False: "WRONG", None: "unchecked"}

DESCRIPTION = """
Recompute the certificates of an audit's report from the run's weights and data with a second, slower implementation,
and say whether every radius stands. It shares no code with the one that made them: the dense matrix of every linear
layer is built on its real input grid and bounded by an eigenvalue decomposition with its residual, or in exact
rationals where it is small; the rounding errors of the network as it executes are derived once more, from matrices of
absolute weights. Where a network votes over views, the views are made again and vote one by one, and the election is
counted again in whole numbers, against patches at each of their places. No attack is repeated.

examples:
  python -m lipcert.verify runs/quickstart/audit
        the report in this folder, about the run in the folder above it
  python -m lipcert.verify elsewhere/report.json --run runs/quickstart
        a report that was moved

It checks report.json against its schema; the SHA-256 of weights and data; rows and labels of samples.csv, or of the
shards of an audit in shards; accuracies, ACR, ratios, violations and verdict against the rows; the matrices against the
network; the Lipschitz bound; every prediction; and every radius, which may exceed the recomputed one by 1e-6 of the
radius without rounding (both come from proved bounds, either of which may be the looser one by that much). The rounding
of float64 is less than that. Of votes it checks every prediction, side and L1 radius, without any tolerance, and every
adversarial example that is kept.

Networks: chains of linear layers, convolutions, average and non-overlapping norm and max pools, batch norms, sorts and
the ReLU family, as an export leaves them; votes over ablated views and over splitting noise, of any network. Of others
it says what was not re-checked, and why. Memory: two matrices of the size of the largest dense one, 1 GB each at most,
and some more of its size; of an audit in shards, the images and rows of one shard.

exit codes: 0 everything stands; 1 something does not, and what; 2 unusable input, one line on stderr; 3 nothing is
wrong as far as it was re-checked, and some was not
"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; see python -m lipcert.verify --help")


def verify_parser() -> argparse.ArgumentParser:
    """Return the command's parser; it imports nothing heavy."""
    parser = _Parser(
        prog="python -m lipcert.verify", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("report", metavar="REPORT", type=Path, help="report.json or its folder, the rows beside it")
    parser.add_argument(
        "--run", metavar="DIR", type=Path, help="run directory; by default the parent of the report's folder"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0, 1, 3, or 2 after one clear line on stderr.

    Args:
        argv: command line without the program's name; ``sys.argv`` if None.
    """
    try:
        with one_line_errors(COMMAND):
            options = verify_parser().parse_args(argv)
            return _verify(options.report, options.run)
    except SystemExit as stop:  # --help, or the one line
        return stop.code if isinstance(stop.code, int) else EXIT_STANDS
    return EXIT_UNUSABLE


def _verify(report: Path, run: Path | None) -> int:
    from lipcert.verification import findings

    found = []
    for finding in findings(report, run):
        print(f"{finding.name:<12}{WORDS[finding.stands]:<11}{finding.text}", flush=True)
        found.append(finding)
    wrong, unchecked = ([finding.name for finding in found if finding.stands is value] for value in (False, None))
    rest = f"; not re-checked: {', '.join(unchecked)}" if unchecked else ""
    if wrong:
        print(f"verdict     the report does not stand: {', '.join(wrong)}{rest}")
        return EXIT_WRONG
    if rest:
        print(f"verdict     open: nothing that was re-checked is wrong{rest}")
        return EXIT_OPEN
    print("verdict     every radius stands")
    return EXIT_STANDS


if __name__ == "__main__":
    sys.exit(main())
