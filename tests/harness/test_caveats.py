from lipcert.harness import SampleRow
from lipcert.harness.caveats import caveats


def row(index, **changes):
    values = {"label": 0, "prediction": 0, "radius": 0.5, "distance": 1.0, "attack": "a", "attacked": True, **changes}
    return SampleRow(index, **values)


def test_nothing_to_say():
    assert caveats([row(0), row(1, distance=0.6)], classes=2) == ()


def test_every_caveat_is_said_once():
    rows = [
        row(0, distance=None),
        row(1, radius=0.0),
        row(2, label=1, attacked=False, distance=None),
        row(3, label=1, attacked=False, distance=None),
    ]
    said = caveats(rows, classes=2, boundary={1})
    assert len(said) == 6
    for text in (
        "2 of 4 certificates were attacked",
        "No adversarial example was found for sample (0)",
        "radius 0) for sample (1)",
        "Weak audit: radii too large by a factor of 1.3 would not have been refuted anywhere; no adversarial",
        "no better than chance: 2 of 4 right, 2 classes",
        "just inside the radius of sample (1)",
    ):
        assert sum(text in line for line in said) == 1, text


def test_long_lists_are_cut():
    [said] = caveats([row(index, distance=None) for index in range(25)], classes=2)[:1]
    assert "25 samples (0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 15 more)" in said


def test_an_audit_is_weak_if_radii_too_large_by_1_3_would_hardly_be_noticed():
    few = [row(index, distance=0.6 if index == 0 else 1.0) for index in range(20)]
    [said] = caveats(few, classes=2)
    assert said.endswith("1.3 would have been refuted on 1 of 20 attacked certificates only.")
    assert caveats([*few, row(20, distance=0.64), row(21, distance=0.64)], classes=2) == ()
    [said] = caveats([row(0), row(1, radius=0.0, distance=0.1)], classes=2)[1:]
    assert said.endswith("would not have been refuted anywhere; the first refutation is at a factor of 2.")
