"""The checks that tell whether an audit's attacks can be trusted, put to what an audit knows."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn as nn
from torch import Tensor

from lipcert.attacks.votes import Voting
from lipcert.certificates import Certificate
from lipcert.data import ImageSet
from lipcert.harness.caveats import caveats
from lipcert.harness.ledger import Ledger
from lipcert.harness.trust import result_checks, trust_checks

LOOKED_AT = 256  # images, spread over those that are attacked
LOOKED_AT_IN_VOTES = 16  # each of them costs the passes of all its views


def checks_before(
    network: nn.Module, images: ImageSet, samples: Sequence[int], certificate: Certificate, *, device: torch.device
) -> tuple[str, ...]:
    """Return what speaks against trusting attacks on a network, from the network and a few images.

    Args:
        network: on the device, in eval mode.
        images: the split.
        samples: positions that will be attacked.
        certificate: of the split.
        device: where to look.
    """
    if isinstance(network, Voting):  # a vote has no slope, and attacks bring another one
        chosen = spread(samples, LOOKED_AT_IN_VOTES)
        inputs, labels = images.inputs(chosen).to(device), certificate.prediction[chosen].to(device)
        return trust_checks(network, inputs, labels, has_slope=False)
    chosen = spread(samples, LOOKED_AT)
    constant = certificate.lipschitz_upper_bound if certificate.norm == "l2" else math.inf
    inputs, labels = images.inputs(chosen).to(device), certificate.prediction[chosen].to(device)
    return trust_checks(network, inputs, labels, lipschitz_upper_bound=constant)


def spread(samples: Sequence[int], count: int) -> Tensor:
    """Return at most so many of the samples, evenly spread.

    Example:
        >>> spread([7, 8, 9, 10], 2).tolist(), spread([7, 8], 5).tolist()
        ([7, 9], [7, 8])
    """
    few = min(count, len(samples))
    return torch.tensor([samples[(len(samples) * number) // few] for number in range(few)])


def checks_after(ledger: Ledger, *, classes: int) -> tuple[str, ...]:
    """Return what a reader must know of what was found: caveats, and what speaks against the attacks."""
    found: dict[str, dict[int, float]] = {}
    for setting, tally in ledger.tallies.items():
        nearest = found.setdefault(setting.attack.name, {})
        for sample, distance in tally.found.items():
            nearest[sample] = min(distance, nearest.get(sample, math.inf))
    black_box = {setting.attack.name for setting in ledger.tallies if setting.attack.black_box}
    against = result_checks(ledger.attack_rows(), classes=classes, found=found, black_box=black_box)
    one_more = ledger.certificate.grid if ledger.certificate.norm == "patch" else None
    return (*against, *caveats(ledger.rows, classes=classes, boundary=ledger.boundary, one_more=one_more))
