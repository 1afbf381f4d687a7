"""Votes with false certificates, and true ones: made by hand, and so tight that one step more is refuted."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn as nn
from torch import Tensor

from lipcert.attacks import Attack, FastMinimumNorm, Pointwise, SparseAscent, VotePatch
from lipcert.certificates import Certificate, ColumnAblation, patch_certificate
from lipcert.data import ImageSet
from lipcert.harness.planted import Planted, Sound
from lipcert.harness.voting import certify_votes
from lipcert.networks import SmoothedNetwork, SplittingNetwork

HEIGHT, WIDTH, RETAINED = 9, 12, 2  # pixels, and how many columns a view retains
LEVELS, EDGE = 20, 105  # views of splitting noise, and the grey level from which on a view is bright

ON_PATCHES: tuple[Attack, ...] = (VotePatch(places=8, restarts=2),)
IN_L1: tuple[Attack, ...] = (SparseAscent(), FastMinimumNorm(), Pointwise())


def tight_patch_vote() -> Sound:
    """Return a vote over bands of columns that any patch can turn wherever it is seen.

    Views vote for the second class where a pixel of them is red, for the first where one is green and for the third
    where one is blue, blue above green above red, and for the first if all are black. A patch of m pixels is seen by
    m + 1 of 12 views and turns them all, to whichever class the enumeration of its places allows for.

    Example:
        >>> sound = tight_patch_vote()
        >>> certify_votes(sound.network, sound.images.inputs()).radius.tolist()
        [5.0, 4.0, 2.0, 1.0]
    """
    head = nn.Linear(3 * HEIGHT * WIDTH, 3)
    with torch.no_grad():
        head.weight.zero_()
        colours = head.weight.view(3, 3, HEIGHT * WIDTH)  # classes, channels, pixels
        colours[1, 0], colours[0, 1], colours[2, 2] = 1.0, 100.0, 10_000.0
        head.bias.copy_(torch.tensor([0.25, 0.0, 0.0]))
    base = nn.Sequential(nn.Flatten(), head)
    network = SmoothedNetwork(base, ColumnAblation(RETAINED), num_classes=3, encoding="null")
    images = torch.zeros(4, 3, HEIGHT, WIDTH, dtype=torch.uint8)
    images[1, 0, HEIGHT // 2] = 255  # red throughout
    images[2, 0, 0, :2] = 255  # red on the left
    images[3, 2, 0, 2:5] = 255  # some blue: few votes, large logits
    return _own_classes(network, images)


def tight_l1_vote() -> Sound:
    """Return a vote over splitting noise that a change of one pixel turns, one vote a grey level.

    Example:
        >>> sound = tight_l1_vote()
        >>> (certify_votes(sound.network, sound.images.inputs()).radius * 255).tolist()
        [5.0, 6.0, 2.0]
    """
    head = nn.Linear(4, 2)
    with torch.no_grad():
        head.weight.zero_()
        head.weight[1, 0] = 10.0  # the first pixel decides
        head.bias.copy_(torch.tensor([10.0 * (EDGE + 0.125) / 255, 0.0]))
    network = SplittingNetwork(nn.Sequential(nn.Flatten(), head), LEVELS, num_classes=2)
    images = torch.full((3, 1, 2, 2), 64, dtype=torch.uint8)
    images[:, 0, 0, 0] = torch.tensor([EDGE - 5, EDGE + 7, EDGE - 2], dtype=torch.uint8)
    return _own_classes(network, images)


def _own_classes(network: nn.Module, images: Tensor) -> Sound:
    network = network.eval().requires_grad_(False)
    return Sound(network, ImageSet(images, network(images / 255).argmax(1)))


def planted_votes() -> tuple[Planted, ...]:
    """Return sound votes and one model a defect of certificates against patches, and in L1."""
    patches, levels = tight_patch_vote(), tight_l1_vote()
    sound = (
        Planted(
            "nothing, votes", "patches against a tight vote", *_of(patches), certify_votes, False, attacks=ON_PATCHES
        ),
        Planted("nothing, splitting", "L1 against a tight vote", *_of(levels), certify_votes, False, attacks=IN_L1),
    )
    false = (
        ("one affected view too few", "views taken for one column narrower", _narrower),
        ("ties won", "the predicted class first among equals", _ties_won),
        ("summed logits", "class of the sums, sides of the votes", _summed),
    )
    return (
        *sound,
        *(Planted(name, how, *_of(patches), certifier, True, attacks=ON_PATCHES) for name, how, certifier in false),
        Planted("L1 radii twice as large", "radii x 2", *_of(levels), _doubled, True, attacks=IN_L1),
    )


def _of(sound: Sound) -> tuple[nn.Module, ImageSet]:
    return sound.network, sound.images


def _narrower(network: nn.Module, inputs: Tensor) -> Certificate:
    assert isinstance(network, SmoothedNetwork)
    return patch_certificate(network.votes(inputs), ColumnAblation(RETAINED - 1), (HEIGHT, WIDTH), num_classes=3)


def _ties_won(network: nn.Module, inputs: Tensor) -> Certificate:
    """Call the elected class the first one, and the first one as the elected one is called."""
    assert isinstance(network, SmoothedNetwork)
    true, votes = network.certificate(inputs), network.votes(inputs)
    elected = true.prediction[:, None]
    exchanged = torch.where(votes == elected, 0, torch.where(votes == 0, elected, votes))
    found = patch_certificate(exchanged, network.ablation, (HEIGHT, WIDTH), num_classes=3)
    return replace(found, prediction=true.prediction)


def _summed(network: nn.Module, inputs: Tensor) -> Certificate:
    assert isinstance(network, SmoothedNetwork)
    with torch.no_grad():
        return replace(network.certificate(inputs), prediction=network.view_logits(inputs).sum(1).argmax(1))


def _doubled(network: nn.Module, inputs: Tensor) -> Certificate:
    true = certify_votes(network, inputs)
    return replace(true, radius=true.radius * 2)
