"""A network that looks at transformed images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
import torch.nn as nn
from torch import Tensor

from lipcert.defenses.base import Transformation
from lipcert.errors import InputError

When = Literal["inference", "training", "both"]
Average = Literal["logits", "probabilities"]


class TransformedNetwork(nn.Module):
    r"""A network behind input transformations, applied one after the other.

    With several draws of randomised transformations :math:`t_s` it gives the mean of the logits, so that the gradient
    of any loss is that of expectation over transformation (EOT), or the logarithm of the mean of the probabilities:

    .. math:: \frac{1}{S} \sum_s f(t_s(x)) \qquad \text{or} \qquad \log \frac{1}{S} \sum_s \mathrm{softmax}\, f(t_s(x))

    In eval mode it is a function of its inputs: draw s is number s of the transformations' seeds. An attack that does
    not know the draws is run on a twin with other seeds, and judged on this one. In training every batch has new draws.
    Nothing of it is certified: :func:`lipcert.certify` knows none of these operations.

    Args:
        network: from images ``(N, C, H, W)`` to logits ``(N, K)``.
        transformations: at least one.
        when: ``"inference"`` (in eval mode only), ``"training"`` (only then), or ``"both"``.
        samples: S, number of draws; more than 1 only if something is drawn.
        average: of what, ``"logits"`` or ``"probabilities"``.

    Raises:
        InputError: no transformations, an unknown word, or a number of draws that makes no sense.

    Source: for EOT, Athalye et al. (2018), arXiv 1707.07397, section 2.1.

    Example:
        >>> from lipcert.defenses import BitDepth
        >>> network = TransformedNetwork(nn.Flatten(), [BitDepth(1)]).eval()
        >>> network(torch.tensor([0.2, 0.7]).view(1, 1, 1, 2)).tolist()
        [[0.0, 1.0]]
    """

    batches: Tensor

    def __init__(
        self,
        network: nn.Module,
        transformations: Sequence[Transformation],
        *,
        when: When = "inference",
        samples: int = 1,
        average: Average = "logits",
    ) -> None:
        super().__init__()
        if not transformations or not all(isinstance(each, Transformation) for each in transformations):
            kinds = ", ".join(type(each).__name__ for each in transformations) or "none"
            raise InputError(f"expected at least one transformation, and nothing else, got {kinds}")
        if when not in get_args(When):
            raise InputError(f"expected when among {', '.join(get_args(When))}, got {when!r}")
        if average not in get_args(Average):
            raise InputError(f"expected average among {', '.join(get_args(Average))}, got {average!r}")
        if samples < 1:
            raise InputError(f"expected samples >= 1, got {samples}")
        self.randomized = any(each.randomized for each in transformations)
        if samples > 1 and not self.randomized:
            raise InputError(f"expected samples=1 where nothing is drawn at random, got {samples}")
        self.network = network
        self.transformations = nn.ModuleList(transformations)
        self.when = when
        self.samples = samples
        self.average = average
        # which draws come next in training; a run that is resumed goes on with them
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits ``(N, K)``."""
        if self.when == ("inference" if self.training else "training"):
            return self.network(inputs)  # type: ignore[no-any-return]
        first = self._next_draw() if self.training and self.randomized else 0
        logits = [self.network(self.transformed(inputs, first + number)) for number in range(self.samples)]
        if self.samples == 1:
            return logits[0]  # type: ignore[no-any-return]
        if self.average == "logits":
            return torch.stack(logits).mean(0)
        return torch.stack(logits).log_softmax(-1).logsumexp(0) - math.log(self.samples)

    def transformed(self, inputs: Tensor, draw: int = 0) -> Tensor:
        """Return what the network is shown of ``(N, C, H, W)`` images in a draw."""
        for transformation in self.transformations:
            inputs = transformation(inputs, draw)
        return inputs

    def _next_draw(self) -> int:
        self.batches += 1
        return int(self.batches) * self.samples
