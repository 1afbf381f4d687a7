"""report.json: the shipped schema, and numbers worked out by hand."""

import copy
import json
import math
from dataclasses import replace

import numpy as np
import pytest
from jsonschema import Draft202012Validator
from report_cases import realistic_result, refuted_result, tiny_result, uncertified_result

from lipcert.harness.result import AttackRow, SampleRow
from lipcert.report import measures, report_document, report_schema


def nothing_attacked():
    rows = tuple(SampleRow(row.index, row.label, row.prediction, row.radius) for row in tiny_result().rows)
    return tiny_result(rows=rows, attacks=(), gallery=())


def not_finite():
    rows = (*tiny_result().rows, SampleRow(5, 0, 0, math.inf), SampleRow(6, 1, 1, math.nan))
    return tiny_result(rows=rows, lipschitz_upper_bound=math.inf)


def numpy_numbers():
    row = SampleRow(np.int64(0), np.int64(1), np.int64(1), np.float64(0.5), np.float64(1.0), "walk", attacked=True)
    return tiny_result(rows=(row,), model_parameters=np.int64(3), epsilons=(np.float64(0.25),))


def realistic():
    return realistic_result(np.zeros((12, 1, 28, 28), np.float32), np.arange(200) % 10)


def odd_settings():
    parameters = {"norm": "l2", "steps": np.int64(3), "rate": math.inf, "early": True, "start": None}
    return tiny_result(attacks=(AttackRow("walk", parameters, 3, 1.0, 1.0, 0, 0.5, 60, 0, won=2),))


CASES = [
    tiny_result,
    refuted_result,
    uncertified_result,
    nothing_attacked,
    not_finite,
    numpy_numbers,
    odd_settings,
    realistic,
]


@pytest.mark.parametrize("case", CASES)
def test_document_satisfies_the_schema_and_strict_json(case):
    text = json.dumps(report_document(case()), allow_nan=False)
    Draft202012Validator(report_schema()).validate(json.loads(text))


def test_schema_is_a_schema():
    Draft202012Validator.check_schema(report_schema())


def objects_with_keys(schema, path=()):
    """Every object schema that names its keys."""
    if isinstance(schema, dict):
        if "properties" in schema:
            yield path, schema
        for key, value in schema.items():
            yield from objects_with_keys(value, (*path, key))


LATER = {"grid", "share_refuted_at_one_more"}  # of documents of version 2, older ones lack them


def test_schema_requires_every_key_and_allows_no_other():
    found = list(objects_with_keys(report_schema()))
    assert len(found) == 15
    for path, schema in found:
        assert schema["required"] == [key for key in schema["properties"] if key not in LATER], path
        assert schema["additionalProperties"] is False, path


def dictionaries(value):
    if isinstance(value, dict):
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from dictionaries(inner)


def test_schema_rejects_a_document_with_any_fixed_key_missing():
    validator = Draft202012Validator(report_schema())
    document = report_document(refuted_result())
    free_keys = {"environment", "certified_accuracy", "empirical_accuracy", "parameters", "share_refuted"}
    free = [found for whole in dictionaries(document) for key, found in whole.items() if key in free_keys]
    free = [found for found in free if isinstance(found, dict)]  # a model has a number of parameters
    checked = 0
    for position, whole in enumerate(dictionaries(document)):
        for key in () if whole in free else whole:
            mutant = copy.deepcopy(document)
            del list(dictionaries(mutant))[position][key]
            assert validator.is_valid(mutant) == (key in LATER), key
            checked += 1
    assert checked > 50


@pytest.mark.parametrize(
    "change", [{"verdict": "maybe"}, {"clean_accuracy": 1.1}, {"schema": "lipcert/report/1"}, {"extra": 1}]
)
def test_schema_rejects_wrong_values(change):
    document = report_document(tiny_result()) | change
    assert not Draft202012Validator(report_schema()).is_valid(document)


def test_numbers_worked_out_by_hand():
    document = report_document(tiny_result())
    # rows: right with radius 0.5, 0.25, 0.75, 0; one wrong with radius 2
    assert document["clean_accuracy"] == 4 / 5
    assert document["certificates"]["certified_accuracy"] == {"0.25": 3 / 5, "0.5": 2 / 5, "1": 0.0}
    assert document["certificates"]["average_certified_radius"] == 1.5 / 5
    # attacked: broken at 1.0, broken at 1.0, never broken
    assert document["empirical_accuracy"] == {"0.25": 1.0, "0.5": 1.0, "1": 1 / 3}
    assert document["tightness"] == {"median_ratio": 3.0}
    curve = document["power"].pop("curve")
    assert document["power"] == {
        "certificates": 3,
        "strength": "weak",
        "smallest_refuted_inflation": 2.0,
        "median_refuted_inflation": 4.0,
        "share_refuted": {"1.1": 0.0, "1.3": 0.0, "1.5": 0.0, "2": 0.0, "3": 1 / 3, "5": 2 / 3},
        "share_refuted_at_one_more": None,
    }
    assert [curve["refuted"][curve["inflation"].index(factor)] for factor in (1, 2, 2.05, 4, 4.05)] == [
        *(0, 0, 1 / 3, 1 / 3, 2 / 3)
    ]
    assert document["attacked"] == {"samples": 3, "successes": 2}
    assert document["verdict"] == "pass"
    assert document["violations"] == []
    assert document["data"]["samples"] == 5


