"""What is known about torch: the name of each function, method or operator, and the rule that bounds it."""

from __future__ import annotations

from typing import Any

import torch

from lipcert import blocked_sums
from lipcert.certificates import (
    rules_conv,
    rules_einsum,
    rules_linear,
    rules_norm,
    rules_pointwise,
    rules_pool,
    rules_shape,
    rules_square,
)
from lipcert.certificates.activations import ELEMENTWISE
from lipcert.certificates.walk import Operation, Rule

RULES: dict[str, Rule] = {
    **dict.fromkeys(rules_shape.LOOKS, rules_shape.look),
    **dict.fromkeys(rules_shape.MOVES, rules_shape.move),
    **dict.fromkeys(("view_as", "reshape_as", "expand_as"), rules_shape.move_like),
    **dict.fromkeys(
        ("to", "type", "type_as", "float", "double", "half", "bfloat16", "cpu", "cuda"), rules_shape.convert
    ),
    **dict.fromkeys(rules_shape.BLANKS, rules_shape.blank),
    **dict.fromkeys(rules_shape.MEASURES, rules_shape.measure),
    **dict.fromkeys(("cat", "concat", "concatenate", "stack"), rules_shape.concatenate),
    "pad": rules_shape.pad,
    "__setitem__": rules_shape.assign,
    **dict.fromkeys(ELEMENTWISE, rules_pointwise.elementwise),
    "prelu": rules_pointwise.prelu,
    **dict.fromkeys(rules_pointwise.DROPOUTS, rules_pointwise.keep),
    **dict.fromkeys(("add", "sub"), rules_pointwise.add),
    "rsub": rules_pointwise.subtract_from,
    "mul": rules_square.product,
    "div": rules_pointwise.divide,
    "batch_norm": rules_norm.batch_norm,
    "layer_norm": rules_norm.layer_norm,
    "rms_norm": rules_norm.rms_norm,
    "group_norm": rules_norm.group_norm,
    "instance_norm": rules_norm.instance_norm,
    **dict.fromkeys(("pow", "square"), rules_square.power),
    "sqrt": rules_square.root,
    **dict.fromkeys(("var", "std"), rules_square.variance),
    "lerp": rules_pointwise.interpolation,
    "addcmul": rules_pointwise.product_added,
    **dict.fromkeys(("maximum", "minimum", "fmax", "fmin", "hypot", "logaddexp"), rules_pointwise.extremum),
    "where": rules_pointwise.where,
    "masked_fill": rules_pointwise.masked_fill,
    **dict.fromkeys(("linear", "linear_in_blocks"), rules_linear.linear),
    **dict.fromkeys(("matmul", "mm", "rmatmul"), rules_einsum.matmul),
    "einsum": rules_einsum.einsum,
    "tensordot": rules_einsum.tensordot,
    "inner": rules_einsum.inner,
    "addmm": rules_linear.addmm,
    **dict.fromkeys(("conv1d", "conv2d", "conv3d", "conv2d_in_blocks"), rules_conv.convolution),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), rules_conv.transposed_convolution),
    **dict.fromkeys(("sum", "mean"), rules_linear.reduce_sum),
    **dict.fromkeys(("avg_pool1d", "avg_pool2d", "avg_pool3d"), rules_pool.average_pool),
    **dict.fromkeys(("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d"), rules_pool.average_pool),
    **dict.fromkeys(("max_pool1d", "max_pool2d", "max_pool3d"), rules_pool.max_pool),
    **dict.fromkeys(
        ("adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d"), rules_pool.adaptive_max_pool
    ),
    **dict.fromkeys(("lp_pool1d", "lp_pool2d", "lp_pool3d"), rules_pool.norm_pool),
    "interpolate": rules_pool.interpolate,
    **dict.fromkeys(("norm", "linalg.norm", "linalg.vector_norm"), rules_pool.reduce_norm),
    **dict.fromkeys(("amax", "amin", "logsumexp", "max", "min"), rules_pool.extreme),
    "sort": rules_pool.sort,
    **dict.fromkeys(("topk", "kthvalue", "median"), rules_pool.select),
    **dict.fromkeys(("softmax", "softmin", "log_softmax"), rules_pool.softmax),
    "fold": rules_pool.fold,
    **dict.fromkeys(("cumsum", "diff"), rules_pool.along),
}
"""A row an operation; its other spellings follow below."""

_SPELLINGS = {
    "add": ("__add__", "__radd__"),
    "sub": ("__sub__", "subtract"),
    "rsub": ("__rsub__",),
    "mul": ("__mul__", "__rmul__", "multiply"),
    "div": ("__truediv__", "divide", "true_divide"),
    "matmul": ("__matmul__", "bmm", "mv"),
    "pow": ("__pow__",),
    "rmatmul": ("__rmatmul__",),
    "neg": ("__neg__",),
    "positive": ("__pos__",),
    "abs": ("__abs__",),
}
_IN_PLACE = {"add": ("__iadd__",), "sub": ("__isub__",), "mul": ("__imul__",), "div": ("__itruediv__", "__idiv__")}
_NAMESPACES = (torch, torch.Tensor, torch.nn.functional, torch._C._nn, torch.special, blocked_sums)


def _known_functions() -> dict[Any, Operation]:
    known: dict[Any, Operation] = {}
    for name, rule in RULES.items():
        spellings = [(name, name == "__setitem__"), (f"{name}_", True)]
        spellings += [(other, False) for other in _SPELLINGS.get(name, ())]
        spellings += [(f"{other}_", True) for other in _SPELLINGS.get(name, ()) if not other.endswith("_")]
        spellings += [(other, True) for other in _IN_PLACE.get(name, ())]
        for spelling, in_place in spellings:
            for namespace in _NAMESPACES:
                if hasattr(namespace, spelling):
                    operation = Operation(name, rule, in_place, rules_square.OF_SQUARES.get(name))
                    known.setdefault(getattr(namespace, spelling), operation)
    for other_order in (torch.batch_norm, torch.instance_norm):  # not the arguments of torch.nn.functional
        known.pop(other_order, None)
    for norm in ("norm", "vector_norm"):
        known[getattr(torch.linalg, norm)] = Operation(f"linalg.{norm}", rules_pool.reduce_norm)
    return known


_KNOWN = _known_functions()


def operation_of(func: Any) -> Operation | None:
    """Return what is known about a torch function, None if nothing is."""
    if getattr(func, "__name__", None) == "__get__":
        name = f"get:{func.__self__.__name__}"
        of_squares = rules_square.OF_SQUARES.get(name)
        return Operation(name, RULES[name], of_squares=of_squares) if name in RULES else None
    return _KNOWN.get(func)
