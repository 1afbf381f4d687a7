import json
from types import SimpleNamespace

import pytest
import torch
from linear_problem import linear_network, linear_problem
from safetensors.numpy import load_file
from torch import nn

from lipcert import auditing
from lipcert.audit import main
from lipcert.data import ImageSet
from lipcert.harness import BUDGETS

NETWORK, PIXELS, PREDICTION, DISTANCE = linear_problem(samples=12)
BRIGHTNESS = PIXELS.float().flatten(1).mean(1) / 255
WALK = ["--attacks", "boundary-walk", "--samples", "12"]
THRESHOLD = float(BRIGHTNESS.sort().values[9:11].mean())  # two are brighter
DETECTOR = ["--detector", "test_audit_detectors:Brightness", "--threshold", f"{THRESHOLD:.6f}"]


class Brightness(nn.Module):
    """Suspects what is bright."""

    def __init__(self, weight=1.0):
        super().__init__()
        self.weight = weight

    def forward(self, inputs):
        return self.weight * inputs.flatten(1).mean(1)


class Flag(Brightness):
    def forward(self, inputs):
        return super().forward(inputs) > 0.5


class Rejecting(nn.Module):
    """A network with a logit of its own for rejection."""

    def __init__(self, network=NETWORK):
        super().__init__()
        self.network = network
        self.last = linear_network(torch.full((1, 16), 50.0), torch.tensor([-800 * THRESHOLD]))

    def forward(self, inputs):
        return torch.cat([self.network(inputs), self.last(inputs)], dim=1)


class Hidden(nn.Module):
    """Hides its gradients."""

    def __init__(self, network=NETWORK):
        super().__init__()
        self.network = network

    def forward(self, inputs):
        return self.network(inputs.mul(255).round() / 255)


def trained():
    return NETWORK


def with_other_classes():
    return linear_network(torch.zeros(3, 16))


class TinyData:
    name, class_names = "tiny", ("a", "b", "c", "d")

    def split(self, which):
        return ImageSet(PIXELS, PREDICTION)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run directory whose contents are handed over without reading."""
    (tmp_path / "run").mkdir()
    loaded = SimpleNamespace(network=NETWORK, data=TinyData(), network_sha256="f" * 64, directory=tmp_path / "run")
    monkeypatch.setattr(auditing, "load_run", lambda path: loaded)
    return loaded


def report(run):
    return json.loads((run.directory / "audit" / "report.json").read_text())


def audited(run, *options):
    code = main([str(run.directory), *WALK, *options])
    return code, report(run)


def test_a_detector_is_audited_with_the_network(run, capsys):
    code, written = audited(run, *DETECTOR)
    assert code == 0
    assert written["clean_accuracy"] == 10 / 12
    assert any("flags 2 of 12 clean images" in warning for warning in written["warnings"])
    assert [attack["name"] for attack in written["attacks"]] == ["boundary-walk with detector"]
    assert written["certificates"]["rule"] == "best"
    assert any("or the input is flagged" in assumption for assumption in written["assumptions"])
    assert written["model"]["sha256"] != "f" * 64
    assert written["model"]["name"] == f"run with test_audit_detectors:Brightness at {THRESHOLD:g}"
    saved = load_file(run.directory / "audit" / "adversarial.safetensors")
    assert bool((saved["adversarial"].mean((1, 2, 3)) <= THRESHOLD).all())
    assert "rejected" in (run.directory / "audit" / "report.html").read_text()


def test_a_detector_makes_the_adversarys_way_longer(run):
    alone = audited(run)[1]["attacks"][0]["median_distance"]
    both = audited(run, *DETECTOR[:2], "--threshold", f"{float(BRIGHTNESS.max()) + 1e-4:.6f}")[1]
    assert both["clean_accuracy"] == 1.0
    assert both["attacks"][0]["median_distance"] >= alone


def test_another_threshold_is_another_audit(run):
    sums = {audited(run, *DETECTOR[:2], "--threshold", value)[1]["model"]["sha256"] for value in ("0.9", "0.8", "0.9")}
    assert len(sums) == 2


def test_flags_are_warned_about_and_the_budgets_attacks_are_joint(run, monkeypatch):
    monkeypatch.setitem(BUDGETS, "quick", lambda epsilons: BUDGETS["standard"](epsilons))
    assert main([str(run.directory), "--samples", "3", "--detector", "test_audit_detectors:Flag"]) == 0
    written = report(run)
    assert any(warning.startswith("Detector without a slope") for warning in written["warnings"])
    assert written["attacks"]
    assert all(attack["name"].endswith(" with detector") for attack in written["attacks"])


def test_a_network_that_rejects_by_itself_is_audited(run):
    run.network = Rejecting().eval()
    code, written = audited(run, "--rejects")
    assert code == 0
    assert written["certificates"]["rule"] == "best"
    assert written["model"]["sha256"] == "f" * 64
    rejected = run.network(PIXELS.float() / 255).argmax(1) == 4
    assert 0 < int(rejected.sum()) < 12
    assert any(f"flags {int(rejected.sum())} of 12 clean images" in warning for warning in written["warnings"])


@pytest.mark.parametrize(("network", "said"), [(NETWORK, False), (Hidden().eval(), True)], ids=["open", "hidden"])
def test_a_surrogate_shows_hidden_gradients(run, network, said, monkeypatch):
    run.network = network
    monkeypatch.setattr(auditing, "certify", lambda model, inputs, **options: auditing.certify_or_not(NETWORK, inputs))
    written = audited(run, "--surrogate", "test_audit_detectors:trained")[1]
    assert any(warning.startswith("Transfer beating white box") for warning in written["warnings"]) == said


def test_a_surrogate_may_be_a_run(run):
    assert audited(run, "--surrogate", str(run.directory))[0] == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--detector", "nowhere:Detector"], "ModuleNotFoundError"),
        (["--detector", "test_audit_detectors:Brightness", "--detector-args", "3"], "JSON object"),
        (["--detector", "torch.nn:Flatten"], "flags or scores of shape"),
        (["--detector", "test_audit_detectors:Brightness", "--threshold", "high"], "expected a number for --threshold"),
        (["--detector", "test_audit_detectors:Brightness", "--threshold", "nan"], "got nan"),
        (["--detector", "test_audit_detectors:Brightness", "--rejects"], "--detector or --rejects, got both"),
        (["--rejects"], "expected 5 logits, one a class and one for rejection, got 4"),
        (["--detector-args", "{}"], "expected --detector beside --detector-args"),
        (["--detector-weights", "a.pt"], "expected --detector beside --detector-weights"),
        (["--surrogate", "nowhere:Network"], "ModuleNotFoundError"),
        (["--surrogate", "test_audit_detectors:with_other_classes"], "4 classes, got one with 3"),
        (["--self-test", "--rejects"], "beside --self-test"),
        (["--self-test", "--surrogate", "test_audit_detectors:trained"], "beside --self-test"),
    ],
    ids=lambda case: " ".join(case[-2:]) if isinstance(case, list) else None,
)
def test_unusable_options_exit_with_2_and_one_line(run, capsys, options, message):
    assert main([str(run.directory), *WALK, *options]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert message in line
    assert not (run.directory / "audit" / "report.json").exists()
