"""What every attack has in common: checked arguments, a network of its own, a count and a clock."""

from __future__ import annotations

import dataclasses
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, final

import torch
import torch.nn as nn
from torch import Tensor

from lipcert.attacks.counting import CountedNetwork
from lipcert.attacks.task import Norm, Task, check_task
from lipcert.attacks.verify import Verified, verify
from lipcert.errors import InputError


@dataclass(frozen=True, slots=True)
class Findings:
    """Candidates of N inputs, with what else there is to say about each.

    Attributes:
        candidates: ``(N, C, H, W)``.
        details: by name, one entry an input; None where there is nothing to say.
    """

    candidates: Tensor
    details: Mapping[str, tuple[str | int | None, ...]]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an attack did to a batch of N inputs.

    Attributes:
        candidates: ``(N, C, H, W)``, what the attack returned.
        verified: what is left of it after an independent check.
        seconds: wall-clock time of the search, without the check.
        forward_passes: images pushed forward by the search.
        backward_passes: images pushed backward by the search.
        details: what else the attack says about each input, by name; see :class:`Findings`.
    """

    candidates: Tensor
    verified: Verified
    seconds: float
    forward_passes: int
    backward_passes: int
    details: Mapping[str, tuple[str | int | None, ...]] = field(default_factory=dict)


class Attack(ABC):
    """A search for small changes that make a network leave a class.

    A subclass is a frozen dataclass of plain settings with a ``name``, says what it can do, and writes :meth:`run`
    only. Calling an attack checks the arguments, hands :meth:`run` a copy of the network whose parameters ask for no
    gradients, counts and times what it does, and verifies every candidate on the network itself.

    Attributes:
        name: what the report calls it.
        norms: the norms in which it can search.
        targeted: whether it can be told which class to reach.
        fixed_budget: whether it needs an epsilon, and then searches within that distance only.
        black_box: whether it asks for logits or classes only, never for gradients.
        of_views: whether it looks at the views of a network that votes; others see what :func:`on_votes` shows them.

    Example:
        >>> from dataclasses import dataclass
        >>> @dataclass(frozen=True)
        ... class Darken(Attack):
        ...     name = "darken"
        ...     def run(self, model, task):
        ...         return task.inputs / 2
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(1, 2)).eval()
        >>> _ = model.load_state_dict({"1.weight": torch.tensor([[1.0], [0.0]]), "1.bias": torch.tensor([0.0, 0.25])})
        >>> outcome = Darken()(model, torch.tensor([0.4, 0.9]).view(2, 1, 1, 1), torch.tensor([0, 0]))
        >>> outcome.verified.success.tolist()
        [True, False]
    """

    name: ClassVar[str]
    norms: ClassVar[tuple[Norm, ...]] = ("l2",)
    targeted: ClassVar[bool] = False
    fixed_budget: ClassVar[bool] = False
    black_box: ClassVar[bool] = False
    of_views: ClassVar[bool] = False

    @abstractmethod
    def run(self, model: nn.Module, task: Task) -> Tensor | Findings:
        """Return one candidate an input; where nothing was found, the input itself.

        Args:
            model: network to attack, in eval mode, its parameters without gradients.
            task: checked; its tensors are copies.

        Returns:
            Candidates ``(N, C, H, W)``, meant to lie within the bounds, alone or with details.
        """

    def parameters(self) -> dict[str, int | float | str]:
        """Return the settings, for the report."""
        return dataclasses.asdict(self) if dataclasses.is_dataclass(self) else {}

    def forward_budget(self, samples: int) -> int | None:
        """Return how many images :meth:`run` pushes forward for so many samples; None if it cannot know."""
        return None

    @final
    def __call__(  # noqa: PLR0913 - one keyword a field of the task
        self,
        model: nn.Module,
        inputs: Tensor,
        labels: Tensor,
        *,
        targets: Tensor | None = None,
        norm: Norm = "l2",
        epsilon: float | None = None,
        bounds: tuple[float, float] = (0.0, 1.0),
        radius: Tensor | None = None,
        start: Tensor | None = None,
        seed: int = 0,
        on_forward: Callable[[int], object] | None = None,
    ) -> Outcome:
        """Attack a batch and verify what comes back.

        Args:
            model: network in eval mode; it is left as it is, gradients included.
            inputs: ``(N, C, H, W)`` floats within ``bounds``.
            labels: ``(N,)`` int64, the classes to leave: the predictions that a certificate protects.
            targets: see :class:`Task`, as for what follows.
            norm: in which distances are measured.
            epsilon: largest distance of interest; an attack with a fixed budget needs it.
            bounds: of valid images.
            radius: ``(N,)`` certified radii in that norm.
            start: ``(N, C, H, W)``, the nearest adversarial examples known.
            seed: the only source of randomness.
            on_forward: called with the number of images of every forward pass, to show progress.

        Returns:
            Candidates, verified success and distances, and what they cost.

        Raises:
            InputError: an unusable task or one that this attack cannot do, a network in training mode, or candidates of
                another shape.
        """
        task = Task(inputs, labels, targets, norm, epsilon, bounds, radius, start, seed)
        check_task(model, task)
        self._check_ability(task)
        network = CountedNetwork(model, on_forward)
        begun = time.perf_counter()
        with torch.enable_grad():
            found = self.run(network, task.copy())
        seconds = time.perf_counter() - begun
        candidates, details = (found.candidates, found.details) if isinstance(found, Findings) else (found, {})
        if not isinstance(candidates, Tensor) or candidates.shape != inputs.shape:
            what = tuple(candidates.shape) if isinstance(candidates, Tensor) else type(candidates).__name__
            raise InputError(f"expected candidates of shape {tuple(inputs.shape)} from {self.name}, got {what}")
        # The network reads the precision of the inputs: what is verified and kept is what it would be given.
        candidates = candidates.detach().to(inputs)
        verified = verify(model, inputs, labels, candidates, targets=targets, norm=norm, bounds=bounds)
        return Outcome(candidates, verified, seconds, network.forward_passes, network.backward_passes, details)

    def _check_ability(self, task: Task) -> None:
        """Refuse what this attack cannot do."""
        if task.norm not in self.norms:
            raise InputError(f"expected a norm among {', '.join(self.norms)} for {self.name}, got {task.norm!r}")
        if task.targets is not None and not self.targeted:
            raise InputError(f"expected no targets for {self.name}, which cannot be told which class to reach")
        if task.epsilon is None and self.fixed_budget:
            raise InputError(f"expected an epsilon for {self.name}, got none")
