"""Rounding bounds against exact rational evaluations, in closed form, and their planted mistakes."""

from __future__ import annotations

import dataclasses
import math
import random
from fractions import Fraction

import numpy as np
import pytest
import torch
from deel import torchlip
from reference_sums import OneByOne
from torch import nn

from lipcert import InputError
from lipcert.verification.recompute import dense_bounds, float64_logits, measured_logits, recomputed_radii
from lipcert.verification.rounded_layers import rounded_chain
from lipcert.verification.rounded_radii import rounded_radii
from lipcert.verification.rounding import RoundedChain, Step, difference_errors, measured_difference_errors

UNIT = Fraction(1, 2**24)


def chain_of(network: nn.Module, shape: tuple[int, ...]) -> RoundedChain:
    return rounded_chain(network, shape, dense_bounds(network, torch.rand(2, *shape)))


def gamma(roundings: int) -> float:
    return float(roundings * UNIT / (1 - roundings * UNIT))


def stacked(*matrices: list[list[float]], between: nn.Module | None = None) -> nn.Sequential:
    """Linear layers with these weights and biases 1, 2, ..., with a layer between them."""
    layers: list[nn.Module] = []
    for matrix in matrices:
        weight = torch.tensor(matrix)
        linear = nn.Linear(weight.shape[1], weight.shape[0])
        linear.weight.data, linear.bias.data = weight, torch.arange(1.0, len(weight) + 1)
        layers += [linear] if between is None else [linear, between]
    return nn.Sequential(*layers[: len(layers) - (between is not None)]).requires_grad_(False).eval()


def test_one_linear_layer_in_closed_form():
    """Rows of norm 5 and 13, biases 1 and 2, two products and a bias."""
    coefficient, constant = difference_errors(chain_of(stacked([[3.0, -4.0], [-5.0, 12.0]]), (2,)), torch.float32)
    assert float(coefficient[0, 1]) == pytest.approx(gamma(3) * (5 + 13), rel=1e-9)
    assert float(constant[0, 1]) == pytest.approx(gamma(3) * (1 + 2), rel=1e-9)


def test_two_linear_layers_in_closed_form():
    """Orthogonal rows: norm 5 with signs, and 7 without; what the head inherits passes through the rows' difference."""
    network = stacked([[3.0, -4.0], [4.0, 3.0]], [[6.0, 8.0], [0.0, 0.0]])
    coefficient, constant = difference_errors(chain_of(network, (2,)), torch.float32)
    inherited = gamma(3) * 7, gamma(3) * math.sqrt(5)
    assert float(coefficient[0, 1]) == pytest.approx(10 * inherited[0] + gamma(3) * 10 * (5 + inherited[0]), rel=1e-8)
    own = gamma(3) * (10 * (math.sqrt(5) + inherited[1]) + 1 + 2)
    assert float(constant[0, 1]) == pytest.approx(10 * inherited[1] + own, rel=1e-8)


def test_a_norm_pool_in_closed_form():
    """Four squares: nine roundings, and squares that underflow."""
    network = nn.Sequential(nn.Unflatten(1, (1, 2, 4)), nn.LPPool2d(2, 2), nn.Flatten()).eval()
    coefficient, constant = difference_errors(chain_of(network, (8,)), torch.float32)
    assert float(coefficient[0, 1]) == pytest.approx(math.sqrt(2) * gamma(9), rel=1e-9)
    assert 0 < float(constant[0, 1]) < 1e-20
    tiny = torch.full((1, 8), 2.0**-75)  # its squares are half of the smallest float, and rounded to zero
    lost = float(float64_logits(network, tiny).max())
    assert float(network(tiny).max()) == 0
    assert float(constant[0, 1] / math.sqrt(2)) >= lost > float(coefficient[0, 1] * tiny.double().norm())


