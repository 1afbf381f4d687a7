"""``lipcert train``, ``audit``, ``report`` and ``verify``: the console script beside ``python -m lipcert.train``."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from lipcert._version import __version__
from lipcert.errors import EXIT_UNUSABLE

USAGE = f"""lipcert {__version__}: train Lipschitz-constrained classifiers, certify them, attack the certificates

usage: lipcert train [--config FILE] [options]   train and leave a run directory; lipcert train --help
       lipcert audit RUN [options]               attack a run's certificates and write a report; lipcert audit --help
       lipcert report AUDIT AUDIT ... [options]  compare several audits on one page; lipcert report --help
       lipcert verify REPORT [options]           recompute a report's certificates by other means; lipcert verify --help
       lipcert --version
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand and return its exit code.

    Args:
        argv: command line without the program's name; ``sys.argv`` if None.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    command = arguments[0] if arguments else "--help"
    if command == "train":
        from lipcert.train import main as train

        return train(arguments[1:])
    if command == "audit":
        from lipcert.audit import main as audit

        return audit(arguments[1:])
    if command == "report":
        from lipcert.compare import main as report

        return report(arguments[1:])
    if command == "verify":
        from lipcert.verify import main as verify

        return verify(arguments[1:])
    if command in ("-h", "--help"):
        print(USAGE, end="")
        return 0
    if command == "--version":
        print(__version__)
        return 0
    print(f"lipcert: error: expected train, audit, report or verify, got {command!r}", file=sys.stderr)
    return EXIT_UNUSABLE


if __name__ == "__main__":
    sys.exit(main())
