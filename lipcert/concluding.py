"""How an audit ends: its report, its last words, and its exit code."""

from __future__ import annotations

import sys
from pathlib import Path

from lipcert.errors import EXIT_UNUSABLE
from lipcert.harness import AuditResult
from lipcert.harness.foreign import NO_RULE
from lipcert.harness.journal import PARTIAL, discard
from lipcert.harness.power import INFLATIONS
from lipcert.logs import fields, logger_of
from lipcert.report import write_report
from lipcert.report.display import percent_down, rounded_down, rounded_up
from lipcert.report.numbers import Numbers, numbers_of
from lipcert.shards.audit import FOLDER as SHARDS
from lipcert.shards.store import refuted_so_far

COMMAND = "lipcert audit"
EXIT_STOOD, EXIT_VIOLATED = 0, 1
NAMED = 10  # refuted samples in one line
LOG = logger_of("audit")


def unusable(message: str) -> int:
    """Say why there is no verdict, in one line, and return the exit code."""
    print(f"{COMMAND}: error: {message}", file=sys.stderr)
    return EXIT_UNUSABLE


def conclude(result: AuditResult, directory: Path, numbers: Numbers | None = None) -> int:
    """Write the report of a finished audit, tell what it says, and return the exit code.

    Args:
        result: what was measured.
        directory: of the report.
        numbers: of all samples, where the result holds only some of their rows.

    Raises:
        OSError: the report cannot be written.
    """
    page = write_report(result, directory, numbers)
    discard(directory / PARTIAL)
    numbers = numbers_of(result) if numbers is None else numbers
    print(closing_block(result, numbers, page))
    _log_end(result, numbers, page, "done")
    return EXIT_VIOLATED if result.violations else EXIT_STOOD


def _log_end(result: AuditResult, numbers: Numbers, page: Path, end: str) -> None:
    counts = {"samples": numbers.samples, "attacked": numbers.attacked, "violations": numbers.violated}
    told = fields(end=end, verdict=result.verdict, **counts, report=str(page))
    LOG.debug("the audit has ended", extra=told)


def conclude_early(result: AuditResult, directory: Path, reason: str) -> int:
    """Conclude an audit that was stopped: what it refuted stays refuted, but that it refuted nothing is no pass."""
    numbers = numbers_of(result)
    attacked, violated = numbers.attacked, numbers.violated
    found = f"{reason} after {attacked:,} samples, {f'{violated:,} violated' if violated else 'none violated'}"
    going_on = f"the same command goes on with what is in {directory / PARTIAL}"
    try:
        page = write_report(result, directory)
    except OSError as error:
        return unusable(f"{found}; no report could be written ({error.strerror or error}); {going_on}")
    _log_end(result, numbers, page, reason)
    if violated:
        print(closing_block(result, numbers, page))
        return EXIT_VIOLATED
    return unusable(f"{found}; what is known is in {page}; {going_on}")


def conclude_shards_early(result: AuditResult | None, directory: Path, reason: str) -> int:
    """Conclude an audit in shards that was stopped; the shards that are whole are kept, and what was refuted stays so.

    Args:
        result: what is known of the shard that was at work; None if that is nothing.
        directory: of the report.
        reason: why.
    """
    whole, violated = refuted_so_far(directory / SHARDS, () if result is None else result.violations)
    more = f" and {len(violated) - NAMED:,} more" if len(violated) > NAMED else ""
    samples = f"samples {', '.join(map(str, violated[:NAMED]))}{more}"
    found = f"{len(violated):,} violated so far ({samples})" if violated else "none violated so far"
    code = unusable(
        f"{reason} after {whole:,} whole shards, {found}; the same command goes on with what is in {directory}"
    )
    return EXIT_VIOLATED if violated else code


def closing_block(result: AuditResult, numbers: Numbers, page: Path) -> str:
    """Return the last words of an audit: verdict, nearest miss, power, warnings, where the report is."""
    if numbers.violated:
        verdict = "FAIL, certificates violated"
    else:
        nothing = result.rule == NO_RULE
        verdict = "NO CERTIFICATES, attacked all the same" if nothing else "PASS, every attacked certificate stood"
    told = f"{numbers.attacked:,} of {numbers.samples:,} attacked, {numbers.violated:,} violated"
    lines = [("verdict", f"{verdict}: {told}")]
    nearest = min((row for row in result.rows if row.ratio is not None), key=lambda row: row.ratio or 0.0, default=None)
    distances = [row.distance for row in result.rows if row.distance is not None]
    if nearest is None and distances:
        middle = rounded_up(numbers.median_distance)
        lines.append(("distances", f"{rounded_up(min(distances))} at least, median {middle}"))
    elif nearest is None:
        lines.append(("smallest ratio", "none, no adversarial example was found"))
    else:
        where = f"distance {rounded_up(nearest.distance)} over radius {rounded_down(nearest.radius)}"
        lines.append(("smallest ratio", f"{rounded_down(nearest.ratio)}, sample {nearest.index}: {where}"))
    if numbers.power is not None:
        shares = zip(INFLATIONS, numbers.power.shares, strict=True)
        refuted = ", ".join(f"{percent_down(share)} at {inflation:g}" for inflation, share in shares)
        lines.append(("power", f"refuted, had the radii been inflated: {refuted}"))
    lines += [("warning", warning) for warning in result.warnings]
    lines.append(("report", str(page)))
    return "\n".join(f"{title:<16}{text}" for title, text in lines)
