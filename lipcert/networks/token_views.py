"""Views of an image for a vision transformer, which sees nothing but the tokens that a view retains."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lipcert.certificates import Encoding, encoded_views
from lipcert.networks.vit import VisionTransformer


@dataclass(frozen=True)
class TokenGroup:
    """Views that retain equally many tokens.

    Attributes:
        views: ``(G,)`` int64, their numbers.
        places: ``(G, t)`` int64, the tokens that each retains.
        cuts: ``(G, t)`` int64, the cut of each of them.
    """

    views: Tensor
    places: Tensor
    cuts: Tensor


@dataclass(frozen=True)
class TokenPlan:
    """What has to be computed for all views of an image.

    A cut is a token with the pixels of its patch that a view retains. Tokens wholly inside of several views are one
    cut, which is embedded once for all of them, and only those at the boundary of a view are embedded again.

    Attributes:
        places: ``(C,)`` int64, the token of each cut.
        retained: ``(C, p, p)`` bool, its pixels.
        groups: the views, by how many tokens they retain.
        count: number of views V.
    """

    places: Tensor
    retained: Tensor
    groups: tuple[TokenGroup, ...]
    count: int


def retained_tokens(masks: Tensor, patch_size: int) -> Tensor:
    """Return which tokens have a pixel that a view retains.

    Args:
        masks: ``(V, H, W)`` bool.
        patch_size: side of a token's patch.

    Returns:
        ``(V, T)`` bool, row by row.

    Example:
        >>> from lipcert.certificates import ColumnAblation
        >>> retained_tokens(ColumnAblation(2).masks(4, 8), 4).sum(1).tolist()
        [1, 1, 1, 2, 1, 1, 1, 2]
    """
    return _by_token(masks, patch_size).any(2)


def plan_tokens(masks: Tensor, patch_size: int) -> TokenPlan:
    """Return what has to be computed for the views with these masks.

    Args:
        masks: ``(V, H, W)`` bool, sides multiples of the patch size; each is the product of a set of rows and one of
            columns, as windows are.
        patch_size: side of a token's patch.

    Example:
        >>> from lipcert.certificates import ColumnAblation
        >>> plan = plan_tokens(ColumnAblation(5).masks(4, 8), 4)  # of 16 tokens two are whole and seen by several views
        >>> sum(len(group.views) * group.places.shape[1] for group in plan.groups), len(plan.places)
        (16, 14)
    """
    count, height, width = masks.shape
    # A cut is known by its token and by which rows and columns of the patch are retained: two small sets of patterns.
    rows = _patterns(masks.any(2).view(count, height // patch_size, patch_size))
    columns = _patterns(masks.any(1).view(count, width // patch_size, patch_size))
    patterns = rows[:, :, None] * (columns.max() + 1) + columns[:, None, :]
    patterns = patterns.flatten(1)
    tokens = patterns.shape[1]
    keys = patterns * tokens + torch.arange(tokens, device=masks.device)
    pixels = _by_token(masks, patch_size)
    keep = pixels.any(2)
    view, place = keep.nonzero(as_tuple=True)
    distinct, number = keys[keep].unique(return_inverse=True)
    example = torch.empty_like(distinct).scatter_(0, number, torch.arange(len(number), device=masks.device))
    cuts = torch.zeros_like(keys).masked_scatter_(keep, number)
    counts, groups = keep.sum(1), []
    for size in counts.unique().tolist():
        views = (counts == size).nonzero().flatten()
        places = keep[views].nonzero()[:, 1].view(len(views), size)
        groups.append(TokenGroup(views, places, cuts[views].gather(1, places)))
    retained = pixels[view[example], place[example]].view(-1, patch_size, patch_size)
    return TokenPlan(place[example], retained, tuple(groups), count)


def token_view_logits(
    network: VisionTransformer,
    inputs: Tensor,
    plan: TokenPlan,
    *,
    encoding: Encoding,
    null: float,
    elements_at_once: int,
) -> Tensor:
    """Return the logits of all views of images, ``(N, V, K)``.

    Args:
        network: takes views with as many channels as the encoding gives them.
        inputs: ``(N, C, H, W)`` in [0, 1].
        plan: of the views.
        encoding: see :func:`~lipcert.certificates.encoded_views`.
        null: likewise.
        elements_at_once: numbers in the tokens that are passed together.
    """
    embedded = _embedded_cuts(network, inputs, plan, encoding, null)
    logits = embedded.new_empty(len(inputs), plan.count, network.num_classes)
    for group in plan.groups:
        image, view = (
            each.flatten()
            for each in torch.meshgrid(
                torch.arange(len(inputs), device=inputs.device),
                torch.arange(len(group.views), device=inputs.device),
                indexing="ij",
            )
        )
        at_once = max(1, elements_at_once // ((group.places.shape[1] + 1) * embedded.shape[2]))
        parts = [
            network.classify(embedded[images[:, None], group.cuts[views]], group.places[views])
            for images, views in zip(image.split(at_once), view.split(at_once), strict=True)
        ]
        if parts:
            logits[:, group.views] = torch.cat(parts).view(len(inputs), len(group.views), -1)
    return logits


def _embedded_cuts(
    network: VisionTransformer, inputs: Tensor, plan: TokenPlan, encoding: Encoding, null: float
) -> Tensor:
    """Return the embedding of every cut of every image, ``(N, C, width)``."""
    size = network.patch_size
    patches = network.patches(inputs)[:, plan.places].unflatten(2, (-1, size, size)).flatten(0, 1)
    retained = plan.retained.repeat(len(inputs), 1, 1)[:, None]
    cut = encoded_views(patches, retained, encoding=encoding, null=null)
    return network.embedding(cut.flatten(1)).view(len(inputs), len(plan.places), -1)  # type: ignore[no-any-return]


def _by_token(masks: Tensor, patch_size: int) -> Tensor:
    """Return the pixels of each token that are retained, ``(V, T, p * p)`` bool."""
    count, height, width = masks.shape
    split = masks.view(count, height // patch_size, patch_size, width // patch_size, patch_size)
    return split.transpose(2, 3).reshape(count, -1, patch_size**2)


def _patterns(lines: Tensor) -> Tensor:
    """Return a number for each pattern ``(V, G, p)`` of retained lines, equal where the patterns are, ``(V, G)``."""
    numbers: Tensor = lines.flatten(0, 1).unique(dim=0, return_inverse=True)[1]
    return numbers.view(lines.shape[:2])
