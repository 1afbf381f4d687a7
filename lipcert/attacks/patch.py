"""The adversarial patch: one rectangle of the image may become anything, the rest stays as it is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from lipcert.attacks.base import Attack, Findings
from lipcert.attacks.evaluation import margins
from lipcert.attacks.geometry import column
from lipcert.attacks.randomness import sample_generators, uniform
from lipcert.attacks.rivals import rivals
from lipcert.attacks.task import MEASURES, Norm, Task
from lipcert.attacks.verify import fooled
from lipcert.attacks.windows import window
from lipcert.errors import InputError

FIRST_STEP, LAST_STEP = 0.25, 0.001  # of the range of a pixel; halved where a step did not help


@dataclass(frozen=True)
class AdversarialPatch(Attack):
    r"""A patch for every image, at a given place or the best of many, upright or also turned and shrunk.

    Places R are ranked by what a patch could do there if the network were linear,

    .. math:: \min_{j \neq y} \Big( f_y(x) - f_j(x)
        - \sum_{i \in R} \max_{l \le z \le u} \partial_i (f_y - f_j)(x) \, (x_i - z) \Big),

    which is exact for a linear network; with a target t, by the gap between the leading class and t. At one place after
    the other the content starts from the best for that class j and takes signed gradient steps on the margin, each from
    the best content so far, until the class changes.

    With ``transforms`` it is the mean margin over the upright patch and so many random rotations and scales about its
    centre, drawn anew at every step, that falls; what leaves the rectangle is cut off. No sample stops early then, and
    of the upright patches that change the class the one with the lowest mean is kept.

    A candidate differs from its input within one rectangle of ``height`` by ``width`` pixels, which is what a
    certificate against patches speaks of; ``details["row"]`` and ``details["column"]`` of the outcome say where. The
    task's norm and epsilon do not limit a patch: success is what counts, its distance is only reported.

    Args:
        height: of the patch, in pixels.
        width: of the patch, in pixels.
        row: of its first pixel; given with ``column``, or searched for.
        column: of its first pixel.
        stride: distance of the places searched, in pixels; the last ones touch the image's edges.
        search: ``"ranked"``, best first, or ``"random"``, for networks whose gradients mislead.
        tries: places tried in an image at most.
        steps: gradient steps at a place at most.
        transforms: random rotations and scales a step; 0: the upright patch only.
        rotation: largest angle either way, in degrees.
        scale: smallest scale, at most 1.

    Raises:
        InputError: a setting is out of range, or images smaller than the patch.

    Source: Brown, Mané, Roy, Abadi and Gilmer (2017), arXiv 1712.09665; the expectation over transformations is of
        Athalye, Engstrom, Ilyas and Kwok (2018), arXiv 1707.07397.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(16, 2)).eval()
        >>> with torch.no_grad():
        ...     _ = model[1].weight.zero_(), model[1].bias.copy_(torch.tensor([0.1, 0.0]))
        ...     model[1].weight[1, 10] = 0.5  # the third pixel of the third row decides
        >>> outcome = AdversarialPatch(height=1, width=1)(model, torch.zeros(1, 1, 4, 4), torch.tensor([0]))
        >>> outcome.verified.success.tolist(), dict(outcome.details)
        ([True], {'row': (2,), 'column': (2,)})
    """

    name: ClassVar[str] = "patch"
    norms: ClassVar[tuple[Norm, ...]] = MEASURES
    targeted: ClassVar[bool] = True

    height: int = 5
    width: int = 5
    row: int | None = None
    column: int | None = None
    stride: int = 1
    search: Literal["ranked", "random"] = "ranked"
    tries: int = 10
    steps: int = 40
    transforms: int = 0
    rotation: float = 0.0
    scale: float = 1.0

    def __post_init__(self) -> None:
        for setting in ("height", "width", "stride", "tries", "steps"):
            if getattr(self, setting) < 1:
                raise InputError(f"expected {setting} >= 1, got {getattr(self, setting)}")
        for setting, value in (("row", self.row), ("column", self.column), ("transforms", self.transforms)):
            if value is not None and value < 0:
                raise InputError(f"expected {setting} >= 0, got {value}")
        if (self.row is None) != (self.column is None):
            raise InputError(f"expected both of row and column or neither, got {self.row} and {self.column}")
        if self.search not in ("ranked", "random"):
            raise InputError(f"expected a search among ranked, random, got {self.search!r}")
        if not 0 <= self.rotation <= 180:
            raise InputError(f"expected rotation in [0, 180] degrees, got {self.rotation:g}")
        if not 0 < self.scale <= 1:
            raise InputError(f"expected scale in (0, 1], got {self.scale:g}")

    def parameters(self) -> dict[str, int | float | str]:
        """Return the settings; a place that is searched for is left out."""
        return {setting: value for setting, value in super().parameters().items() if value is not None}

    def run(self, model: nn.Module, task: Task) -> Findings:
        """Return the images with patches that changed the class, and where these are; the inputs where none did."""
        search = _Search(model, task, self, self._places(task.inputs.shape))
        corners, aims = search.ranked()
        for number in range(corners.shape[1]):
            owners = (~search.hit).nonzero().flatten()
            if len(owners) == 0:
                break
            search.optimise(owners, corners[owners, number], aims[owners, number])
        found = list(zip(search.corner.tolist(), search.hit.tolist(), strict=True))
        rows, columns = (tuple(corner[axis] if hit else None for corner, hit in found) for axis in range(2))
        return Findings(search.found, {"row": rows, "column": columns})

    def _places(self, shape: Sequence[int]) -> Tensor:
        """Return the first rows and columns ``(L, 2)`` that come into question."""
        if len(shape) != 4:
            raise InputError(f"expected images (N, C, H, W), got shape {tuple(shape)}")
        last_row, last_column = shape[2] - self.height, shape[3] - self.width
        if min(last_row - (self.row or 0), last_column - (self.column or 0)) < 0:
            patch = f"{self.height} x {self.width} at row {self.row or 0}, column {self.column or 0}"
            raise InputError(f"expected a patch within images of {shape[2]} x {shape[3]}, got {patch}")
        if self.row is not None and self.column is not None:
            return torch.tensor([[self.row, self.column]])
        rows, columns = (
            torch.tensor([*range(0, last, self.stride), last], dtype=torch.int64) for last in (last_row, last_column)
        )
        return torch.cartesian_prod(rows, columns)


class _Search:
    """The patches found so far: ``found (N, C, H, W)``, ``hit (N,)``, and their first pixels ``corner (N, 2)``."""

    def __init__(self, model: nn.Module, task: Task, patch: AdversarialPatch, places: Tensor) -> None:
        self.model = model
        self.task = task
        self.patch = patch
        self.places = places.to(task.inputs.device)
        self.generators = sample_generators(task)
        self.seen = rivals(model, task.inputs, task)
        self.found = task.inputs.clone()
        self.hit = torch.zeros_like(task.labels, dtype=torch.bool)
        self.corner = torch.zeros(len(task.labels), 2, dtype=torch.int64, device=task.inputs.device)

    def ranked(self) -> tuple[Tensor, Tensor]:
        """Return the places to try in every image, in order, ``(N, T, 2)``, and the rivals to aim at ``(N, T)``."""
        prospects, aims = self._prospects()
        if self.patch.search == "random":
            prospects = uniform(self.generators, prospects.shape[1:], self.task.inputs)
        order = prospects.argsort(dim=1, stable=True)[:, : self.patch.tries]
        return self.places[order], aims.gather(1, order)

    def _prospects(self) -> tuple[Tensor, Tensor]:
        """Return the margins that the best patch at every place would leave, were the network linear.

        Returns:
            Margins ``(N, L)``, and the rivals whose gaps they are ``(N, L)``; no places where there are no rivals.
        """
        low, high = self.task.bounds
        count, ranks = self.seen.gaps.shape
        if ranks == 0:
            return self.task.inputs.new_zeros(count, 0), self.task.labels.new_zeros(count, 0)
        pixels = self.task.inputs.flatten(1)[:, None]
        gains = torch.minimum(self.seen.gradients * (low - pixels), self.seen.gradients * (high - pixels))
        gains = gains.view(count * ranks, *self.task.inputs.shape[1:]).sum(1, keepdim=True)
        size = (self.patch.height, self.patch.width)
        sums = F.avg_pool2d(gains, size, stride=1)[:, 0, self.places[:, 0], self.places[:, 1]] * math.prod(size)
        margin, aims = (self.seen.gaps[:, :, None] + sums.view(count, ranks, -1)).min(1)
        return margin, aims

    def optimise(self, owners: Tensor, corners: Tensor, aims: Tensor) -> None:
        """Search for the contents of one patch for each of these samples ``(M,)``.

        Args:
            owners: positions of the samples.
            corners: ``(M, 2)``, first rows and columns.
            aims: ``(M,)``, which of their rivals the first contents are made for.
        """
        low, high = self.task.bounds
        content = self._first_contents(owners, corners, aims)
        best, uphill = content.clone(), torch.zeros_like(content)
        lowest = content.new_full((len(owners),), math.inf)
        lowest_hit = lowest.clone()
        step = torch.full_like(lowest, FIRST_STEP * (high - low))
        for _ in range(self.patch.steps + 1):
            going = step >= LAST_STEP * (high - low)
            if self.patch.transforms == 0:
                going &= lowest_hit.isinf()
            rows = going.nonzero().flatten()
            if len(rows) == 0:
                break
            margin, gradient, images, hit = self._evaluate(owners[rows], corners[rows], content[rows])
            better = margin < lowest[rows]
            step[rows[~better]] /= 2
            best[rows[better]], uphill[rows[better]] = content[rows[better]], gradient[better].sign()
            lowest[rows[better]] = margin[better]
            kept = hit & (margin < lowest_hit[rows])
            lowest_hit[rows[kept]] = margin[kept]
            self._keep(owners[rows[kept]], corners[rows[kept]], images[kept])
            content = (best - column(step, best) * uphill).clamp(low, high)

    def _keep(self, owners: Tensor, corners: Tensor, images: Tensor) -> None:
        self.found[owners], self.corner[owners], self.hit[owners] = images, corners, True

    def _first_contents(self, owners: Tensor, corners: Tensor, aims: Tensor) -> Tensor:
        """Return the contents that would be the best of a linear network; random where they do not matter to one."""
        low, high = self.task.bounds
        inputs = self.task.inputs[owners]
        index = window(corners, (self.patch.height, self.patch.width), inputs.shape[1])
        slope = self.seen.gradients[owners, aims].view_as(inputs)[index]
        noise = uniform([self.generators[i] for i in owners.tolist()], slope.shape[1:], inputs)
        flat = low + (high - low) * noise
        return torch.where(slope > 0, low, torch.where(slope < 0, high, flat)).clamp(low, high)

    def _evaluate(self, owners: Tensor, corners: Tensor, content: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return mean margins ``(M,)``, their gradients, the images with upright patches, and which of them succeed."""
        inputs, leaf = self.task.inputs[owners], content.clone().requires_grad_()
        index = window(corners, (self.patch.height, self.patch.width), inputs.shape[1])
        views = [inputs.index_put(index, leaf)]
        for _ in range(self.patch.transforms):
            numbers = uniform([self.generators[i] for i in owners.tolist()], (2,), inputs)
            angles = (2 * numbers[:, 0] - 1) * math.radians(self.patch.rotation)
            scales = self.patch.scale + (1 - self.patch.scale) * numbers[:, 1]
            views.append(inputs.index_put(index, transformed(leaf, inputs[index], angles, scales)))
        logits = self.model(torch.cat(views))
        labels, targets = self.task.labels[owners], None if self.task.targets is None else self.task.targets[owners]
        of_each_view = None if targets is None else targets.repeat(len(views))
        margin = margins(logits, labels.repeat(len(views)), of_each_view).view(len(views), -1).mean(0)
        gradient = torch.zeros_like(leaf)
        if margin.requires_grad:
            (gradient,) = torch.autograd.grad(margin.sum(), leaf)
        upright = logits[: len(owners)].detach()
        hit = fooled(upright.argmax(1), labels, targets) & ~upright.isnan().any(1)
        return margin.detach(), gradient, views[0].detach(), hit


