"""What attacks that see nothing but the class share: counted questions, starting points, the way to the boundary."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from lipcert.attacks.evaluation import forward
from lipcert.attacks.geometry import column, lengths
from lipcert.attacks.randomness import uniform
from lipcert.attacks.task import Norm, Task
from lipcert.attacks.verify import distance_upper_bound, fooled

CELLS = 4  # a coarse random image has so many cells a side
NEIGHBOURS = 10  # of a sample that are tried as starting points
OUTWARDS = (0.0, 2**-14, 2**-12, 2**-10, 2**-8)  # shares of the distance by which a found point is moved to settle it


class Oracle:
    """Says whether images are adversarial for samples of a task, and counts the questions of every sample.

    Only the class is looked at. Logits with a nan have none: such an image is not adversarial.

    Args:
        model: the network that is asked.
        task: whose samples the questions are about.
        queries: questions that a sample may ask.

    Attributes:
        asked: ``(N,)`` int64, questions of every sample so far.
    """

    def __init__(self, model: nn.Module, task: Task, queries: int) -> None:
        self.model = model
        self.task = task
        self.queries = queries
        self.asked = torch.zeros_like(task.labels)

    def affords(self, questions: int) -> Tensor:
        """Return which samples ``(N,)`` may still ask so many questions."""
        return self.asked + questions <= self.queries

    def __call__(self, images: Tensor, owners: Tensor) -> Tensor:
        """Return which ``(M,)`` of the images ``(M, C, H, W)`` are adversarial, each for the sample at its position."""
        if len(owners) == 0:
            return torch.zeros_like(owners, dtype=torch.bool)
        self.asked.index_add_(0, owners, torch.ones_like(owners))
        logits = forward(self.model, images)
        targets = None if self.task.targets is None else self.task.targets[owners]
        return fooled(logits.argmax(1), self.task.labels[owners], targets) & ~logits.isnan().any(1)


def starting_points(oracle: Oracle, generators: Sequence[torch.Generator], tries: int) -> tuple[Tensor, Tensor]:
    """Return an adversarial image for every sample for which one was found, however far away.

    In this order: the input itself, the task's own start, the negative and the plain images, random images that are
    fine or coarse, smooth or of extremes, and at last the nearest other inputs of the task.

    Args:
        oracle: what is asked; a question a sample and try.
        generators: one a sample.
        tries: images made up for a sample before other inputs are looked at.

    Returns:
        ``(N, C, H, W)``, the inputs where nothing was found, and ``(N,)`` bool.
    """
    task = oracle.task
    points = task.inputs.clone()
    everyone = torch.arange(len(points), device=points.device)
    found = oracle(points, everyone)
    if task.start is not None:
        _try(oracle, task.start, everyone, points=points, found=found)
    for number in range(tries):
        missing = (~found).nonzero().flatten()
        if len(missing) == 0:
            return points, found
        images = _made_up(number, task.inputs[missing], [generators[i] for i in missing.tolist()], task.bounds)
        _try(oracle, images, missing, points=points, found=found)
    for sample in (~found).nonzero().flatten().tolist():
        distances = distance_upper_bound(task.inputs[sample].expand_as(task.inputs), task.inputs, task.norm)
        for other in distances.argsort(dim=0, stable=True)[:NEIGHBOURS].tolist():
            if not found[sample]:
                _try(oracle, task.inputs[other, None], everyone[sample, None], points=points, found=found)
    return points, found


def _try(oracle: Oracle, images: Tensor, owners: Tensor, *, points: Tensor, found: Tensor) -> None:
    """Enter those of the images that are adversarial where nothing was found before."""
    waiting = ~found[owners] & oracle.affords(1)[owners]
    images, owners = images[waiting], owners[waiting]
    hit = oracle(images, owners)
    points[owners[hit]] = images[hit]
    found[owners[hit]] = True


def _made_up(number: int, inputs: Tensor, generators: Sequence[torch.Generator], bounds: tuple[float, float]) -> Tensor:
    """Return the images of one attempt: simple ones first, then random ones of four kinds in turn."""
    low, high = bounds
    simple = (low + high - inputs, low, high, (low + high) / 2)
    if number < len(simple):
        image = simple[number]
        return image.clamp(low, high) if isinstance(image, Tensor) else torch.full_like(inputs, image)
    coarse = inputs.ndim == 4 and number % 2 == 1
    shape = inputs.shape[1:]
    noise = uniform(generators, (shape[0], CELLS, CELLS) if coarse else shape, inputs)
    if number % 4 >= 2:
        noise = noise.round()
    if coarse:
        noise = F.interpolate(noise, size=inputs.shape[2:], mode="nearest")
    return (low + (high - low) * noise).clamp(low, high)


def on_the_way(inputs: Tensor, outside: Tensor, share: Tensor, norm: Norm) -> Tensor:
    """Return the points at a share of the distance from the inputs to others.

    They lie on the straight way, or, in the maximum norm, where a growing box around the input lets go of the other
    point: pixels that differ little are restored last.

    Args:
        inputs: ``(M, ...)``.
        outside: the same shape.
        share: ``(M,)`` from 0 to 1.
        norm: of the distance.

    Returns:
        Points of the same shape.

    Example:
        >>> inputs, outside, half = torch.zeros(1, 2), torch.tensor([[4.0, 1.0]]), torch.tensor([0.5])
        >>> on_the_way(inputs, outside, half, "l2").tolist(), on_the_way(inputs, outside, half, "linf").tolist()
        ([[2.0, 0.5]], [[2.0, 1.0]])
    """
    difference = outside - inputs
    if norm != "linf":
        return inputs + column(share, inputs) * difference
    reach = column(share * lengths(difference, norm), inputs)
    return inputs + torch.minimum(torch.maximum(difference, -reach), reach)


def to_the_boundary(oracle: Oracle, outside: Tensor, owners: Tensor, steps: int) -> Tensor:
    """Return adversarial points on the way from adversarial points to their inputs, as near as bisection finds them.

    Args:
        oracle: what is asked, once a step and point.
        outside: ``(M, C, H, W)``, adversarial.
        owners: ``(M,)`` positions of their samples.
        steps: halvings of the way.

    Returns:
        ``(M, C, H, W)``; every point was found to be adversarial.
    """
    task = oracle.task
    inputs, best = task.inputs[owners], outside.clone()
    near = outside.new_zeros(len(outside))
    far = torch.ones_like(near)
    for _ in range(steps):
        share = (near + far) / 2
        points = on_the_way(inputs, outside, share, task.norm).clamp(*task.bounds)
        hit = oracle(points, owners)
        best = torch.where(column(hit, best), points, best)
        near, far = torch.where(hit, near, share), torch.where(hit, share, far)
    return best


def settled(oracle: Oracle, points: Tensor, found: Tensor) -> Tensor:
    """Return points that are adversarial alone as well: those that are not are moved outwards by a few thousandths.

    A walk by the class alone ends so near to the boundary that logits decide by their rounding, which depends on the
    size of the batch.

    Args:
        oracle: what is asked, at most ``len(OUTWARDS)`` times a sample.
        points: ``(N, C, H, W)``.
        found: ``(N,)`` bool, where there is a point to settle.

    Returns:
        ``(N, C, H, W)``; where nothing helps, the point as it was.
    """
    result = points.clone()
    for owner in found.nonzero().flatten():
        image, point = oracle.task.inputs[owner, None], points[owner, None]
        for share in OUTWARDS:
            moved = point if share == 0 else (image + (1 + share) * (point - image)).clamp(*oracle.task.bounds)
            if oracle.affords(1)[owner] and bool(oracle(moved, owner[None])):
                result[owner] = moved[0]
                break
    return result
