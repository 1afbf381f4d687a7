"""Operations that only move, repeat, drop or join elements, and those that only look at a tensor's shape."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lipcert.certificates.call import Call
from lipcert.certificates.joint import joined, joint_bound, side_by_side
from lipcert.certificates.rounding import up
from lipcert.certificates.signal import Signal, Value, signals_in

LOOKS = (
    *("size", "dim", "ndimension", "numel", "nelement", "stride", "element_size", "__len__", "is_contiguous"),
    *("is_floating_point", "is_complex", "get:shape", "get:dtype", "get:device", "get:ndim", "get:layout"),
    *("get:requires_grad", "get:grad_fn", "get:is_leaf", "get:is_cuda", "get:is_sparse", "get:is_quantized"),
    *("get:is_meta", "get:is_nested"),
)
"""Questions about a tensor that its numbers do not answer."""

MOVES = (
    *("view", "reshape", "flatten", "unflatten", "ravel", "permute", "transpose", "t", "swapaxes", "swapdims"),
    *("movedim", "moveaxis", "squeeze", "unsqueeze", "expand", "broadcast_to", "narrow", "select", "__getitem__"),
    *("split", "split_with_sizes", "chunk", "tensor_split", "unbind", "unfold", "diagonal", "tril", "triu"),
    *("get:T", "get:mT", "get:data", "contiguous", "detach", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle"),
    *("repeat", "tile", "repeat_interleave", "roll", "flip", "fliplr", "flipud", "rot90", "index_select", "clone"),
    *("gather", "hsplit", "vsplit", "dsplit", "unsafe_chunk", "unsafe_split"),
)
"""Operations whose result holds nothing but elements of their input, and zeros."""

CONVERSIONS = ("to", "type", "type_as", "float", "double", "half", "bfloat16", "cpu", "cuda")

BLANKS = ("zeros_like", "ones_like", "full_like", "new_zeros", "new_ones", "new_full", "new_tensor")

MEASURES = (
    *(
        "gt",
        "lt",
        "ge",
        "le",
        "eq",
        "ne",
        "greater",
        "less",
        "isclose",
        "allclose",
        "equal",
        "isnan",
        "isfinite",
        "argmax",
    ),
    *("argmin", "argsort", "nonzero", "item", "tolist", "numpy", "__bool__", "__float__", "__int__", "__index__"),
    *("__array__", "__gt__", "__lt__", "__ge__", "__le__", "__eq__", "__ne__", "__contains__", "__iter__"),
)

_COPIES = {
    *("repeat", "tile", "repeat_interleave", "roll", "flip", "fliplr", "flipud", "rot90", "index_select", "clone"),
    "gather",
}


def look(call: Call) -> Any:
    """Answer a question about a signal's shape or type."""
    with torch._C.DisableTorchFunctionSubclass():
        return call.func(*call.args, **call.kwargs)


def measure(call: Call) -> Any:
    """Refuse comparisons and Python numbers made of the network's input: control flow, masks, other libraries."""
    call.refuse("expected no comparison, index or Python number that depends on the network's input")


def move(call: Call) -> Any:
    """Rearrange, by doing to the index what the operation does to the tensor."""
    signal = call.args[0]
    value = call.value(signal)
    call.constants_only(call.args[1:], call.kwargs)
    if any(isinstance(item, torch.dtype) for item in (*call.args, *call.kwargs.values())):
        call.refuse("expected no other reading of the same bits")
    args, kwargs = _on_cpu(call.args[1:]), _on_cpu(call.kwargs)
    return _emit_moved(call, signal, value.rearranged(lambda index: call.func(index, *args, **kwargs)))


def _on_cpu(tree: Any) -> Any:
    if isinstance(tree, Tensor):
        return tree.cpu()
    if isinstance(tree, dict):
        return {key: _on_cpu(item) for key, item in tree.items()}
    return type(tree)(_on_cpu(item) for item in tree) if type(tree) in (list, tuple) else tree


def _emit_moved(call: Call, signal: Signal, moved: Any) -> Any:
    alias = None if call.name in _COPIES else signal
    if isinstance(moved, Value):
        if moved.shape == signal.value.shape and moved.index is signal.value.index and not call.in_place:
            return signal
        return call.emit(moved, _use(moved, signal.value), "rearrangement", alias=alias)
    call.walk.record(call.name, 1.0, "rearrangement")
    return type(moved)(call.signal(part, alias=alias) for part in moved)


def _use(moved: Value, before: Value) -> float:
    """Gain of a rearrangement by itself."""
    if moved.anchor is not before.anchor or before.gain == 0:
        return 1.0
    ratio = moved.gain / before.gain
    return ratio if ratio == 1 else up(ratio)


def assign(call: Call) -> Signal:
    """``x[key] = y``, of a constant or of another result."""
    target, key, written = call.args
    value = call.value(target)
    call.constants_only(*([] if isinstance(written, Signal) else [written]))
    if signals_in(key):
        call.refuse("expected positions that do not depend on the network's input")
    key = _on_cpu(key)
    index = value.index.clone()
    index[key] = 0.0
    kept = Value(value.anchor, index, value.scale, value.exact)
    if not isinstance(written, Signal):
        return call.emit(kept, 1.0, "rearrangement")
    place = torch.arange(index.numel()).reshape(index.shape)[key]
    source = call.value(written).expanded(tuple(place.shape))
    if len(place.unique()) != place.numel():
        call.refuse("expected to write to no position twice")

    def write(parts: list[Tensor]) -> Tensor:
        return parts[0].clone().flatten().scatter(0, place.flatten(), parts[1].flatten()).view(value.shape)

    result = joined([kept, source], write)
    call.apart(result)
    method = "rearrangement" if result.anchor is value.anchor else "root of the sum of squares"
    return call.emit(result, 1.0, method)


