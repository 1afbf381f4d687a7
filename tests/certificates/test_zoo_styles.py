"""Hand-written spellings: bounded tightly where that is cheap, or refused in words that say where."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
import zoo_styles as styles
from deel import torchlip
from torch import nn
from zoo import VECTOR, Forward
from zoo_cases import Case, check_bound, check_rounding
from zoo_styles import With

from lipcert.certificates import rules_residual
from lipcert.certificates.graph import body_and_head, lipschitz_upper_bound
from lipcert.errors import InputError

IMAGE = (4, 6, 6)
COMPUTED = "some that forward computes"
SQUARES = "rounding error has a known bound.*(pow|square)|at most one factor"

CASES = [
    Case("shifts by groups of channels", lambda: Forward(styles.shifts_by_group), IMAGE),
    Case("pixel unshuffle", lambda: nn.PixelUnshuffle(2), IMAGE),
    Case("MaxMin of neighbours", lambda: Forward(styles.max_min_of_neighbours), IMAGE),
    Case("MaxMin in a view", lambda: Forward(styles.max_min_in_a_view), IMAGE),
    Case("absolute values written to a slice", lambda: Forward(styles.absolute_slice_in_place), IMAGE),
    Case("channels exchanged in place", lambda: Forward(styles.channels_exchanged), IMAGE),
    Case("mean written over a channel", lambda: Forward(styles.written_over), IMAGE, tight=1.1),
    Case("one channel in two", lambda: Forward(lambda self, x: x[:, ::2]), IMAGE),
    Case("einsum over channels",
         lambda: With(lambda self, x: torch.einsum("bchw,oc->bohw", x, self.w), w=(5, 4)), IMAGE),
    Case("einsum, constant first",
         lambda: With(lambda self, x: torch.einsum("oc, b c ... -> b o ...", self.w, x), w=(5, 4)), IMAGE),
    Case("einsum in blocks",
         lambda: With(lambda self, x: torch.einsum("bchw,cwv->bchv", x, self.w), w=(4, 6, 3)), IMAGE),
    Case("einsum that sums up", lambda: With(lambda self, x: torch.einsum("bchw,c->bw", x, self.w), w=(4,)), IMAGE),
    Case("einsum of one tensor", lambda: Forward(lambda self, x: torch.einsum("bchw->bwc", x)), IMAGE),
    Case("einsum with a size of one",
         lambda: With(lambda self, x: torch.einsum("bc,oc->bo", x, self.w), w=(3, 1)), VECTOR),
    Case("tensordot",
         lambda: With(lambda self, x: torch.tensordot(x, self.w, dims=([1, 3], [0, 2])), w=(4, 5, 6)), IMAGE),
    Case("inner product", lambda: With(lambda self, x: torch.inner(x, self.w), w=(3, 6)), VECTOR),
    Case("product with a vector", lambda: With(lambda self, x: (x @ self.w)[:, None], w=(6,)), VECTOR),
    Case("batch of matrices", lambda: With(lambda self, x: x @ self.w, w=(4, 6, 5)), IMAGE),
    Case("batch of matrices on the left", lambda: With(lambda self, x: self.w @ x, w=(4, 5, 6)), IMAGE),
    Case("matrix for each sample",
         lambda: With(lambda self, x: torch.bmm(self.w.expand(len(x), -1, -1), x), w=(5, 4)), (4, 6)),
    Case("patches in a view", lambda: With(styles.patches, weight=(16, 3)), IMAGE),
    Case("patches by unfold", lambda: Forward(lambda self, x: x.unfold(2, 2, 2).unfold(3, 3, 1)), IMAGE),
    Case("unfolded and folded", lambda: Forward(styles.unfolded_and_folded), IMAGE),
    Case("running sums", lambda: Forward(lambda self, x: x.cumsum(1)), VECTOR),
    Case("differences", lambda: Forward(lambda self, x: x.diff(dim=-1)), IMAGE),
    Case("largest three", lambda: Forward(lambda self, x: x.topk(3, dim=1)[0]), VECTOR),
    Case("median", lambda: Forward(lambda self, x: x.median(dim=1, keepdim=True).values), VECTOR),
    Case("second smallest", lambda: Forward(lambda self, x: x.kthvalue(2, dim=1)[0][:, None]), VECTOR),
    Case("interpolation", lambda: Forward(lambda self, x: torch.lerp(x, x.flip(1).relu(), 0.25)), VECTOR, tight=1.3),
    Case("product with a constant added",
         lambda: With(lambda self, x: torch.addcmul(x, x, self.w, value=2), w=(6,)), VECTOR),
    Case("hypotenuse",
         lambda: Forward(lambda self, x: torch.hypot(x[:, :3], x[:, 3:])), VECTOR, float32="known bound.*hypot"),
    Case("log of two exponentials",
         lambda: Forward(lambda self, x: torch.logaddexp(x[:, :3], x[:, 3:])), VECTOR, 1.5, "logaddexp"),
    Case("larger, whatever is nan", lambda: Forward(lambda self, x: torch.fmax(x[:, :3], x[:, 3:])), VECTOR),
    Case("softmin", lambda: Forward(lambda self, x: F.softmin(x, dim=1)), VECTOR, 3, "softmin"),
    Case("norm of a matrix",
         lambda: Forward(lambda self, x: torch.linalg.norm(x, dim=(2, 3))), IMAGE, float32="known bound.*norm"),
    Case("norm of order 1", lambda: Forward(lambda self, x: x.norm(p=1, dim=1)), IMAGE, float32="norm of order 2"),
    Case("largest absolute value",
         lambda: Forward(lambda self, x: torch.linalg.vector_norm(x, math.inf, dim=1)),
         IMAGE, float32="norm of order 2"),
    Case("gated residual", lambda: With(styles.gated_residual, gate=(), weight=(6, 6)), VECTOR, 1.5, COMPUTED),
    Case("normalised head", lambda: With(styles.normalised_head, weight=(3, 6)), VECTOR, float32=COMPUTED),
    Case("Cayley transform", lambda: With(styles.cayley, weight=(6, 6)), VECTOR, float32=COMPUTED),
    Case("convex potential layer",
         lambda: With(styles.convex_layer, weight=(8, 6), bias=(8,)), VECTOR, float32=COMPUTED),
    Case("step with a convolution", lambda: With(styles.sandwich(2.0), weight=(5, 4, 3, 3)), IMAGE, 2, COMPUTED),
    Case("step with a sigmoid",
         lambda: With(styles.sandwich(8.0, torch.sigmoid), weight=(5, 4, 3, 3)), IMAGE, 9, "rounding"),
    Case("step that is too long", lambda: With(styles.sandwich(9.0), weight=(5, 4, 3, 3)), IMAGE, 3, COMPUTED),
    Case("almost a step: other weight",
         lambda: With(styles.other_weight_back, weight=(4, 4, 3, 3)), IMAGE, 9, COMPUTED),
    Case("almost a step: upwards", lambda: With(styles.ascent, weight=(8, 6)), VECTOR, 2),
    Case("almost a step: another skip", lambda: With(styles.other_skip, weight=(8, 6)), VECTOR, 9),
    Case("almost a step: absolute values",
         lambda: With(styles.sandwich(2.0, torch.abs), weight=(5, 4, 3, 3)), IMAGE, 9, COMPUTED),
    Case("scaled step", lambda: With(styles.scaled_step, weight=(8, 6), scale=(8,)), VECTOR, 3),
    Case("linear residual", lambda: With(styles.linear_residual(padding=1), weight=(4, 4, 3, 3)), IMAGE),
    Case("linear residual of a large image",
         lambda: With(styles.linear_residual(padding="same", dilation=2, groups=2), weight=(4, 2, 3, 3)),
         (4, 20, 20), 1.2),
    Case("linear residual, circular", lambda: With(styles.circular_residual, weight=(4, 4, 3, 3)), IMAGE),
    Case("linear residual, circular and shifted", lambda: With(styles.shifted_residual, weight=(4, 4, 3, 3)), IMAGE, 2),
    Case("one half changed", lambda: With(styles.one_half_changed, weight=(2, 2, 3, 3)), IMAGE, 3),
    Case("halves apart", lambda: With(styles.coupled_halves, one=(2, 2, 1, 1), two=(2, 2, 1, 1)), IMAGE, 3, "tanh"),
    Case("halves that overlap", lambda: With(styles.overlapping_halves, weight=(2, 2, 1, 1)), IMAGE, 2),
    Case("root of squares", lambda: Forward(styles.root_of_squares), IMAGE, float32=SQUARES),
    Case("root of pooled squares", lambda: Forward(styles.pooled_squares), IMAGE, float32=SQUARES),
    Case("root of squares in overlapping windows",
         lambda: Forward(styles.squares_of_overlapping_windows), IMAGE, 2, SQUARES),
    Case("root of mixed squares", lambda: With(styles.mixed_squares, weight=(4, 4, 1, 1)), IMAGE, 2, SQUARES),
    Case("squares used again", lambda: Forward(styles.squares_used_again), IMAGE, 1.2, SQUARES),
    Case("standard deviation", lambda: Forward(lambda self, x: x.std(dim=(2, 3))), IMAGE, float32="std"),
    Case("root of a variance",
         lambda: Forward(lambda self, x: (x.var(1, keepdim=True) + 1e-5).sqrt()), VECTOR, float32="var"),
    Case("RMS normalisation", lambda: nn.RMSNorm(6, eps=0.1), VECTOR, 9, "rms_norm"),
    Case("centring by a sum", lambda: Forward(lambda self, x: x - x.sum(dim=1, keepdim=True) / 6), VECTOR),
    Case("centring in place", lambda: Forward(lambda self, x: x.clone().sub_(x.mean((2, 3), keepdim=True))), IMAGE),
    Case("centring by pooling", lambda: Forward(lambda self, x: x - F.adaptive_avg_pool2d(x, 1)), IMAGE),
    Case("pooling to a norm", lambda: Forward(lambda self, x: F.lp_pool2d(x, 2.0, x.shape[2:])), IMAGE),
    Case("mean over pixels", lambda: Forward(lambda self, x: x.mean(dim=[-2, -1])), IMAGE),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.filterwarnings("ignore:Using padding='same':UserWarning")
def test_a_spelling_is_bounded_just_above_its_slope(case: Case) -> None:
    check_bound(case)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.filterwarnings("ignore:Using padding='same':UserWarning")
def test_the_rounding_of_a_spelling_is_covered_or_refused(case: Case) -> None:
    check_rounding(case)


REFUSED = {
    "square without a root": (lambda self, x: x**2, r"root.*pow of the network's own forward"),
    "variance without a root": (lambda self, x: x.var(1), r"root.*var"),
    "square that is used": (lambda self, x: (x * x).relu().exp(), "exp"),
    "square minus something": (lambda self, x: (x**2 - x).sqrt(), "nothing but squares|squares.*sub"),
    "square plus a negative number": (lambda self, x: (x**2 - 1).sqrt(), "squares.*pow"),
    "square plus a small number below zero": (lambda self, x: (x**2 + -1e-6).sqrt(), "constant of at least 0"),
    "negative square": (lambda self, x: (-2 * x**2).sqrt(), "positive constant"),
    "square next to what is none": (lambda self, x: torch.cat([x**2, x], 1).sum(1).sqrt(), "nothing but squares"),
    "cube": (lambda self, x: x**3, "power 2"),
    "root of what is no square": (lambda self, x: x.relu().sqrt(), "sqrt"),
    "reciprocal root": (lambda self, x: (x**2).sum(1).rsqrt(), "rsqrt"),
    "view of squares written to": (styles.view_of_squares_written_to, "another view"),
    "choice by comparison": (styles.split_by_comparison, "gt"),
    "einsum of the input with itself": (lambda self, x: torch.einsum("bc,bc->b", x, x), "einsum"),
    "einsum over the batch": (lambda self, x: torch.einsum("bc,bc->bc", x, torch.ones(2, 6)), "samples"),
    "einsum of a diagonal": (lambda self, x: torch.einsum("bc,cc->bc", x, torch.ones(6, 6)), "letter twice"),
    "matrix that mixes samples": (styles.samples_mixed_by_a_matrix, "samples"),
    "other matrices for each sample": (lambda self, x: x[:, None] @ torch.randn(2, 6, 6), "same constant"),
    "Fourier transform": (lambda self, x: torch.fft.ifft(torch.fft.fft(x)).real, "fft_fft"),
    "spectral norm of the input": (lambda self, x: torch.linalg.norm(x[:, None], 2, dim=(1, 2)), "norm of order"),
    "gated linear unit": (lambda self, x: F.glu(x, 1), "glu"),
    "positions written twice": (styles.written_twice, "no position twice"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_spelling_without_a_bound_is_refused_by_name(name: str) -> None:
    function, says = REFUSED[name]
    with pytest.raises(InputError, match=says):
        lipschitz_upper_bound(Forward(function).eval(), VECTOR)


def test_a_reflection_for_other_channels_is_refused() -> None:
    network = Forward(styles.angle_for_other_channels, reflections=torchlip.HouseHolder(4)).eval()
    assert network(torch.ones(1, 2, 3)).shape == (1, 4, 3)  # torch broadcasts: each pair is returned twice
    with pytest.raises(InputError, match="angle"):
        lipschitz_upper_bound(network, (2, 3))


def test_a_product_at_the_end_is_a_head() -> None:
    for function in (
        lambda self, x: x @ self.weight.T,
        lambda self, x: torch.einsum("bc,kc->bk", x, self.weight),
        lambda self, x: torch.inner(x, self.weight),
    ):
        network = With(function, weight=(3, 6)).eval()
        body, head = body_and_head(network, VECTOR)
        assert body.value == 1
        assert torch.equal(head, network.weight.detach().double())


@pytest.mark.parametrize("name", ["almost a step: other weight", "almost a step: another skip"])
def test_a_step_that_is_none_would_be_bounded_too_low(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    case = next(case for case in CASES if case.name == name)
    monkeypatch.setattr(rules_residual, "_same", lambda first, second: True)
    monkeypatch.setattr(torch, "equal", lambda first, second: True)
    with pytest.raises(AssertionError):
        check_bound(case)
