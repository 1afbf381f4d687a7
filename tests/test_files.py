"""Writing leaves either the old file or the new one."""

import errno
import os

import pytest

from lipcert.errors import InputError, one_line_errors
from lipcert.files import write_atomically


def test_replaces_and_makes_folders(tmp_path):
    path = tmp_path / "a" / "b.txt"
    write_atomically(path, b"one")
    write_atomically(path, b"two")
    assert path.read_bytes() == b"two"
    assert [entry.name for entry in path.parent.iterdir()] == ["b.txt"]


@pytest.mark.parametrize("step", ["fsync", "check"])
def test_a_failure_keeps_the_old_file(tmp_path, monkeypatch, step):
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    if step == "fsync":
        monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, b"new", check=full if step == "check" else None)
    assert path.read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (InputError("expected a\n thing"), "tool: error: expected a thing\n"),
        (OSError(errno.ENOSPC, "No space left on device", "x.ckpt"), "tool: error: No space left on device: x.ckpt\n"),
    ],
)
def test_errors_become_one_line_and_exit_code_2(capsys, error, line):
    with pytest.raises(SystemExit) as exit_info, one_line_errors("tool"):
        raise error
    assert exit_info.value.code == 2
    assert capsys.readouterr().err == line


def test_bugs_keep_their_traceback():
    with pytest.raises(ZeroDivisionError), one_line_errors("tool"):
        _ = 1 / 0
