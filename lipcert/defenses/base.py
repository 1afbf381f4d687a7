"""What every input transformation has in common: checked inputs, seeded draws, and a gradient that is chosen openly."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Literal, final

import torch
import torch.nn as nn
from torch import Tensor

from lipcert.attacks.task import check_images
from lipcert.errors import InputError

Gradient = Literal["exact", "straight-through", "differentiable"]


class Transformation(nn.Module, ABC):
    """A change of images that is meant to destroy what an adversary has added, and keep what a network needs.

    A subclass writes the batched operation :meth:`transform` and nothing else; :meth:`forward` checks the images and
    settles what their gradient is. The gradient is a choice of whoever attacks, and changes no output:

    =================== ===============================================================================================
    "exact"             the derivative of the operation, where it is worth anything
    "straight-through"  that of the identity: backward pass differentiable approximation (BPDA)
    "differentiable"    the derivative of a smooth stand-in, :meth:`surrogate`, where the operation's own is 0
    =================== ===============================================================================================

    The settings of a transformation are given once, to its constructor. It is a function of its images and its seed: a
    randomised one draws for each image by itself, from the seed, the number of the draw and the image, so that neither
    place nor company in a batch matters, and an image that is changed in the least is a new draw.

    Args:
        gradient: one of ``gradients``; the first one by default.
        seed: of the draws of a randomised transformation.

    Attributes:
        gradients: the choices that this transformation has.
        randomized: whether its output depends on a draw.

    Raises:
        InputError: another gradient.

    Source: for BPDA, Athalye et al. (2018), arXiv 1802.00420, section 4.1.

    Example:
        >>> class Inverted(Transformation):
        ...     def transform(self, inputs, draw):
        ...         return 1 - inputs
        >>> inputs = torch.full((1, 1, 1, 2), 0.25, requires_grad=True)
        >>> changed = Inverted(gradient="straight-through")(inputs)
        >>> changed.tolist(), torch.autograd.grad(changed.sum(), inputs)[0].tolist()
        ([[[[0.75, 0.75]]]], [[[[1.0, 1.0]]]])
    """

    gradients: ClassVar[tuple[Gradient, ...]] = ("exact", "straight-through")
    randomized: ClassVar[bool] = False

    def __init__(self, *, gradient: Gradient | None = None, seed: int = 0) -> None:
        super().__init__()
        self.gradient = self.gradients[0] if gradient is None else gradient
        self.seed = seed
        if self.gradient not in self.gradients:
            named = " or ".join(map(repr, self.gradients))
            raise InputError(f"expected gradient {named} for {type(self).__name__}, got {gradient!r}")

    @abstractmethod
    def transform(self, inputs: Tensor, draw: int) -> Tensor:
        """Return changed images.

        Args:
            inputs: ``(N, C, H, W)`` in [0, 1], checked; left as they are.
            draw: number of the draw.

        Returns:
            ``(N, C, H, W)`` of the same type; values beyond [0, 1] are clipped afterwards.
        """

    def surrogate(self, inputs: Tensor) -> Tensor:
        """Return images ``(N, C, H, W)`` whose derivative stands in for that of :meth:`transform`."""
        raise NotImplementedError

    @final  # type: ignore[misc]
    def forward(self, inputs: Tensor, draw: int = 0) -> Tensor:
        """Return changed images.

        Args:
            inputs: ``(N, C, H, W)`` floats in [0, 1].
            draw: number of the draw; of no account unless ``randomized``.

        Returns:
            ``(N, C, H, W)`` in [0, 1], of the same type.

        Raises:
            InputError: no such images.
        """
        _check(inputs)
        if self.gradient == "exact":
            return self.transform(inputs, draw).clamp(0, 1)
        with torch.no_grad():
            outputs = self.transform(inputs, draw).clamp_(0, 1)  # of the inputs themselves, this would change nothing
        if not (torch.is_grad_enabled() and inputs.requires_grad):
            return outputs
        return with_gradient_of(inputs if self.gradient == "straight-through" else self.surrogate(inputs), outputs)

    def extra_repr(self) -> str:
        """Return the settings."""
        settings = {name: value for name, value in vars(self).items() if name[0] != "_" and name != "training"}
        return ", ".join(f"{name}={value!r}" for name, value in settings.items())


def _check(inputs: Tensor) -> None:
    """Refuse what is no batch of images in [0, 1]."""
    if not isinstance(inputs, Tensor) or inputs.ndim != 4:
        found = tuple(inputs.shape) if isinstance(inputs, Tensor) else type(inputs).__name__
        raise InputError(f"expected inputs (N, C, H, W), got shape {found}")
    if inputs.is_floating_point() and inputs.numel():
        smallest, largest = inputs.detach().aminmax()
        if smallest >= 0 and largest <= 1:  # what is usable is passed quickly; nan is not
            return
    check_images(inputs.detach(), (0.0, 1.0))


def with_gradient_of(differentiable: Tensor, values: Tensor) -> Tensor:
    """Return ``values``, to the bit, with the gradient of another tensor of the same shape.

    Example:
        >>> leaf = torch.tensor([2.0], requires_grad=True)
        >>> value = with_gradient_of(3 * leaf, torch.tensor([0.1]))
        >>> value.item() == torch.tensor(0.1).item(), torch.autograd.grad(value, leaf)[0].item()
        (True, 3.0)
    """
    return _WithGradientOf.apply(differentiable, values)  # type: ignore[no-any-return, no-untyped-call]


class _WithGradientOf(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, differentiable: Tensor, values: Tensor) -> Tensor:
        assert differentiable.shape == values.shape
        return values.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


def rounded_softly(numbers: Tensor) -> Tensor:
    r"""Return a smooth stand-in for rounding, with slope 0 at whole numbers and 3/4 half way between them.

    .. math:: \lfloor x \rceil + (x - \lfloor x \rceil)^3

    Args:
        numbers: any shape.

    Source: Shin & Song (2017), "JPEG-resistant adversarial images", NIPS workshop on machine learning and security.

    Example:
        >>> rounded_softly(torch.tensor([1.0, 1.5, 1.75])).tolist()
        [1.0, 1.875, 1.984375]
    """
    nearest = numbers.detach().round()
    return nearest + (numbers - nearest) ** 3