def test_attacks_have_their_settings_and_how_often_they_were_nearest():
    first, second = report_document(tiny_result())["attacks"]
    assert (first["parameters"], first["won"]) == ({"steps": 40, "rate": 0.1}, 1)
    assert (second["parameters"], second["won"]) == ({"start": "noise"}, 1)
    [odd] = report_document(odd_settings())["attacks"]
    assert odd["parameters"] == {"norm": "l2", "steps": 3, "rate": "inf", "early": True, "start": "None"}


def test_classes_worked_out_by_hand():
    cat, dog, emu = report_document(tiny_result())["classes"]
    assert cat == {
        "label": 0,
        "samples": 2,
        "clean_accuracy": 1.0,
        "average_certified_radius": 0.25,
        "attacked": 1,
        "median_distance": 1.0,
        "median_ratio": 2.0,
        "turns_into": [{"label": 1, "samples": 1}],
    }
    assert (dog["clean_accuracy"], dog["attacked"], dog["median_ratio"]) == (0.5, 1, 4.0)
    assert dog["turns_into"] == [{"label": 2, "samples": 1}]
    assert (emu["attacked"], emu["median_distance"], emu["turns_into"]) == (1, None, [])


def test_curves_agree_with_the_accuracies_at_their_budgets():
    result = realistic()
    curves = report_document(result)["curves"]
    assert curves["epsilon"][0] == 0
    assert curves["epsilon"][-1] >= max(result.epsilons)
    for epsilon, certified, empirical in list(zip(*curves.values(), strict=True))[::10]:
        # one minus a quotient against the quotient of the rest: equal up to the rounding of one subtraction
        assert certified == pytest.approx(measures.certified_accuracy(result.rows, epsilon), abs=1e-15)
        assert empirical == pytest.approx(measures.empirical_accuracy(result.rows, epsilon), abs=1e-15)


def test_a_network_without_certificates_has_neither_bound_nor_power():
    document = report_document(uncertified_result())
    assert document["certificates"]["rule"] == "none"
    assert document["lipschitz"] == {"upper_bound": None, "layers": []}
    assert (document["power"]["certificates"], document["power"]["strength"]) == (0, None)
    assert document["power"]["curve"]["refuted"] is None
    assert document["empirical_accuracy"] == {"0.25": 1.0, "0.5": 1.0, "1": 1 / 3}


def test_accuracy_at_zero_epsilon_is_the_clean_accuracy():
    assert report_document(tiny_result(epsilons=(0.0,)))["certificates"]["certified_accuracy"] == {"0": 4 / 5}


def test_a_wrong_attacked_sample_is_never_empirically_robust():
    rows = (SampleRow(0, 1, 0, 2.0, attacked=True), SampleRow(1, 1, 1, 0.5, attacked=True))
    assert report_document(tiny_result(rows=rows))["empirical_accuracy"]["0.25"] == 0.5


def test_what_was_not_measured_is_null():
    document = report_document(nothing_attacked())
    assert set(document["empirical_accuracy"].values()) == {None}
    assert document["tightness"]["median_ratio"] is None
    assert document["power"]["smallest_refuted_inflation"] is None
    assert set(document["power"]["share_refuted"].values()) == {None}


def test_what_is_not_finite_is_null():
    document = report_document(not_finite())
    assert document["lipschitz"]["upper_bound"] is None
    assert document["certificates"]["average_certified_radius"] is None


def test_a_refuted_certificate_fails_the_audit_and_is_listed():
    document = report_document(refuted_result())
    assert document["verdict"] == "fail"
    [violation] = document["violations"]
    assert violation == {
        **{"index": 3, "label": 1, "radius": 2.0, "distance": 1.5, "attack": "walk"},
        "adversarial_prediction": 2,
    }
    assert document["power"]["smallest_refuted_inflation"] == 0.75
    assert document["warnings"] == []


def test_a_refuted_certificate_without_its_adversarial_input_is_warned_about():
    [warning] = report_document(replace(refuted_result(), gallery=()))["warnings"]
    assert "refuted samples 3" in warning
