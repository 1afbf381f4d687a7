from dataclasses import replace

import pytest
import torch
from linear_problem import linear_problem
from straight_attack import Straight

from lipcert.certificates import certify
from lipcert.data import ImageSet
from lipcert.errors import InputError
from lipcert.harness import SampleRow, run_audit
from lipcert.harness.budget import Budget, Stage, budget_of
from lipcert.harness.selection import chunks, most_promising, worth_showing


def row(index, radius=0.5, distance=None, **changes):
    return SampleRow(index, 0, 0, radius, distance, attacked=distance is not None, **changes)


ROWS = [
    row(0),
    row(1, distance=1.0),
    row(2, distance=0.4, violated=True),
    row(3, radius=0.0, distance=0.1),
    row(4, distance=0.6),
    row(5, radius=0.0),
    row(6),
    row(7, radius=2.0, distance=2.2),
]


def test_who_is_closest_to_refutation_comes_first():
    assert most_promising(ROWS, range(8)) == [7, 4, 1, 0, 6, 3, 5, 2]


def test_the_order_does_not_depend_on_how_the_samples_are_handed_in_unless_nothing_is_known():
    assert most_promising(ROWS, [4, 7, 3, 2, 1]) == [7, 4, 1, 3, 2]
    assert most_promising(ROWS, [6, 0]) == [6, 0]


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({"which": "certified"}, [7, 4, 1, 0, 6, 2]),
        ({"which": "missed"}, [0, 6, 5]),
        ({"share": 0.25}, [7, 4]),
        ({"share": 0.3}, [7, 4, 1]),
        ({"share": 0.1, "least": 3}, [7, 4, 1]),
        ({"epsilon": 0.6}, [7, 1, 0, 6, 5]),
        ({"which": "certified", "share": 0.5, "epsilon": 0.5}, [7, 4, 1]),
    ],
)
def test_a_stage_takes_a_part(choice, expected):
    assert most_promising(ROWS, range(8), **choice) == expected


def test_chunks_leave_nobody_out():
    assert chunks(range(7), 3) == [(0, 1, 2), (3, 4, 5), (6,)]
    assert chunks([], 3) == []


def test_all_refutations_are_shown_and_the_closest_calls():
    assert worth_showing(ROWS, 3) == [2, 4, 7]
    refuted = [row(index, distance=0.1, violated=True) for index in range(5)]
    assert worth_showing(refuted, 3) == [0, 1, 2, 3, 4]


def test_seconds_first_look_at_all_and_then_go_round():
    budget = budget_of(5, epsilons=[0.5])
    assert (budget.seconds, budget.everything) == (5.0, True)
    standard = budget_of("standard", epsilons=[0.5])
    rounds = budget.rounds()
    assert tuple(next(rounds) for _ in standard.stages) == standard.stages
    for _ in range(2):
        assert tuple(next(rounds) for _ in budget.again) == budget.again
    assert {stage.share for stage in budget.again} == {0.05, 0.2, 1.0}


@pytest.mark.parametrize("name", ["quick", "standard", "thorough"])
@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_a_budget_leaves_out_what_cannot_search_in_the_norm(name, norm):
    budget = budget_of(name, epsilons=[0.0, 0.1, 0.5], norm=norm)
    assert budget.stages
    assert all(norm in stage.attack.norms for stage in budget.stages)
    assert all(stage.epsilon in (None, 0.1, 0.5) for stage in budget.stages)
    assert all(stage.epsilon is not None for stage in budget.stages if stage.attack.fixed_budget)
    assert budget.everything == (name != "quick")


def test_attacks_by_name_replace_the_stages(fixed, free):
    budget = budget_of("standard", epsilons=[0.5, 0.0, 0.1], attacks=[fixed, free])
    assert [(stage.attack, stage.epsilon) for stage in budget.stages] == [(fixed, 0.1), (fixed, 0.5), (free, None)]
    assert {(stage.which, stage.share) for stage in budget.stages} == {("all", 1.0)}


@pytest.fixture
def free():
    return Straight()


@pytest.fixture
def fixed(free):
    class Fixed(type(free)):
        name = "fixed"
        fixed_budget = True

    return Fixed()


def test_unusable_budgets_are_refused(fixed, free):
    for wanted in ("lavish", 0, -1.0, float("nan"), float("inf"), "inf"):
        with pytest.raises(InputError, match="quick, standard, thorough, or a number of seconds"):
            budget_of(wanted, epsilons=[0.5])
    with pytest.raises(InputError, match="search in linf norm, got straight"):
        budget_of("quick", epsilons=[0.5], attacks=[free], norm="linf")
    with pytest.raises(InputError, match="an epsilon above 0 for fixed"):
        budget_of("quick", epsilons=[0.0], attacks=[fixed])
    with pytest.raises(InputError, match="at least one attack in any norm"):
        budget_of("quick", epsilons=[0.5], attacks=[])
    with pytest.raises(InputError, match="at least one attack in linf norm"):
        budget_of(Budget("mine", (Stage(free),)), epsilons=[0.5], norm="linf")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"which": "some"}, "all, certified, missed, got 'some'"),
        ({"share": 0.0}, "share above 0 and at most 1, got 0"),
        ({"share": 1.5}, "share above 0 and at most 1, got 1.5"),
        ({"epsilon": 0.0}, "finite epsilon > 0, got 0"),
        ({"epsilon": float("nan")}, "finite epsilon > 0, got nan"),
        ({"chunk": 0}, "chunk >= 1, got 0"),
        ({"least": 0}, "least >= 1, got 0"),
    ],
)
def test_unusable_stages_are_refused(free, setting, message):
    with pytest.raises(InputError, match=message):
        Stage(free, **setting)


def test_an_attack_with_a_fixed_budget_needs_one(fixed):
    with pytest.raises(InputError, match="expected an epsilon for fixed, got none"):
        Stage(fixed)
    assert Stage(fixed, epsilon=0.5).epsilon == 0.5


def test_an_audit_in_the_largest_norm_uses_radii_of_no_other():
    """Radii in another norm than L2 are no L2 radii, so attacks are not told them."""
    network, pixels, prediction, _ = linear_problem(samples=3)
    seen = []

    class Nothing(Straight):
        name = "nothing"
        norms = ("linf",)

        def run(self, model, task):
            seen.append(task)
            return task.inputs

    def largest(model, inputs):
        found = certify(model, inputs, arithmetic="real")
        return replace(found, norm="linf", radius=found.radius / inputs[0].numel() ** 0.5)

    result = run_audit(
        network, ImageSet(pixels, prediction), samples=torch.arange(3), attacks=[Nothing()], certifier=largest
    )
    assert result.norm == "linf"
    assert [(task.norm, task.radius) for task in seen] == [("linf", None)]
