"""Radii that hold for a network as it executes in floating point."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lipcert.certificates.float_rules import ROUNDING_RULES
from lipcert.certificates.float_walk import RoundingWalk, bounds_of, computed_size, dtype_name
from lipcert.certificates.graph import run_walk
from lipcert.certificates.norms import row_norms_upper_bound
from lipcert.certificates.rounding import UNIT_ROUNDOFF, gamma, product_up, sqrt_up, sum_up, unit_roundoff
from lipcert.certificates.signal import Signal
from lipcert.errors import InputError
from lipcert.parametrized import keep_effective_weights

_INFLATION = 1 + 2.0**-40  # the few float64 roundings on (K, K) tables


@dataclass(frozen=True)
class LogitErrors:
    r"""How far rounding takes the differences of two logits off, anywhere in the input box.

    .. math:: |(\hat f_i - \hat f_j)(x) - (f_i - f_j)(x)| \le E^0_{ij} + E^1_{ij} \|x\|_2

    Attributes:
        constant: ``(K, K)`` float64.
        coefficient: ``(K, K)`` float64.
        dtype: the arithmetic that is meant.
        reach: upper bound of the norm of any input.
    """

    constant: Tensor
    coefficient: Tensor
    dtype: torch.dtype
    reach: float


def logit_errors(model: nn.Module, input_shape: Sequence[int]) -> LogitErrors:
    r"""Return bounds of the rounding errors of a network's logits, as it executes in its own floating-point type.

    Layer by layer, with L the Lipschitz constant of an operation, A its norm with absolute values and n the number of
    roundings to an element,

    .. math:: D_l = L_l D_{l-1} + \gamma_{n_l} \big(A_l (M_{l-1} + D_{l-1}) + \|b_l\|\big) + \text{underflow},

    where M bounds the norm of what the operation is applied to. Products may be summed in any order and fused.

    Args:
        model: network in eval mode, of one floating-point type.
        input_shape: shape of one input in [0, 1], without the batch.

    Returns:
        One bound for every pair of logits.

    Raises:
        InputError: an operation whose rounding has no known bound, or that could overflow; the message names it.

    Source: Murray (2026), arXiv 2603.13334; Higham (2002), Accuracy and Stability of Numerical Algorithms, section 3.

    Example:
        >>> network = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).eval()
        >>> errors = logit_errors(network, (1, 2, 2))
        >>> bool((errors.constant + 2 * errors.coefficient < 1e-5).all())
        True
    """
    dtype = arithmetic_of(model)
    reach = sqrt_up(float(math.prod(input_shape)))
    output, walk = run_walk(model, input_shape, lambda network: RoundingWalk(network, ROUNDING_RULES, dtype, reach))
    origin = output.value.anchor.origin
    is_head = bool(origin) and output.value.is_whole and len(output.value.shape) == 2
    coefficient, constant = _of_head(walk, origin) if is_head else _of_whole(output)
    return LogitErrors(constant * _INFLATION, coefficient * _INFLATION, dtype, reach)


def _of_whole(output: Signal) -> tuple[Tensor, Tensor]:
    """Any two coordinates of a vector differ by at most root 2 times its norm."""
    classes = output.value.shape[-1]
    bounds = bounds_of(output.value)[2:]
    first, second = (torch.full((classes, classes), math.sqrt(2) * bound, dtype=torch.float64) for bound in bounds)
    return first, second


def _of_head(walk: RoundingWalk, origin: tuple[Any, ...]) -> tuple[Tensor, Tensor]:
    """Errors of two logits: what the body's error becomes, and the roundings in the two rows."""
    _, source, weight, bias = origin
    roundings = weight.shape[1] + (bias is not None)
    relative = sum_up(gamma(roundings, walk.unit), product_up(4.0 * roundings, walk.tiny))
    exact = weight.detach().cpu().double()
    rows = row_norms_upper_bound(exact)
    pairs = row_norms_upper_bound((exact[:, None] - exact).flatten(0, 1)).view(len(exact), len(exact))
    shifts = torch.zeros(len(rows)).double() if bias is None else bias.detach().cpu().double().abs()
    slope, constant = computed_size(source)
    inherited = bounds_of(source)[2:]
    tables = []
    for bound, size, shift in zip(inherited, (slope, constant), (0 * shifts, shifts), strict=True):
        own = relative * (rows * size + shift)
        tables.append(pairs * bound + own[:, None] + own)
    tables[1] += product_up(8.0 * roundings, walk.tiny)
    return tables[0], tables[1]


def rounded_margin_radius(
    logits: Tensor, pair_upper_bounds: Tensor, errors: LogitErrors, norms: Tensor
) -> tuple[Tensor, Tensor]:
    r"""Return predictions and L2 radii that hold for the computed network, from its logits in float64.

    With errors :math:`E_{ij}(\rho) = E^0_{ij} + E^1_{ij} \rho` for inputs of norm at most :math:`\rho`, no input x' of
    the box with :math:`\|x' - x\|_2 < r` is computed to be of another class if for all :math:`j \neq y`

    .. math:: f_y(x) - f_j(x) - E^{64}_{yj}(\|x\|) - E_{yj}(\min(\sqrt d, \|x\| + r)) \ge L_{yj} r.

    Args:
        logits: ``(N, K)`` float64, as computed in float64 with the very same weights.
        pair_upper_bounds: ``(K, K)`` float64, Lipschitz bounds of the differences of two logits.
        errors: bounds of the rounding errors; those of float64 follow, because no term is less than linear in the unit
            roundoff.
        norms: ``(N,)`` float64, upper bounds of the norms of the inputs.

    Returns:
        ``(N,)`` int64 predictions and ``(N,)`` float64 radii, rounded down.
    """
    prediction = logits.argmax(1)
    steepness, constant, coefficient = (
        table[prediction] for table in (pair_upper_bounds, errors.constant, errors.coefficient)
    )
    margins = (logits.gather(1, prediction[:, None]) - logits) * (1 - 4 * UNIT_ROUNDOFF)
    ratio = UNIT_ROUNDOFF / unit_roundoff(errors.dtype)
    at_centre = (constant + coefficient * norms[:, None]) * ratio
    left = margins - (at_centre + constant) * _INFLATION
    everywhere = left - coefficient * errors.reach * _INFLATION
    nearby = left - coefficient * norms[:, None] * _INFLATION
    quotients = torch.maximum(
        _quotient(everywhere, margins, steepness), _quotient(nearby, margins, steepness + coefficient * _INFLATION)
    )
    radius = quotients.scatter(1, prediction[:, None], math.inf).min(1).values
    return prediction, torch.where(logits.isfinite().all(1), radius, 0)


