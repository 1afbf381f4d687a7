"""Every script under benchmarks/ and experiments/ runs: what nobody runs rots."""

import json
import runpy
import statistics
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from lipcert.errors import InputError
from lipcert.train import main as train

ROOT = Path(__file__).parents[1]

SMALL = {
    "benchmarks/adversarial_training.py": ["--rounds=1", "--batches=2", "--batch=20", "--steps=2"],
    "benchmarks/training_loop.py": ["--rounds=1", "--steps=2"],
    "benchmarks/lipschitz_bound.py": ["--rounds=1", "--images=200", "--layers=2", "--channels=4", "--size=8"],
    "benchmarks/constraint_cost.py": ["--small"],
    "benchmarks/attack_distances.py": [
        *("--images=3", "--some=2", "--steps=2", "--short-steps=2", "--rounds=1"),
        *("--iterations=2", "--short-iterations=1"),
    ],
    "benchmarks/audit_scale.py": ["--samples", "300", "600", "--shard-size=200"],
    "benchmarks/autoattack.py": ["--images=2", "--rounds=1", "--components", "apgd-ce", "fab-t"],
    "benchmarks/patch_certificates.py": ["--images=20", "--classes=12", "--stride=10", "--loop-images=2"],
    "benchmarks/smoothing.py": ["--rounds=1", "--images=2", "--some=1", "--stride=112"],
    "benchmarks/precision.py": ["--rounds=1", "--steps=1", "--batch=8", "--modes", "bfloat16"],
    "benchmarks/transformations.py": ["--images=16", "--rounds=1"],
    "benchmarks/time_to_quality.py": ["--small", "--full", "--steps=2", "--clean=0", "--acr=0"],
}
SMALL_TRAINING = [
    "--model.init_args.network.init_args.channels=[2,4]",
    "--trainer.enable_progress_bar=false",
    "--trainer.max_epochs=1",
    "--trainer.limit_train_batches=2",
]


