"""The arena: what its configuration may say, that it believes no attack, keeps what it found, and unmasks a defense."""

import csv
import doctest
import importlib
import io
import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from read_page import Page
from torch import nn

from lipcert.data import ImageSet
from lipcert.errors import InputError

ROOT = Path(__file__).parents[1]
HERE = ROOT / "experiments" / "arena"
MODULES = sorted(path.stem for path in HERE.glob("*.py"))
CONFIGS = sorted(path.name for path in HERE.glob("*.yaml"))

sys.path.insert(0, str(HERE))
arena, assembly, contest, judging, lineup, reading, scoreboard, trainings, verdicts = (
    importlib.import_module(name)
    for name in (
        "arena",
        "assembly",
        "contest",
        "judging",
        "lineup",
        "reading",
        "scoreboard",
        "trainings",
        "verdicts",
    )
)
arena_page = importlib.import_module("arena_page")
sys.path.remove(str(HERE))


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    """Class paths of the arena's own modules can be imported, as in the command."""
    monkeypatch.syspath_prepend(str(HERE))


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_in_docstrings_run(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0


@pytest.mark.parametrize("name", CONFIGS)
def test_every_configuration_can_be_read_and_its_classes_be_imported(name):
    read = reading.read_lineup(HERE / name)
    assembly.check_classes(read)
    assert read.shown


ATTACK = {"class_path": "lipcert.attacks.LossAscent", "init_args": {"steps": 10}}
MARGIN = {"class_path": "lipcert.attacks.LossAscent", "init_args": {"steps": 10, "loss": "margin"}}
SQUARE = {"class_path": "lipcert.attacks.SquareAttack", "init_args": {"queries": 5}}


def content(**changes):
    """What a configuration of one contestant holds."""
    attacks = {"transfer": [ATTACK], "not adapted": [ATTACK], "black box": [SQUARE], "adaptive": [MARGIN]}
    usual = {
        "name": "one",
        "data": {"class_path": "lipcert.data.FashionMNISTMini"},
        "threats": [{"norm": "linf", "epsilon": 0.2}],
        "attacks": attacks,
        "contestants": {"undefended": {"network": {"config": "experiments/fashion_mnist/quick.yaml"}}},
    }
    return {name: value for name, value in (usual | changes).items() if value is not None}


def read(tmp_path, **changes):
    path = tmp_path / "arena.yaml"
    path.write_text(yaml.safe_dump(content(**changes), sort_keys=False))
    return reading.read_lineup(path)


def one(**entry):
    own = {"network": {"config": "experiments/fashion_mnist/quick.yaml"}}
    return {"contestants": {"undefended": own, "other": {"network": "undefended", **entry}}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"threats": None}, "expected threats in the configuration, found none"),
        ({"thraets": []}, "got thraets"),
        ({"threats": [{"norm": "l1", "epsilon": 1}]}, "l2 or linf, got 'l1'"),
        ({"threats": [{"norm": "l2", "epsilon": 0}]}, "finite epsilon > 0 of a threat, got 0"),
        ({"threats": [{"norm": "l2", "epsilon": 1}] * 2}, "different threats"),
        ({"samples": 0}, "samples and calibration >= 1"),
        ({"false_positive_rate": 1}, "between 0 and 1, got 1"),
        ({"control": 1}, "control > 1, got 1"),
        ({"undefended": "nobody", "sources": ["nobody"]}, "got 'nobody'; there are undefended"),
        ({"sources": []}, "first of the sources to be undefended"),
        ({"attacks": {"transfer": [ATTACK]}}, "found no adaptive, black box, not adapted"),
        ({"attacks": content()["attacks"] | {"psychic": [ATTACK]}}, "got psychic"),
        ({"attacks": content()["attacks"] | {"adaptive": []}}, "at least one attack in attacks.adaptive"),
        ({"contestants": {"undefended": {}}}, "expected network in contestants.undefended"),
        ({"contestants": {"undefended": {"network": {"config": "a", "run": "b"}}}}, "got config, run"),
        ({"contestants": {"undefended": {"network": {"run": "runs/none"}}}}, "found nothing at"),
        (one(network="nobody"), "got 'nobody'; there are undefended, other"),
        (one(adaptive=["deploid"]), "as a view in contestants.other, got 'deploid'"),
        (one(adaptive="deployed"), "expected a list in contestants.other.adaptive, got str"),
        (one(claim={"text": "a"}), "expected source in contestants.other.claim"),
        (one(claim={"text": "a", "source": "b", "threats": ["l2-9"]}), "among linf-0.2 in contestants.other.claim"),
    ],
)
def test_a_configuration_that_makes_no_sense_gets_one_clear_line(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        read(tmp_path, **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (one(defense={"class_path": "lipcert.defenses.Nothing"}), "got 'lipcert.defenses.Nothing'"),
        (one(detector={"class_path": "lipcert.defenses.BinaryDetector", "around": "x"}), "got 'x'"),
        (
            {"attacks": content()["attacks"] | {"adaptive": [{"class_path": "torch.nn.ReLU"}]}},
            "to give Attack, got ReLU",
        ),
        (
            {"attacks": content()["attacks"] | {"adaptive": [{**SQUARE, "init_args": {"questions": 1}}]}},
            "arguments that lipcert.attacks.SquareAttack accepts",
        ),
        (
            {
                "attacks": content()["attacks"] | {"adaptive": [{"class_path": "lipcert.attacks.DeepFool"}]},
                "threats": [{"norm": "linf", "epsilon": 0.1}],
            },
            None,
        ),
        (
            {"attacks": content()["attacks"] | {"adaptive": [{"class_path": "lipcert.attacks.CarliniWagner"}]}},
            "for linf, which carlini-wagner-l2 cannot do",
        ),
    ],
)
def test_classes_are_looked_up_before_anything_is_trained(tmp_path, changes, message):
    found = read(tmp_path, **changes)
    if message is None:
        assembly.check_classes(found)
    else:
        with pytest.raises(InputError, match=message):
            assembly.check_classes(found)


