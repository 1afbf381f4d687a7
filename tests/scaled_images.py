"""A small network and images of noise on which it is right most of the time, in memory and as files."""

import numpy as np
import torch
from torch import nn

from lipcert.data import ImageSet
from lipcert.harness.result import AttackRow, AuditResult, SampleRow

CLASSES = 4


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.ReLU(), nn.Linear(8, CLASSES)).eval()


def noise(samples, seed=1):
    """Images and labels, of which each seventh is wrong."""
    images = torch.randint(256, (samples, 1, 6, 6), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    with torch.no_grad():
        labels = network()(images.float() / 255).argmax(1)
    labels[::7] = (labels[::7] + 1) % CLASSES
    return ImageSet(images, labels)


def write_arrays(folder, images):
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "test_images.npy", images.images.numpy())
    np.save(folder / "test_labels.npy", images.labels.numpy())


def random_result(samples, *, seed, grid=None, attacked=0.7):
    """Rows of every kind: refuted, missed, uncertified, not attacked, equal to one another, and of unlimited radius."""
    random = np.random.default_rng(seed)
    shares, rows = [0.1, 0.2, 0.6, *[0.1 / 3] * 3], []
    for index in range(samples):
        radius = float(random.choice([0.0, 0.25, random.exponential(), 1e-300, 1e12, np.inf], p=shares))
        radius = radius if grid is None or not np.isfinite(radius) else min(round(radius * grid), 10**6) / grid
        row = SampleRow(index, int(random.integers(CLASSES)), int(random.integers(2)), radius)
        if random.random() < attacked:
            distance = float(random.choice([0.5, random.exponential(), radius * 1.2 + 0.01]))
            found = random.random() < 0.9 and np.isfinite(distance)
            row = SampleRow(
                *(index, row.label, row.prediction, radius, distance if found else None, "walk" if found else None),
                attacked=True,
                violated=bool(found and distance < radius),
                adversarial_prediction=int(random.integers(CLASSES)) if found else None,
            )
        rows.append(row)
    near = {row.index: np.inf if row.distance is None else row.distance for row in rows if row.attacked}
    attacks = (AttackRow("walk", {"steps": 3}, len(near), 0.5, 1.0, 0, 1.0, 9, 9, found=near),) if near else ()
    return AuditResult(
        created="2025-01-31",
        command="",
        model_name="tiny",
        model_sha256="0" * 64,
        model_parameters=7,
        data_name="toy",
        data_split="test",
        data_sha256="1" * 64,
        class_names=tuple(map(str, range(CLASSES))),
        environment={},
        lipschitz_upper_bound=1.0,
        layers=(),
        norm="l2" if grid is None else "patch",
        rule="best",
        arithmetic="real",
        assumptions=(),
        epsilons=(0.0, 0.25, 1.0),
        rows=tuple(rows),
        attacks=attacks,
        gallery=(),
        warnings=(),
        grid=grid,
    )
