"""Convolutions of any padding, and their adjoints."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lipcert.certificates.call import Call
from lipcert.certificates.conv import circular_norm_upper_bound, same_padding, zero_padded_norm_upper_bound
from lipcert.certificates.dense import dense_norm_upper_bound
from lipcert.certificates.rounding import product_up
from lipcert.certificates.signal import Signal, Term, Value


@dataclass(frozen=True)
class _Convolution:
    weight: Tensor
    stride: list[int]
    dilation: list[int]
    groups: int

    def bounds(self, value: Value, zeros: list[tuple[int, int]]) -> Iterator[tuple[Value, float, str]]:
        """Yield what there is: the value that the bound starts from, the bound, and its method."""
        settings: dict[str, Any] = {"stride": self.stride, "dilation": self.dilation, "groups": self.groups}
        size = value.shape[2:]
        padded = zero_padded_norm_upper_bound(self.weight, size, padding=zeros, **settings)
        yield value, padded, "singular values over a padded frequency grid"
        mode, before, widths = value.origin[1:] if value.origin[:1] == ("pad",) else ("constant", value, ())
        if len(widths) > 2 * len(size):
            return
        copied = _copied_pixels(value) if before is value else None
        if copied is not None:
            source, pixels = copied
            around = F.pad(pixels, [width for pair in reversed(zeros) for width in pair])
            dense = dense_norm_upper_bound(self.weight, around, multiplications=2e10, **settings)
            if dense is not None:
                yield source, dense, "singular value of the dense matrix"
            return
        if mode == "circular" and not any(map(any, zeros)):
            circular = circular_norm_upper_bound(self.weight, before.shape[2:], size, **settings)
            yield before, circular, "singular values over the circular frequency grid"
        positions = _positions(before.shape[2:], mode, widths, zeros)
        budget = 2e10 if mode in ("reflect", "replicate") else 1e9
        dense = dense_norm_upper_bound(self.weight, positions, multiplications=budget, **settings)
        if dense is not None:
            yield before, dense, "singular value of the dense matrix"


def _copied_pixels(value: Value) -> tuple[Value, Tensor] | None:
    """What a padding by hand copies from, and 1 + the pixel that each pixel copies, alike in all channels."""
    channels, size = value.shape[1], value.anchor.size
    if value.gain <= 1 or not value.exact or not value.treats_samples_alike or size % channels:
        return None
    pixels = size // channels
    index = value.index[0].reshape(channels, -1)
    first = torch.arange(channels)[:, None] * pixels
    moved = torch.where(index > 0, index - first, 0)
    alike = bool((moved == moved[:1]).all()) and bool(((moved > 0) == (index > 0)).all())
    if not alike or float(moved.max()) > pixels:
        return None
    whole = Value(value.anchor, torch.arange(1, 2 * size + 1, dtype=torch.float64).reshape(2, channels, pixels))
    return whole, moved[0].long().reshape(value.shape[2:])


def _positions(size: Sequence[int], mode: str, widths: Sequence[int], zeros: list[tuple[int, int]]) -> Tensor:
    """1 + the pixel that each pixel copies after a padding of some mode and then with zeros, 0 for a zero."""
    pixels = torch.arange(1, math.prod(size) + 1, dtype=torch.float64).reshape(1, 1, *size)
    padded = F.pad(pixels, list(widths), mode=mode) if widths else pixels
    return F.pad(padded, [width for pair in reversed(zeros) for width in pair])[0, 0].long()


def convolution(call: Call) -> Signal:
    """``conv1d``, ``conv2d`` and ``conv3d``: the least of several bounds."""
    given = call.bind("input", "weight", bias=None, stride=1, padding=0, dilation=1, groups=1)
    value, weight = call.value(given["input"]), call.constant(given["weight"])
    call.constants_only(given["bias"])
    dims, kernel = int(call.name[4]), weight.shape[2:]
    if len(value.shape) != dims + 2:
        call.refuse("expected a batch of inputs")
    call.fits(value.shape[1], weight.shape[1] * given["groups"])
    stride, dilation = each(given["stride"], dims), each(given["dilation"], dims)
    if isinstance(given["padding"], str):
        zeros = same_padding(kernel, dilation) if given["padding"] == "same" else [(0, 0)] * dims
    else:
        zeros = [(width, width) for width in each(given["padding"], dims)]
    spatial = zip(value.shape[2:], zeros, kernel, stride, dilation, strict=True)
    shape = [(n + sum(pad) - d * (k - 1) - 1) // s + 1 for n, pad, k, s, d in spatial]
    if min(shape) < 1:
        call.refuse(f"expected inputs of at least the kernel's size, got {value.shape[2:]}")

    def best(kernel: Tensor) -> tuple[Value, float, str]:
        candidates = _Convolution(kernel, stride, dilation, given["groups"]).bounds(value, zeros)
        return min(candidates, key=lambda candidate: product_up(candidate[0].bound, candidate[1]))

    def norm(kernel: Tensor) -> float:
        source, gain, _ = best(kernel)
        return product_up(source.bound, gain)

    source, gain, method = best(weight)
    apply, absolute = (
        functools.partial(_padded_convolution, call.func, zeros, kernel, stride, dilation, given["groups"])
        for kernel in (weight, weight.abs())
    )
    terms = (Term(value, apply, absolute, weight[0].numel()),)
    origin = ("convolution", value, weight, (zeros, stride, dilation, given["groups"]), norm)
    return call.fresh(source, gain, (*value.shape[:1], weight.shape[0], *shape), method, *origin, terms=terms)


def _padded_convolution(
    function: Any,
    zeros: list[tuple[int, int]],
    weight: Tensor,
    stride: list[int],
    dilation: list[int],
    groups: int,
    inputs: Tensor,
) -> Tensor:
    padded = F.pad(inputs, [width for pair in reversed(zeros) for width in pair])
    result: Tensor = function(padded, weight, None, stride, 0, dilation, groups)
    return result


def transposed_convolution(call: Call) -> Signal:
    """``conv_transpose1d``, ``2d`` and ``3d``: the adjoint of a convolution, of the same norm."""
    given = call.bind("input", "weight", bias=None, stride=1, padding=0, output_padding=0, groups=1, dilation=1)
    value, weight = call.value(given["input"]), call.constant(given["weight"])
    call.constants_only(given["bias"])
    dims = int(call.name[-2])
    stride, dilation = each(given["stride"], dims), each(given["dilation"], dims)
    padding, extra = each(given["padding"], dims), each(given["output_padding"], dims)
    spatial = zip(value.shape[2:], padding, extra, weight.shape[2:], stride, dilation, strict=True)
    call.fits(value.shape[1], weight.shape[0])
    shape = [(n - 1) * s - 2 * p + d * (k - 1) + e + 1 for n, p, e, k, s, d in spatial]
    gain = zero_padded_norm_upper_bound(
        weight,
        shape,
        stride=stride,
        padding=[(width, width) for width in padding],
        dilation=dilation,
        groups=given["groups"],
    )
    method = "adjoint: singular values over a padded frequency grid"
    positions = _positions(shape, "constant", (), [(width, width) for width in padding])
    dense = dense_norm_upper_bound(weight, positions, stride=stride, dilation=dilation, groups=given["groups"])
    if dense is not None and dense < gain:
        gain, method = dense, "adjoint: singular value of the dense matrix"
    shape = [*value.shape[:1], weight.shape[1] * given["groups"], *shape]
    settings = ([(width, width) for width in padding], stride, dilation, given["groups"])
    return call.fresh(value, gain, shape, method, "adjoint", value, weight, settings)


def each(argument: Any, dims: int) -> list[int]:
    """Return a setting for each dimension: one number stands for all."""
    values = [int(item) for item in argument] if isinstance(argument, Sequence) else [int(argument)]
    return values * dims if len(values) == 1 else values