def transformed(patches: Tensor, background: Tensor, angles: Tensor, scales: Tensor) -> Tensor:
    """Return patches that are turned about their centre and shrunk, in front of what they leave free.

    Args:
        patches: ``(M, C, h, w)``.
        background: the same shape: what the rectangle shows without a patch.
        angles: ``(M,)``, in radians.
        scales: ``(M,)``, positive.

    Returns:
        ``(M, C, h, w)``, interpolated bilinearly; corners that leave the rectangle are cut off.

    Example:
        >>> patch, background = torch.arange(4.0).view(1, 1, 2, 2), torch.zeros(1, 1, 2, 2)
        >>> quarter = transformed(patch, background, torch.tensor([math.pi / 2]), torch.tensor([1.0]))
        >>> quarter.round(decimals=5).flatten().tolist()
        [1.0, 3.0, 0.0, 2.0]
    """
    height, width = patches.shape[2:]
    cosine, sine = angles.cos() / scales, angles.sin() / scales
    zero = torch.zeros_like(angles)
    # from the pixel that is drawn to the one that it shows, in coordinates from -1 to 1 on either axis
    across = torch.stack([cosine, -sine * height / width, zero], 1)
    down = torch.stack([sine * width / height, cosine, zero], 1)
    grid = F.affine_grid(torch.stack([across, down], 1), list(patches.shape), align_corners=False)
    drawn = F.grid_sample(patches, grid, align_corners=False)
    covered = F.grid_sample(torch.ones_like(patches[:, :1]), grid, align_corners=False)
    return drawn + (1 - covered) * background
