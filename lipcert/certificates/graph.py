"""Lipschitz bounds of whole networks: the network runs once, on signals that carry a bound in place of numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from deel import torchlip
from torch import Tensor, nn

from lipcert.certificates import rules_linear, rules_pointwise, rules_pool, rules_shape
from lipcert.certificates.activations import ELEMENTWISE
from lipcert.certificates.certificate import LipschitzBound
from lipcert.certificates.signal import Signal, Value
from lipcert.certificates.walk import Call, Operation, Rule, Walk
from lipcert.errors import InputError


def _householder(call: Call) -> Signal:
    """A reflection on one side of a hyperplane, nothing on the other, equal on the hyperplane itself."""
    given = call.bind("module", "z", axis=1)
    value = call.value(given["z"])
    return call.fresh(value, 1.0, value.shape, "reflection")


LAYERS: dict[type[nn.Module], Rule] = {torchlip.HouseHolder: _householder}
"""Modules taken as a whole, by exact type; every other one is run."""

RULES: dict[str, Rule] = {
    **dict.fromkeys(rules_shape.LOOKS, rules_shape.look),
    **dict.fromkeys(rules_shape.MOVES, rules_shape.move),
    **dict.fromkeys(("view_as", "reshape_as", "expand_as"), rules_shape.move_like),
    **dict.fromkeys(("to", "float", "double", "cpu", "cuda"), rules_shape.convert),
    **dict.fromkeys(rules_shape.BLANKS, rules_shape.blank),
    **dict.fromkeys(("cat", "concat", "concatenate", "stack"), rules_shape.concatenate),
    "pad": rules_shape.pad,
    **dict.fromkeys(ELEMENTWISE, rules_pointwise.elementwise),
    "prelu": rules_pointwise.prelu,
    **dict.fromkeys(rules_pointwise.DROPOUTS, rules_pointwise.keep),
    **dict.fromkeys(("add", "sub"), rules_pointwise.add),
    "rsub": rules_pointwise.subtract_from,
    "mul": rules_pointwise.multiply,
    "div": rules_pointwise.divide,
    "batch_norm": rules_pointwise.batch_norm,
    **dict.fromkeys(("maximum", "minimum"), rules_pointwise.extremum),
    "where": rules_pointwise.where,
    "masked_fill": rules_pointwise.masked_fill,
    "linear": rules_linear.linear,
    **dict.fromkeys(("matmul", "mm", "rmatmul"), rules_linear.matmul),
    "addmm": rules_linear.addmm,
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), rules_linear.convolution),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), rules_linear.transposed_convolution),
    **dict.fromkeys(("sum", "mean"), rules_linear.reduce_sum),
    **dict.fromkeys(("avg_pool1d", "avg_pool2d", "avg_pool3d"), rules_pool.average_pool),
    **dict.fromkeys(
        ("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d"), rules_pool.adaptive_average_pool
    ),
    **dict.fromkeys(("max_pool1d", "max_pool2d", "max_pool3d"), rules_pool.max_pool),
    **dict.fromkeys(
        ("adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d"), rules_pool.adaptive_max_pool
    ),
    **dict.fromkeys(("lp_pool1d", "lp_pool2d", "lp_pool3d"), rules_pool.norm_pool),
    **dict.fromkeys(("norm", "linalg.vector_norm"), rules_pool.reduce_norm),
    **dict.fromkeys(("amax", "amin", "logsumexp", "max", "min"), rules_pool.extreme),
    "sort": rules_pool.sort,
    **dict.fromkeys(("softmax", "log_softmax"), rules_pool.softmax),
}
"""What is known: the name of a torch function, method or operator, and the rule that bounds it."""

_SPELLINGS = {
    "add": ("__add__", "__radd__"),
    "sub": ("__sub__", "subtract"),
    "rsub": ("__rsub__",),
    "mul": ("__mul__", "__rmul__", "multiply"),
    "div": ("__truediv__", "divide", "true_divide"),
    "matmul": ("__matmul__",),
    "rmatmul": ("__rmatmul__",),
    "neg": ("__neg__",),
    "positive": ("__pos__",),
    "abs": ("__abs__",),
}
_IN_PLACE = {"add": ("__iadd__",), "sub": ("__isub__",), "mul": ("__imul__",), "div": ("__itruediv__", "__idiv__")}
_NAMESPACES = (torch, torch.Tensor, torch.nn.functional, torch._C._nn, torch.special)


def _known_functions() -> dict[Any, Operation]:
    known: dict[Any, Operation] = {}
    for name, rule in RULES.items():
        spellings = [(name, False), (f"{name}_", True)]
        spellings += [(other, False) for other in _SPELLINGS.get(name, ())]
        spellings += [(f"{other}_", True) for other in _SPELLINGS.get(name, ()) if not other.endswith("_")]
        spellings += [(other, True) for other in _IN_PLACE.get(name, ())]
        for spelling, in_place in spellings:
            for namespace in _NAMESPACES:
                if hasattr(namespace, spelling):
                    known.setdefault(getattr(namespace, spelling), Operation(name, rule, in_place))
    known[torch.linalg.vector_norm] = Operation("linalg.vector_norm", rules_pool.reduce_norm)
    return known


_KNOWN = _known_functions()


def operation_of(func: Any) -> Operation | None:
    """Return what is known about a torch function, None if nothing is."""
    if getattr(func, "__name__", None) == "__get__":
        name = f"get:{func.__self__.__name__}"
        return Operation(name, RULES[name]) if name in RULES else None
    return _KNOWN.get(func)


def lipschitz_upper_bound(model: nn.Module, input_shape: Sequence[int]) -> LipschitzBound:
    r"""Return a sound upper bound of a network's L2 Lipschitz constant, with its proof.

    .. math:: \|f(x) - f(x')\|_2 \le L \, \|x - x'\|_2 \quad \text{for all } x, x'

    The network's own ``forward`` runs once on a stand-in that carries a bound in place of numbers, so functions,
    methods, operators, hooks, shared layers and parametrisations count as they execute. The bound holds for the
    real-valued network with these very weights; all arithmetic on bounds rounds upwards.

    Args:
        model: any network in eval mode that takes one batch of inputs and returns one tensor, ``(N, ...)``.
        input_shape: shape of one input, without the batch, for example ``(1, 28, 28)``.

    Returns:
        The bound, and one row an operation in execution order.

    Raises:
        InputError: train mode, weights that are not finite, or an operation without a finite known constant; the
            message names it and its layer.

    Example:
        >>> bound = lipschitz_upper_bound(nn.Sequential(nn.Flatten(), nn.ReLU()).eval(), (1, 2, 2))
        >>> bound.value, [row.kind for row in bound.layers]
        (1.0, ['Flatten', 'ReLU'])
    """
    output, walk = _run(model, input_shape)
    return LipschitzBound(output.value.bound, tuple(walk.rows))


def body_and_head(model: nn.Module, input_shape: Sequence[int]) -> tuple[LipschitzBound, Tensor | None]:
    r"""Return a bound of all but the last linear layer, and that layer's weight.

    With body g, :math:`f = W g + b`, every difference of two outputs obeys

    .. math:: |(f_i - f_j)(x) - (f_i - f_j)(x')| \le L_g \, \|w_i - w_j\|_2 \, \|x - x'\|_2.

    Args:
        model: as for :func:`lipschitz_upper_bound`.
        input_shape: shape of one input, without the batch.

    Returns:
        The body's bound and the weight ``(K, D)`` in float64; the whole network's bound and None if its last operation
        is not a linear layer on ``(N, D)``.

    Raises:
        InputError: as for :func:`lipschitz_upper_bound`.

    Example:
        >>> body, weight = body_and_head(nn.Sequential(nn.ReLU(), nn.Linear(3, 2)).eval(), (3,))
        >>> body.value, tuple(weight.shape)
        (1.0, (2, 3))
    """
    output, walk = _run(model, input_shape)
    value = output.value
    origin = value.anchor.origin
    if origin and origin[0] == "linear" and value.is_whole and len(value.shape) == 2 and len(origin[1].shape) == 2:
        return LipschitzBound(origin[1].bound, tuple(walk.rows)), origin[2]
    return LipschitzBound(value.bound, tuple(walk.rows)), None


def _run(model: nn.Module, input_shape: Sequence[int]) -> tuple[Signal, Walk]:
    training = [name or type(model).__name__ for name, module in model.named_modules() if module.training]
    if training:
        raise InputError(f"expected a network in eval mode, got train mode in {training[0]}")
    shape = tuple(int(size) for size in input_shape)
    if any(size < 1 for size in shape) or not shape:
        raise InputError(f"expected an input shape of positive sizes without the batch, got {shape}")
    walk = Walk(model, operation_of, LAYERS)
    with walk.watching(), torch.no_grad():
        output = _forward(model, walk, shape)
    if not isinstance(output, Signal):
        raise InputError(
            f"expected a network that returns one tensor that depends on its input, got {type(output).__name__}"
        )
    if output.version != output.memory.version or not output.value.keeps_samples_apart:
        raise InputError("expected a network that returns one row for each sample of a batch")
    return output, walk


def _forward(model: nn.Module, walk: Walk, shape: tuple[int, ...]) -> Any:
    source = Signal(Value.fresh(1.0, (2, *shape)), walk, torch.float32)
    try:
        return model(source)
    except InputError:
        raise
    except (RuntimeError, TypeError, ValueError, IndexError, AttributeError, KeyError, NotImplementedError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"expected a network that runs on inputs {shape}, got an error in {walk.place}: {reason}"
        ) from error