def test_only_some_contestants_have_a_row_and_the_undefended_one_always_has(tmp_path):
    found = read(tmp_path, **one())
    assert [contestant.name for contestant in arena.chosen(found, ["undefended"], None, None).shown] == ["undefended"]
    assert [contestant.name for contestant in arena.chosen(found, ["other"], 7, 3).shown] == ["undefended", "other"]
    assert (arena.chosen(found, None, 7, 3).samples, arena.chosen(found, None, 7, 3).seed) == (7, 3)
    with pytest.raises(InputError, match="among undefended, other, got nobody"):
        arena.chosen(found, ["nobody"], None, None)
    with pytest.raises(InputError, match="--samples >= 1"):
        arena.chosen(found, None, 0, None)


def test_a_run_of_another_configuration_is_not_taken_for_this_one(tmp_path):
    source = lineup.Source(config=ROOT / "experiments/fashion_mnist/quick.yaml", arguments=("--trainer.max_epochs=2",))
    wanted = trainings.wanted_settings(source)
    assert wanted["trainer.max_epochs"] == 2
    assert wanted["model.init_args.network.init_args.widths.0"] == 512
    run = tmp_path / "fashion_mnist_quick"
    run.mkdir()
    (run / "summary.json").write_text('{"status": "completed", "seconds": 1}')
    settings = yaml.safe_load(source.config.read_text())
    (run / "config.yaml").write_text(yaml.safe_dump(settings))
    with pytest.raises(InputError, match=r"expected trainer.max_epochs = 2 in the run .*, found 4"):
        trainings.trained(source, [tmp_path], {})
    with pytest.raises(InputError, match="expected an exported network"):  # the right one, as far as settings tell
        trainings.trained(replace(source, arguments=()), [tmp_path / "none", tmp_path], {})


def test_arguments_of_a_training_may_name_the_runs_of_others():
    runs = {"teacher": Path("runs/a")}
    assert trainings.filled("--model.init_args.teacher={teacher}", runs) == "--model.init_args.teacher=runs/a"
    with pytest.raises(InputError, match="got 'nobody'"):
        trainings.filled("--model.init_args.teacher={nobody}", runs)


class Two(nn.Module):
    """Logits (a, b) of an image of two pixels, steepened: their softmax is saturated, the cross-entropy flat."""

    def __init__(self, network=None, factor=1.0):
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor), requires_grad=False)

    def forward(self, inputs):
        return inputs.flatten(1) * self.factor


class Rejecting(Two):
    """Rejects, as class 2, what has a dark second pixel."""

    def forward(self, inputs):
        logits = super().forward(inputs)
        return torch.cat([logits, torch.where(inputs[:, :, :, 1] < 0.5, 9.0, -9.0).flatten(1)], 1)


