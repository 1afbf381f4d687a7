"""``python -m lipcert.compare A B ...``: several audits side by side on one page."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from lipcert.errors import EXIT_UNUSABLE, InputError, one_line_errors

if TYPE_CHECKING:  # what is heavy is imported once the arguments are known to be good: --help answers at once
    from lipcert.report.comparison import Audit

COMMAND = "lipcert report"

DESCRIPTION = """
Compare the audits of several networks on one page: verdicts, clean, certified and empirical accuracies, average
certified radii, tightness, the strength of the attacks and what they cost, with curves overlaid. Nothing is attacked or
certified again: what is compared is what the reports say.

examples:
  python -m lipcert.compare runs/hkr runs/dense
        the audits of two run directories
  python -m lipcert.compare runs/*/audit --output comparison.html
        folders of reports, or report.json files, whichever is at hand

exit codes: 0 the page was written; 2 unusable input, one line on stderr
"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; see python -m lipcert.compare --help")


def compare_parser() -> argparse.ArgumentParser:
    """Return the command's parser; it imports nothing heavy."""
    parser = _Parser(
        prog="python -m lipcert.compare", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "reports", metavar="AUDIT", nargs="+", type=Path, help="run directory, folder of a report, or report.json"
    )
    parser.add_argument(
        "--output",
        metavar="FILE",
        type=Path,
        default=Path("compare.html"),
        help="page to write; by default compare.html",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0, or 2 after one clear line on stderr.

    Args:
        argv: command line without the program's name; ``sys.argv`` if None.
    """
    try:
        with one_line_errors(COMMAND):
            options = compare_parser().parse_args(argv)
            return _compare(options.reports, options.output)
    except SystemExit as stop:  # --help, or the one line
        return stop.code if isinstance(stop.code, int) else 0
    return EXIT_UNUSABLE


def read_audits(sources: Sequence[Path]) -> tuple[Audit, ...]:
    """Read the reports of several audits.

    Args:
        sources: run directories, folders of reports or ``report.json`` files; at least two, no report twice.

    Returns:
        The audits in this order, called by their models, or by their sources where models share a name.

    Raises:
        InputError: fewer than two, the same one twice, or a file that is missing or no report of this version.
    """
    from lipcert.report.comparison import Audit

    if len(sources) < 2:
        raise InputError(f"expected at least two audits to compare, got {len(sources)}")
    files = [_report_of(source) for source in sources]
    for source, file in zip(sources, files, strict=True):
        if [other.resolve() for other in files].count(file.resolve()) > 1:
            raise InputError(f"expected different audits, got {source} twice")
    documents = [_read(file) for file in files]
    names = Counter(document["model"]["name"] for document in documents)
    return tuple(
        Audit(
            name=document["model"]["name"] if names[document["model"]["name"]] == 1 else str(source),
            source=str(file),
            document=document,
        )
        for source, file, document in zip(sources, files, documents, strict=True)
    )


def _compare(sources: Sequence[Path], output: Path) -> int:
    if output.is_dir():
        raise InputError(f"expected a file for --output, got the folder {output}")
    from lipcert.files import write_atomically
    from lipcert.report.comparison import render_comparison

    page = render_comparison(read_audits(sources))
    write_atomically(output, page.encode("utf-8", errors="backslashreplace"))
    print(output)
    return 0


def _report_of(source: Path) -> Path:
    """The ``report.json`` that a run directory, a folder of a report or a file stands for."""
    for file in (source / "audit" / "report.json", source / "report.json", source):
        if file.is_file():
            return file
    raise InputError(f"expected a report.json, or a folder of an audit or of an audited run, found none at {source}")


def _read(file: Path) -> dict[str, Any]:
    from lipcert.verification.document import read_report, schema_errors

    document = read_report(file)
    errors = schema_errors(document)
    if errors:
        more = f", and {len(errors) - 1} more" if len(errors) > 1 else ""
        raise InputError(
            f"expected a report of this version of lipcert in {file}: {errors[0]}{more}; audit the run again"
        )
    return document


if __name__ == "__main__":
    sys.exit(main())
