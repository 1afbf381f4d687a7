"""A pickle that would run code, planted wherever lipcert reads a user's file: nothing of it ever runs."""

import gzip
import hashlib
import json
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from report_cases import HOSTILE, hostile_result

from lipcert.audit import main as audit
from lipcert.checkpoints import load_checkpoint
from lipcert.compare import read_audits
from lipcert.data import CIFAR10, ImageArrays, ImageFolder, cifar10
from lipcert.data.idx import read_idx
from lipcert.data.safe_pickle import load_byte_arrays
from lipcert.deployment import load_network
from lipcert.errors import InputError
from lipcert.harness.foreign import read_weights
from lipcert.harness.journal import EXAMPLES, ROWS, Journal
from lipcert.report import render_html
from lipcert.runs import load_run, read_config
from lipcert.train import main as train
from lipcert.verification.document import read_report, read_rows


class Bomb:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


@pytest.fixture
def mark(tmp_path):
    return tmp_path / "it-ran"


@pytest.fixture
def bomb(mark):
    content = pickle.dumps({"state_dict": Bomb(mark), b"data": Bomb(mark)}, 2)
    pickle.loads(content)
    assert mark.exists(), "the bomb is a dud, and the tests with it"
    mark.unlink()
    return content


def put(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def archived(path, content):
    """The pickle inside of an archive as torch.save writes it."""
    torch.save({"state_dict": {"weight": torch.zeros(2)}}, path)
    with zipfile.ZipFile(path) as good:
        members = {name: good.read(name) for name in good.namelist()}
    with zipfile.ZipFile(path, "w") as bad:
        for name, member in members.items():
            bad.writestr(name, content if name.endswith("data.pkl") else member)
    return path


def read_journal(folder):
    journal = Journal(folder, {"seed": 0}, shape=(1, 2, 2), dtype=torch.zeros(1).numpy().dtype)
    journal.close()
    assert journal.records == []
    raise InputError("nothing that is whole was found")


def zip_of(path, content):
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("cat/0.png", "dog/0.jpg"):
            archive.writestr(name, content)
    return path


READERS = {
    "checkpoint": lambda folder, bomb: load_checkpoint(put(folder / "last.ckpt", bomb)),
    "checkpoint archive": lambda folder, bomb: load_checkpoint(archived(folder / "last.ckpt", bomb)),
    "weights": lambda folder, bomb: read_weights(put(folder / "weights.pt", bomb)),
    "weights archive": lambda folder, bomb: read_weights(archived(folder / "weights.pth", bomb)),
    "safetensors": lambda folder, bomb: read_weights(put(folder / "weights.safetensors", bomb)),
    "network": lambda folder, bomb: load_network(put(folder / "network.safetensors", bomb)),
    "IDX": lambda folder, bomb: read_idx(put(folder / "x-idx3-ubyte", bomb), dimensions=3),
    "IDX, compressed": lambda folder, bomb: read_idx(put(folder / "x.gz", gzip.compress(bomb)), dimensions=3),
    "byte arrays": lambda folder, bomb: load_byte_arrays(bomb),
    "CIFAR-10": lambda folder, bomb: (
        [put(folder / name, bomb) for name in cifar10.PICKLED] and CIFAR10(root=folder).split("test")
    ),
    "npz": lambda folder, bomb: ImageArrays(put(folder / "x.npz", bomb)).split("test"),
    "npz member": lambda folder, bomb: ImageArrays(zip_of(folder / "x.npz", bomb)).split("test"),
    "zip of images": lambda folder, bomb: ImageFolder(zip_of(folder / "x.zip", bomb), test_size=1).split("test"),
    "image": lambda folder, bomb: (
        [put(folder / "pets" / label / f"{n}.png", bomb) for label in ("cat", "dog") for n in range(3)]
        and ImageFolder(folder / "pets", test_size=2, val_size=0).split("test")
    ),
    "run": lambda folder, bomb: load_run(put(folder / "run" / "config.yaml", bomb).parent),
    "journal rows": lambda folder, bomb: read_journal(put(folder / "partial" / ROWS, bomb).parent),
    "journal examples": lambda folder, bomb: read_journal(put(folder / "partial" / EXAMPLES, bomb).parent),
    "report": lambda folder, bomb: read_report(put(folder / "report.json", bomb)),
    "rows": lambda folder, bomb: read_rows(put(folder / "samples.csv", bomb)),
    "comparison": lambda folder, bomb: read_audits([put(folder / "report.json", bomb), put(folder / "b.json", bomb)]),
}


@pytest.mark.parametrize("reader", READERS)
def test_a_planted_pickle_is_refused_and_does_not_run(reader, tmp_path, mark, bomb, monkeypatch):
    digest = hashlib.md5(bomb, usedforsecurity=False).hexdigest()
    monkeypatch.setattr(cifar10, "MD5", dict.fromkeys(cifar10.MD5, digest))  # the checksum is not what saves us
    with pytest.raises((InputError, ValueError, pickle.UnpicklingError)):
        READERS[reader](tmp_path, bomb)
    assert not mark.exists()


TAGS = ("!!python/object/apply:pathlib.Path.touch", "!!python/object/apply:os.system", "!!python/name:os.system")


@pytest.mark.parametrize("tag", TAGS)
def test_a_configuration_makes_plain_values_alone(tag, tmp_path, mark):
    (tmp_path / "config.yaml").write_text(f"data: {tag} [{mark}]\n")
    with pytest.raises(InputError, match="expected YAML"):
        read_config(tmp_path)
    assert not mark.exists()


@pytest.mark.parametrize("tag", TAGS)
def test_so_does_the_training_commands_configuration(tag, tmp_path, mark, capsys):
    (tmp_path / "config.yaml").write_text(f"name: {tag} [{mark}]\n")
    with pytest.raises(SystemExit) as stop:
        train(["--config", str(tmp_path / "config.yaml"), f"--output={tmp_path}"])
    assert stop.value.code == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
    assert not mark.exists()


def test_aliases_and_keys_given_twice_are_refused(tmp_path):
    bomb = "a: &a [x, x]\n" + "".join(f"{b}: &{b} [*{a}, *{a}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True))
    for text, said in ((bomb, "alias"), ("name: a\nname: b\n", "twice"), ("a: " + "[" * 5000, "nested")):
        (tmp_path / "config.yaml").write_text(text)
        with pytest.raises(InputError, match=said):
            read_config(tmp_path)


def test_a_terminal_is_not_steered_by_what_a_file_holds(tmp_path, capsys):
    run = tmp_path / "a\x1b[2J\nrun"
    run.mkdir()
    assert audit([str(run)]) == 2
    said = capsys.readouterr().err
    assert said.isascii()
    assert "\x1b" not in said
    assert said.count("\n") == 1


def test_names_that_are_markup_are_shown_and_not_run():
    page = render_html(hostile_result())
    assert "alert(" in page
    assert page.count("<script") == 1, "the page's own"
    assert "<script>alert" not in page
    assert HOSTILE not in page


def test_a_report_made_of_markup_does_not_run_beside_another(tmp_path):
    from lipcert.report import write_report
    from lipcert.report.comparison import render_comparison

    for name in ("a", "b"):
        write_report(hostile_result(), tmp_path / name)
    documents = [json.loads((tmp_path / name / "report.json").read_text()) for name in ("a", "b")]
    assert all(HOSTILE in document["data"]["name"] for document in documents)
    page = render_comparison(read_audits([tmp_path / "a", tmp_path / "b"]))
    assert page.count("<script") == 1
    assert HOSTILE not in page
