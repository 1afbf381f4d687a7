"""Reports of audits in shards are re-checked a shard at a time, and what was altered in any of them is found."""

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
import yaml
from audited_run import edit_report, wrong
from scaled_images import network, noise, write_arrays
from voting_run import images_of, make_voting_run

from lipcert import load_network, save_network, verify_report, write_report
from lipcert.attacks import DeepFool, VotePatch
from lipcert.data import ImageSet
from lipcert.deployment import file_sha256
from lipcert.harness import Subject
from lipcert.harness.voting import certify_votes
from lipcert.shards import audit_in_shards
from lipcert.verify import main

SAMPLES, SHARD = 500, 130


def audited_in_shards(run, images, **options):
    found = audit_in_shards(
        load_network(run / "network.safetensors"),
        images,
        run / "audit",
        budget="standard",
        subject=Subject("noise", file_sha256(run / "network.safetensors"), "noise", "test"),
        **options,
    )
    write_report(found.result, run / "audit", found.numbers)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run with images in files and its audit in four shards, which no test changes."""
    run = tmp_path_factory.mktemp("runs") / "noise"
    run.mkdir()
    images = noise(SAMPLES)
    write_arrays(run / "images", images)
    data = {"class_path": "lipcert.data.StreamedArrays", "init_args": {"path": str(run / "images")}}
    (run / "config.yaml").write_text(yaml.safe_dump({"data": data, "name": "noise"}))
    save_network(network(), run / "network.safetensors", network)
    audited_in_shards(run, images, shard_size=SHARD, attacks=[DeepFool()])
    return run


@pytest.fixture
def run(finished, tmp_path):
    """A copy of it to spoil; its images stay where they are."""
    return Path(shutil.copytree(finished, tmp_path / "noise"))


def shard(run, number):
    return run / "audit" / "samples" / f"0000{number}.parquet"


def edit_shard(run, number, change):
    table = parquet.read_table(shard(run, number))
    rows = table.to_pylist()
    change(rows)
    parquet.write_table(pa.Table.from_pylist(rows, schema=table.schema), shard(run, number))


def test_an_untouched_report_stands(finished, capsys):
    assert main([str(finished / "audit")]) == 0
    out = capsys.readouterr().out
    assert "samples/*.parquet has one row for each of 500 images" in out
    assert "all 500 radii (float32)" in out


def test_images_are_read_a_shard_at_a_time(finished, monkeypatch):
    read = []
    inputs = ImageSet.inputs

    def seen(self, indices=None):
        read.append(len(self))
        return inputs(self, indices)

    monkeypatch.setattr(ImageSet, "inputs", seen)
    verify_report(finished / "audit")
    assert read == [SHARD, SHARD, SHARD, SAMPLES - 3 * SHARD]


def test_a_report_in_shards_says_what_one_table_says(finished, run):
    """The same audit's rows as one table give the same findings, word for word but for the name of the file."""
    rows = [row for number in range(4) for row in parquet.read_table(shard(run, number)).to_pylist()]
    names = ["index", "label", "prediction", "radius", "distance", "attack", "ratio", "adversarial_prediction"]
    lines = [",".join("" if row[name] is None else str(row[name]) for name in names) for row in rows]
    shutil.rmtree(run / "audit" / "samples")
    (run / "audit" / "samples.csv").write_text("\n".join([",".join(names), *lines]) + "\n")
    shards, table = ([finding.text for finding in verify_report(folder / "audit")] for folder in (finished, run))
    assert [text.replace("samples/*.parquet", "samples.csv") for text in shards] == table


def larger(rows):
    rows[21]["radius"] *= 1.2


def relabelled(rows):
    rows[21]["label"] = (rows[21]["label"] + 1) % 4


def reclassified(rows):
    rows[21]["prediction"] = (rows[21]["prediction"] + 1) % 4


def misplaced(rows):
    rows[21]["index"] += 1


def negative(rows):
    rows[21]["radius"] = -1.0


def violating(rows):
    rows[21].update(distance=rows[21]["radius"] / 2, ratio=0.5)


