"""Audit results to render: a tiny one with numbers that can be worked out by hand, and a realistic one."""

from collections import Counter
from dataclasses import replace

import numpy as np

from lipcert.certificates import LayerBound
from lipcert.harness.result import AttackRow, AuditResult, GalleryItem, SampleRow

HOSTILE = '<script>alert(\'x\')</script>" onload="y & http://evil.example/ $\\alpha$ id="a" \u4f60\u597d'
FASHION = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)


def tiny_result(**changes):
    """Five samples, three of them attacked; every number of its report can be worked out by hand."""
    image = np.full((1, 4, 4), 0.5, np.float32)
    result = AuditResult(
        created="2025-01-31T12:00:00+00:00",
        command="python -m lipcert.audit runs/tiny --samples 5",
        model_name="tiny",
        model_sha256="a" * 64,
        model_parameters=1234,
        data_name="toy",
        data_split="test",
        data_sha256="b" * 64,
        class_names=("cat", "dog", "emu"),
        environment={"python": "3.11", "torch": "2.13"},
        lipschitz_upper_bound=1.25,
        layers=(LayerBound("0", "Flatten", 1.0, "isometry"), LayerBound("1", "Linear", 1.25, "singular value")),
        norm="l2",
        rule="best",
        arithmetic="real",
        assumptions=("The weights are not changed after the audit.",),
        epsilons=(0.25, 0.5, 1.0),
        rows=(
            SampleRow(0, 0, 0, radius=0.5, distance=1.0, attack="gradient", attacked=True, adversarial_prediction=1),
            SampleRow(1, 1, 1, radius=0.25, distance=1.0, attack="walk", attacked=True, adversarial_prediction=2),
            SampleRow(2, label=2, prediction=2, radius=0.75, attacked=True),
            SampleRow(3, label=1, prediction=0, radius=2.0),
            SampleRow(4, label=0, prediction=0, radius=0.0),
        ),
        attacks=(
            AttackRow("gradient", {"steps": 40, "rate": 0.1}, 3, 1 / 3, 1.0, 0, 1.5, 120, 120, won=1),
            AttackRow("walk", {"start": "noise"}, 3, 1 / 3, 1.0, 0, 0.5, 60, 0, won=1),
        ),
        gallery=(GalleryItem(0, 0, 1, 0.5, 1.0, "gradient", image, image + 0.25),),
        warnings=(),
    )
    return replace(result, **changes)


def refuted_result():
    """The tiny result with one certificate refuted."""
    row = SampleRow(3, 1, 0, 2.0, 1.5, "walk", attacked=True, violated=True, adversarial_prediction=2)
    image = np.zeros((1, 4, 4), np.float32)
    tiny = tiny_result()
    return replace(
        tiny,
        rows=(*tiny.rows[:3], row, tiny.rows[4]),
        gallery=(*tiny.gallery, GalleryItem(3, 1, 2, 2.0, 1.5, "walk", image, image + 0.375)),
    )


def hostile_result():
    """The refuted result with every text that an audit is handed made of markup."""
    subject = ("created", "command", "model_name", "model_sha256", "data_name", "data_split", "data_sha256")
    item = tiny_result().gallery[0]
    return replace(
        refuted_result(),
        **dict.fromkeys(subject, HOSTILE),
        class_names=(HOSTILE, HOSTILE, HOSTILE),
        environment={HOSTILE: HOSTILE},
        layers=(LayerBound(HOSTILE, HOSTILE, 1.0, HOSTILE),),
        rule=HOSTILE,
        norm=HOSTILE,
        arithmetic=HOSTILE,
        assumptions=(HOSTILE,),
        warnings=(HOSTILE,),
        attacks=(AttackRow(HOSTILE, {HOSTILE: HOSTILE}, 1, 1.0, 1.0, 0, 1.0, 1, 1),),
        gallery=(replace(item, attack=HOSTILE),),
    )


def uncertified_result(reason="Nothing is certified, and every distance is what attacks found: no bound is known."):
    """The tiny result of a network without certificates."""
    rows = tuple(replace(row, radius=0.0) for row in tiny_result().rows)
    gallery = tuple(replace(item, radius=0.0) for item in tiny_result().gallery)
    return tiny_result(
        rows=rows, gallery=gallery, rule="none", lipschitz_upper_bound=float("inf"), layers=(), assumptions=(reason,)
    )