def pixels(*values):
    return torch.tensor(values).view(-1, 1, 1, 2)


def judge(network, candidates, *, rejects=False, epsilon=0.51):
    inputs = pixels((0.75, 0.5)).expand(len(candidates), 1, 1, 2)
    labels = torch.zeros(len(candidates), dtype=torch.int64)
    return judging.judged(network.eval(), inputs, labels, candidates, norm="linf", epsilon=epsilon, rejects=rejects)


def test_a_judge_counts_what_fools_within_the_budget_and_nothing_else():
    found = judge(Two(), pixels((0.5, 0.75), (0.75, 0.5), (0.25, 1.0), (0.125, 1.0)))
    assert found.success.tolist() == [True, False, True, False]
    assert found.distance.tolist() == pytest.approx([0.25, math.inf, 0.5, math.inf])


def test_a_rejected_example_is_no_success():
    candidates = pixels((0.25, 0.4), (0.25, 0.6))
    assert judge(Rejecting(), candidates, rejects=True).success.tolist() == [False, True]
    assert judge(Two(), candidates).success.tolist() == [True, True]


def images():
    """Forty images of two pixels, the first the larger one of every other."""
    generator = torch.Generator().manual_seed(0)
    gap = torch.randint(10, 80, (40,), generator=generator)
    low = torch.randint(0, 100, (40,), generator=generator)
    first = torch.arange(40) % 2 == 0
    values = torch.stack([torch.where(first, low + gap, low), torch.where(first, low, low + gap)], 1)
    return ImageSet(values.to(torch.uint8).view(-1, 1, 1, 2), (~first).long())


HIDDEN = {"class_path": "test_arena.Two", "init_args": {"factor": 1e5}}
RESCALED = {"class_path": "test_arena.Two", "init_args": {"factor": 1.0}}


class Score(nn.Module):
    """The value of the first pixel."""

    def __init__(self, network):
        super().__init__()

    def forward(self, inputs):
        return inputs[:, 0, 0, 0]


def contestants(tmp_path, **changes):
    entries = {
        "masked": {"defense": HIDDEN, "adaptive": [RESCALED], "claim": {"text": "hides gradients", "source": "here"}},
        "detector": {"detector": {"class_path": "test_arena.Score"}},
    }
    named = one()["contestants"] | {name: {"network": "undefended", **entry} for name, entry in entries.items()}
    return read(tmp_path, **{"contestants": named, "samples": 40, **changes})


@pytest.fixture
def played(tmp_path, monkeypatch):
    """Lets stub contestants fight, and returns what came out; on the same folder each time."""
    monkeypatch.setitem(sys.modules, "test_arena", sys.modules[__name__])

    def play(**changes):
        found = contestants(tmp_path, **changes)
        found = replace(found, contestants={k: v for k, v in found.contestants.items() if k != "other"})
        network = Two().eval()
        networks = {name: trainings.Trained(network, 2.0, tmp_path) for name in found.contestants}
        fighters = [assembly.assembled(entry, found, networks, images()) for entry in found.shown]
        ring = contest.Arena(found, images(), tmp_path / "journal")
        entries = arena.contested(ring, fighters, networks)
        return found, scoreboard.contestants_record(entries, found, ring.labels), ring

    return play


def test_hidden_gradients_are_unmasked_by_the_adaptive_attack(played):
    _, (undefended, masked, _), _ = played()
    plain, hidden = undefended["threats"]["linf-0.2"], masked["threats"]["linf-0.2"]
    # the class changes where the gap is below 2 epsilon
    gaps = (images().inputs()[:, 0, 0, 0] - images().inputs()[:, 0, 0, 1]).abs()
    expected = (gaps > 0.4).double().mean().item()
    assert plain["robust"]["adaptive"] == plain["robust"]["not adapted"] == expected == plain["worst"]
    assert hidden["robust"]["not adapted"] > expected + 0.3
    assert hidden["robust"]["adaptive"] == expected
    assert hidden["robust"]["transfer from undefended"] == expected
    assert masked["claim"]["fate"] == "falls"


