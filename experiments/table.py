"""Print the README's results table from the results files, or check that the README has it.

python experiments/table.py            # print
python experiments/table.py --write    # put it between the markers of README.md
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

ROOT = Path(__file__).parents[1]
BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"
EPSILONS = ("0.1", "0.25", "0.5", "1", "1.58")


def table() -> str:
    """The Markdown table: one row a results file, and the seed result's own rule beside it."""
    header = [
        "Fashion-MNIST, 10,000 test images",
        "clean",
        *(f"VRA {eps}" for eps in EPSILONS),
        "ACR",
        "KR",
        "training",
    ]
    rows = [header, ["---"] * len(header)]
    for path in sorted((ROOT / "experiments" / "results" / "fashion_mnist").glob("*.json")):
        record = json.loads(path.read_text())
        training = f"{record['epochs']} epochs, {record['seconds']:,.0f} s"
        name = f"[{record['name']}](experiments/results/fashion_mnist/{path.name})"
        for rule, figures in (("margin / 2", record["rules"]["per-class"]), ("pairwise", record)):
            shares = [f"{figures['certified_accuracy'][eps]:.3f}" for eps in EPSILONS]
            radius = f"{figures['average_certified_radius']:.3f}"
            rows.append(
                [f"{name}, {rule}", f"{record['clean_accuracy']:.3f}", *shares, radius, f"{record['kr']:.2f}", training]
            )
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def with_table(readme: str) -> str:
    """The README with the table between its markers."""
    before, rest = readme.split(BEGIN)
    return f"{before}{BEGIN}\n{table()}\n{END}{rest.split(END)[1]}"


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="update README.md")
    if parser.parse_args().write:
        path = ROOT / "README.md"
        path.write_text(with_table(path.read_text()))
    else:
        print(table())


if __name__ == "__main__":
    main()
