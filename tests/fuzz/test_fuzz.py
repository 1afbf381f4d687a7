"""The fuzz cases, in a process of their own: what they measure is the memory of the process that reads."""

import subprocess
import sys
from pathlib import Path

import pytest

SECONDS = 900  # they take about forty on an idle core


@pytest.mark.timeout(SECONDS)
def test_no_reader_crashes_hangs_or_takes_a_damaged_file_in_silence():
    cases = Path(__file__).with_name("fuzz_cases.py")
    options = ["-q", "-p", "no:xdist", "-p", "no:cacheprovider", f"--timeout={SECONDS}"]
    command = [sys.executable, "-m", "pytest", *options, str(cases)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=cases.parents[2], timeout=SECONDS)
    assert done.returncode == 0, done.stdout[-4000:]
