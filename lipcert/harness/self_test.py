"""The audit audited: models with planted defects, and whether each is reported for what it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn as nn

from lipcert.attacks import Attack, BoundaryWalk
from lipcert.certificates import certify
from lipcert.data import FashionMNISTMini, ImageSet
from lipcert.errors import InputError
from lipcert.harness.audit import run_audit
from lipcert.harness.planted import Certifier, Planted, own_images, planted_models, tight_network
from lipcert.harness.planted_votes import planted_votes
from lipcert.harness.result import AuditResult
from lipcert.harness.trust import TITLES

ATTACKS = (BoundaryWalk(),)
EXIT_CAUGHT, EXIT_MISSED = 0, 1


@dataclass(frozen=True, slots=True)
class Caught:
    """What the audit said of a planted model.

    Attributes:
        planted: the model.
        caught: whether that is what it had to say; of a sound model, whether it said nothing.
        said: in a few words.
    """

    planted: Planted
    caught: bool
    said: str


def self_test(
    network: nn.Module | None = None,
    images: ImageSet | None = None,
    *,
    certifier: Certifier = certify,
    attacks: Sequence[Attack] | None = None,
    audit: Callable[..., AuditResult] = run_audit,
    progress: Callable[[str], object] = lambda name: None,
) -> tuple[Caught, ...]:
    """Plant defects, audit each model as any other, and return what was caught.

    Inflated certificates are planted in a MaxMin network that is made from the images and whose certificates are tight,
    so that only a weak audit can miss them: see :func:`tight_network`. What spoils a forward pass is planted in the
    network itself. False certificates of votes are planted in votes that are made by hand, see
    :mod:`lipcert.harness.planted_votes`, and attacked as those are.

    Args:
        network: plain network in eval mode; by default the MaxMin network.
        images: the images to use; by default the embedded ones.
        certifier: gives the network's certificates.
        attacks: with which, but for votes; by default only the one that every budget begins with: what it catches, all
            of them do.
        audit: what is tested.
        progress: called with the name of each model before it is audited.

    Returns:
        One verdict a model, the sound one first.

    Raises:
        InputError: a network without images, or images that no network can be made for.

    Example:
        >>> def lazy(*arguments, **options):
        ...     raise InputError("expected less work, got more")
        >>> verdicts = self_test(audit=lazy)
        >>> verdicts[1].planted.name, verdicts[1].caught, verdicts[1].said
        ('Lipschitz constant 10 % too small', False, 'refused: expected less work, got more')
    """
    if network is not None and images is None:
        raise InputError("expected images beside the network, got none")
    images = images if images is not None else FashionMNISTMini().split("test")
    tight = tight_network(images)
    host = None if network is None else own_images(network, images)
    verdicts = []
    for planted in (*planted_models(tight, host, certifier=certifier), *planted_votes()):
        progress(planted.name)
        verdicts.append(_verdict(planted, audit, planted.attacks or attacks or ATTACKS))
    return tuple(verdicts)


def _verdict(planted: Planted, audit: Callable[..., AuditResult], attacks: Sequence[Attack]) -> Caught:
    samples = torch.arange(len(planted.images))
    try:
        result = audit(planted.network, planted.images, samples=samples, certifier=planted.certifier, attacks=attacks)
    except InputError as error:
        return Caught(planted, bool(planted.refused) and str(error).startswith(planted.refused), f"refused: {error}")
    titles = [title for title in TITLES if any(warning.startswith(f"{title}:") for warning in result.warnings)]
    caught = _is_caught(planted, titles, violated=bool(result.violations))
    return Caught(planted, caught, _said(planted, titles, violations=len(result.violations)))


def _said(planted: Planted, titles: Sequence[str], *, violations: int) -> str:
    """Return what was said; what follows from a defect that was named is only counted."""
    named = [title for title in titles if title in planted.warnings] or titles
    said = [f"{violations:,} violations"] if violations else []
    said += named
    others = len(titles) - len(named)
    said += [f"{others} more warning{'s' if others > 1 else ''}"] if others else []
    return ", ".join(said) or "nothing"


def _is_caught(planted: Planted, titles: Sequence[str], *, violated: bool) -> bool:
    if planted.refused or (planted.violated is not None and planted.violated != violated):
        return False
    if planted.warnings:
        return any(title in planted.warnings for title in titles)
    return bool(planted.violated) or not titles


def all_caught(verdicts: Sequence[Caught]) -> bool:
    """Return whether the audit said of every planted model what it had to say."""
    return all(verdict.caught for verdict in verdicts)


def exit_code(verdicts: Sequence[Caught]) -> int:
    """Return the exit code of ``lipcert audit --self-test``: 0 if everything was caught, 1 otherwise."""
    return EXIT_CAUGHT if all_caught(verdicts) else EXIT_MISSED


def table(verdicts: Sequence[Caught]) -> str:
    """Return the verdicts as lines of text.

    Example:
        >>> sound = ImageSet(torch.zeros(1, 1, 1, 1, dtype=torch.uint8), torch.tensor([0]))
        >>> planted = Planted("radii too large", "radii x 1.2", nn.Flatten(), sound, certify, True)
        >>> print(table([Caught(planted, False, "nothing")]))
                planted          how          must be said  was said
        MISSED  radii too large  radii x 1.2  violations    nothing
        0 of 1 planted models were reported for what they are.
    """
    rows = [("", "planted", "how", "must be said", "was said")]
    for verdict in verdicts:
        planted, word = verdict.planted, "caught" if verdict.caught else "MISSED"
        rows.append((word, planted.name, planted.built, planted.expected, verdict.said))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    caught = sum(verdict.caught for verdict in verdicts)
    return "\n".join([*lines, f"{caught:,} of {len(verdicts):,} planted models were reported for what they are."])
