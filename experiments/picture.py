"""Draw the README's pictures from results files, and beside each frontier.json what it says.

python experiments/picture.py
"""

from __future__ import annotations

import json
from itertools import cycle
from pathlib import Path
from typing import Any

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "experiments" / "results"
BLUE, ORANGE, GREEN, GREY = "#1f6feb", "#d9730d", "#1a7f37", "#6b7280"
STYLES = (("-", "o"), ("--", "s"), (":", "^"), ("-.", "D"))


def picture() -> Figure:
    """What is certified by whom, and how near attacks came to the tutorial network's radii."""
    record = json.loads((RESULTS / "fashion_mnist" / "hkr.json").read_text())
    balanced = json.loads((RESULTS / "fashion_mnist" / "balanced.json").read_text())["curves"]
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    curves = record["curves"]
    left.plot(balanced["epsilon"], balanced["best"], color=GREEN, lw=2, label="lipcert's balanced network")
    left.plot(curves["epsilon"], curves["best"], color=BLUE, lw=2, label="the tutorial's network, lipcert's radii")
    left.plot(curves["epsilon"], curves["per-class"], color=GREY, lw=2, ls="--", label="the same, margin / 2")
    left.fill_between(curves["epsilon"], curves["per-class"], curves["best"], color=BLUE, alpha=0.12, lw=0)
    left.set(xlabel="epsilon (L2, pixels in [0, 1])", ylabel="certified accuracy", xlim=(0, 2), ylim=(0, 1))
    left.set_title("Fashion-MNIST, 10,000 test images", fontsize=11)
    left.legend(frameon=False, fontsize=9)
    images = record["audit"]["images"]
    radius, distance = [image["radius"] for image in images], [image["distance"] for image in images]
    limit = 1.1 * max(distance)
    right.fill_between([0, limit], [0, limit], color=ORANGE, alpha=0.12, lw=0)
    right.plot([0, limit], [0, limit], color=ORANGE, lw=1)
    right.text(
        0.62 * limit, 0.3 * limit, "a point here would\nrefute its certificate", color=ORANGE, fontsize=9, ha="center"
    )
    right.scatter(radius, distance, color=BLUE, zorder=3)
    right.set(xlabel="certified radius", ylabel="distance found by Carlini-Wagner", xlim=(0, limit), ylim=(0, limit))
    right.set_title("Ten images attacked: every certificate stands", fontsize=11)
    plain(left, right)
    return figure


def frontier(record: dict[str, Any]) -> Figure:
    """Clean accuracy against certified accuracy and against average certified radius, one point a network.

    The figures are of the test images if every network has them, of the validation images otherwise.
    """
    families = record["families"]
    points = [point for family in families.values() for point in family["points"]]
    split = "test" if all("test" in point for point in points) else "val"
    epsilons = sorted({epsilon for point in points for epsilon in point[split]["certified_accuracy"]}, key=float)
    shades = dict(zip(epsilons, colormaps["viridis"]([i / len(epsilons) for i in range(len(epsilons))]), strict=True))
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for (name, family), (line, marker) in zip(families.items(), cycle(STYLES)):
        found = sorted((point[split] for point in family["points"]), key=lambda figures: figures["clean_accuracy"])
        clean = [figures["clean_accuracy"] for figures in found]
        for epsilon, shade in shades.items():
            shares = [figures["certified_accuracy"].get(epsilon, float("nan")) for figures in found]
            left.plot(clean, shares, color=shade, ls=line, marker=marker, ms=4)
        radius = [figures["average_certified_radius"] for figures in found]
        right.plot(clean, radius, color=BLUE, ls=line, marker=marker, ms=4, label=name)
    for epsilon, shade in shades.items():
        left.plot([], [], color=shade, label=f"epsilon {epsilon}")
    images = f"{points[0][split]['samples']:,} {'test' if split == 'test' else 'validation'} images"
    left.set(xlabel="clean accuracy", ylabel="certified accuracy")
    right.set(xlabel="clean accuracy", ylabel="average certified radius")
    left.set_title(f"{record['data']}, {images}", fontsize=11)
    for axes in (left, right):
        axes.legend(frameon=False, fontsize=9)
    plain(left, right)
    return figure


def plain(*panels: Axes) -> None:
    """Take away the box and put a light grid."""
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)


def save(figure: Figure, path: Path) -> None:
    """Write a picture whose bytes do not depend on when it was drawn."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120, metadata={"Software": None})


if __name__ == "__main__":
    save(picture(), ROOT / "docs" / "certificates.png")
    for path in sorted(RESULTS.glob("*/frontier.json")):
        save(frontier(json.loads(path.read_text())), path.with_suffix(".png"))