def realistic_result(images, labels, *, attacked=10, seed=0, ratio=(2.5, 4.7)):
    """As many samples as there are labels, the first few attacked at about 2.5 to 4.7 times their radius.

    Args:
        images: ``(M, 1, 28, 28)`` float32 for at least the first 12 attacked samples.
        labels: ``(N,)`` true classes.
        attacked: number of samples that are attacked.
        seed: of the made-up radii and distances.
        ratio: the smallest ratio of distance to radius, and one that is rarely exceeded.
    """
    random = np.random.default_rng(seed)
    means = random.uniform(0.5, 1.6, size=10)
    rows, gallery = [], []
    for index, label in enumerate(np.asarray(labels).tolist()):
        right = random.random() < 0.88
        prediction = label if right else (label + 2) % 10
        radius = float(random.gamma(3, means[label] / 3)) if random.random() < 0.98 else 0.0
        row = SampleRow(index, label, prediction, radius)
        if index < attacked and radius > 0:
            distance = radius * (ratio[0] + float(random.gamma(2, (ratio[1] - ratio[0]) / 5)))
            became = (prediction + int(random.choice([2, 2, 2, 4, 4, 6, 9]))) % 10
            attack = str(random.choice(["boundary-walk", "boundary-walk", "ddn", "carlini-wagner-l2"]))
            row = replace(row, distance=distance, attack=attack, attacked=True, adversarial_prediction=became)
            if len(gallery) < 12:
                adversarial = _moved(images[index], distance, random)
                gallery.append(GalleryItem(index, label, became, radius, distance, attack, images[index], adversarial))
        rows.append(row)
    distances = [row.distance for row in rows if row.attacked]
    middle = float(np.median(distances))
    count = len(distances)
    won = Counter(row.attack for row in rows)
    return tiny_result(
        model_name="fashion_mnist-hkr",
        model_parameters=1_045_258,
        data_name="fashion_mnist",
        class_names=FASHION,
        epsilons=(0.1, 0.25, 0.5, 1.0, 1.58),
        rows=tuple(rows),
        gallery=tuple(gallery),
        attacks=(
            AttackRow("carlini-wagner-l2", {"steps": 8000, "binary_search_steps": 6, "stepsize": 0.01},
                      count, 1.0, middle * 1.02, 0, 412.6, 480_000, 480_000, won=won["carlini-wagner-l2"]),
            AttackRow("ddn", {"steps": 1000, "gamma": 0.05}, count, 1.0, middle * 1.05, 0, 8.3, 10_000, 10_000,
                      won=won["ddn"]),
            AttackRow("boundary-walk", {"restarts": 3, "steps": 40}, count, 1.0, middle, 0, 2.1, 3_000, 2_700,
                      won=won["boundary-walk"]),
            AttackRow("hop-skip-jump", {"queries": 2000}, count, 0.9, middle * 1.8, 0, 21.7, 20_000, 0),
        ),
        layers=(
            LayerBound("0", "Normalize", 1.0, "largest |1 / std|"),
            LayerBound("1", "Conv2d(1, 16, 3)", 1.0000004, "power iteration free: FFT grid 30 x 30, zero padding"),
            LayerBound("2", "GroupSort2", 1.0, "permutation of its inputs"),
            LayerBound("3", "ScaledL2NormPool2d", 1.0, "disjoint windows"),
            LayerBound("4", "Conv2d(16, 32, 3)", 1.0000012, "FFT grid 16 x 16, zero padding"),
            LayerBound("5", "GroupSort2", 1.0, "permutation of its inputs"),
            LayerBound("6", "Flatten", 1.0, "isometry"),
            LayerBound("7", "Linear(1568, 10)", 1.0000021, "singular value, float64, plus its rounding error"),
        ),
        lipschitz_upper_bound=1.0000038,
        assumptions=(
            "The network that is deployed has exactly the audited weights and is in evaluation mode.",
            "Inputs are compared in the units that the network is handed: pixels in [0, 1].",
        ),
        environment={"python": "3.11.7", "torch": "2.13.0+cpu", "hardware": "2 CPU cores", "seed": "0"},
    )  # fmt: skip


def _moved(image, distance, random):
    step = random.standard_normal(image.shape).astype(np.float32)
    step *= distance / float(np.linalg.norm(step))
    return np.clip(image + step, 0, 1)
