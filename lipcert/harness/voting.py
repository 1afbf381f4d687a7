"""Certificates of networks that vote, and budgets of attacks on them."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch.nn as nn
from torch import Tensor

from lipcert.attacks import on_votes
from lipcert.attacks.votes import Voting
from lipcert.certificates import Certificate
from lipcert.errors import InputError
from lipcert.harness.budget import Budget, Stage
from lipcert.harness.certifying import Certifier
from lipcert.networks import SmoothedNetwork


@runtime_checkable
class CertifiedVote(Voting, Protocol):
    """A voting network that says itself what its votes certify."""

    def certificate(self, inputs: Tensor) -> Certificate:
        """Return the certificates of inputs ``(N, C, H, W)``."""


def vote_certifier(network: nn.Module, *, arithmetic: str = "float32", patch: int | None = None) -> Certifier | None:
    """Return what certifies a network by its votes; None for a network that does not vote.

    Args:
        network: any network.
        arithmetic: what is to be certified; votes are certified as they are executed, in float32.
        patch: side of the only patch that is asked about, in pixels; None for the largest certified one of each image.

    Raises:
        InputError: a patch for a network that does not vote over ablated views, or another arithmetic for votes.
    """
    if patch is not None and not isinstance(network, SmoothedNetwork):
        raise InputError(f"expected a network that votes over ablated views for --patch, got {type(network).__name__}")
    if not isinstance(network, CertifiedVote):
        return None
    if arithmetic != "float32":
        raise InputError(f"expected float32 arithmetic for a network that votes, as it is executed, got {arithmetic}")
    return certify_votes if patch is None else functools.partial(certify_patch_votes, patch=patch)


def certify_votes(network: nn.Module, inputs: Tensor) -> Certificate:
    """Return what the votes of a network certify: the sides of patches, or L1 radii.

    Raises:
        InputError: a network that does not vote, or inputs that it does not take.
    """
    if not isinstance(network, CertifiedVote):
        raise InputError(f"expected a network with certificates of its votes, got {type(network).__name__}")
    return network.certificate(inputs)


def certify_patch_votes(network: nn.Module, inputs: Tensor, *, patch: int) -> Certificate:
    """Return certificates about patches of one side: that side where it is certified, 0 elsewhere.

    By as few votes as are needed, see :meth:`lipcert.networks.SmoothedNetwork.certify`.

    Args:
        network: votes over ablated views.
        inputs: ``(N, C, H, W)`` in [0, 1].
        patch: side of the patch, in pixels.

    Raises:
        InputError: a patch larger than the images, or a network that does not vote over ablated views.
    """
    if not isinstance(network, SmoothedNetwork):
        raise InputError(f"expected a network that votes over ablated views, got {type(network).__name__}")
    verdict = network.certify(inputs, patch)
    largest = network.certificate(inputs[:1])  # for what it assumes
    return dataclasses.replace(largest, prediction=verdict.prediction, radius=verdict.certified.double() * patch)


def budget_on_votes(budget: Budget, *, grid: int | None) -> Budget:
    """Return a budget whose attacks are those on networks that vote.

    Args:
        budget: any.
        grid: of the images, where certificates are about images on a grid alone: 255 for 8 bits.

    Example:
        >>> from lipcert.attacks import FastMinimumNorm
        >>> budget = Budget("one", (Stage(FastMinimumNorm()),))
        >>> budget_on_votes(budget, grid=255).stages[0].attack.of_views
        True
    """

    def shown(stages: Sequence[Stage]) -> tuple[Stage, ...]:
        return tuple(dataclasses.replace(stage, attack=on_votes(stage.attack, grid=grid)) for stage in stages)

    return dataclasses.replace(budget, stages=shown(budget.stages), again=shown(budget.again))
