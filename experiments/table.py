"""Print what the README shows of the results files, or put it there.

python experiments/table.py            # print
python experiments/table.py --write    # between the markers of README.md
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

ROOT = Path(__file__).parents[1]
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


def speed() -> str:
    """One sentence on the training loop."""
    record = json.loads((ROOT / "experiments" / "results" / "benchmarks" / "training_loop.json").read_text())
    ours, memory, written = (
        f"{record['images_per_second']['lipcert']:,.0f}",
        f"{record['ratio_to_in_memory']:.2f}",
        f"{record['ratio_to_as_written']:.2f}",
    )
    return (
        f"lipcert trains {ours} images/s, {memory} times the tutorial's loop on in-memory tensors and {written} "
        f"times the tutorial as written ({record['hardware']}, medians of {record['rounds']} rounds). "
        "The layers' values are the same to the bit, see `lipcert/layers`."
    )


def filled(readme: str) -> str:
    """The README with what the results say between its markers."""
    for name, content in (("results", table()), ("speed", speed())):
        begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
        before, rest = readme.split(begin)
        readme = f"{before}{begin}\n{content}\n{end}{rest.split(end)[1]}"
    return readme


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="update README.md")
    if parser.parse_args().write:
        path = ROOT / "README.md"
        path.write_text(filled(path.read_text()))
    else:
        print(f"{table()}\n\n{speed()}")


if __name__ == "__main__":
    main()
