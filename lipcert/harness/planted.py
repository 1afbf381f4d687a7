"""Models that are wrong on purpose, each in one way: an audit that does not notice is worth nothing."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn as nn
from torch import Tensor

from lipcert.attacks import Attack
from lipcert.certificates import Certificate, certify
from lipcert.data import ImageSet
from lipcert.errors import InputError
from lipcert.layers import MaxMin

FITTED = 500
WIDTH = 16

Certifier = Callable[[nn.Module, Tensor], Certificate]


@dataclass(frozen=True, slots=True)
class Planted:
    """A model with one defect, and what an audit must say of it.

    Attributes:
        name: the defect.
        built: how the model is made.
        network: what is audited.
        images: on what.
        certifier: what it claims.
        violated: whether the audit must refute certificates; None if it may or may not.
        warnings: beginnings of warnings, one of which must be given; none for models that must pass in silence.
        refused: the beginning of the message with which the audit must refuse the model; empty if it must not.
        attacks: with which it is audited, where those for logits in L2 cannot be run.
    """

    name: str
    built: str
    network: nn.Module
    images: ImageSet
    certifier: Certifier
    violated: bool | None = None
    warnings: tuple[str, ...] = ()
    refused: str = ""
    attacks: tuple[Attack, ...] = ()

    @property
    def expected(self) -> str:
        """What the audit must say, in a few words."""
        if self.refused:
            return f"refused: {self.refused}"
        said = ["violations"] if self.violated else []
        said += [" or ".join(self.warnings)] if self.warnings else []
        return ", ".join(said) or "nothing"


@dataclass(frozen=True, slots=True)
class Sound:
    """A network whose certificates are true, and images that it classifies.

    Attributes:
        network: plain, in eval mode.
        images: a few images with the network's own classes as labels.
    """

    network: nn.Module
    images: ImageSet


def tight_network(images: ImageSet, *, samples: int = 16, seed: int = 0) -> Sound:
    r"""Return a MaxMin network whose certificates are so tight that a tenth more is refuted, and images to audit it on.

    Contrast is halved, so that no boundary point lies outside of the box. The layers before the last are orthogonal
    (:math:`W W^\top = I`) and the first contains the means of the classes, so the gradient of every margin is exactly
    as long as its bound, and the radius is the distance to the boundary wherever no pair is swapped on the way. The
    last layer finds the nearest mean of a class among the features.

    Args:
        images: labelled images; the first 500 are looked at.
        samples: number of images that are returned, at most.
        seed: of the directions that are not given by the means.

    Raises:
        InputError: fewer than two classes among the images, or fewer pixels than classes.

    Example:
        >>> pixels = torch.randint(0, 256, (30, 1, 5, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        >>> sound = tight_network(ImageSet(pixels, torch.arange(30) % 3), samples=4)
        >>> len(sound.images), certify(sound.network, sound.images.inputs()).lipschitz_upper_bound > 0
        (4, True)
    """
    few = images.subset(torch.arange(min(FITTED, len(images))))
    pixels, labels = few.pixels() // 2 + 64, few.labels.unique(return_inverse=True)[1]
    classes = int(labels.max()) + 1
    inputs = pixels.double().flatten(1) / 255
    size = inputs.shape[1]
    width = min(size, max(WIDTH, classes)) // 2 * 2
    if classes < 2 or width < classes:
        raise InputError(f"expected at least two classes and as many pixels, got {classes} classes of {size} pixels")
    generator = torch.Generator().manual_seed(seed)
    others = torch.randn(width - classes, size, generator=generator, dtype=torch.float64) / math.sqrt(size)
    first = _orthonormal(torch.cat([_means(inputs, labels) - inputs.mean(0), others]))
    turned = [_orthonormal(torch.randn(width, width, generator=generator, dtype=torch.float64)) for _ in range(2)]
    body = nn.Sequential(nn.Flatten(), _linear(turned[0] @ first), MaxMin(), _linear(turned[1]), MaxMin()).eval()
    with torch.no_grad():
        features = _means(body(inputs.float()).double(), labels)
    network = nn.Sequential(*body, _linear(features, -features.square().sum(1) / 2)).eval().requires_grad_(False)
    shown = ImageSet(pixels, labels)
    own = network(shown.inputs()).argmax(1)
    chosen = (own == labels).nonzero().flatten()[:samples]
    if len(chosen) == 0:
        chosen = torch.arange(min(samples, len(shown)))
    return Sound(network, ImageSet(pixels[chosen], own[chosen]))


def _means(values: Tensor, labels: Tensor) -> Tensor:
    return torch.stack([values[labels == label].mean(0) for label in range(int(labels.max()) + 1)])


def _orthonormal(rows: Tensor) -> Tensor:
    basis: Tensor = torch.linalg.qr(rows.mT).Q
    return basis.mT


def _linear(weight: Tensor, bias: Tensor | None = None) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(torch.zeros(len(weight)) if bias is None else bias)
    return layer


def own_images(network: nn.Module, images: ImageSet, *, samples: int = 16) -> Sound:
    """Return a network with the first images and its own classes as their labels: what is planted is the only mistake.

    Args:
        network: plain, in eval mode.
        images: labelled images.
        samples: number of images, at most.
    """
    few = images.subset(torch.arange(min(samples, len(images))))
    with torch.no_grad():
        return Sound(network, ImageSet(few.images, network(few.inputs()).argmax(1)))


def planted_models(tight: Sound, host: Sound | None = None, *, certifier: Certifier = certify) -> tuple[Planted, ...]:
    """Return sound models and one model a defect.

    Args:
        tight: a network whose certificates are tight: inflated ones are planted there, see :func:`tight_network`.
        host: the network whose forward pass is spoiled; ``tight`` if None.
        certifier: gives the true certificates of the host.
    """
    host = host or tight
    return (
        Planted("nothing", "a MaxMin network with tight certificates", tight.network, tight.images, certify, False),
        *_false_certificates(tight, host, certifier),
        *_false_networks(host, certifier),
    )


def _false_certificates(tight: Sound, host: Sound, certifier: Certifier) -> tuple[Planted, ...]:
    def claimed(change: Callable[[Certificate], Certificate], true: Certifier = certify) -> Certifier:
        return lambda model, inputs: change(true(model, inputs))

    classes = host.network(host.images.inputs(torch.tensor([0]))).shape[1]
    return (
        Planted(
            "Lipschitz constant 10 % too small",
            "constant x 0.9, radii / 0.9",
            tight.network,
            tight.images,
            claimed(_constant_too_small),
            True,
            ("False Lipschitz constant",),
        ),
        Planted(
            "radii 1.2 times too large",
            "the column of radii x 1.2",
            tight.network,
            tight.images,
            claimed(lambda found: replace(found, radius=found.radius * 1.2)),
            True,
        ),
        Planted(
            "certificates of another network",
            "each for the class after the predicted one",
            host.network,
            host.images,
            claimed(lambda found: replace(found, prediction=(found.prediction + 1) % classes), certifier),
            True,
        ),
    )


def _constant_too_small(found: Certificate) -> Certificate:
    return replace(found, lipschitz_upper_bound=found.lipschitz_upper_bound * 0.9, radius=found.radius / 0.9)


def _false_networks(host: Sound, certifier: Certifier) -> tuple[Planted, ...]:
    """Return the host with a spoiled forward pass, one a defect, each with the certificates of the host as it is."""
    inputs = host.images.inputs()
    brightness = inputs.flatten(1).mean(1).median().item()
    with torch.no_grad():
        first, second = host.network(inputs).topk(2, dim=1).values.unbind(1)
    sharpness = 1e4 / max(1e-6, float((first - second).median()))
    blind = ("Zero gradients", "Vanishing gradients")

    def spoiled(name: str, built: str, kind: Callable[[nn.Module], nn.Module], *warnings: str) -> Planted:
        network = kind(copy.deepcopy(host.network)).eval()
        return Planted(name, built, network, host.images, lambda _, some: certifier(host.network, some), None, warnings)

    return (
        spoiled("nan", "nan above median brightness", lambda net: _Nan(net, brightness), "Logits that are not finite"),
        spoiled("non-deterministic", "noise on the logits", _Noisy, "Randomised"),
        spoiled("rounded input", "pixels are rounded to 8 bits", _Rounded, *blind),
        spoiled("saturated output", "softmax of huge logits", lambda net: _Softmax(net, sharpness), *blind),
        spoiled("softmax output", "softmax of the logits", lambda net: _Softmax(net, 1.0), "Softmax outputs"),
        spoiled("replaced backward pass", "gradients in the wrong order", _Reversed, "Masked gradients"),
        spoiled("dynamic", "a gradient step on the input first", _Purified, "Dynamic"),
        spoiled("dependent on the batch", "part of the batch's mean is added", _Mixed, "Batch dependence"),
        replace(
            spoiled("training mode", "dropout in training mode", lambda net: nn.Sequential(nn.Dropout(0.1), net)),
            network=nn.Sequential(nn.Dropout(0.1), copy.deepcopy(host.network)).train(),
            refused="expected a network in eval mode",
        ),
    )


class _Spoiled(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network


class _Nan(_Spoiled):
    """Divides by zero where an image is bright."""

    def __init__(self, network: nn.Module, brightness: float) -> None:
        super().__init__(network)
        self.brightness = brightness

    def forward(self, inputs: Tensor) -> Tensor:
        bright = inputs.flatten(1).mean(1, keepdim=True) > self.brightness
        logits: Tensor = self.network(inputs)
        return torch.where(bright, torch.nan, logits)


class _Noisy(_Spoiled):
    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.network(inputs)
        return logits + 0.1 * logits.detach().abs().amax() * torch.randn_like(logits)


class _Rounded(_Spoiled):
    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.network(inputs.mul(255).round() / 255)
        return logits


class _Softmax(_Spoiled):
    def __init__(self, network: nn.Module, sharpness: float) -> None:
        super().__init__(network)
        self.sharpness = sharpness

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.network(inputs)
        return (self.sharpness * logits).softmax(1)


class _Reversed(_Spoiled):
    """The gradient comes back from the last pixel to the first."""

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.network(_reversed_gradient(inputs))
        return logits


def _reversed_gradient(inputs: Tensor) -> Tensor:
    turned = inputs.flatten(1).flip(1).view_as(inputs)
    return inputs.detach() + (turned - turned.detach())


class _Purified(_Spoiled):
    """Moves an image by 0.01 towards its class before it is classified."""

    def forward(self, inputs: Tensor) -> Tensor:
        with torch.enable_grad():
            leaf = inputs.detach().clone().requires_grad_()
            (slope,) = torch.autograd.grad(self.network(leaf).amax(1).sum(), leaf)
        length = slope.flatten(1).norm(dim=1).clamp(min=1e-9).view(-1, *[1] * (inputs.ndim - 1))
        logits: Tensor = self.network(inputs + 0.01 * slope / length)
        return logits


class _Mixed(_Spoiled):
    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.network(inputs)
        return logits + 0.1 * logits.mean(0)
