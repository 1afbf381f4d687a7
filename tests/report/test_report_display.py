"""What is displayed never promises more than what was measured."""

import math

import numpy as np
import pytest

from lipcert.report import display

VALUES = [
    *(
        0.1,
        0.3,
        0.69,
        0.9995,
        0.99999999,
        1.0,
        1.0000001,
        9.999,
        12345.678,
        1e-5,
        9.9999e-7,
        5e-324,
        1e300,
        0.57,
        2 / 3,
    ),
    *np.exp(np.random.default_rng(0).uniform(-30, 30, size=200)).tolist(),
]


def read_back(text):
    return float(text.replace(",", ""))


@pytest.mark.parametrize("digits", [3, 6])
def test_rounding_goes_to_the_safe_side_and_loses_little(digits):
    for value in VALUES:
        down, up = display.rounded_down(value, digits), display.rounded_up(value, digits)
        assert read_back(down) <= value <= read_back(up), value
        # one unit of the last of n digits is at most 10^(1-n) of the value; a subnormal has fewer digits itself
        if value > 1e-300:
            assert read_back(up) - read_back(down) <= value * 10 ** (1 - digits) * (1 + 1e-12), value


def test_three_digits_are_shown():
    for value in VALUES:
        for text in (display.rounded_down(value), display.rounded_up(value)):
            mantissa = text.split("e")[0].replace(".", "").replace(",", "").lstrip("0")
            assert len(mantissa.rstrip("0")) <= 3, text


def test_a_ratio_of_at_least_one_is_never_shown_below_one():
    for ratio in (1.0, math.nextafter(1.0, 2), 1.0001, 1.00999):
        assert display.rounded_down(ratio) == "1.00"
    assert display.rounded_down(math.nextafter(1.0, 0)) == "0.999"


@pytest.mark.parametrize("right", range(0, 1001, 7))
def test_percent_of_a_thousand_is_exact(right):
    down, up = display.percent_down(right / 1000), display.percent_up(right / 1000)
    assert down == up
    assert read_back(down.split("\N{NO-BREAK SPACE}")[0]) == pytest.approx(right / 10, abs=1e-12)


@pytest.mark.parametrize(
    ("value", "text"), [(None, "—"), (math.inf, "∞"), (-math.inf, "-∞"), (math.nan, "not a number"), (0.0, "0")]
)
def test_what_is_no_number_has_a_text(value, text):
    assert display.rounded_down(value) == display.rounded_up(value) == text


@pytest.mark.parametrize("value", [0.25, 1.0, 1.58, 36 / 255, 8 / 255, 1e-9, 0.1 + 0.2])
def test_keys_read_back_exactly(value):
    assert float(display.number_key(value)) == value
