"""The book that an audit keeps: per sample the nearest verified adversarial example, per attack what it did."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from statistics import median

import torch
from torch import Tensor

from lipcert.attacks import Attack, Outcome, Verified
from lipcert.certificates import Certificate
from lipcert.data import ImageSet
from lipcert.harness.journal import Journal
from lipcert.harness.records import ChunkRecord, Place
from lipcert.harness.result import AttackRow, GalleryItem, SampleRow
from lipcert.harness.selection import worth_showing

GALLERY = 10
CLEAN = "clean-input"

RELATIVE_ROUNDING = 1e-3
ABSOLUTE_ROUNDING = 1e-5


def refuted(verified: Verified, radius: Tensor, *, arithmetic: str = "real", grid: int | None = None) -> Tensor:
    r"""Return which certificates verified adversarial examples refute.

    A float32 certificate is refuted wherever the deployed network changes its class at :math:`\bar d < r`. A
    certificate of the real-valued network, or of its evaluation in float64, is refuted where float64 arithmetic agrees.
    Where it does not, rounding may be the reason right at the boundary, within 0.1 % of the radius or 1e-5; anything
    deeper inside is a refutation too. A certificate on a grid is refuted at its radius as well, if that is above 0.

    Args:
        verified: N verified candidates, their distances rounded up.
        radius: ``(N,)`` float64 certified radii.
        arithmetic: what the certificates are about, see :class:`lipcert.Certificate`.
        grid: see there; distances are such multiples.

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
        >>> refuted(Verified(yes, no, torch.ones(1), torch.tensor([1])), torch.ones(1), grid=1).item()
        True
    """
    if grid is not None:
        return verified.success & _inside(verified.distance, radius, grid) & (radius > 0)
    if arithmetic == "float32":
        return verified.success & (verified.distance < radius)
    deep = verified.distance < radius * (1 - RELATIVE_ROUNDING) - ABSOLUTE_ROUNDING
    return verified.success & (verified.distance < radius) & (verified.confirmed | deep)


def on_grid(verified: Verified, inputs: Tensor, candidates: Tensor, grid: int) -> Verified:
    """Return what was verified with L1 distances in whole numbers of grey levels, over ``grid``.

    What certificates of images with so many levels say nothing of, a candidate between two of them, is no success.

    Args:
        verified: N verified candidates.
        inputs: ``(N, C, H, W)`` multiples of 1 / grid, as their type rounds these.
        candidates: the same shape.
        grid: number of levels above black.

    Example:
        >>> inputs, yes = torch.zeros(2, 1, 1, 2), torch.tensor([True, True])
        >>> candidates = torch.tensor([[1.0, 2.0], [1.0, 1.5]]).view(2, 1, 1, 2) / 255
        >>> found = on_grid(Verified(yes, yes, torch.ones(2), torch.tensor([1, 1])), inputs, candidates, 255)
        >>> found.success.tolist(), (found.distance * 255).tolist()
        ([True, False], [3.0, inf])
    """
    exact = candidates.double() * grid
    between = (exact - exact.round()).abs() > 2 * grid * torch.finfo(torch.float32).eps
    success = verified.success & ~between.flatten(1).any(1)
    levels = (exact.round() - (inputs.double() * grid).round()).abs().flatten(1).sum(1)
    distance = torch.where(success, levels / grid, math.inf)
    return replace(verified, success=success, confirmed=verified.confirmed & success, distance=distance)


def _inside(distance: Tensor, radius: Tensor, grid: int | None) -> Tensor:
    """Return which distances ``(N,)`` the certificates speak of."""
    return distance < radius if grid is None else (distance * grid).round() <= (radius * grid).round()


@dataclass(frozen=True, slots=True)
class Setting:
    """One line of the league table: an attack, and the budget that it was given."""

    attack: Attack
    epsilon: float | None = None

    def parameters(self) -> dict[str, int | float | str]:
        """Return the attack's settings, the budget among them."""
        budget = {} if self.epsilon is None else {"epsilon": self.epsilon}
        return {**self.attack.parameters(), **budget}


