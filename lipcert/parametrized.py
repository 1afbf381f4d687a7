"""Parametrised weights made plain."""

from __future__ import annotations

import copy

import torch
import torch.nn as nn
from torch import Tensor
from torch.nn.utils import parametrize

from lipcert.errors import InputError

_DRIFT = 1e-3


def keep_effective_weights(network: nn.Module) -> None:
    """Turn the parametrised tensors of a network, in place, into parameters with the values that they execute with.

    ``torch.nn.utils.parametrize.remove_parametrizations`` is not used: it edits the module's class, which a deep copy
    shares with the network that it was copied from.

    Args:
        network: any module; in eval mode the values are those of eval mode.

    Example:
        >>> layer = nn.utils.parametrizations.orthogonal(nn.Linear(2, 2))
        >>> keep_effective_weights(layer)
        >>> [name for name, _ in layer.named_parameters()]
        ['bias', 'weight']
    """
    for module in list(network.modules()):
        if not parametrize.is_parametrized(module):
            continue
        plain = _convolution_of_computed_weight(module)
        names = ["weight"] if plain else list(module.parametrizations)  # type: ignore[arg-type]
        values = {name: getattr(module, name).detach().clone() for name in names}
        module.__class__ = plain or parametrize.type_before_parametrizations(module)
        del module.parametrizations
        for name, value in values.items():
            module.register_parameter(name, nn.Parameter(value))


_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def _convolution_of_computed_weight(module: nn.Module) -> type[nn.Module] | None:
    """The convolution of torch that a module is apart from a weight that it computes, as orthogonium's strided ones."""
    computed = isinstance(getattr(type(module), "weight", None), property)
    if not computed or parametrize.is_parametrized(module, "weight"):
        return None
    own = [name for name, _ in module.named_parameters(recurse=False) if name != "bias"]
    others = [name for name, _ in module.named_children() if name != "parametrizations"]
    bases = (base for base in _CONVOLUTIONS if isinstance(module, base) and type(module).forward is base.forward)
    return None if own or others else next(bases, None)


def frozen_copy(network: nn.Module) -> nn.Module:
    """Return a copy of a network in eval mode whose parametrised weights are plain, as its next call executes them.

    Some parametrisations iterate in every call, orthogonium's power iteration for example. The copy has the weights of
    the next call; the network itself is left where it was.

    Args:
        network: any module in eval mode.

    Raises:
        InputError: a network that cannot be copied, or weights that are still on their way: two calls in a row differ
            by more than a thousandth.

    Example:
        >>> layer = nn.utils.parametrizations.orthogonal(nn.Linear(2, 2)).eval()
        >>> frozen = frozen_copy(layer)
        >>> torch.equal(frozen.weight, layer.weight), parametrize.is_parametrized(layer)
        (True, True)
    """
    stored = [item for module in network.modules() for item in vars(module).values() if isinstance(item, Tensor)]
    memo = {id(item): item.detach().clone() for item in stored if not item.is_leaf}  # torch copies leaves only
    try:
        frozen = copy.deepcopy(network, memo)
        if any(map(parametrize.is_parametrized, frozen.modules())):
            _check_settled(copy.deepcopy(frozen))
    except (RuntimeError, TypeError, NotImplementedError) as error:
        raise InputError(f"expected a network that can be copied, got: {' '.join(str(error).split())}") from error
    with torch.no_grad():
        keep_effective_weights(frozen)
    return frozen


@torch.no_grad()
def _check_settled(network: nn.Module) -> None:
    for path, module in list(network.named_modules()):
        if not parametrize.is_parametrized(module) or ".parametrizations." in f".{path}.":
            continue
        for name in module.parametrizations:
            first, second = (getattr(module, name).detach().clone() for _ in range(2))
            if float((first - second).abs().max()) > _DRIFT * float(first.abs().max()):
                raise InputError(
                    f"expected parametrised weights that have settled, got {name} of layer {path!r} which changes from "
                    "call to call; export the network first"
                )
