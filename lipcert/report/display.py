"""Numbers as a reader sees them: few digits, rounded to the side that promises less."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal

MISSING = "\N{EM DASH}"
DIGITS = 3

_NORMS = {"l1": "L1", "l2": "L2", "linf": "L\N{INFINITY}", "patch": "patch side in pixels"}


def norm_name(norm: str) -> str:
    """A norm as it is written in text, and what is no norm with its unit.

    Example:
        >>> norm_name("l2"), norm_name("linf"), norm_name("patch")
        ('L2', 'L∞', 'patch side in pixels')
    """
    return _NORMS.get(norm, norm)


def measured_in(norm: str) -> str:
    """What radii and distances are, with their unit, as the rest of a sentence.

    Example:
        >>> measured_in("l1")
        'L1, in units of the input as handed in, with pixels in [0, 1]'
        >>> measured_in("patch")
        'sides of square patches, in pixels'
    """
    if norm == "patch":
        return "sides of square patches, in pixels"
    return f"{norm_name(norm)}, in units of the input as handed in, with pixels in [0, 1]"


def rounded_down(value: float | None, digits: int = DIGITS) -> str:
    """A radius, a ratio or a certified share, never shown above its value.

    Read back as a float, the text is at most ``value``.

    Args:
        value: any float; None is shown as a dash.
        digits: number of significant digits.

    Example:
        >>> rounded_down(0.3459), rounded_down(1.9999), rounded_down(0.0000129), rounded_down(0.3), rounded_down(0)
        ('0.345', '1.99', '1.29e-5', '0.300', '0')
    """
    return _rounded(value, digits, rounding=ROUND_FLOOR)


def rounded_up(value: float | None, digits: int = DIGITS) -> str:
    """A distance, an upper bound or a cost, never shown below its value.

    Read back as a float, the text is at least ``value``.

    Args:
        value: any float; None is shown as a dash.
        digits: number of significant digits.

    Example:
        >>> rounded_up(0.3451), rounded_up(0.99991), rounded_up(12345.0), rounded_up(None)
        ('0.346', '1.00', '12,400', '—')
    """
    return _rounded(value, digits, rounding=ROUND_CEILING)


def percent_down(share: float | None) -> str:
    r"""A share that promises something, in percent, never shown above its value.

    Example:
        >>> percent_down(2 / 3), percent_down(0.69), percent_down(1.0), percent_down(None)
        ('66.6\xa0%', '69.0\xa0%', '100\xa0%', '—')
    """
    return _percent(share, rounding=ROUND_FLOOR)


def percent_up(share: float | None) -> str:
    r"""A share that is itself an upper bound, in percent, never shown below its value.

    Example:
        >>> percent_up(2 / 3)
        '66.7\xa0%'
    """
    return _percent(share, rounding=ROUND_CEILING)


def number_key(value: float) -> str:
    """The shortest decimal text that reads back as exactly this number; a JSON key, a table heading.

    Example:
        >>> number_key(0.25), number_key(1.0), number_key(36 / 255)
        ('0.25', '1', '0.1411764705882353')
    """
    short = f"{value:g}"
    return short if float(short) == value else repr(float(value))


def moment(text: str) -> str:
    """A time as a reader wants it; a text that is none stays as it is.

    Example:
        >>> moment("2025-01-31T12:00:00+00:00"), moment("today")
        ('2025-01-31 12:00 UTC', 'today')
    """
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        return text
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M} UTC" if time.tzinfo else text


def _percent(share: float | None, *, rounding: str) -> str:
    if share is None or not math.isfinite(share):
        return MISSING
    return f"{_finite_text(Decimal(repr(float(share))) * 100, DIGITS, rounding=rounding)}\N{NO-BREAK SPACE}%"


def _rounded(value: float | None, digits: int, *, rounding: str) -> str:
    if value is None:
        return MISSING
    if not math.isfinite(value):
        return "not a number" if math.isnan(value) else ("\N{INFINITY}" if value > 0 else "-\N{INFINITY}")
    # repr, not the exact binary value: 0.3 stays 0.300 and the order of floats is kept all the same
    return _finite_text(Decimal(repr(float(value))), digits, rounding=rounding)


def _finite_text(value: Decimal, digits: int, *, rounding: str) -> str:
    if not value:
        return "0"
    number = value.quantize(_unit(value, digits), rounding=rounding)
    number = number.quantize(_unit(number, digits))  # 0.9999 went up to 1.000: one digit too many
    return f"{number:e}" if number.adjusted() < -3 else f"{number:,f}"


def _unit(value: Decimal, digits: int) -> Decimal:
    return Decimal(1).scaleb(value.adjusted() - digits + 1)
