"""What an audit measured: plain records, no computation beyond counting.

The harness fills them, the report renders them. Distances and radii are in the norm of the certificates, in [0,1] pixel
units; of certificates against patches they are sides of squares, in pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lipcert.certificates import LayerBound


@dataclass(frozen=True, slots=True)
class SampleRow:
    """One test sample: its certificate and the nearest adversarial example that any attack found.

    Attributes:
        index: position in the data split.
        label: true class.
        prediction: class given by the deployed network.
        radius: certified radius, 0 where nothing is certified.
        distance: distance of the best verified adversarial example, rounded up; None if no attack was run on this
            sample or none succeeded.
        attack: name of the attack that found it, with the component in brackets if it is made of several.
        attacked: whether any attack was run on this sample.
        violated: whether a verified adversarial example lies strictly inside the certified radius, or, where radii are
            on a grid, at it.
        adversarial_prediction: class that the deployed network gives to the best adversarial example.
    """

    index: int
    label: int
    prediction: int
    radius: float
    distance: float | None = None
    attack: str | None = None
    attacked: bool = False
    violated: bool = False
    adversarial_prediction: int | None = None

    @property
    def correct(self) -> bool:
        """Whether the prediction is the true class."""
        return self.prediction == self.label

    @property
    def ratio(self) -> float | None:
        """Distance over radius: where the certificate stands at least 1, on a grid more; None without one of both."""
        return self.distance / self.radius if self.distance is not None and self.radius > 0 else None


@dataclass(frozen=True, slots=True)
class AttackRow:
    """What one attack did and what it cost.

    Attributes:
        name: the attack's name, for example ``"carlini-wagner-l2"``.
        parameters: its settings, as they were used.
        samples: number of samples attacked.
        success_rate: share of them with a verified adversarial example.
        median_distance: median over the successes; None without any.
        violations: number of certificates that its adversarial examples refute.
        seconds: wall-clock time.
        forward_passes: images pushed forward through the network.
        backward_passes: images pushed backward.
        won: number of samples whose nearest adversarial example it found.
        components: where it is made of several attacks, how many of its examples each of them found, by name.
        found: per sample the smallest distance of its examples; infinite where it found none.
        black_box: whether it uses no gradients.
    """

    name: str
    parameters: Mapping[str, int | float | str]
    samples: int
    success_rate: float
    median_distance: float | None
    violations: int
    seconds: float
    forward_passes: int
    backward_passes: int
    won: int = 0
    components: Mapping[str, int] = field(default_factory=dict)
    found: Mapping[int, float] = field(default_factory=dict, repr=False, compare=False)
    black_box: bool = False


@dataclass(frozen=True, slots=True)
class GalleryItem:
    """An image beside its adversarial example; both arrays ``(C, H, W)`` float in [0, 1]."""

    index: int
    label: int
    adversarial_prediction: int
    radius: float
    distance: float
    attack: str
    image: NDArray[np.float32]
    adversarial: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class AuditResult:
    """Everything that an audit measured, in the order in which the report tells it.

    Radii that are on a grid (see :class:`lipcert.certificates.Certificate`) are withstood themselves.

    Attributes:
        doubts: those of the warnings that do not follow from rows and attacks: how the audit ended, which attacks were
            left out, and what speaks against trusting attacks on this network.
        boundary: samples whose deployed network changes class just inside the radius, by rounding alone.
    """

    created: str
    command: str
    model_name: str
    model_sha256: str
    model_parameters: int
    data_name: str
    data_split: str
    data_sha256: str
    class_names: tuple[str, ...]
    environment: Mapping[str, str]
    lipschitz_upper_bound: float
    layers: tuple[LayerBound, ...]
    norm: str
    rule: str
    arithmetic: str
    assumptions: tuple[str, ...]
    epsilons: tuple[float, ...]
    rows: tuple[SampleRow, ...]
    attacks: tuple[AttackRow, ...]
    gallery: tuple[GalleryItem, ...]
    warnings: tuple[str, ...]
    grid: int | None = None
    doubts: tuple[str, ...] = ()
    boundary: frozenset[int] = frozenset()

    @property
    def violations(self) -> tuple[SampleRow, ...]:
        """The samples whose certificate was refuted."""
        return tuple(row for row in self.rows if row.violated)

    @property
    def verdict(self) -> Literal["pass", "fail"]:
        """``"fail"`` as soon as one certificate was refuted."""
        return "fail" if self.violations else "pass"
