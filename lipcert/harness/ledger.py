"""The book that an audit keeps: per sample the nearest verified adversarial example, per attack what it did."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from statistics import median

import torch
import torch.nn as nn
from torch import Tensor

from lipcert.attacks import Attack, Outcome, Verified, verify
from lipcert.certificates import Certificate
from lipcert.data import ImageSet
from lipcert.harness.result import AttackRow, GalleryItem, SampleRow

GALLERY = 10
CLEAN = "clean-input"

RELATIVE_ROUNDING = 1e-3
ABSOLUTE_ROUNDING = 1e-5


def refuted(verified: Verified, radius: Tensor, *, arithmetic: str = "real") -> Tensor:
    r"""Return which certificates verified adversarial examples refute.

    A float32 certificate is refuted wherever the deployed network changes its class at :math:`\bar d < r`. A
    certificate of the real-valued network, or of its evaluation in float64, is refuted where float64 arithmetic agrees.
    Where it does not, rounding may be the reason right at the boundary, within 0.1 % of the radius or 1e-5; anything
    deeper inside is a refutation too.

    Args:
        verified: N verified candidates, their distances rounded up.
        radius: ``(N,)`` float64 certified radii.
        arithmetic: what the certificates are about, see :class:`lipcert.Certificate`.

    Returns:
        ``(N,)`` bool.

    Example:
        >>> yes, no = torch.tensor([True]), torch.tensor([False])
        >>> near = torch.tensor([0.9999], dtype=torch.float64)
        >>> for confirmed in (yes, no):
        ...     print(refuted(Verified(yes, confirmed, near, torch.tensor([1])), torch.ones(1)).item())
        True
        False
        >>> refuted(Verified(yes, no, near, torch.tensor([1])), torch.ones(1), arithmetic="float32").item()
        True
    """
    if arithmetic == "float32":
        return verified.success & (verified.distance < radius)
    deep = verified.distance < radius * (1 - RELATIVE_ROUNDING) - ABSOLUTE_ROUNDING
    return verified.success & (verified.distance < radius) & (verified.confirmed | deep)


@dataclass(slots=True)
class Tally:
    """What one attack has done so far."""

    samples: int = 0
    distances: list[float] = field(default_factory=list)
    violations: int = 0
    seconds: float = 0.0
    forward_passes: int = 0
    backward_passes: int = 0


class Ledger:
    """Collects outcomes while an audit runs; at any moment it can say what is known.

    Args:
        images: the certified split.
        certificate: its certificates, in the same order.

    Attributes:
        rows: one row a sample, in the order of the split.
        tallies: what every attack has done so far.
        boundary: samples whose deployed network changes class just inside the radius, by rounding alone.
    """

    def __init__(self, images: ImageSet, certificate: Certificate) -> None:
        self.images = images
        self.certificate = certificate
        rows = zip(images.labels.tolist(), certificate.prediction.tolist(), certificate.radius.tolist(), strict=True)
        self.rows = [SampleRow(index, *row) for index, row in enumerate(rows)]
        self.tallies: dict[Attack, Tally] = {}
        self.boundary: set[int] = set()
        self._kept: dict[int, GalleryItem] = {}

    def check_predictions(self, model: nn.Module, inputs: Tensor) -> None:
        """Compare every certified class with the deployed network's: another class is a violation at distance 0."""
        verified = verify(model, inputs, self.certificate.prediction, inputs)
        self._enter_examples(torch.arange(len(inputs)), verified, inputs, CLEAN)

    def enter(self, attack: Attack, positions: Tensor, outcome: Outcome) -> None:
        """Enter what an attack found for the samples at these positions."""
        tally = self.tallies.setdefault(attack, Tally())
        tally.samples += len(positions)
        tally.distances += outcome.verified.distance[outcome.verified.success].tolist()
        tally.seconds += outcome.seconds
        tally.forward_passes += outcome.forward_passes
        tally.backward_passes += outcome.backward_passes
        for position in positions.tolist():
            self.rows[position] = replace(self.rows[position], attacked=True)
        tally.violations += self._enter_examples(positions, outcome.verified, outcome.candidates, attack.name)

    def attack_rows(self) -> tuple[AttackRow, ...]:
        """What every attack did."""
        return tuple(
            AttackRow(
                name=attack.name,
                parameters=attack.parameters(),
                samples=tally.samples,
                success_rate=len(tally.distances) / tally.samples,
                median_distance=median(tally.distances) if tally.distances else None,
                violations=tally.violations,
                seconds=tally.seconds,
                forward_passes=tally.forward_passes,
                backward_passes=tally.backward_passes,
            )
            for attack, tally in self.tallies.items()
        )

    def gallery(self) -> tuple[GalleryItem, ...]:
        """Every refuting example, and the first few others, in the order of the split."""
        return tuple(item for _, item in sorted(self._kept.items()))

    def _enter_examples(self, positions: Tensor, verified: Verified, candidates: Tensor, attack: str) -> int:
        """Enter the successes among the candidates; return how many certificates they refute."""
        violations = refuted(verified, self.certificate.radius[positions], arithmetic=self.certificate.arithmetic)
        for slot in verified.success.nonzero().flatten().tolist():
            position, distance = int(positions[slot]), float(verified.distance[slot])
            violated, row = bool(violations[slot]), self.rows[position]
            if distance < row.radius and not violated:
                self.boundary.add(position)
            elif (violated, -distance) > (row.violated, -math.inf if row.distance is None else -row.distance):
                self.rows[position] = replace(row, distance=distance, attack=attack, attacked=True, violated=violated)
                self._keep(position, int(verified.prediction[slot]), candidates[slot])
        return int(violations.sum())

    def _keep(self, position: int, adversarial_prediction: int, candidate: Tensor) -> None:
        row = self.rows[position]
        assert row.distance is not None
        assert row.attack is not None
        if row.violated or position in self._kept or len(self._kept) < GALLERY:
            self._kept[position] = GalleryItem(
                index=position,
                label=row.label,
                adversarial_prediction=adversarial_prediction,
                radius=row.radius,
                distance=row.distance,
                attack=row.attack,
                image=self.images.inputs(torch.tensor([position]))[0].numpy(),
                adversarial=candidate.cpu().numpy(),
            )
