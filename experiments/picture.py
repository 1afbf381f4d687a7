"""Draw the README's picture from the seed result's file: what is certified, and how near the attacks came.

python experiments/picture.py
"""

from __future__ import annotations

import json
from pathlib import Path

from matplotlib.figure import Figure

ROOT = Path(__file__).parents[1]
BLUE, ORANGE, GREY = "#1f6feb", "#d9730d", "#6b7280"


def picture() -> Figure:
    """The two panels."""
    record = json.loads((ROOT / "experiments" / "results" / "fashion_mnist" / "hkr.json").read_text())
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    epsilon = record["curves"]["epsilon"]
    left.plot(epsilon, record["curves"]["best"], color=BLUE, lw=2, label="lipcert: pairwise rule, proved constants")
    left.plot(epsilon, record["curves"]["per-class"], color=GREY, lw=2, ls="--", label="margin / 2, as in the tutorial")
    left.fill_between(epsilon, record["curves"]["per-class"], record["curves"]["best"], color=BLUE, alpha=0.12, lw=0)
    left.set(xlabel="epsilon (L2, pixels in [0, 1])", ylabel="certified accuracy", xlim=(0, 2), ylim=(0, 1))
    left.set_title("One HKR network, the same weights", fontsize=11)
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
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    return figure


if __name__ == "__main__":
    target = ROOT / "docs" / "certificates.png"
    target.parent.mkdir(exist_ok=True)
    picture().savefig(target, dpi=120, metadata={"Software": None})
    print(target.relative_to(ROOT))