def rational(network: nn.Sequential, inputs: list[Fraction]) -> list[Fraction]:
    """Logits in exact arithmetic; every other layer sorts pairs."""
    values = inputs
    for layer in network:
        if isinstance(layer, nn.Linear):
            rows = zip(layer.weight.tolist(), layer.bias.tolist(), strict=True)
            values = [sum((Fraction(w) * v for w, v in zip(row, values, strict=True)), Fraction(b)) for row, b in rows]
        else:
            values = [pick(values[i : i + 2]) for i in range(0, len(values), 2) for pick in (min, max)]
    return values


def shuffled(network: nn.Sequential, inputs: list[float], order: random.Random) -> list[float]:
    """Float32 logits whose sums are taken pair by pair in a random tree."""
    values = [np.float32(value) for value in inputs]
    for layer in network:
        if isinstance(layer, nn.Linear):
            result = []
            for row, bias in zip(layer.weight.tolist(), layer.bias.tolist(), strict=True):
                terms = [np.float32(w) * v for w, v in zip(row, values, strict=True)] + [np.float32(bias)]
                while len(terms) > 1:
                    first, second = (terms.pop(order.randrange(len(terms))) for _ in range(2))
                    terms.append(first + second)
                result.append(terms[0])
            values = result
        else:
            values = [pick(values[i : i + 2]) for i in range(0, len(values), 2) for pick in (min, max)]
    return [float(value) for value in values]


def sorting_network(seed: int, scale: float) -> nn.Sequential:
    torch.manual_seed(seed)
    layers = [nn.Linear(6, 8), torchlip.GroupSort2(), nn.Linear(8, 4), torchlip.GroupSort2(), nn.Linear(4, 3)]
    for layer in layers[::2]:
        layer.weight.data *= scale
        layer.bias.data *= scale
    return nn.Sequential(*layers).requires_grad_(False).eval()


def worst_ratio(network: nn.Sequential, chain: RoundedChain, *, trials: int, size: float) -> float:
    """Largest error of a difference of logits over its bound, in random orders of summation."""
    coefficient, constant = difference_errors(chain, torch.float32)
    order = random.Random(0)
    worst = 0.0
    for _ in range(trials):
        inputs = [float(np.float32(order.random() * size)) for _ in range(6)]
        exact = rational(network, [Fraction(value) for value in inputs])
        computed = shuffled(network, inputs, order)
        norm = math.sqrt(sum(value**2 for value in inputs))
        for i in range(3):
            for j in range(i):
                error = abs((Fraction(computed[i]) - Fraction(computed[j])) - (exact[i] - exact[j]))
                bound = float(coefficient[i, j]) * norm + float(constant[i, j])
                worst = max(worst, float(error / Fraction(bound)) if bound else math.inf * (error > 0))
    return worst


@pytest.mark.parametrize("scale", [1.0, 30.0, 1e-3])
@pytest.mark.parametrize("size", [1.0, 1e-3])
def test_true_errors_in_any_order_of_summation_are_below_the_bound(scale, size):
    network = sorting_network(3, scale)
    assert 0.01 < worst_ratio(network, chain_of(network, (6,)), trials=60, size=size) <= 1


def test_products_that_underflow_are_covered_by_the_constant_term():
    network = sorting_network(3, 1.0)
    for layer in network[::2]:
        layer.bias.zero_()
    network[0].weight.mul_(2.0**-130)
    chain = chain_of(network, (6,))
    assert worst_ratio(network, chain, trials=20, size=1e-3) <= 1
    coefficient, _ = difference_errors(chain, torch.float32)
    inputs = [2.0**-12] * 6
    error = max(
        map(
            abs,
            (
                Fraction(c) - e
                for c, e in zip(
                    shuffled(network, inputs, random.Random(0)),
                    rational(network, [Fraction(x) for x in inputs]),
                    strict=True,
                )
            ),
        )
    )
    assert float(error) > float(coefficient.max()) * math.sqrt(6) * 2.0**-12


