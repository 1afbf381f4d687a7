import math
from fractions import Fraction

import pytest
import torch
from linear_problem import linear_network
from torch import nn

from lipcert.attacks import verify
from lipcert.attacks.verify import distance_upper_bound
from lipcert.errors import InputError

# class 0 where the single pixel is above 0.25, class 1 below
NETWORK = linear_network(torch.tensor([[1.0], [0.0]]), torch.tensor([0.0, 0.25]))


def pixel(*values):
    return torch.tensor(values).view(-1, 1, 1, 1)


def check(candidate, *, start=0.5, label=0, network=NETWORK):
    return verify(network, pixel(start), torch.tensor([label]), pixel(candidate))


@pytest.mark.parametrize(
    "candidate",
    [
        pytest.param(0.5, id="the clean image"),
        pytest.param(1.0, id="white: same class"),
        pytest.param(math.nan, id="nan"),
        pytest.param(-math.inf, id="infinite"),
        pytest.param(-1e-7, id="just below the box"),
        pytest.param(-5.0, id="far outside"),
        pytest.param(0.25, id="a tie goes to the first class"),
    ],
)
def test_what_is_no_adversarial_example_is_not_believed(candidate):
    found = check(candidate)
    assert not found.success.item()
    assert not found.confirmed.item()
    assert found.distance.item() == math.inf
    assert found.prediction.item() == 0


def test_above_the_box_is_not_believed():
    assert check(1.0, start=0.0, label=1).success.item()
    assert not check(math.nextafter(1, 2) + 1e-6, start=0.0, label=1).success.item()


def test_black_is_believed_only_at_its_true_distance():
    found = check(0.0)
    assert found.success.item()
    assert found.confirmed.item()
    assert found.prediction.item() == 1
    assert 0.5 <= found.distance.item() < 0.5 + 1e-12


def test_candidates_are_judged_one_by_one():
    inputs, labels = pixel(0.5, 0.5, 0.5, 0.1), torch.tensor([0, 0, 0, 1])
    found = verify(NETWORK, inputs, labels, pixel(0.125, math.nan, 0.3, 0.9), batch_size=2)
    assert found.success.tolist() == [True, False, False, True]
    assert [round(value, 6) for value in found.distance.tolist()] == [0.375, math.inf, math.inf, 0.8]


class BatchDependent(nn.Module):
    """Gives another class to whatever it reads together with something else."""

    def forward(self, inputs):
        other = torch.full((len(inputs),), float(len(inputs) > 1))
        return torch.stack([torch.full_like(other, 0.5), other], dim=1)


def test_an_example_that_needs_company_is_none():
    network, inputs, labels = BatchDependent().eval(), pixel(0.5, 0.5), torch.tensor([0, 0])
    assert network(inputs).argmax(1).tolist() == [1, 1]
    assert verify(network, inputs, labels, inputs).success.tolist() == [False, False]


class Cancelling(nn.Module):
    """Loses the input's small numbers in float32 only."""

    def forward(self, inputs):
        swallowed = (inputs.flatten(1) + 1e8) - 1e8
        return torch.cat([swallowed, torch.full_like(swallowed, 0.25)], dim=1)


def test_what_only_float32_sees_is_not_confirmed():
    found = check(0.75, network=Cancelling().eval())
    assert found.success.item()
    assert not found.confirmed.item()


def exact_power(candidate, image, norm):
    """The exact distance; squared for L2."""
    gaps = [abs(Fraction(a) - Fraction(b)) for a, b in zip(candidate, image, strict=True)]
    return {"l1": sum(gaps), "l2": sum(gap**2 for gap in gaps), "linf": max(gaps)}[norm]


@pytest.mark.parametrize("norm", ["l1", "l2", "linf"])
@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e-30, 1e-44])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_distances_are_never_below_the_exact_ones(scale, dtype, norm):
    generator = torch.Generator().manual_seed(3)
    inputs = torch.rand(20, 49, generator=generator).to(dtype) / 3  # full mantissas: float32 differences would round
    inputs[10:] = 0
    candidates = (inputs + scale * torch.rand(20, 49, generator=generator).to(dtype) / 7).clamp(0, 1)
    bounds = distance_upper_bound(inputs, candidates, norm).tolist()
    power = 2 if norm == "l2" else 1
    for bound, candidate, image in zip(bounds, candidates.tolist(), inputs.tolist(), strict=True):
        exact = exact_power(candidate, image, norm)
        assert Fraction(bound) ** power >= exact
        # 53 roundings of 2^-53 each, and an absolute 7e-150 for squares that underflow
        assert Fraction(bound) ** power <= exact * (1 + Fraction(1, 10**13)) + Fraction(1, 10**200)


def test_even_underflowing_squares_count():
    image, candidate = torch.zeros(1, 3, dtype=torch.float64), torch.full((1, 3), 1e-200, dtype=torch.float64)
    assert distance_upper_bound(image, candidate).item() >= math.sqrt(3) * 1e-200
    assert distance_upper_bound(image, image).item() == 0


def test_other_shapes_and_types_are_refused():
    with pytest.raises(InputError, match="expected candidates"):
        verify(NETWORK, pixel(0.5), torch.tensor([0]), pixel(0.5, 0.5))
    with pytest.raises(InputError, match="expected candidates"):
        verify(NETWORK, pixel(0.5), torch.tensor([0]), pixel(0.5).double())


def test_the_norm_is_the_one_that_was_asked_for():
    inputs, candidates = torch.full((1, 1, 1, 3), 0.5), torch.tensor([0.0, 0.25, 0.5]).view(1, 1, 1, 3)
    network = linear_network(torch.tensor([[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]]), torch.tensor([0.0, 1.0]))
    for norm, exact in (("l1", 0.75), ("l2", 0.3125**0.5), ("linf", 0.5)):
        found = verify(network, inputs, torch.tensor([0]), candidates, norm=norm)
        assert exact <= found.distance.item() <= exact * (1 + 1e-12)


def test_bounds_are_the_users():
    inputs, labels = torch.full((3, 1, 1, 1), 200.0), torch.tensor([0, 0, 0])
    candidates = torch.tensor([0.0, 255.0, 300.0]).view(3, 1, 1, 1)
    upside_down = linear_network(torch.tensor([[-1.0], [0.0]]), torch.tensor([0.0, -250.0]))
    found = verify(upside_down, inputs, labels, candidates, bounds=(0.0, 255.0))
    assert found.success.tolist() == [False, True, False]
    assert not verify(upside_down, inputs, labels, candidates, bounds=(0.0, 254.0)).success.any()


def test_another_class_than_the_target_is_no_success():
    network = linear_network(torch.tensor([[1.0], [0.0], [-2.0]]), torch.tensor([0.0, 0.25, 0.5]))
    inputs, labels, candidates = pixel(0.5, 0.5), torch.tensor([0, 0]), pixel(0.0, 0.2)
    assert verify(network, inputs, labels, candidates).prediction.tolist() == [2, 1]
    for target, expected in ((1, [False, True]), (2, [True, False])):
        found = verify(network, inputs, labels, candidates, targets=torch.full((2,), target))
        assert found.success.tolist() == found.confirmed.tolist() == expected
        assert found.distance.isfinite().tolist() == expected


def test_an_unknown_norm_is_refused():
    with pytest.raises(InputError, match="a norm among l1, l2, linf"):
        verify(NETWORK, pixel(0.5), torch.tensor([0]), pixel(0.5), norm="l0")
