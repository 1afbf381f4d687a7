"""Print what the README shows of the results files, or put it there.

python experiments/table.py            # print
python experiments/table.py --write    # between the markers of README.md
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "experiments" / "results"
ZOO = ROOT / "lipcert" / "zoo"
DATASETS = {
    "fashion_mnist": "Fashion-MNIST",
    "mnist": "MNIST",
    "cifar10": "CIFAR-10",
    "cifar10_jpeg": "CIFAR-10 (JPEG copy)",
}
"""Folder of the results files and title, in the order of the tables."""

NOTEBOOK = ("fashion_mnist/hkr", "fashion_mnist/lse_hkr", "fashion_mnist/soft_hkr")
"""The tutorial's networks, shown under the tutorial's own rule too."""


PATCHES = (2, 3, 4, 5, 7)
"""Sides of the patches in the table, in pixels."""


L1_RADII = (0.1, 0.25, 0.5)
"""L1 radii in the table, in units of pixels in [0, 1]."""


def tables(results: Path = RESULTS) -> str:
    """One Markdown table a data set that has results."""
    found = {folder: result_files(results / folder) for folder in DATASETS}
    by_margin = [table(DATASETS[folder], files) for folder, files in found.items() if files]
    votes, splits = (sorted((results / folder).glob("*.json")) for folder in ("patches", "l1"))
    by_votes = [make(files) for make, files in ((patch_table, votes), (l1_table, splits)) if files]
    return "\n\n".join([*by_margin, *by_votes])


def result_files(folder: Path) -> list[Path]:
    """The results files of a data set, one a network."""
    return sorted(path for path in folder.glob("*.json") if path.name != "frontier.json")


def table(title: str, files: list[Path]) -> str:
    """The Markdown table of a data set: one row a network, the tutorial's two."""
    records = [json.loads(path.read_text()) for path in files]
    epsilons = sorted({epsilon for record in records for epsilon in record["certified_accuracy"]}, key=float)
    columns = ["clean", *(f"VRA {shown(epsilon)}" for epsilon in epsilons), "ACR", "KR", "training"]
    rows = [[f"{title}, {records[0]['samples']:,} test images", *columns]]
    rows.append(["---"] * len(rows[0]))
    for path, record in zip(files, records, strict=True):
        name = f"[{path.stem}](experiments/results/{path.parent.name}/{path.name})"
        seeds = len(record["seeds"])
        if seeds > 1:
            name += f", mean ± sd over {seeds} seeds"
        if f"{path.parent.name}/{path.stem}" in NOTEBOOK:
            rows.append([f"{name}, margin / 2", *cells(record, epsilons, rule="per-class")])
            name += ", pairwise"
        rows.append([name, *cells(record, epsilons)])
        if "float64" in record:
            rows.append([f"{name}, deployed in float64", *cells(record | record["float64"], epsilons)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def patch_table(files: list[Path]) -> str:
    """The Markdown table of networks that vote: one row a network, and one by the published rule on the same votes."""
    rows = [["Patches", "clean", *(f"{side} x {side}" for side in PATCHES), "training"], ["---"] * (len(PATCHES) + 3)]
    for path in files:
        record = json.loads(path.read_text())
        name = f"[{path.stem}](experiments/results/{path.parent.name}/{path.name})"
        clean, training = cell(record["clean_accuracy"], None), f"{record['epochs']} epochs, {record['seconds']:,.0f} s"
        for title, shares in ((name, "certified_accuracy"), (f"{name}, 2 x affected views", "twice_affected")):
            certified = [cell(record[shares].get(str(side), 0.0), None) for side in PATCHES]
            rows.append([title, clean, *certified, training])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def l1_table(files: list[Path]) -> str:
    """The Markdown table of networks that vote over splits: one row a network."""
    rows = [["L1", "clean", *(f"VRA {shown(str(each))}" for each in L1_RADII), "ACR", "views", "training"]]
    rows.append(["---"] * len(rows[0]))
    records = sorted(((path, json.loads(path.read_text())) for path in files), key=lambda pair: pair[1]["views"])
    for path, record in records:
        shares = [cell(record["certified_accuracy"].get(str(each), 0.0), None) for each in L1_RADII]
        figures = [cell(record[name], None) for name in ("clean_accuracy", "average_certified_radius")]
        training = f"{record['epochs']} epochs, {record['seconds']:,.0f} s"
        name = f"[{path.stem}](experiments/results/{path.parent.name}/{path.name})"
        rows.append([name, figures[0], *shares, figures[1], str(record["views"]), training])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def cells(record: dict[str, Any], epsilons: list[str], *, rule: str | None = None) -> list[str]:
    """The figures of a row, by the best rule or by one of the others."""
    spread = record.get("sd", {})
    figures, spreads = (part["rules"][rule] if rule and part else part for part in (record, spread))
    shares, spread_shares = figures["certified_accuracy"], spreads.get("certified_accuracy", {})
    return [
        cell(record["clean_accuracy"], spread.get("clean_accuracy")),
        *(cell(shares[epsilon], spread_shares.get(epsilon)) if epsilon in shares else "-" for epsilon in epsilons),
        cell(figures["average_certified_radius"], spreads.get("average_certified_radius")),
        cell(record["kr"], spread.get("kr"), digits=2),
        f"{record['epochs']} epochs, {record['seconds']:,.0f} s",
    ]


def cell(value: float, spread: float | None, *, digits: int = 3) -> str:
    """A figure, with its standard deviation over seeds if there are several."""
    return f"{value:.{digits}f}" + ("" if spread is None else f" ± {spread:.{digits}f}")


def shown(epsilon: str) -> str:
    """A budget as its field writes it: 0.141176 is 36/255."""
    steps = 255 * float(epsilon)
    return f"{steps:.0f}/255" if len(epsilon) > 4 and abs(steps - round(steps)) < 1e-3 else epsilon


def speed(results: Path = RESULTS) -> str:
    """A paragraph on the training loop, and one on each other measurement that has been made."""
    record = json.loads((results / "benchmarks" / "training_loop.json").read_text())
    ours, memory, written = (
        f"{record['images_per_second']['lipcert']:,.0f}",
        f"{record['ratio_to_in_memory']:.2f}",
        f"{record['ratio_to_as_written']:.2f}",
    )
    loop = (
        f"lipcert trains {ours} images/s, {memory} times the tutorial's loop on in-memory tensors and {written} "
        f"times the tutorial as written ({record['hardware']}, medians of {record['rounds']} rounds). "
        "Activations and pooling have the same values to the bit, orthonormalised weights to float tolerance; "
        "see `lipcert/layers`."
    )
    others = {"time_to_quality": time_to_quality, "attack_distances": attack_distances, "autoattack": autoattack}
    paths = {results / "benchmarks" / f"{name}.json": described for name, described in others.items()}
    made = [described(json.loads(path.read_text())) for path, described in paths.items() if path.is_file()]
    return "\n\n".join(filter(None, [loop, *made]))


def time_to_quality(record: dict[str, Any]) -> str:
    """One paragraph, or nothing if the quality was not reached."""
    reached, quality, notebook = record["lipcert"]["reached"], record["quality"], record["notebook"]
    if reached is None:
        return ""
    return (
        f"The quality of the tutorial's weights after {notebook['epochs']} epochs (clean accuracy "
        f"{quality['clean_accuracy']:g}, ACR {quality['average_certified_radius']:g}) is reached on held-out images "
        f"after {reached['seconds']:,.1f} s, certification and checkpoints included; the training steps of the "
        f"tutorial's own loop take {notebook['seconds']:,.0f} s, {record['ratio']:.0f} times as long "
        f"({notebook['how']} in the same run; {record['hardware']})."
    )


def attack_distances(record: dict[str, Any]) -> str:
    """One paragraph on the attack made for Lipschitz networks, beside the attacks of others."""
    ten, many = record["ten_images"], record["many_images"]
    walk, own = ten["boundary_walk"], many["boundary_walk"]
    peers = [f"{name} {peer['median_distance']:.3f}" for name, peer in many["peers"].items() if peer["images"] > 500]
    return (
        f"`BoundaryWalk` attacks ten images of the tutorial's network in {walk['seconds']:.2f} s, foolbox's "
        f"Carlini-Wagner with {ten['carlini_wagner']['settings']} steps in {ten['carlini_wagner']['seconds']:.0f} s, "
        f"{walk['times_faster']:.0f} times as long, and finds examples between {min(walk['ratios']):.2f} and "
        f"{max(walk['ratios']):.3f} times as far away. On {many['images']:,} images its median distance is "
        f"{own['median_distance']:.3f}, that of {', '.join(peers)} ({record['hardware']}, seed {record['seed']})."
    )


def autoattack(record: dict[str, Any]) -> str:
    """One sentence on AutoAttack, run by lipcert and by itself."""
    ratios = [f"{norm['ratio_of_seconds']:.2f} ({norm['norm']})" for norm in record["norms"]]
    same = "the same samples" if all(norm["same_samples"] for norm in record["norms"]) else "other samples"
    return (
        f"AutoAttack through lipcert leaves {same} standing as pyautoattack called directly, in {' and '.join(ratios)} "
        f"times its time ({record['images']} images, medians of {record['rounds']} rounds, {record['hardware']})."
    )


def zoo(folder: Path = ZOO) -> str:
    """The Markdown table of the networks that ship with the package, for a page of docs/, where their audits are."""
    title = ["network", "clean", "certified accuracy at an L2 distance", "ACR", "audit", "distance / radius", "weights"]
    rows = [title, ["---"] * len(title)]
    for path in sorted(folder.glob("*/*/summary.json")):
        summary, report = (json.loads((path.parent / name).read_text()) for name in ("summary.json", "report.json"))
        shares = [f"{share:.3f} at {epsilon}" for epsilon, share in summary["certified_accuracy"].items()]
        name = path.parent.relative_to(folder).as_posix()
        row = [f"`{name}`", cell(summary["clean_accuracy"], None), ", ".join(shares)]
        row.append(cell(summary["average_certified_radius"], None))
        told = f"{report['attacked']['samples']:,} images attacked, {len(report['violations'])} certificates refuted"
        row.append(f"[{told}](audits/{name.replace('/', '_')}.html)")
        row.append(cell(report["tightness"]["median_ratio"], None))
        row.append(f"{(path.parent / 'network.safetensors').stat().st_size / 1e6:.1f} MB")
        rows.append(row)
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def filled(readme: str) -> str:
    """The README with what the results say between its markers."""
    for name, content in (("results", tables()), ("speed", speed())):
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
        print(f"{tables()}\n\n{speed()}")


if __name__ == "__main__":
    main()
