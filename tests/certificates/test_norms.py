"""Matrix norms: above the singular value, close to it, at any scale."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from reference import operator_norm
from torch import Tensor

from lipcert.certificates import norms
from lipcert.certificates.conv import grid_norm_upper_bound
from lipcert.certificates.norms import block_norm_upper_bound, bounded_once, each_norm_once, matrix_norm_upper_bound
from lipcert.errors import InputError


def orthogonal(size: int) -> Tensor:
    return torch.linalg.qr(torch.randn(size, size, dtype=torch.float64))[0]


def nearly_equal_singular_values(size: int) -> Tensor:
    return orthogonal(size) @ torch.diag(1 + 1e-12 * torch.rand(size, dtype=torch.float64)) @ orthogonal(size)


MATRICES = {
    "one number": lambda: torch.tensor([[-3.0]]),
    "row": lambda: torch.randn(1, 50),
    "column": lambda: torch.randn(50, 1),
    "wide": lambda: torch.randn(10, 300),
    "tall": lambda: torch.randn(300, 10),
    "float32": lambda: torch.randn(80, 90),
    "float16": lambda: torch.randn(20, 30).half(),
    "bfloat16": lambda: torch.randn(20, 30).bfloat16(),
    "float64": lambda: torch.randn(80, 90, dtype=torch.float64),
    "orthogonal": lambda: orthogonal(60),
    "all singular values nearly equal": lambda: nearly_equal_singular_values(60),
    "rank one": lambda: torch.outer(torch.randn(40), torch.randn(70)),
    "ones": lambda: torch.ones(64, 64),
    "wide range of sizes": lambda: (
        torch.randn(30, 30, dtype=torch.float64) * 10.0 ** torch.linspace(-160, 0, 30, dtype=torch.float64)
    ),
    "one loud entry": lambda: torch.randn(50, 50).index_put((torch.tensor(3), torch.tensor(4)), torch.tensor(1e4)),
}


@pytest.mark.parametrize("build", MATRICES.values(), ids=MATRICES)
def test_bound_is_above_and_within_a_thousandth(build) -> None:
    torch.manual_seed(0)
    matrix = build()
    exact = operator_norm(matrix)
    # The reference is itself off by a few roundings of an SVD.
    assert exact * (1 - 1e-13) <= matrix_norm_upper_bound(matrix) <= exact * (1 + 1e-6)


def test_bound_is_above_where_the_norm_is_rational() -> None:
    # A Pythagorean rotation times 3: the norm is exactly 3 in rational arithmetic, and every entry is a float64.
    matrix = torch.tensor([[0.6, -0.8], [0.8, 0.6]], dtype=torch.float64)
    columns = [sum(Fraction(float(entry)) ** 2 for entry in column) for column in matrix.T]
    bound = Fraction(matrix_norm_upper_bound(matrix))
    assert bound**2 >= max(columns)


@pytest.mark.parametrize("scale", [1e-40, 1e-30, 1e-3, 1.0, 1e30, 1e37])
def test_bound_scales_exactly_with_powers_of_two_and_never_over_or_underflows(scale: float) -> None:
    torch.manual_seed(0)
    matrix = torch.randn(20, 30, dtype=torch.float64)
    power = 2.0 ** round(math.log2(scale))
    assert matrix_norm_upper_bound(matrix * power) == matrix_norm_upper_bound(matrix) * power
    tiny = torch.full((3, 3), scale)
    assert 3 * float(tiny[0, 0]) <= matrix_norm_upper_bound(tiny) <= 3 * float(tiny[0, 0]) * (1 + 1e-6)


@pytest.mark.parametrize("entry", [5e-324, 1e-310, 1e300])
def test_bound_holds_at_the_ends_of_float64(entry: float) -> None:
    bound = matrix_norm_upper_bound(torch.tensor([[entry, 0.0], [0.0, entry]], dtype=torch.float64))
    assert entry <= bound <= entry * (1 + 1e-6) + 1e-323


@pytest.mark.parametrize("shape", [(3, 4), (0, 4), (4, 0)])
def test_zero_matrix_has_norm_zero(shape: tuple[int, int]) -> None:
    assert matrix_norm_upper_bound(torch.zeros(shape)) == 0.0


@pytest.mark.parametrize(
    ("weight", "says"),
    [
        (torch.tensor([[1.0, float("nan")]]), "nan"),
        (torch.tensor([[float("inf")]]), "infinity"),
        (torch.ones(2, 2, 2), "matrix"),
        (torch.ones(2, 2, dtype=torch.int64), "floating-point"),
        (torch.ones(2, 2, dtype=torch.complex64), "real"),
    ],
)
def test_what_is_no_finite_matrix_is_refused(weight: Tensor, says: str) -> None:
    with pytest.raises(InputError, match=says):
        matrix_norm_upper_bound(weight)


def test_norm_beyond_float64_is_refused() -> None:
    with pytest.raises(InputError, match="within float64"):
        matrix_norm_upper_bound(torch.full((9, 9), 1.7e308, dtype=torch.float64))


@pytest.mark.parametrize("factor", [1e-9, 0.3, 0.999, 1.5, 1e6])
def test_a_wrong_guess_of_the_eigenvalue_cannot_make_the_bound_wrong(monkeypatch, factor: float) -> None:
    torch.manual_seed(0)
    blocks = torch.randn(5, 12, 9, dtype=torch.complex128)
    exact = float(torch.linalg.svdvals(blocks).max())
    estimate = norms._largest_eigenvalue_estimate
    monkeypatch.setattr(norms, "_largest_eigenvalue_estimate", lambda gram: factor * estimate(gram))
    assert block_norm_upper_bound(blocks) >= exact


def test_frobenius_norm_takes_over_when_nothing_can_be_proved(monkeypatch) -> None:
    monkeypatch.setattr(norms, "_proved_shift", lambda gram: None)
    assert block_norm_upper_bound(torch.eye(4, dtype=torch.float64)[None]) == pytest.approx(2.0, rel=1e-12)


def test_a_bound_below_the_norm_is_never_certified() -> None:
    matrix = torch.diag(torch.tensor([1.0, 1.0 + 1e-9], dtype=torch.float64))
    assert not bool(torch.linalg.cholesky_ex(torch.eye(2, dtype=torch.float64) - matrix @ matrix)[1] == 0)
    assert matrix_norm_upper_bound(matrix) >= 1.0 + 1e-9


@pytest.fixture
def counted(monkeypatch):
    calls = []

    def block_norm(blocks):
        calls.append(blocks)
        return block_norm_upper_bound(blocks)

    monkeypatch.setattr(norms, "block_norm_upper_bound", block_norm)
    return calls


def test_within_a_scope_equal_matrices_are_bounded_once_and_none_is_kept_beyond(counted) -> None:
    weight = torch.randn(5, 4)
    for _ in range(2):
        with each_norm_once():
            with each_norm_once():
                first = matrix_norm_upper_bound(weight)
            assert matrix_norm_upper_bound(weight.clone()) == first
    assert len(counted) == 2
    matrix_norm_upper_bound(weight)
    assert len(counted) == 3


def test_an_error_ends_the_scope(counted) -> None:
    def bounding(*weights: Tensor) -> None:
        with each_norm_once():
            for weight in weights:
                matrix_norm_upper_bound(weight)

    with pytest.raises(InputError):
        bounding(torch.eye(2), torch.ones(2, 2, 2))
    matrix_norm_upper_bound(torch.eye(2))
    assert len(counted) == 2


CHANGES = {
    "in place": lambda weight: weight.mul_(3),
    "through its data": lambda weight: weight.data.mul_(3),
    "through a view": lambda weight: weight[0].mul_(3),
    "through numpy": lambda weight: weight.numpy().__imul__(3),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_changed_matrix_is_bounded_anew(change) -> None:
    weight = torch.ones(2, 2)
    with each_norm_once():
        before = matrix_norm_upper_bound(weight)
        change(weight)
        after = matrix_norm_upper_bound(weight)
    assert before != after == matrix_norm_upper_bound(weight)


def test_the_same_weights_under_other_settings_or_another_function_are_bounded_anew() -> None:
    weight = torch.randn(3, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    with each_norm_once():
        grids = [
            grid_norm_upper_bound(weight, grid, stride=stride, dilation=[1, 1])
            for grid, stride in (([3, 3], [1, 1]), ([4, 4], [1, 1]), ([4, 4], [2, 2]))
        ]
        assert len(set(grids)) == 3
        shapes = [torch.arange(6.0).view(shape) for shape in ((2, 3), (3, 2), (1, 6))]
        assert len({round(matrix_norm_upper_bound(matrix), 3) for matrix in shapes}) == 3
        assert bounded_once(lambda tensor: 7)(weight[0, 0]) == 7
        assert matrix_norm_upper_bound(weight[0, 0]) != 7