@dataclass(slots=True)
class Tally:
    """What one attack has done so far.

    Attributes:
        found: per sample the smallest distance of its examples; infinite where it found none.
        components: where it is made of several attacks, how many examples each of them found.
        violations: number of its examples that refute a certificate.
        seconds: wall-clock time.
        forward_passes: images pushed forward.
        backward_passes: images pushed backward.
    """

    found: dict[int, float] = field(default_factory=dict)
    components: Counter[str] = field(default_factory=Counter)
    violations: int = 0
    seconds: float = 0.0
    forward_passes: int = 0
    backward_passes: int = 0


class Ledger:
    """Collects records while an audit runs; at any moment it can say what is known.

    Args:
        images: the certified split.
        certificate: its certificates, in the same order.
        journal: where the adversarial examples lie.

    Attributes:
        rows: one row a sample, in the order of the split.
        tallies: what every attack has done so far.
        boundary: samples whose deployed network changes class just inside the radius, by rounding alone.
    """

    def __init__(self, images: ImageSet, certificate: Certificate, journal: Journal) -> None:
        self.images = images
        self.certificate = certificate
        self.journal = journal
        rows = zip(images.labels.tolist(), certificate.prediction.tolist(), certificate.radius.tolist(), strict=True)
        self.rows = [SampleRow(index, *row) for index, row in enumerate(rows)]
        self.tallies: dict[Setting, Tally] = {}
        self.boundary: set[int] = set()
        self._found_by: dict[int, Setting] = {}
        self._lies_at: dict[int, int] = {}

    def enter_clean(self, clean: Verified) -> None:
        """Enter the clean images as they were verified: another class than the certified one is a violation at 0."""
        violated = self._refuted(clean, self.certificate.radius)
        for sample in clean.success.nonzero().flatten().tolist():
            if bool(violated[sample]):
                changes = {"distance": 0.0, "attack": CLEAN, "attacked": True, "violated": True}
                prediction = int(clean.prediction[sample])
                self.rows[sample] = replace(self.rows[sample], **changes, adversarial_prediction=prediction)
            elif self.rows[sample].radius > 0:
                self.boundary.add(sample)

    def record(self, samples: Sequence[int], outcome: Outcome, *, attack: str, place: Place) -> ChunkRecord:
        """Return what an attack found for the samples at these positions, without entering it."""
        verified = outcome.verified
        found = Verified(
            verified.success.cpu(), verified.confirmed.cpu(), verified.distance.cpu(), verified.prediction.cpu()
        )
        where = torch.tensor(samples)
        if self.certificate.norm == "l1" and self.certificate.grid is not None:
            found = on_grid(found, self.images.inputs(where), outcome.candidates.cpu(), self.certificate.grid)
        radius = self.certificate.radius[where]
        violated = self._refuted(found, radius).tolist()
        distances = found.distance.tolist()
        kept = [
            number
            for number, sample in enumerate(samples)
            if _is_nearer(distances[number], self.rows[sample], violated=violated[number])
        ]
        return ChunkRecord(
            round=place.round,
            chunk=place.chunk,
            attack=attack,
            winners=_winners(outcome, len(samples)),
            samples=tuple(samples),
            distances=tuple(distances),
            classes=tuple(found.prediction.tolist()),
            violated=tuple(violated),
            kept=tuple(kept),
            examples=outcome.candidates.cpu()[kept].numpy(),
            seconds=outcome.seconds,
            forward_passes=outcome.forward_passes,
            backward_passes=outcome.backward_passes,
            elapsed=place.elapsed,
        )

    def enter(self, setting: Setting, record: ChunkRecord, first_example: int) -> None:
        """Enter a record whose examples lie in the journal."""
        tally = self.tallies.setdefault(setting, Tally())
        for sample, distance in zip(record.samples, record.distances, strict=True):
            tally.found[sample] = min(distance, tally.found.get(sample, math.inf))
        tally.components.update(winner for winner in record.winners if winner is not None)
        tally.violations += sum(record.violated)
        tally.seconds += record.seconds
        tally.forward_passes += record.forward_passes
        tally.backward_passes += record.backward_passes
        for number, sample in enumerate(record.samples):
            row = replace(self.rows[sample], attacked=True)
            if record.distances[number] < row.radius and not record.violated[number]:
                self.boundary.add(sample)
            self.rows[sample] = row
        for order, number in enumerate(record.kept):
            sample = record.samples[number]
            self.rows[sample] = replace(
                self.rows[sample],
                distance=record.distances[number],
                attack=record.finder(number),
                violated=record.violated[number],
                adversarial_prediction=record.classes[number],
            )
            self._found_by[sample] = setting
            self._lies_at[sample] = self.journal.place(first_example, order)

    def nearest(self, samples: Sequence[int]) -> Tensor:
        """Return the nearest adversarial examples known ``(M, C, H, W)``, the images themselves where none is."""
        examples = self.images.inputs(torch.tensor(samples))
        for number, sample in enumerate(samples):
            if sample in self._lies_at:
                examples[number] = torch.from_numpy(self.journal.example(self._lies_at[sample]).copy())
        return examples

    def attack_rows(self) -> tuple[AttackRow, ...]:
        """What every attack did."""
        won = Counter(self._found_by.values())
        return tuple(_attack_row(setting, tally, won=won[setting]) for setting, tally in self.tallies.items())

    def gallery(self) -> tuple[GalleryItem, ...]:
        """Every refuting example, and some of the nearest others, in the order of the split."""
        return tuple(self._item(sample) for sample in worth_showing(self.rows, GALLERY))

    def _refuted(self, verified: Verified, radius: Tensor) -> Tensor:
        return refuted(verified, radius, arithmetic=self.certificate.arithmetic, grid=self.certificate.grid)

    def _item(self, sample: int) -> GalleryItem:
        row = self.rows[sample]
        assert row.distance is not None
        assert row.attack is not None
        assert row.adversarial_prediction is not None
        return GalleryItem(
            index=sample,
            label=row.label,
            adversarial_prediction=row.adversarial_prediction,
            radius=row.radius,
            distance=row.distance,
            attack=row.attack,
            image=self.images.inputs(torch.tensor([sample]))[0].numpy(),
            adversarial=self.nearest([sample])[0].numpy(),
        )


