"""The networks that ship with the package: found by name, checked before use, what their audits say of them."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from audited_run import ARGUMENTS, write_run
from jsonschema import validate

import lipcert
from lipcert import zoo
from lipcert.data import FashionMNISTMini
from lipcert.deployment import file_sha256
from lipcert.errors import InputError
from lipcert.harness.foreign import load_foreign
from lipcert.report import report_schema

ROOT = Path(__file__).parents[1]
LARGEST = 2_000_000  # bytes of a network


@pytest.fixture
def copied(tmp_path, monkeypatch):
    """A zoo that a test may damage."""
    monkeypatch.setattr(zoo, "FOLDER", shutil.copytree(zoo.FOLDER, tmp_path / "zoo"))
    return zoo.FOLDER


@pytest.mark.parametrize("name", zoo.names())
def test_a_network_is_small_and_the_one_that_was_audited(name):
    path = zoo.FOLDER / name / "network.safetensors"
    report, summary = zoo.report(name), zoo.summary(name)
    assert path.stat().st_size < LARGEST
    assert report["model"]["sha256"] == file_sha256(path)
    assert file_sha256(path) in (ROOT / "docs" / "audits" / f"{name.replace('/', '_')}.html").read_text()
    validate(report, report_schema())
    assert report["verdict"] == "pass"
    assert report["violations"] == []
    assert report["attacked"]["samples"] == report["data"]["samples"] == summary["samples"] == 10_000
    assert report["clean_accuracy"] == pytest.approx(summary["clean_accuracy"], abs=1e-6)
    certified = summary["average_certified_radius"]
    assert report["certificates"]["average_certified_radius"] == pytest.approx(certified, abs=1e-6)
    assert summary["command"].endswith(f"experiments/zoo/{name.replace('/', '_')}.yaml")


@pytest.mark.parametrize("name", zoo.names())
def test_the_bound_of_a_network_is_still_what_its_audit_says(name):
    network = lipcert.load(name)
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())
    bound = lipcert.lipschitz_upper_bound(network, (1, 28, 28)).value
    assert bound == pytest.approx(zoo.report(name)["lipschitz"]["upper_bound"], rel=1e-6)


def test_radii_on_the_embedded_test_images_are_as_good_as_on_all():
    test = FashionMNISTMini().split("test")
    certificate = lipcert.certify(lipcert.load("fashion_mnist/robust"), test.inputs())
    shares = zoo.report("fashion_mnist/robust")["certificates"]["certified_accuracy"]
    right = certificate.prediction == test.labels
    for epsilon in ("0.5", "1"):
        share = shares[epsilon]
        found = (right & (certificate.radius >= float(epsilon))).float().mean().item()
        assert abs(found - share) < 4 * (share * (1 - share) / len(test)) ** 0.5  # four standard deviations


def test_every_configuration_is_shipped_and_listed():
    listed = {line.split("  ")[1] for line in (zoo.FOLDER / zoo.CHECKSUMS).read_text().splitlines()}
    there = {path.relative_to(zoo.FOLDER).as_posix() for path in zoo.FOLDER.glob("*/*/*.*") if path.suffix != ".pyc"}
    assert listed == there
    configs = {path.stem for path in (ROOT / "experiments" / "zoo").glob("*.yaml")}
    assert {name.replace("/", "_") for name in zoo.names()} == configs


@pytest.mark.parametrize("name", ["fashion_mnist", "", "../data", "mnist/robust/network.safetensors", None, 3])
def test_an_unknown_name_is_answered_by_the_known_ones(name):
    with pytest.raises(InputError, match=r"one of the networks .*fashion_mnist/robust, mnist/robust, got") as error:
        lipcert.load(name)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("file", zoo.FILES)
@pytest.mark.parametrize("damage", ["truncated", "flipped", "missing", "empty"])
def test_a_damaged_file_is_refused_in_one_line(copied, file, damage):
    path = copied / "mnist" / "robust" / file
    content = bytearray(path.read_bytes())
    if damage == "missing":
        path.unlink()
    else:
        content[len(content) // 2] ^= 1
        path.write_bytes({"truncated": content[:-1], "flipped": content, "empty": b""}[damage])
    read = {"network.safetensors": zoo.load, "report.json": zoo.report, "summary.json": zoo.summary}[file]
    with pytest.raises(InputError, match="install lipcert again") as error:
        read("mnist/robust")
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    assert zoo.summary("fashion_mnist/robust")


@pytest.mark.parametrize("content", [None, "", "no checksums", b"\xff\xfe"])
def test_damaged_checksums_are_refused(copied, content):
    path = copied / zoo.CHECKSUMS
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(InputError, match="checksums"):
        lipcert.load("mnist/robust")


def test_the_audit_command_finds_a_network_by_its_name():
    foreign = load_foreign("lipcert:load", arguments={"name": "mnist/robust"})
    inputs = torch.rand(3, 1, 28, 28)
    assert torch.equal(foreign.network(inputs), lipcert.load("mnist/robust")(inputs))
    with pytest.raises(InputError, match="expected one of the networks"):
        load_foreign("lipcert:load", arguments={"name": "none"})


def test_a_finished_run_is_shipped_with_its_audit(tmp_path):
    run = tmp_path / "runs" / "zoo_mnist_robust"
    run.parent.mkdir()
    write_run(run, **ARGUMENTS)
    (run / "summary.json").write_text('{"status": "completed"}')
    (run / "audit").mkdir()
    (run / "audit" / "report.json").write_text('{"verdict": "pass"}')
    (run / "audit" / "report.html").write_text("<p>pass</p>")
    command = [sys.executable, str(ROOT / "experiments" / "zoo" / "make.py"), "mnist/robust"]
    options = ["--runs", run.parent, "--zoo", tmp_path / "zoo", "--pages", tmp_path / "pages"]
    subprocess.run([*command, *map(str, options)], check=True, timeout=200)
    assert (tmp_path / "pages" / "mnist_robust.html").read_bytes() == (run / "audit" / "report.html").read_bytes()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(zoo, "FOLDER", tmp_path / "zoo")
        assert zoo.names() == ("mnist/robust",)
        inputs = torch.rand(2, 1, 28, 28)
        assert torch.equal(zoo.load("mnist/robust")(inputs), lipcert.load_network(run / "network.safetensors")(inputs))
        assert (zoo.summary("mnist/robust"), zoo.report("mnist/robust")) == (
            {"status": "completed"},
            {"verdict": "pass"},
        )