INDEX = 2 * SHARD + 21
ROWS = {
    "radius": (larger, {"radii": f"sample {INDEX} has radius", "figures": "average_certified_radius"}),
    "label": (relabelled, {"labels": f"sample {INDEX} has label"}),
    "prediction": (reclassified, {"predictions": f"sample {INDEX} has prediction"}),
    "index": (misplaced, {"rows": f"row {INDEX} of samples/*.parquet has index {INDEX + 1}"}),
    "negative radius": (negative, {"rows": "00002.parquet, row 21: expected finite numbers >= 0, got -1.0"}),
    "violation": (violating, {"violations": f"the rows refute [{INDEX}]"}),
}


@pytest.mark.parametrize("case", ROWS)
def test_an_altered_row_of_a_late_shard_is_found(run, case):
    change, said = ROWS[case]
    edit_shard(run, 2, change)
    found = wrong(run)
    assert {name: text in found.get(name, "") for name, text in said.items()} == dict.fromkeys(said, True), found


FILES = {
    "missing": (lambda run: shard(run, 1).unlink(), f"row {SHARD} of samples/*.parquet has index {2 * SHARD}"),
    "last missing": (lambda run: shard(run, 3).unlink(), "has 390 rows, the data 500 images"),
    "twice": (lambda run: shutil.copy(shard(run, 3), shard(run, 4)), "row 500 of samples/*.parquet has index 390"),
    "damaged": (lambda run: shard(run, 1).write_bytes(b"PAR1" * 9), "00001.parquet: expected a parquet file"),
}


@pytest.mark.parametrize("case", FILES)
def test_shards_that_are_not_those_of_the_audit_are_found(run, case):
    spoil, said = FILES[case]
    spoil(run)
    assert said in wrong(run)["rows"]


def test_a_missing_column_is_found(run):
    table = parquet.read_table(shard(run, 0))
    parquet.write_table(table.drop_columns(["ratio"]), shard(run, 0))
    assert "ratio" in wrong(run)["rows"]


def test_altered_images_and_figures_are_found(run):
    edit_report(run, lambda document: document["tightness"].update(median_ratio=1.5))
    edit_report(run, lambda document: document["data"].update(sha256="0" * 64))
    assert set(wrong(run)) == {"figures", "data"}


@pytest.mark.parametrize("violated", [99, 150])
def test_violations_beyond_those_that_are_listed_are_counted(run, violated):
    def refuted(begin):
        def change(rows):
            for row in rows:
                if row["index"] < violated:
                    row.update(
                        radius=2.0,
                        distance=1.0,
                        ratio=0.5,
                        attack="x",
                        adversarial_prediction=(row["prediction"] + 1) % 4,
                    )

        return change

    for number in range(2):
        edit_shard(run, number, refuted(number))
    keys = ("index", "label", "radius", "distance", "attack", "adversarial_prediction")
    rows = [row for number in range(2) for row in parquet.read_table(shard(run, number)).to_pylist()]
    listed = [{key: row[key] for key in keys} for row in rows[:violated]][:100]
    edit_report(run, lambda document: document.update(verdict="fail", violations=listed))
    assert "violations" not in wrong(run)
    edit_report(run, lambda document: document.update(violations=listed[:-1]))
    assert "violations" in wrong(run)


def test_votes_in_shards_are_checked(tmp_path):
    run = tmp_path / "votes"
    make_voting_run(run, "columns")
    shutil.rmtree(run / "audit")
    attacks = [VotePatch(places=2, restarts=1, steps=4)]
    audited_in_shards(run, images_of(run), shard_size=15, attacks=attacks, certifier=certify_votes)
    found = {finding.name: finding for finding in verify_report(run / "audit")}
    assert all(finding.stands for finding in found.values())
    assert "each of 40 images" in found["votes"].text
    edit_shard(
        run, 2, lambda rows: rows[3].update(radius=rows[3]["radius"] + 1, distance=None, attack=None, ratio=None)
    )
    assert "sample 33 has radius" in wrong(run)["radii"]