def run(script, *arguments):
    return subprocess.run(
        [sys.executable, str(ROOT / script), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=True,
        timeout=200,
    )


def test_every_benchmark_has_a_small_configuration():
    assert {f"benchmarks/{path.name}" for path in (ROOT / "benchmarks").glob("*.py")} == set(SMALL)


@pytest.mark.slow
@pytest.mark.parametrize("script", SMALL)
def test_benchmark(script, tmp_path):
    if script == "benchmarks/transformations.py":
        pytest.importorskip("art", reason="adversarial-robustness-toolbox is not installed")
    run(script, *SMALL[script], "--output", tmp_path / "figures.json")
    assert json.loads((tmp_path / "figures.json").read_text())["hardware"]


@pytest.fixture
def content(monkeypatch):
    """What a script defines, by its path."""

    def load(script):
        monkeypatch.syspath_prepend(str((ROOT / script).parent))
        return runpy.run_path(str(ROOT / script))

    return load


def test_the_time_to_quality_is_that_of_the_first_epoch_that_is_good_enough_in_every_respect(content):
    first_reached = content("benchmarks/time_to_quality.py")["first_reached"]
    epochs = [{"epoch": 1, "clean": 0.9, "acr": 0.7}, {"epoch": 2, "clean": 0.8, "acr": 0.9}]
    epochs += [{"epoch": 3, "clean": 0.88, "acr": 0.8}, {"epoch": 4, "clean": 0.9, "acr": 0.9}]
    assert first_reached(epochs, {"clean": 0.88, "acr": 0.8})["epoch"] == 3
    assert first_reached(epochs, {"clean": 0.88, "acr": 0.95}) is None


@pytest.mark.slow
def test_robust_accuracy_is_measured_and_kept(tmp_path):
    train([f"--output={tmp_path}", *SMALL_TRAINING])
    options = ["--norm=linf", "--epsilon=0.2", "--samples=60", "--components", "apgd-ce", "--output"]
    run("experiments/robust_accuracy.py", tmp_path / "quickstart", *options, tmp_path / "robust.json")
    record = json.loads((tmp_path / "robust.json").read_text())
    [network] = record["networks"]
    assert network["samples"] == 60
    assert network["robust_accuracy"] <= network["clean_accuracy"]
    assert sum(network["winners"].values()) == round(60 * network["clean_accuracy"])
    assert record["attack_parameters"]["components"] == "apgd-ce"


@pytest.mark.slow
def test_a_detector_is_measured_on_attacks_and_data_that_it_has_not_seen(tmp_path):
    small = [
        "--data=lipcert.data.FashionMNISTMini",
        "--model.init_args.network.init_args.stages=[[4,0]]",
        "--model.init_args.network.init_args.widths=[]",
        "--trainer.precision=32-true",
        "--trainer.max_epochs=1",
        "--trainer.limit_train_batches=8",
        "--trainer.enable_progress_bar=false",
        f"--output={tmp_path}",
    ]
    train([f"--config={ROOT}/experiments/fashion_mnist/undefended.yaml", "--name=classifier", *small])
    options = ["--name=detector", f"--model.init_args.classifier={tmp_path}/classifier"]
    train([f"--config={ROOT}/experiments/fashion_mnist/detector.yaml", *options, *small])
    for number in range(20):
        noise = torch.randint(256, (28, 28), generator=torch.Generator().manual_seed(number), dtype=torch.uint8)
        (tmp_path / "noise" / f"class {number % 2}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise.numpy()).save(tmp_path / "noise" / f"class {number % 2}" / f"{number}.png")
    other = json.dumps({"path": str(tmp_path / "noise"), "grayscale": True, "test_size": 10, "val_size": 2})
    options = ["--classifier", tmp_path / "classifier", "--other", "lipcert.data.ImageFolder", "--other-args", other]
    options += ["--samples=200", "--output", tmp_path / "rates.json"]
    run("experiments/detector_transfer.py", tmp_path / "detector", *options)
    record = json.loads((tmp_path / "rates.json").read_text())
    own, noise = record["data"].values()
    # of 200 images, 0.05 are wanted, with a standard deviation of 0.015 and that of the validation images
    assert own["false_positive_rate"] < 0.13
    assert noise["samples"] == 10
    found = {each["attack"]: each for each in own["attacks"]}
    assert {"square", "ddn"} & set(found)
    assert found["deepfool"]["epsilon"] is None
    assert all(each["adversarial_samples"] > 0 for each in own["attacks"])


@pytest.mark.slow
def test_votes_are_kept_beside_the_published_rule(tmp_path):
    base = "--model.init_args.network.init_args.network.init_args"
    small = ["--data.init_args.batch_size=50", "--trainer.max_epochs=3", f"{base}.stages=[[8,2]]", f"{base}.width=16"]
    config = ROOT / "experiments" / "mnist" / "columns.yaml"
    data = ["--data=lipcert.data.FashionMNISTMini", "--trainer.enable_progress_bar=false"]
    train([f"--config={config}", f"--output={tmp_path}", "--name=votes", *data, *small])
    run("experiments/keep_votes.py", tmp_path / "votes", tmp_path / "kept.json")
    kept = json.loads((tmp_path / "kept.json").read_text())
    summary = json.loads((tmp_path / "votes" / "summary.json").read_text())
    assert kept["clean_accuracy"] == pytest.approx(summary["clean_accuracy"], abs=1e-6)
    assert kept["certified_accuracy"].items() >= summary["certified_accuracy"].items()
    assert 0 < kept["twice_affected"]["1"] <= kept["certified_accuracy"]["1"] <= kept["clean_accuracy"]


def test_votes_over_splits_are_kept_by_radius(tmp_path):
    base = "--model.init_args.network.init_args"
    small = [f"{base}.levels=20", f"{base}.network.init_args.stages=[[4,0]]", f"{base}.network.init_args.widths=[]"]
    quick = ["--data=lipcert.data.FashionMNISTMini", "--trainer.enable_progress_bar=false", "--trainer.max_epochs=1"]
    config = ROOT / "experiments" / "fashion_mnist" / "l1.yaml"
    train([f"--config={config}", f"--output={tmp_path}", "--name=splits", *quick, *small])
    run("experiments/keep_votes.py", tmp_path / "splits", tmp_path / "kept.json")
    kept = json.loads((tmp_path / "kept.json").read_text())
    summary = json.loads((tmp_path / "splits" / "summary.json").read_text())
    assert kept["views"] == 20
    for name in ("clean_accuracy", "average_certified_radius"):
        assert kept[name] == pytest.approx(summary[name], abs=1e-6)
    shares = list(kept["certified_accuracy"].values())
    assert kept["clean_accuracy"] >= shares[0] >= shares[1] == 0  # of 20 levels, half are less than 0.05


@pytest.mark.slow
def test_runs_are_kept_as_a_results_file(tmp_path):
    for seed in (0, 1):
        train([f"--output={tmp_path}", *SMALL_TRAINING, f"--seed_everything={seed}"])
    runs = [tmp_path / "quickstart", tmp_path / "quickstart-2"]
    run("experiments/keep.py", runs[0], tmp_path / "kept.json")
    one = json.loads((tmp_path / "kept.json").read_text())
    assert one["command"].startswith("python -m lipcert.train --output=")
    assert len(one["curves"]["best"]) == len(one["curves"]["epsilon"])
    assert one["curves"]["best"][0] == one["clean_accuracy"]
    run("experiments/keep.py", *runs, tmp_path / "kept.json")
    both = json.loads((tmp_path / "kept.json").read_text())
    assert both["seeds"] == [0, 1]
    accuracies = [each["clean_accuracy"] for each in both["each"]]
    assert accuracies[0] == one["clean_accuracy"]
    assert both["clean_accuracy"] == pytest.approx(statistics.fmean(accuracies), abs=1e-6)


def seed_record(seed, clean, radius):
    certified = {"certified_accuracy": {"0.5": clean / 2}, "average_certified_radius": radius}
    shared = ("name", "hardware", "data", "arithmetic", "versions")
    return {
        **dict.fromkeys(shared, "same"),
        **{"seed": seed, "seeds": [seed], "samples": 10, "epochs": 3, "train_samples": 100, "seconds": 10.0 * seed},
        **{
            "clean_accuracy": clean,
            **certified,
            "kr": 1.0,
            "images_per_second": 5.0,
            "rules": {"per-class": certified},
        },
        "curves": {"epsilon": [0.0, 1.0], "best": [clean, 0.0]},
    }


def test_seeds_are_combined_to_mean_and_standard_deviation_of_a_sample(content):
    records = [seed_record(seed, clean, 2 * clean) for seed, clean in ((1, 0.6), (2, 0.8), (3, 0.7))]
    record = content("experiments/keep.py")["combined"](records)
    assert record["clean_accuracy"] == 0.7
    assert record["sd"]["clean_accuracy"] == 0.1
    assert record["certified_accuracy"] == {"0.5": 0.35}
    assert record["sd"]["rules"]["per-class"] == {"certified_accuracy": {"0.5": 0.05}, "average_certified_radius": 0.2}
    assert record["curves"] == {"epsilon": [0.0, 1.0], "best": [0.7, 0.0]}
    assert [each["seconds"] for each in record["each"]] == [10, 20, 30]
    assert record["seconds"] == 20


@pytest.mark.parametrize(
    ("config", "status", "message"),
    [
        ({"seed_everything": 1, "name": "other", "model": 1}, "completed", None),
        ({"seed_everything": 1, "model": 2}, "completed", "another model"),
        ({"seed_everything": 1, "model": 1, "data": 1}, "completed", "another data"),
        ({"seed_everything": 0, "model": 1}, "completed", r"different seeds, got \[0, 0\]"),
        ({"seed_everything": 1, "model": 1}, "interrupted", "completed training"),
    ],
)
def test_only_seeds_of_one_configuration_are_combined(tmp_path, content, config, status, message):
    runs = []
    for name, found, how in (("a", {"seed_everything": 0, "model": 1}, "completed"), ("b", config, status)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "summary.json").write_text(json.dumps({"status": how}))
        runs.append(SimpleNamespace(directory=tmp_path / name, config=found))
    check_seeds = content("experiments/keep.py")["check_seeds"]
    if message is None:
        assert check_seeds(runs) is None
    else:
        with pytest.raises(InputError, match=message):
            check_seeds(runs)


def test_the_table_has_every_data_set_with_its_own_budgets(tmp_path, content):
    table = content("experiments/table.py")
    for folder, name, eps, seeds in (("mnist", "a", "1.58", 1), ("cifar10_jpeg", "b", "0.141176", 2)):
        records = [seed_record(seed, 0.6 + 0.1 * seed, 0.5) for seed in range(seeds)]
        for record in records:
            record["certified_accuracy"] = {eps: 0.25}
        kept = records[0] if seeds == 1 else content("experiments/keep.py")["combined"](records)
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"{name}.json").write_text(json.dumps(kept))
        (tmp_path / folder / "frontier.json").write_text("{}")
    link = "experiments/results"
    assert table["tables"](tmp_path).splitlines() == [
        "| MNIST, 10 test images | clean | VRA 1.58 | ACR | KR | training |",
        "| --- | --- | --- | --- | --- | --- |",
        f"| [a]({link}/mnist/a.json) | 0.600 | 0.250 | 0.500 | 1.00 | 3 epochs, 0 s |",
        "",
        "| CIFAR-10 (JPEG copy), 10 test images | clean | VRA 36/255 | ACR | KR | training |",
        "| --- | --- | --- | --- | --- | --- |",
        f"| [b]({link}/cifar10_jpeg/b.json), mean ± sd over 2 seeds | 0.650 ± 0.071 | 0.250 ± 0.000 | 0.500 ± 0.000 "
        "| 1.00 ± 0.00 | 3 epochs, 5 s |",
    ]


def test_the_time_to_quality_is_told_only_if_it_was_reached(content):
    tell = content("experiments/table.py")["time_to_quality"]
    record = {
        "quality": {"clean_accuracy": 0.882, "average_certified_radius": 0.79},
        "notebook": {"epochs": 50, "seconds": 1134.9, "how": "measured in full"},
        "lipcert": {"reached": {"seconds": 20.04}},
        "ratio": 56.63,
        "hardware": "two cores",
    }
    assert "after 20.0 s" in tell(record)
    assert "take 1,135 s, 57 times as long (measured in full in the same run; two cores)" in tell(record)
    assert tell(record | {"lipcert": {"reached": None}}) == ""


@pytest.mark.parametrize(
    ("vary", "expected"),
    [
        ("a.offset=0.1,2", ("a.offset", [0.1, 2])),
        ("a.widths=[8,8],[16]", ("a.widths", [[8, 8], [16]])),
        ("a.offset", "expected --vary NAME=VALUE,VALUE"),
        ("a.offset=", "expected --vary NAME=VALUE,VALUE"),
        ("a.offset=[1", "expected values in YAML"),
    ],
)
def test_the_values_of_a_setting(content, vary, expected):
    read_setting = content("experiments/frontier.py")["read_setting"]
    if isinstance(expected, tuple):
        assert read_setting(vary) == expected
    else:
        with pytest.raises(InputError, match=expected):
            read_setting(vary)


def test_a_family_skips_what_is_finished_and_resumes_what_is_not(tmp_path, content):
    script = content("experiments/frontier.py")
    family = script["Family"]("quick_offset", "loss.offset", {}, ["--trainer.max_epochs=2"])
    directory = tmp_path / "0.5"

    def arguments():
        return script["training_arguments"](directory, Path("base.yaml"), family, 0.5)

    place = [f"--output={tmp_path}", "--name=0.5"]
    assert arguments() == ["--config", "base.yaml", *place, "--trainer.max_epochs=2", "--loss.offset=0.5"]
    directory.mkdir()
    assert arguments() == ["--resume", str(directory)]
    (directory / "summary.json").write_text('{"status": "interrupted"}')
    assert arguments() == ["--resume", str(directory)]
    (directory / "summary.json").write_text('{"status": "completed"}')
    assert arguments() is None


def test_a_family_is_not_continued_with_another_configuration(tmp_path, content):
    family = content("experiments/frontier.py")["Family"]
    start = tmp_path / "family.json"
    for _ in range(2):
        family("a", "loss.offset", {"seed": 0}, []).check_same_as(start)
    with pytest.raises(InputError, match="another --output"):
        family("a", "loss.offset", {"seed": 1}, []).check_same_as(start)


@pytest.mark.slow
def test_a_frontier_is_trained_kept_and_drawn(tmp_path):
    arguments = [ROOT / "lipcert" / "quickstart.yaml", "--vary=model.init_args.loss.init_args.min_margin=0.1,0.5"]
    arguments += [f"--output={tmp_path / 'runs'}", f"--results={tmp_path}", *SMALL_TRAINING]
    for more, splits in (([], {"val"}), (["--test"], {"val", "test"})):
        found = run("experiments/frontier.py", *arguments, *more)
        points = json.loads((tmp_path / "frontier.json").read_text())["families"]["quickstart_min_margin"]["points"]
        assert [point["value"] for point in points] == [0.1, 0.5]
        assert all({"val", "test"} & set(point) == splits for point in points)
        assert (tmp_path / "frontier.png").read_bytes().startswith(b"\x89PNG")
    assert found.stdout.count("finished already") == 2
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"quickstart_min_margin"}
    assert len(list((tmp_path / "runs").glob("*/*/summary.json"))) == 2


def test_the_pictures_are_drawn(content):
    picture = content("experiments/picture.py")
    assert len(picture["picture"]().axes) == 2
    families = {}
    for number, name in enumerate(("a", "b")):
        shares = ((0.9, 0.4), (0.8, 0.5), (0.7, 0.6))
        figures = [seed_record(number, *share) for share in shares]
        families[name] = {"points": [{"val": each, "test": each} for each in figures]}
    left, right = picture["frontier"]({"data": "mnist", "families": families}).axes
    assert left.get_title() == "mnist, 10 test images"
    assert [line.get_label() for line in right.lines] == ["a", "b"]
    assert list(right.lines[0].get_xdata()) == [0.7, 0.8, 0.9]
    assert list(right.lines[0].get_ydata()) == [0.6, 0.5, 0.4]
    del families["a"]["points"][1]["test"]
    assert picture["frontier"]({"data": "mnist", "families": families}).axes[0].get_title() == (
        "mnist, 10 validation images"
    )