def test_a_detector_is_calibrated_and_its_operating_point_told(played):
    found, (_, _, detector), ring = played(false_positive_rate=0.25)
    assert detector["detector"]["target_false_positive_rate"] == 0.25
    assert detector["detector"]["false_positive_rate"] == pytest.approx(0.25, abs=1 / len(ring.labels) + 1e-9)
    flagged = images().inputs()[:, 0, 0, 0] > detector["detector"]["threshold"]
    assert detector["clean_accuracy"] == (~flagged).double().mean().item()  # all are right, and flagged ones are wrong
    under = detector["threats"]["linf-0.2"]
    assert set(under["detected"]) == set(lineup.KINDS)
    # what is flagged unattacked counts as lost, what is flagged after the attack as saved
    assert under["worst"] <= detector["clean_accuracy"]
    assert (found.samples, len(ring.labels)) == (40, 40)


def journal(tmp_path):
    return {path.relative_to(tmp_path): path.stat().st_mtime_ns for path in (tmp_path / "journal").rglob("*.json")}


def robust(records):
    return [[under["robust"] for under in each["threats"].values()] for each in records]


def test_what_was_found_is_kept_and_only_what_changed_is_done_again(played, tmp_path):
    first, kept = played()[1], journal(tmp_path)
    assert played()[1] == first
    assert journal(tmp_path) == kept
    broken = next(path for path in kept if "adaptive" in path.name)
    (tmp_path / broken).write_text('{"key": ')
    assert robust(played()[1]) == robust(first)
    assert {path for path, time in journal(tmp_path).items() if time != kept[path]} == {broken}
    played(seed=1)
    changed = {path for path, time in journal(tmp_path).items() if time != kept[path]}
    assert changed == {path for path in kept if path.name != "facts.json"}


def test_an_interruption_keeps_what_is_finished_and_ends_in_one_line(played, tmp_path, monkeypatch, capsys):
    done = []

    def interrupted(*arguments, **options):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(arguments)
        return judging.judged(*arguments, **options)

    monkeypatch.setattr(contest, "judged", interrupted)
    monkeypatch.setattr(arena, "_run", lambda *arguments: played())
    assert arena.main(["--config=a", f"--output={tmp_path}"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("arena: error: interrupted; what is finished is kept in ")
    assert error.count("\n") == 1
    assert len([path for path in journal(tmp_path) if path.name != "facts.json"]) == 2
    monkeypatch.setattr(contest, "judged", judging.judged)
    before = journal(tmp_path)
    played()
    assert before.items() <= journal(tmp_path).items()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "arguments are required: --config, --output"),
        (["--config=none.yaml", "--output=out"], "expected a configuration, found none at none.yaml"),
        (["--config", str(HERE / "mini.yaml"), "--output=out", "--only", "nobody"], "got nobody"),
        (["--config", str(HERE / "mini.yaml"), "--output", str(HERE / "mini.yaml")], "expected a folder for --output"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, message, capsys):
    assert arena.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("arena: error: ")
    assert message in error
    assert error.count("\n") == 1


def test_help_teaches(capsys):
    assert arena.main(["--help"]) == 0
    assert "--config experiments/arena/mini.yaml" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("published", "worst", "fate"),
    [
        (0.9, 0.10, "falls"),
        (0.9, 0.15, "falls"),
        (0.9, 0.16, "survives in part"),
        (0.9, 0.84, "survives in part"),
        (0.9, 0.85, "survives"),
        (0.12, 0.10, "falls"),
    ],
)
def test_a_verdict_follows_from_the_numbers(published, worst, fate):
    found = verdicts.verdict(published=published, transfer=0.5, worst=worst, undefended=0.1, threat="L2 1")
    assert found.fate == fate
    assert found.sentence.endswith(f"undefended 10.0 %: it {fate}.")


def record(**under):
    usual = {
        "certified": None,
        "robust": {"transfer from undefended": 0.8, "not adapted": 0.7, "black box": 0.6, "adaptive": 0.2},
        "worst": 0.2,
        "strongest": "adaptive",
        "not_adapted": 0.7,
        "median_perturbation": 0.1,
        "refuted": None,
        "detected": None,
        "control": 0.0,
    }
    return {
        "name": "undefended",
        "title": "<b>bold</b> & co",
        "parameters": 10,
        "training_seconds": None,
        "milliseconds_an_image": 0.5,
        "clean_accuracy": 0.9,
        "detector": None,
        "claim": {
            "text": "it <works>",
            "source": "them & us",
            "fate": "falls",
            "verdicts": {"linf-0.2": {"fate": "falls", "sentence": "it falls."}},
            "note": "",
        },
        "threats": {"linf-0.2": usual | under},
    }


