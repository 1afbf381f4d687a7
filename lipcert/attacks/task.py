"""What an attack is asked to do."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
import torch.nn as nn
from torch import Tensor

from lipcert.errors import InputError

Norm = Literal["l1", "l2", "linf", "patch"]
"""How changes are measured. ``"patch"`` is no norm: the side, in pixels, of the smallest square that holds them."""

MEASURES: tuple[Norm, ...] = get_args(Norm)
NORMS: tuple[Norm, ...] = MEASURES[:3]


@dataclass(frozen=True, slots=True)
class Task:
    """What an attack is asked to do for N inputs.

    Attributes:
        inputs: ``(N, C, H, W)`` float32 or float64 within ``bounds``.
        labels: ``(N,)`` int64, the classes to leave.
        targets: ``(N,)`` int64, the classes to reach; None: any other class will do.
        norm: in which distances are measured.
        epsilon: largest distance of interest, in the units of the inputs. Attacks with a fixed budget need it;
            minimum-norm attacks may stop there. None: as near as possible.
        bounds: smallest and largest value of a valid image, as the inputs' type rounds them.
        radius: ``(N,)`` float64 certified radii in that norm, of logits in L2 only: no step of that length changes a
            class. None: nothing is known.
        start: ``(N, C, H, W)``, the nearest adversarial examples known; equal to the inputs where none is.
        seed: the only source of randomness.

    Example:
        >>> task = Task(torch.rand(3, 1, 2, 2), torch.tensor([0, 1, 0]), seed=7)
        >>> some = task.subset(torch.tensor([True, False, True]))
        >>> len(some.inputs), some.labels.tolist(), some.seed
        (2, [0, 0], 7)
    """

    inputs: Tensor
    labels: Tensor
    targets: Tensor | None = None
    norm: Norm = "l2"
    epsilon: float | None = None
    bounds: tuple[float, float] = (0.0, 1.0)
    radius: Tensor | None = None
    start: Tensor | None = None
    seed: int = 0

    def subset(self, chosen: Tensor) -> Task:
        """Return the task for some of the inputs, given by ``(N,)`` bool or by their positions."""
        return self._each(lambda tensor: tensor[chosen])

    def copy(self) -> Task:
        """Return the same task with tensors of its own."""
        return self._each(lambda tensor: tensor.detach().clone())

    def _each(self, change: Callable[[Tensor], Tensor]) -> Task:
        def changed(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else change(tensor)

        return replace(
            self,
            inputs=change(self.inputs),
            labels=change(self.labels),
            targets=changed(self.targets),
            radius=changed(self.radius),
            start=changed(self.start),
        )


def check_task(model: nn.Module, task: Task) -> None:
    """Refuse a network in training mode, and a task that no attack can do.

    Raises:
        InputError: says what was expected and found.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).eval()
        >>> check_task(model, Task(torch.rand(3, 1, 2, 2), torch.tensor([0, 1, 0]), epsilon=-1.0))
        Traceback (most recent call last):
        lipcert.errors.InputError: expected a finite epsilon > 0, got -1
    """
    check_batch(model, task.inputs, task.labels, targets=task.targets, bounds=task.bounds)
    if task.norm not in MEASURES:
        raise InputError(f"expected a norm among {', '.join(MEASURES)}, got {task.norm!r}")
    if task.epsilon is not None and not 0 < task.epsilon < math.inf:
        raise InputError(f"expected a finite epsilon > 0, got {task.epsilon:g}")
    if task.radius is not None:
        if task.radius.shape != task.labels.shape:
            raise InputError(f"expected radii of shape ({len(task.labels)},), got {tuple(task.radius.shape)}")
        if not bool((task.radius >= 0).all()):
            raise InputError(f"expected radii >= 0, got {task.radius[~(task.radius >= 0)][0].item()}")
    if task.start is not None:
        if task.start.shape != task.inputs.shape:
            expected, found = tuple(task.inputs.shape), tuple(task.start.shape)
            raise InputError(f"expected starting points of shape {expected}, got {found}")
        check_images(task.start, task.bounds, what="starting points")


def check_batch(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    *,
    targets: Tensor | None = None,
    bounds: tuple[float, float] = (0.0, 1.0),
) -> None:
    """Refuse a network in training mode, unusable inputs, and labels or targets that are not its classes.

    Raises:
        InputError: says what was expected and found.
    """
    if any(module.training for module in model.modules()):
        raise InputError("expected a network in eval mode, got one in training mode")
    check_images(inputs, bounds)
    with torch.no_grad():
        classes = model(inputs[:1]).shape[-1]
    for what, numbers in (("labels", labels), ("targets", targets)):
        if numbers is None:
            continue
        if numbers.dtype != torch.int64 or numbers.shape != (len(inputs),):
            found = f"{numbers.dtype} {tuple(numbers.shape)}"
            raise InputError(f"expected int64 {what} of shape ({len(inputs)},), got {found}")
        low, high = int(numbers.min()), int(numbers.max())
        if low < 0 or high >= classes:
            raise InputError(f"expected {what} from 0 to {classes - 1}, got {low} to {high}")
    if targets is not None and bool((targets == labels).any()):
        raise InputError(f"expected targets other than the labels, got {int(targets[targets == labels][0])} for both")


def check_images(inputs: Tensor, bounds: tuple[float, float], *, what: str = "inputs") -> None:
    """Refuse what is not a non-empty batch of finite floating-point images within the bounds.

    Raises:
        InputError: says what was expected and found.
    """
    low, high = bounds
    if not -math.inf < low < high < math.inf:
        raise InputError(f"expected finite bounds in ascending order, got {low:g} and {high:g}")
    if not isinstance(inputs, Tensor) or not inputs.is_floating_point():
        raise InputError(f"expected floating-point {what}, got {getattr(inputs, 'dtype', type(inputs).__name__)}")
    if inputs.ndim < 2 or len(inputs) == 0:
        raise InputError(f"expected a non-empty batch of {what} (N, C, H, W), got shape {tuple(inputs.shape)}")
    smallest, largest = map(float, inputs.aminmax())  # nan if any is
    if not (math.isfinite(smallest) and math.isfinite(largest)):
        raise InputError(f"expected finite {what}, got nan or infinity")
    if not bool(within(inputs, bounds).all()):
        raise InputError(f"expected {what} in [{low:g}, {high:g}], got values from {smallest:g} to {largest:g}")


def within(images: Tensor, bounds: tuple[float, float]) -> Tensor:
    """Return which images ``(N,)`` lie within the bounds, as their type rounds these; nan does not.

    Example:
        >>> within(torch.tensor([[0.0, 1.0], [0.5, 1.1], [0.5, torch.nan]]), (0.0, 1.0)).tolist()
        [True, False, False]
    """
    low, high = (torch.tensor(bound, dtype=images.dtype, device=images.device) for bound in bounds)
    return ((images >= low) & (images <= high)).flatten(1).all(1)