def move_like(call: Call) -> Any:
    """``view_as``, ``reshape_as`` and ``expand_as``: only the other tensor's shape counts."""
    signal, other = call.args
    shape = other.value.shape if isinstance(other, Signal) else tuple(other.shape)
    method = call.name.removesuffix("_as")
    value = call.value(signal).rearranged(lambda index: getattr(index, method)(*shape))
    return _emit_moved(call, signal, value)


def pad(call: Call) -> Any:
    """Padding of any mode; the constant that is filled in does not matter."""
    given = call.bind("input", "pad", mode="constant", value=None)
    value = call.value(given["input"])
    call.constants_only(given["pad"], given["value"])
    mode, widths = given["mode"], [int(width) for width in given["pad"]]
    moved = value.rearranged(lambda index: torch.nn.functional.pad(index, widths, mode=mode))
    moved = Value(moved.anchor, moved.index, moved.scale, moved.exact, ("pad", mode, value, tuple(widths)))
    return call.emit(moved, _use(moved, value), f"{mode} padding")


def convert(call: Call) -> Any:
    """Conversions between float32 and float64, and moves between devices."""
    signal = call.args[0]
    targets = {"float": torch.float32, "double": torch.float64, "half": torch.float16, "bfloat16": torch.bfloat16}
    places = {"cpu": "cpu", "cuda": "cuda"}
    wanted = [targets.get(call.name), places.get(call.name), *call.args[1:], *call.kwargs.values()]
    wanted = [item.dtype if isinstance(item, Tensor) else item for item in wanted]
    dtypes = [item for item in wanted if isinstance(item, torch.dtype)]
    if any(item not in (torch.float32, torch.float64) for item in dtypes):
        call.refuse("expected no conversion but to float32 or float64")
    devices = [torch.device(item) for item in wanted if isinstance(item, str | torch.device)]
    precision, place = (dtypes or [signal.precision])[0], (devices or [signal.place])[0]
    if (precision, place) == (signal.precision, signal.place):
        return signal
    return Signal(call.value(signal), call.walk, precision, place, signal.memory)


def blank(call: Call) -> Any:
    """``zeros_like`` and its kin: constants that take a signal's shape only."""
    signal = call.args[0]
    stand_in = torch.zeros(signal.value.shape, dtype=signal.precision, device=signal.place)
    call.constants_only(call.args[1:], call.kwargs)
    return call.func(stand_in, *call.args[1:], **call.kwargs)


def concatenate(call: Call) -> Any:
    """``cat`` and ``stack``: exact for parts of one anchor, otherwise the root of the sum of squares."""
    given = call.bind("tensors", dim=0, **({"axis": None} if "axis" in call.kwargs else {}))
    dim = given["dim"] if given.get("axis") is None else given["axis"]
    signals = [item for item in given["tensors"] if isinstance(item, Signal)]
    first = call.value(signals[0])
    values = [_part(item, first) for item in given["tensors"]]
    gather = torch.stack if call.name == "stack" else torch.cat
    halves = _positive_and_negative_part(values)
    if halves is not None:
        shape = gather([value.index for value in values], dim=dim).shape
        return call.fresh(halves, 1.0, shape, "positive and negative part: as one element at a time")
    result = joined(values, lambda parts: gather(parts, dim=dim))
    if result.anchor is first.anchor:
        return call.emit(result, _use(result, first), "rearrangement")
    call.apart(*values)
    pairs = _sorted_pairs(values)
    if pairs is None:
        return call.emit(result, 1.0, "root of the sum of squares")
    both = side_by_side(pairs)
    source = None if both is None else (both, 1.0)
    sort = Value.fresh(joint_bound(pairs), result.shape, source=source)
    return call.emit(sort, 1.0, "both orders of the same pairs: a sort")


def _positive_and_negative_part(values: list[Value]) -> Value | None:
    """The value whose ReLU and whose negative's ReLU these are: of each element one part varies at a time."""
    if len(values) != 2 or not all(value.origin[:1] == ("relu",) for value in values):
        return None
    first, second = (value.origin[1] for value in values)
    for one, other in ((first, second), (second, first)):
        if other.origin[:1] == ("neg",) and other.origin[1] is one:
            return one  # type: ignore[no-any-return]
    return None


def _part(item: Any, first: Value) -> Value:
    if isinstance(item, Signal):
        return item.value
    return Value(
        first.anchor,
        torch.zeros(item.shape, dtype=torch.float64),
        first.scale if isinstance(first.scale, float) else 0.0,
    )


def _sorted_pairs(values: list[Value]) -> list[Value] | None:
    """The pairs of which these are the larger and the smaller elements: together they are a permutation of them."""
    if len(values) != 2 or not all(value.is_whole and value.anchor.origin for value in values):
        return None
    (first, dims, *pair), (second, other_dims, *other) = (value.anchor.origin for value in values)
    if {first, second} != {"larger", "smaller"} or dims != other_dims:
        return None
    if len(pair) != len(other) or any(a is not b for a, b in zip(pair, other, strict=True)):
        return None
    return pair
