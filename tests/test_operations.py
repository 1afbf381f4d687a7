"""Running the commands unattended: signals, logs, loggers, silence."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lipcert.audit import main as audit
from lipcert.errors import one_line_errors
from lipcert.logs import fields, is_quiet, logger_of, logs
from lipcert.train import main as train

OLD = Path(__file__).parent / "old_run"
SMALL = [
    "--model.init_args.network.init_args.channels=[2,4]",
    "--model.init_args.network.init_args.hidden=8",
    "--trainer.max_epochs=1",
    "--trainer.limit_train_batches=2",
]


def command(*arguments):
    return subprocess.Popen(
        [sys.executable, "-m", *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def terminated(process, ready):
    """The process after SIGTERM, sent once ``ready`` says that it is at work."""
    deadline = time.monotonic() + 200
    while not ready() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert process.poll() is None, process.communicate()
    process.send_signal(signal.SIGTERM)
    out, error = process.communicate(timeout=100)
    return process.returncode, out, error.strip().splitlines()


@pytest.mark.slow
def test_sigterm_ends_a_training_in_one_line_with_what_is_needed_to_go_on(tmp_path):
    run = tmp_path / "quickstart"
    options = [*SMALL[:2], "--trainer.max_epochs=1000", "--trainer.enable_progress_bar=false"]
    process = command("lipcert.train", f"--output={tmp_path}", *options)
    code, _, lines = terminated(process, (run / "metrics.csv").exists)
    assert code == 2
    assert len(lines) == 1
    assert f"continue with --resume {run}" in lines[0]
    assert json.loads((run / "summary.json").read_text())["status"] == "interrupted"


@pytest.mark.slow
def test_sigterm_ends_an_audit_in_one_line_and_the_journal_goes_on(tmp_path):
    output = tmp_path / "audit"
    options = ["--samples=400", "--attacks", "boundary-walk", "carlini-wagner-l2"]
    arguments = ["lipcert.audit", OLD, *options, f"--output={output}"]
    rows = output / "partial" / "rows.jsonl"

    def some_are_known():
        return rows.exists() and rows.read_bytes().count(b"\n") > 1

    code, _, lines = terminated(command(*arguments), some_are_known)
    assert code == 2
    assert len(lines) == 1
    assert "interrupted after" in lines[0]
    known = rows.read_bytes().count(b"\n") - 1
    code, _, lines = terminated(command(*arguments), lambda: rows.read_bytes().count(b"\n") > known + 1)
    assert f"chunks that are known: {known}" in lines[0]


def test_sigterm_is_an_interrupt_inside_of_a_command_and_what_it_was_outside(capsys):
    before = signal.getsignal(signal.SIGTERM)

    def killed():
        with one_line_errors("lipcert something"):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)

    with pytest.raises(SystemExit) as stop:
        killed()
    assert stop.value.code == 2
    assert capsys.readouterr().err == "lipcert something: error: interrupted\n"
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_quiet_audit_prints_nothing_and_tells_the_log(tmp_path, capsys):
    log = tmp_path / "logs" / "audit.jsonl"
    options = ["--samples=2", "--attacks", "boundary-walk", f"--output={tmp_path}", "--quiet", f"--log={log}"]
    assert audit([str(OLD), *options]) == 0
    assert capsys.readouterr() == ("", "")
    last = [json.loads(line) for line in log.read_text().splitlines()][-1]
    assert {name: last[name] for name in ("logger", "level", "end", "verdict", "attacked", "violations")} == {
        **{"logger": "lipcert.audit", "level": "debug", "end": "done"},
        **{"verdict": "pass", "attacked": 2, "violations": 0},
    }


def test_an_error_is_said_even_by_a_quiet_command(tmp_path, capsys):
    assert audit([str(OLD), "--quiet", "--samples=100000"]) == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert error.startswith("lipcert audit: error: expected --samples <= 1000")
    assert error.count("\n") == 1


@pytest.mark.slow
def test_a_quiet_training_prints_nothing_and_tells_the_log_and_its_loggers(tmp_path, capfd):
    log = tmp_path / "train.jsonl"
    logger = ["--trainer.logger=lightning.pytorch.loggers.CSVLogger", f"--trainer.logger.save_dir={tmp_path / 'csv'}"]
    assert train([f"--output={tmp_path}", *SMALL, *logger, "--quiet", f"--log={log}"]) == 0
    assert capfd.readouterr() == ("", "")
    records = [json.loads(line) for line in log.read_text().splitlines()]
    assert [record["message"].split()[1] for record in records] == ["training", "epoch", "training"]
    assert records[1]["images"] == 200
    assert records[2]["status"] == "completed"
    assert list((tmp_path / "csv").rglob("metrics.csv"))
    assert list((tmp_path / "quickstart" / "tensorboard").glob("events.*"))
    assert "quiet:" not in (tmp_path / "quickstart" / "config.yaml").read_text()


@pytest.mark.parametrize("logger", ["WandbLogger", "MLFlowLogger"])
def test_a_logger_whose_package_is_missing_is_one_clear_line(logger, tmp_path, capsys):
    package = {"WandbLogger": "wandb", "MLFlowLogger": "mlflow"}[logger]
    try:
        __import__(package)
    except ModuleNotFoundError:
        with pytest.raises(SystemExit) as stop:
            train([f"--output={tmp_path}", *SMALL, f"--trainer.logger=lightning.pytorch.loggers.{logger}"])
        assert stop.value.code == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert f"Requirement '{package}" in error
        assert "pip install" in error
        assert "Expected a" not in error
    else:
        pytest.skip(f"{package} is installed")


def test_records_are_lines_for_people_and_json_for_programs(tmp_path, capsys):
    with logs(file=tmp_path / "log.jsonl"):
        logger_of("audit").info("going on with %d chunks", 3, extra=fields(chunks=3))
        logger_of("audit").debug("a step")
        assert not is_quiet()
    assert capsys.readouterr().err == "lipcert audit: going on with 3 chunks\n"
    first, second = map(json.loads, (tmp_path / "log.jsonl").read_text().splitlines())
    assert (first["message"], first["chunks"], first["level"]) == ("going on with 3 chunks", 3, "info")
    assert (second["message"], second["level"]) == ("a step", "debug")
    with logs(quiet=True):
        logger_of("train").warning("something")
        assert is_quiet()
    assert capsys.readouterr() == ("", "")
    assert not is_quiet()
