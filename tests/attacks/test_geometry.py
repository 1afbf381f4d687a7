import math

import pytest
import torch
from scipy.optimize import linprog

from lipcert.attacks.geometry import into_ball, lengths, onto_plane, safe_size, steepest
from lipcert.attacks.task import NORMS
from lipcert.attacks.verify import distance_upper_bound

DUAL = {"l1": "linf", "l2": "l2", "linf": "l1"}


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e30])
def test_the_steepest_direction_reaches_the_dual_norm(norm, scale):
    gradients = (random(20, 2, 3) * scale).float()
    gradients[0] = 0
    directions = steepest(gradients, norm)
    gains = (gradients.double() * directions).flatten(1).sum(1)
    torch.testing.assert_close(gains.double(), lengths(gradients.double(), DUAL[norm]), rtol=1e-6, atol=0)
    torch.testing.assert_close(lengths(directions[1:], norm), torch.ones(19), rtol=1e-6, atol=0)


@pytest.mark.parametrize("norm", NORMS)
def test_the_projection_onto_a_ball_is_its_nearest_point(norm):
    changes, sizes = random(40, 7), torch.linspace(0.1, 4, 40, dtype=torch.float64)
    points = into_ball(changes, sizes, norm)
    assert (lengths(points, norm) <= sizes * (1 + 1e-12)).all()
    inside = lengths(changes, norm) <= sizes
    assert inside.any()
    assert torch.equal(points[inside], changes[inside])
    # a point of a convex set is the nearest one if and only if no other one lies on the same side of it as the target
    for seed in range(50):
        others = random(40, 7, seed=seed + 1)
        others = others * (sizes / lengths(others, norm))[:, None]
        assert (((changes - points) * (others - points)).sum(1) <= 1e-12).all()


def plane_problems():
    """Points, many of them at a bound, and planes, some of which the box does not reach."""
    inputs = torch.rand(30, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 3 - 1
    inputs[:, :4] = inputs[:, :4].gt(0.5) * 3.0 - 1
    normals = random(30, 12, seed=2)
    normals[:, 5] = 0
    levels = (normals * inputs).sum(1) - torch.linspace(-1, 14, 30, dtype=torch.float64)
    return inputs, normals, levels, (-1.0, 2.0)


def slow_distance(point, normal, level, bounds, norm):
    """The distance of one point to the part of the box on or beyond the plane; None if there is none."""
    low, high = bounds
    if torch.where(normal > 0, low, high).mul(normal).sum() > level:
        return None
    if norm == "l1":
        rises, falls = (high - point).tolist(), (point - low).tolist()
        row = [*normal.tolist(), *(-normal).tolist()]
        limits = [(0, size) for size in (*rises, *falls)]
        return linprog([1.0] * len(row), [row], [(level - normal @ point).item()], bounds=limits).fun
    direction = normal if norm == "l2" else normal.sign()
    near, far = 0.0, 1e6
    for _ in range(200):
        middle = (near + far) / 2
        reached = (point - middle * direction).clamp(low, high) @ normal <= level
        near, far = (near, middle) if reached else (middle, far)
    return lengths(((point - far * direction).clamp(low, high) - point)[None], norm).item()


@pytest.mark.parametrize("norm", NORMS)
def test_the_way_to_a_plane_is_the_shortest_in_the_box(norm):
    inputs, normals, levels, bounds = plane_problems()
    points = onto_plane(inputs, normals, levels, bounds, norm)
    found = {"unreached": 0, "there": 0, "reached": 0}
    for point, start, normal, level in zip(points, inputs, normals, levels, strict=True):
        assert bounds[0] <= point.min()
        assert point.max() <= bounds[1]
        distance = slow_distance(start, normal, level, bounds, norm)
        if distance is None:
            corner = torch.where(normal > 0, *torch.tensor(bounds, dtype=torch.float64))
            torch.testing.assert_close(point[normal != 0], corner[normal != 0])
            found["unreached"] += 1
        else:
            assert point @ normal <= level + 1e-9
            assert lengths((point - start)[None], norm).item() == pytest.approx(distance, abs=1e-9)
            found["there" if distance == 0 else "reached"] += 1
    assert min(found.values()) > 0


def test_without_a_gradient_nothing_moves():
    inputs = torch.rand(3, 5)
    for norm in NORMS:
        points = onto_plane(inputs, torch.zeros(3, 5), torch.full((3,), -1.0), (0.0, 1.0), norm)
        assert torch.equal(points, inputs)
        assert torch.equal(steepest(torch.zeros(3, 5), norm), torch.zeros(3, 5))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("bounds", [(0.0, 1.0), (-3.0, 255.0)])
@pytest.mark.parametrize("epsilon", [1e-6, 1 / 255, 0.3, 50.0])
def test_what_keeps_to_the_safe_size_keeps_to_the_budget_after_rounding(norm, bounds, epsilon):
    low, high = bounds
    generator = torch.Generator().manual_seed(4)
    inputs = torch.rand(50, 1, 15, 15, generator=generator) * (high - low) + low
    size = safe_size(epsilon, inputs, bounds, norm)
    assert 0 <= size < epsilon
    changes = into_ball(1e3 * epsilon * torch.randn(inputs.shape, generator=generator), size, norm)
    candidates = (inputs + changes).clamp(low, high)
    assert distance_upper_bound(inputs, candidates, norm).max() <= epsilon
    if epsilon > 1e-3 and high == 1:
        assert size > 0.95 * epsilon


def test_nothing_is_left_of_a_budget_below_the_resolution():
    assert safe_size(1e-9, torch.zeros(1, 3), (0.0, 1.0), "l2") == 0
    assert math.isfinite(into_ball(torch.ones(1, 3), 0.0, "l2").sum())