def _quotient(numerator: Tensor, margins: Tensor, divisor: Tensor) -> Tensor:
    """Divide, rounded down, where the numerator is certainly positive."""
    certain = numerator - 16 * UNIT_ROUNDOFF * margins.abs()
    return torch.where(certain > 0, certain / divisor * (1 - 16 * UNIT_ROUNDOFF), 0)


def norms_upper_bound(inputs: Tensor) -> Tensor:
    """Return upper bounds ``(N,)`` of the Euclidean norms of inputs in [0, 1], in float64."""
    flat = inputs.flatten(1)
    tiny = 2.0**-500 * math.sqrt(flat.shape[1])  # squares that underflow
    norms: Tensor = flat.double().norm(dim=1).cpu() * (1 + gamma(flat.shape[1] + 8)) + tiny
    return norms


def arithmetic_of(model: nn.Module) -> torch.dtype:
    """Return the floating-point type that a network computes in: float32 or float64.

    Raises:
        InputError: another type, or several.
    """
    tensors = (*model.parameters(), *model.buffers())
    found = {tensor.dtype for tensor in tensors if tensor.is_floating_point()} or {torch.float32}
    names = ", ".join(sorted(map(dtype_name, found)))
    if len(found) > 1 or not found <= {torch.float32, torch.float64}:
        raise InputError(f"expected a network of one floating-point type, float32 or float64, got {names}")
    return found.pop()


def check_execution(model: nn.Module, inputs: Tensor) -> None:
    """Refuse settings and networks whose arithmetic is not what the error bounds are for.

    Raises:
        InputError: reduced-precision products, flushed subnormals, inputs that the network's type does not hold, or an
            operation in another type than the network's.
    """
    dtype = arithmetic_of(model)
    if torch.get_float32_matmul_precision() != "highest":
        raise InputError(
            f'expected float32 products in full precision, got "{torch.get_float32_matmul_precision()}" '
            "(torch.set_float32_matmul_precision)"
        )
    if any(tensor.is_cuda for tensor in model.parameters()) and torch.backends.cudnn.allow_tf32:
        raise InputError("expected torch.backends.cudnn.allow_tf32 = False, got True")
    if float(torch.full((1,), 2.0**-140, dtype=torch.float32) * 0.5) == 0:
        raise InputError("expected gradual underflow, got subnormal numbers flushed to zero (torch.set_flush_denormal)")
    if not torch.equal(inputs.to(dtype).double(), inputs.double()):
        raise InputError(f"expected inputs that {dtype_name(dtype)} holds exactly")
    plain = copy.deepcopy(model)
    keep_effective_weights(plain)
    executed, exact = (_constants(network, inputs[:1].to(own)) for network, own in _both(plain, dtype))
    same = len(executed) == len(exact) and all(map(torch.equal, executed, exact))
    if not same:
        raise InputError(
            f"expected weights that are the same in {dtype_name(dtype)} and float64, got some that forward computes; "
            "export the network first"
        )


def _both(plain: nn.Module, dtype: torch.dtype) -> tuple[tuple[nn.Module, torch.dtype], ...]:
    return ((plain, dtype), (float64_copy(plain), torch.float64))


def _constants(network: nn.Module, first: Tensor) -> list[Tensor]:
    """Run a network on one input and return what it computes from its weights alone."""
    watch = _Watch(first)
    try:
        with torch.no_grad(), watch:
            network(first)
    except (RuntimeError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"expected a network that runs in {dtype_name(first.dtype)}, got an error: {reason}"
        ) from error
    return watch.constants


def float64_copy(model: nn.Module) -> nn.Module:
    """Return a copy that computes in float64 with the very weights that execute."""
    exact = copy.deepcopy(model)
    keep_effective_weights(exact)  # before they are converted: the weights that are bounded are those that execute
    return exact.double()


class _Watch(TorchDispatchMode):
    """Refuses changes of the floating-point type, and keeps what is computed without the input.

    Attributes:
        constants: float64 copies of the results that do not depend on the input, in order.
    """

    def __init__(self, first: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.dtype, self.constants = first.dtype, []
        self._dependent = {id(first): first}  # kept alive, so that no other tensor gets the same id

    constants: list[Tensor]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        taken, given = _floating((args, kwargs)), _floating(result)
        if self.dtype in {tensor.dtype for tensor in taken}:
            others = {tensor.dtype for tensor in given} - {self.dtype}
            if others:
                expected, found = dtype_name(self.dtype), ", ".join(map(dtype_name, others))
                raise InputError(f"expected a network that computes in {expected} throughout, got {found} in {func}")
        if any(id(tensor) in self._dependent for tensor in taken):
            self._dependent |= {id(tensor): tensor for tensor in given}
        elif "empty" not in str(func):
            self.constants += [tensor.detach().double().clone() for tensor in given]
        return result


def _floating(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor) and leaf.is_floating_point()]