def drop_roundings(chain: RoundedChain) -> RoundedChain:
    return dataclasses.replace(chain, steps=(dataclasses.replace(chain.steps[0], roundings=1),))


def drop_absolute_values(chain: RoundedChain) -> RoundedChain:
    return dataclasses.replace(chain, steps=(dataclasses.replace(chain.steps[0], spread=0.0),))


def drop_inherited(chain: RoundedChain) -> RoundedChain:
    assert chain.head is not None
    return dataclasses.replace(chain, head=dataclasses.replace(chain.head, pairs=torch.zeros(2, 2).double()))


@pytest.mark.parametrize("mutant", [None, drop_roundings, drop_absolute_values, drop_inherited])
def test_a_derivation_with_a_planted_mistake_is_refuted(mutant):
    """1 + u + u + ... stays 1 in float32, and the second layer multiplies what was lost by 100."""
    terms = 50
    network = nn.Sequential(nn.Linear(terms, 1, bias=False), nn.Linear(1, 2, bias=False)).requires_grad_(False).eval()
    network[0].weight.copy_(torch.tensor([[1.0, *[2.0**-24] * (terms - 1)]]))
    network[1].weight.copy_(torch.tensor([[100.0], [0.0]]))
    inputs = torch.ones(1, terms)
    with OneByOne():
        computed = network(inputs)
    error = float((float64_logits(network, inputs) - computed)[0, 0])
    assert error == pytest.approx(100 * (terms - 1) * 2.0**-24)
    chain = chain_of(network, (terms,))
    coefficient, constant = difference_errors(mutant(chain) if mutant else chain, torch.float32)
    bound = float(coefficient[0, 1]) * math.sqrt(terms) + float(constant[0, 1])
    assert (error <= bound) == (mutant is None)


def test_two_measured_layers_in_closed_form():
    """The second layer rounds in proportion to its argument, and passes on what the first rounds."""
    network = stacked([[3.0, -4.0], [4.0, 3.0]], [[6.0, 8.0], [0.0, 0.0]])
    chain = chain_of(network, (2,))
    _, constant, first, second = (table[0, 1] for table in measured_difference_errors(chain, torch.float32))
    relative = gamma(3) * 10
    assert chain.measured == pytest.approx((1, 5), rel=1e-5)
    assert float(first) == pytest.approx((10 + relative) * gamma(3) * 7, rel=1e-6)
    assert float(second) == pytest.approx(relative, rel=1e-6)
    assert float(constant) == pytest.approx((10 + relative) * gamma(3) * math.sqrt(5) + gamma(3) * (1 + 2), rel=1e-6)


def test_small_activations_leave_more_than_their_bound_does():
    """The first layer maps the input to nearly nothing, and the errors of the second are in proportion to that."""
    network = stacked([[3.0, -3.0], [0.0, 3.0]], [[6.0, 8.0], [0.0, 0.0]])
    network[0].bias.copy_(torch.tensor([1e-3, -3.0]))
    inputs = torch.ones(1, 2)
    bounds, chain = dense_bounds(network, inputs), chain_of(network, (2,))
    logits, norms = measured_logits(network, inputs)
    assert norms[0].tolist() == pytest.approx([math.sqrt(2), math.sqrt(2), 1e-3], rel=1e-4)
    blind = dataclasses.replace(
        chain,
        steps=tuple(dataclasses.replace(step, argument=None) for step in chain.steps),
        head=dataclasses.replace(chain.head, step=dataclasses.replace(chain.head.step, argument=None)),
    )
    radii, without = (
        float(rounded_radii(logits, bounds.pairs, one, sizes, dtype=torch.float32)[1])
        for one, sizes in ((chain, norms), (blind, norms[:, :1]))
    )
    tables = measured_difference_errors(chain, torch.float32)[:, 0, 1].tolist()
    sizes = math.sqrt(2), 1.0, *norms[0, 1:].tolist()
    spent = sum(table * size for table, size in zip(tables, sizes, strict=True))
    growth = tables[2] + tables[3] * chain.measured[1]
    margin = float(logits[0, 1] - logits[0, 0])
    assert radii == pytest.approx((margin - spent) / (float(bounds.pairs[0, 1]) + growth), rel=1e-9)
    assert radii > without * (1 + 1e-7)


