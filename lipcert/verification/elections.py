"""Whether predictions and certificates of a report are what the votes of its network's views give."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn as nn
from torch import Tensor
from tqdm import tqdm

from lipcert.errors import InputError
from lipcert.verification.document import Row
from lipcert.verification.examples import Example, Examples
from lipcert.verification.figures import GRIDS
from lipcert.verification.finding import Errors, Finding
from lipcert.verification.recount import PatchRecount, Recount, l1_recount
from lipcert.verification.views import AblatedViews, SplitViews, views_of
from lipcert.verification.votes import Ballots, ballots_of

VOTES_AT_ONCE = 2**22  # of all views of some images, for all classes
BEYOND = 2**31  # steps that no vote withstands
STEPS = {"patch": "pixel", "l1": "grey level"}


def vote_findings(
    document: Mapping[str, Any],
    blocks: Iterable[tuple[Sequence[Row], Tensor]],
    network: nn.Module,
    examples: Mapping[int, Example],
) -> Iterator[Finding]:
    """Yield what is found about a report's predictions, certificates of votes, and adversarial examples.

    Args:
        document: a report that satisfies the schema, whose certificates are against patches or in L1.
        blocks: all rows with their images ``(N, C, H, W)`` float32, in order.
        network: in eval mode.
        examples: the adversarial examples that are kept, by their samples.

    Raises:
        InputError: certificates in another arithmetic than float32, or images that the network does not take.
    """
    certificates = document["certificates"]
    if certificates["arithmetic"] != "float32":
        raise InputError(f"expected votes in float32 arithmetic, as executed, got {certificates['arithmetic']}")
    norm: str = certificates["norm"]
    kept = Examples(examples, norm)
    recount: Elections | None = None
    for rows, inputs in blocks:
        if recount is None:
            try:
                recount = Elections(network, norm, tuple(inputs.shape[1:]))
            except InputError as error:
                yield from (Finding(name, None, str(error)) for name in ("votes", "predictions", "radii", "examples"))
                return
        recount.add(rows, inputs)
        kept.add(rows, inputs, recount.elect)
    assert recount is not None
    yield from recount.findings()
    yield kept.finding()


@dataclass
class Elections:
    """Elections of all rows that were seen, counted once more.

    Args:
        network: votes over views.
        norm: of the certificates, ``"patch"`` or ``"l1"``.
        image_shape: ``(C, H, W)``.

    Raises:
        InputError: a network that does not vote as certificates in this norm assume, as far as it is known here.
    """

    network: nn.Module
    norm: str
    image_shape: tuple[int, ...]
    images: int = 0
    certified: int = 0
    largest: int = 0
    undecided: int = 0
    open_predictions: int = 0
    open_radii: int = 0
    wrong_predictions: Errors = field(default_factory=Errors)
    wrong_radii: Errors = field(default_factory=Errors)

    def __post_init__(self) -> None:
        self.views = views_of(self.network, self.image_shape)
        self.recount: Recount = l1_recount
        if isinstance(self.views, AblatedViews) and self.norm == "patch":
            self.recount = PatchRecount(self.views.masks)
        elif not (isinstance(self.views, SplitViews) and self.norm == "l1"):
            raise InputError(f"expected views that certify in norm {self.norm}, got {type(self.network).__name__}")
        self.threshold: float | None = self.network.threshold  # type: ignore[assignment]
        self.classes = int(self.network.num_classes)  # type: ignore[arg-type]

    def add(self, rows: Sequence[Row], inputs: Tensor) -> None:
        """Let all views of some images vote, and count what that says of their rows."""
        at_once = max(1, VOTES_AT_ONCE // (self.views.count * self.classes))
        starts = range(0, len(rows), at_once)
        for start in tqdm(starts, desc="votes", unit="batch", disable=None, leave=False):
            part = slice(start, start + at_once)
            self._count(rows[part], self._ballots(inputs[part]))

    def elect(self, inputs: Tensor) -> list[set[int]]:
        """Return the classes that may be elected for each image; one where rounding leaves nothing open."""
        found: list[set[int]] = [set() for _ in range(len(inputs))]
        for part, elected in zip(inputs.split(1), found, strict=True):
            ballots = self._ballots(part)
            for label in range(self.classes):
                label_of = torch.tensor([label])
                if bool(self._holds(ballots.possible, ballots.sure, label_of, torch.zeros_like(label_of))):
                    elected.add(label)
        return found

    def findings(self) -> Iterator[Finding]:
        """Yield what was found."""
        close = f", {self.undecided:,} of them too close for float32 to tell" if self.undecided else ""
        views = f"all {self.views.count:,} views of each of {self.images:,} images have voted once more{close}"
        yield Finding("votes", True, views)
        yield _finding(
            "predictions", self.wrong_predictions, "predictions are elected", self.images, self.open_predictions
        )
        step = STEPS[self.norm]
        known = f"certificates hold, counted again; {self.largest:,} of them would not, had they been one {step} larger"
        yield _finding("radii", self.wrong_radii, known, self.certified, self.open_radii)

    def _ballots(self, inputs: Tensor) -> Ballots:
        return ballots_of(self.views, inputs, threshold=self.threshold)

    def _count(self, rows: Sequence[Row], ballots: Ballots) -> None:
        self.images += len(rows)
        self.undecided += ballots.undecided
        unknown = [row for row in rows if row.prediction >= self.classes]
        self.wrong_predictions.add(f"sample {row.index} has prediction {row.prediction}" for row in unknown)
        classes = torch.tensor([min(row.prediction, self.classes - 1) for row in rows])
        none, steps = torch.zeros_like(classes), torch.tensor([_steps(row, self.norm) for row in rows])
        votes = ((ballots.possible, ballots.sure), (ballots.cast, ballots.cast))
        may_be, is_elected = (self._holds(*each, classes, none).tolist() for each in votes)
        may_hold, holds = (self._holds(*each, classes, steps).tolist() for each in votes)
        more = self._holds(*votes[1], classes, steps + 1).tolist()
        first = ballots.cast.sum(1).argmax(1).tolist()
        for place, row in enumerate(rows):
            if not may_be[place] and row.prediction < self.classes:
                self.wrong_predictions.add(
                    [f"sample {row.index} has prediction {row.prediction}, the votes elect {first[place]}"]
                )
            self.open_predictions += may_be[place] and not is_elected[place]
            if row.radius == 0:
                continue
            self.certified += 1
            if not may_hold[place] or not _is_whole(row, self.norm):
                self.wrong_radii.add([f"sample {row.index} has radius {row.radius}, which its votes do not give"])
            self.open_radii += may_hold[place] and not holds[place]
            self.largest += holds[place] and not more[place]

    def _holds(self, own: Tensor, others: Tensor, classes: Tensor, steps: Tensor) -> Tensor:
        """Whether classes are elected with all votes of ``own`` for them, against those of ``others``."""
        mine = own.gather(2, classes[:, None, None].expand(-1, own.shape[1], 1))[..., 0]
        return self.recount(mine, others, classes, steps)


def _finding(name: str, errors: Errors, known: str, count: int, open_: int) -> Finding:
    if open_ and not errors.count:
        return Finding(name, None, f"{open_:,} of {count:,} hang on views that float32 cannot tell apart")
    return errors.finding(name, f"all {count:,} {known}")


def _steps(row: Row, norm: str) -> int:
    return min(round(row.radius * GRIDS[norm]), BEYOND)


def _is_whole(row: Row, norm: str) -> bool:
    return _steps(row, norm) / GRIDS[norm] == row.radius
