"""Parametrised weights made plain."""

from __future__ import annotations

import torch.nn as nn
from torch.nn.utils import parametrize


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
        names = list(module.parametrizations)  # type: ignore[arg-type]
        values = {name: getattr(module, name).detach().clone() for name in names}
        del module.parametrizations
        module.__class__ = parametrize.type_before_parametrizations(module)
        for name, value in values.items():
            module.register_parameter(name, nn.Parameter(value))