def test_a_layer_used_twice_is_refused():
    network = stacked([[3.0, -4.0], [4.0, 3.0]])
    logits, norms = measured_logits(nn.Sequential(network[0], network[0]).eval(), torch.ones(1, 2))
    with pytest.raises(InputError, match="expected 1 measured layers, each used once, got 2"):
        rounded_radii(logits, torch.ones(2, 2), chain_of(network, (2,)), norms, dtype=torch.float32)


def test_the_radius_solves_its_inequality():
    """One linear layer: the margin less both errors is the distance times the slope, at the larger of two norms."""
    network = stacked([[3.0, -4.0], [-5.0, 12.0]])
    inputs = torch.tensor([[1.0, 0.0], [0.1, 0.9], [1.0, 1.0]])
    chain, pairs = chain_of(network, (2,)), dense_bounds(network, inputs).pairs
    logits, norms = measured_logits(network, inputs)
    prediction, radii = rounded_radii(logits, pairs, chain, norms, dtype=torch.float32)
    tables = [difference_errors(chain, dtype) for dtype in (torch.float64, torch.float32)]
    for row, label, radius, norm in zip(logits, prediction.tolist(), radii.tolist(), norms[:, 0].tolist(), strict=True):
        lengths = norm, min(math.sqrt(2), norm + radius)
        errors = sum(
            float(slope[0, 1]) * length + float(constant[0, 1])
            for (slope, constant), length in zip(tables, lengths, strict=True)
        )
        margin = float(row[label] - row[1 - label])
        assert radius > 0
        assert margin - errors == pytest.approx(float(pairs[0, 1]) * radius, rel=1e-12)


def test_rounding_leaves_nothing_of_a_margin_below_it():
    network = stacked([[0.0, 0.0], [0.0, 1.0]])
    network[0].bias.copy_(torch.tensor([1e6, 1e6]))
    inputs = torch.tensor([[0.0, 0.125]])
    bounds = dense_bounds(network, inputs)
    logits, norms = measured_logits(network, inputs)
    _, radii = rounded_radii(logits, bounds.pairs, chain_of(network, (2,)), norms, dtype=torch.float32)
    assert float(recomputed_radii(logits, bounds.pairs)[1]) > 0.1
    assert radii.tolist() == [0.0]


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (nn.Sigmoid(), "got Sigmoid"),
        (nn.Tanh(), "got Tanh"),
        (nn.Hardtanh(-0.1, 0.1), "float32 holds exactly"),
    ],
    ids=lambda case: type(case).__name__ if isinstance(case, nn.Module) else "",
)
def test_layers_without_a_bound_are_refused_by_name(layer, message):
    with pytest.raises(InputError, match=message):
        chain_of(nn.Sequential(nn.Linear(4, 3), layer).eval(), (4,))


@pytest.mark.parametrize("head", [True, False])
def test_numbers_that_may_overflow_are_refused(head):
    network = stacked([[1e30, 0.0], [0.0, 1e30]], [[1e10, 0.0], [0.0, 1.0]])
    chain = chain_of(network if head else nn.Sequential(*network, nn.ReLU()).eval(), (2,))
    with pytest.raises(InputError, match="may overflow"):
        difference_errors(chain, torch.float32)
    assert bool((difference_errors(chain, torch.float64)[0] > 0).all())


def test_sums_of_too_many_terms_are_refused():
    chain = RoundedChain((Step(1.0, spread=1.0, roundings=2**23, outputs=1),), None, 2, 1.0)
    with pytest.raises(InputError, match="fewer terms"):
        difference_errors(chain, torch.float32)