def _attack_row(setting: Setting, tally: Tally, *, won: int) -> AttackRow:
    distances = [distance for distance in tally.found.values() if math.isfinite(distance)]
    return AttackRow(
        name=setting.attack.name,
        parameters=setting.parameters(),
        samples=len(tally.found),
        success_rate=len(distances) / len(tally.found),
        median_distance=median(distances) if distances else None,
        violations=tally.violations,
        seconds=tally.seconds,
        forward_passes=tally.forward_passes,
        backward_passes=tally.backward_passes,
        won=won,
        components=dict(tally.components),
        found=tally.found,
        black_box=setting.attack.black_box,
    )


def _winners(outcome: Outcome, samples: int) -> tuple[str | None, ...]:
    said = outcome.details.get("winner", (None,) * samples)
    success = outcome.verified.success.tolist()
    return tuple(str(name) if name is not None and found else None for name, found in zip(said, success, strict=True))


def _is_nearer(distance: float, row: SampleRow, *, violated: bool) -> bool:
    """Return whether an example counts for a row: a refutation before all others, then the nearest.

    What lies inside of the radius and refutes nothing, by rounding alone, is no example at that distance.
    """
    if not math.isfinite(distance) or (distance < row.radius and not violated):
        return False
    return (violated, -distance) > (row.violated, -math.inf if row.distance is None else -row.distance)
