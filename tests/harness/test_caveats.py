from lipcert.harness import AttackRow, SampleRow
from lipcert.harness.caveats import caveats


def row(index, **changes):
    values = {"label": 0, "prediction": 0, "radius": 0.5, "distance": 1.0, "attack": "a", "attacked": True, **changes}
    return SampleRow(index, **values)


def attack(samples):
    return AttackRow("a", {}, samples, 1.0, 1.0, 0, 1.0, 1, 1)


def test_nothing_to_say():
    assert caveats([row(0), row(1)], [attack(2)], classes=2) == ()


def test_every_caveat_is_said_once():
    rows = [
        row(0, distance=None),
        row(1, radius=0.0),
        row(2, label=1, attacked=False, distance=None),
        row(3, label=1, attacked=False, distance=None),
    ]
    said = caveats(rows, [attack(1)], classes=2, boundary={1})
    assert len(said) == 6
    for text in (
        "2 of 4 certificates were attacked",
        "No adversarial example was found for sample (0)",
        "radius 0) for sample (1)",
        "a was run on 1 of the 2 attacked samples",
        "no better than chance: 2 of 4 right, 2 classes",
        "just inside the radius of sample (1)",
    ):
        assert sum(text in line for line in said) == 1, text


def test_long_lists_are_cut():
    [said] = caveats([row(index, distance=None) for index in range(25)], [attack(25)], classes=2)
    assert "25 samples (0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 15 more)" in said
