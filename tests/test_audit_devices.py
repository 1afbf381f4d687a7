"""``lipcert audit --devices 2``: the rows of one process, one that speaks, and an end for every process."""

import contextlib
import os
import signal
import subprocess
import sys
import time

import pytest
from audited_run import ARGUMENTS, write_run

SECONDS = 280  # of a command that would otherwise hang
pytestmark = pytest.mark.slow

TWO = ["--devices", "2"]
LONG = ["--attacks", "ddn", "--budget", "standard"]


@pytest.fixture
def run(tmp_path):
    write_run(tmp_path / "run", **ARGUMENTS)
    return tmp_path / "run"


@pytest.fixture
def command():
    """Starts the command, with one thread a process, on which last bits depend; whatever it leaves is killed."""
    started = []

    def start(*arguments):
        process = subprocess.Popen(
            [sys.executable, "-m", "lipcert.audit", *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background shell ignores it
        )
        started.append(process)
        return process

    yield start
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def finish(process):
    """Wait for a command; return its exit code, output and errors once none of its processes is left."""
    output, errors = process.communicate(timeout=SECONDS)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return process.returncode, output, errors
        time.sleep(0.1)
    return pytest.fail("a process is left")


def begun(process, run):
    """Wait until the first chunks are known."""
    rows, deadline = run / "audit" / "partial" / "rows.jsonl", time.monotonic() + SECONDS
    while not rows.exists() or rows.read_bytes().count(b"\n") < 3:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return rows


def test_two_processes_write_the_report_of_one(run, command, tmp_path):
    short = [run, "--attacks", "deepfool", "--samples", "250"]
    code, output, errors = finish(command(*short, *TWO, "--output", tmp_path / "two"))
    assert (code, errors) == (0, "")
    assert output.count("verdict") == 1
    assert finish(command(*short, "--output", tmp_path / "one"))[0] == 0
    one, two = ((tmp_path / name / "samples.csv").read_bytes() for name in ("one", "two"))
    assert one == two
    assert one.count(b"deepfool") > 200


def test_ctrl_c_in_the_terminal_keeps_what_is_known(run, command):
    process = command(run, *LONG, *TWO)
    begun(process, run)
    os.killpg(process.pid, signal.SIGINT)
    code, output, errors = finish(process)
    assert (code, output) == (2, "")
    (line,) = errors.splitlines()
    assert line.startswith("lipcert audit: error: interrupted after ")
    assert (run / "audit" / "report.html").exists()


@pytest.mark.parametrize("leading", [True, False], ids=["leading", "other"])
def test_a_process_that_is_killed_takes_the_others_along(run, command, leading):
    process = command(run, *LONG, *TWO)
    rows = begun(process, run)
    victim = process.pid if leading else other_process(process.pid)
    os.kill(victim, signal.SIGKILL)
    code, output, errors = finish(process)
    assert output == ""
    if leading:
        assert code == -signal.SIGKILL
    else:
        assert code == 2
        (line,) = errors.splitlines()
        assert "expected every process to finish, one has died" in line
    assert rows.read_bytes().count(b"\n") >= 3


def other_process(leader):
    found = subprocess.run(["pgrep", "-g", str(leader)], capture_output=True, text=True, check=True)
    return next(int(line) for line in found.stdout.split() if int(line) != leader)
