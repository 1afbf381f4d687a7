"""A new user's five minutes: what the README says first, typed as it is printed, in an empty folder."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from doc_pages import DocPage

TYPED = (
    "python -m lipcert.train",
    "python -m lipcert.audit runs/quickstart",
    "python -m lipcert.verify runs/quickstart/audit",
)


@pytest.mark.parametrize("page", ["README.md", "docs/index.md"])
def test_they_are_printed_in_this_order(page):
    printed = [" ".join(command) for command in DocPage(Path(page)).commands()]
    assert [command for command in printed if command in TYPED] == list(TYPED)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_quickstart_is_trained_audited_verified_and_its_page_is_there(tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "LIPCERT_DATA"}
    path = os.pathsep.join([str(Path(sys.executable).parent), str(environment.get("PATH", ""))])
    for command in TYPED:
        ended = subprocess.run(
            command,
            shell=True,
            cwd=tmp_path,
            env={**environment, "PATH": path},
            capture_output=True,
            text=True,
            check=False,
        )
        assert ended.returncode == 0, ended.stderr
    page = tmp_path / "runs" / "quickstart" / "audit" / "report.html"
    assert "PASS" in page.read_text()
    assert {"network.safetensors", "summary.json", "metrics.csv", "config.yaml"} <= {
        each.name for each in page.parents[1].iterdir()
    }
