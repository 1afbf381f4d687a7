"""Learning-rate schedules that know how long the training is."""

from __future__ import annotations

import math
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lipcert.errors import InputError


class OneCycle(LRScheduler):
    r"""Linear warm-up to the optimizer's learning rate, then half a cosine down, over the whole training.

    With p the share of the training that is done, w the warm-up's share, a and b the factors at both ends,

    .. math:: \eta_p / \eta = a + (1 - a)\, p / w \;(p < w), \qquad
        b + (1 - b)\, \tfrac12 \Big(1 + \cos \pi \frac{p - w}{1 - w}\Big) \;(p \ge w)

    ``warmup=0`` is the cosine schedule. To be stepped after every optimizer step. A checkpoint keeps where the schedule
    is, not how long the training is: one that is continued for longer has the rates of the longer one from there on.

    Args:
        optimizer: whose learning rates are the largest ones.
        total_steps: steps of the training; :class:`lipcert.modules.Classifier` sets it to the trainer's if it is None.
        warmup: w, in [0, 1).
        start: a.
        end: b.

    Raises:
        InputError: a warm-up outside of [0, 1), or fewer than one step; in ``step`` if nobody has said how many.

    Source: Smith & Topin (2018), arXiv 1708.07120; Loshchilov & Hutter (2017), arXiv 1608.03983.

    Example:
        >>> import torch
        >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        >>> schedule, rates = OneCycle(optimizer, 4, warmup=0.5, start=0.0, end=0.0), []
        >>> for _ in range(4):
        ...     rates.append(optimizer.param_groups[0]["lr"])
        ...     optimizer.step()
        ...     schedule.step()
        >>> [round(rate, 3) for rate in rates]
        [0.0, 0.5, 1.0, 0.5]
    """

    def __init__(
        self,
        optimizer: Optimizer,
        total_steps: int | None = None,
        *,
        warmup: float = 0.2,
        start: float = 0.1,
        end: float = 0.001,
    ) -> None:
        if not 0 <= warmup < 1:
            raise InputError(f"expected a warm-up in [0, 1), got {warmup}")
        if total_steps is not None and total_steps < 1:
            raise InputError(f"expected total_steps >= 1, got {total_steps}")
        self.total_steps, self.warmup, self.start, self.end = total_steps, warmup, start, end
        super().__init__(optimizer)

    def get_lr(self) -> list[float]:  # type: ignore[override]
        """Return the learning rate of each parameter group."""
        return [base * self._factor() for base in self.base_lrs]  # type: ignore[misc]

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return {name: value for name, value in super().state_dict().items() if name != "total_steps"}

    def _factor(self) -> float:
        if self.last_epoch == 0:
            done = 0.0  # the length is not known yet
        elif self.total_steps is None:
            raise InputError("expected total_steps, the steps of the whole training, got None")
        else:
            done = min(1.0, self.last_epoch / self.total_steps)
        if done < self.warmup:
            return self.start + (1 - self.start) * done / self.warmup
        return self.end + (1 - self.end) * 0.5 * (1 + math.cos(math.pi * (done - self.warmup) / (1 - self.warmup)))
