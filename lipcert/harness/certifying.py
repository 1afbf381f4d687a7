"""The certificates of a whole split, a part at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import TypeVar

import torch
import torch.nn as nn
from torch import Tensor

from lipcert.attacks import Verified, verify
from lipcert.attacks.task import MEASURES, Norm, check_batch
from lipcert.certificates import Certificate
from lipcert.certificates.norms import each_norm_once
from lipcert.data import ImageSet
from lipcert.errors import InputError
from lipcert.harness.team import Team

FLOATS_AT_ONCE = 2**24  # of the inputs: a proof a part is little work beside so many

Certifier = Callable[[nn.Module, Tensor], Certificate]
Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class _Part:
    certificate: Certificate
    clean: Verified


def certified(
    network: nn.Module, images: ImageSet, certifier: Certifier, *, team: Team | None = None
) -> tuple[Certificate, Verified]:
    """Return the certificates of all images, and what the deployed network makes of the clean images.

    Args:
        network: in eval mode, on the team's device.
        images: the split.
        certifier: returns the certificates of a part of it.
        team: the processes that share the work.

    Returns:
        The certificates, and the images verified as if they were adversarial examples: a success where the network's
        class is not the certified one. All tensors are on the CPU.

    Raises:
        InputError: unusable images, labels or certificates, or a network in training mode.
    """
    team = team or Team()
    size = max(1, FLOATS_AT_ONCE // math.prod(images.inputs(torch.tensor([0])).shape[1:]))

    def work(places: Tensor) -> _Part:
        return _part(network, images, certifier, places, device=team.device)

    parts: list[_Part] = []
    with each_norm_once():
        for turn in turns(torch.arange(len(images)).split(size), team.size):
            parts += team.in_turn(turn, work)
    return _merged([part.certificate for part in parts]), _merged_clean([part.clean for part in parts])


def turns(items: Sequence[Item], size: int) -> Iterator[list[Item]]:
    """Yield the items by as many as there are processes.

    Example:
        >>> list(turns([1, 2, 3], 2))
        [[1, 2], [3]]
    """
    left = iter(items)
    while turn := list(islice(left, size)):
        yield turn


def norm_of(certificate: Certificate) -> Norm:
    """Return the norm of the radii, which is the one to attack in.

    Raises:
        InputError: no attack measures distances in it.
    """
    for norm in MEASURES:
        if certificate.norm == norm:
            return norm
    raise InputError(f"expected certificates in a norm among {', '.join(MEASURES)}, got {certificate.norm!r}")


def _part(network: nn.Module, images: ImageSet, certifier: Certifier, places: Tensor, *, device: torch.device) -> _Part:
    inputs, labels = images.inputs(places).to(device), images.labels[places].to(device)
    check_batch(network, inputs, labels)
    certificate = _checked(certifier(network, inputs), len(places))
    clean = verify(network, inputs, certificate.prediction.to(device), inputs, norm=norm_of(certificate))
    return _Part(
        replace(certificate, prediction=certificate.prediction.cpu(), radius=certificate.radius.double().cpu()),
        Verified(clean.success.cpu(), clean.confirmed.cpu(), clean.distance.cpu(), clean.prediction.cpu()),
    )


def _checked(certificate: Certificate, samples: int) -> Certificate:
    """Return a certificate whose radii can be compared: a radius that is nan would never be refuted."""
    if certificate.prediction.shape != (samples,) or certificate.radius.shape != (samples,):
        found = f"{tuple(certificate.prediction.shape)} and {tuple(certificate.radius.shape)}"
        raise InputError(f"expected predictions and radii of shape ({samples},), got {found}")
    if not bool((certificate.radius >= 0).all()):
        raise InputError(f"expected radii >= 0, got {certificate.radius[~(certificate.radius >= 0)][0].item()}")
    return certificate


def _merged(parts: Sequence[Certificate]) -> Certificate:
    slacks = [part.rounding_slack for part in parts if part.rounding_slack is not None]
    return replace(
        parts[0],
        prediction=torch.cat([part.prediction for part in parts]),
        radius=torch.cat([part.radius for part in parts]),
        lipschitz_upper_bound=max(part.lipschitz_upper_bound for part in parts),
        rounding_slack=torch.cat(slacks) if len(slacks) == len(parts) else None,
    )


def _merged_clean(parts: Sequence[Verified]) -> Verified:
    return Verified(
        torch.cat([part.success for part in parts]),
        torch.cat([part.confirmed for part in parts]),
        torch.cat([part.distance for part in parts]),
        torch.cat([part.prediction for part in parts]),
    )