@pytest.mark.parametrize(
    ("under", "message"),
    [
        ({}, None),
        ({"robust": record()["threats"]["linf-0.2"]["robust"] | {"black box": 0.1}}, "not the strongest"),
        ({"control": 0.5}, "even at 5 times the budget 50.0% withstand"),
        ({"certified": 0.1, "refuted": 1}, "1 certificates were refuted"),
        ({"certified": 0.3, "refuted": 0}, "fewer samples stand than are certified"),
    ],
)
def test_what_speaks_against_the_attacks_is_said(tmp_path, under, message):
    found = scoreboard.warnings_of([record(**under)], read(tmp_path))
    assert found == [] if message is None else len(found) == 1 and message in found[0]


def test_a_detector_that_misses_its_false_positive_rate_is_named(tmp_path):
    detector = {"target_false_positive_rate": 0.05, "false_positive_rate": 0.065}
    (warning,) = scoreboard.warnings_of([record() | {"detector": detector}], read(tmp_path))
    assert "flags 6.5% of the clean test images" in warning


def test_the_page_is_whole_and_escapes_what_it_was_given(tmp_path):
    found = read(tmp_path)
    full = {
        "name": "<script>alert(1)</script>",
        "command": "python arena.py --config <x>",
        "created": "2025-01-31T12:00:00+00:00",
        "seed": 0,
        "attack_seconds": 1.0,
        "control": 5,
        "data": {"name": "mini", "split": "test", "samples": 10, "split_samples": 100, "pixels": 784, "sha256": "0"},
        "attacks": {"adaptive": ['{"class_path": "a"}']},
        "environment": {"CPU cores": "2", "threads": "1"},
        "contestants": [record(certified=0.1, refuted=0)],
        "warnings": ["read <this>"],
    }
    html = arena_page.render_page(full, found)
    page = Page(html)
    assert "<script>alert" not in html
    assert "<b>bold</b>" not in html
    assert "it <works>" in page.text
    assert "Of 1 published claims 0 survive, 0 survive in part, and 1 falls" in page.text
    assert not [tag for tag, attrs in page.tags if tag in ("link", "img") or "src" in attrs]
    assert any(tag == "svg" for tag, _ in page.tags)
    rows = list(csv.DictReader(io.StringIO(scoreboard.csv_table(full["contestants"], found))))
    assert (rows[0]["worst"], rows[0]["certified"], rows[0]["training_seconds"]) == ("0.2", "0.1", "")


def test_the_small_arena_runs_and_runs_again_from_what_it_kept(tmp_path, capsys):
    arguments = ["--config", str(HERE / "mini.yaml"), "--output", str(tmp_path), "--samples=30"]
    assert arena.main(arguments) == 0
    first = json.loads((tmp_path / "arena.json").read_text())
    found = {each["name"]: each for each in first["contestants"]}
    assert set(found) == {"undefended", "jpeg", "squeezing", "certified"}
    for each in found.values():
        for under in each["threats"].values():
            assert under["worst"] <= min(under["robust"].values())
            assert not under["refuted"]
            assert under["certified"] is None or under["certified"] <= under["worst"]
    assert found["certified"]["threats"]["l2-1.5"]["certified"] is not None
    assert Page((tmp_path / "arena.html").read_text()).text.count("Published claims") == 1
    kept = journal(tmp_path)
    assert arena.main([*arguments, "--keep", str(tmp_path / "kept"), "--command=python arena.py"]) == 0
    assert {path.name for path in (tmp_path / "kept").iterdir()} == {"mini.json", "mini.csv", "mini.html"}
    assert json.loads((tmp_path / "kept" / "mini.json").read_text())["command"] == "python arena.py"
    again = json.loads((tmp_path / "arena.json").read_text())
    assert journal(tmp_path) == kept
    assert again["contestants"] == first["contestants"]
    assert "robust at worst" in capsys.readouterr().out


def test_a_training_that_fails_says_why_in_one_line(tmp_path):
    source = lineup.Source(config=ROOT / "experiments/fashion_mnist/quick.yaml", arguments=("--trainer.max_epochs=no",))
    with pytest.raises(InputError, match=r"training of .*fashion_mnist_quick to succeed, got lipcert train: error: "):
        trainings.trained(source, [tmp_path], {})
